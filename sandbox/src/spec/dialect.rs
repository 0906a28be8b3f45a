//! libcontainer's dialect of the runtime spec: what it reads otherwise than runc, or not at all, said in words that it
//! carries out as runc would.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, Spec};

use super::SpecError;
use super::mounts::{self, Propagation, has, is_bind, kind, mount};

/// A container's cgroup on one hierarchy of cgroup v1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct V1Cgroup {
    /// Name of the hierarchy's mount: its controllers, separated by commas.
    pub name: String,
    /// Folder of the container's cgroup there, which is made with the container.
    pub path: PathBuf,
}

/// Translates `spec`, to be asked last. `cgroups` are the container's cgroups where the machine's are v1, and none where they
/// are v2.
///
/// - `linux.rootfsPropagation`: libcontainer knows no names that begin with `r`, and takes all of them for recursive. It gives no
///   mount a propagation of its own: where none asks for another, all are private. Others are for [`stage`](super::stage()).
/// - A mount of type `cgroup` on v1: libcontainer looks for the cgroups of a process that it takes for another where
///   process namespaces are shared, and leaves them writable.
///
/// # Errors
/// When a volume is to lie over `/dev`, unless [`defer_devices`](super::defer_devices) took it out: libcontainer would make its devices and
/// links in it, and replace what is there, which may be the machine's own.
pub fn translate(spec: &mut Spec, cgroups: &[V1Cgroup]) -> Result<(), SpecError> {
    let mut mounts = spec.mounts().iter().flatten();
    if mounts.any(|mount| is_bind(mount) && mount.destination() == Path::new("/dev")) {
        return Err(SpecError::Devices);
    }
    let shows = spec
        .mounts()
        .iter()
        .flatten()
        .any(|mount| mounts::propagation(mount).is_some_and(|how| how != Propagation::Private));
    if let Some(linux) = spec.linux_mut() {
        let named = linux.rootfs_propagation().as_deref().map(|name| name.strip_prefix('r').unwrap_or(name));
        let known = match named {
            None if !shows => Some("private".to_owned()),
            named => named.map(str::to_owned),
        };
        linux.set_rootfs_propagation(known);
    }
    if !cgroups.is_empty() {
        bind_cgroups(spec, cgroups);
    }
    Ok(())
}

/// Binds the container's cgroups where the spec mounts those of type `cgroup`, read-only if that is.
fn bind_cgroups(spec: &mut Spec, cgroups: &[V1Cgroup]) {
    let mut read_only = Vec::new();
    let mounts = spec.mounts_mut().get_or_insert_default();
    let translated = std::mem::take(mounts).into_iter().flat_map(|original| {
        if kind(&original) != "cgroup" {
            return vec![original];
        }
        let place = original.destination().clone();
        if has(&original, "ro") {
            read_only.push(place.to_string_lossy().into_owned());
        }
        let access = if has(&original, "ro") { "ro" } else { "rw" };
        let options = ["noexec", "nosuid", "nodev", "mode=755"].map(str::to_owned).to_vec();
        let folder = mount(&place, "tmpfs", PathBuf::from("tmpfs"), options);
        std::iter::once(folder).chain(cgroups.iter().flat_map(|one| binds(&place, one, access))).collect()
    });
    *mounts = translated.collect();
    if let Some(linux) = spec.linux_mut().as_mut().filter(|_| !read_only.is_empty()) {
        // The folder that they are in, once they are.
        linux.readonly_paths_mut().get_or_insert_default().extend(read_only);
    }
}

