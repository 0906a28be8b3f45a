//! Pods through the Kubernetes runtime interface, by critest's own benchmarks.

use std::time::Instant;

use anyhow::Result;
use tests::conformance::{self, Amount, Site, Times};
use tests::node::Containerd;
use tests::provision::say;

use super::contender::median;

/// Handlers that are measured, ours first.
const HANDLERS: [&str; 2] = ["keep", "runc"];

/// What is added up: what a pod and its container take until they run.
const START: [&str; 3] = ["CreatePod", "CreateContainer", "StartContainer"];

/// Runs them in turn, `rounds` times, and prints medians of each operation.
pub(super) fn run(amount: Amount, rounds: usize) -> Result<()> {
    conformance::provide(Containerd::Built)?;
    let site = Site::start(Containerd::Built, crate::build::run()?)?;
    let mut times = HANDLERS.map(|_| Times::new());
    let mut walls = HANDLERS.map(|_| Vec::new());
    for round in 0..rounds {
        for ((handler, times), walls) in HANDLERS.iter().zip(&mut times).zip(&mut walls) {
            say(&format!("round {}: {} pods under {handler}", round + 1, amount.pods));
            let begin = Instant::now();
            for (operation, measured) in site.benchmark(handler, amount)? {
                times.entry(operation).or_default().extend(measured);
            }
            walls.push(begin.elapsed().as_secs_f64());
        }
    }
    println!(
        "pods through the Kubernetes runtime interface, {} of {}, {} at a time, {rounds} rounds; medians:",
        amount.pods,
        HANDLERS.join(" and "),
        amount.at_once
    );
    let [keep, runc] = times.map(|times| {
        let medians = times.into_iter().map(|(operation, times)| (operation, median(times) / 1e6));
        medians.collect::<std::collections::BTreeMap<String, f64>>()
    });
    for (operation, runc) in &runc {
        let keep = keep.get(operation).copied().unwrap_or(f64::NAN);
        println!(
            "  {operation:<18} keep {keep:>8.1} ms   runc {runc:>8.1} ms   keep / it = {:.2}",
            keep / runc
        );
    }
    let start = |of: &std::collections::BTreeMap<String, f64>| {
        START.iter().map(|name| of.get(*name).unwrap_or(&f64::NAN)).sum::<f64>()
    };
    let (keep, runc) = (start(&keep), start(&runc));
    println!(
        "  a pod's start      keep {keep:>8.1} ms   runc {runc:>8.1} ms   keep / it = {:.2}",
        keep / runc
    );
    let [keep, runc] = walls.map(median);
    println!(
        "  everything         keep {keep:>8.1} s    runc {runc:>8.1} s    keep / it = {:.2}",
        keep / runc
    );
    println!("nothing was lost: critest found every pod and container as it asked for them");
    Ok(())
}
