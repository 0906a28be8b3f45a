//! Prepares what a spec binds where libcontainer does not do it: with owners mapped, or with a propagation of its own; for a
//! container with users of its own also where its superuser, who is nobody to the machine, can reach it.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use oci_spec::runtime::{LinuxNamespaceType, Mount, Spec};

use super::SpecError;
use super::mounts::{Propagation, is_bind, propagation};
use crate::idmap::{Depth, IdMap, IdRange, attach, copy};
use crate::mountinfo;
use crate::sys::mounts::propagate;

/// Options of a mount that ask for mapped owners: of itself, and of those beneath too.
const OPTIONS: [&str; 2] = ["idmap", "ridmap"];

/// Where a container's cgroups are bound from on v1, which everybody may enter.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Stages the sources of all binds but those of the image itself, mounted at `rootfs`, in the new folder `stage`, in a mount
/// namespace that this process enters for good and its children share. To be asked after [`translate`](super::translate()); does nothing for a
/// container with the machine's users whose volumes are all of one propagation.
///
/// # Errors
/// With the source that cannot be staged.
pub fn stage(spec: &mut Spec, stage: &Path, rootfs: &Path) -> Result<(), SpecError> {
    if !has_users(spec) && !is_mixed(spec) {
        return Ok(());
    }
    let failed = |path: &Path, source| SpecError::Stage { path: path.to_owned(), source };
    open(stage).map_err(|error| failed(stage, error))?;
    for (index, mount) in spec.mounts_mut().iter_mut().flatten().enumerate() {
        let Some(source) = mount.source().clone().filter(|_| is_bind(mount)) else { continue };
        if source.starts_with(rootfs) || source.starts_with(CGROUPS) {
            continue;
        }
        let place = stage.join(index.to_string());
        put(mount, &source, &place).map_err(|error| failed(&source, error))?;
        mount.set_source(Some(place)).set_uid_mappings(None).set_gid_mappings(None);
        if let Some(options) = mount.options_mut() {
            options.retain(|option| !OPTIONS.contains(&option.as_str()));
        }
    }
    Ok(())
}

/// Whether the container's users are its own: it has, or joins, a user namespace.
#[must_use]
pub fn has_users(spec: &Spec) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    namespaces.into_iter().flatten().any(|one| one.typ() == LinuxNamespaceType::User)
}

/// Whether a volume is to show less than what the container's root lets all of them show.
fn is_mixed(spec: &Spec) -> bool {
    let root = spec.linux().as_ref().and_then(|linux| linux.rootfs_propagation().as_deref());
    let asked = || spec.mounts().iter().flatten().filter(|mount| is_bind(mount)).filter_map(propagation);
    match root {
        Some("shared") => asked().any(|how| how != Propagation::Shared),
        Some("private") => false,
        _ => asked().any(|how| how == Propagation::Private),
    }
}

fn put(mount: &Mount, source: &Path, place: &Path) -> io::Result<()> {
    let tree = mapped(mount, source)?;
    match propagation(mount) {
        Some(Propagation::Private) => propagate(tree.as_fd(), libc::MS_PRIVATE)?,
        Some(Propagation::Slave) => propagate(tree.as_fd(), libc::MS_SLAVE)?,
        Some(Propagation::Shared) | None => {}
    }
    if fs::metadata(source)?.is_dir() {
        fs::create_dir(place)?;
    } else {
        File::create(place)?;
    }
    attach(&tree, place)
}

fn mapped(mount: &Mount, source: &Path) -> io::Result<OwnedFd> {
    let (users, groups) = (mount.uid_mappings().as_ref(), mount.gid_mappings().as_ref());
    let (users, groups) = (IdRange::all(users), IdRange::all(groups));
    if users.is_empty() && groups.is_empty() {
        return copy(source);
    }
    let depth = match mount.options().iter().flatten().any(|option| option == "ridmap") {
        true => Depth::All,
        false => Depth::Top,
    };
    IdMap::new(&users, &groups)?.copy(source, depth)
}

/// An empty file system on the new folder `stage`, which only this process's mount namespace has from now on.
fn open(stage: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o711).create(stage)?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    // Not of all mounts: volumes may be such that what the container mounts shows on the machine.
    let point = mountinfo::point_of(&mountinfo::table()?, stage);
    mount(none, &point, none, MsFlags::MS_SLAVE, none)?;
    mount(Some("tmpfs"), stage, Some("tmpfs"), MsFlags::empty(), Some("mode=711"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_with_the_machine_s_users_keeps_its_mounts() {
        let text = r#"{"ociVersion":"1.1.0","linux":{"namespaces":[{"type":"pid"}]},
            "mounts":[{"destination":"/x","source":"/y","options":["rbind"]}]}"#;
        let mut spec: Spec = serde_json::from_str(text).unwrap();
        assert!(!is_mixed(&spec) && !has_users(&spec));
        let before = spec.clone();
        stage(&mut spec, Path::new("/nonexistent/stage"), Path::new("/rootfs")).unwrap();
        assert_eq!(spec, before);
    }

    #[test]
    fn volumes_of_several_propagations_are_staged() {
        let mixed = |root: &str, options: &str| {
            let text = format!(
                r#"{{"ociVersion":"1.1.0","linux":{{"rootfsPropagation":"{root}"}},"mounts":[
                {{"destination":"/x","source":"/y","options":["rbind","{options}"]}},
                {{"destination":"/z","source":"/z","options":["rbind","rshared"]}}]}}"#
            );
            is_mixed(&serde_json::from_str(&text).unwrap())
        };
        assert!(mixed("shared", "rslave") && mixed("shared", "rprivate") && mixed("slave", "rprivate"));
        assert!(!mixed("shared", "rshared") && !mixed("slave", "rslave") && !mixed("private", "rprivate"));
    }
}
