//! `cargo xtask bench`: ratios, measured side by side in one run.

mod contender;
mod files;
mod load;
mod pods;
mod profile;
pub(crate) mod steps;
mod throughput;

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use clap::Subcommand;
use tests::conformance::Amount;
use tests::images;
use tests::node::{Containerd, Node, Options};
use tests::provision::say;

use contender::{Contender, medians};

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum What {
    /// `ctr run --rm /bin/true` with Keep, with runc and with crun; idle memory of their shims
    Start {
        /// Runs of each
        #[arg(long, default_value_t = 30)]
        runs: usize,
    },
    /// An observed open for writing over an unobserved one, inside a container
    Observe {
        /// Rounds of each, two seconds long
        #[arg(long, default_value_t = 5)]
        rounds: usize,
    },
    /// A permitted plain call, connect with accept, and an open for reading, over the same without any filter
    Calls {
        /// Rounds of each, two seconds long
        #[arg(long, default_value_t = 5)]
        rounds: usize,
    },
    /// `ctr run --rm` of an image with a typical profile, all walls, over the same image without walls
    Create {
        /// Runs of each
        #[arg(long, default_value_t = 40)]
        runs: usize,
    },
    /// `git clone` of 5,000 files and `tar -x` of 20,000, with reports in full and of calls alone, over runc
    Files {
        /// Rounds of each
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Make the files in memory, not on the container's own file system
        #[arg(long)]
        memory: bool,
    },
    /// nginx, redis and postgres of the cookbook under load, over the same under runc with containerd's seccomp profile
    Throughput {
        /// Rounds of each
        #[arg(long, default_value_t = 15)]
        rounds: usize,
    },
    /// An exec of `/bin/true` in a running container, by containerd's API as a probe is one, over runc
    Exec {
        /// Runs of each
        #[arg(long, default_value_t = 50)]
        runs: usize,
    },
    /// Containers, many in a row, and containers and execs at once, over runc; what is lost, and whether the shim grows
    Load {
        /// Containers in a row
        #[arg(long, default_value_t = 200)]
        runs: usize,
    },
    /// Pods through the Kubernetes runtime interface, by critest's own benchmarks, over runc
    Pods {
        /// Pods with a container, and as many without one
        #[arg(long, default_value_t = 20)]
        pods: usize,
        /// How many of them at a time
        #[arg(long, default_value_t = 1)]
        at_once: usize,
        /// How often with each runtime, in turn
        #[arg(long, default_value_t = 2)]
        rounds: usize,
    },
    /// A container created to deleted on pure cgroup v2, in a virtual machine, over crun
    Unified {
        /// Lives of each
        #[arg(long, default_value_t = 20)]
        runs: usize,
    },
    /// Labels and policies to a profile, a profile to a compiled filter, `keep explain` of an archive of 300 MB
    Profile {
        /// Runs of each
        #[arg(long, default_value_t = 1000)]
        runs: usize,
    },
}

/// After this a shim has given back what it does not need while it waits.
const SETTLED: std::time::Duration = std::time::Duration::from_secs(4);

const TRUE: &str = "keep.bench/true:1";
const OPENS_DECLARED: &str = "keep.bench/opens:declared";

/// Measures, and prints medians and ratios.
///
/// # Errors
/// When a container does not run.
pub(crate) fn run(what: &What) -> Result<()> {
    match what {
        // crun 1.8 refuses to run where cgroup v2 is mounted beside v1: nobody sees it in this run.
        What::Start { runs } => start(&node(false)?, *runs),
        What::Observe { rounds } => observe(&node(true)?, *rounds),
        What::Calls { rounds } => calls(&node(true)?, *rounds),
        What::Create { runs } => create(&node(true)?, *runs),
        What::Files { rounds, memory } => files::run(&node(true)?, *rounds, *memory),
        What::Throughput { rounds } => throughput::run(*rounds),
        What::Exec { runs } => load::exec(&node(true)?, *runs),
        What::Load { runs } => load::run(&node(true)?, *runs),
        What::Pods { pods, at_once, rounds } => pods::run(Amount { pods: *pods, at_once: *at_once }, *rounds),
        What::Unified { runs } => crate::kernels::bench(*runs),
        What::Profile { runs } => profile::run(*runs),
    }
}

/// A containerd of its own with the release binaries, with cgroup v2 beside v1 if `unified`.
fn node(unified: bool) -> Result<Node> {
    Containerd::Debian.provide()?;
    let mut options = Options::new(Containerd::Debian);
    options.path = Some(crate::build::run()?);
    options.unified = unified;
    Node::start(options)
}

fn start(node: &Node, runs: usize) -> Result<()> {
    let labels = [("dev.keep.intent", "v1")];
    node.import(&images::static_true()?.labels(labels), TRUE)?;
    node.import(&images::declared_probe()?, OPENS_DECLARED)?;
    say("measuring `ctr run --rm /bin/true`");
    let contenders = [Contender::keep(), Contender::runc(), Contender::crun()];
    let times = medians(runs, contenders.len(), |index, turn| {
        contenders[index].time(node, TRUE, &format!("b{index}-{turn}"), &[])
    })?;
    let keep = times[0];
    println!("`ctr run --rm /bin/true`, containerd 1.6, {runs} runs each, interleaved; medians:");
    for (contender, time) in contenders.iter().zip(&times) {
        println!("  {:<22} {:>7.1} ms   keep / it = {:.2}", contender.name, time / 1e6, keep / time);
    }
    // ctr makes no container for crun without a task.
    steps::measure(node, &contenders[..2], TRUE, runs)?;
    println!("idle memory of a pod's shim, PSS, by the containers that sleep in it:");
    for (pods, count) in [(1, 1), (1, 5), (10, 1), (10, 5)] {
        idle(node, &contenders, pods, count)?;
    }
    Ok(())
}

