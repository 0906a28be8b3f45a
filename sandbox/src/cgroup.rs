//! The cgroup v2 hierarchy, wherever it is mounted, and cgroups of Keep's own on it.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::{AccessFlags, Pid, access, getpid};

use crate::mountinfo::{self, unescaped};
use crate::process::single_thread;
use crate::sys::process;

/// How long a cgroup's last processes may take to vanish.
const VANISH: Duration = Duration::from_secs(5);

/// The file of a cgroup that lists its processes, and takes one by its number.
const PROCESSES: &str = "cgroup.procs";

/// A hierarchy that is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    mount: PathBuf,
    /// The cgroup that is mounted there, as /proc names cgroups.
    root: PathBuf,
}

impl Hierarchy {
    /// Those of a mount table whose type and options are `wanted`, the last one first, which covers others at its place.
    fn in_table<'a>(
        table: &'a str,
        wanted: impl Fn(&str, &str) -> bool + 'a,
    ) -> impl Iterator<Item = Self> + 'a {
        table.lines().rev().filter_map(move |line| {
            let (mount, kind) = line.split_once(" - ")?;
            let mut words = mount.split(' ').skip(3);
            let (root, point) = (words.next()?, words.next()?);
            let found = Self { mount: unescaped(point.as_bytes()), root: unescaped(root.as_bytes()) };
            let mut kind = kind.split(' ');
            let (name, options) = (kind.next()?, kind.nth(1).unwrap_or_default());
            wanted(name, options).then_some(found)
        })
    }

    /// The folder of the cgroup that /proc names `path`.
    fn folder(&self, path: Option<&str>) -> io::Result<PathBuf> {
        let beneath = path.and_then(|path| Path::new(path).strip_prefix(&self.root).ok());
        let outside =
            || io::Error::new(io::ErrorKind::NotFound, "its cgroup lies outside of the mounted hierarchy");
        let beneath =
            beneath.filter(|path| path.components().all(|part| matches!(part, Component::Normal(_))));
        Ok(self.mount.join(beneath.ok_or_else(outside)?))
    }
}

/// The mounted cgroup v2 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unified(Hierarchy);

impl Unified {
    /// Finds it in this process's mount table. An unreadable table counts as none.
    #[must_use]
    pub fn find() -> Option<Self> {
        let table = table().ok()?;
        // The table lists mounts too that others cover: only what is seen at the place counts.
        let is_seen = |found: &Hierarchy| {
            statfs(&found.mount).is_ok_and(|seen| seen.filesystem_type() == CGROUP2_SUPER_MAGIC)
        };
        Self::in_table(&table).find(is_seen).map(Self)
    }

    fn in_table(table: &str) -> impl Iterator<Item = Hierarchy> {
        Hierarchy::in_table(table, |kind, _| kind == "cgroup2")
    }

    /// Whether cgroups can be made beneath it.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        access(&self.0.mount, AccessFlags::W_OK).is_ok()
    }

    /// Folder of the cgroup that process `pid` is in.
    ///
    /// # Errors
    /// When there is no such process, or its cgroup lies outside of what is mounted.
    pub fn cgroup_of(&self, pid: Pid) -> io::Result<PathBuf> {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        self.0.folder(text.lines().find_map(|line| line.strip_prefix("0::")))
    }

    /// Stays in its cgroup: who is to move a child of this process there, by `cgroup.procs`, does not have it wait as the kernel would, for
    /// that file takes and does nothing in the mount namespace that this process enters for good.
    ///
    /// # Errors
    /// When this process has several threads, or the kernel refuses a mount.
    pub fn stay(&self) -> io::Result<()> {
        let cgroup = self.cgroup_of(getpid())?;
        single_thread("stay")?;
        unshare(CloneFlags::CLONE_NEWNS)?;
        cover(&self.0.mount, &cgroup)
    }

    /// The cgroup `name` directly beneath the hierarchy's root, whether it is there or not.
    #[must_use]
    pub fn own(&self, name: &str) -> OwnCgroup {
        OwnCgroup::new(self.0.mount.join(name))
    }
}

/// Folder of the cgroup that process `pid` is in on the cgroup v1 hierarchy of `controller`; none where that is not mounted, or
/// belongs to v2.
///
/// # Errors
/// When there is no such process, or its cgroup lies outside of what is mounted.
pub fn v1_cgroup_of(controller: &str, pid: Pid) -> io::Result<Option<PathBuf>> {
    let table = table()?;
    let Some(hierarchy) = v1_in_table(controller, &table).next() else { return Ok(None) };
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let path = text.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        lists(controllers, controller).then_some(path)
    });
    hierarchy.folder(path).map(Some)
}

