//! The task API: the same calls under runc's shim and under Keep, whose answers and events must be the same but for what
//! docs/task-api.md decides.

#![forbid(unsafe_code)]

mod faults;
mod limits;
mod processes;
mod protocol;
mod refusals;
mod transcript;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use tests::command::until;
use tests::images;
use tests::node::{Containerd, Node, Options, Runtime};
use tests::shared::Shared;
use tests::task::{Client, Event, Events, Streams};

use transcript::Transcript;

/// Image with a shell and the usual programs, which declares nothing.
pub const BUSYBOX: &str = "keep.test/busybox:1";

/// Longest that anything is waited for.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Topic of the last event of a container.
pub const DELETED: &str = "/tasks/delete";

/// One container's case: what to do it with.
pub struct Case<'a> {
    pub node: &'a Node,
    pub client: &'a Client,
    pub events: &'a Events,
    pub runtime: Runtime,
    /// The container's id.
    pub id: String,
    /// Where the answers go.
    pub said: Transcript,
}

impl Case<'_> {
    /// Makes the container, with no task yet.
    pub fn make(&self, flags: &[&str], arguments: &[&str]) -> Result<()> {
        self.node.make_container(self.runtime, flags, BUSYBOX, &self.id, arguments)
    }

    /// Makes the container and its task, without streams; the process id.
    pub fn created(&self, flags: &[&str], arguments: &[&str]) -> Result<u32> {
        self.make(flags, arguments)?;
        Ok(self.client.create(&self.id, &Streams::default())?)
    }

    /// The same, started.
    pub fn running(&self, flags: &[&str], arguments: &[&str]) -> Result<u32> {
        let pid = self.created(flags, arguments)?;
        self.client.start(&self.id, "")?;
        Ok(pid)
    }

    /// Adds an exec without streams and starts it; the process id.
    pub fn exec(&self, exec: &str, arguments: &[&str]) -> Result<u32> {
        self.client.add_exec(&self.id, exec, arguments, &Streams::default())?;
        Ok(self.client.start(&self.id, exec)?)
    }

    /// Waits until a process runs a program: runc's own does when runc's shim says that the exec has started.
    pub fn runs(&self, pid: u32, program: &str) -> Result<()> {
        until(program, PATIENCE, || {
            let outside = self.node.outside(pid.cast_signed()).ok()?;
            let name = std::fs::read_to_string(format!("/proc/{outside}/comm")).ok()?;
            (name.trim() == program).then_some(())
        })
    }

    /// Ends the container and deletes its task; all its events.
    pub fn ended(&self) -> Result<Vec<Event>> {
        self.client.kill(&self.id, "", 9, false)?;
        self.client.wait(&self.id, "")?;
        self.deleted()
    }

    /// Deletes its task, which has ended; all events until then. runc's shim may end before it tells of the deletion; Keep's
    /// does not.
    pub fn deleted(&self) -> Result<Vec<Event>> {
        let code = self.client.delete(&self.id)?;
        let (mut events, complete) = self.events.until(&self.id, DELETED, PATIENCE)?;
        let last = events.pop_if(|event| event.topic == DELETED);
        if self.runtime != Runtime::Runc {
            ensure!(complete, "no event of its deletion came: {events:#?}");
            let expected = format!("\"\" status {code} at a time");
            ensure!(last.as_ref().is_some_and(|last| last.words == expected), "{last:?} is not {expected}");
        }
        Ok(events)
    }
}

type Run = fn(&mut Case<'_>) -> Result<()>;

fn main() -> ExitCode {
    let cases = [processes::CASES, refusals::CASES, limits::CASES, protocol::CASES].concat();
    Shared::conclude(prepare, |containerd, node| {
        let node = node.with_shim();
        let compared = cases.iter().copied().enumerate().map(|(number, (case, run))| {
            let compare = move |node: &mut Node| compared(node, containerd, case, number, run);
            node.trial(format!("{containerd}: {case}"), compare)
        });
        let others = faults::TESTS.iter();
        let others = others.map(|(name, test)| node.trial(format!("{containerd}: {name}"), *test));
        compared.chain(others).collect()
    })
}

fn prepare(containerd: Containerd) -> Result<Node> {
    let node = Node::start(Options::new(containerd))?;
    node.import(&images::busybox()?, BUSYBOX)?;
    Ok(node)
}

/// Runs a case under runc's shim and under Keep, and compares.
fn compared(node: &Node, containerd: Containerd, case: &str, number: usize, run: Run) -> Result<()> {
    let reference = transcript(node, Runtime::Runc, number, run)?;
    let ours = transcript(node, Runtime::Keep, number, run)?;
    ours.compare(case, containerd, &reference)
}

fn transcript(node: &Node, runtime: Runtime, number: usize, run: Run) -> Result<Transcript> {
    let client = Client::connect(node)?;
    let events = Events::subscribe(node, &client)?;
    let id = format!("task-{runtime}-{number}");
    let mut case =
        Case { node, client: &client, events: &events, runtime, id: id.clone(), said: Transcript::default() };
    let result =
        run(&mut case).map_err(|error| error.context(format!("under {runtime}, after {:#?}", case.said)));
    let said = case.said;
    let gone = node.remove(&id);
    result.and(gone).map(|()| said)
}
