//! The system calls of the probes, for which there is no safe wrapper. With [`memory`] the only `unsafe` of this program.

use std::ffi::CStr;
use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};

pub(crate) mod memory;

/// An argument of a system call.
pub(crate) enum Arg<'a> {
    Number(i64),
    Bytes(&'a [u8]),
    Text(&'a CStr),
    /// What the call may write to.
    Room(&'a mut [u8]),
}

impl From<i32> for Arg<'_> {
    fn from(number: i32) -> Self {
        Self::Number(number.into())
    }
}
impl From<i64> for Arg<'_> {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}
impl From<u32> for Arg<'_> {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}
impl From<u64> for Arg<'_> {
    fn from(number: u64) -> Self {
        Self::Number(number.cast_signed())
    }
}
impl<'a> From<&'a CStr> for Arg<'a> {
    fn from(text: &'a CStr) -> Self {
        Self::Text(text)
    }
}
impl<'a> From<&'a [u8]> for Arg<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Bytes(bytes)
    }
}
impl<'a> From<&'a mut [u8]> for Arg<'a> {
    fn from(room: &'a mut [u8]) -> Self {
        Self::Room(room)
    }
}

/// Calls that change what this process has mapped: [`memory`] makes them, `call` does not.
const CHANGES_MEMORY: &[libc::c_long] = &[
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_shmat,
    libc::SYS_shmdt,
    libc::SYS_pkey_mprotect,
];

/// Makes a system call.
///
/// # Errors
/// With its error number.
pub(crate) fn call<const N: usize>(number: libc::c_long, arguments: [Arg<'_>; N]) -> io::Result<i64> {
    if CHANGES_MEMORY.contains(&number) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut words = [0; 6];
    for (word, argument) in words.iter_mut().zip(arguments) {
        *word = match argument {
            Arg::Number(number) => number,
            Arg::Bytes(bytes) => bytes.as_ptr() as i64,
            Arg::Text(text) => text.as_ptr() as i64,
            Arg::Room(room) => room.as_mut_ptr() as i64,
        };
    }
    let [a, b, c, d, e, f] = words;
    // SAFETY: every pointer is null or leads to a buffer that outlives the call; the kernel writes only to what was
    // handed over as `Room`, which each probe makes as large as its call wants. What is mapped does not change.
    let value = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if value < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// The same for calls that give a new descriptor.
///
/// # Errors
/// With its error number.
pub(crate) fn descriptor<const N: usize>(
    number: libc::c_long,
    arguments: [Arg<'_>; N],
) -> io::Result<OwnedFd> {
    let fd = call(number, arguments)?;
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the call just gave this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Where a buffer lies, for structures that hold pointers.
pub(crate) fn address(bytes: &[u8]) -> u64 {
    bytes.as_ptr() as u64
}

/// Number of a call that only this architecture has; elsewhere one that no kernel has.
pub(crate) const fn x86_only(number: libc::c_long) -> libc::c_long {
    if cfg!(target_arch = "x86_64") { number } else { 0x0fff_ffff }
}

/// What came of a child.
pub(crate) enum Ended {
    With(i32),
    Killed(i32),
    NotInTime,
}

/// Runs `work` in a forked child, which ends with the code that it gives.
///
/// # Errors
/// When there can be no child.
pub(crate) fn forked(work: impl FnOnce() -> i32) -> io::Result<libc::pid_t> {
    // SAFETY: this program has no other threads when it forks (probes that start some are children themselves).
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: no pointer; whatever becomes of the parent, nobody is left behind.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        let code = work();
        // SAFETY: _exit takes no pointer and does not return.
        unsafe { libc::_exit(code) }
    }
    if pid < 0 { Err(io::Error::last_os_error()) } else { Ok(pid) }
}

/// Waits for a child; kills it when the time is over.
///
/// # Errors
/// When it is no child.
pub(crate) fn wait(pid: libc::pid_t, limit: std::time::Duration) -> io::Result<Ended> {
    let end = std::time::Instant::now() + limit;
    let mut late = false;
    loop {
        let mut status = 0;
        // SAFETY: `status` outlives the call.
        let found = unsafe { libc::waitpid(pid, &raw mut status, if late { 0 } else { libc::WNOHANG }) };
        if found < 0 {
            return Err(io::Error::last_os_error());
        }
        if found == pid {
            return Ok(match (late, libc::WIFEXITED(status)) {
                (true, _) => Ended::NotInTime,
                (false, true) => Ended::With(libc::WEXITSTATUS(status)),
                (false, false) => Ended::Killed(libc::WTERMSIG(status)),
            });
        }
        if std::time::Instant::now() > end {
            // SAFETY: kill takes no pointer; the child was not waited for, so its number is still its own.
            unsafe { libc::kill(pid, libc::SIGKILL) };
            late = true;
        } else {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

/// Becomes a program, by descriptor and path, its one argument `ok`. Returns only on failure.
pub(crate) fn become_at(folder: RawFd, path: &CStr, flags: i32) -> io::Error {
    let argv = [path.as_ptr(), c"ok".as_ptr(), std::ptr::null()];
    let environment: [*const libc::c_char; 1] = [std::ptr::null()];
    // SAFETY: both arrays end in null, and their strings outlive the call.
    unsafe {
        libc::syscall(libc::SYS_execveat, folder, path.as_ptr(), argv.as_ptr(), environment.as_ptr(), flags)
    };
    io::Error::last_os_error()
}

/// Becomes a program by execve(2), its path read from shared memory, its one argument `ok`. Returns only on failure.
pub(crate) fn become_path(path: &memory::Region) -> io::Error {
    let argv = [c"program".as_ptr(), c"ok".as_ptr(), std::ptr::null()];
    let environment: [*const libc::c_char; 1] = [std::ptr::null()];
    // SAFETY: the region holds a zero after every path that is written to it, whatever moment this is; the arrays end
    // in null.
    unsafe { libc::syscall(libc::SYS_execve, path.address(), argv.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

/// getpid(2) by the 32-bit entry.
#[cfg(target_arch = "x86_64")]
pub(crate) fn getpid_by_32_bit_entry() -> Option<i64> {
    let value: i64;
    // SAFETY: call 20 of the 32-bit table takes no argument; the entry changes rax and r8 to r11 only.
    unsafe {
        std::arch::asm!("int 0x80", inlateout("rax") 20i64 => value, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
    }
    Some(value)
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn getpid_by_32_bit_entry() -> Option<i64> {
    None
}
