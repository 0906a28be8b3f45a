//! What can be learnt of a process whose call waits. All of it is the process's own word: bounded, never trusted.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::ffi::OsString;
use std::fs;
use std::io::{self, IoSliceMut, Read};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, Mode, stat};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

use crate::paths::Root;
use crate::sys::descriptors;

/// Longest path that the kernel takes. Source: `PATH_MAX`, include/uapi/linux/limits.h.
const LONGEST_PATH: usize = 4096;

/// Most paths are shorter: so much is read at first.
const USUAL_PATH: usize = 256;

/// Smallest page of any architecture: reading within one cannot meet an unmapped address halfway.
const PAGE: u64 = 4096;

/// A thread whose call waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller<'a> {
    thread: Pid,
    /// Where the root of every caller is, once it is known, if all have the same.
    one_root: Option<&'a OnceCell<PathBuf>>,
}

impl<'a> Caller<'a> {
    /// `thread` as the notification names it, in the observer's pid namespace.
    pub(crate) fn new(thread: u32) -> Self {
        Self { thread: Pid::from_raw(thread.cast_signed()), one_root: None }
    }

    /// The same where no caller can have another root than the first had: looking it up is half of what a relative path costs.
    pub(super) fn with_one_root(self, root: Option<&'a OnceCell<PathBuf>>) -> Self {
        Self { one_root: root, ..self }
    }

    /// The string at `address`, without its NUL; `None` where there is none or it is too long for a path.
    pub(super) fn text(self, address: u64) -> Option<Vec<u8>> {
        let mut text = Vec::with_capacity(USUAL_PATH);
        while text.len() < LONGEST_PATH {
            let at = address.checked_add(text.len() as u64)?;
            let within_page = (PAGE - at % PAGE) as usize;
            let wanted = if text.is_empty() { USUAL_PATH } else { LONGEST_PATH - text.len() };
            let chunk = self.bytes(at, wanted.min(within_page))?;
            match chunk.iter().position(|byte| *byte == 0) {
                Some(end) => {
                    text.extend_from_slice(&chunk[..end]);
                    return Some(text);
                }
                None => text.extend_from_slice(&chunk),
            }
        }
        None
    }

    /// Exactly `length` bytes at `address`.
    pub(super) fn bytes(self, address: u64, length: usize) -> Option<Vec<u8>> {
        let mut buffer = vec![0; length];
        let remote = [RemoteIoVec { base: usize::try_from(address).ok()?, len: length }];
        let read = process_vm_readv(self.thread, &mut [IoSliceMut::new(&mut buffer)], &remote).ok()?;
        (read == length).then_some(buffer)
    }

    /// The container's root, as the caller has it.
    pub(super) fn root(self) -> io::Result<Root> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Root::from_fd(nix::fcntl::open(&self.proc("root"), flags, Mode::empty())?)
    }

    /// Path in the container of descriptor `fd`, or of the working directory for `AT_FDCWD`. Text of the kernel's:
    /// for what has no path it does not begin with a slash.
    pub(super) fn directory(self, fd: RawFd) -> Option<PathBuf> {
        let name = if fd == libc::AT_FDCWD { "cwd".to_owned() } else { format!("fd/{fd}") };
        self.link(&name)
    }

    /// What descriptor `fd` is.
    pub(super) fn descriptor(self, fd: RawFd) -> Option<FileStat> {
        stat(&self.proc(&format!("fd/{fd}"))).ok()
    }

    /// The caller's program, as the container names it.
    pub(crate) fn program(self) -> String {
        let path = self.link("exe").unwrap_or_default();
        path.to_string_lossy().into_owned()
    }

    /// A duplicate of the caller's descriptor `fd`.
    pub(super) fn take(self, fd: RawFd) -> io::Result<OwnedFd> {
        // Only the first thread of a process has a handle, and most callers are that one.
        let handle = descriptors::pidfd_open(self.thread).or_else(|_| {
            let process = self.status("Tgid:").unwrap_or(self.thread.as_raw());
            descriptors::pidfd_open(Pid::from_raw(process))
        })?;
        descriptors::pidfd_getfd(handle.as_fd(), fd)
    }

    /// Process id in the innermost pid namespace; 0 where it cannot be learnt.
    pub(crate) fn inner_pid(self) -> u32 {
        self.status("NStgid:").and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0)
    }

    /// Its parent; none where that is outside of this process's pid namespace, or the caller is gone.
    pub(crate) fn parent(self) -> Option<Self> {
        self.status("PPid:").filter(|pid| *pid > 0).map(|pid| Self { thread: Pid::from_raw(pid), ..self })
    }

    /// Last number on the line of /proc/PID/status that begins with `key`.
    fn status(self, key: &str) -> Option<i32> {
        let mut text = String::new();
        fs::File::open(self.proc("status")).ok()?.take(1 << 14).read_to_string(&mut text).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().next_back()?.parse().ok()
    }

    /// Where a link of /proc/PID leads, as seen from the caller's root.
    fn link(self, name: &str) -> Option<PathBuf> {
        let target = fs::read_link(self.proc(name)).ok()?;
        let root = self.root_path()?;
        let Ok(inside) = target.strip_prefix(&*root) else { return Some(target) };
        let mut path = OsString::from("/");
        path.push(inside);
        Some(path.into())
    }

    fn root_path(self) -> Option<Cow<'a, Path>> {
        let look = || fs::read_link(self.proc("root")).ok();
        let Some(known) = self.one_root else { return look().map(Cow::Owned) };
        let root = match known.get() {
            Some(root) => root,
            None => {
                let found = look()?;
                known.get_or_init(|| found)
            }
        };
        Some(Cow::Borrowed(root))
    }

    fn proc(self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.thread))
    }
}

/// `path`, which the caller gave, seen from `directory`.
pub(super) fn join(directory: &Path, path: &[u8]) -> PathBuf {
    directory.join(PathBuf::from(OsString::from_vec(path.to_vec())))
}

/// Whether text alone says that `path` stays where it begins: absolute, no `..`.
pub(super) fn is_plain(path: &[u8]) -> bool {
    path.starts_with(b"/") && !path.split(|byte| *byte == b'/').any(|part| part == b"..")
}

/// The bytes of a path.
pub(super) fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}
