//! What can be done to the containers of a pod. Each operation that touches the kernel much is a child's work.

mod execs;
mod exits;
mod upkeep;

use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use containerd_shim_protos::api::Mount;
use containerd_shim_protos::events::task::{TaskCreate, TaskIO, TaskStart};
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::topics;
use sandbox::handover;
use tokio::sync::Notify;

use crate::child;
use crate::config::Config;
use crate::console::Console;
use crate::container::{Container, Containers, Process, Target};
use crate::create::{self, Creation};
use crate::error::{Failure, Kind, chain};
use crate::events::Publisher;
use crate::identity::Id;
use crate::lifecycle::{Lifecycle, Step};
use crate::network::Birthplace;
use crate::observer::{Observer, Of};
use crate::reaper::Reaper;
use crate::remove;
use crate::rootfs::RootfsMount;
use crate::socket;
use crate::stdio::{self, Owner, Prepared, ProcessStdio, StdioRequest};
use crate::walls::Folders;

/// How long a shim without containers waits for one: containerd asks for the first right after the shim's start, and tells a
/// shim to end right after the last. One that was killed between the two never does.
const UNUSED: Duration = Duration::from_secs(20);

/// Longest from a start to the program's first instruction.
const START: Duration = Duration::from_secs(60);

/// The containers of one pod and what serves them.
#[derive(Debug, Clone)]
pub(crate) struct Pod {
    /// Its containers.
    pub(crate) containers: Containers,
    /// containerd namespace.
    pub(crate) namespace: Id,
    /// containerd's gRPC socket.
    pub(crate) containerd: String,
    /// Collects children.
    pub(crate) reaper: Reaper,
    /// Publishes events.
    pub(crate) publisher: Publisher,
    /// Descriptors that tokio has once for a process: a child that asks containerd builds a runtime of its own, and
    /// tokio's signal driver expects them there.
    pub(crate) runtime_descriptors: Vec<RawFd>,
    /// Where the shim listens, until it ends.
    pub(crate) socket: Arc<Mutex<Option<PathBuf>>>,
    /// Told when the shim has nothing left to do.
    pub(crate) ended: Arc<Notify>,
}

/// What containerd asks to be created.
#[derive(Debug)]
pub(crate) struct NewContainer {
    pub(crate) id: Id,
    pub(crate) bundle: PathBuf,
    pub(crate) config: Config,
    pub(crate) rootfs: Vec<RootfsMount>,
    pub(crate) stdio: StdioRequest,
}

/// A process's streams and handover, made before it.
struct Connections {
    theirs: ProcessStdio,
    ours: Prepared,
    console: Option<Console>,
    giver: handover::Giver,
    taker: handover::Taker,
}

impl Connections {
    fn make(stdio: &StdioRequest, config: &Config, owner: Owner<'_>) -> Result<Self, Failure> {
        let (theirs, ours) = stdio::prepare(stdio, owner)?;
        let console = stdio
            .terminal
            .then(|| Console::bind(&config.state_dir))
            .transpose()
            .map_err(|err| Failure::internal("cannot listen for the terminal", &err))?;
        let (giver, taker) =
            handover::pair().map_err(|err| Failure::internal("cannot make the handover", &err))?;
        Ok(Self { theirs, ours, console, giver, taker })
    }

    fn raw(&self) -> Vec<i32> {
        let mut raw = self.theirs.raw();
        raw.push(self.giver.as_fd().as_raw_fd());
        raw
    }

    fn console_path(&self) -> Option<PathBuf> {
        self.console.as_ref().map(|console| console.path().to_owned())
    }
}

impl Pod {
    /// Creates a container; its process waits for [`Pod::start`].
    ///
    /// # Errors
    /// See [`create::create`].
    pub(crate) async fn create(&self, new: NewContainer) -> Result<i32, Failure> {
        let coming = self.containers.begin(&new.id)?;
        let expecting = self.reaper.expecting();
        let folders = Folders::new(&new.config, &self.namespace, &new.id);
        let connections = Connections::make(&new.stdio, &new.config, self.owner(&new.id))?;
        let mut keep = connections.raw();
        keep.extend(&self.runtime_descriptors);
        let console = connections.console_path();
        let Connections { theirs, mut ours, console: terminal, giver, taker } = connections;
        ours.ready().await?;
        folders.point_from(&new.bundle).and_then(|()| folders.make()).map_err(|err| {
            if err.kind() == ErrorKind::AlreadyExists {
                let text = format!("container {} exists already", new.id.as_str());
                return Failure::new(Kind::AlreadyExists, text);
            }
            // On a full disk some of them may be there.
            if let Err(err) = folders.remove() {
                tracing::error!(error = %err, "something is left of a container that was not created");
            }
            Failure::internal("cannot make the container's state folder", &err)
        })?;
        let Birthplace { folder: cgroup, problem: no_cgroup } = Birthplace::make(&folders);
        let creation = Creation {
            namespace: self.namespace.clone(),
            id: new.id.clone(),
            bundle: new.bundle.clone(),
            containerd: self.containerd.clone(),
            mounts: new.rootfs.clone(),
            config: new.config.clone(),
            folders: folders.clone(),
            stdio: theirs,
            console,
            giver,
            no_cgroup,
        };
        let create = move || create::create(creation);
        let cgroup = cgroup.as_ref().map(AsFd::as_fd);
        let created = child::run_in(cgroup, &self.reaper, "create the container", &keep, create).await;
        let connected = created.and_then(|pid| {
            let master = terminal.map(Console::receive).transpose();
            let relay = master.and_then(|master| ours.relay(master));
            relay
                .map(|relay| (pid, relay))
                .map_err(|err| Failure::internal("cannot connect the streams", &err))
        });
        let (pid, relay) = match connected {
            Ok(connected) => connected,
            Err(failure) => {
                self.reaper.failed();
                drop(expecting);
                self.undo(folders, new.bundle).await;
                drop(coming);
                self.end_if_unused();
                return Err(failure);
            }
        };
        let mut init = Process::new(new.stdio.clone(), Vec::new());
        (init.pid, init.state, init.taker, init.relay) = (pid, Lifecycle::Created, Some(taker), Some(relay));
        let container = Container {
            bundle: new.bundle.clone(),
            folders,
            config: new.config,
            own_pids: is_first_of_its_pids(pid),
            init,
            execs: std::collections::BTreeMap::new(),
            memory: None,
        };
        coming.arrived(container);
        self.watch_memory(&new.id, pid);
        // Before its exit can be: that follows from here on.
        let event = created_event(&new.id, &new.bundle, &new.rootfs, &new.stdio, pid);
        self.publisher.publish(topics::TASK_CREATE_EVENT_TOPIC, &event);
        self.watch(Target { id: new.id.clone(), exec: None }, pid);
        drop(expecting);
        Ok(pid)
    }

