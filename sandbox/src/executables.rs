//! Finds what of an image could be mapped executable: its shared libraries, which must be, and its programs, of which
//! only the declared ones may.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstatat};
use profiles::intent::AbsPath;
use profiles::plan::{Gap, Wall};
use serde::{Deserialize, Serialize};

use crate::header::{self, Kind};

/// An image with more files and folders than this is not looked through.
const MAX_ENTRIES: usize = 500_000;

/// How deep an image is looked through.
const MAX_DEPTH: usize = 128;

/// An image's libraries and programs. A folder stands for all of its kind beneath it, where there is none of the other
/// kind. Free of symlinks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Executables {
    /// What programs map executable.
    pub libraries: BTreeSet<AbsPath>,
    /// What the kernel or the ELF loader could run.
    pub programs: BTreeSet<AbsPath>,
}

/// Why an image cannot be looked through.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The image is larger than what is looked through.
    #[error(
        "the image has {0}, so that its programs cannot be told from its libraries; make the image smaller, \
         for example by leaving out what only its build needs"
    )]
    TooLarge(&'static str),
    /// A file or folder cannot be looked at.
    #[error("cannot look for programs at {path} in the image")]
    Look {
        /// In the image.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
}

impl ScanError {
    /// What is missing of the wall of programs if the container starts all the same; none where it must not.
    #[must_use]
    pub fn gap(&self) -> Option<Gap> {
        match self {
            Self::TooLarge(_) => Some(Gap { wall: Wall::Exec, sentence: self.to_string() }),
            Self::Look { .. } => None,
        }
    }
}

/// Looks through the image mounted at `rootfs`, which nothing may be changing: at each file's first bytes, whatever its
/// name and mode. No symlink is followed.
///
/// # Errors
/// When something cannot be read, or the image is too large.
pub fn scan(rootfs: &Path) -> Result<Executables, ScanError> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = nix::fcntl::open(rootfs, flags, Mode::empty()).map_err(|errno| at("/", errno))?;
    let mut walk = Walk { entries: 0, path: String::new() };
    let Held { libraries, programs } = walk.folder(root, 0)?;
    Ok(Executables { libraries: libraries.into_iter().collect(), programs: programs.into_iter().collect() })
}

fn at(path: &str, errno: Errno) -> ScanError {
    ScanError::Look { path: path.into(), source: errno.into() }
}

struct Walk {
    entries: usize,
    /// Of the folder that is looked through; empty for the root.
    path: String,
}

/// What one folder holds.
#[derive(Default)]
struct Held {
    libraries: Vec<AbsPath>,
    programs: Vec<AbsPath>,
}

impl Held {
    fn add(&mut self, other: Self) {
        self.libraries.extend(other.libraries);
        self.programs.extend(other.programs);
    }

    /// One entry for a folder that holds several of one kind and none of the other.
    fn summed_up(mut self, folder: &AbsPath) -> Self {
        let one = |list: &mut Vec<AbsPath>, others: &[AbsPath]| {
            if list.len() > 1 && others.is_empty() {
                *list = vec![folder.clone()];
            }
        };
        one(&mut self.libraries, &self.programs);
        one(&mut self.programs, &self.libraries);
        self
    }
}

impl Walk {
    fn folder(&mut self, folder: OwnedFd, depth: usize) -> Result<Held, ScanError> {
        if depth > MAX_DEPTH {
            return Err(ScanError::TooLarge("folders nested more than 128 deep"));
        }
        let mut folder = Dir::from_fd(folder).map_err(|errno| at(&self.path, errno))?;
        let mut names = Vec::new();
        for entry in folder.iter() {
            let entry = entry.map_err(|errno| at(&self.path, errno))?;
            if ![c".", c".."].contains(&entry.file_name()) {
                names.push((entry.file_name().to_owned(), entry.file_type()));
            }
        }
        self.entries += names.len();
        if self.entries > MAX_ENTRIES {
            return Err(ScanError::TooLarge("more than 500,000 files"));
        }
        let mut held = Held::default();
        for (name, kind) in names {
            held.add(self.entry(&folder, &name, kind, depth)?);
        }
        Ok(match AbsPath::new(&self.path) {
            Ok(path) => held.summed_up(&path),
            // The root itself, for which no entry could stand.
            Err(_) => held,
        })
    }

    fn entry(
        &mut self,
        folder: &Dir,
        name: &CString,
        kind: Option<Type>,
        depth: usize,
    ) -> Result<Held, ScanError> {
        let parent = self.path.len();
        let here = |name: &CStr| format!("{}/{}", self.path, name.to_string_lossy());
        let open = |flags: OFlag| {
            let flags = flags | OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
            openat(folder, name.as_c_str(), flags, Mode::empty()).map_err(|errno| at(&here(name), errno))
        };
        let kind = match kind {
            Some(kind) => kind,
            None => looked_up(folder, name).map_err(|errno| at(&here(name), errno))?,
        };
        let path = name.to_str().ok().and_then(|name| AbsPath::new(&format!("{}/{name}", self.path)).ok());
        match (kind, path) {
            (Type::Directory, Some(path)) => {
                let below = open(OFlag::O_DIRECTORY)?;
                path.as_str().clone_into(&mut self.path);
                let held = self.folder(below, depth + 1);
                self.path.truncate(parent);
                held
            }
            (Type::File, Some(path)) => {
                let kind = header::kind(&File::from(open(OFlag::empty())?))
                    .map_err(|source| ScanError::Look { path: path.as_str().into(), source })?;
                Ok(match kind {
                    Kind::Library => Held { libraries: vec![path], ..Held::default() },
                    Kind::Program => Held { programs: vec![path], ..Held::default() },
                    Kind::Data => Held::default(),
                })
            }
            // A mount's place must be text: what is in there is taken for programs, with all that is beside it.
            (Type::Directory | Type::File, None) => {
                Ok(Held { programs: AbsPath::new(&self.path).into_iter().collect(), ..Held::default() })
            }
            (Type::Fifo | Type::CharacterDevice | Type::BlockDevice | Type::Symlink | Type::Socket, _) => {
                Ok(Held::default())
            }
        }
    }
}

/// What a file system that does not tell in its listings has by that name.
fn looked_up(folder: &Dir, name: &CStr) -> nix::Result<Type> {
    let mode = fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW)?.st_mode;
    Ok(match SFlag::from_bits_truncate(mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFDIR => Type::Directory,
        SFlag::S_IFREG => Type::File,
        // Neither is opened.
        _ => Type::Symlink,
    })
}
