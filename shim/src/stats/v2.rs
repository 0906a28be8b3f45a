//! Metrics on cgroup v2.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use containerd_shim::cgroup::{collect_metrics_v2, get_cgroup, get_cgroups_v2_path_by_pid};
use containerd_shim_protos::cgroups_v2::metrics::{HugeTlbStat, IOEntry, IOStat, Metrics, PSIData, PSIStats};
use containerd_shim_protos::protobuf::MessageField;

use super::{huge_page_sizes, number, table};

/// Protobuf package of these metrics.
pub(super) const PACKAGE: &str = "io.containerd.cgroups.v2";

/// Those of the cgroup that process `pid` is in.
///
/// # Errors
/// When the process is gone, or its cgroup cannot be read.
pub(super) fn collect(pid: i32) -> Result<Metrics, Box<dyn Error + 'static>> {
    let pid = u32::try_from(pid)?;
    let cgroup: PathBuf = get_cgroups_v2_path_by_pid(pid)?;
    let mut metrics = collect_metrics_v2(&get_cgroup(pid)?)?;
    if let Some(cpu) = metrics.cpu.as_mut() {
        cpu.psi = pressure(&cgroup, "cpu.pressure");
    }
    if let Some(memory) = metrics.memory.as_mut() {
        memory.psi = pressure(&cgroup, "memory.pressure");
    }
    let io = IOStat { usage: devices(&cgroup), psi: pressure(&cgroup, "io.pressure"), ..IOStat::default() };
    metrics.io = MessageField::some(io);
    metrics.hugetlb = huge_pages(&cgroup);
    Ok(metrics)
}

/// Lines `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`; none on a kernel without them.
fn pressure(cgroup: &Path, name: &str) -> MessageField<PSIStats> {
    let Ok(text) = fs::read_to_string(cgroup.join(name)) else { return MessageField::none() };
    let mut stats = PSIStats::new();
    for line in text.lines() {
        match line.split_once(' ') {
            Some(("some", values)) => stats.some = MessageField::some(pressure_values(values)),
            Some(("full", values)) => stats.full = MessageField::some(pressure_values(values)),
            _ => {}
        }
    }
    MessageField::some(stats)
}

fn pressure_values(values: &str) -> PSIData {
    let mut data = PSIData::new();
    for (key, value) in values.split(' ').filter_map(|pair| pair.split_once('=')) {
        match key {
            "avg10" => data.avg10 = value.parse().unwrap_or_default(),
            "avg60" => data.avg60 = value.parse().unwrap_or_default(),
            "avg300" => data.avg300 = value.parse().unwrap_or_default(),
            "total" => data.total = value.parse().unwrap_or_default(),
            _ => {}
        }
    }
    data
}

/// Lines `major:minor rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`.
fn devices(cgroup: &Path) -> Vec<IOEntry> {
    let text = fs::read_to_string(cgroup.join("io.stat")).unwrap_or_default();
    text.lines().filter_map(device).collect()
}

fn device(line: &str) -> Option<IOEntry> {
    let (device, values) = line.split_once(' ')?;
    let (major, minor) = device.split_once(':')?;
    let mut entry = IOEntry { major: major.parse().ok()?, minor: minor.parse().ok()?, ..IOEntry::default() };
    for (key, value) in values.split(' ').filter_map(|pair| pair.split_once('=')) {
        let value = value.parse().unwrap_or_default();
        match key {
            "rbytes" => entry.rbytes = value,
            "wbytes" => entry.wbytes = value,
            "rios" => entry.rios = value,
            "wios" => entry.wios = value,
            _ => {}
        }
    }
    Some(entry)
}

fn huge_pages(cgroup: &Path) -> Vec<HugeTlbStat> {
    let stat = |size: String| HugeTlbStat {
        current: number(cgroup, &format!("hugetlb.{size}.current")),
        max: number(cgroup, &format!("hugetlb.{size}.max")),
        failcnt: table(cgroup, &format!("hugetlb.{size}.events")).get("max").copied().unwrap_or_default(),
        pagesize: size,
        ..HugeTlbStat::default()
    };
    huge_page_sizes(cgroup, ".current").into_iter().map(stat).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_device_read_and_wrote_is_counted() {
        let entry = device("254:0 rbytes=4096 wbytes=1 rios=2 wios=3 dbytes=0 dios=0").unwrap();
        assert_eq!((entry.major, entry.rbytes, entry.wbytes, entry.rios, entry.wios), (254, 4096, 1, 2, 3));
    }

    #[test]
    fn pressure_has_two_lines() {
        let folder = tempfile::tempdir().unwrap();
        let text = "some avg10=1.50 avg60=0.00 avg300=0.00 total=7\nfull avg10=0.25 avg60=0.00 avg300=0.00 total=3\n";
        fs::write(folder.path().join("cpu.pressure"), text).unwrap();
        let stats = pressure(folder.path(), "cpu.pressure");
        assert!((stats.some.avg10 - 1.5).abs() < f64::EPSILON && stats.some.total == 7);
        assert!((stats.full.avg10 - 0.25).abs() < f64::EPSILON && stats.full.total == 3);
        assert!(pressure(folder.path(), "io.pressure").is_none());
    }
}
