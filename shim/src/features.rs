//! What Keep does of the OCI runtime spec, as `runc features` says it for runc: containerd tells Kubernetes from it which pods a
//! handler can take.
//! Source: opencontainers/runtime-spec, features.md.

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use serde_json::{Value, json};

/// The type by which containerd knows the document.
/// Source: containerd, core/runtime/typeurl.go.
const TYPE_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// Mount options that are no data of a file system.
const MOUNT_OPTIONS: &[&str] = &[
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "mand",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "private",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "remount",
    "rexec",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnorelatime",
    "rnostrictatime",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rrelatime",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "rstrictatime",
    "rsuid",
    "rsymfollow",
    "runbindable",
    "rw",
    "shared",
    "slave",
    "strictatime",
    "suid",
    "sync",
    "unbindable",
];

/// The document, in the message that containerd takes.
///
/// # Errors
/// None that can be met: JSON of strings is written.
pub(crate) fn encoded() -> serde_json::Result<Any> {
    Ok(Any { type_url: TYPE_URL.to_owned(), value: serde_json::to_vec(&document())?, ..Any::default() })
}

fn document() -> Value {
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.2.0",
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": MOUNT_OPTIONS,
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "user", "uts"],
            "cgroup": { "v1": true, "v2": true, "systemd": true, "systemdUser": false },
            "seccomp": {
                "enabled": true,
                "actions": [
                    "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
                    "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_TRAP",
                ],
                "operators": [
                    "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT",
                    "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE",
                ],
            },
            "apparmor": { "enabled": true },
            "selinux": { "enabled": false },
            // Ours: libcontainer takes the options `idmap` and `ridmap` and does nothing for them.
            "mountExtensions": { "idmap": { "enabled": true } },
        },
        "annotations": { "dev.keep.version": env!("CARGO_PKG_VERSION") },
    })
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use libcontainer::syscall::linux::{MountOption, MountRecursive};
    use profiles::plan::{Arch, seccomp_from_oci};

    use super::*;

    #[test]
    fn libcontainer_takes_every_mount_option() {
        for option in MOUNT_OPTIONS {
            let known = MountOption::from_str(option).is_ok() || MountRecursive::from_str(option).is_ok();
            assert!(known, "{option}");
        }
    }

    #[test]
    fn every_seccomp_action_and_operator_becomes_a_filter() {
        let document = document();
        let list = |name: &str| document["linux"]["seccomp"][name].as_array().unwrap().clone();
        for action in list("actions") {
            for op in list("operators") {
                let profile = json!({ "defaultAction": action, "syscalls": [
                    { "names": ["read"], "action": "SCMP_ACT_ERRNO", "args": [{ "index": 0, "value": 1, "op": op }] },
                ]});
                seccomp_from_oci(&profile.to_string(), Arch::X86_64).unwrap();
            }
        }
    }
}
