//! Limits: changed, measured, and reached.

use anyhow::{Context as _, Result, ensure};
use containerd_client::services::v1::MetricsRequest;
use containerd_shim_protos::cgroups::metrics::Metrics;
use containerd_shim_protos::protobuf::Message as _;
use tests::task::Event;

use crate::{Case, Run};

pub const CASES: &[(&str, Run)] = &[
    ("limits that are changed are seen in the metrics", changed),
    ("metrics have the fields that runc's shim fills", fields),
    ("a container out of memory", out_of_memory),
    ("an exec out of memory", exec_out_of_memory),
];

/// Takes 256 MiB: a block of as many bytes, which dd reads into memory.
const GREEDY: &[&str] = &["dd", "if=/dev/zero", "of=/dev/null", "bs=268435456", "count=1"];

fn metrics(case: &Case<'_>) -> Result<Metrics> {
    let request = MetricsRequest { filters: vec![format!("id=={}", case.id)] };
    let answer = case.client.task(request, async |mut tasks, request| tasks.metrics(request).await)?;
    let data = answer.metrics.into_iter().next().and_then(|metric| metric.data).context("no metrics")?;
    ensure!(data.type_url == "io.containerd.cgroups.v1.Metrics", "they are {}", data.type_url);
    Ok(Metrics::parse_from_bytes(&data.value)?)
}

