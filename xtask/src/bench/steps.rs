//! The steps of one container's life, by containerd's API: what `ctr run` takes without ctr.

use std::time::Instant;

use anyhow::{Context as _, Result};
use tests::node::Node;
use tests::provision::say;
use tests::task::{Client, Streams};

use super::contender::{Contender, median};

const STEPS: [&str; 4] = ["create", "start", "end", "delete"];

/// Measures the steps of a task of `image` under each contender in turn, and prints medians.
pub(super) fn print(node: &Node, contenders: &[Contender], image: &str, runs: usize) -> Result<()> {
    say("measuring the steps of a task");
    let client = Client::connect(node)?;
    let mut ids = Vec::new();
    for (index, contender) in contenders.iter().enumerate() {
        let id = format!("steps-{index}");
        contender.make(node, image, &id)?;
        ids.push(id);
    }
    let mut measured = vec![[const { Vec::new() }; STEPS.len()]; contenders.len()];
    for run in 0..=runs {
        for (id, steps) in ids.iter().zip(&mut measured) {
            let times = life(&client, id).with_context(|| format!("{id}, run {run}"))?;
            // The first fills caches.
            if run > 0 {
                steps.iter_mut().zip(times).for_each(|(step, time)| step.push(time));
            }
        }
    }
    println!("the steps of a task by containerd's API, {runs} runs each, interleaved; medians:");
    for (contender, steps) in contenders.iter().zip(measured) {
        let times =
            STEPS.iter().zip(steps).map(|(name, step)| format!("{name} {:>5.1} ms", median(step) / 1e6));
        println!("  {:<22} {}", contender.name, times.collect::<Vec<_>>().join("   "));
    }
    ids.iter().try_for_each(|id| node.remove(id))
}

/// Wall nanoseconds of each step of one task: its creation, the shim's start with it; its start; its end; its removal, the
/// shim's end with it.
fn life(client: &Client, id: &str) -> Result<[f64; STEPS.len()]> {
    let mut begin = Instant::now();
    let mut lap = || {
        let taken = begin.elapsed().as_secs_f64() * 1e9;
        begin = Instant::now();
        taken
    };
    client.create(id, &Streams::default())?;
    let create = lap();
    client.start(id, "")?;
    let start = lap();
    client.wait(id, "")?;
    let end = lap();
    client.delete(id)?;
    Ok([create, start, end, lap()])
}
