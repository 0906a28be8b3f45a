//! A container's metrics, as containerd's own messages for cgroup v1 and v2, with the fields that containerd-shim-runc-v2 fills.

mod v1;
mod v2;

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use containerd_shim_protos::protobuf::Message;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::error::{Failure, Kind};
use crate::events::type_url;

/// An encoded message and its type, for an `Any`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Encoded {
    pub(crate) type_url: String,
    pub(crate) value: Vec<u8>,
}

/// Metrics of the cgroup that process `pid` is in.
///
/// # Errors
/// When the process is gone, or its cgroup cannot be read.
pub(crate) fn of(pid: i32) -> Result<Encoded, Failure> {
    if !Path::new(&format!("/proc/{pid}")).exists() {
        return Err(Failure::new(
            Kind::NotFound,
            "the container's process has ended, and its metrics with it",
        ));
    }
    let failed = |err: &(dyn std::error::Error + 'static)| {
        Failure::internal("cannot read the container's metrics", err)
    };
    match v1::collect(Pid::from_raw(pid)).map_err(|err| failed(&err))? {
        Some(metrics) => encode(&metrics, v1::PACKAGE),
        None => encode(&v2::collect(pid).map_err(|err| failed(err.as_ref()))?, v2::PACKAGE),
    }
}

fn encode<M: Message>(message: &M, package: &str) -> Result<Encoded, Failure> {
    let value = message.write_to_bytes().map_err(|err| Failure::internal("cannot encode metrics", &err))?;
    Ok(Encoded { type_url: type_url::<M>(package), value })
}

/// The number that a file of a cgroup holds; `max` is the greatest, and no such file 0.
fn number(cgroup: &Path, name: &str) -> u64 {
    let text = fs::read_to_string(cgroup.join(name)).unwrap_or_default();
    match text.trim() {
        "max" => u64::MAX,
        text => text.parse().unwrap_or_default(),
    }
}

/// The `key number` lines of a file of a cgroup.
fn table(cgroup: &Path, name: &str) -> HashMap<String, u64> {
    let text = fs::read_to_string(cgroup.join(name)).unwrap_or_default();
    let line = |line: &str| {
        let (key, value) = line.split_once(' ')?;
        Some((key.to_owned(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

/// Sizes of huge pages that a cgroup counts: what stands between `hugetlb.` and `suffix` in its files' names.
fn huge_page_sizes(cgroup: &Path, suffix: &str) -> Vec<String> {
    let entries = fs::read_dir(cgroup).into_iter().flatten().flatten();
    let size = |name: String| Some(name.strip_prefix("hugetlb.")?.strip_suffix(suffix)?.to_owned());
    let mut sizes: Vec<String> =
        entries.filter_map(|entry| size(entry.file_name().into_string().ok()?)).collect();
    sizes.retain(|size| !size.contains('.'));
    sizes.sort();
    sizes
}

#[cfg(test)]
mod tests {
    use containerd_shim_protos::protobuf::MessageFull;
    use containerd_shim_protos::{cgroups, cgroups_v2};

    use super::*;

    #[test]
    fn metrics_are_named_as_their_descriptors_name_them() {
        type One = cgroups::metrics::Metrics;
        type Two = cgroups_v2::metrics::Metrics;
        assert_eq!(type_url::<One>(v1::PACKAGE), One::descriptor().full_name());
        assert_eq!(type_url::<Two>(v2::PACKAGE), Two::descriptor().full_name());
    }
}
