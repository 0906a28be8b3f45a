//! A client of containerd's task service, and of a shim itself, as Kubernetes is one.

mod events;
mod shim;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::snapshots::MountsRequest;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::services::v1::{
    Container, CreateContainerRequest, CreateTaskRequest, DeleteContainerRequest, DeleteProcessRequest,
    DeleteTaskRequest, ExecProcessRequest, GetContainerRequest, GetRequest, KillRequest, StartRequest,
    UpdateContainerRequest, UpdateTaskRequest, WaitRequest,
};
use containerd_client::tonic::transport::Channel;
use containerd_client::tonic::{Request, Response, Status};
use containerd_client::types::Mount;
use containerd_client::types::v1::Process;
use prost_types::{Any, FieldMask};
use serde_json::Value;
use tokio::runtime::Runtime as Tokio;

use crate::node::{Node, Runtime as Handler};

pub use events::{Event, Events};
pub use shim::Shim;

/// Longest that one call may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The steps of a task's life: its creation, and the shim's start if it is the first of its pod; its program's start; its end;
/// its removal, and the shim's end if it is the last.
pub const STEPS: [&str; 4] = ["create", "start", "end", "delete"];

/// What a call answers.
pub type Answer<T> = std::result::Result<T, Status>;

/// What a process's streams are connected to: paths of fifos or log URIs, or nothing.
#[derive(Debug, Clone, Default)]
pub struct Streams {
    /// Fifo.
    pub stdin: String,
    /// Fifo or URI.
    pub stdout: String,
    /// Fifo or URI.
    pub stderr: String,
    /// Whether the process has a terminal.
    pub terminal: bool,
}

/// A connection to a node's containerd.
#[derive(Debug)]
pub struct Client {
    runtime: Tokio,
    channel: Channel,
    namespace: String,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// When containerd does not listen.
    pub fn connect(node: &Node) -> Result<Self> {
        Self::at(&node.socket(), &node.namespace)
    }

    /// Connects to the containerd that listens at `socket`.
    ///
    /// # Errors
    /// When none does.
    pub fn at(socket: &Path, namespace: &str) -> Result<Self> {
        let runtime = runtime()?;
        let channel = runtime.block_on(containerd_client::connect(socket));
        let channel = channel.context("cannot connect to containerd")?;
        Ok(Self { runtime, channel, namespace: namespace.to_owned() })
    }

    /// Makes one call.
    fn call<M, T, F>(&self, message: M, call: impl FnOnce(Request<M>) -> F) -> Answer<T>
    where
        F: Future<Output = Answer<Response<T>>>,
    {
        let request = in_namespace(message, &self.namespace)?;
        self.runtime.block_on(async {
            let timeout = |_| Status::deadline_exceeded("the test's client waited in vain");
            tokio::time::timeout(PATIENCE, call(request)).await.map_err(timeout)?.map(Response::into_inner)
        })
    }

    /// Makes one call of the task service.
    ///
    /// # Errors
    /// The service's own.
    pub fn task<M, T>(
        &self,
        message: M,
        call: impl AsyncFnOnce(TasksClient<Channel>, Request<M>) -> Answer<Response<T>>,
    ) -> Answer<T> {
        let client = TasksClient::new(self.channel.clone());
        self.call(message, |request| call(client, request))
    }

    /// Makes the task of a container that [`Node::make_container`] made; the process id.
    ///
    /// # Errors
    /// The service's own.
    pub fn create(&self, id: &str, streams: &Streams) -> Answer<u32> {
        let mut snapshots = SnapshotsClient::new(self.channel.clone());
        let asked = MountsRequest { snapshotter: "overlayfs".to_owned(), key: id.to_owned() };
        let rootfs = self.call(asked, |request| async move { snapshots.mounts(request).await })?.mounts;
        self.create_on(id, streams, rootfs)
    }

    /// The same with other mounts of the root filesystem, or none.
    ///
    /// # Errors
    /// The service's own.
    pub fn create_on(&self, id: &str, streams: &Streams, rootfs: Vec<Mount>) -> Answer<u32> {
        let streams = streams.clone();
        let request = CreateTaskRequest {
            container_id: id.to_owned(),
            rootfs,
            stdin: streams.stdin,
            stdout: streams.stdout,
            stderr: streams.stderr,
            terminal: streams.terminal,
            ..CreateTaskRequest::default()
        };
        self.task(request, async |mut tasks, request| tasks.create(request).await).map(|created| created.pid)
    }