/// Has the kernel begin what it waits for before it moves a process to another cgroup of the v2 hierarchy, a grace period of its RCU
/// of some milliseconds: whoever moves one meanwhile waits for the rest of it alone. Waits itself until that is over.
///
/// # Errors
/// When this process's cgroup cannot be found, or the kernel refuses.
pub fn begin_moves() -> io::Result<()> {
    let own = getpid();
    // To where it is already.
    match Unified::find() {
        Some(hierarchy) => OwnCgroup(hierarchy.cgroup_of(own)?).take(own),
        None => Ok(()),
    }
}

/// Where the cgroup v1 hierarchies of `controllers` are mounted, as near to whole as they are.
///
/// # Errors
/// When the mount table cannot be read.
pub fn v1_mounts<'a>(controllers: impl IntoIterator<Item = &'a str>) -> io::Result<BTreeSet<PathBuf>> {
    let table = table()?;
    let controllers = controllers.into_iter();
    let depth = |found: &Hierarchy| found.root.components().count();
    let mounts = controllers.filter_map(|name| v1_in_table(name, &table).min_by_key(depth));
    Ok(mounts.map(|found| found.mount).collect())
}

/// Moves this process, which must have one thread, into the cgroup `below` of each v1 hierarchy that is mounted at one of `mounts`, and
/// makes those that are not there; `below` is a path of plain names. What this process forks from then on is born there.
///
/// The kernel has a process with all its threads wait for a grace period of its RCU, a thread that moves itself not: that is what
/// `tasks` is for, which only v1 has. So that who is to move a child of this process afterwards, by `cgroup.procs`, does not have it wait,
/// that file takes and does nothing in the mount namespace that this process enters for good, once it is where the write would move
/// it. A user namespace that this process makes or enters afterwards finds that cover locked, and cannot show such a cgroup elsewhere.
///
/// # Errors
/// When this process has several threads, a cgroup cannot be made or entered, or the kernel refuses a mount. It may be in some of them then;
/// who moves it by `cgroup.procs` moves it into the others.
pub fn enter_v1<'a>(mounts: impl IntoIterator<Item = &'a PathBuf>, below: &Path) -> io::Result<()> {
    single_thread("move")?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    for point in mounts {
        let cgroup = make_v1(point, below)?;
        write(&cgroup.join("tasks"), "0")?;
        cover(point, &cgroup)?;
    }
    Ok(())
}

/// Has the file of `cgroup` that takes processes take them and do nothing, in this process's mount namespace, which must be its own;
/// `point` is where the hierarchy is mounted.
fn cover(point: &Path, cgroup: &Path) -> io::Result<()> {
    let none = None::<&str>;
    // The machine's own mount keeps its file.
    mount(none, point, none, MsFlags::MS_SLAVE, none)?;
    mount(Some("/dev/null"), &cgroup.join(PROCESSES), none, MsFlags::MS_BIND, none)?;
    Ok(())
}

/// Makes a cgroup and those above it. On the hierarchy of cpusets a new one has no processors and no memory, and takes no process
/// before it has: it gets those of the one above.
fn make_v1(mount: &Path, below: &Path) -> io::Result<PathBuf> {
    let mut cgroup = mount.to_owned();
    for name in below.components() {
        let above = cgroup.clone();
        cgroup.push(name);
        match fs::create_dir(&cgroup) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => {}
        }
        for set in ["cpuset.cpus", "cpuset.mems"] {
            match fs::read_to_string(cgroup.join(set)) {
                Ok(text) if text.trim().is_empty() => {
                    write(&cgroup.join(set), &fs::read_to_string(above.join(set))?)?;
                }
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
    }
    Ok(cgroup)
}

/// Writes to a file that is there: where there is none, there is no cgroup.
fn write(path: &Path, text: &str) -> io::Result<()> {
    fs::OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes())
}

/// What the mount table says of hierarchies, as this process, or the one that it was forked from, has read it.
static KNOWN: Mutex<Known> = Mutex::new(Known { lines: String::new(), places: Vec::new() });

/// The lines of a mount table that are about hierarchies, and what was seen at their places then.
struct Known {
    lines: String,
    places: Vec<(PathBuf, Option<Seen>)>,
}

/// Device and number of a file.
type Seen = (u64, u64);

impl Known {
    fn read() -> io::Result<Self> {
        let table = mountinfo::table()?;
        // A mount whose path is no text is no hierarchy that is looked for.
        let lines = String::from_utf8_lossy(&table);
        let of_cgroups =
            |line: &&str| line.split_once(" - ").is_some_and(|(_, kind)| kind.starts_with("cgroup"));
        let lines: String = lines.lines().filter(of_cgroups).flat_map(|line| [line, "\n"]).collect();
        let places =
            Hierarchy::in_table(&lines, |_, _| true).map(|found| (found.mount.clone(), seen(&found.mount)));
        let places = places.collect();
        Ok(Self { lines, places })
    }