/// Prints what the shim of a pod takes while its `count` containers sleep, on a node of so many `pods`: the pages of a program that
/// runs several times are counted for each by their share.
fn idle(node: &Node, contenders: &[Contender], pods: usize, count: usize) -> Result<()> {
    for (index, contender) in contenders.iter().enumerate() {
        let id = |pod: usize, container: usize| format!("idle-{index}-{pod}-{container}");
        let mut ids = Vec::new();
        for pod in 0..pods {
            let annotation = format!("io.kubernetes.cri.sandbox-id={}", id(pod, 0));
            for container in 0..count {
                let id = id(pod, container);
                let flags = ["-d", "--annotation", &annotation];
                contender.run(node, &flags, OPENS_DECLARED, &id, &["/bin/keep-probe", "sleep", "600"])?;
                ids.push(id);
            }
        }
        std::thread::sleep(SETTLED);
        let pids = (0..pods).flat_map(|pod| node.shims(&id(pod, 0))).map(|process| process.pid);
        let sizes: Vec<u64> = pids.map(pss).collect::<Result<_>>()?;
        let each = sizes.iter().sum::<u64>() / pods.max(1) as u64;
        println!(
            "  {:<22} {pods:>2} pods of {count}: {each:>6} kB each, in {} processes",
            contender.name,
            sizes.len()
        );
        ids.iter().rev().try_for_each(|id| node.remove(id))?;
    }
    Ok(())
}

fn create(node: &Node, runs: usize) -> Result<()> {
    // The same files, and so the same snapshot: the cookbook's nginx. What it starts ends at once.
    let image = tests::cookbook::image("nginx")?.entrypoint(&["/usr/sbin/nginx", "-v"]);
    node.import(&image, "keep.bench/nginx:walls")?;
    let bare = image.without_labels();
    node.import(&bare, "keep.bench/nginx:bare")?;
    say("measuring what the walls cost a container's start");
    let permissive = Contender::of_class("keep-permissive", node)?;
    let contenders = [(Contender::keep(), "keep.bench/nginx:walls"), (permissive, "keep.bench/nginx:bare")];
    let times = medians(runs, contenders.len(), |index, turn| {
        let (contender, image) = &contenders[index];
        contender.time(node, image, &format!("c{index}-{turn}"), &[])
    })?;
    println!("`ctr run --rm` of nginx -v, {runs} runs each, interleaved; medians:");
    println!("  behind its walls  {:>7.1} ms", times[0] / 1e6);
    println!("  without walls     {:>7.1} ms", times[1] / 1e6);
    println!("  the walls cost {:+.1} ms (aim: at most 3)", (times[0] - times[1]) / 1e6);
    Ok(())
}

fn observe(node: &Node, rounds: usize) -> Result<()> {
    node.import(&images::declared_probe()?, OPENS_DECLARED)?;
    say("measuring open + close");
    // The same file behind the same walls: an open for reading is not observed, one for writing is.
    let contenders = [("for writing: observed", "write"), ("for reading: not observed", "read")];
    let keep = Contender::keep();
    let times = medians(rounds, contenders.len(), |index, round| {
        let words = ["/bin/keep-probe", "bench", contenders[index].1, "2", "/data/file"];
        keep.number(node, OPENS_DECLARED, &format!("o{index}-{round}"), &words)
    })?;
    println!("open + close in a container behind its walls, {rounds} rounds each, interleaved; medians:");
    for ((name, _), time) in contenders.iter().zip(&times) {
        println!("  {name:<32} {:>8.2} us", time / 1e3);
    }
    println!("  an observed write-open costs {:+.2} us (aim: at most 5)", (times[0] - times[1]) / 1e3);
    Ok(())
}

fn calls(node: &Node, rounds: usize) -> Result<()> {
    let image = images::declared_probe()?.label("dev.keep.connect", "127.0.0.1:8080/tcp");
    node.import(&image, "keep.bench/calls:1")?;
    say("measuring calls");
    let contenders = [Contender::keep(), Contender::runc(), Contender::runc_default()];
    println!("inside a container, {rounds} rounds each, interleaved; medians:");
    for (what, how, argument, aim) in [
        ("getppid, a plain call", "call", "-", "; aim: at most 1.10"),
        ("connect + accept over the loopback", "connect", "127.0.0.1:8080", "; aim: at most 1.05"),
        ("open for reading + close", "read", "/bin/keep-probe", ""),
    ] {
        let times = medians(rounds, contenders.len(), |index, round| {
            let words = ["/bin/keep-probe", "bench", how, "2", argument];
            contenders[index].number(node, "keep.bench/calls:1", &format!("{how}{index}-{round}"), &words)
        })?;
        let [keep, none, default] = times.as_slice() else { anyhow::bail!("three medians were expected") };
        println!("{what}:");
        println!("  {:<38} {none:>8.0} ns", "runc, no filter");
        println!("  {:<38} {default:>8.0} ns: {:.2}", "runc, containerd's filter", default / none);
        println!("  {:<38} {keep:>8.0} ns: {:.2}{aim}", "keep, all walls", keep / none);
    }
    Ok(())
}

fn pss(pid: i32) -> Result<u64> {
    kilobytes(pid, "Pss:")
}

/// A line of a process's memory map, all of it together.
fn kilobytes(pid: i32, key: &str) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = std::fs::read_to_string(Path::new(&path)).with_context(|| format!("cannot read {path}"))?;
    let line =
        text.lines().find_map(|line| line.strip_prefix(key)).with_context(|| format!("no {key} line"))?;
    let value = line.trim().trim_end_matches(" kB").trim().parse();
    ensure!(value.is_ok(), "no number: {line}");
    value.context("no number")
}
