//! A volume over `/dev`. libcontainer would make its devices and links in the volume, which may be the machine's own `/dev`: it is
//! given an empty one for them, and the volume is put over it when they are made, as runc does that makes none then.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use oci_spec::runtime::{Hook, Spec};
use rustix::mount::{MoveMountFlags, move_mount};

use super::mounts::{is_bind, is_read_only, mount};
use super::write_paths::make_place;
use crate::idmap::copy;
use crate::mountinfo;
use crate::paths::Root;
use crate::sys::mounts::{propagate, set_read_only};

/// Where devices are.
const DEVICES: &str = "/dev";

/// Word by which a runtime is asked to [`cover_devices`].
pub const COVER: &str = "cover-devices";

/// Takes a volume over `/dev` out of `spec` and has this program put it there, by [`cover_devices`], before the container's own starts;
/// `rootfs` is where the image is mounted.
pub fn defer_devices(spec: &mut Spec, rootfs: &Path) {
    let mounts = spec.mounts_mut().get_or_insert_default();
    let volume = mounts.iter_mut().find(|one| is_bind(one) && one.destination() == Path::new(DEVICES));
    let Some(volume) = volume else { return };
    let source = volume.source().clone().unwrap_or_default();
    let access = if is_read_only(volume) { "ro" } else { "rw" };
    let options = ["nosuid", "strictatime", "mode=755"].map(str::to_owned).to_vec();
    *volume = mount(Path::new(DEVICES), "tmpfs", PathBuf::from("tmpfs"), options);
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let words = ["keep".to_owned(), COVER.to_owned(), text(rootfs), text(&source), access.to_owned()];
    let mut hook = Hook::default();
    hook.set_path(PathBuf::from("/proc/self/exe")).set_args(Some(words.to_vec())).set_env(Some(Vec::new()));
    let hooks = spec.hooks_mut().get_or_insert_default();
    hooks.create_container_mut().get_or_insert_default().push(hook);
}

/// Puts the folder `source` over `/dev` of the container whose image is mounted at `rootfs`, with what the spec mounts in it on top.
/// To be called in the container's mount namespace.
///
/// # Errors
/// When the kernel refuses, or what is mounted in it has no place there and none can be made.
pub fn cover_devices(rootfs: &Path, source: &Path, read_only: bool) -> io::Result<()> {
    let root = Root::open(rootfs)?;
    let devices = root.path().join("dev");
    let table = mountinfo::table()?;
    let mut beneath = Vec::new();
    for point in mountinfo::points(&table).filter(|point| point.starts_with(&devices)) {
        if point == devices {
            // It hides what came before it.
            beneath.clear();
        } else {
            beneath.push(point);
        }
    }
    let trees: Vec<OwnedFd> = beneath.iter().map(|point| copy(point)).collect::<io::Result<_>>()?;
    let volume = copy(source)?;
    propagate(volume.as_fd(), libc::MS_PRIVATE)?;
    put(&root, Path::new(DEVICES), &volume)?;
    for (point, tree) in beneath.iter().zip(&trees) {
        let inside = Path::new("/").join(point.strip_prefix(root.path()).map_err(io::Error::other)?);
        if matches!(root.look(&inside), Err(Errno::ENOENT)) {
            let is_file = !File::from(tree.try_clone()?).metadata()?.is_dir();
            make_place(&root, &inside, is_file)?;
        }
        put(&root, &inside, tree)?;
    }
    // Last: it may have lacked places.
    if read_only { set_read_only(root.look(DEVICES)?.fd.as_fd()) } else { Ok(()) }
}

fn put(root: &Root, place: &Path, tree: &OwnedFd) -> io::Result<()> {
    let both = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(tree, "", &root.look(place)?.fd, "", both)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deferred(options: &str) -> Spec {
        let text = r#"{"ociVersion":"1.1.0","mounts":[{"destination":"/dev","type":"bind","source":"/dev","options":[OPTIONS]},
            {"destination":"/dev/shm","type":"tmpfs","source":"shm"}]}"#;
        let mut spec: Spec = serde_json::from_str(&text.replace("OPTIONS", options)).unwrap();
        defer_devices(&mut spec, Path::new("/b/rootfs"));
        spec
    }

    fn hook(spec: &Spec) -> &Hook {
        spec.hooks().as_ref().unwrap().create_container().as_ref().unwrap().first().unwrap()
    }

    #[test]
    fn a_volume_over_dev_is_put_there_by_a_hook() {
        let spec = deferred(r#""rbind","rw""#);
        let mounts = spec.mounts().as_ref().unwrap();
        assert_eq!(mounts[0].typ().as_deref(), Some("tmpfs"));
        assert!(!is_bind(&mounts[0]) && mounts[1].destination() == Path::new("/dev/shm"));
        assert_eq!(hook(&spec).args().as_ref().unwrap()[1..], [COVER, "/b/rootfs", "/dev", "rw"]);
        let read_only = deferred(r#""rbind","ro""#);
        assert_eq!(hook(&read_only).args().as_ref().unwrap().last().unwrap(), "ro");
    }

    #[test]
    fn what_is_no_volume_over_dev_stays() {
        let mut spec: Spec = serde_json::from_str(r#"{"ociVersion":"1.1.0","mounts":[
            {"destination":"/dev","type":"tmpfs","source":"tmpfs"},{"destination":"/dev/net","source":"/x","options":["rbind"]}]}"#).unwrap();
        let before = spec.clone();
        defer_devices(&mut spec, Path::new("/r"));
        assert_eq!(spec, before);
    }
}
