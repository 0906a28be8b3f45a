//! Records of the same kind counted together: what the API should say.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::jiff::Timestamp;
use profiles::record::{Pod, Record, Verdict};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::words::{cut, hex, printable};

/// Longest note of an event that the API server takes, in bytes.
/// Source: `NoteLengthLimit`, kubernetes pkg/apis/core/validation/events.go.
pub(super) const MAX_NOTE: usize = 1024;
/// Most kinds of records of one pod that get an event of their own; the rest are counted in one for each container.
pub(super) const MAX_KINDS: usize = 64;
/// Most series in memory. At 0.6 KiB each this bounds the agent to a few MiB, whatever containers do.
pub(super) const MAX_SERIES: usize = 4096;

/// Identifies a series: the pod's UID and a hash of container, wall, operation, object and verdict.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Key(String);

impl Key {
    fn new(pod: &Pod, parts: &[&str]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Self(format!("{}/{}", pod.uid, hex(&hash.finalize()[..16])))
    }

    /// UID of the series' pod.
    pub(super) fn pod_uid(&self) -> &str {
        self.0.split_once('/').map_or(&*self.0, |(uid, _)| uid)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Records of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Series {
    /// The pod.
    pub(super) pod: Pod,
    /// The container's name in the pod.
    pub(super) container: String,
    /// Denied or audited.
    pub(super) verdict: Verdict,
    /// The sentence of the first record.
    pub(super) note: String,
    /// Time of the first record.
    pub(super) first: Timestamp,
    /// Time of the latest record.
    pub(super) last: Timestamp,
    /// How many attempts.
    pub(super) count: u64,
}

/// All series: what the API should say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Desired(BTreeMap<Key, Series>);

/// A record that names no pod as Kubernetes names them.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} is not one that Kubernetes would give")]
pub(super) struct BadPod {
    what: &'static str,
    value: String,
}

impl Desired {
    /// Counts a record; one that belongs to no pod is left alone.
    ///
    /// # Errors
    /// When the record's pod cannot be one of Kubernetes'.
    pub(super) fn absorb(&mut self, record: &Record, time: Timestamp) -> Result<(), BadPod> {
        let Some(pod) = &record.pod else { return Ok(()) };
        check(pod)?;
        let container = &record.container;
        let verdict = verdict_name(record.verdict);
        let wall = format!("{:?}", record.wall);
        let mut key = Key::new(pod, &[&container.id, &wall, &record.operation, &record.object, verdict]);
        let mut note = None;
        if !self.0.contains_key(&key) && (self.0.len() >= MAX_SERIES || self.kinds(pod) >= MAX_KINDS) {
            key = Key::new(pod, &[&container.id, verdict]);
            note = Some(format!(
                "{} did more that it did not declare than is listed here; on node {}: keep violations --pod {}/{}",
                container.name, record.node, pod.namespace, pod.name
            ));
        }
        let count = record.count.max(1);
        if let Some(series) = self.0.get_mut(&key) {
            series.count = series.count.saturating_add(count);
            series.last = series.last.max(time);
            return Ok(());
        }
        let note = cut(&printable(&note.unwrap_or_else(|| record.sentence())), MAX_NOTE);
        let (pod, container) = (pod.clone(), container.name.clone());
        let series = Series { pod, container, verdict: record.verdict, note, first: time, last: time, count };
        self.0.insert(key, series);
        Ok(())
    }

    fn kinds(&self, pod: &Pod) -> usize {
        // '0' follows '/'.
        let (from, to) = (Key(format!("{}/", pod.uid)), Key(format!("{}0", pod.uid)));
        self.0.range(from..to).count()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Key, &Series)> {
        self.0.iter()
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Series> {
        self.0.get(key)
    }

    /// Keeps the series for which `keep` says so.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&Key, &Series) -> bool) {
        self.0.retain(|key, series| keep(key, series));
    }
}

fn verdict_name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Denied => "denied",
        Verdict::Audited => "audited",
    }
}

/// Names become part of a URL.
fn check(pod: &Pod) -> Result<(), BadPod> {
    let label = |text: &str| {
        !text.is_empty()
            && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
            && !text.starts_with('-')
            && !text.ends_with('-')
    };
    let bad = |what, value: &str| Err(BadPod { what, value: cut(value, 300) });
    if pod.namespace.len() > 63 || !label(&pod.namespace) {
        return bad("namespace", &pod.namespace);
    }
    if pod.name.len() > 253 || !pod.name.split('.').all(label) {
        return bad("pod name", &pod.name);
    }
    let uid = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if pod.uid.is_empty() || pod.uid.len() > 128 || !pod.uid.bytes().all(uid) {
        return bad("pod UID", &pod.uid);
    }
    Ok(())
}
