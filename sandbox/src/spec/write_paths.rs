//! Each declared write path becomes a mount of its own, so that the rest of the image can be read-only.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, mkdirat};
use nix::unistd::{Gid, Uid, fchownat};
use oci_spec::runtime::Mount;
use profiles::intent::AbsPath;
use profiles::profile::Bounds;

use super::SpecError;
use super::mounts::{is_tmpfs, mount};
use crate::paths::{Root, is_beneath};

/// Dangling symlinks are followed this deep when a folder is made.
const MAX_SYMLINKS: u32 = 8;

/// Options of every write path's mount.
const OPTIONS: [&str; 3] = ["noexec", "nosuid", "nodev"];

/// Whom a folder that is made belongs to: the container's user.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner {
    /// User and group by the machine's count.
    pub(super) outside: (u32, u32),
    /// The same by the container's, where its users are its own.
    pub(super) inside: (u32, u32),
}

impl Owner {
    const SUPERUSER: Self = Self { outside: (0, 0), inside: (0, 0) };
}

/// Adds the mounts for `write` to `mounts`, making in the image what it lacks.
///
/// # Errors
/// When a path cannot be made or, symlinks followed, lies outside `bounds`.
pub(super) fn add(
    mounts: &mut Vec<Mount>,
    write: &BTreeSet<AbsPath>,
    bounds: &Bounds,
    root: &Root,
    owner: Owner,
) -> Result<(), SpecError> {
    let mut binds: Vec<Mount> = Vec::new();
    for path in write {
        let real = real(root, Path::new(path.as_str()));
        let place = real.as_path();
        // Before anything is made there; where a dangling symlink leads, only the bind knows.
        check(bounds, path, place)?;
        let kernels = ["/", "/proc", "/sys", "/dev"];
        if binds.iter().any(|bind| is_beneath(place, bind.destination())) || place == Path::new("/") {
            continue;
        }
        match covering(mounts, place) {
            Some(index) if mounts[index].destination() == place => {}
            Some(index) if is_tmpfs(&mounts[index]) && !kernels.contains(&path_text(&mounts[index])) => {
                mounts.insert(index + 1, tmpfs(place, owner));
            }
            Some(_) => {}
            None => binds.push(bind(root, path, bounds, owner)?),
        }
    }
    // Before all others: a volume beneath a write path must be mounted over it.
    mounts.splice(0..0, binds);
    Ok(())
}

fn path_text(mount: &Mount) -> &str {
    mount.destination().to_str().unwrap_or_default()
}

/// The mount that `path` lies on, if it is not the image itself: the last of the deepest.
fn covering(mounts: &[Mount], path: &Path) -> Option<usize> {
    let above = mounts.iter().enumerate().filter(|(_, mount)| is_beneath(path, mount.destination()));
    above.max_by_key(|(_, mount)| mount.destination().components().count()).map(|(index, _)| index)
}

/// What `path` is in the image, free of symlinks as far as it exists.
pub(super) fn real(root: &Root, path: &Path) -> PathBuf {
    for parent in path.ancestors() {
        let Some(found) = root.look(parent).ok().and_then(|found| root.path_of(&found.fd)) else { continue };
        let found = Path::new(found.as_str());
        return match path.strip_prefix(parent) {
            Ok(rest) if !rest.as_os_str().is_empty() => found.join(rest),
            _ => found.to_owned(),
        };
    }
    path.to_owned()
}

fn check(bounds: &Bounds, declared: &AbsPath, real: &Path) -> Result<(), SpecError> {
    if real.to_str().and_then(|real| AbsPath::new(real).ok()).is_some_and(|real| bounds.leave(&real)) {
        return Ok(());
    }
    Err(SpecError::WritePathBounds { path: declared.to_string(), real: real.to_owned() })
}

fn bind(root: &Root, declared: &AbsPath, bounds: &Bounds, owner: Owner) -> Result<Mount, SpecError> {
    let failed = |source| SpecError::WritePath { path: declared.to_string(), source };
    let path = Path::new(declared.as_str());
    make(root, path, owner, 0).map_err(failed)?;
    let found = root.look(path).map_err(|errno| failed(errno.into()))?;
    let real = root.path_of(&found.fd).ok_or_else(|| SpecError::WritePathName(declared.to_string()))?;
    check(bounds, declared, Path::new(real.as_str()))?;
    let inside = real.as_str().trim_start_matches('/');
    let options = ["bind", "rw"].iter().chain(&OPTIONS).map(ToString::to_string).collect();
    Ok(mount(Path::new(real.as_str()), "bind", root.path().join(inside), options))
}

fn tmpfs(path: &Path, owner: Owner) -> Mount {
    // The container mounts it, so its own count counts.
    let (uid, gid) = owner.inside;
    let own = ["mode=0755".to_owned(), format!("uid={uid}"), format!("gid={gid}")];
    let options = OPTIONS.iter().map(ToString::to_string).chain(own).collect();
    mount(path, "tmpfs", PathBuf::from("tmpfs"), options)
}

/// Makes a place for a mount at `path`, if there is none: a folder, or an empty file, of the superuser's.
pub(super) fn make_place(root: &Root, path: &Path, file: bool) -> io::Result<()> {
    let owner = Owner::SUPERUSER;
    let (Some(parent), Some(name), true) = (path.parent(), path.file_name(), file) else {
        return make(root, path, owner, 0);
    };
    make(root, parent, owner, 0)?;
    let folder = root.look(parent)?;
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    match openat(&folder.fd, name, flags, Mode::from_bits_truncate(0o644)) {
        Err(Errno::EEXIST) => Ok(()),
        made => Ok(made.map(drop)?),
    }
}

/// Makes the folder `path` and those above it, as far as they lack; never outside the root.
fn make(root: &Root, path: &Path, owner: Owner, depth: u32) -> io::Result<()> {
    match root.look(path) {
        Err(Errno::ENOENT) => {}
        found => return Ok(found.map(drop)?),
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    make(root, parent, owner, depth)?;
    let folder = root.look(parent)?;
    let mode = Mode::from_bits_truncate(0o755);
    match mkdirat(&folder.fd, name, mode) {
        // A symlink that leads to nothing, so far.
        Err(Errno::EEXIST) if depth < MAX_SYMLINKS => {
            let target = PathBuf::from(readlinkat(&folder.fd, name)?);
            let from = root.path_of(&folder.fd).ok_or(Errno::EXDEV)?;
            make(root, &Path::new(from.as_str()).join(target), owner, depth + 1)
        }
        made => {
            made?;
            // Whatever this process's umask is.
            fchmodat(&folder.fd, name, mode, FchmodatFlags::FollowSymlink)?;
            let (uid, gid) = (Uid::from_raw(owner.outside.0), Gid::from_raw(owner.outside.1));
            Ok(fchownat(&folder.fd, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?)
        }
    }
}
