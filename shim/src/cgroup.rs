//! What is asked of a container's cgroup, each in a child of the shim.

use std::collections::BTreeSet;
use std::io;
use std::path::{Component, Path, PathBuf};

use containerd_shim::cgroup::{get_cgroup, update_resources};
use libcgroups::common::{
    AnyCgroupManager, AnyManagerError, CgroupConfig, CgroupManager, ControllerOpt, CreateCgroupSetupError,
    FreezerState, WrappedIoError, create_cgroup_manager, get_all_pids,
};
use libcgroups::systemd::manager::SystemdManagerError;
use libcgroups::v1::ControllerType;
use libcgroups::v1::manager::V1ManagerError;
use libcgroups::v1::util::get_subsystem_mount_point;
use libcgroups::v2::manager::V2ManagerError;
use libcontainer::container::Container;
use nix::errno::Errno;
use nix::unistd::{Pid, getpid};
use oci_spec::runtime::{LinuxResources, Mount, Spec};
use sandbox::cgroup::{OwnCgroup, Unified, enter_v1, v1_cgroup_of, v1_mounts};
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

/// Sends a signal to all of the container's processes; to its own, `init`, last: with that the kernel may end the others before their
/// signal reaches them.
///
/// # Errors
/// When its cgroup cannot be read; no processes is no error.
pub(crate) fn signal_all(folders: &Folders, signal: i32, init: i32) -> Result<(), Failure> {
    let (own, others): (Vec<i32>, Vec<i32>) = pids(folders)?.into_iter().partition(|pid| *pid == init);
    for pid in others.into_iter().chain(own) {
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
    match place(folders)? {
        Some(place) => pids_in(folders, &place),
        None => Ok(Vec::new()),
    }
}

fn pids_in(folders: &Folders, place: &Place) -> Result<Vec<i32>, Failure> {
    let failed = |err: &(dyn std::error::Error + 'static)| {
        Failure::internal("cannot list the container's processes", err)
    };
    let listed = match v1_folder(place)? {
        Some(folder) => get_all_pids(&folder).map_err(|err| (is_gone(err.inner()), failed(&err))),
        None => manager(folders, place)?
            .get_all_pids()
            .map_err(|err| (io_cause(&err).is_some_and(is_gone), failed(&err))),
    };
    match listed {
        Ok(pids) => Ok(pids.into_iter().map(|pid| pid.as_raw()).collect()),
        Err((true, _)) => Ok(Vec::new()),
        Err((false, failure)) => Err(failure),
    }
}

/// The cgroup's folder on the v1 hierarchy that libcgroups reads processes from, found as libcgroups finds it. Its manager looks
/// every hierarchy up before it reads one.
fn v1_folder(place: &Place) -> Result<Option<PathBuf>, Failure> {
    let Some(below) = v1_path(place)? else { return Ok(None) };
    let mount = get_subsystem_mount_point(&ControllerType::Devices)
        .map_err(|err| Failure::internal("cannot find the container's cgroup", &err))?;
    Ok(Some(mount.join(below)))
}

/// Where the container's cgroups lie beneath the v1 hierarchies, if they are there and systemd has nothing to do with them.
fn v1_path(place: &Place) -> Result<Option<&Path>, Failure> {
    let Some(below) = beneath(&place.path).filter(|_| !place.systemd) else { return Ok(None) };
    Ok(crate::network::is_beside_v1()?.then_some(below))
}

/// What a cgroup's path adds to a hierarchy's mount, where that is plain names and at least one.
fn beneath(path: &Path) -> Option<&Path> {
    let below = path.strip_prefix("/").unwrap_or(path);
    let plain = below.components().all(|part| matches!(part, Component::Normal(_)));
    (plain && !below.as_os_str().is_empty()).then_some(below)
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
    let Some(place) = place(folders)? else { return Ok(()) };
    if pids_in(folders, &place)?.is_empty() {
        return Ok(());
    }
    manager(folders, &place)?
        .freeze(FreezerState::Thawed)
        .map_err(|err| Failure::internal("cannot thaw the container's processes", &err))
}

/// Removes the container's cgroups, and those that it made in them.
///
/// # Errors
/// When it cannot be removed.
pub(crate) fn remove(folders: &Folders) -> Result<(), Failure> {
    let Some(place) = place(folders)? else { return Ok(()) };
    let failed = |err: &(dyn std::error::Error + 'static)| {
        Failure::internal("cannot remove the container's cgroup", err)
    };
    match v1_path(&place)? {
        // libcgroups would look every hierarchy up before.
        Some(below) => v1_mounts(V1_CONTROLLERS)
            .and_then(|mounts| mounts.iter().try_for_each(|mount| OwnCgroup::new(mount.join(below)).remove()))
            .map_err(|err| failed(&err)),
        None => manager(folders, &place)?.remove().map_err(|err| failed(&err)),
    }
}

/// A container's cgroup.
struct Place {
    /// As the runtime spec names it.
    path: PathBuf,
    /// Whether systemd makes it.
    systemd: bool,
}

/// The container's cgroup as libcontainer noted it, else as the hardened runtime spec names it; none before that.
fn place(folders: &Folders) -> Result<Option<Place>, Failure> {
    let noted = Container::load(folders.oci_state()).ok();
    let noted = noted.and_then(|container| {
        Some(Place { path: container.spec().ok()?.cgroup_path, systemd: container.systemd() })
    });
    noted.map_or_else(|| named(folders), |noted| Ok(Some(noted)))
}

fn manager(folders: &Folders, place: &Place) -> Result<AnyCgroupManager, Failure> {
    let config = CgroupConfig {
        cgroup_path: place.path.clone(),
        systemd_cgroup: place.systemd,
        container_name: folders.id().to_owned(),
    };
    create_cgroup_manager(config)
        .map_err(|err: CreateCgroupSetupError| Failure::internal("cannot find the container's cgroup", &err))
}

/// The cgroup that the hardened runtime spec names.
fn named(folders: &Folders) -> Result<Option<Place>, Failure> {
    let path = folders.bundle().join("config.json");
    if !path.exists() {
        return Ok(None);
    }
    let spec = Spec::load(&path).map_err(|err| Failure::internal("cannot read the runtime spec", &err))?;
    let path = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().clone());
    Ok(path.map(|path| Place { systemd: is_systemd_cgroup(&path), path }))
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

/// Moves this child, which is about to create the container of `spec`, into the container's cgroups on v1, for which the kernel waits less
/// than when libcontainer does it (`sandbox::cgroup::enter_v1`). Where it cannot, libcontainer does.
pub(crate) fn enter(spec: &Spec, systemd: bool) {
    let linux = spec.linux().as_ref();
    let path = linux.and_then(|linux| linux.cgroups_path().as_ref());
    // Hooks are run in this child's mount namespace, and are to find the machine's.
    let hooks = spec.hooks().as_ref();
    let hooked = hooks.is_some_and(|hooks| hooks.prestart().is_some() || hooks.create_runtime().is_some());
    // A user namespace's copy of this child's mounts is locked: the kernel then refuses to show a cgroup without what covers a file in it.
    let has_users = sandbox::spec::has_users(spec);
    let beside_v1 = crate::network::is_beside_v1().unwrap_or(false);
    if let Some(path) = path.filter(|_| beside_v1 && !systemd && !hooked && !has_users) {
        enter_at(path, |mounts| {
            let recursive = |mount: &&Mount| mount.options().iter().flatten().any(|option| option == "rbind");
            let binds = spec.mounts().iter().flatten().filter(recursive);
            let shows = |source: &PathBuf| {
                mounts.iter().any(|point| point.starts_with(source) || source.starts_with(point))
            };
            binds.filter_map(|mount| mount.source().as_ref()).any(shows)
        });
    }
}

/// As [`enter`], for a child that is about to start an exec in `container`; on v2 it may have been born there.
///
/// # Errors
/// When the versions of the machine's cgroups cannot be told.
pub(crate) fn enter_again(container: &Container) -> Result<(), Failure> {
    if crate::network::is_beside_v1()? {
        if let Some(spec) = container.spec().ok().filter(|_| !container.systemd()) {
            enter_at(&spec.cgroup_path, |_| false);
        }
    } else if let (Some(hierarchy), Some(init)) = (Unified::find(), container.pid())
        && let Ok(cgroup) = hierarchy.cgroup_of(Pid::from_raw(init.as_raw()))
        && hierarchy.cgroup_of(getpid()).is_ok_and(|own| own == cgroup)
        && let Err(err) = hierarchy.stay()
    {
        tracing::debug!(error = %err, cgroup = %cgroup.display(), "left to libcontainer to enter");
    }
    Ok(())
}

/// To be asked where the machine's cgroups are v1. `shown` says whether the container is to see one of the hierarchies that are mounted
/// there, as this child sees it.
fn enter_at(path: &Path, shown: impl FnOnce(&BTreeSet<PathBuf>) -> bool) {
    let Some(below) = beneath(path) else { return };
    let entered = v1_mounts(V1_CONTROLLERS)
        .and_then(|mounts| if shown(&mounts) { Ok(()) } else { enter_v1(&mounts, below) });
    if let Err(err) = entered {
        tracing::debug!(error = %err, cgroup = %path.display(), "left to libcontainer to enter");
    }
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
pub(crate) fn update(folders: &Folders, pid: u32, json: &[u8]) -> Result<(), Failure> {
    let mut resources: LinuxResources = serde_json::from_slice(json)
        .map_err(|err| Failure::new(Kind::Invalid, format!("cannot parse the new limits: {err}")))?;
    let failed = |err: &(dyn std::error::Error + 'static)| {
        Failure::internal("cannot change the container's limits", err)
    };
    let process = i32::try_from(pid).map_err(|err| failed(&err))?;
    let process = Pid::from_raw(process);
    if !crate::network::is_beside_v1()? {
        // On cgroup v1 libcgroups makes the cgroups itself, whoever is asked for.
        if let Some(place) = place(folders)?.filter(|place| place.systemd) {
            update_unit(folders, &place, process, resources.clone())?;
        }
        // cgroups-rs writes shares into cpu.weight as they are.
        if let Some(cpu) = resources.cpu_mut() {
            cpu.set_shares(cpu.shares().map(weight));
        }
    }
    if let Some(pids) = resources.pids() {
        limit_pids(process, pids.limit()).map_err(|err| failed(&err))?;
    }
    resources.set_pids(None);
    let cgroup =
        get_cgroup(pid).map_err(|err| Failure::internal("cannot find the container's cgroup", &err))?;
    update_resources(&cgroup, &resources).map_err(|err| failed(&err))
}

/// The cpu.weight of cgroup v2 that is to cpu.shares of v1, from 2 to 262,144 and by default 1,024, as a weight from 1 to 10,000 is
/// to 100; 0 leaves both as they are. Source: `ConvertCPUSharesToCgroupV2Value` of opencontainers/cgroups, as libcgroups has it for
/// new containers.
fn weight(shares: u64) -> u64 {
    const MOST: u64 = 10_000;
    match u32::try_from(shares) {
        Ok(0) => 0,
        Ok(1 | 2) => 1,
        Ok(shares @ 3..262_144) => {
            let log = f64::from(shares).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            (10_f64.powf(exponent).ceil() as u64).clamp(1, MOST)
        }
        Ok(262_144..) | Err(_) => MOST,
    }
}

/// Tells systemd of the new limits of a unit that it made: it sets its own again whenever it reads its configuration anew.
fn update_unit(
    folders: &Folders,
    place: &Place,
    pid: Pid,
    mut resources: LinuxResources,
) -> Result<(), Failure> {
    let failed = |err: &(dyn std::error::Error + 'static)| {
        Failure::internal("cannot tell systemd the container's limits", err)
    };
    // libcgroups takes what an update leaves as it is, 0 or absent, for a limit.
    if resources.pids().is_some_and(|pids| pids.limit() == 0) {
        resources.set_pids(None);
    }
    if let Some(memory) = resources.memory_mut() {
        memory.set_limit(memory.limit().filter(|limit| *limit != 0));
        memory.set_reservation(memory.reservation().filter(|reservation| *reservation != 0));
        memory.set_swap(memory.swap().filter(|swap| *swap != 0));
    }
    if let Some(cpu) = resources.cpu_mut().as_mut().filter(|cpu| cpu.quota().is_none_or(|quota| quota == 0)) {
        let (quota, period) = cpu_bandwidth(pid).map_err(|err| failed(&err))?;
        cpu.set_quota(quota).set_period(Some(period));
    }
    let change = ControllerOpt {
        resources: &resources,
        disable_oom_killer: false,
        oom_score_adj: None,
        freezer_state: None,
    };
    manager(folders, place)?.apply(&change).map_err(|err| failed(&err))
}

/// How many microseconds of each period of as many a process's cgroup may run, on the v2 hierarchy; none where it may always.
fn cpu_bandwidth(pid: Pid) -> io::Result<(Option<i64>, u64)> {
    let hierarchy = Unified::find().ok_or_else(no_controller)?;
    let text = std::fs::read_to_string(hierarchy.cgroup_of(pid)?.join("cpu.max"))?;
    let odd = || io::Error::new(io::ErrorKind::InvalidData, format!("cpu.max says {text:?}"));
    let (quota, period) = text.trim().split_once(' ').ok_or_else(odd)?;
    let quota = if quota == "max" { None } else { Some(quota.parse().map_err(|_| odd())?) };
    Ok((quota, period.parse().map_err(|_| odd())?))
}

/// Limits the number of processes: 0 changes nothing, and below that is no limit, which cgroups-rs writes as a number.
fn limit_pids(pid: Pid, limit: i64) -> io::Result<()> {
    let cgroup = match v1_cgroup_of("pids", pid)? {
        Some(cgroup) => cgroup,
        None => Unified::find().ok_or_else(no_controller)?.cgroup_of(pid)?,
    };
    match limit {
        0 => Ok(()),
        1.. => std::fs::write(cgroup.join("pids.max"), limit.to_string()),
        _ => std::fs::write(cgroup.join("pids.max"), "max"),
    }
}

fn no_controller() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "no cgroup hierarchy has the controller")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_the_weights_that_runc_and_libcgroups_give_them() {
        let shares = [0, 1, 2, 3, 512, 1024, 2048, 262_143, 262_144, u64::MAX];
        assert_eq!(shares.map(weight), [0, 1, 1, 2, 59, 100, 174, 10_000, 10_000, 10_000]);
    }
}
