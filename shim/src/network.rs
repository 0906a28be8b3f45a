//! A container's cgroup on the v2 hierarchy, where programs watch its sockets. On pure v2 it is the one that libcontainer
//! makes; beside v1 it is one of our own, for libcontainer makes none there.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use libcgroups::common::{CgroupSetup, get_cgroup_setup};
use libcontainer::container::Container;
use nix::unistd::{Pid, getpid};
use sandbox::cgroup::Unified;
use sandbox::network::{Denials, NetworkWall, ProcessNamespace, name_servers};

use crate::error::{Failure, Kind};
use crate::walls::{Folders, Walls};

/// Where a child that makes a process of the container is born: in the container's cgroup on the v2 hierarchy. What the child makes is
/// born there too.
#[derive(Debug, Default)]
pub(crate) struct Birthplace {
    /// The cgroup's folder; none where libcontainer moves the process.
    pub(crate) folder: Option<File>,
    /// Why it could not be had.
    pub(crate) problem: Option<String>,
}

impl Birthplace {
    /// A new cgroup, for the container's own process, where it is one of our own.
    pub(crate) fn make(folders: &Folders) -> Self {
        Self::open(|hierarchy, beside_v1| {
            let own = beside_v1.then(|| hierarchy.own(&folders.cgroup_name()));
            own.map(|own| own.make().map(|()| own.path().to_owned())).transpose()
        })
    }

    /// The cgroup that the container was created with, whose own process is `init`, for an exec.
    pub(crate) fn find(folders: &Folders, init: i32) -> Self {
        Self::open(|hierarchy, beside_v1| {
            let cgroup = match beside_v1 {
                true => hierarchy.own(&folders.cgroup_name()).path().to_owned(),
                false => hierarchy.cgroup_of(Pid::from_raw(init))?,
            };
            Ok(Some(cgroup))
        })
    }

    fn open(find: impl FnOnce(&Unified, bool) -> io::Result<Option<PathBuf>>) -> Self {
        let beside_v1 = match is_beside_v1() {
            Ok(beside_v1) => beside_v1,
            Err(failure) => return Self { folder: None, problem: Some(failure.to_string()) },
        };
        let Some(hierarchy) = Unified::find() else { return Self::default() };
        match find(&hierarchy, beside_v1).and_then(|cgroup| cgroup.map(File::open).transpose()) {
            Ok(folder) => Self { folder, problem: None },
            Err(err) => Self { folder: None, problem: Some(err.to_string()) },
        }
    }
}

/// Looks whether this child was born in the container's cgroup, where the network wall of `walls` needs that; `problem` is what
/// [`Birthplace`] said.
///
/// # Errors
/// When it was not: what the child makes would be watched by nobody.
pub(crate) fn check_birth(folders: &Folders, walls: &Walls, problem: Option<&str>) -> Result<(), Failure> {
    if walls.plan.sockets.is_none() || !is_beside_v1()? {
        return Ok(());
    }
    let hierarchy = Unified::find().ok_or_else(no_hierarchy)?;
    let own = hierarchy.own(&folders.cgroup_name());
    // A cgroup that cannot be seen from here is another.
    if hierarchy.cgroup_of(getpid()).is_ok_and(|born| born == own.path()) {
        return Ok(());
    }
    let because = problem.unwrap_or("the kernel lets no process be born in a cgroup");
    Err(Failure::new(Kind::Internal, format!("cannot enter the cgroup {}: {because}", own.path().display())))
}

/// Whether the machine's cgroups are v1, with a v2 hierarchy beside them or without.
///
/// # Errors
/// When that cannot be told.
pub(crate) fn is_beside_v1() -> Result<bool, Failure> {
    let setup = get_cgroup_setup().map_err(|err| Failure::internal("cannot tell cgroup versions", &err))?;
    Ok(match setup {
        CgroupSetup::Unified => false,
        CgroupSetup::Hybrid | CgroupSetup::Legacy => true,
    })
}

fn no_hierarchy() -> Failure {
    Failure::new(Kind::Precondition, "no cgroup v2 hierarchy is mounted any more")
}

/// Raises the network wall around a container whose process waits to start, where its plan has one.
///
/// # Errors
/// When the programs cannot be loaded or attached, or the container is in no cgroup of its own.
pub(crate) fn raise(
    walls: &Walls,
    folders: &Folders,
    container: &Container,
) -> Result<Option<Denials>, Failure> {
    let Some(sockets) = &walls.plan.sockets else { return Ok(None) };
    let pid =
        container.pid().ok_or_else(|| Failure::new(Kind::Precondition, "the container has no process"))?;
    let cgroup = cgroup_of(Pid::from_raw(pid.as_raw()), folders)?;
    let root = PathBuf::from(format!("/proc/{pid}/root"));
    let servers = if sockets.dns { name_servers(&root) } else { Ok(Vec::new()) };
    let servers = servers
        .map_err(|err| Failure::internal("cannot read the container's /etc/resolv.conf for dns", &err))?;
    let processes = ProcessNamespace::of(Pid::from_raw(pid.as_raw()))
        .map_err(|err| Failure::internal("cannot find the container's process namespace", &err))?;
    NetworkWall::load(sockets, &servers, processes)
        .and_then(|wall| wall.attach(&cgroup))
        .map(Some)
        .map_err(|err| Failure::from_error(Kind::Precondition, &err))
}

/// The container's cgroup: never one that others are in too.
fn cgroup_of(pid: Pid, folders: &Folders) -> Result<PathBuf, Failure> {
    let hierarchy = Unified::find().ok_or_else(no_hierarchy)?;
    let cgroup = hierarchy
        .cgroup_of(pid)
        .map_err(|err| Failure::internal("cannot find the container's cgroup", &err))?;
    let is_own = if is_beside_v1()? {
        cgroup == hierarchy.own(&folders.cgroup_name()).path()
    } else {
        !hierarchy.cgroup_of(getpid()).is_ok_and(|ours| ours.starts_with(&cgroup))
    };
    if !is_own {
        let where_ = cgroup.display();
        let because = format!("the container is in the cgroup {where_}, which is not its own");
        return Err(Failure::new(Kind::Internal, because));
    }
    Ok(cgroup)
}

/// Removes the container's cgroup if it had one of our own, and what may still run in it.
///
/// # Errors
/// When it stays.
pub(crate) fn remove(folders: &Folders) -> Result<(), Failure> {
    let Some(hierarchy) = Unified::find() else { return Ok(()) };
    let cgroup = hierarchy.own(&folders.cgroup_name());
    cgroup.remove().map_err(|err| {
        Failure::internal(&format!("cannot remove the cgroup {}", cgroup.path().display()), &err)
    })
}