    /// Starts the task, or an exec (else `exec` is empty); the process id.
    ///
    /// # Errors
    /// The service's own.
    pub fn start(&self, id: &str, exec: &str) -> Answer<u32> {
        let request = StartRequest { container_id: id.to_owned(), exec_id: exec.to_owned() };
        self.task(request, async |mut tasks, request| tasks.start(request).await).map(|started| started.pid)
    }

    /// Adds an exec of `arguments`.
    ///
    /// # Errors
    /// The service's own, and when the container has no runtime spec.
    pub fn add_exec(&self, id: &str, exec: &str, arguments: &[&str], streams: &Streams) -> Answer<()> {
        let mut process = self.process(id, arguments)?;
        process["terminal"] = Value::from(streams.terminal);
        self.add_exec_of(id, exec, process.to_string().as_bytes(), streams)
    }

    /// The process of a container's runtime spec, with other arguments.
    ///
    /// # Errors
    /// When there is no such container, or it has no runtime spec.
    pub fn process(&self, id: &str, arguments: &[&str]) -> Answer<Value> {
        let mut process = self.spec(id)?["process"].take();
        process["args"] = Value::from(arguments);
        Ok(process)
    }

    /// Removes an exec that has ended.
    ///
    /// # Errors
    /// The service's own.
    pub fn delete_exec(&self, id: &str, exec: &str) -> Answer<()> {
        let request = DeleteProcessRequest { container_id: id.to_owned(), exec_id: exec.to_owned() };
        self.task(request, async |mut tasks, request| tasks.delete_process(request).await).map(drop)
    }

