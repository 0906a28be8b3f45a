//! Hardens an OCI runtime spec on the host, before the container exists.

mod devices;
mod dialect;
mod executable;
mod mounts;
mod stage;
#[cfg(test)]
mod tests;
mod write_paths;

use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Capabilities, LinuxCapabilities, Mount, Process, Spec};
use profiles::Plan;
use profiles::plan::Gap;
use profiles::policy::Mode;

pub use devices::{COVER, cover_devices, defer_devices};
pub use dialect::{V1Cgroup, translate};
pub use stage::{has_users, stage};

use crate::executables::Executables;
use crate::idmap;
use crate::paths::Root;
use crate::programs::ResolvedPrograms;

/// Why a spec cannot be hardened.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// The spec lacks a part that every Linux container has.
    #[error("runtime spec has no {0}")]
    Missing(&'static str),
    /// The image's root cannot be opened.
    #[error("cannot open the image's root {path}")]
    Root {
        /// The root.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// A write path cannot be made or opened.
    #[error("cannot prepare write path {path}")]
    WritePath {
        /// As declared.
        path: String,
        /// Cause.
        source: io::Error,
    },
    /// A write path has a name that a mount cannot have.
    #[error("write path {0} leads to a path that is no text, or out of the image")]
    WritePathName(String),
    /// A write path leads where the policy leaves nothing to write.
    #[error("write path {path} leads to {real} in this image, which its policy does not leave to an image")]
    WritePathBounds {
        /// As declared.
        path: String,
        /// Symlinks followed.
        real: PathBuf,
    },
    /// A place for a mount beneath one of the image's own cannot be made.
    #[error("cannot make {path} in the image, for what is mounted there")]
    Place {
        /// In the image.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// A volume that would lie over the container's devices.
    #[error(
        "a volume over /dev cannot be mounted under Keep: mount the devices that are needed one by one, or name them as devices"
    )]
    Devices,
    /// What a container with users of its own binds cannot be put where it reaches it.
    #[error("cannot mount {path} for a pod with users of its own")]
    Stage {
        /// The bind's source.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// The working directory is not in the image and cannot be made, or is no folder.
    #[error("cannot use {path} in the image as working directory")]
    WorkingFolder {
        /// As the spec names it.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// `linux.seccomp` cannot be turned into JSON.
    #[error("cannot serialise the runtime spec's seccomp profile")]
    Seccomp(#[source] serde_json::Error),
}

/// The programs of an image, for [`harden`].
#[derive(Debug, Clone, Copy)]
pub struct ImagePrograms<'a> {
    /// The declared ones.
    pub declared: &'a ResolvedPrograms,
    /// All that could be mapped executable, where the plan asks for them ([`covers`]); or why they are not known.
    pub all: Result<&'a Executables, &'a Gap>,
}

/// Narrows `spec` to `plan`; `rootfs` is where the image is mounted, writable; `empty` is a file of mode 000 to hide others with.
///
/// Root read-only, each write path a mount of its own (made for the container's user where the image lacks it), every
/// writable mount `noexec,nosuid,nodev`, the image `noexec` but for its libraries and the declared programs, hidden files
/// masked, the process as by [`harden_process`]. A plan in audit mode, or without a wall, leaves that part of the spec
/// as it is. `linux.seccomp` stays: see [`take_seccomp`]. Gives why the image was left executable, if it was.
///
/// # Errors
/// When the spec lacks its process or root, or a write path or a mount's place in the image cannot be prepared.
pub fn harden(
    spec: &mut Spec,
    plan: &Plan,
    programs: ImagePrograms<'_>,
    rootfs: &Path,
    empty: &Path,
) -> Result<Option<Gap>, SpecError> {
    let process = spec.process_mut().as_mut().ok_or(SpecError::Missing("process"))?;
    harden_process(process, plan);
    let inside = (process.user().uid(), process.user().gid());
    let owner = write_paths::Owner { outside: owner(spec), inside };
    if plan.mode == Mode::Audit {
        return Ok(None);
    }
    let root = Root::open(rootfs).map_err(|source| SpecError::Root { path: rootfs.to_owned(), source })?;
    if let Some(write) = &plan.write {
        let mut list = spec.mounts().clone().unwrap_or_default();
        mounts::narrow(&mut list, plan);
        write_paths::add(&mut list, write, &plan.write_bounds, &root, owner)?;
        spec.set_mounts(Some(list));
        // Who may write everywhere needs a writable root.
        if !write.iter().any(|path| path.as_str() == "/") {
            spec.root_mut().as_mut().ok_or(SpecError::Missing("root"))?.set_readonly(Some(true));
        }
    }
    let gap = cover(spec, plan, programs, &root)?;
    hide(spec, plan, &root, empty);
    Ok(gap)
}

/// User and group of the container's process, by the machine's count.
#[must_use]
pub fn owner(spec: &Spec) -> (u32, u32) {
    let Some(user) = spec.process().as_ref().map(Process::user) else { return (0, 0) };
    let linux = spec.linux().as_ref();
    let users = linux.and_then(|linux| linux.uid_mappings().as_ref());
    let groups = linux.and_then(|linux| linux.gid_mappings().as_ref());
    (idmap::outside(users, user.uid()), idmap::outside(groups, user.gid()))
}

/// Whether [`harden`] asks for all programs and libraries of the image under `plan`. Who may write everywhere may replace
/// the declared programs too: the image is left as it is then.
#[must_use]
pub fn covers(plan: &Plan) -> bool {
    let writes_all = plan.write.iter().flatten().any(|path| path.as_str() == "/");
    plan.mode == Mode::Enforce && plan.programs.is_some() && !writes_all
}

fn cover(
    spec: &mut Spec,
    plan: &Plan,
    programs: ImagePrograms<'_>,
    root: &Root,
) -> Result<Option<Gap>, SpecError> {
    let all = match programs.all {
        _ if !covers(plan) => return Ok(None),
        Ok(all) => all,
        Err(gap) => return Ok(Some(gap.clone())),
    };
    let readonly = spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or_default();
    let mounts = spec.mounts_mut().get_or_insert_default();
    executable::add(mounts, programs.declared, all, root, readonly)
        .map_err(|(path, source)| SpecError::Place { path, source })
}

/// Narrows one process, the container's own or an exec's: `no_new_privileges`, and each capability set to what the
/// process's bounding set and the plan both have; ambient too, so that a user other than root really has them.
pub fn harden_process(process: &mut Process, plan: &Plan) {
    if plan.no_new_privileges {
        process.set_no_new_privileges(Some(true));
    }
    if plan.mode == Mode::Audit {
        return;
    }
    if let Some(granted) = &plan.capabilities {
        let bounding = process.capabilities().as_ref().and_then(|sets| sets.bounding().as_ref());
        let name = |capability: &oci_spec::runtime::Capability| capability.to_string();
        let left: Capabilities = bounding
            .into_iter()
            .flatten()
            .filter(|capability| granted.iter().any(|have| have.as_str() == name(capability)))
            .copied()
            .collect();
        let mut sets = LinuxCapabilities::default();
        sets.set_bounding(Some(left.clone()))
            .set_effective(Some(left.clone()))
            .set_inheritable(Some(left.clone()))
            .set_permitted(Some(left.clone()))
            .set_ambient(Some(left));
        process.set_capabilities(Some(sets));
    }
}

/// Makes the process's working directory in the image mounted at `rootfs`, as far as it lacks, for the superuser: as runc
/// does. To be asked after [`harden`], which makes write paths for the container's user.
///
/// # Errors
/// When it cannot be made, or is something else than a folder.
pub fn make_working_folder(spec: &Spec, rootfs: &Path) -> Result<(), SpecError> {
    let Some(path) = spec.process().as_ref().map(Process::cwd) else { return Ok(()) };
    let made = Root::open(rootfs).and_then(|root| {
        write_paths::make_place(&root, path, false)?;
        match root.look(path)?.is_directory() {
            true => Ok(()),
            false => Err(io::ErrorKind::NotADirectory.into()),
        }
    });
    made.map_err(|source| SpecError::WorkingFolder { path: path.clone(), source })
}

/// Destinations of the volumes that the deployer mounted read-write. To be asked before [`harden`], which adds mounts
/// of its own.
#[must_use]
pub fn writable_volumes(spec: &Spec, plan: &Plan) -> Vec<PathBuf> {
    let all = spec.mounts().iter().flatten();
    let volumes = all.filter(|mount| mounts::is_writable_volume(mount)).map(|mount| mount.destination());
    let declared =
        |path: &PathBuf| plan.write.iter().flatten().any(|write| Path::new(write.as_str()) == path.as_path());
    volumes.filter(|path| !declared(path)).cloned().collect()
}

/// Whether something is mounted in which another than the container may make unix sockets.
#[must_use]
pub fn may_hold_sockets(spec: &Spec) -> bool {
    spec.mounts().iter().flatten().any(mounts::may_hold_sockets)
}

/// Takes the pod's own seccomp profile out of the spec, as JSON: our filters are loaded by [`crate::enforce`].
///
/// # Errors
/// When it cannot be serialised.
pub fn take_seccomp(spec: &mut Spec) -> Result<Option<String>, SpecError> {
    let taken = spec.linux_mut().as_mut().and_then(|linux| linux.seccomp_mut().take());
    taken.map(|profile| serde_json::to_string(&profile).map_err(SpecError::Seccomp)).transpose()
}

/// Hides the plan's hidden files, those that the image has, beneath `empty`. Read-only, as it is one file for all of them.
fn hide(spec: &mut Spec, plan: &Plan, root: &Root, empty: &Path) {
    let there = plan.hidden.iter().filter(|path| root.look(path.as_str()).is_ok());
    let mounts = spec.mounts_mut().get_or_insert_default();
    for path in there {
        let mut mount = Mount::default();
        mount
            .set_destination(PathBuf::from(path.as_str()))
            .set_typ(Some("bind".to_owned()))
            .set_source(Some(empty.to_owned()))
            .set_options(Some(["bind", "ro", "nosuid", "nodev", "noexec"].map(str::to_owned).to_vec()));
        mounts.push(mount);
    }
}
