//! What a runtime spec's process says, as every place that starts one reads it.

use std::path::Path;

use oci_spec::runtime::Process;

/// What is searched where a process has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The process's `PATH`.
pub(crate) fn search_path(process: &Process) -> &str {
    process.env().iter().flatten().find_map(|pair| pair.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH)
}

/// The program that it names, as it names it.
pub(crate) fn program(process: &Process) -> Option<&str> {
    process.args().iter().flatten().next().map(String::as_str)
}

/// Whether a cgroup path is systemd's, `slice:prefix:name`.
pub(crate) fn is_systemd_cgroup(path: &Path) -> bool {
    path.to_string_lossy().split(':').count() == 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_systemd_cgroup_has_slice_prefix_and_name() {
        for path in ["kubepods-burstable-pod1.slice:cri-containerd:abc", "system.slice:keep:abc", ":keep:abc"]
        {
            assert!(is_systemd_cgroup(Path::new(path)), "{path}");
        }
        for path in ["/kubepods/burstable/pod1/abc", "/k8s.io/abc", "abc", "/a:b/abc", "a:b:c:d", ""] {
            assert!(!is_systemd_cgroup(Path::new(path)), "{path}");
        }
    }
}
