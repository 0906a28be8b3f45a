//! Flags of mounts.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Lets programs run from the mount that `mount` leads to, in this process's mount namespace; not from those beneath.
pub(crate) fn clear_noexec(mount: BorrowedFd<'_>) -> io::Result<()> {
    change(mount, 0, libc::MOUNT_ATTR_NOEXEC)
}

/// Makes the mount that `mount` leads to read-only; not those beneath.
pub(crate) fn set_read_only(mount: BorrowedFd<'_>) -> io::Result<()> {
    change(mount, libc::MOUNT_ATTR_RDONLY, 0)
}

fn change(mount: BorrowedFd<'_>, set: u64, clear: u64) -> io::Result<()> {
    let attributes = libc::mount_attr { attr_set: set, attr_clr: clear, propagation: 0, userns_fd: 0 };
    // SAFETY: the path is a constant, empty and ended by NUL; `attributes` has the size that is named, outlives the
    // call and is only read.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
