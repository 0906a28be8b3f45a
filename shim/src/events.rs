//! Publishes task events to containerd, in order, keeping them while it is away.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::shim_async::{Client, EventsClient};
use containerd_shim_protos::ttrpc::context;
use tokio::sync::{Notify, mpsc, watch};

/// Most events that wait for containerd; beyond it new ones are dropped and logged.
const QUEUE: usize = 4096;

/// Longest that one delivery may take.
const DELIVERY: Duration = Duration::from_secs(5);

/// Protobuf package of containerd's events.
const PACKAGE: &str = "containerd.events";

/// First and longest pause between attempts.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Pause between attempts while the shim waits to end.
const HURRY: Duration = Duration::from_millis(50);

/// Takes events and delivers them one after the other.
#[derive(Debug, Clone)]
pub(crate) struct Publisher {
    namespace: String,
    queue: mpsc::Sender<Envelope>,
    state: Arc<State>,
}

/// What the queue itself does not tell.
#[derive(Debug, Default)]
struct State {
    /// Events that were queued and are not delivered, the one under way among them.
    waiting: watch::Sender<usize>,
    /// Cuts the pause between attempts short.
    hurry: Notify,
}

/// How an `Any` names a message of `package`. Its descriptor knows too, but takes half a megabyte, and milliseconds to parse.
pub(crate) fn type_url<M: Message>(package: &str) -> String {
    format!("{package}.{}", M::NAME)
}

impl Publisher {
    /// Publishes to containerd's ttrpc socket at `address`.
    pub(crate) fn new(address: String, namespace: &str) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let state = Arc::new(State::default());
        tokio::spawn(deliver(address, waiting, state.clone()));
        Self { namespace: namespace.to_owned(), queue, state }
    }

    /// Queues an event: one of the package [`PACKAGE`].
    pub(crate) fn publish<M: Message>(&self, topic: &str, event: &M) {
        let value = match event.write_to_bytes() {
            Ok(value) => value,
            Err(err) => {
                tracing::error!(topic, error = %err, "cannot encode event");
                return;
            }
        };
        let any = Any { type_url: type_url::<M>(PACKAGE), value, ..Any::default() };
        let envelope = Envelope {
            timestamp: MessageField::some(timestamp(SystemTime::now())),
            namespace: self.namespace.clone(),
            topic: topic.to_owned(),
            event: MessageField::some(any),
            ..Envelope::default()
        };
        self.state.waiting.send_modify(|waiting| *waiting += 1);
        if self.queue.try_send(envelope).is_err() {
            self.state.waiting.send_modify(|waiting| *waiting -= 1);
            tracing::error!(topic, "event dropped: containerd has been away for too long");
        }
    }

    /// Waits until what was queued is delivered, at most `limit`, and tries often meanwhile. Whether all was.
    pub(crate) async fn flush(&self, limit: Duration) -> bool {
        let mut waiting = self.state.waiting.subscribe();
        let empty = async {
            while tokio::time::timeout(HURRY, waiting.wait_for(|waiting| *waiting == 0)).await.is_err() {
                self.state.hurry.notify_one();
            }
        };
        tokio::time::timeout(limit, empty).await.is_ok()
    }
}

async fn deliver(address: String, mut waiting: mpsc::Receiver<Envelope>, state: Arc<State>) {
    let mut client: Option<EventsClient> = None;
    while let Some(envelope) = waiting.recv().await {
        // What is answered now goes first: containerd waits for that, and the kernel may run it in this process's place.
        tokio::task::yield_now().await;
        let mut pause = PAUSE;
        let request = ForwardRequest { envelope: MessageField::some(envelope), ..ForwardRequest::default() };
        while let Err(err) = attempt(&address, &mut client, &request).await {
            tracing::debug!(error = %err, "cannot publish; trying again");
            client = None;
            // Either way it is time for the next attempt.
            if tokio::time::timeout(pause, state.hurry.notified()).await.is_err() {
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
        state.waiting.send_modify(|waiting| *waiting -= 1);
    }
}

async fn attempt(
    address: &str,
    client: &mut Option<EventsClient>,
    request: &ForwardRequest,
) -> Result<(), String> {
    if client.is_none() {
        let connected = Client::connect(&format!("unix://{address}")).await.map_err(|err| err.to_string())?;
        *client = Some(EventsClient::new(connected));
    }
    let Some(connected) = client.as_ref() else { return Ok(()) };
    let context = context::with_duration(DELIVERY);
    match tokio::time::timeout(DELIVERY, connected.forward(context, request)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(err)) => Err(err.to_string()),
        Err(_) => Err("no answer".to_owned()),
    }
}

/// A point in time as protobuf has it.
pub(crate) fn timestamp(at: SystemTime) -> Timestamp {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or_default(),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
        ..Timestamp::default()
    }
}

#[cfg(test)]
mod tests {
    use containerd_shim_protos::events::task::{TaskExit, TaskOOM};
    use containerd_shim_protos::protobuf::MessageFull;

    use super::*;

    #[test]
    fn events_are_named_as_their_descriptors_name_them() {
        assert_eq!(type_url::<TaskExit>(PACKAGE), TaskExit::descriptor().full_name());
        assert_eq!(type_url::<TaskOOM>(PACKAGE), TaskOOM::descriptor().full_name());
    }
}
