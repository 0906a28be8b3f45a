//! Paths resolved within a root directory, never out of it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use profiles::intent::AbsPath;

/// How often a resolution is tried again that a concurrent rename disturbed.
const TRIES: u32 = 8;

/// A directory that takes the place of `/` for every path resolved through it, symlinks and `..` included.
#[derive(Debug)]
pub(crate) struct Root {
    fd: OwnedFd,
    /// The directory's own path, as the kernel names it to this process.
    path: PathBuf,
}

impl Root {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Self::from_fd(nix::fcntl::open(path, flags, Mode::empty())?)
    }

    pub(crate) fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let path = kernel_path(&fd)?;
        Ok(Self { fd, path })
    }

    /// Opens `path`, absolute or relative to the root; symlinks are followed within the root.
    pub(crate) fn open_path(&self, path: impl AsRef<Path>, flags: OFlag) -> nix::Result<OwnedFd> {
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_IN_ROOT);
        let mut result = Err(Errno::EAGAIN);
        for _ in 0..TRIES {
            result = openat2(&self.fd, path.as_ref(), how);
            if !matches!(result, Err(Errno::EAGAIN | Errno::EINTR)) {
                break;
            }
        }
        result
    }

    /// What `path` is, free of symlinks, with the descriptor that proves it.
    pub(crate) fn look(&self, path: impl AsRef<Path>) -> nix::Result<Found> {
        let fd = self.open_path(path, OFlag::O_PATH)?;
        let stat = fstat(&fd)?;
        Ok(Found { fd, stat })
    }

    /// As [`Root::look`], but a symlink in the last place is what is found.
    pub(crate) fn look_at_link(&self, path: impl AsRef<Path>) -> nix::Result<Found> {
        let fd = self.open_path(path, OFlag::O_PATH | OFlag::O_NOFOLLOW)?;
        let stat = fstat(&fd)?;
        Ok(Found { fd, stat })
    }

    /// The path of an open file as seen from this root; `None` where it lies outside, or has a name that no
    /// [`AbsPath`] can hold.
    pub(crate) fn path_of(&self, file: impl AsFd) -> Option<AbsPath> {
        let path = kernel_path(file).ok()?;
        let inside = path.strip_prefix(&self.path).ok()?;
        AbsPath::new(&format!("/{}", inside.to_str()?)).ok()
    }

    /// The root's own path as this process sees it.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// A file that was found, open as `O_PATH`.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) fd: OwnedFd,
    stat: FileStat,
}

impl Found {
    pub(crate) fn is_directory(&self) -> bool {
        self.kind() == SFlag::S_IFDIR
    }

    pub(crate) fn is_regular(&self) -> bool {
        self.kind() == SFlag::S_IFREG
    }

    /// A regular file that somebody may execute.
    pub(crate) fn is_program(&self) -> bool {
        self.is_regular() && self.stat.st_mode & 0o111 != 0
    }

    /// Opens for reading what was found, not what its name leads to by now.
    pub(crate) fn read(&self) -> io::Result<File> {
        File::open(magic_link(&self.fd))
    }

    fn kind(&self) -> SFlag {
        SFlag::from_bits_truncate(self.stat.st_mode & SFlag::S_IFMT.bits())
    }
}

/// Whether an error means that there is nothing by that name, rather than that something is wrong.
pub(crate) fn is_absent(error: Errno) -> bool {
    matches!(error, Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::ENAMETOOLONG)
}

/// This process's own name for an open file.
pub(crate) fn magic_link(file: impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()))
}

fn kernel_path(file: impl AsFd) -> io::Result<PathBuf> {
    std::fs::read_link(magic_link(file))
}

/// `path` seen from `cwd`, which is absolute: text only, no file is looked at.
pub(crate) fn join(cwd: &str, path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("{cwd}/{path}") }
}

/// Whether `path` is `folder` or beneath it, by components.
pub(crate) fn is_beneath(path: &Path, folder: &Path) -> bool {
    let (path, folder) = (path.as_os_str().as_bytes(), folder.as_os_str().as_bytes());
    let folder = folder.strip_suffix(b"/").unwrap_or(folder);
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}
