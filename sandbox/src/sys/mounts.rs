//! Flags of mounts.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Lets programs run from the mount that `mount` leads to, in this process's mount namespace; not from those beneath.
pub(crate) fn clear_noexec(mount: BorrowedFd<'_>) -> io::Result<()> {
    let attributes =
        libc::mount_attr { attr_set: 0, attr_clr: libc::MOUNT_ATTR_NOEXEC, propagation: 0, userns_fd: 0 };
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