    /// Whether what it says can still be so.
    fn holds(&self) -> bool {
        !self.places.is_empty() && self.places.iter().all(|(place, then)| seen(place) == *then)
    }
}

fn seen(place: &Path) -> Option<Seen> {
    fs::metadata(place).ok().map(|found| (found.dev(), found.ino()))
}

/// What this process's mount table says of hierarchies. It is long on a node with many pods, and read again only when there was none, or
/// something else than before is at the place of one. One that is mounted beside others later is seen by processes that begin later.
fn table() -> io::Result<String> {
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if !known.holds() {
        *known = Known::read()?;
    }
    Ok(known.lines.clone())
}

fn v1_in_table<'a>(controller: &'a str, table: &'a str) -> impl Iterator<Item = Hierarchy> + 'a {
    Hierarchy::in_table(table, move |kind, options| kind == "cgroup" && lists(options, controller))
}

/// Whether `name` is in a list with commas.
fn lists(list: &str, name: &str) -> bool {
    list.split(',').any(|one| one == name)
}

/// A cgroup that is Keep's, or one container's, alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnCgroup(PathBuf);

impl OwnCgroup {
    /// The one of this folder, whether it is there or not.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        Self(folder)
    }

    /// Its folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Makes it. One of this name that is empty was left by a container that is gone, and is made anew, free of its programs.
    ///
    /// # Errors
    /// When it cannot be made, or has processes.
    pub fn make(&self) -> io::Result<()> {
        match fs::create_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_dir(&self.0)?;
                fs::create_dir(&self.0)
            }
            made => made,
        }
    }

    /// Moves a process into it, and with it all that it forks from then on.
    ///
    /// # Errors
    /// When there is no such process or cgroup, or the kernel refuses.
    pub fn take(&self, process: Pid) -> io::Result<()> {
        write(&self.0.join(PROCESSES), &process.to_string())
    }

    /// Ends what runs in it and in those beneath it, and removes them. Nothing there is no error.
    ///
    /// # Errors
    /// When its processes do not end, or it cannot be removed.
    pub fn remove(&self) -> io::Result<()> {
        self.remove_until(Instant::now() + VANISH)
    }

    fn remove_until(&self, deadline: Instant) -> io::Result<()> {
        loop {
            match fs::remove_dir(&self.0) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) if error.raw_os_error() != Some(libc::EBUSY) || Instant::now() > deadline => {
                    return Err(error);
                }
                Err(_) => {
                    self.kill()?;
                    self.remove_beneath(deadline)?;
                }
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn remove_beneath(&self, deadline: Instant) -> io::Result<()> {
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                Self(entry.path()).remove_until(deadline)?;
            }
        }
        Ok(())
    }

    fn kill(&self) -> io::Result<()> {
        let text = match fs::read_to_string(self.0.join(PROCESSES)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            read => read?,
        };
        // 0 stands for a process that this process namespace does not see, and is no process to signal.
        for pid in text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0) {
            match process::kill(Pid::from_raw(pid), Signal::SIGKILL as i32) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_is_found_by_its_type_wherever_it_is_mounted() {
        let table = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                     40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                     41 31 0:38 /a\\040b /mnt/c\\040d rw shared:5 - cgroup2 cgroup2 rw\n";
        let found: Vec<_> = Unified::in_table(table).collect();
        assert_eq!(found, [Hierarchy { mount: "/mnt/c d".into(), root: "/a b".into() }]);
        assert_eq!(Unified::in_table(&table.replace("cgroup2", "cgroup")).count(), 0);
    }

    #[test]
    fn the_v1_hierarchy_of_a_controller_is_found_by_its_options() {
        let table = "40 31 0:37 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n\
                     41 31 0:38 /pod /sys/fs/cgroup/both rw shared:5 - cgroup cgroup rw,cpu,memory\n\
                     42 31 0:39 / /sys/fs/cgroup/unified rw - cgroup2 memory rw,memory_recursiveprot\n";
        let found: Vec<_> = v1_in_table("memory", table).collect();
        let expected = Hierarchy { mount: "/sys/fs/cgroup/both".into(), root: "/pod".into() };
        assert_eq!(found, std::slice::from_ref(&expected));
        let folder = expected.folder(Some("/pod/one")).unwrap();
        assert_eq!(folder, Path::new("/sys/fs/cgroup/both/one"));
        assert!(expected.folder(Some("/other/one")).is_err());
        assert!(expected.folder(Some("/pod/../one")).is_err());
    }
}
