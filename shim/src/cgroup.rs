//! What is asked of a container's cgroup, each in a child of the shim.

use std::io;
use std::path::{Component, Path, PathBuf};

use containerd_shim::cgroup::{get_cgroup, update_resources};
use libcgroups::common::{
    AnyCgroupManager, AnyManagerError, CgroupConfig, CgroupManager, CreateCgroupSetupError, FreezerState,
    WrappedIoError, create_cgroup_manager, get_all_pids,
};
use libcgroups::systemd::manager::SystemdManagerError;
use libcgroups::v1::ControllerType;
use libcgroups::v1::manager::V1ManagerError;
use libcgroups::v1::util::get_subsystem_mount_point;
use libcgroups::v2::manager::V2ManagerError;
use libcontainer::container::Container;
use nix::errno::Errno;
use nix::unistd::Pid;
use oci_spec::runtime::{LinuxResources, Spec};
use sandbox::cgroup::{Unified, v1_cgroup_of, v1_mounts};
use sandbox::spec::V1Cgroup;

use crate::error::{Failure, Kind};
use crate::lifecycle::Step;
use crate::process::is_systemd_cgroup;
use crate::walls::Folders;

/// The controllers of cgroup v1 on whose hierarchies libcontainer makes a cgroup. Source: libcgroups' `CONTROLLERS`.
const V1_CONTROLLERS: [&str; 12] = [
    "cpu",
    "cpuacct",
    "cpuset",
    "devices",
    "hugetlb",
    "memory",
    "pids",
    "perf_event",
    "blkio",
    "net_prio",
    "net_cls",
    "freezer",
];

fn load(folders: &Folders) -> Result<Container, Failure> {
    Container::load(folders.oci_state()).map_err(|err| Failure::internal("cannot load the container", &err))
}

/// Sends a signal to all of the container's processes.
///
/// # Errors
/// When its cgroup cannot be read; no processes is no error.
pub(crate) fn signal_all(folders: &Folders, signal: i32) -> Result<(), Failure> {
    for pid in pids(folders)? {
        match sandbox::process::signal(Pid::from_raw(pid), signal) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
            Err(errno) => {
                return Err(Failure::internal(&format!("cannot send signal {signal} to {pid}"), &errno));
            }
        }
    }
    Ok(())
}

/// Process ids in the container's cgroup; none where it has no cgroup any more.
///
/// # Errors
/// When it is there and cannot be read.
pub(crate) fn pids(folders: &Folders) -> Result<Vec<i32>, Failure> {
    let failed = |err: &(dyn std::error::Error + 'static)| {
        Failure::internal("cannot list the container's processes", err)
    };
    let Some((path, systemd)) = place(folders)? else { return Ok(Vec::new()) };
    let listed = match v1_folder(&path, systemd)? {
        Some(folder) => get_all_pids(&folder).map_err(|err| (is_gone(err.inner()), failed(&err))),
        None => manager(folders, path, systemd)?
            .get_all_pids()
            .map_err(|err| (io_cause(&err).is_some_and(is_gone), failed(&err))),
    };
    match listed {
        Ok(pids) => Ok(pids.into_iter().map(|pid| pid.as_raw()).collect()),
        Err((true, _)) => Ok(Vec::new()),
        Err((false, failure)) => Err(failure),
    }
}

/// The folder of the cgroup `path` on the v1 hierarchy that libcgroups reads processes from. Its manager looks every hierarchy up
/// before it reads one.
fn v1_folder(path: &Path, systemd: bool) -> Result<Option<PathBuf>, Failure> {
    let below = path.strip_prefix("/").unwrap_or(path);
    let plain = below.components().all(|part| matches!(part, Component::Normal(_)));
    if systemd || !plain || !crate::network::is_beside_v1()? {
        return Ok(None);
    }
    let mount = get_subsystem_mount_point(&ControllerType::Devices)
        .map_err(|err| Failure::internal("cannot find the container's cgroup", &err))?;
    Ok(Some(mount.join(below)))
}

/// Whether a cgroup is not there, or was removed while it was read.
pub(crate) fn is_gone(err: &io::Error) -> bool {
    err.kind() == io::ErrorKind::NotFound || err.raw_os_error() == Some(Errno::ENODEV as i32)
}

/// What the kernel answered, where that is why listing failed. libcgroups has it in a field, not among the causes.
fn io_cause(err: &AnyManagerError) -> Option<&io::Error> {
    match err {
        AnyManagerError::V1(V1ManagerError::WrappedIo(err))
        | AnyManagerError::V2(V2ManagerError::WrappedIo(err))
        | AnyManagerError::Systemd(SystemdManagerError::WrappedIo(err)) => Some(WrappedIoError::inner(err)),
        _ => None,
    }
}

