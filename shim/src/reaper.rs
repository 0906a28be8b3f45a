//! Collects exited children: the containers' processes, whose exits clients wait for, and the shim's own helpers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::sys::signal::{Signal as KillSignal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// How long the shim waits, after a child's end, for the next before it gives memory back.
const REST: Duration = Duration::from_secs(1);

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit {
    /// Exit code, or 128 plus the signal's number, as shells and runc say.
    pub(crate) code: u32,
    /// When it was collected.
    pub(crate) at: SystemTime,
}

/// Hands each exit to whoever waits for that process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reaper {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: HashMap<i32, oneshot::Sender<Exit>>,
    /// Exits that nobody has asked for yet: a process may end before its creation is reported.
    unclaimed: HashMap<i32, Exit>,
    /// Operations under way that may yet ask for an unclaimed exit.
    expecting: usize,
    /// Whether an operation failed that may have made processes of which nobody knows.
    failed: bool,
}

/// While it lives, exits of unknown processes are kept.
#[derive(Debug)]
pub(crate) struct Expecting(Reaper);

impl Drop for Expecting {
    fn drop(&mut self) {
        let mut shared = self.0.lock();
        shared.expecting -= 1;
        if shared.expecting == 0 {
            shared.unclaimed.clear();
            if std::mem::take(&mut shared.failed) {
                end_strays(&shared.waiting);
            }
        }
    }
}

/// Kills this process's children that are not `known`, as long as they are still this program (on the way to becoming a
/// container's), or became a container's. Others were adopted: with the node's process namespace, a container's orphans are.
fn end_strays(known: &HashMap<i32, oneshot::Sender<Exit>>) {
    let children = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_else(|err| {
        tracing::error!(error = %err, "cannot look for processes that a failed start left");
        String::new()
    });
    let children = children.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok());
    for pid in children.filter(|pid| !known.contains_key(pid)) {
        let same = |what: &str| {
            let ours = std::fs::read_link(format!("/proc/self/{what}"));
            ours.is_ok_and(|ours| {
                std::fs::read_link(format!("/proc/{pid}/{what}")).is_ok_and(|its| its == ours)
            })
        };
        // Nobody else can have its number: it is ours to collect.
        if (same("exe") || !same("ns/pid"))
            && let Err(errno) = kill(Pid::from_raw(pid), KillSignal::SIGKILL)
        {
            tracing::debug!(%errno, pid, "a process that a failed start left had ended");
        }
    }
}

impl Reaper {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be held from before a process can come into being until [`Reaper::exit_of`] was called for it.
    pub(crate) fn expecting(&self) -> Expecting {
        self.lock().expecting += 1;
        Expecting(self.clone())
    }

    /// Whether an operation is under way that may make processes.
    pub(crate) fn is_expecting(&self) -> bool {
        self.lock().expecting > 0
    }

    /// To be told of an operation that failed, while its [`Expecting`] lives. What it may have left running is ended as soon as
    /// no other operation is under way, whose processes could be taken for it.
    pub(crate) fn failed(&self) {
        self.lock().failed = true;
    }

    /// Resolves when `pid` has been collected. Ask while an [`Expecting`] lives, or before the process can end.
    pub(crate) fn exit_of(&self, pid: Pid) -> oneshot::Receiver<Exit> {
        let (sender, receiver) = oneshot::channel();
        let mut shared = self.lock();
        match shared.unclaimed.remove(&pid.as_raw()) {
            Some(exit) => {
                deliver(sender, pid, exit);
            }
            None => {
                shared.waiting.insert(pid.as_raw(), sender);
            }
        }
        receiver
    }

    /// Collects exits for ever. Every operation that needs memory is a child's, so after the last of them the shim rests.
    pub(crate) async fn run(self, mut children: Signal) {
        while children.recv().await.is_some() {
            self.collect();
            while let Ok(Some(())) = tokio::time::timeout(REST, children.recv()).await {
                self.collect();
            }
            crate::idle::rest_soon();
        }
    }

    fn collect(&self) {
        loop {
            let (pid, code) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, u32::try_from(code).unwrap_or(255)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as u32),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(errno) => {
                    tracing::error!(%errno, "cannot collect children");
                    return;
                }
            };
            let exit = Exit { code, at: SystemTime::now() };
            let mut shared = self.lock();
            match shared.waiting.remove(&pid.as_raw()) {
                Some(sender) => deliver(sender, pid, exit),
                None if shared.expecting > 0 => {
                    shared.unclaimed.insert(pid.as_raw(), exit);
                }
                None => {}
            }
        }
    }
}

fn deliver(waiting: oneshot::Sender<Exit>, pid: Pid, exit: Exit) {
    if waiting.send(exit).is_err() {
        tracing::debug!(%pid, "nobody waits for this exit any more");
    }
}

/// The stream of `SIGCHLD`; must exist before the first child does.
///
/// # Errors
/// When the handler cannot be installed.
pub(crate) fn children() -> std::io::Result<Signal> {
    signal(SignalKind::child())
}
