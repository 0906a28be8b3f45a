//! A container's cgroup on the v2 hierarchy, where programs watch its sockets. On pure v2 it is the one that libcontainer
//! makes; beside v1 it is one of our own, for libcontainer makes none there.

use std::path::PathBuf;

use libcgroups::common::{CgroupSetup, get_cgroup_setup};
use libcontainer::container::Container;
use nix::unistd::{Pid, getpid};
use sandbox::cgroup::{OwnCgroup, Unified};
use sandbox::network::{Denials, NetworkWall, ProcessNamespace, name_servers};

use crate::error::{Failure, Kind};
use crate::walls::{Folders, Walls};

/// Moves this child into a new cgroup of the container's, if one of our own is needed: the container's process, which it is
/// about to make, is born there.
///
/// # Errors
/// When it cannot be made or joined.
pub(crate) fn join_new(walls: &Walls, folders: &Folders) -> Result<(), Failure> {
    let Some(cgroup) = needed(walls, folders)? else { return Ok(()) };
    cgroup.make().and_then(|()| cgroup.join()).map_err(|err| failed("make", &cgroup, &err))
}

/// Moves this child into the container's cgroup, if it has one of our own, and so the exec that it is about to make.
///
/// # Errors
/// When it cannot be joined: then no exec starts.
pub(crate) fn join(walls: &Walls, folders: &Folders) -> Result<(), Failure> {
    let Some(cgroup) = needed(walls, folders)? else { return Ok(()) };
    cgroup.join().map_err(|err| failed("join", &cgroup, &err))
}

fn needed(walls: &Walls, folders: &Folders) -> Result<Option<OwnCgroup>, Failure> {
    if walls.plan.sockets.is_none() || !is_beside_v1()? {
        return Ok(None);
    }
    Ok(Some(hierarchy()?.own(&folders.cgroup_name())))
}

fn failed(doing: &str, cgroup: &OwnCgroup, err: &std::io::Error) -> Failure {
    Failure::internal(&format!("cannot {doing} the cgroup {}", cgroup.path().display()), err)
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

fn hierarchy() -> Result<Unified, Failure> {
    Unified::find()
        .ok_or_else(|| Failure::new(Kind::Precondition, "no cgroup v2 hierarchy is mounted any more"))
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
    let hierarchy = hierarchy()?;
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
    cgroup.remove().map_err(|err| failed("remove", &cgroup, &err))
}
