//! Metrics on cgroup v1.

use std::fs;
use std::io;
use std::path::Path;

use containerd_shim_protos::cgroups::metrics::{
    BlkIOEntry, BlkIOStat, CPUStat, CPUUsage, HugetlbStat, MemoryEntry, MemoryOomControl, MemoryStat,
    Metrics, PidsStat, Throttle,
};
use containerd_shim_protos::protobuf::MessageField;
use nix::unistd::{Pid, SysconfVar, sysconf};
use sandbox::cgroup::v1_cgroup_of;

use super::{huge_page_sizes, number, table};

/// Protobuf package of these metrics.
pub(super) const PACKAGE: &str = "io.containerd.cgroups.v1";

/// Those of the cgroups that process `pid` is in; none where no controller is on a v1 hierarchy.
///
/// # Errors
/// When the process is gone, or its cgroups lie outside of what is mounted.
pub(super) fn collect(pid: Pid) -> io::Result<Option<Metrics>> {
    let folder = |controller| v1_cgroup_of(controller, pid);
    let mut metrics = Metrics::new();
    let mut any = false;
    let mut cpu = CPUStat::new();
    if let Some(cgroup) = folder("cpu")? {
        cpu.throttling = MessageField::some(throttling(&cgroup));
        metrics.cpu = MessageField::some(cpu.clone());
        any = true;
    }
    if let Some(cgroup) = folder("cpuacct")? {
        cpu.usage = MessageField::some(usage(&cgroup));
        metrics.cpu = MessageField::some(cpu);
        any = true;
    }
    if let Some(cgroup) = folder("memory")? {
        metrics.memory = MessageField::some(memory(&cgroup));
        metrics.memory_oom_control = MessageField::some(oom_control(&cgroup));
        any = true;
    }
    if let Some(cgroup) = folder("pids")? {
        metrics.pids = MessageField::some(pids(&cgroup));
        any = true;
    }
    if let Some(cgroup) = folder("blkio")? {
        metrics.blkio = MessageField::some(BlkIOStat {
            io_serviced_recursive: device_operations(&cgroup, "blkio.throttle.io_serviced"),
            io_service_bytes_recursive: device_operations(&cgroup, "blkio.throttle.io_service_bytes"),
            ..BlkIOStat::default()
        });
        any = true;
    }
    if let Some(cgroup) = folder("hugetlb")? {
        metrics.hugetlb = huge_pages(&cgroup);
        any = true;
    }
    Ok(any.then_some(metrics))
}

fn throttling(cgroup: &Path) -> Throttle {
    let stat = table(cgroup, "cpu.stat");
    let get = |key: &str| stat.get(key).copied().unwrap_or_default();
    Throttle {
        periods: get("nr_periods"),
        throttled_periods: get("nr_throttled"),
        throttled_time: get("throttled_time"),
        ..Throttle::default()
    }
}

/// Time in nanoseconds; the kernel counts user and kernel time in clock ticks.
fn usage(cgroup: &Path) -> CPUUsage {
    let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten().and_then(|ticks| u64::try_from(ticks).ok());
    let tick = 1_000_000_000 / ticks.filter(|ticks| *ticks > 0).unwrap_or(100);
    let stat = table(cgroup, "cpuacct.stat");
    let get = |key: &str| stat.get(key).copied().unwrap_or_default() * tick;
    let cores = fs::read_to_string(cgroup.join("cpuacct.usage_percpu")).unwrap_or_default();
    CPUUsage {
        total: number(cgroup, "cpuacct.usage"),
        kernel: get("system"),
        user: get("user"),
        per_cpu: cores.split_whitespace().filter_map(|time| time.parse().ok()).collect(),
        ..CPUUsage::default()
    }
}

