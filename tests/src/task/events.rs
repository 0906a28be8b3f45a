//! What containerd publishes of tasks.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use containerd_client::events::{
    TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskOom, TaskPaused, TaskResumed,
    TaskStart,
};
use containerd_client::services::v1::events_client::EventsClient;
use containerd_client::services::v1::{PublishRequest, SubscribeRequest};
use containerd_client::tonic::Request;
use containerd_client::types::Envelope;
use prost::{DecodeError, Message};
use prost_types::Any;

use super::{Client, runtime};
use crate::node::Node;

/// Topic by which a subscription is seen to stand: containerd answers a subscriber with the first event only.
const READY: &str = "/keep/ready";

/// How long nothing comes before nothing more is expected.
const SILENCE: Duration = Duration::from_secs(2);

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Topic.
    pub topic: String,
    /// Container.
    pub container: String,
    /// Its fields in words; what differs from run to run only as whether it is there.
    pub words: String,
    /// The process that it is about, 0 where it names none.
    pub pid: u32,
}

/// A subscription to a namespace's events of tasks.
#[derive(Debug)]
pub struct Events {
    received: Receiver<Envelope>,
    namespace: String,
}

impl Events {
    /// Subscribes; what happens from now on is heard.
    ///
    /// # Errors
    /// When containerd does not take the subscription.
    pub fn subscribe(node: &Node, client: &Client) -> Result<Self> {
        let (sender, received) = channel();
        let socket = node.socket();
        let runtime = runtime()?;
        std::thread::spawn(move || runtime.block_on(follow(socket, sender)));
        let events = Self { received, namespace: node.namespace.clone() };
        let end = Instant::now() + Duration::from_secs(10);
        while Instant::now() < end {
            // containerd 1.6 does not outlive an event without a message.
            let event = Some(Any { type_url: "keep.test/ready".to_owned(), value: Vec::new() });
            let ready = PublishRequest { topic: READY.to_owned(), event };
            let mut publisher = EventsClient::new(client.channel.clone());
            client
                .call(ready, |request| async move { publisher.publish(request).await })
                .context("cannot publish an event")?;
            match events.received.recv_timeout(Duration::from_millis(50)) {
                Ok(_) => return Ok(events),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("the subscription ended"),
            }
        }
        bail!("containerd takes no subscription")
    }

    /// The events of a container, until one of `topic` came for it, and whether it did. Two seconds of silence are the end.
    ///
    /// # Errors
    /// When an event cannot be decoded.
    pub fn until(&self, id: &str, topic: &str, limit: Duration) -> Result<(Vec<Event>, bool)> {
        let end = Instant::now() + limit;
        let mut all: Vec<Event> = Vec::new();
        while all.last().is_none_or(|event| event.topic != topic) {
            let left = end.saturating_duration_since(Instant::now()).min(SILENCE);
            let Ok(envelope) = self.received.recv_timeout(left) else { return Ok((all, false)) };
            if envelope.namespace != self.namespace || envelope.topic == READY {
                continue;
            }
            all.extend(event(&envelope)?.filter(|event| event.container == id));
        }
        Ok((all, true))
    }
}

/// Hands on what comes, until containerd or the subscriber is gone.
async fn follow(socket: PathBuf, sender: Sender<Envelope>) {
    let Ok(channel) = containerd_client::connect(socket).await else { return };
    let asked = Request::new(SubscribeRequest { filters: Vec::new() });
    let Ok(answer) = EventsClient::new(channel).subscribe(asked).await else { return };
    let mut stream = answer.into_inner();
    while let Ok(Some(envelope)) = stream.message().await {
        if sender.send(envelope).is_err() {
            break;
        }
    }
}

/// An event of a task in words; none where it is of something else.
fn event(envelope: &Envelope) -> Result<Option<Event>> {
    let Some(any) = &envelope.event else { return Ok(None) };
    let bytes = any.value.as_slice();
    let decoded = match any.type_url.as_str() {
        "containerd.events.TaskCreate" => TaskCreate::decode(bytes).map(|event| {
            let io = event.io.unwrap_or_default();
            let words = format!(
                "bundle {} mounts {:?} io {:?} checkpoint {:?}",
                event.bundle.ends_with(&event.container_id),
                event.rootfs.iter().map(|mount| mount.r#type.as_str()).collect::<Vec<_>>(),
                (!io.stdin.is_empty(), !io.stdout.is_empty(), !io.stderr.is_empty(), io.terminal),
                event.checkpoint,
            );
            (event.container_id, words, event.pid)
        }),
        "containerd.events.TaskStart" => {
            TaskStart::decode(bytes).map(|event| (event.container_id, String::new(), event.pid))
        }
        "containerd.events.TaskExecAdded" => {
            TaskExecAdded::decode(bytes).map(|event| (event.container_id, event.exec_id, 0))
        }
        "containerd.events.TaskExecStarted" => {
            TaskExecStarted::decode(bytes).map(|event| (event.container_id, event.exec_id, event.pid))
        }
        "containerd.events.TaskPaused" => {
            TaskPaused::decode(bytes).map(|event| (event.container_id, String::new(), 0))
        }
        "containerd.events.TaskResumed" => {
            TaskResumed::decode(bytes).map(|event| (event.container_id, String::new(), 0))
        }
        "containerd.events.TaskOOM" => {
            TaskOom::decode(bytes).map(|event| (event.container_id, String::new(), 0))
        }
        "containerd.events.TaskExit" => exit(bytes),
        "containerd.events.TaskDelete" => TaskDelete::decode(bytes).map(|event| {
            let at = when(event.exited_at.as_ref());
            (event.container_id, format!("{:?} status {} at {at}", event.id, event.exit_status), event.pid)
        }),
        _ => return Ok(None),
    };
    let (container, words, pid) =
        decoded.with_context(|| format!("cannot decode an event of {}", envelope.topic))?;
    let words = words.replace(&container, "ID");
    Ok(Some(Event { topic: envelope.topic.clone(), container, words, pid }))
}

fn exit(bytes: &[u8]) -> std::result::Result<(String, String, u32), DecodeError> {
    let event = TaskExit::decode(bytes)?;
    let at = when(event.exited_at.as_ref());
    Ok((event.container_id, format!("{:?} status {} at {at}", event.id, event.exit_status), event.pid))
}

/// Whether a point in time is given and real.
pub(crate) fn when(at: Option<&prost_types::Timestamp>) -> &'static str {
    if at.is_some_and(|at| at.seconds > 1_600_000_000) { "a time" } else { "no time" }
}
