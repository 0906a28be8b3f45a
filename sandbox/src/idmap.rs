//! Mounts on which files belong to whom a user namespace takes their owners for: without them a pod whose users are its own
//! finds everything owned by nobody.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, OFlag};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, pipe2};
use oci_spec::runtime::LinuxIdMapping;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use crate::process::spawn;
use crate::sys::mounts::map_ids;

pub use crate::sys::mounts::Depth;

/// As many ids from `inside` on as there are from `outside` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// First id in the user namespace.
    pub inside: u32,
    /// First id on the machine.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

impl IdRange {
    /// Reads `inside:outside:count`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let numbers: Vec<u32> = text.split(':').map(|number| number.parse().ok()).collect::<Option<_>>()?;
        let [inside, outside, count] = numbers.try_into().ok()?;
        Some(Self { inside, outside, count })
    }

    pub(crate) fn all(mappings: Option<&Vec<LinuxIdMapping>>) -> Vec<Self> {
        let range = |one: &LinuxIdMapping| Self {
            inside: one.container_id(),
            outside: one.host_id(),
            count: one.size(),
        };
        mappings.into_iter().flatten().map(range).collect()
    }
}

/// What id `inside` of a container is on the machine: itself, where the container's users are the machine's or the id is
/// not mapped.
pub(crate) fn outside(ranges: Option<&Vec<LinuxIdMapping>>, inside: u32) -> u32 {
    outside_of(&IdRange::all(ranges), inside)
}

fn outside_of(ranges: &[IdRange], inside: u32) -> u32 {
    let found = ranges.iter().find_map(|range| {
        let offset = inside.checked_sub(range.inside).filter(|offset| *offset < range.count)?;
        range.outside.checked_add(offset)
    });
    found.unwrap_or(inside)
}

/// What a user and a group of the user namespace of process `pid` are on the machine.
///
/// # Errors
/// When there is no such process.
pub fn owner_in(pid: i32, (user, group): (u32, u32)) -> io::Result<(u32, u32)> {
    let map = |name: &str, id: u32| -> io::Result<u32> {
        let text = fs::read_to_string(format!("/proc/{pid}/{name}"))?;
        let range = |line: &str| IdRange::parse(&line.split_whitespace().collect::<Vec<_>>().join(":"));
        Ok(outside_of(&text.lines().filter_map(range).collect::<Vec<_>>(), id))
    };
    Ok((map("uid_map", user)?, map("gid_map", group)?))
}

/// A mapping of owners: a user namespace that nobody lives in.
#[derive(Debug)]
pub struct IdMap(OwnedFd);

impl IdMap {
    /// Makes it, with a child that ends at once.
    ///
    /// # Errors
    /// When the process has several threads, or the kernel refuses the namespace or the ranges.
    pub fn new(users: &[IdRange], groups: &[IdRange]) -> io::Result<Self> {
        let (ready, told) = pipe2(OFlag::O_CLOEXEC)?;
        let (asked, over) = pipe2(OFlag::O_CLOEXEC)?;
        let child = spawn(&[told.as_raw_fd(), asked.as_raw_fd()], move || {
            let live = || -> io::Result<()> {
                unshare(CloneFlags::CLONE_NEWUSER)?;
                File::from(told).write_all(b"1")?;
                // Until the parent has what it wants.
                File::from(asked).read_to_end(&mut Vec::new()).map(drop)
            };
            i32::from(live().is_err())
        })?;
        let made = Self::of(child, ready, users, groups);
        drop(over);
        waitpid(child, None)?;
        made
    }

    fn of(child: Pid, ready: OwnedFd, users: &[IdRange], groups: &[IdRange]) -> io::Result<Self> {
        File::from(ready).read_exact(&mut [0])?;
        for (name, ranges) in [("uid_map", users), ("gid_map", groups)] {
            let line = |range: &IdRange| format!("{} {} {}\n", range.inside, range.outside, range.count);
            fs::write(format!("/proc/{child}/{name}"), ranges.iter().map(line).collect::<String>())?;
        }
        Ok(Self(File::open(format!("/proc/{child}/ns/user"))?.into()))
    }

    /// A copy of the mount at `source`, with those beneath it, on which owners are mapped; attached nowhere.
    ///
    /// # Errors
    /// When the kernel refuses: `EINVAL` for a file system that cannot be mapped.
    pub fn copy(&self, source: &Path, depth: Depth) -> io::Result<OwnedFd> {
        let tree = copy(source)?;
        map_ids(tree.as_fd(), self.0.as_fd(), depth)?;
        Ok(tree)
    }
}

/// A copy of the mount at `source`, with those beneath it, attached nowhere.
pub(crate) fn copy(source: &Path) -> io::Result<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    Ok(open_tree(AT_FDCWD, source, flags)?)
}

/// Attaches a mount that is attached nowhere.
///
/// # Errors
/// When the kernel refuses.
pub fn attach(tree: &OwnedFd, place: &Path) -> io::Result<()> {
    Ok(move_mount(tree, "", AT_FDCWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// Runs `make` in a mount namespace of its own, where an empty file system lies on the folder `scratch`, and gives a copy of
/// the mount at the place that it names, attached nowhere. Whatever else it mounted is gone then, also if this process is
/// killed.
///
/// # Errors
/// As `failed` makes it when the kernel refuses; or those of `make`. The process may then be in the namespace still, and must
/// end.
pub fn apart<E>(
    scratch: &Path,
    failed: impl Fn(io::Error) -> E,
    make: impl FnOnce() -> Result<PathBuf, E>,
) -> Result<OwnedFd, E> {
    let (home, folder) = leave(scratch).map_err(&failed)?;
    let made = copy(&make()?).map_err(&failed)?;
    setns(home, CloneFlags::CLONE_NEWNS).map_err(|errno| failed(errno.into()))?;
    std::env::set_current_dir(folder).map_err(failed)?;
    Ok(made)
}

/// Enters a mount namespace in which nothing that is mounted shows elsewhere; gives the one that was left, and the working folder.
fn leave(scratch: &Path) -> io::Result<(File, PathBuf)> {
    let left = (File::open("/proc/self/ns/mnt")?, std::env::current_dir()?);
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none)?;
    mount(Some("tmpfs"), scratch, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))?;
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_three_numbers() {
        assert_eq!(
            IdRange::parse("0:200000:65536"),
            Some(IdRange { inside: 0, outside: 200_000, count: 65536 })
        );
        for bad in ["", "0:1", "0:1:2:3", "0:x:2", "-1:2:3"] {
            assert_eq!(IdRange::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_id_inside_is_another_outside() {
        let ranges: Vec<LinuxIdMapping> = serde_json::from_str(
            r#"[{"containerID":0,"hostID":200000,"size":10},{"containerID":100,"hostID":5,"size":1}]"#,
        )
        .unwrap();
        let of = |inside| outside(Some(&ranges), inside);
        assert_eq!((of(0), of(9), of(100)), (200_000, 200_009, 5));
        assert_eq!(of(10), 10, "not mapped");
        assert_eq!(outside(None, 7), 7);
    }

    #[test]
    fn this_process_s_users_are_what_it_takes_them_for() {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert_eq!(owner_in(pid, (33, 44)).unwrap(), (33, 44));
    }
}