    fn owner<'a>(&'a self, id: &'a Id) -> Owner<'a> {
        Owner { id: id.as_str(), namespace: self.namespace.as_str() }
    }

    /// Removes what a container that could not be created left behind.
    async fn undo(&self, folders: Folders, bundle: PathBuf) {
        let undone =
            child::run(&self.reaper, "undo the creation", &[], move || remove::remove(&folders, &bundle))
                .await;
        if let Err(failure) = undone {
            tracing::error!(%failure, "something is left of a container that was not created");
        }
    }

    /// Starts a created container or an added exec; returns when its program runs behind its walls.
    ///
    /// # Errors
    /// When a wall cannot be raised, the program cannot be executed, or the state is another.
    pub(crate) async fn start(&self, target: &Target) -> Result<i32, Failure> {
        match &target.exec {
            None => self.start_init(target).await,
            Some(exec) => self.start_exec(target, exec).await,
        }
    }

    async fn start_init(&self, target: &Target) -> Result<i32, Failure> {
        let (pid, observer) = self.containers.with(&target.id, |container| {
            container.init.step(Step::Start)?;
            let taker = container
                .init
                .taker
                .take()
                .ok_or_else(|| Failure::new(Kind::Precondition, "the container was started before"))?;
            Ok((container.init.pid, observer(container, Of::Init, taker)))
        })?;
        self.observe(observer).await?;
        self.containers.with_process(target, |process| process.step(Step::Started))?;
        let event = TaskStart {
            container_id: target.id.as_str().to_owned(),
            pid: unsigned(pid),
            ..TaskStart::default()
        };
        self.publisher.publish(topics::TASK_START_EVENT_TOPIC, &event);
        Ok(pid)
    }

    /// Forks the observer, which starts the container, and waits until the program runs.
    async fn observe(&self, observer: Observer) -> Result<(), Failure> {
        let keep = [observer.taker.as_fd().as_raw_fd()];
        let mut child =
            child::spawn(&self.reaper, "start the container", &keep, move |answers| observer.run(&answers))?;
        child.answer::<()>(START).await
    }

    /// Ends the server in a while, if no container is there then and none on its way.
    pub(crate) fn end_if_unused(&self) {
        if !self.containers.is_empty() {
            return;
        }
        let pod = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(UNUSED).await;
            if pod.containers.is_empty() && !pod.reaper.is_expecting() {
                tracing::info!("containerd uses this shim no more");
                pod.end();
            }
        });
    }

    /// Tells the server that nothing is left to do. From here on no start finds it: containerd may use the pod's id again
    /// while the last events are on their way.
    pub(crate) fn end(&self) {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Err(err)) = socket.map(|socket| socket::remove_own(&socket)) {
            tracing::warn!(error = %chain(err.as_ref()), "the next start of this pod may find a shim that ends");
        }
        self.ended.notify_one();
    }
}

fn observer(container: &Container, of: Of, taker: handover::Taker) -> Observer {
    Observer { of, folders: container.folders.clone(), data_dir: container.config.data_dir.clone(), taker }
}

fn created_event(
    id: &Id,
    bundle: &std::path::Path,
    rootfs: &[RootfsMount],
    stdio: &StdioRequest,
    pid: i32,
) -> TaskCreate {
    let mount = |mount: &RootfsMount| Mount {
        type_: mount.kind.clone(),
        source: mount.source.clone(),
        options: mount.options.clone(),
        ..Mount::default()
    };
    TaskCreate {
        container_id: id.as_str().to_owned(),
        bundle: bundle.to_string_lossy().into_owned(),
        rootfs: rootfs.iter().map(mount).collect(),
        io: MessageField::some(TaskIO {
            stdin: stdio.stdin.clone(),
            stdout: stdio.stdout.clone(),
            stderr: stdio.stderr.clone(),
            terminal: stdio.terminal,
            ..TaskIO::default()
        }),
        pid: unsigned(pid),
        ..TaskCreate::default()
    }
}

/// Whether a process is the first of a process namespace: with it the kernel ends all others.
fn is_first_of_its_pids(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    numbers.and_then(|numbers| numbers.split_whitespace().last()) == Some("1")
}

fn unsigned(pid: i32) -> u32 {
    u32::try_from(pid).unwrap_or_default()
}
