//! The pod's server: one thread, one ttrpc service under both names of the task API.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use containerd_shim::Flags;
use containerd_shim_protos::shim_async::create_task;
use containerd_shim_protos::ttrpc::r#async::{Server, Service as TtrpcService};
use containerd_shim_protos::ttrpc::asynchronous::transport::Listener;
use tokio::sync::Notify;

use crate::ahead::Ahead;
use crate::container::Containers;
use crate::events::Publisher;
use crate::identity::Id;
use crate::pod::Pod;
use crate::reaper::{self, Reaper};
use crate::service::Service;

/// The task API's names: containerd 1.x calls the first, 2.x the second. Their messages are the same.
const NAMES: [&str; 2] = ["containerd.task.v2.Task", "containerd.task.v3.Task"];

/// How long a server that has nothing left to do waits for its last events and answers to be taken, before it closes its
/// connections. containerd waits for that, 2.x even while it starts and hears of no events yet.
const ANSWERS: Duration = Duration::from_millis(500);

/// How long it waits after that for a containerd that starts to take its last events.
const LINGER: Duration = Duration::from_secs(5);

/// Serves until the pod's last container is gone and containerd said so.
///
/// # Errors
/// When it was not started by `start`, or cannot serve.
pub(crate) fn serve(flags: &Flags) -> Result<()> {
    nix::unistd::setsid().context("cannot leave containerd's session")?;
    crate::logging::init(flags.debug).context("cannot open the log")?;
    let namespace = Id::parse(&flags.namespace)?;
    let (listener, _program) = inherited()?;
    let ahead = ahead(flags, &namespace);
    nix::sys::prctl::set_child_subreaper(true).context("cannot become the reaper of orphans")?;
    let before = descriptors()?;
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().on_thread_park(crate::idle::before_waiting).build()?;
    let mut of_runtime = descriptors()?;
    of_runtime.retain(|fd| !before.contains(fd));
    runtime.block_on(serve_pod(flags, namespace, listener, ahead, of_runtime))
}

/// Begins what can be begun for the container that the server was started for, if `start` names its bundle. What cannot is done when
/// it is created.
fn ahead(flags: &Flags, namespace: &Id) -> Option<Ahead> {
    let id = Id::parse(&flags.id).ok().filter(|_| !flags.bundle.is_empty())?;
    Ahead::begin(&flags.address, namespace, id)
        .inspect_err(|err| tracing::debug!(error = %err, "cannot fork a child"))
        .ok()
}

/// What the server took its standard streams from: the listening socket, and the mount that its program lies on. No child is to have
/// them as its own.
///
/// # Errors
/// When they were not left by `start`.
fn inherited() -> Result<(UnixListener, OwnedFd)> {
    let listener = UnixListener::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    listener.local_addr().context("standard input is no listening socket")?;
    let program = std::io::stdout().as_fd().try_clone_to_owned()?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    Ok((listener, program))
}

/// Numbers of this process's open descriptors.
fn descriptors() -> Result<Vec<RawFd>> {
    let names = std::fs::read_dir("/proc/self/fd")?.map(|entry| Ok(entry?.file_name()));
    let names: Vec<_> = names.collect::<std::io::Result<_>>()?;
    Ok(names.iter().filter_map(|name| name.to_str()?.parse().ok()).collect())
}

async fn serve_pod(
    flags: &Flags,
    namespace: Id,
    listener: UnixListener,
    ahead: Option<Ahead>,
    runtime_descriptors: Vec<RawFd>,
) -> Result<()> {
    let socket = listener.local_addr()?.as_pathname().map(std::path::Path::to_owned);
    let reaper = Reaper::default();
    tokio::spawn(reaper.clone().run(reaper::children()?));
    let events = std::env::var("TTRPC_ADDRESS").unwrap_or_else(|_| format!("{}.ttrpc", flags.address));
    let ended = Arc::new(Notify::new());
    let pod = Pod {
        containers: Containers::default(),
        publisher: Publisher::new(events, namespace.as_str()),
        namespace,
        containerd: flags.address.clone(),
        reaper,
        runtime_descriptors,
        ahead: Arc::new(Mutex::new(ahead)),
        socket: Arc::new(Mutex::new(socket)),
        ended: ended.clone(),
    };
    let publisher = pod.publisher.clone();
    pod.end_if_unused();
    listener.set_nonblocking(true)?;
    let listener = Listener::from(tokio::net::UnixListener::from_std(listener)?);
    let mut server = Server::new().add_listener(listener).register_service(services(pod));
    server.start().await.context("cannot serve")?;
    ended.notified().await;
    let told = publisher.flush(ANSWERS).await;
    let ended = server.shutdown().await.context("cannot end the server");
    if !told && !publisher.flush(LINGER).await {
        tracing::warn!("containerd did not take all events before the shim ended");
    }
    ended
}

/// One service under both names.
fn services(pod: Pod) -> HashMap<String, TtrpcService> {
    let service = Service { pod };
    NAMES
        .iter()
        .flat_map(|name| {
            create_task(Arc::new(service.clone())).into_values().map(|service| ((*name).to_owned(), service))
        })
        .collect()
}
