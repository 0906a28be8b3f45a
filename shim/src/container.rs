//! The pod's containers and their execs, as the shim keeps them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::config::Config;
use crate::error::{Failure, Kind};
use crate::identity::Id;
use crate::lifecycle::{Lifecycle, Step};
use crate::oom::Watch;
use crate::pod::Waiting;
use crate::reaper::Exit;
use crate::stdio::{Relay, StdioRequest};
use crate::walls::Folders;

/// One process: a container's own, or an exec.
#[derive(Debug)]
pub(crate) struct Process {
    /// Process id in the shim's pid namespace; 0 while there is none.
    pub(crate) pid: i32,
    /// Where it stands.
    pub(crate) state: Lifecycle,
    /// What its streams are connected to.
    pub(crate) stdio: StdioRequest,
    /// The relay of its streams, until it is deleted.
    pub(crate) relay: Option<Relay>,
    /// A container's own: the observer that will start it, until it does.
    pub(crate) waiting: Option<Waiting>,
    /// An exec's process as containerd describes it.
    pub(crate) spec: Vec<u8>,
    /// Becomes its exit.
    pub(crate) ended: watch::Sender<Option<Exit>>,
}

impl Process {
    /// A process that does not exist yet.
    pub(crate) fn new(stdio: StdioRequest, spec: Vec<u8>) -> Self {
        Self {
            pid: 0,
            state: Lifecycle::Added,
            stdio,
            relay: None,
            waiting: None,
            spec,
            ended: watch::Sender::new(None),
        }
    }

    /// Takes a step.
    ///
    /// # Errors
    /// When its state does not take it.
    pub(crate) fn step(&mut self, step: Step) -> Result<(), Failure> {
        self.state = self.state.after(step)?;
        Ok(())
    }
}

/// One container.
#[derive(Debug)]
pub(crate) struct Container {
    /// containerd's bundle.
    pub(crate) bundle: PathBuf,
    /// Our folders.
    pub(crate) folders: Folders,
    /// The handler's configuration.
    pub(crate) config: Config,
    /// Whether it has a process namespace of its own.
    pub(crate) own_pids: bool,
    /// Its own process.
    pub(crate) init: Process,
    /// Its execs.
    pub(crate) execs: BTreeMap<Id, Process>,
    /// Its memory, watched while its own process lives.
    pub(crate) memory: Option<Watch>,
}

impl Container {
    /// Its own process, or an exec.
    ///
    /// # Errors
    /// When there is no such exec.
    pub(crate) fn process(&mut self, exec: Option<&Id>) -> Result<&mut Process, Failure> {
        let Some(exec) = exec else { return Ok(&mut self.init) };
        let missing = || Failure::new(Kind::NotFound, format!("exec {} not found", exec.as_str()));
        self.execs.get_mut(exec).ok_or_else(missing)
    }

    /// Whether it takes an exec.
    ///
    /// # Errors
    /// When it is paused or has stopped.
    pub(crate) fn takes_exec(&self) -> Result<(), Failure> {
        match self.init.state {
            Lifecycle::Added | Lifecycle::Created | Lifecycle::Starting | Lifecycle::Running => Ok(()),
            Lifecycle::Paused => Err(Failure::new(Kind::Precondition, "cannot exec in a paused container")),
            Lifecycle::Stopped(_) => {
                Err(Failure::new(Kind::Precondition, "cannot exec in a container that has stopped"))
            }
        }
    }
}

/// Which process a call means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// Container.
    pub(crate) id: Id,
    /// Exec, or the container's own process.
    pub(crate) exec: Option<Id>,
}

impl Target {
    /// From a request's ids; an empty exec id means the container's own process.
    ///
    /// # Errors
    /// When an id is invalid.
    pub(crate) fn parse(id: &str, exec: &str) -> Result<Self, Failure> {
        let exec = if exec.is_empty() { None } else { Some(Id::parse(exec)?) };
        Ok(Self { id: Id::parse(id)?, exec })
    }
}

/// All containers of the pod.
#[derive(Debug, Clone, Default)]
pub(crate) struct Containers {
    shared: Arc<Mutex<BTreeMap<Id, Container>>>,
    /// Those that are being created.
    coming: watch::Sender<BTreeSet<Id>>,
}

/// While it lives, a container is being created.
#[derive(Debug)]
pub(crate) struct Coming {
    containers: Containers,
    id: Id,
}

impl Coming {
    /// It is there from now on.
    pub(crate) fn arrived(self, container: Container) {
        self.containers.lock().insert(self.id.clone(), container);
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        self.containers.coming.send_modify(|coming| {
            coming.remove(&self.id);
        });
    }
}

impl Containers {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Id, Container>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a container is being created.
    ///
    /// # Errors
    /// When there is one of this id, or one is being created already.
    pub(crate) fn begin(&self, id: &Id) -> Result<Coming, Failure> {
        let known = self.lock().contains_key(id);
        if known || !self.coming.send_if_modified(|coming| coming.insert(id.clone())) {
            let text = format!("container {} exists already", id.as_str());
            return Err(Failure::new(Kind::AlreadyExists, text));
        }
        Ok(Coming { containers: self.clone(), id: id.clone() })
    }

    /// Waits while the container of this id is being created. Who takes it for unknown meanwhile may give it up: a containerd that
    /// is started again asks for the processes of each container, and leaves one without any to itself.
    pub(crate) async fn settled(&self, id: &Id) {
        let mut coming = self.coming.subscribe();
        // Its sender lives as long as `self`.
        if let Err(err) = coming.wait_for(|coming| !coming.contains(id)).await {
            tracing::debug!(error = %err, "not waited for a creation");
        }
    }

    /// Forgets a container.
    pub(crate) fn remove(&self, id: &Id) -> Option<Container> {
        self.lock().remove(id)
    }

    /// Whether there are none left, and none is being created.
    pub(crate) fn is_empty(&self) -> bool {
        self.coming.borrow().is_empty() && self.lock().is_empty()
    }

    /// Runs `f` on a container.
    ///
    /// # Errors
    /// When there is no such container; or `f`'s own.
    pub(crate) fn with<T>(
        &self,
        id: &Id,
        f: impl FnOnce(&mut Container) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut containers = self.lock();
        let container = containers
            .get_mut(id)
            .ok_or_else(|| Failure::new(Kind::NotFound, format!("container {} not found", id.as_str())))?;
        f(container)
    }

    /// Runs `f` on a process.
    ///
    /// # Errors
    /// When there is no such container or exec; or `f`'s own.
    pub(crate) fn with_process<T>(
        &self,
        target: &Target,
        f: impl FnOnce(&mut Process) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.with(&target.id, |container| f(container.process(target.exec.as_ref())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_asks_for_a_container_that_is_being_created_waits_and_others_do_not() {
        let containers = Containers::default();
        let id = |name| Id::parse(name).unwrap();
        let coming = containers.begin(&id("a")).unwrap();
        assert!(!containers.is_empty());
        assert_eq!(containers.begin(&id("a")).unwrap_err().kind, Kind::AlreadyExists);
        containers.settled(&id("b")).await;
        let waiting = tokio::spawn({
            let containers = containers.clone();
            async move { containers.settled(&id("a")).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(coming);
        waiting.await.unwrap();
        assert!(containers.is_empty());
    }
}
