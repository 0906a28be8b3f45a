//! Removes a container and all that belongs to it, in the living shim or after its death.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use libcontainer::config::YoukiConfig;
use libcontainer::container::Container;
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::kill;

use crate::error::{Failure, Kind, chain};
use crate::walls::Folders;

/// How long killed processes may take to vanish.
const VANISH: Duration = Duration::from_secs(5);

/// Ends what still runs of the container; removes its cgroups, root filesystem mount and state.
///
/// # Errors
/// When something of it stays. What was gone already is no error.
pub(crate) fn remove(folders: &Folders, bundle: &Path) -> Result<(), Failure> {
    let created = created(folders);
    let init = created.as_ref().and_then(|(container, _)| container.pid());
    end(folders, init.map(|pid| pid.as_raw()))?;
    match created.filter(|(container, config)| leaves_more(container, config)) {
        Some((mut container, _)) => {
            container.delete(true).map_err(|err| Failure::internal("cannot delete the container", &err))?
        }
        None => crate::cgroup::remove(folders)?,
    }
    crate::network::remove(folders)?;
    unmount(&rootfs(bundle))?;
    folders.remove().map_err(|err| Failure::internal("cannot remove the container's state", &err))
}

/// The container and its configuration as libcontainer noted them; none where it did not get so far that it knows the
/// container's cgroups.
fn created(folders: &Folders) -> Option<(Container, YoukiConfig)> {
    let state = folders.oci_state();
    if !state.exists() {
        return None;
    }
    let loaded = Container::load(state).and_then(|container| {
        let config = container.spec()?;
        Ok((container, config))
    });
    loaded
        .inspect_err(|err| tracing::warn!(error = %chain(err), "removing a container that was half created"))
        .ok()
}

/// Whether libcontainer has more to do at a container's end than to remove its cgroups: hooks to run, Intel's resource groups.
fn leaves_more(container: &Container, config: &YoukiConfig) -> bool {
    let no_hooks = config.hooks.as_ref().is_none_or(|hooks| hooks.poststop().is_none());
    let no_groups = container.intel_rdt_dir().is_none()
        && container.intel_rdt_monitoring_dir().is_none()
        && container.clean_up_intel_rdt_subdirectory() != Some(true);
    !(no_hooks && no_groups)
}

/// Kills the container's processes and waits until they are gone, so that its cgroup can be removed.
fn end(folders: &Folders, init: Option<i32>) -> Result<(), Failure> {
    let deadline = Instant::now() + VANISH;
    let mut thawed = false;
    loop {
        let mut alive = crate::cgroup::pids(folders)?;
        alive.extend(init.filter(|pid| runs(*pid)));
        if alive.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Failure::new(
                Kind::Internal,
                format!("processes {alive:?} of the container do not end"),
            ));
        }
        if !std::mem::replace(&mut thawed, true) {
            crate::cgroup::thaw(folders)?;
        }
        for pid in alive {
            match sandbox::process::signal(
                nix::unistd::Pid::from_raw(pid),
                nix::sys::signal::Signal::SIGKILL as i32,
            ) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(errno) => return Err(Failure::internal("cannot kill the container's processes", &errno)),
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a process is there and no zombie.
fn runs(pid: i32) -> bool {
    kill(nix::unistd::Pid::from_raw(pid), None).is_ok()
        && std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
            stat.rsplit(')').next().is_some_and(|rest| !rest.trim_start().starts_with(['Z', 'X']))
        })
}

/// Where containerd has a container's root filesystem mounted.
pub(crate) fn rootfs(bundle: &Path) -> PathBuf {
    bundle.join("rootfs")
}

/// Unmounts a root filesystem. Nothing there is no error.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn unmount(rootfs: &Path) -> Result<(), Failure> {
    loop {
        match umount2(rootfs, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            // There may be several on top of each other.
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(errno) => return Err(Failure::internal("cannot unmount the root filesystem", &errno)),
        }
    }
}
