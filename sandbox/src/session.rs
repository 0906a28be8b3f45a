//! A session with grants of its own: its programs, which the container's mounts keep from running, are opened in a mount
//! namespace that only the session and its children have. The container's own mounts stay as they are.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use crate::mountinfo::unescaped;
use crate::paths::{is_absent, is_beneath};
use crate::programs::ResolvedPrograms;
use crate::sys::mounts::clear_noexec;

/// Why a session's programs cannot be opened; it must not start then.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// No mount namespace of its own.
    #[error("cannot give the session mounts of its own")]
    Namespace(#[source] io::Error),
    /// Its mounts cannot be listed.
    #[error("cannot read /proc/self/mountinfo of the container")]
    Mounts(#[source] io::Error),
    /// A program is there and cannot be opened for it.
    #[error("cannot let the session run {path}")]
    Program {
        /// The program, or a folder of programs.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
}

/// Moves the calling process into a mount namespace of its own, where nothing of the image keeps `programs` from running;
/// volumes and whatever can be written stay as they are. To be called within the container's root, with CAP_SYS_ADMIN,
/// before the walls stand.
///
/// # Errors
/// When the kernel refuses. The process may then have some of the mounts, and must end.
pub fn open_programs(programs: &ResolvedPrograms) -> Result<(), SessionError> {
    let namespace = |errno: Errno| SessionError::Namespace(errno.into());
    unshare(CloneFlags::CLONE_NEWNS).map_err(namespace)?;
    // What is mounted later in the container appears here too, and nothing of this there.
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none).map_err(namespace)?;
    let table = crate::mountinfo::table().map_err(SessionError::Mounts)?;
    let mounts = Mounts::parse(&table);
    for path in programs.paths() {
        let path = Path::new(path.as_str());
        open(path, &mounts).map_err(|source| SessionError::Program { path: path.to_owned(), source })?;
    }
    Ok(())
}

fn open(path: &Path, mounts: &Mounts) -> io::Result<()> {
    let Some(place) = look(path)? else { return Ok(()) };
    let closed = mounts.covering(path).filter(|mount| mounts.closed(mount));
    if closed.is_some_and(|mount| mount.at == path) {
        clear_noexec(place.as_fd())?;
    } else if closed.is_some() {
        // With all that is mounted beneath: files that are hidden stay so.
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let copy = flags | OpenTreeFlags::AT_EMPTY_PATH | OpenTreeFlags::AT_RECURSIVE;
        let tree = open_tree(&place, "", copy)?;
        clear_noexec(tree.as_fd())?;
        let both = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&tree, "", &place, "", both)?;
    }
    for beneath in mounts.0.iter().filter(|mount| mount.at != path && is_beneath(&mount.at, path)) {
        if mounts.closed(beneath)
            && let Some(place) = look(&beneath.at)?
        {
            clear_noexec(place.as_fd())?;
        }
    }
    Ok(())
}

/// `None` where there is nothing, or nothing that the container's user can reach. A program's path is final: a symlink in
/// it was put there since.
fn look(path: &Path) -> io::Result<Option<OwnedFd>> {
    let how =
        OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
    match openat2(AT_FDCWD, path, how) {
        Err(errno) if is_absent(errno) || errno == Errno::EACCES => Ok(None),
        opened => Ok(Some(opened?)),
    }
}

/// Mounts in the order of mountinfo: of several at one place the last is seen.
#[derive(Debug)]
struct Mounts(Vec<Mounted>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Mounted {
    /// `major:minor` of its file system.
    device: Vec<u8>,
    at: PathBuf,
    read_only: bool,
    noexec: bool,
}

impl Mounts {
    fn parse(table: &[u8]) -> Self {
        let mounted = |line: &[u8]| {
            let mut fields = line.split(|byte| *byte == b' ');
            let device = fields.nth(2)?.to_owned();
            let at = unescaped(fields.nth(1)?);
            let options: Vec<&[u8]> = fields.next()?.split(|byte| *byte == b',').collect();
            let has = |option: &str| options.contains(&option.as_bytes());
            Some(Mounted { device, at, read_only: has("ro"), noexec: has("noexec") })
        };
        Self(table.split(|byte| *byte == b'\n').filter_map(mounted).collect())
    }

    /// The mount that `path` lies on.
    fn covering(&self, path: &Path) -> Option<&Mounted> {
        let above = self.0.iter().filter(|mount| is_beneath(path, &mount.at));
        above.max_by_key(|mount| mount.at.components().count())
    }

    /// Whether it is a part of the image that was made `noexec`: what can be written never runs, and what is no part of the
    /// image was mounted so by who deployed it.
    fn closed(&self, mount: &Mounted) -> bool {
        let image = self.covering(Path::new("/"));
        mount.noexec && mount.read_only && image.is_some_and(|image| image.device == mount.device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"\
1 0 0:50 / / ro,noexec,relatime master:1 - overlay overlay rw
2 1 0:50 /usr/bin /usr/bin ro,nosuid,nodev,noexec - overlay overlay rw
3 2 0:50 /usr/bin/app /usr/bin/app ro,nosuid,nodev - overlay overlay rw
4 1 0:50 /data /data rw,noexec - overlay overlay rw
5 1 0:9 /x /config ro,noexec - ext4 /dev/x rw
6 1 0:50 /a /a\\040b ro,noexec - overlay overlay rw
";

    #[test]
    fn what_is_written_and_what_is_no_part_of_the_image_is_never_opened() {
        let mounts = Mounts::parse(TABLE);
        let closed = |path: &str| mounts.closed(mounts.covering(Path::new(path)).unwrap());
        assert!(closed("/usr/bin") && closed("/usr/bin/sh") && closed("/a b/x"));
        assert!(closed("/") && closed("/srv/x") && closed("/usr/binary"), "the image itself");
        for other in ["/usr/bin/app", "/data/x", "/config/x"] {
            assert!(!closed(other), "{other}");
        }
    }
}
