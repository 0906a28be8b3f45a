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

/// How far a change of mounts goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// The mount alone.
    Top,
    /// Those beneath it too.
    All,
}

/// Maps the owners of files on the mount that `mount` leads to as the user namespace `users` does; it must be attached nowhere.
pub(crate) fn map_ids(mount: BorrowedFd<'_>, users: BorrowedFd<'_>, depth: Depth) -> io::Result<()> {
    let namespace = u64::try_from(users.as_raw_fd()).map_err(io::Error::other)?;
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: namespace,
    };
    set(mount, &attributes, depth)
}

/// Gives the mounts that `mount` leads to, all beneath included, a propagation: `MS_PRIVATE`, `MS_SLAVE`.
pub(crate) fn propagate(mount: BorrowedFd<'_>, propagation: libc::c_ulong) -> io::Result<()> {
    let attributes = libc::mount_attr { attr_set: 0, attr_clr: 0, propagation, userns_fd: 0 };
    set(mount, &attributes, Depth::All)
}

fn change(mount: BorrowedFd<'_>, set_flags: u64, clear: u64) -> io::Result<()> {
    let attributes = libc::mount_attr { attr_set: set_flags, attr_clr: clear, propagation: 0, userns_fd: 0 };
    set(mount, &attributes, Depth::Top)
}

fn set(mount: BorrowedFd<'_>, attributes: &libc::mount_attr, depth: Depth) -> io::Result<()> {
    let flags = match depth {
        Depth::Top => libc::AT_EMPTY_PATH,
        Depth::All => libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
    };
    // SAFETY: the path is a constant, empty and ended by NUL; `attributes` has the size that is named, outlives the
    // call and is only read.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
