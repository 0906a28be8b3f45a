//! Writes to the API server, and what its answers mean.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;

use super::event::{event, event_series, name};
use super::plan::{Action, Kind};
use super::series::Series;

/// Longest wait for one answer.
const DEADLINE: Duration = Duration::from_secs(10);

/// What became of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// Written.
    Done,
    /// There is such an event already.
    Exists,
    /// There is no such event any more.
    Expired,
    /// The pod's namespace is gone or going.
    Gone(String),
    /// The API server will never take this event.
    Refused(String),
    /// Not allowed there, as yet: missing rights, a quota, an admission webhook.
    Forbidden(String),
    /// Not written; try again.
    Away(String),
}

/// An API server that takes events.
pub(super) trait Events {
    /// Carries one action out.
    async fn carry_out(&self, action: &Action, series: &Series) -> Answer;
    /// Whether the pod has ended; `None` where nobody can say.
    async fn has_ended(&self, pod: &profiles::record::Pod) -> Option<bool>;
}

/// The cluster's API server.
pub(super) struct Cluster {
    client: kube::Client,
    node: String,
}

impl Cluster {
    pub(super) fn new(client: kube::Client, node: String) -> Self {
        Self { client, node }
    }

    async fn write(&self, action: &Action, series: &Series) -> Result<(), kube::Error> {
        let events: Api<Event> = Api::namespaced(self.client.clone(), &series.pod.namespace);
        match action.kind {
            Kind::Create => {
                let event = event(&action.key, series, &self.node);
                events.create(&PostParams::default(), &event).await.map(drop)
            }
            Kind::Update => {
                let patch = Patch::Merge(json!({ "series": event_series(series) }));
                let name = name(&action.key, series);
                events.patch(&name, &PatchParams::default(), &patch).await.map(drop)
            }
        }
    }
}

impl Events for Cluster {
    async fn carry_out(&self, action: &Action, series: &Series) -> Answer {
        match tokio::time::timeout(DEADLINE, self.write(action, series)).await {
            Ok(Ok(())) => Answer::Done,
            Ok(Err(error)) => answer(action.kind, &error),
            Err(_) => Answer::Away(format!("no answer within {} s", DEADLINE.as_secs())),
        }
    }

    async fn has_ended(&self, pod: &profiles::record::Pod) -> Option<bool> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace);
        let found = tokio::time::timeout(DEADLINE, pods.get_opt(&pod.name)).await.ok()?.ok()?;
        let Some(found) = found else { return Some(true) };
        let phase = found.status.and_then(|status| status.phase);
        Some(
            found.metadata.uid.as_deref() != Some(&pod.uid)
                || matches!(phase.as_deref(), Some("Succeeded" | "Failed")),
        )
    }
}

/// What an error of the API server means for a write.
pub(super) fn answer(kind: Kind, error: &kube::Error) -> Answer {
    let kube::Error::Api(status) = error else { return Answer::Away(chain(error)) };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let terminating = causes.clone().any(|cause| cause.reason == "NamespaceTerminating");
    let message = status.message.clone();
    match (status.code, kind) {
        (409, Kind::Create) => Answer::Exists,
        (404, Kind::Update) => Answer::Expired,
        (404, Kind::Create) => Answer::Gone(message),
        (403, _) if terminating => Answer::Gone(message),
        // One namespace's quota must not hold up the others.
        (403, _) => Answer::Forbidden(message),
        (400 | 405 | 413 | 415 | 422, _) => Answer::Refused(message),
        // Overload, a server that starts, a certificate that is being renewed: all may pass.
        _ => Answer::Away(format!("{} {message}", status.code)),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
