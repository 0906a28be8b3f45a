//! Many containers one after the other, many containers and execs at once, and execs as probes: what is lost, how long it takes
//! beside runc, and whether the shim grows.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tests::images;
use tests::node::Node;
use tests::provision::say;
use tests::task::Client;

use super::contender::{Contender, median, medians};
use super::steps;

const IMAGE: &str = "keep.bench/load:1";
/// Execs at once in one container.
const EXECS: usize = 50;
/// Containers at once.
const CONTAINERS: usize = 20;
/// How often each of the two is done at once.
const ROUNDS: usize = 3;

/// Latency of an exec as a probe of Kubernetes is one: its client asks containerd for the exec, its start, its end and its
/// removal.
pub(super) fn exec(node: &Node, runs: usize) -> Result<()> {
    let contenders = [Contender::keep(), Contender::runc()];
    let ids = start(node, &contenders)?;
    let before = memory(node, &ids[0])?;
    say("measuring execs of /bin/true");
    let client = Client::connect(node)?;
    let times = medians(runs, contenders.len(), |index, turn| {
        let time = client
            .probe(&ids[index], &format!("e{turn}"), &["/bin/true", "ok"])
            .with_context(|| format!("{} does not exec", contenders[index].name))?;
        Ok(time.as_secs_f64() * 1e9)
    })?;
    let after = memory(node, &ids[0])?;
    end(node, &ids)?;
    println!("an exec of /bin/true by containerd's API, {runs} runs each, interleaved; medians:");
    for (contender, time) in contenders.iter().zip(&times) {
        println!("  {:<22} {:>7.1} ms   keep / it = {:.2}", contender.name, time / 1e6, times[0] / time);
    }
    println!("  (aim: at most 0.50 of runc)");
    println!("own memory of the shim's server: {before} kB before them, {after} kB after");
    Ok(())
}

/// Everything else.
pub(super) fn run(node: &Node, runs: usize) -> Result<()> {
    let contenders = [Contender::keep(), Contender::runc()];
    let ids = start(node, &contenders)?;
    let before = memory(node, &ids[0])?;
    lives(node, &contenders, &ids, runs)?;
    let between = memory(node, &ids[0])?;
    say("execs at once");
    let times = at_once(&contenders, EXECS, |index, round, turn| {
        let exec = format!("p{round}-{turn}");
        node.ctr(&["task", "exec", "--exec-id", &exec, &ids[index], "/bin/true", "ok"])?.success().map(drop)
    })?;
    print(&format!("{EXECS} execs at once in one container, of {ROUNDS} rounds the median"), &times);
    say("containers at once");
    let times = at_once(&contenders, CONTAINERS, |index, round, turn| {
        let id = format!("c{index}-{round}-{turn}");
        contenders[index].run(node, &["--rm"], IMAGE, &id, &["/bin/true", "ok"]).map(drop)
    })?;
    print(&format!("{CONTAINERS} containers at once, of {ROUNDS} rounds the median"), &times);
    let after = memory(node, &ids[0])?;
    println!(
        "own memory of the shim's server: {before} kB; after {runs} containers {between} kB; after {EXECS} execs at \
         once {after} kB"
    );
    println!("nothing was lost: every container and exec ended with 0");
    end(node, &ids)
}

/// Containers by containerd's API, one after the other, each in the pod of its contender's sleeping one.
fn lives(node: &Node, contenders: &[Contender], pods: &[String], runs: usize) -> Result<()> {
    say("containers, one after the other");
    let client = Client::connect(node)?;
    let mut ids = Vec::new();
    for (contender, pod) in contenders.iter().zip(pods) {
        let id = format!("life-of-{pod}");
        contender.make(node, IMAGE, &id)?;
        client.edit_spec(&id, |spec| {
            spec["annotations"]["io.kubernetes.cri.sandbox-id"] = pod.as_str().into()
        })?;
        ids.push(id);
    }
    let steps = client.lives(&ids, runs)?;
    let times: Vec<f64> =
        steps.iter().map(|steps| steps.iter().sum::<Duration>().as_secs_f64() * 1e9).collect();
    print(&format!("{runs} containers in a pod, created to deleted, one after the other; medians"), &times);
    for (contender, steps) in contenders.iter().zip(steps) {
        steps::print(contender.name, steps);
    }
    end(node, &ids)
}

/// A sleeping container of each contender.
fn start(node: &Node, contenders: &[Contender]) -> Result<Vec<String>> {
    node.import(&images::static_true()?.label("dev.keep.intent", "v1"), IMAGE)?;
    let mut ids = Vec::new();
    for (index, contender) in contenders.iter().enumerate() {
        let id = format!("sleeper-{index}");
        contender.run(node, &["-d"], IMAGE, &id, &["/bin/true", "sleep", "86400"])?;
        // The first exec of a container makes what the others find.
        node.exec(&id, &["/bin/true", "ok"])?.success()?;
        ids.push(id);
    }
    Ok(ids)
}

fn end(node: &Node, ids: &[String]) -> Result<()> {
    ids.iter().try_for_each(|id| node.remove(id))
}

/// Wall nanoseconds for each contender's `count` of `act` at once, the median of the rounds. `act` takes the contender's
/// number, the round and its own.
fn at_once(
    contenders: &[Contender],
    count: usize,
    act: impl Fn(usize, usize, usize) -> Result<()> + Sync,
) -> Result<Vec<f64>> {
    let mut times = vec![Vec::new(); contenders.len()];
    for round in 0..ROUNDS {
        for (index, contender) in contenders.iter().enumerate() {
            let begin = Instant::now();
            let lost: Vec<String> = std::thread::scope(|scope| {
                let act = &act;
                let all: Vec<_> =
                    (0..count).map(|turn| scope.spawn(move || act(index, round, turn))).collect();
                let ended = all.into_iter().map(|one| one.join());
                ended
                    .filter_map(|one| {
                        one.map_or(Some("a panic".to_owned()), |done| done.err().map(|e| format!("{e:#}")))
                    })
                    .collect()
            });
            ensure!(
                lost.is_empty(),
                "{} lost {} of {count}: {}",
                contender.name,
                lost.len(),
                lost.join("\n")
            );
            times[index].push(begin.elapsed().as_secs_f64() * 1e9);
        }
    }
    Ok(times.into_iter().map(median).collect())
}

fn print(what: &str, times: &[f64]) {
    if let [keep, runc] = times {
        println!(
            "{what}: keep {:.1} ms, shim-runc-v2 + runc {:.1} ms: {:.2}",
            keep / 1e6,
            runc / 1e6,
            keep / runc
        );
    }
}

/// Memory that the shim's server shares with nobody while it waits, in kB.
fn memory(node: &Node, id: &str) -> Result<u64> {
    std::thread::sleep(super::SETTLED);
    let server = node.shims(id).into_iter().min_by_key(|process| process.inside);
    super::kilobytes(server.context("there is no shim")?.pid, "Private_Dirty:")
}
