//! The Kubernetes objects that stand for a series.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use profiles::record::Verdict;
use sha2::{Digest as _, Sha256};

use super::series::{Key, Series};
use crate::words::{cut, hex};

/// Reason of every event.
pub(super) const REASON: &str = "IntentViolation";
/// Who reports.
pub(super) const CONTROLLER: &str = "keep.dev/node";
/// Action where a wall stopped the attempt.
pub(super) const DENIED: &str = "Denied";
/// Action where it was only recorded.
pub(super) const AUDITED: &str = "Audited";
/// Longest `reportingInstance` that the API server takes, in bytes.
/// Source: `ReportingInstanceLengthLimit`, kubernetes pkg/apis/core/validation/events.go.
const MAX_INSTANCE: usize = 128;
/// Longest name of an object, in bytes (a DNS subdomain).
const MAX_NAME: usize = 253;

/// Name of the series' event: the pod's, and what tells the series and its beginning from all others. The same after a restart, so
/// that an event whose answer was never seen is found again rather than doubled.
pub(super) fn name(key: &Key, series: &Series) -> String {
    let hash = Sha256::digest(format!("{key}/{}", series.first.as_microsecond()));
    let suffix = hex(&hash[..8]);
    let pod = series.pod.name.as_str();
    let pod = &pod[..pod.len().min(MAX_NAME - 1 - suffix.len())];
    format!("{}.{suffix}", pod.trim_end_matches(['-', '.']))
}

/// The event for a series, as `node` reports it.
pub(super) fn event(key: &Key, series: &Series, node: &str) -> Event {
    let pod = &series.pod;
    let action = match series.verdict {
        Verdict::Denied => DENIED,
        Verdict::Audited => AUDITED,
    };
    Event {
        metadata: ObjectMeta {
            name: Some(name(key, series)),
            namespace: Some(pod.namespace.clone()),
            ..ObjectMeta::default()
        },
        type_: Some("Warning".to_owned()),
        reason: Some(REASON.to_owned()),
        action: Some(action.to_owned()),
        note: Some(series.note.clone()),
        event_time: Some(MicroTime(series.first)),
        series: event_series(series),
        regarding: Some(ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(pod.namespace.clone()),
            name: Some(pod.name.clone()),
            uid: Some(pod.uid.clone()),
            field_path: Some(format!("spec.containers{{{}}}", series.container)),
            ..ObjectReference::default()
        }),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(cut(node, MAX_INSTANCE)),
        ..Event::default()
    }
}

/// The event's series; none for a single attempt (the API server refuses a series of one).
pub(super) fn event_series(series: &Series) -> Option<EventSeries> {
    let count = i32::try_from(series.count).unwrap_or(i32::MAX);
    (count > 1).then_some(EventSeries { count, last_observed_time: MicroTime(series.last) })
}