    /// Adds an exec whose process is described by `spec`.
    ///
    /// # Errors
    /// The service's own.
    pub fn add_exec_of(&self, id: &str, exec: &str, spec: &[u8], streams: &Streams) -> Answer<()> {
        let streams = streams.clone();
        let request = ExecProcessRequest {
            container_id: id.to_owned(),
            exec_id: exec.to_owned(),
            stdin: streams.stdin,
            stdout: streams.stdout,
            stderr: streams.stderr,
            terminal: streams.terminal,
            spec: Some(json_any("Process", spec)),
        };
        self.task(request, async |mut tasks, request| tasks.exec(request).await).map(drop)
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// The service's own.
    pub fn kill(&self, id: &str, exec: &str, signal: u32, all: bool) -> Answer<()> {
        let request = KillRequest { container_id: id.to_owned(), exec_id: exec.to_owned(), signal, all };
        self.task(request, async |mut tasks, request| tasks.kill(request).await).map(drop)
    }

    /// How a process stands.
    ///
    /// # Errors
    /// The service's own.
    pub fn get(&self, id: &str, exec: &str) -> Answer<Process> {
        let request = GetRequest { container_id: id.to_owned(), exec_id: exec.to_owned() };
        let process = self.task(request, async |mut tasks, request| tasks.get(request).await)?.process;
        process.ok_or_else(|| Status::internal("no process in the answer"))
    }

    /// Waits for a process's end; its exit code.
    ///
    /// # Errors
    /// The service's own.
    pub fn wait(&self, id: &str, exec: &str) -> Answer<u32> {
        let request = WaitRequest { container_id: id.to_owned(), exec_id: exec.to_owned() };
        self.task(request, async |mut tasks, request| tasks.wait(request).await)
            .map(|ended| ended.exit_status)
    }

    /// Deletes a task that has ended; its exit code.
    ///
    /// # Errors
    /// The service's own.
    pub fn delete(&self, id: &str) -> Answer<u32> {
        let request = DeleteTaskRequest { container_id: id.to_owned() };
        self.task(request, async |mut tasks, request| tasks.delete(request).await)
            .map(|deleted| deleted.exit_status)
    }

    /// Changes limits; `resources` is a runtime spec's `linux.resources`.
    ///
    /// # Errors
    /// The service's own.
    pub fn update(&self, id: &str, resources: &[u8]) -> Answer<()> {
        let request = UpdateTaskRequest {
            container_id: id.to_owned(),
            resources: Some(json_any("LinuxResources", resources)),
            ..UpdateTaskRequest::default()
        };
        self.task(request, async |mut tasks, request| tasks.update(request).await)
    }

    /// Has each container, whose program is to end by itself, live `runs` times, in turn; gives for each the median time of
    /// each of [`STEPS`].
    ///
    /// # Errors
    /// The service's own, and when a program fails.
    pub fn lives(&self, ids: &[impl AsRef<str>], runs: usize) -> Result<Vec<[Duration; STEPS.len()]>> {
        in_turn(ids, runs, |id, _| self.life(id))
    }

    /// Runs `words` in each of the running containers `runs` times as [`Client::probe`] does, in turn; gives for each the median time.
    ///
    /// # Errors
    /// As [`Client::probe`].
    pub fn probes(&self, ids: &[impl AsRef<str>], runs: usize, words: &[&str]) -> Result<Vec<[Duration; 1]>> {
        in_turn(ids, runs, |id, run| Ok([self.probe(id, &format!("e{run}"), words)?]))
    }

    fn life(&self, id: &str) -> Result<[Duration; STEPS.len()]> {
        let mut begin = Instant::now();
        let mut lap = || {
            let taken = begin.elapsed();
            begin = Instant::now();
            taken
        };
        self.create(id, &Streams::default())?;
        let create = lap();
        self.start(id, "")?;
        let start = lap();
        let code = self.wait(id, "")?;
        let end = lap();
        self.delete(id)?;
        ensure!(code == 0, "the program ended with {code}");
        Ok([create, start, end, lap()])
    }

    /// Runs `words` in a running container as a probe of Kubernetes is run, from the request to its removal; gives how long that took.
    ///
    /// # Errors
    /// The service's own, and when the program fails.
    pub fn probe(&self, id: &str, exec: &str, words: &[&str]) -> Result<Duration> {
        let process = self.process(id, words)?;
        let begin = Instant::now();
        self.add_exec_of(id, exec, process.to_string().as_bytes(), &Streams::default())?;
        self.start(id, exec)?;
        let code = self.wait(id, exec)?;
        self.delete_exec(id, exec)?;
        ensure!(code == 0, "it ended with {code}");
        Ok(begin.elapsed())
    }

    /// A container's runtime spec.
    ///
    /// # Errors
    /// When there is no such container, or it has none.
    pub fn spec(&self, id: &str) -> Answer<Value> {
        let spec = self.container(id)?.spec.unwrap_or_default();
        serde_json::from_slice(&spec.value).map_err(|error| Status::internal(error.to_string()))
    }

    /// Changes a container's runtime spec, before its task is made.
    ///
    /// # Errors
    /// When there is no such container, or containerd refuses.
    pub fn edit_spec(&self, id: &str, edit: impl FnOnce(&mut Value)) -> Answer<()> {
        let mut spec = self.spec(id)?;
        edit(&mut spec);
        let mut container = self.container(id)?;
        container.spec = Some(json_any("Spec", spec.to_string().as_bytes()));
        let update_mask = Some(FieldMask { paths: vec!["spec".to_owned()] });
        let request = UpdateContainerRequest { container: Some(container), update_mask };
        let mut containers = ContainersClient::new(self.channel.clone());
        self.call(request, |request| async move { containers.update(request).await }).map(drop)
    }

    /// Gives a container, which must not have a task yet, options for its runtime, as a handler's configuration does.
    ///
    /// # Errors
    /// When there is no such container, or containerd refuses.
    pub fn set_options(&self, id: &str, options: Any) -> Answer<()> {
        self.make_anew(id, |container| {
            if let Some(runtime) = &mut container.runtime {
                runtime.options = Some(options);
            }
        })
    }

    /// Takes the snapshot out of a container's record, which keeps its image, as Docker leaves it out. Nothing holds the snapshot then.
    ///
    /// # Errors
    /// When there is no such container, or containerd refuses.
    pub fn forget_snapshot(&self, id: &str) -> Answer<()> {
        self.make_anew(id, |container| {
            container.snapshot_key.clear();
            container.snapshotter.clear();
        })
    }

    fn make_anew(&self, id: &str, change: impl FnOnce(&mut Container)) -> Answer<()> {
        let mut container = self.container(id)?;
        // What no container refers to may be collected at any time: another one holds the snapshot meanwhile.
        let holder = format!("{id}-holder");
        self.make_record(Container { id: holder.clone(), ..container.clone() })?;
        change(&mut container);
        self.remove_record(id)?;
        self.make_record(container)?;
        self.remove_record(&holder)
    }

    fn make_record(&self, container: Container) -> Answer<()> {
        let mut containers = ContainersClient::new(self.channel.clone());
        let request = CreateContainerRequest { container: Some(container) };
        self.call(request, |request| async move { containers.create(request).await }).map(drop)
    }

    fn remove_record(&self, id: &str) -> Answer<()> {
        let mut containers = ContainersClient::new(self.channel.clone());
        let request = DeleteContainerRequest { id: id.to_owned() };
        self.call(request, |request| async move { containers.delete(request).await }).map(drop)
    }

    fn container(&self, id: &str) -> Answer<Container> {
        let mut containers = ContainersClient::new(self.channel.clone());
        let request = GetContainerRequest { id: id.to_owned() };
        let found = self.call(request, |request| async move { containers.get(request).await })?.container;
        found.ok_or_else(|| Status::internal("no container in the answer"))
    }
}

/// A runtime for one client.
fn runtime() -> Result<Tokio> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start tokio")
}

