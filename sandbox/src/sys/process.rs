//! Forking, and what only a fork's child may do.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::unistd::{ForkResult, Pid};

/// Source: `linux/sched.h`; libc's is of a type that cannot hold it.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// Forks; the child runs `child` and exits with its value, without running destructors or exit handlers of the parent. It is born in
/// the cgroup whose folder is open as `cgroup`, if the kernel can do that.
pub(crate) fn fork(cgroup: Option<BorrowedFd<'_>>, child: impl FnOnce() -> i32) -> io::Result<Pid> {
    let born = match cgroup.map(clone_into) {
        Some(Ok(born)) => born,
        // SAFETY: `process::spawn_in`, the only caller, saw that this process has one thread, so no lock is held by a thread
        // that the child lacks.
        Some(Err(_)) | None => match unsafe { nix::unistd::fork() }? {
            ForkResult::Parent { child } => Some(child),
            ForkResult::Child => None,
        },
    };
    let Some(born) = born else {
        let run = std::panic::AssertUnwindSafe(child);
        let code = std::panic::catch_unwind(run).unwrap_or_else(|_| std::process::abort());
        // SAFETY: ends the process at once; nothing runs afterwards that could see broken state.
        unsafe { libc::_exit(code) }
    };
    Ok(born)
}

/// As `fork`, into a cgroup of the v2 hierarchy, from Linux 5.7 on: the child's id in the parent, none in the child.
fn clone_into(cgroup: BorrowedFd<'_>) -> io::Result<Option<Pid>> {
    let number = |number: i32| u64::try_from(number).map_err(io::Error::other);
    let arguments = libc::clone_args {
        flags: CLONE_INTO_CGROUP,
        pidfd: 0,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: number(libc::SIGCHLD)?,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: number(cgroup.as_raw_fd())?,
    };
    // SAFETY: without CLONE_VM this is a fork: the child has a copy of all memory, this stack included. `arguments` has the size that is
    // named and is only read. As with `fork` below no other thread can hold a lock. What libc's own fork does beside
    // that is for processes of several threads, but for one: libc's note of the child's thread id stays the parent's, which
    // nothing reads that the child does (raise and abort ask the kernel).
    let born = unsafe {
        libc::syscall(libc::SYS_clone3, std::ptr::from_ref(&arguments), size_of::<libc::clone_args>())
    };
    match i32::try_from(born).map_err(io::Error::other)? {
        0 => Ok(None),
        born @ 1.. => Ok(Some(Pid::from_raw(born))),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Resets every signal to its default and unblocks all.
pub(crate) fn reset_signals() -> io::Result<()> {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: SIG_DFL installs no handler, so no code of ours can run in a signal's context. Numbers that cannot
        // be changed (SIGKILL, SIGSTOP, libc's own) fail, and have their default already.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?)
}

/// Closes every descriptor from 3 up but those of `keep`.
pub(crate) fn close_others(keep: &[RawFd]) -> io::Result<()> {
    let mut keep: Vec<RawFd> = keep.iter().copied().filter(|fd| *fd >= 3).collect();
    keep.sort_unstable();
    let mut first = 3;
    for fd in keep.into_iter().chain([RawFd::MAX]) {
        if fd > first {
            close_range(first, fd - 1)?;
        }
        first = fd.saturating_add(1);
    }
    Ok(())
}

fn close_range(first: RawFd, last: RawFd) -> io::Result<()> {
    // SAFETY: the call takes three numbers. Descriptors that an object of the parent owns are closed under it; the
    // caller is a fresh child that uses none but those it keeps, and exits without dropping the others.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } {
        0 => Ok(()),
        _ if Errno::last() == Errno::ENOSYS => close_listed(first, last),
        _ => Err(io::Error::last_os_error()),
    }
}

/// For kernels before 5.9.
fn close_listed(first: RawFd, last: RawFd) -> io::Result<()> {
    let mut open = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        if let Some(fd) = entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()) {
            open.push(fd);
        }
    }
    for fd in open.into_iter().filter(|fd| (first..=last).contains(fd)) {
        // SAFETY: as in `close_range`. EBADF is the directory just read, closed by now.
        unsafe { libc::close(fd) };
    }
    Ok(())
}

/// Puts each descriptor on its number.
pub(crate) fn place(descriptors: Vec<(OwnedFd, RawFd)>) -> io::Result<()> {
    let above = descriptors.iter().map(|(_, number)| number + 1).max().unwrap_or(0);
    // Out of the way first: a descriptor may be on a number that another is to have.
    let away = |(fd, number): (OwnedFd, RawFd)| Ok((fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(above))?, number));
    let moved: Vec<(RawFd, RawFd)> = descriptors.into_iter().map(away).collect::<nix::Result<_>>()?;
    for (fd, number) in moved {
        // SAFETY: the call takes two numbers. `place` is for a child that owns nothing else on `number`.
        Errno::result(unsafe { libc::dup2(fd, number) })?;
    }
    Ok(())
}

/// `kill`, for any signal number; `nix`'s own takes no real-time signals.
pub(crate) fn kill(pid: Pid, signal: i32) -> nix::Result<()> {
    // SAFETY: the call takes two numbers.
    Errno::result(unsafe { libc::kill(pid.as_raw(), signal) }).map(drop)
}