fn memory(cgroup: &Path) -> MemoryStat {
    let stat = table(cgroup, "memory.stat");
    let get = |key: &str| stat.get(key).copied().unwrap_or_default();
    let entry = |kind: &str| {
        MessageField::some(MemoryEntry {
            limit: number(cgroup, &format!("memory{kind}.limit_in_bytes")),
            usage: number(cgroup, &format!("memory{kind}.usage_in_bytes")),
            max: number(cgroup, &format!("memory{kind}.max_usage_in_bytes")),
            failcnt: number(cgroup, &format!("memory{kind}.failcnt")),
            ..MemoryEntry::default()
        })
    };
    MemoryStat {
        cache: get("cache"),
        rss: get("rss"),
        rss_huge: get("rss_huge"),
        mapped_file: get("mapped_file"),
        dirty: get("dirty"),
        writeback: get("writeback"),
        pg_pg_in: get("pgpgin"),
        pg_pg_out: get("pgpgout"),
        pg_fault: get("pgfault"),
        pg_maj_fault: get("pgmajfault"),
        inactive_anon: get("inactive_anon"),
        active_anon: get("active_anon"),
        inactive_file: get("inactive_file"),
        active_file: get("active_file"),
        unevictable: get("unevictable"),
        hierarchical_memory_limit: get("hierarchical_memory_limit"),
        hierarchical_swap_limit: get("hierarchical_memsw_limit"),
        total_cache: get("total_cache"),
        total_rss: get("total_rss"),
        total_rss_huge: get("total_rss_huge"),
        total_mapped_file: get("total_mapped_file"),
        total_dirty: get("total_dirty"),
        total_writeback: get("total_writeback"),
        total_pg_pg_in: get("total_pgpgin"),
        total_pg_pg_out: get("total_pgpgout"),
        total_pg_fault: get("total_pgfault"),
        total_pg_maj_fault: get("total_pgmajfault"),
        total_inactive_anon: get("total_inactive_anon"),
        total_active_anon: get("total_active_anon"),
        total_inactive_file: get("total_inactive_file"),
        total_active_file: get("total_active_file"),
        total_unevictable: get("total_unevictable"),
        usage: entry(""),
        swap: entry(".memsw"),
        kernel: entry(".kmem"),
        kernel_tcp: entry(".kmem.tcp"),
        ..MemoryStat::default()
    }
}

fn oom_control(cgroup: &Path) -> MemoryOomControl {
    let control = table(cgroup, "memory.oom_control");
    let get = |key: &str| control.get(key).copied().unwrap_or_default();
    MemoryOomControl {
        oom_kill_disable: get("oom_kill_disable"),
        under_oom: get("under_oom"),
        oom_kill: get("oom_kill"),
        ..MemoryOomControl::default()
    }
}

fn pids(cgroup: &Path) -> PidsStat {
    // No limit is 0, as runc's shim says it.
    let limit = Some(number(cgroup, "pids.max")).filter(|limit| *limit != u64::MAX).unwrap_or_default();
    PidsStat { current: number(cgroup, "pids.current"), limit, ..PidsStat::default() }
}

/// Lines `major:minor operation number`; the line of all devices together has no device.
fn device_operations(cgroup: &Path, name: &str) -> Vec<BlkIOEntry> {
    let text = fs::read_to_string(cgroup.join(name)).unwrap_or_default();
    let devices = fs::read_to_string("/proc/partitions").unwrap_or_default();
    text.lines().filter_map(|line| device_operation(line, &devices)).collect()
}

fn device_operation(line: &str, devices: &str) -> Option<BlkIOEntry> {
    let mut words = line.split(' ');
    let (major, minor) = words.next()?.split_once(':')?;
    let (op, value) = (words.next()?, words.next()?);
    let named = devices.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let is_it = words.next() == Some(major) && words.next() == Some(minor);
        words.nth(1).filter(|_| is_it)
    });
    Some(BlkIOEntry {
        op: op.to_owned(),
        device: named.map(|name| format!("/dev/{name}")).unwrap_or_default(),
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        value: value.parse().ok()?,
        ..BlkIOEntry::default()
    })
}

fn huge_pages(cgroup: &Path) -> Vec<HugetlbStat> {
    let stat = |size: String| HugetlbStat {
        usage: number(cgroup, &format!("hugetlb.{size}.usage_in_bytes")),
        max: number(cgroup, &format!("hugetlb.{size}.max_usage_in_bytes")),
        failcnt: number(cgroup, &format!("hugetlb.{size}.failcnt")),
        pagesize: size,
        ..HugetlbStat::default()
    };
    huge_page_sizes(cgroup, ".usage_in_bytes").into_iter().map(stat).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_counted_by_its_name_and_all_together_not() {
        let devices = "major minor  #blocks  name\n\n 254        0  1048576 vda\n";
        let entry = device_operation("254:0 Read 4096", devices).unwrap();
        assert_eq!((entry.device.as_str(), entry.op.as_str(), entry.value), ("/dev/vda", "Read", 4096));
        assert_eq!(device_operation("254:1 Write 1", devices).unwrap().device, "");
        assert_eq!(device_operation("Total 4096", devices), None);
    }
}
