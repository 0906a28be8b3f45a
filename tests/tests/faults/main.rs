//! Faults: whatever is killed, full, missing or slow, nothing is left behind, nothing hangs, and no program runs behind
//! fewer walls.

#![forbid(unsafe_code)]

mod kills;
mod scarcity;
mod streams;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tests::command::Output;
use tests::images;
use tests::node::{Containerd, Node, Options, Runtime};
use tests::shared::Shared;

const DECLARED: &str = "keep.test/declared:1";

/// Longest that any one step may take: the shim's own limits are all below 10 s, and the machine may be busy.
const HANG: Duration = Duration::from_secs(30);

type Test = fn(&mut Node) -> Result<()>;

const TESTS: &[(&str, Test)] = &[
    (
        "a process of the shim that is killed between any two steps of create, start and delete",
        kills::of_a_life,
    ),
    ("a process of the shim that is killed between any two steps of an exec", kills::of_an_exec),
    ("containerd that is killed while a container starts, execs and ends", scarcity::killed_containerd),
    ("no room and no inodes for the shim's state", scarcity::full_disk),
    ("no room for records", scarcity::full_spool),
    ("/run that is read-only", scarcity::read_only_run),
    ("a container that may have no further process", scarcity::process_limit),
    ("a container with 16 MB of memory, and with less", scarcity::memory_limit),
    ("a reader of output that went away", streams::reader_gone),
    ("a log that cannot be written", streams::reader_never_there),
    ("a gigabyte of output", streams::much_output),
    ("a slow reader of much output", streams::slow_reader),
];

fn main() -> ExitCode {
    Shared::conclude(prepare, |containerd, node| {
        let node = node.with_shim();
        let trial = |(name, test): &(&str, Test)| node.trial(format!("{containerd}: {name}"), *test);
        TESTS.iter().map(trial).collect()
    })
}

fn prepare(containerd: Containerd) -> Result<Node> {
    let node = Node::start(Options::new(containerd))?;
    node.import(&images::declared_probe()?, DECLARED)?;
    // What the first container of a namespace leaves, its folder in the state folder, stays by design.
    node.start_container(Runtime::Keep, &["--rm"], DECLARED, "first", &crossings())?.success()?;
    Ok(node)
}

/// What the probe tries, each of which a wall refuses: one of programs, of files, of the network, of calls.
const CROSSINGS: [&str; 4] = ["exec:/bin/other", "write:/opt/state/file", "bind:9999", "syscall:msgget"];

/// The probe's command line for them.
fn crossings() -> Vec<&'static str> {
    ["/bin/keep-probe", "many"].into_iter().chain(CROSSINGS).collect()
}

/// Whatever became of a run of [`crossings`]: nothing crossed a wall, and a run that succeeded tried everything.
fn nothing_crossed(output: &Output) -> Result<()> {
    ensure!(!output.stdout.contains(": ok"), "a wall was down: {output}");
    let refused = output.stdout.lines().filter(|line| line.contains(": denied")).count();
    ensure!(!output.status.success() || refused == CROSSINGS.len(), "not everything was tried: {output}");
    Ok(())
}

/// Runs `step`, which may fail but must not hang.
fn in_time<T>(what: &str, step: impl FnOnce() -> Result<T>) -> Result<T> {
    let begin = Instant::now();
    let done = step().with_context(|| what.to_owned())?;
    let taken = begin.elapsed();
    ensure!(taken < HANG, "{what} took {taken:?}");
    Ok(done)
}
