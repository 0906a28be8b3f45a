//! `cargo xtask bench`: ratios, measured side by side in one run.

mod profile;

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use clap::Subcommand;
use tests::node::{Containerd, Node, Options, Runtime};
use tests::provision::say;
use tests::{images, under_test};

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
    /// Labels and policies to a profile, a profile to a compiled filter, `keep explain` of an archive of 300 MB
    Profile {
        /// Runs of each
        #[arg(long, default_value_t = 1000)]
        runs: usize,
    },
}

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

const CONTENDERS: [(&str, Runtime); 3] =
    [("keep", Runtime::Keep), ("shim-runc-v2 + runc", Runtime::Runc), ("shim-runc-v2 + crun", Runtime::Crun)];

fn start(node: &Node, runs: usize) -> Result<()> {
    let labels = [("dev.keep.intent", "v1")];
    node.import(&images::static_true()?.labels(labels), TRUE)?;
    node.import(&images::declared_probe()?, OPENS_DECLARED)?;
    say("measuring `ctr run --rm /bin/true`");
    let mut times: [Vec<u64>; 3] = Default::default();
    for turn in 0..=runs {
        for (index, (name, runtime)) in CONTENDERS.iter().enumerate() {
            let took = once(node, *runtime, &format!("b{index}-{turn}"));
            let took = took.with_context(|| format!("{name} does not run"))?;
            // The first round fills caches.
            if turn > 0 {
                times.get_mut(index).context("more contenders than columns")?.push(took);
            }
        }
    }
    let medians: Vec<f64> = times.iter_mut().map(|times| median(times)).collect();
    let keep = medians.first().copied().unwrap_or(f64::NAN);
    println!("`ctr run --rm /bin/true`, containerd 1.6, {runs} runs each, interleaved; medians:");
    for ((name, _), time) in CONTENDERS.iter().zip(&medians) {
        println!("  {name:<22} {:>7.1} ms   keep / it = {:.2}", time / 1e6, keep / time);
    }
    println!("idle memory of the shim, one sleeping container, PSS:");
    for (index, (name, runtime)) in CONTENDERS.iter().enumerate() {
        let id = format!("idle-{index}");
        node.start_container(*runtime, &["-d"], OPENS_DECLARED, &id, &["/bin/keep-probe", "sleep", "600"])?
            .success()?;
        std::thread::sleep(std::time::Duration::from_secs(2));
        let pids: Vec<i32> = node.shims(&id).iter().map(|process| process.pid).collect();
        let sizes: Result<Vec<u64>> = pids.iter().map(|pid| pss(*pid)).collect();
        println!("  {name:<22} {:>7} kB in {} processes", sizes?.iter().sum::<u64>(), pids.len());
        node.remove(&id)?;
    }
    Ok(())
}

/// Wall nanoseconds of one `ctr run --rm`, taken inside the node, without the cost of entering it.
fn once(node: &Node, runtime: Runtime, id: &str) -> Result<u64> {
    let probe = under_test::binary("keep-probe")?;
    let mut words = vec!["time", "1", "ctr", "run", "--rm"];
    words.extend(match runtime {
        Runtime::Runc => vec!["--runtime", "io.containerd.runc.v2"],
        Runtime::Crun => vec!["--runtime", "io.containerd.runc.v2", "--runc-binary", "crun"],
        Runtime::Keep | Runtime::KeepClass(_) => vec!["--runtime", under_test::RUNTIME],
    });
    words.extend([TRUE, id]);
    let output = node.run(&probe.to_string_lossy(), &words)?.success()?;
    output.text().parse().with_context(|| format!("{output}"))
}

fn observe(node: &Node, rounds: usize) -> Result<()> {
    node.import(&images::declared_probe()?, OPENS_DECLARED)?;
    say("measuring open + close");
    // The same file behind the same walls: an open for reading is not observed, one for writing is.
    let contenders = [("for writing: observed", "write"), ("for reading: not observed", "read")];
    let mut times: [Vec<u64>; 2] = Default::default();
    for round in 0..rounds {
        for (index, (name, how)) in contenders.iter().enumerate() {
            let id = format!("o{index}-{round}");
            let words = ["/bin/keep-probe", "bench", how, "2", "/data/file"];
            let output =
                node.start_container(Runtime::Keep, &["--rm"], OPENS_DECLARED, &id, &words)?.success();
            let output = output.with_context(|| format!("open {name} does not run"))?;
            let nanoseconds = output.text().parse().with_context(|| format!("{output}"))?;
            times.get_mut(index).context("more contenders than columns")?.push(nanoseconds);
        }
    }
    let medians: Vec<f64> = times.iter_mut().map(|times| median(times)).collect();
    println!("open + close in a container behind its walls, {rounds} rounds each, interleaved; medians:");
    for ((name, _), time) in contenders.iter().zip(&medians) {
        println!("  {name:<32} {:>8.2} us", time / 1e3);
    }
    let [observed, free] = medians.as_slice() else { anyhow::bail!("two medians were expected") };
    println!("  an observed write-open costs {:+.2} us (aim: at most 5)", (observed - free) / 1e3);
    Ok(())
}

fn median(values: &mut [u64]) -> f64 {
    values.sort_unstable();
    #[allow(clippy::cast_precision_loss)]
    values.get(values.len() / 2).map_or(f64::NAN, |value| *value as f64)
}

fn pss(pid: i32) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = std::fs::read_to_string(Path::new(&path)).with_context(|| format!("cannot read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss line")?;
    let value = line.trim().trim_end_matches(" kB").trim().parse();
    ensure!(value.is_ok(), "no number: {line}");
    value.context("no number")
}
