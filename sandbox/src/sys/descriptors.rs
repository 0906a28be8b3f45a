//! Descriptors of other processes, and those that arrive over a socket.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::unistd::Pid;

/// Takes ownership of a descriptor that the kernel just installed for us.
///
/// # Safety
/// `fd` was returned by the kernel to this process, and nothing else owns or closes it.
unsafe fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: the caller vouches for what this function's contract asks.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// The descriptor that `syscall` returned, or the error it left in `errno`.
///
/// # Safety
/// `result` is what a call that returns a new descriptor, or -1, returned just now.
pub(super) unsafe fn from_syscall(result: libc::c_long) -> io::Result<OwnedFd> {
    match RawFd::try_from(result) {
        // SAFETY: the caller vouches that a non-negative result is a new descriptor.
        Ok(fd) if fd >= 0 => Ok(unsafe { own(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A handle of the process `pid`, which must be a thread-group leader.
pub(crate) fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two numbers and touches no memory; it returns a new descriptor or -1.
    unsafe { from_syscall(libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0)) }
}

/// A duplicate, in this process, of descriptor `fd` of the process behind `pidfd`.
pub(crate) fn pidfd_getfd(pidfd: BorrowedFd<'_>, fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the call takes three numbers and touches no memory; it returns a new descriptor or -1.
    unsafe { from_syscall(libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0)) }
}

/// Receives one message of at most `buffer.len()` bytes, with at most one descriptor. `(0, None)` at the end of file.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    flags: nix::sys::socket::MsgFlags,
) -> nix::Result<(usize, Option<OwnedFd>)> {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    let mut parts = [io::IoSliceMut::new(buffer)];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let flags = flags | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let mut descriptor = None;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control {
            for fd in fds {
                // SAFETY: the kernel installed this descriptor while receiving this very message; dropping an
                // earlier one closes it.
                descriptor = Some(unsafe { own(fd) });
            }
        }
    }
    Ok((message.bytes, descriptor))
}
