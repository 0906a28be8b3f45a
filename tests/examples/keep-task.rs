//! What `ctr` does not ask of containerd's task service, for machines that have nothing but a containerd:
//!
//! `keep-task update ID RESOURCES` changes a task's limits to those of a runtime spec's `linux.resources`.
//!
//! `keep-task lives RUNS ID...` has containers whose programs end by themselves live in turn; prints for each the median
//! microseconds of a life's steps.
//!
//! `keep-task execs RUNS ID...` runs `/bin/true ok` in running containers in turn, as a probe is run; prints for each the median of the
//! microseconds that it took.
//!
//! `keep-task version ID VERSION` has a container's runtime spec be of another version: crun 1.8 does not run what says 1.2 or later.
//!
//! Like `ctr`, it takes `CONTAINERD_ADDRESS` and `CONTAINERD_NAMESPACE`.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tests::task::Client;

fn main() -> Result<()> {
    let variable = |name| std::env::var(name).with_context(|| format!("{name} is not set"));
    let client =
        Client::at(&PathBuf::from(variable("CONTAINERD_ADDRESS")?), &variable("CONTAINERD_NAMESPACE")?)?;
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["update", id, resources] => client.update(id, resources.as_bytes())?,
        ["version", id, version] => client.edit_spec(id, |spec| spec["ociVersion"] = version.into())?,
        ["lives", runs, ref ids @ ..] => print(ids, client.lives(ids, number(runs)?)?),
        ["execs", runs, ref ids @ ..] => {
            print(ids, client.probes(ids, number(runs)?, &["/bin/true", "ok"])?);
        }
        _ => bail!(
            "keep-task update ID RESOURCES | keep-task version ID VERSION | keep-task lives RUNS ID... | keep-task execs RUNS ID..."
        ),
    }
    Ok(())
}

fn number(runs: &str) -> Result<usize> {
    runs.parse().context("RUNS is no number")
}

/// One line for each container: its id and microseconds.
fn print<const N: usize>(ids: &[&str], measured: Vec<[Duration; N]>) {
    for (id, times) in ids.iter().zip(measured) {
        println!("{id} {}", times.map(|time| time.as_micros().to_string()).join(" "));
    }
}