/// Lets a container's processes go on, if they are frozen: a frozen process on cgroup v1 takes no signal, not even SIGKILL.
///
/// # Errors
/// When its cgroup is there and cannot be thawed.
pub(crate) fn thaw(folders: &Folders) -> Result<(), Failure> {
    if pids(folders)?.is_empty() {
        return Ok(());
    }
    let Some((path, systemd)) = place(folders)? else { return Ok(()) };
    manager(folders, path, systemd)?
        .freeze(FreezerState::Thawed)
        .map_err(|err| Failure::internal("cannot thaw the container's processes", &err))
}

/// Removes the container's cgroup, where libcontainer cannot.
///
/// # Errors
/// When it cannot be removed.
pub(crate) fn remove(folders: &Folders) -> Result<(), Failure> {
    let Some((path, systemd)) = place(folders)? else { return Ok(()) };
    let removed = manager(folders, path, systemd)?.remove();
    removed.map_err(|err| Failure::internal("cannot remove the container's cgroup", &err))
}

/// The container's cgroup, and whether systemd makes it: as libcontainer noted it, else as the hardened runtime spec names it; none
/// before that.
fn place(folders: &Folders) -> Result<Option<(PathBuf, bool)>, Failure> {
    let noted = Container::load(folders.oci_state()).ok();
    let noted = noted.and_then(|container| Some((container.spec().ok()?.cgroup_path, container.systemd())));
    noted.map_or_else(|| named(folders), |noted| Ok(Some(noted)))
}

fn manager(
    folders: &Folders,
    cgroup_path: PathBuf,
    systemd_cgroup: bool,
) -> Result<AnyCgroupManager, Failure> {
    let config = CgroupConfig { cgroup_path, systemd_cgroup, container_name: folders.id().to_owned() };
    create_cgroup_manager(config)
        .map_err(|err: CreateCgroupSetupError| Failure::internal("cannot find the container's cgroup", &err))
}

/// The cgroup that the hardened runtime spec names, and whether systemd makes it.
fn named(folders: &Folders) -> Result<Option<(PathBuf, bool)>, Failure> {
    let path = folders.bundle().join("config.json");
    if !path.exists() {
        return Ok(None);
    }
    let spec = Spec::load(&path).map_err(|err| Failure::internal("cannot read the runtime spec", &err))?;
    let path = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().clone());
    Ok(path.map(|path| {
        let systemd = is_systemd_cgroup(&path);
        (path, systemd)
    }))
}

/// The container's cgroups that libcontainer will make where the machine's are v1, if the spec mounts them; none where they are
/// v2.
///
/// # Errors
/// When the machine's cgroups cannot be told.
pub(crate) fn v1_cgroups(spec: &Spec) -> Result<Vec<V1Cgroup>, Failure> {
    let failed =
        |err: &(dyn std::error::Error + 'static)| Failure::internal("cannot tell the machine's cgroups", err);
    let path = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_ref());
    let shown = spec.mounts().iter().flatten().any(|mount| mount.typ().as_deref() == Some("cgroup"));
    let (Some(path), true) = (path, shown && crate::network::is_beside_v1()?) else { return Ok(Vec::new()) };
    let hierarchies = v1_mounts(V1_CONTROLLERS).map_err(|err| failed(&err))?;
    let below = path.strip_prefix("/").unwrap_or(path);
    let of = |hierarchy: &PathBuf| {
        let name = hierarchy.file_name()?.to_str()?.to_owned();
        Some(V1Cgroup { name, path: hierarchy.join(below) })
    };
    Ok(hierarchies.iter().filter_map(of).collect())
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

/// Changes the container's limits; `json` is a runtime spec's `linux.resources`.
///
/// # Errors
/// When it is no such JSON, or a limit cannot be set.
pub(crate) fn update(pid: u32, json: &[u8]) -> Result<(), Failure> {
    let mut resources: LinuxResources = serde_json::from_slice(json)
        .map_err(|err| Failure::new(Kind::Invalid, format!("cannot parse the new limits: {err}")))?;
    let failed = |err: &(dyn std::error::Error + 'static)| {
        Failure::internal("cannot change the container's limits", err)
    };
    if let Some(pids) = resources.pids() {
        limit_pids(pid, pids.limit()).map_err(|err| failed(&err))?;
    }
    resources.set_pids(None);
    let cgroup =
        get_cgroup(pid).map_err(|err| Failure::internal("cannot find the container's cgroup", &err))?;
    update_resources(&cgroup, &resources).map_err(|err| failed(&err))
}

/// Limits the number of processes: 0 changes nothing, and below that is no limit, which cgroups-rs writes as a number.
fn limit_pids(pid: u32, limit: i64) -> io::Result<()> {
    let pid = Pid::from_raw(i32::try_from(pid).map_err(io::Error::other)?);
    let none = || io::Error::new(io::ErrorKind::NotFound, "no cgroup hierarchy counts processes");
    let cgroup = match v1_cgroup_of("pids", pid)? {
        Some(cgroup) => cgroup,
        None => Unified::find().ok_or_else(none)?.cgroup_of(pid)?,
    };
    match limit {
        0 => Ok(()),
        1.. => std::fs::write(cgroup.join("pids.max"), limit.to_string()),
        _ => std::fs::write(cgroup.join("pids.max"), "max"),
    }
}
