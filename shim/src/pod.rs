//! What can be done to the containers of a pod. Each operation that touches the kernel much is a child's work.

mod execs;
mod exits;
mod starts;
mod upkeep;

use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use containerd_shim_protos::api::Mount;
use containerd_shim_protos::events::task::{TaskCreate, TaskIO};
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::topics;
use sandbox::handover;
use tokio::sync::Notify;

pub(crate) use self::starts::Waiting;
use crate::ahead::Ahead;
use crate::child;
use crate::config::Config;
use crate::console::Console;
use crate::container::{Container, Containers, Process, Target};
use crate::create::{self, Creation};
use crate::error::{Failure, Kind, chain};
use crate::events::Publisher;
use crate::identity::Id;
use crate::lifecycle::Lifecycle;
use crate::network::Birthplace;
use crate::reaper::Reaper;
use crate::remove;
use crate::rootfs::RootfsMount;
use crate::socket;
use crate::stdio::{self, Owner, Prepared, ProcessStdio, StdioRequest};
use crate::walls::Folders;

/// How long a shim without containers waits for one: containerd asks for the first right after the shim's start, and tells a
/// shim to end right after the last. One that was killed between the two never does.
const UNUSED: Duration = Duration::from_secs(20);

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
    /// The look-up of the image of the container that the shim was started for, until that is created.
    pub(crate) ahead: Arc<Mutex<Option<Ahead>>>,
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
        let ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner).take();
        let ahead = ahead.filter(|ahead| ahead.is_of(&new.id));
        keep.extend(ahead.as_ref().map(Ahead::raw));
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
            ahead,
            no_cgroup,
        };
        let created = self.run_creation(creation, &keep, cgroup.as_ref().map(AsFd::as_fd), taker).await;
        let connected = created.and_then(|(pid, waiting)| {
            let master = terminal.map(Console::receive).transpose();
            let relay = master.and_then(|master| ours.relay(master));
            relay
                .map(|relay| (pid, waiting, relay))
                .map_err(|err| Failure::internal("cannot connect the streams", &err))
        });
        let (pid, waiting, relay) = match connected {
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
        (init.pid, init.state, init.waiting, init.relay) =
            (pid, Lifecycle::Created, Some(waiting), Some(relay));
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
        self.tell_of_creation(Target { id: new.id.clone(), exec: None });
        drop(expecting);
        Ok(pid)
    }

    /// One child, which is born in the cgroup whose folder is open as `cgroup`, creates the container; beside it the observer is
    /// forked that will start it.
    async fn run_creation(
        &self,
        creation: Creation,
        keep: &[RawFd],
        cgroup: Option<BorrowedFd<'_>>,
        taker: handover::Taker,
    ) -> Result<(i32, Waiting), Failure> {
        let (folders, data_dir) = (creation.folders.clone(), creation.config.data_dir.clone());
        let create = move || create::create(creation);
        let mut creating = child::begin_in(cgroup, &self.reaper, "create the container", keep, create)?;
        let waiting =
            Waiting::fork(&self.reaper, folders, data_dir, taker).inspect_err(|_| creating.kill())?;
        let pid = creating.answer(child::DEADLINE).await?;
        Ok((pid, waiting))
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
