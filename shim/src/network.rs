//! A container's cgroup on the v2 hierarchy, where programs watch its sockets. On pure v2 it is the one that libcontainer
//! makes; beside v1 it is one of our own, for libcontainer makes none there.

use std::io;
use std::path::PathBuf;

use libcgroups::common::{CgroupSetup, get_cgroup_setup};
use libcontainer::container::Container;
use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, getpid};
use sandbox::cgroup::{OwnCgroup, Unified};
use sandbox::network::{Denials, NetworkWall, ProcessNamespace, name_servers};

use crate::error::{Failure, Kind};
use crate::walls::{Folders, Walls};

/// A move of this child into the container's cgroup, where that is one of our own: what the child makes from then on is born
/// there.
///
/// Who moves a process waits for a grace period of the kernel's RCU, some milliseconds; who moves one right afterwards, as
/// libcontainer does, does not. So a helper of the child begins this first of all, and it is waited for before libcontainer forks.
#[derive(Debug)]
pub(crate) enum Move {
    /// A helper moves the child into the cgroup.
    UnderWay(OwnCgroup, Pid),
    /// The machine's cgroups are v1, and there is no hierarchy to move in.
    Impossible,
    /// The machine's cgroups are v2: libcontainer moves the container's process.
    NotNeeded,
}

impl Move {
    /// Begins to move this child into a new cgroup.
    ///
    /// # Errors
    /// When the versions of the machine's cgroups cannot be told, or the helper cannot be forked.
    pub(crate) fn into_new(folders: &Folders) -> Result<Self, Failure> {
        Self::begin(folders, |cgroup, child| cgroup.make().and_then(|()| cgroup.take(child)))
    }

    /// Begins to move this child into the cgroup that the container was created with.
    ///
    /// # Errors
    /// When the versions of the machine's cgroups cannot be told, or the helper cannot be forked.
    pub(crate) fn into_existing(folders: &Folders) -> Result<Self, Failure> {
        Self::begin(folders, OwnCgroup::take)
    }

    fn begin(folders: &Folders, how: fn(&OwnCgroup, Pid) -> io::Result<()>) -> Result<Self, Failure> {
        if !is_beside_v1()? {
            return Ok(Self::NotNeeded);
        }
        let Some(hierarchy) = Unified::find() else { return Ok(Self::Impossible) };
        let cgroup = hierarchy.own(&folders.cgroup_name());
        let (child, theirs) = (getpid(), cgroup.clone());
        // What it exits with is the error's number.
        let helper = move || {
            how(&theirs, child).map_or_else(|err| err.raw_os_error().unwrap_or(Errno::EIO as i32), |()| 0)
        };
        let helper = sandbox::process::spawn(&[], helper)
            .map_err(|err| Failure::internal("cannot fork a helper that moves into a cgroup", &err))?;
        Ok(Self::UnderWay(cgroup, helper))
    }

    /// Waits until it is done.
    ///
    /// # Errors
    /// When it failed, or there is no hierarchy, and the network wall of `walls` needs it.
    pub(crate) fn wait(self, walls: &Walls) -> Result<(), Failure> {
        let needed = walls.plan.sockets.is_some();
        let (cgroup, helper) = match self {
            Self::UnderWay(cgroup, helper) => (cgroup, helper),
            Self::Impossible if needed => return Err(no_hierarchy()),
            Self::Impossible | Self::NotNeeded => return Ok(()),
        };
        let moved = match waitpid(helper, None) {
            Ok(WaitStatus::Exited(_, 0)) => Ok(()),
            Ok(WaitStatus::Exited(_, number)) => Err(io::Error::from_raw_os_error(number)),
            Ok(status) => Err(io::Error::other(format!("its helper ended: {status:?}"))),
            Err(errno) => Err(errno.into()),
        };
        match moved {
            Err(err) if needed => {
                let place = cgroup.path().display();
                Err(Failure::internal(&format!("cannot move into the cgroup {place}"), &err))
            }
            Err(err) => {
                tracing::debug!(error = %err, cgroup = %cgroup.path().display(), "not moved, and not needed");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }
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
