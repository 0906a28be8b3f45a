//! An observer, once it executed itself anew.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::command::until;
use tests::node::{Node, Runtime};

use crate::{DENIED_FILE, Who, ask, ensure_refused, outcome, serving};

const ID: &str = "anew";
const IMAGE: &str = "keep.test/declared:1";

/// Longest until an observer executes itself anew: a second after the first call that it answered, on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// What is tried, the wall and object of its record, and the label that it names.
const MOVES: [(&str, &str, &str, &str); 5] = [
    ("exec:/bin/other", "exec", "/bin/other", "dev.keep.exec"),
    ("write:/opt/state/anew", "file", "/opt/state/anew", "dev.keep.write"),
    ("connect:127.0.0.1:9003", "network", "127.0.0.1:9003/tcp", "dev.keep.connect"),
    ("udp:127.0.0.1:9004", "network", "127.0.0.1:9004/udp", "dev.keep.connect"),
    ("syscall:msgget", "syscall", "msgget", "dev.keep.needs"),
];

/// It sees, records and refuses what the one before it did, of its container and of a session in it; and what it would have
/// answered is refused when it is killed.
pub(crate) fn goes_on(node: &Node) -> Result<()> {
    serving(node, Runtime::Keep, IMAGE, ID, || {
        let observer = until("an observer that executed itself anew", SOON, || {
            let shims = node.shims(ID);
            shims.iter().find(|process| process.line.ends_with(" observe")).map(|process| process.pid)
        })?;
        for who in [Who::Init, Who::Exec] {
            for (what, ..) in MOVES {
                ensure_refused(&outcome(node, ID, who, what)?, DENIED_FILE, what)?;
            }
        }
        for (what, wall, object, label) in MOVES {
            for exec in [false, true] {
                let record = node.record(ID, what, |record| {
                    let begins = record["object"].as_str().is_some_and(|text| text.starts_with(object));
                    record["wall"] == wall && begins && record["container"]["exec"].is_string() == exec
                })?;
                ensure!(record["process"]["program"] == "/bin/keep-probe", "{what}: {record}");
                ensure!(record["allow"]["label"] == label, "{what}: {record}");
            }
        }
        ensure!(
            node.shims(ID).iter().any(|process| process.pid == observer),
            "it is not the one that was there before"
        );
        kill(Pid::from_raw(observer), Signal::SIGKILL).context("cannot kill the observer")?;
        for (what, ..) in MOVES {
            // Whoever asked may be gone with it: that lets nothing pass either.
            let said = ask(node, &format!("many?{what}")).unwrap_or_default();
            ensure!(!said.contains(": ok"), "after its end: {said}");
        }
        Ok(())
    })
}