fn in_namespace<M>(message: M, namespace: &str) -> Answer<Request<M>> {
    let mut request = Request::new(message);
    let name = namespace.parse().map_err(|_| Status::invalid_argument("the namespace is no header"))?;
    request.metadata_mut().insert("containerd-namespace", name);
    Ok(request)
}

/// A part of the OCI runtime spec, as containerd's clients send it.
#[must_use]
pub fn json_any(kind: &str, json: &[u8]) -> Any {
    let type_url = format!("types.containerd.io/opencontainers/runtime-spec/1/{kind}");
    Any { type_url, value: json.to_vec() }
}

impl Node {
    /// Makes a container without a task.
    ///
    /// # Errors
    /// When containerd cannot.
    pub fn make_container(
        &self,
        runtime: Handler,
        flags: &[&str],
        image: &str,
        id: &str,
        arguments: &[&str],
    ) -> Result<()> {
        let mut words = vec!["containers".to_owned(), "create".to_owned()];
        words.extend(runtime.flags(&self.folder.join("classes"))?);
        words.extend(flags.iter().copied().chain(["--", image, id]).map(str::to_owned));
        words.extend(arguments.iter().copied().map(str::to_owned));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.ctr(&words)?.success().map(drop)
    }

    /// containerd's folder of a container's task, the bundle, as seen on this machine.
    #[must_use]
    pub fn bundle(&self, id: &str) -> PathBuf {
        let tasks = self.folder.join("ctd/state/io.containerd.runtime.v2.task");
        tasks.join(&self.namespace).join(id)
    }

    /// A path inside the node as this machine sees it.
    #[must_use]
    pub fn inside(&self, path: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.init()));
        root.join(path.strip_prefix("/").unwrap_or(path))
    }
}

/// Measures something of each container `runs` times, in turn, and once before, which fills caches; gives for each the medians.
fn in_turn<const N: usize>(
    ids: &[impl AsRef<str>],
    runs: usize,
    measure: impl Fn(&str, usize) -> Result<[Duration; N]>,
) -> Result<Vec<[Duration; N]>> {
    let mut measured = vec![[const { Vec::new() }; N]; ids.len()];
    for run in 0..=runs {
        for (id, steps) in ids.iter().zip(&mut measured) {
            let id = id.as_ref();
            let times = measure(id, run).with_context(|| format!("{id}, run {run}"))?;
            if run > 0 {
                steps.iter_mut().zip(times).for_each(|(step, time)| step.push(time));
            }
        }
    }
    let median = |mut times: Vec<Duration>| {
        times.sort_unstable();
        times.get(runs / 2).copied().unwrap_or_default()
    };
    Ok(measured.into_iter().map(|steps| steps.map(median)).collect())
}
