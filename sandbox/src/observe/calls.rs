//! Which calls name what: for each call that a plan may have observed, where its arguments say what it is about.

use std::ffi::c_long;

/// A path argument, with the directory that it is relative to where the call takes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct At {
    pub(super) directory: Option<usize>,
    pub(super) path: usize,
}

/// Where an open's flags are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OpenFlags {
    /// In an argument.
    Argument(usize),
    /// First member of the structure that an argument points to (`struct open_how`).
    Behind(usize),
    /// creat(2) has none.
    Create,
}

/// Whether a last symlink is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Links {
    Follow,
    NoFollow,
    /// As `AT_SYMLINK_NOFOLLOW` says in this argument.
    Flags(usize),
}

/// What a call is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Execute(At),
    Open(At, OpenFlags),
    /// Makes a name that must not be there.
    Make(At),
    Remove(At),
    Rename(At, At),
    Link(At, At),
    /// Changes what is there, through its name.
    Change(At, Links),
    /// Changes what is open, as this argument.
    ChangeOpen(usize),
    Bind,
    Connect,
    Listen,
}

const fn at(directory: usize, path: usize) -> At {
    At { directory: Some(directory), path }
}

/// Whether `number` is execve(2) or execveat(2).
pub(super) fn is_execve(number: i32) -> bool {
    matches!(call(number), Some(Call::Execute(_)))
}

/// What call `number` of this architecture is about.
pub(super) fn call(number: i32) -> Option<Call> {
    let number = c_long::from(number);
    common(number).or_else(|| by_path_alone(number))
}

/// Calls of every architecture. Numbers that libc lacks are the same on all: include/uapi/asm-generic/unistd.h.
fn common(number: c_long) -> Option<Call> {
    const FCHMODAT2: c_long = 452;
    const SETXATTRAT: c_long = 463;
    const REMOVEXATTRAT: c_long = 466;
    const FILE_SETATTR: c_long = 469;
    let path = At { directory: None, path: 0 };
    Some(match number {
        libc::SYS_execve => Call::Execute(path),
        libc::SYS_execveat => Call::Execute(at(0, 1)),
        libc::SYS_openat => Call::Open(at(0, 1), OpenFlags::Argument(2)),
        libc::SYS_openat2 => Call::Open(at(0, 1), OpenFlags::Behind(2)),
        libc::SYS_mkdirat | libc::SYS_mknodat => Call::Make(at(0, 1)),
        libc::SYS_symlinkat => Call::Make(at(1, 2)),
        libc::SYS_unlinkat => Call::Remove(at(0, 1)),
        libc::SYS_renameat2 => Call::Rename(at(0, 1), at(2, 3)),
        libc::SYS_linkat => Call::Link(at(0, 1), at(2, 3)),
        libc::SYS_truncate | libc::SYS_setxattr | libc::SYS_removexattr => Call::Change(path, Links::Follow),
        libc::SYS_lsetxattr | libc::SYS_lremovexattr => Call::Change(path, Links::NoFollow),
        libc::SYS_fchmodat => Call::Change(at(0, 1), Links::Follow),
        FCHMODAT2 | libc::SYS_utimensat => Call::Change(at(0, 1), Links::Flags(3)),
        libc::SYS_fchownat => Call::Change(at(0, 1), Links::Flags(4)),
        SETXATTRAT | REMOVEXATTRAT => Call::Change(at(0, 1), Links::Flags(2)),
        FILE_SETATTR => Call::Change(at(0, 1), Links::Flags(4)),
        libc::SYS_fchmod | libc::SYS_fchown | libc::SYS_ftruncate => Call::ChangeOpen(0),
        libc::SYS_fsetxattr | libc::SYS_fremovexattr => Call::ChangeOpen(0),
        libc::SYS_bind => Call::Bind,
        libc::SYS_connect => Call::Connect,
        libc::SYS_listen => Call::Listen,
        _ => return None,
    })
}

/// The older calls that newer architectures do not have.
#[cfg(target_arch = "x86_64")]
fn by_path_alone(number: c_long) -> Option<Call> {
    let path = |path| At { directory: None, path };
    Some(match number {
        libc::SYS_open => Call::Open(path(0), OpenFlags::Argument(1)),
        libc::SYS_creat => Call::Open(path(0), OpenFlags::Create),
        libc::SYS_mkdir | libc::SYS_mknod => Call::Make(path(0)),
        libc::SYS_symlink => Call::Make(path(1)),
        libc::SYS_unlink | libc::SYS_rmdir => Call::Remove(path(0)),
        libc::SYS_rename => Call::Rename(path(0), path(1)),
        libc::SYS_renameat => Call::Rename(at(0, 1), at(2, 3)),
        libc::SYS_link => Call::Link(path(0), path(1)),
        libc::SYS_chmod | libc::SYS_chown => Call::Change(path(0), Links::Follow),
        libc::SYS_utime | libc::SYS_utimes => Call::Change(path(0), Links::Follow),
        libc::SYS_futimesat => Call::Change(at(0, 1), Links::Follow),
        libc::SYS_lchown => Call::Change(path(0), Links::NoFollow),
        _ => return None,
    })
}

/// The older calls that newer architectures do not have; of them aarch64 kept renameat(2).
#[cfg(target_arch = "aarch64")]
fn by_path_alone(number: c_long) -> Option<Call> {
    (number == libc::SYS_renameat).then_some(Call::Rename(at(0, 1), at(2, 3)))
}
