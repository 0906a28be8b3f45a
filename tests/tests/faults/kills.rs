//! SIGKILL of the shim's server and of its children, at every step that changes something outside of themselves.

use anyhow::{Context as _, Result, ensure};
use tests::census::Census;
use tests::command::Output;
use tests::node::{Containerd, Node, Runtime};
use tests::tracer::{Place, Tracer};

use super::{DECLARED, HANG, crossings, in_time, nothing_crossed};

/// The container whose shim serves the others too.
const ANCHOR: &str = "anchor";

/// The calls before which a process is killed: every one of the shim's that changes something outlasting the process, or that
/// another process waits for.
const CALLS: &[&str] = &[
    "mkdir",
    "mkdirat",
    "mount",
    "umount2",
    "clone",
    "clone3",
    "setns",
    "unshare",
    "pivot_root",
    "bpf",
    "rename",
    "unlink",
    "unlinkat",
    "rmdir",
    "symlink",
    "mknodat",
    "sendmsg",
    "recvmsg",
    "execve",
    "seccomp",
    "landlock_restrict_self",
    "capset",
    "write",
    "sendto",
    "socketpair",
    "socket",
    "pipe2",
    "connect",
    "bind",
    "accept4",
    "fchown",
    "setsid",
    "kill",
    "wait4",
    "ioctl",
    "open_tree",
    "move_mount",
    "mount_setattr",
    "exit_group",
];

/// What is done while a process is killed, and what its user does afterwards whatever came of it.
struct Act {
    what: &'static str,
    run: fn(&Node) -> Result<Output>,
    clean: fn(&Node) -> Result<()>,
    /// How many places there are at least, with one containerd.
    places: usize,
}

pub(super) fn of_a_life(node: &mut Node) -> Result<()> {
    let run = |node: &Node| {
        let annotation = format!("io.kubernetes.cri.sandbox-id={ANCHOR}");
        let flags = ["--rm", "--annotation", &annotation];
        node.start_container(Runtime::Keep, &flags, DECLARED, "life", &crossings())
    };
    at_every_place(
        node,
        &Act { what: "a container's life", run, clean: |node| node.remove("life"), places: 60 },
    )
}

pub(super) fn of_an_exec(node: &mut Node) -> Result<()> {
    let run = |node: &Node| node.exec(ANCHOR, &crossings());
    at_every_place(node, &Act { what: "an exec", run, clean: |_| Ok(()), places: 40 })
}

/// Acts once for each place, with the process killed that gets there first, until nothing gets there any more.
fn at_every_place(node: &mut Node, act: &Act) -> Result<()> {
    anchor(node)?;
    (act.run)(node)?.success()?;
    let before = Census::take(node);
    let (mut faults, mut places) = (Vec::new(), 0);
    // With one containerd every other place, with the other those between.
    let first = match node.options.containerd {
        Containerd::Debian => 1,
        Containerd::Built => 2,
    };
    for call in CALLS {
        for number in (first..).step_by(2) {
            let place = Place { call, number };
            let (reached, result) = at_place(node, act, place, &before);
            if let Err(error) = result {
                let fault = format!("{}, killed before {call} number {number}: {error:#}", act.what);
                eprintln!("{fault}");
                faults.push(fault);
            }
            if !reached {
                break;
            }
            places += 1;
        }
    }
    node.remove(ANCHOR)?;
    ensure!(places >= act.places, "only {places} places were reached: too few to prove anything");
    ensure!(faults.is_empty(), "{} faults at {places} places:\n{}", faults.len(), faults.join("\n"));
    Ok(())
}

/// Acts with the process killed that gets first to `place`. Whether one did, and what is wrong.
fn at_place(node: &Node, act: &Act, place: Place, before: &Census) -> (bool, Result<()>) {
    let attached = anchored(node).map_or_else(|| anchor(node), Ok);
    let tracer = match attached.and_then(|server| Tracer::attach(server, place, &node.folder)) {
        Ok(tracer) => tracer,
        Err(error) => return (false, Err(error)),
    };
    let said = in_time(act.what, || (act.run)(node));
    let reached = match tracer.detach() {
        Ok(reached) => reached,
        Err(error) => return (false, Err(error)),
    };
    let cleaned = in_time("the clean-up", || (act.clean)(node));
    let checked = said.and_then(|output| {
        nothing_crossed(&output)?;
        ensure!(reached || output.status.success(), "it failed unharmed: {output}");
        Ok(())
    });
    (reached, checked.and(cleaned).and_then(|()| back(node, before)))
}

/// Waits until all is as it was. The anchor is started anew where it died; so it is where something was left, which is an
/// error once only.
fn back(node: &Node, before: &Census) -> Result<()> {
    if anchored(node).is_none() {
        anchor(node)?;
    }
    let left = before.wait_until_back(node, HANG);
    if !left.is_empty() {
        anchor(node)?;
    }
    ensure!(left.is_empty(), "left: {left:#?}\n{}", node.log_end("containerd"));
    Ok(())
}

/// The server of the anchor's shim, if the anchor runs.
fn anchored(node: &Node) -> Option<i32> {
    node.pid_of(ANCHOR).ok()?;
    let shims = node.shims(ANCHOR);
    shims.iter().min_by_key(|process| process.inside).map(|process| process.pid)
}

/// Starts the anchor anew; its server.
fn anchor(node: &Node) -> Result<i32> {
    node.remove(ANCHOR)?;
    let words = ["/bin/keep-probe", "sleep", "600"];
    let started = node.start_container(Runtime::Keep, &["-d"], DECLARED, ANCHOR, &words)?.success();
    started.with_context(|| format!("containerd said:\n{}", node.log_end("containerd")))?;
    // Its first exec makes folders that stay until its end.
    node.exec(ANCHOR, &["/bin/keep-probe", "ok"])?.success()?;
    anchored(node).context("the anchor does not run")
}