/// One hierarchy, under its name and under that of each of its controllers.
fn binds(place: &Path, cgroup: &V1Cgroup, access: &str) -> Vec<Mount> {
    let controllers = cgroup.name.split(',').filter(|name| *name != cgroup.name);
    let names = std::iter::once(cgroup.name.as_str()).chain(controllers);
    let options = ["bind", "noexec", "nosuid", "nodev", access].map(str::to_owned).to_vec();
    names.map(|name| mount(&place.join(name), "bind", cgroup.path.clone(), options.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paths::is_beneath;

    fn translated(text: &str, cgroups: &[V1Cgroup]) -> Spec {
        let mut spec: Spec = serde_json::from_str(text).unwrap();
        translate(&mut spec, cgroups).unwrap();
        spec
    }

    const CGROUP: &str = r#"{"ociVersion":"1.1.0","linux":{"rootfsPropagation":"rslave"},"mounts":[
        {"destination":"/proc","type":"proc","source":"proc"},
        {"destination":"/sys/fs/cgroup","type":"cgroup","source":"cgroup","options":["nosuid","OPTION"]},
        {"destination":"/data","type":"bind","source":"/d","options":["rbind"]}]}"#;

    fn cgroups() -> Vec<V1Cgroup> {
        ["cpu,cpuacct", "memory"]
            .map(|name| V1Cgroup { name: name.to_owned(), path: Path::new("/cg").join(name).join("x") })
            .to_vec()
    }

    #[test]
    fn a_volume_over_dev_is_refused_and_one_in_it_is_not() {
        for (place, fine) in [("/dev", false), ("/dev/", false), ("/dev/net/tun", true)] {
            let mut spec: Spec = serde_json::from_str(&CGROUP.replace("/data", place)).unwrap();
            assert_eq!(translate(&mut spec, &[]).is_ok(), fine, "{place}");
        }
    }

    #[test]
    fn propagation_is_named_without_its_r() {
        for (named, known) in [("rslave", "slave"), ("rshared", "shared"), ("private", "private")] {
            let spec = translated(&CGROUP.replace("rslave", named), &[]);
            assert_eq!(spec.linux().as_ref().unwrap().rootfs_propagation().as_deref(), Some(known));
        }
    }

    #[test]
    fn volumes_are_private_unless_one_asks_for_another_propagation() {
        let of = |options: &str| {
            let text = CGROUP.replace(r#""rootfsPropagation":"rslave""#, "").replace(r#""rbind""#, options);
            translated(&text, &[]).linux().as_ref().unwrap().rootfs_propagation().clone()
        };
        assert_eq!(of(r#""rbind""#).as_deref(), Some("private"));
        assert_eq!(of(r#""rbind","rprivate""#).as_deref(), Some("private"));
        assert_eq!(of(r#""rbind","rslave""#), None);
    }

    #[test]
    fn a_read_only_cgroup_mount_becomes_binds_that_nobody_can_write_to() {
        let spec = translated(&CGROUP.replace("OPTION", "ro"), &cgroups());
        let mounts = spec.mounts().as_ref().unwrap();
        let places: Vec<&str> = mounts.iter().map(|mount| mount.destination().to_str().unwrap()).collect();
        let below = ["cpu,cpuacct", "cpu", "cpuacct", "memory"].map(|name| format!("/sys/fs/cgroup/{name}"));
        let expected: Vec<&str> = ["/proc", "/sys/fs/cgroup"]
            .into_iter()
            .chain(below.iter().map(String::as_str))
            .chain(["/data"])
            .collect();
        assert_eq!(places, expected);
        for mount in
            mounts.iter().filter(|mount| is_beneath(mount.destination(), Path::new("/sys/fs/cgroup"))).skip(1)
        {
            assert!(has(mount, "ro") && has(mount, "bind"), "{mount:?}");
        }
        let read_only = spec.linux().as_ref().unwrap().readonly_paths().clone().unwrap();
        assert_eq!(read_only, ["/sys/fs/cgroup"]);
    }

    #[test]
    fn a_writable_one_stays_writable_and_on_v2_it_stays_as_it_is() {
        let spec = translated(&CGROUP.replace("OPTION", "rw"), &cgroups());
        assert!(has(spec.mounts().as_ref().unwrap().get(2).unwrap(), "rw"));
        assert!(
            spec.linux()
                .as_ref()
                .unwrap()
                .readonly_paths()
                .iter()
                .flatten()
                .all(|path| !path.contains("cgroup"))
        );
        let spec = translated(CGROUP, &[]);
        assert_eq!(kind(spec.mounts().as_ref().unwrap().get(1).unwrap()), "cgroup");
    }
}