fn changed(case: &mut Case<'_>) -> Result<()> {
    let pid = case.running(&["--memory-limit", "134217728"], &["sleep", "600"])?;
    let before = metrics(case)?;
    case.said.note("memory limit before", before.memory.usage.limit.to_string());
    case.said.note("pids limit before", before.pids.limit.to_string());
    let resources = br#"{"memory":{"limit":67108864},"pids":{"limit":77},"cpu":{"shares":512,"quota":50000,"period":100000}}"#;
    case.said.done("update", case.client.update(&case.id, resources));
    let after = metrics(case)?;
    case.said.note("memory limit", after.memory.usage.limit.to_string());
    case.said.note("hierarchical memory limit", after.memory.hierarchical_memory_limit.to_string());
    case.said.note("pids limit", after.pids.limit.to_string());
    for (controller, file) in
        [("cpu", "cpu.shares"), ("cpu", "cpu.cfs_quota_us"), ("cpu", "cpu.cfs_period_us")]
    {
        case.said.note(file, of_cgroup(case, pid, controller, file)?);
    }
    case.said.done(
        "update to no limits",
        case.client.update(&case.id, br#"{"memory":{"limit":-1},"pids":{"limit":-1},"cpu":{"quota":-1}}"#),
    );
    let lifted = metrics(case)?;
    case.said.note("memory limit when lifted", lifted.memory.usage.limit.to_string());
    case.said.note("pids limit when lifted", lifted.pids.limit.to_string());
    case.said.note("cpu quota when lifted", of_cgroup(case, pid, "cpu", "cpu.cfs_quota_us")?);
    case.said.done("update of nothing", case.client.update(&case.id, b"{}"));
    case.said
        .done("a limit below what is used", case.client.update(&case.id, br#"{"memory":{"limit":4096}}"#));
    case.ended()?;
    Ok(())
}

/// A file of a cgroup v1 that a process of the node is in.
fn of_cgroup(case: &Case<'_>, pid: u32, controller: &str, file: &str) -> Result<String> {
    let outside = case.node.outside(pid.cast_signed())?;
    let text = std::fs::read_to_string(format!("/proc/{outside}/cgroup"))?;
    let line = text.lines().find_map(|line| {
        let (names, path) = line.split_once(':')?.1.split_once(':')?;
        names.split(',').any(|name| name == controller).then_some(path)
    });
    let path = line.with_context(|| format!("no {controller} in {text}"))?;
    let read = std::fs::read_to_string(format!("/sys/fs/cgroup/{controller}{path}/{file}"));
    Ok(read.with_context(|| format!("cannot read {file} of {path}"))?.trim().to_owned())
}

fn fields(case: &mut Case<'_>) -> Result<()> {
    let line = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; exec sleep 600";
    let pid = case.running(&["--memory-limit", "134217728"], &["sh", "-c", line])?;
    case.runs(pid, "sleep")?;
    let metrics = metrics(case)?;
    let said = &mut case.said;
    let usage = &metrics.cpu.usage;
    said.note("cpu: total, per core", format!("{} {}", usage.total > 0, usage.per_cpu.len()));
    let cores: u64 = usage.per_cpu.iter().sum();
    said.note("cpu: nanoseconds", (cores == usage.total && usage.total > 1_000_000).to_string());
    // User and kernel time are of clock ticks, in nanoseconds: never more than a tick over the total.
    let whole = usage.user + usage.kernel;
    said.note("cpu: user and kernel", (whole <= usage.total + 20_000_000 && whole > 0).to_string());
    said.note("cpu: throttling", metrics.cpu.throttling.is_some().to_string());
    let memory = &metrics.memory;
    said.note("memory: rss", (memory.rss > 0 && memory.total_rss >= memory.rss).to_string());
    said.note("memory: faults", (memory.pg_fault > 0 && memory.total_pg_fault > 0).to_string());
    said.note(
        "memory: hierarchical limits",
        format!("{} {}", memory.hierarchical_memory_limit, memory.hierarchical_swap_limit > 0),
    );
    for (name, entry) in [
        ("usage", &memory.usage),
        ("swap", &memory.swap),
        ("kernel", &memory.kernel),
        ("kernel tcp", &memory.kernel_tcp),
    ] {
        let words = format!(
            "{} usage {} max {} limit {}",
            entry.is_some(),
            entry.usage > 0,
            entry.max > 0,
            entry.limit
        );
        said.note(&format!("memory: {name}"), words);
    }
    let control = &metrics.memory_oom_control;
    said.note(
        "oom control",
        format!(
            "{} {} {} {}",
            control.is_some(),
            control.oom_kill_disable,
            control.under_oom,
            control.oom_kill
        ),
    );
    said.note("pids", format!("{} {}", metrics.pids.current, metrics.pids.limit));
    let blkio = &metrics.blkio;
    said.note("blkio", blkio.is_some().to_string());
    let pages: Vec<&str> = metrics.hugetlb.iter().map(|pages| pages.pagesize.as_str()).collect();
    said.note("huge pages", format!("{pages:?}"));
    said.note(
        "rdma, network, tasks",
        format!("{} {} {}", metrics.rdma.is_some(), metrics.network.len(), metrics.cgroup_stats.is_some()),
    );
    case.ended()?;
    Ok(())
}

fn out_of_memory(case: &mut Case<'_>) -> Result<()> {
    let pid = case.running(&["--memory-limit", "33554432"], GREEDY)?;
    case.said.call("wait", case.client.wait(&case.id, ""));
    let events = case.deleted()?;
    let topics: Vec<&str> = events.iter().map(|event| event.topic.as_str()).collect();
    let place = |topic: &str| topics.iter().position(|one| *one == topic);
    ensure!(place("/tasks/oom").is_some(), "no event of it: {topics:?}");
    // runc's shim leaves the order to chance; Keep does not.
    if case.runtime != tests::node::Runtime::Runc {
        ensure!(place("/tasks/oom") < place("/tasks/exit"), "the exit came first: {topics:?}");
    }
    let rest: Vec<Event> = events.into_iter().filter(|event| event.topic != "/tasks/oom").collect();
    case.said.events(&rest, &[(pid, "init")]);
    Ok(())
}

fn exec_out_of_memory(case: &mut Case<'_>) -> Result<()> {
    case.running(&["--memory-limit", "33554432"], &["sleep", "600"])?;
    case.exec("one", GREEDY)?;
    case.client.wait(&case.id, "one")?;
    let (events, told) = case.events.until(&case.id, "/tasks/oom", crate::PATIENCE)?;
    ensure!(told, "no event of it: {events:?}");
    case.said.call("the container", case.client.get(&case.id, "").map(crate::processes::state));
    case.ended()?;
    Ok(())
}
