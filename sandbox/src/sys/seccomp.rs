//! seccomp(2) and the listener's ioctls.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use nix::errno::Errno;

use super::descriptors::from_syscall;
use crate::filter::Instruction;

/// A call that waits for an answer.
pub(crate) type Notification = libc::seccomp_notif;

/// `struct sock_fprog`. Source: include/uapi/linux/filter.h.
#[repr(C)]
struct Program {
    length: libc::c_ushort,
    instructions: *const Instruction,
}

/// Loads a filter for the calling thread, for ever.
pub(crate) fn load(instructions: &[Instruction]) -> io::Result<()> {
    // SAFETY: `set_filter`'s contract is that `program` describes readable instructions: it does, for the whole call.
    with_program(instructions, |program| match unsafe { set_filter(0, program) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    })
}

/// Loads a filter with a listener; `wait_killable` keeps signals from interrupting a call that was received.
pub(crate) fn load_with_listener(instructions: &[Instruction], wait_killable: bool) -> io::Result<OwnedFd> {
    let mut flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    if wait_killable {
        flags |= libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    }
    // SAFETY: as in `load`; with NEW_LISTENER the call returns a new descriptor or -1.
    with_program(instructions, |program| unsafe { from_syscall(set_filter(flags, program)) })
}

fn with_program<T>(
    instructions: &[Instruction],
    load: impl FnOnce(&Program) -> io::Result<T>,
) -> io::Result<T> {
    let length = instructions.len().try_into().map_err(|_| io::Error::from(Errno::EINVAL))?;
    load(&Program { length, instructions: instructions.as_ptr() })
}

/// # Safety
/// `program` is null, or its `instructions` point to `length` readable instructions.
unsafe fn set_filter(flags: libc::c_ulong, program: *const Program) -> libc::c_long {
    let operation = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: the kernel copies the program that the caller vouches for before it returns, keeps no pointer, and
    // answers a null program with EFAULT.
    unsafe { libc::syscall(libc::SYS_seccomp, operation, flags, program) }
}

/// Whether listeners can be made and their calls continued, and descriptors of the caller taken (Linux 5.6).
pub(crate) fn has_listener() -> bool {
    let action: u32 = libc::SECCOMP_RET_USER_NOTIF;
    let operation = libc::SECCOMP_GET_ACTION_AVAIL;
    // SAFETY: the kernel reads four bytes at the pointer, which is to a live u32, and changes nothing.
    let available = unsafe { libc::syscall(libc::SYS_seccomp, operation, 0, ptr::from_ref(&action)) };
    // SAFETY: descriptor -1 is never open, so the call fails in any kernel; it takes numbers only.
    let pidfd_getfd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, -1, -1, 0) };
    let newer = pidfd_getfd == -1 && Errno::last() != Errno::ENOSYS;
    available == 0 && newer && takes_flags(libc::SECCOMP_FILTER_FLAG_NEW_LISTENER)
}

/// Whether `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV` is known (Linux 5.19).
pub(crate) fn has_wait_killable() -> bool {
    takes_flags(libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
}

/// The kernel looks at the flags (EINVAL) before it looks at the program (EFAULT), so a null program tells.
fn takes_flags(flags: libc::c_ulong) -> bool {
    // SAFETY: the program is null, as the contract allows; without one nothing is loaded.
    let result = unsafe { set_filter(flags, ptr::null()) };
    result == -1 && Errno::last() == Errno::EFAULT
}

/// Waits for a call. `notification` must be zero, as `empty` makes it: the kernel refuses another.
pub(crate) fn receive(listener: BorrowedFd<'_>, notification: &mut Notification) -> nix::Result<()> {
    // SAFETY: the request's number holds the size of this structure, so the kernel writes no more than it.
    let result = unsafe {
        libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, ptr::from_mut(notification))
    };
    Errno::result(result).map(drop)
}

/// A notification to receive into.
pub(crate) fn empty() -> Notification {
    let data = libc::seccomp_data { nr: 0, arch: 0, instruction_pointer: 0, args: [0; 6] };
    Notification { id: 0, pid: 0, flags: 0, data }
}

/// What a waiting call is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The kernel goes on with the call; its other walls decide.
    Continue,
    /// The call fails.
    Errno(i32),
    /// The call succeeds with this value, without being made.
    Value(i64),
}

/// Answers a call. ENOENT: the caller is gone, or the call was interrupted.
pub(crate) fn answer(listener: BorrowedFd<'_>, id: u64, answer: Answer) -> nix::Result<()> {
    let (val, error, flags) = match answer {
        // The constant is 1, which 32 bits hold.
        Answer::Continue => (0, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
        Answer::Errno(errno) => (0, -errno, 0),
        Answer::Value(value) => (value, 0, 0),
    };
    let mut response = libc::seccomp_notif_resp { id, val, error, flags };
    // SAFETY: the request's number holds the size of this structure, of which the kernel reads no more.
    let result = unsafe {
        libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, ptr::from_mut(&mut response))
    };
    Errno::result(result).map(drop)
}

/// Whether the call `id` still waits: its caller's pid then still names the caller.
pub(crate) fn still_waits(listener: BorrowedFd<'_>, id: u64) -> bool {
    // SAFETY: the kernel reads eight bytes at the pointer, which is to a live u64.
    let result =
        unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID, ptr::from_ref(&id)) };
    result == 0
}

/// Has the kernel run observer and caller on one CPU, in turns (Linux 6.6). EINVAL before that.
pub(crate) fn set_sync_wake_up(listener: BorrowedFd<'_>) -> nix::Result<()> {
    /// Source: `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP`, include/uapi/linux/seccomp.h.
    const SYNC_WAKE_UP: libc::c_ulong = 1;
    // SAFETY: this request takes its argument by value and touches no memory.
    let result =
        unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, SYNC_WAKE_UP) };
    Errno::result(result).map(drop)
}
