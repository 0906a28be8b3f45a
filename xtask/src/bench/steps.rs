//! The steps of one container's life, by containerd's API: what `ctr run` takes without ctr.

use std::time::Duration;

use anyhow::Result;
use tests::node::Node;
use tests::provision::say;
use tests::task::{Client, STEPS};

use super::contender::Contender;

/// Measures the steps of a task of `image` under each contender in turn, and prints medians.
pub(super) fn measure(node: &Node, contenders: &[Contender], image: &str, runs: usize) -> Result<()> {
    say("measuring the steps of a task");
    let client = Client::connect(node)?;
    let mut ids = Vec::new();
    for (index, contender) in contenders.iter().enumerate() {
        let id = format!("steps-{index}");
        contender.make(node, image, &id)?;
        ids.push(id);
    }
    println!("the steps of a task by containerd's API, {runs} runs each, interleaved; medians:");
    for (contender, steps) in contenders.iter().zip(client.lives(&ids, runs)?) {
        print(contender.name, steps);
    }
    ids.iter().try_for_each(|id| node.remove(id))
}

/// Prints how long each step took.
pub(crate) fn print(name: &str, steps: [Duration; STEPS.len()]) {
    let times = STEPS.iter().zip(steps);
    let times = times.map(|(step, time)| format!("{step} {:>5.1} ms", time.as_secs_f64() * 1e3));
    println!("  {name:<22} {}", times.collect::<Vec<_>>().join("   "));
}
