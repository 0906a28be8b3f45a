//! The mounts that a runtime spec brings.

use std::fs::File;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;
use profiles::Plan;
use profiles::intent::AbsPath;

use crate::floor;
use crate::header::{self, Kind};
use crate::paths::is_beneath;

/// Files that the runtime mounts for name look-ups; nothing in the container has reason to write them.
const NAME_FILES: [&str; 3] = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"];

/// File systems of the kernel's own, whose options the runtime spec already sets.
const KERNEL_TYPES: [&str; 6] = ["proc", "sysfs", "cgroup", "cgroup2", "devpts", "securityfs"];

/// Where Kubernetes reads a container's last words from.
const TERMINATION_LOG: &str = "/dev/termination-log";

/// POSIX shared memory, a pod's containers' own or shared.
const SHARED_MEMORY: &str = "/dev/shm";

/// Takes from every mount what nobody declared: executing, and if it is writable set-user-id and devices. A single file
/// that is a library, mounted read-only, stays executable: that is how a node brings the libraries of its devices.
pub(super) fn narrow(mounts: &mut [Mount], plan: &Plan) {
    for mount in mounts {
        let destination = mount.destination().clone();
        if KERNEL_TYPES.contains(&kind(mount)) {
            continue;
        }
        if is_bind(mount) && NAME_FILES.iter().any(|file| destination == Path::new(file)) {
            set(mount, "ro", &["rw"]);
        }
        if is_kept_from_writing(mount, plan) {
            set(mount, "ro", &["rw"]);
            if has(mount, "rbind") {
                set(mount, "rro", &[]);
            }
        }
        let read_only = is_read_only(mount);
        if read_only && plan.programs.is_none() {
            continue;
        }
        let keeps_exec = is_bind(mount)
            && (programs(plan).any(|p| is_beneath(p, &destination)) || read_only && is_library(mount));
        let recursive = has(mount, "rbind");
        if !keeps_exec {
            set(mount, "noexec", &["exec", "rexec"]);
            if recursive {
                // Mounts beneath the volume's source come along with it.
                set(mount, "rnoexec", &[]);
            }
        }
        if read_only {
            continue;
        }
        set(mount, "nosuid", &["suid", "rsuid"]);
        // The runtime makes the container's few devices in /dev.
        if destination != Path::new("/dev") {
            set(mount, "nodev", &["dev", "rdev"]);
        }
        if recursive {
            for option in ["rnosuid", "rnodev"] {
                set(mount, option, &[]);
            }
        }
    }
}

/// Whether its source is a shared library. What cannot be read is none.
fn is_library(mount: &Mount) -> bool {
    let Some(source) = mount.source().as_ref().filter(|source| source.is_file()) else { return false };
    File::open(source).and_then(|file| header::kind(&file)).is_ok_and(|kind| kind == Kind::Library)
}

fn programs(plan: &Plan) -> impl Iterator<Item = &Path> {
    let entrypoint = plan.entrypoint.as_deref().filter(|path| path.starts_with('/'));
    let declared = plan.programs.iter().flatten().map(AbsPath::as_str);
    declared.chain(entrypoint).map(Path::new)
}

/// Whether the deployer mounted something here to be written.
pub(super) fn is_writable_volume(mount: &Mount) -> bool {
    let path = mount.destination();
    let of_the_runtime =
        NAME_FILES.iter().any(|file| path == Path::new(file)) || is_in_folder_of_the_kernel(path);
    is_bind(mount) && !is_read_only(mount) && (!of_the_runtime || path == Path::new(TERMINATION_LOG))
}

fn is_in_folder_of_the_kernel(path: &Path) -> bool {
    ["/dev", "/proc", "/sys"].iter().any(|folder| is_beneath(path, Path::new(folder)))
}

/// Whether it holds files, perhaps of the pod's other containers in /dev/shm, and Landlock grants no writing there: it has
/// nothing to say of modes, owners and times, and is not asked of truncation (see [`crate::enforce`]).
fn is_kept_from_writing(mount: &Mount, plan: &Plan) -> bool {
    let (Some(write), path) = (&plan.write, mount.destination().as_path()) else { return false };
    let shared_memory = is_tmpfs(mount) && path == Path::new(SHARED_MEMORY);
    let holds_files = shared_memory || is_bind(mount) && is_in_folder_of_the_kernel(path);
    let granted = |place: &str| is_beneath(Path::new(place), path) || is_beneath(path, Path::new(place));
    holds_files && !write.iter().any(|place| granted(place.as_str())) && !floor::paths(plan).any(granted)
}

/// Folders that the kubelet fills itself, beneath a pod's own: nobody makes a socket there.
const KUBELET_FILLS: [&str; 4] = [
    "kubernetes.io~configmap",
    "kubernetes.io~downward-api",
    "kubernetes.io~projected",
    "kubernetes.io~secret",
];

/// Whether another than the container may make unix sockets in what is mounted: in a folder of the node's. A pod's /dev/shm is
/// its containers' alone.
pub(super) fn may_hold_sockets(mount: &Mount) -> bool {
    let Some(source) = mount.source().as_ref().filter(|_| is_bind(mount)) else { return false };
    let of_the_pod = mount.destination() == Path::new(SHARED_MEMORY) && source != Path::new(SHARED_MEMORY);
    let of_the_kubelet =
        is_read_only(mount) && source.iter().any(|part| KUBELET_FILLS.iter().any(|folder| part == *folder));
    !of_the_pod && !of_the_kubelet && !source.is_file()
}

pub(super) fn is_bind(mount: &Mount) -> bool {
    kind(mount) == "bind" || has(mount, "bind") || has(mount, "rbind")
}

/// Which later mounts a mount shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Propagation {
    /// None.
    Private,
    /// Those of the machine.
    Slave,
    /// Those of the machine, and the machine those of the container.
    Shared,
}

/// What a mount asks for; the last counts.
pub(super) fn propagation(mount: &Mount) -> Option<Propagation> {
    mount.options().iter().flatten().rev().find_map(|option| match option.as_str() {
        "private" | "rprivate" => Some(Propagation::Private),
        "slave" | "rslave" => Some(Propagation::Slave),
        "shared" | "rshared" => Some(Propagation::Shared),
        _ => None,
    })
}

pub(super) fn is_tmpfs(mount: &Mount) -> bool {
    kind(mount) == "tmpfs" && !is_bind(mount)
}

/// The last of `ro` and `rw` counts.
pub(super) fn is_read_only(mount: &Mount) -> bool {
    let options = mount.options().iter().flatten().rev();
    options
        .into_iter()
        .find(|option| ["ro", "rro", "rw"].contains(&option.as_str()))
        .is_some_and(|o| o != "rw")
}

pub(super) fn kind(mount: &Mount) -> &str {
    mount.typ().as_deref().unwrap_or_default()
}

pub(super) fn has(mount: &Mount, option: &str) -> bool {
    mount.options().iter().flatten().any(|have| have == option)
}

pub(super) fn set(mount: &mut Mount, option: &str, instead_of: &[&str]) {
    let options = mount.options_mut().get_or_insert_default();
    options.retain(|have| !instead_of.contains(&have.as_str()));
    if !options.iter().any(|have| have == option) {
        options.push(option.to_owned());
    }
}

/// A mount of our own.
pub(super) fn mount(destination: &Path, kind: &str, source: PathBuf, options: Vec<String>) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(destination.to_owned())
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(source))
        .set_options(Some(options));
    mount
}
