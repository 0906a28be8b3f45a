//! The pod's containers and their execs, as the shim keeps them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sandbox::handover::Taker;
use tokio::sync::watch;

use crate::config::Config;
use crate::error::{Failure, Kind};
use crate::identity::Id;
use crate::lifecycle::{Lifecycle, Step};
use crate::oom::Watch;
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
    /// Where its listener will arrive, until its observer takes it.
    pub(crate) taker: Option<Taker>,
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
            taker: None,
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
}

impl Containers {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Id, Container>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a container.
    ///
    /// # Errors
    /// When there is one of this id.
    pub(crate) fn insert(&self, id: &Id, container: Container) -> Result<(), Failure> {
        let mut containers = self.lock();
        if containers.contains_key(id) {
            return Err(Failure::new(
                Kind::AlreadyExists,
                format!("container {} exists already", id.as_str()),
            ));
        }
        containers.insert(id.clone(), container);
        Ok(())
    }

    /// Forgets a container.
    pub(crate) fn remove(&self, id: &Id) -> Option<Container> {
        self.lock().remove(id)
    }

    /// Whether there are none left.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
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
