//! What is asked of a container's cgroup, each in a child of the shim.

use containerd_shim::cgroup::{collect_metrics, collect_metrics_v2, get_cgroup, update_resources};
use containerd_shim_protos::protobuf::{Message, MessageFull};
use libcgroups::common::{
    AnyCgroupManager, CgroupConfig, CgroupManager, CreateCgroupSetupError, create_cgroup_manager,
};
use libcontainer::container::Container;
use oci_spec::runtime::{LinuxResources, Spec};
use serde::{Deserialize, Serialize};

use crate::error::{Failure, Kind};
use crate::lifecycle::Step;
use crate::process::is_systemd_cgroup;
use crate::walls::Folders;

/// An encoded message and its type, for an `Any`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Encoded {
    pub(crate) type_url: String,
    pub(crate) value: Vec<u8>,
}

fn load(folders: &Folders) -> Result<Container, Failure> {
    Container::load(folders.oci_state()).map_err(|err| Failure::internal("cannot load the container", &err))
}

/// Sends a signal to all of the container's processes.
///
/// # Errors
/// When its cgroup cannot be read; no processes is no error.
pub(crate) fn signal_all(folders: &Folders, signal: i32) -> Result<(), Failure> {
    for pid in pids(folders)? {
        match sandbox::process::signal(nix::unistd::Pid::from_raw(pid), signal) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
            Err(errno) => {
                return Err(Failure::internal(&format!("cannot send signal {signal} to {pid}"), &errno));
            }
        }
    }
    Ok(())
}

/// Process ids in the container's cgroup.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn pids(folders: &Folders) -> Result<Vec<i32>, Failure> {
    let failed = |err: &(dyn std::error::Error + 'static)| {
        Failure::internal("cannot list the container's processes", err)
    };
    let Some(manager) = manager(folders).map_err(|err| failed(&err))? else { return Ok(Vec::new()) };
    let pids = manager.get_all_pids().map_err(|err| failed(&err))?;
    Ok(pids.into_iter().map(|pid| pid.as_raw()).collect())
}

/// Removes the container's cgroup, where libcontainer cannot.
///
/// # Errors
/// When it cannot be removed.
pub(crate) fn remove(folders: &Folders) -> Result<(), Failure> {
    let failed = |err: &(dyn std::error::Error + 'static)| {
        Failure::internal("cannot remove the container's cgroup", err)
    };
    match manager(folders).map_err(|err| failed(&err))? {
        Some(manager) => manager.remove().map_err(|err| failed(&err)),
        None => Ok(()),
    }
}

/// The container's cgroup: as libcontainer noted it, else as the hardened runtime spec names it; none before that.
fn manager(folders: &Folders) -> Result<Option<AnyCgroupManager>, CreateCgroupSetupError> {
    let noted = Container::load(folders.oci_state()).ok();
    let noted = noted.and_then(|container| Some((container.spec().ok()?.cgroup_path, container.systemd())));
    let named = || {
        let spec = Spec::load(folders.bundle().join("config.json")).ok()?;
        let path = spec.linux().as_ref()?.cgroups_path().clone()?;
        let systemd = is_systemd_cgroup(&path);
        Some((path, systemd))
    };
    let Some((cgroup_path, systemd_cgroup)) = noted.or_else(named) else { return Ok(None) };
    let container_name = folders.id().to_owned();
    create_cgroup_manager(CgroupConfig { cgroup_path, systemd_cgroup, container_name }).map(Some)
}

/// Freezes or thaws the container.
///
/// # Errors
/// When libcontainer cannot.
pub(crate) fn freeze(folders: &Folders, step: Step) -> Result<(), Failure> {
    let mut container = load(folders)?;
    let done = match step {
        Step::Pause => container.pause(),
        Step::Resume => container.resume(),
        Step::Start | Step::Started | Step::Exit(_) => Ok(()),
    };
    done.map_err(|err| Failure::internal("cannot freeze or thaw the container", &err))
}

/// Metrics of the container's cgroup, as containerd's own message for cgroup v1 or v2.
///
/// # Errors
/// When they cannot be read.
pub(crate) fn stats(pid: u32) -> Result<Encoded, Failure> {
    let failed = |err: &(dyn std::error::Error + 'static)| {
        Failure::internal("cannot read the container's metrics", err)
    };
    let cgroup = get_cgroup(pid).map_err(|err| failed(&err))?;
    if cgroup.v2() {
        encode(&collect_metrics_v2(&cgroup).map_err(|err| failed(&err))?)
    } else {
        encode(&collect_metrics(&cgroup).map_err(|err| failed(&err))?)
    }
}

fn encode<M: Message + MessageFull>(message: &M) -> Result<Encoded, Failure> {
    let value = message.write_to_bytes().map_err(|err| Failure::internal("cannot encode metrics", &err))?;
    Ok(Encoded { type_url: M::descriptor().full_name().to_owned(), value })
}

/// Changes the container's limits; `json` is a runtime spec's `linux.resources`.
///
/// # Errors
/// When it is no such JSON, or a limit cannot be set.
pub(crate) fn update(pid: u32, json: &[u8]) -> Result<(), Failure> {
    let resources: LinuxResources = serde_json::from_slice(json)
        .map_err(|err| Failure::new(Kind::Invalid, format!("cannot parse the new limits: {err}")))?;
    let cgroup =
        get_cgroup(pid).map_err(|err| Failure::internal("cannot find the container's cgroup", &err))?;
    update_resources(&cgroup, &resources)
        .map_err(|err| Failure::internal("cannot change the container's limits", &err))
}
