//! Mappings, and running what lies in them.

use std::io;
use std::os::fd::RawFd;

/// Length of every mapping here.
pub(crate) const PAGE: usize = 4096;

/// A function that gives 42.
#[cfg(target_arch = "x86_64")]
pub(crate) const CODE: [u8; 8] = [0xb8, 0x2a, 0, 0, 0, 0xc3, 0x90, 0x90]; // mov eax, 42; ret
#[cfg(target_arch = "aarch64")]
pub(crate) const CODE: [u8; 8] = [0x40, 0x05, 0x80, 0x52, 0xc0, 0x03, 0x5f, 0xd6]; // mov w0, #42; ret

/// One page of this process, never unmapped: a probe's process ends soon.
#[derive(Clone, Copy)]
pub(crate) struct Region(*mut u8);

/// Maps a page.
///
/// # Errors
/// With mmap's error number.
pub(crate) fn map(protection: i32, flags: i32, fd: RawFd) -> io::Result<Region> {
    // SAFETY: a new mapping at an address of the kernel's choice; nothing refers to it.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), PAGE, protection, flags, fd, 0) };
    if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Region(at.cast())) }
}

/// A System V shared memory segment with [`CODE`], attached executable and read-only.
///
/// # Errors
/// With the error number of whichever call failed.
pub(crate) fn attach_shared_code() -> io::Result<Region> {
    // SAFETY: shmget and shmctl take no pointer here; both attachments are new mappings of a whole page at addresses of
    // the kernel's choice, and CODE fits a page.
    unsafe {
        let id = libc::shmget(libc::IPC_PRIVATE, PAGE, libc::IPC_CREAT | 0o700);
        if id < 0 {
            return Err(io::Error::last_os_error());
        }
        let writable = libc::shmat(id, std::ptr::null(), 0);
        let failed = writable as isize == -1;
        if !failed {
            std::ptr::copy_nonoverlapping(CODE.as_ptr(), writable.cast(), CODE.len());
        }
        let at = libc::shmat(id, std::ptr::null(), libc::SHM_EXEC | libc::SHM_RDONLY);
        let error = io::Error::last_os_error();
        libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut());
        if failed || at as isize == -1 { Err(error) } else { Ok(Region(at.cast())) }
    }
}

impl Region {
    /// Where it begins.
    pub(crate) fn address(self) -> u64 {
        self.0 as u64
    }

    /// Writes to a writable page, one byte at a time, so that another process which looks meanwhile sees whole bytes.
    pub(crate) fn put(self, bytes: &[u8]) {
        for (at, byte) in bytes.iter().take(PAGE).enumerate() {
            // SAFETY: `at` lies within the page, which the probe mapped writable and which nothing in Rust refers to.
            unsafe { self.0.add(at).write_volatile(*byte) };
        }
    }

    /// mprotect(2), or pkey_mprotect(2) with no key.
    ///
    /// # Errors
    /// With its error number.
    pub(crate) fn protect(self, protection: i32, by_key: bool) -> io::Result<()> {
        let number = if by_key { libc::SYS_pkey_mprotect } else { libc::SYS_mprotect };
        // SAFETY: the page is this region's own; nothing in Rust refers to it.
        let value = unsafe { libc::syscall(number, self.0, PAGE, protection, -1) };
        if value < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Runs what lies in it: must be [`CODE`].
    pub(crate) fn run(self) -> i32 {
        // SAFETY: the page holds CODE, a whole function of this ABI without arguments; where it is not executable the
        // process ends by SIGSEGV, which the parent counts as stopped.
        let code: extern "C" fn() -> i32 = unsafe { std::mem::transmute(self.0) };
        code()
    }
}
