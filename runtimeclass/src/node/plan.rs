//! What to write to the API now: a pure function of what it should say, what it says, and the time.

use std::collections::BTreeMap;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::series::{Desired, Key, Series};

/// Most API writes for one pod within [`WINDOW`].
pub(super) const WRITES: usize = 5;
/// Of these, how many are left for what has not been reported yet: a flood of one kind must not hide another.
pub(super) const RESERVED: usize = 2;
/// The window of [`WRITES`].
pub(super) const WINDOW: SignedDuration = SignedDuration::from_secs(60);
/// Shortest time between two writes of one series.
pub(super) const SPACING: SignedDuration = SignedDuration::from_secs(10);
/// A series without news for so long has ended: the API server's own event has expired by then (`--event-ttl`, 1 h).
pub(super) const FORGET: SignedDuration = SignedDuration::from_hours(1);

/// An event as the API has it, so far as we know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Written {
    /// Count that it says.
    pub(super) count: u64,
    /// When it was written.
    pub(super) at: Timestamp,
}

/// What the API says, and when it was last asked to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Observed {
    /// Events by series.
    pub(super) events: BTreeMap<Key, Written>,
    /// Times of the latest writes by the UID of their pod.
    pub(super) writes: BTreeMap<String, Vec<Timestamp>>,
}

/// One write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The event is new.
    Create,
    /// The event's series has news.
    Update,
}

/// One write for one series; the object is made from the series when it is carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Action {
    /// New or not.
    pub(super) kind: Kind,
    /// Which series.
    pub(super) key: Key,
}

/// Says what to write at `now`: first what is new, oldest first; then news of what is known, longest silent first.
pub(super) fn plan(desired: &Desired, observed: &Observed, now: Timestamp) -> Vec<Action> {
    let mut pods: BTreeMap<&str, Vec<(Kind, Timestamp, &Key)>> = BTreeMap::new();
    for (key, series) in desired.iter() {
        if let Some((kind, since)) = due(series, observed.events.get(key), now) {
            pods.entry(key.pod_uid()).or_default().push((kind, since, key));
        }
    }
    let mut actions = Vec::new();
    for (uid, mut due) in pods {
        due.sort_by_key(|(kind, since, key)| (*kind == Kind::Update, *since, *key));
        let mut free = WRITES.saturating_sub(recent(observed, uid, now));
        for (kind, _, key) in due {
            let needed = match kind {
                Kind::Create => 1,
                Kind::Update => 1 + RESERVED,
            };
            if free < needed {
                break;
            }
            free -= 1;
            actions.push(Action { kind, key: key.clone() });
        }
    }
    actions
}

/// What a series needs at `now`, and since when.
fn due(series: &Series, written: Option<&Written>, now: Timestamp) -> Option<(Kind, Timestamp)> {
    match written {
        None => Some((Kind::Create, series.first)),
        Some(written) if written.count >= series.count => None,
        Some(written) if now.duration_since(written.at).abs() < SPACING => None,
        Some(written) => Some((Kind::Update, written.at)),
    }
}

/// Writes within the window. A clock that was set back leaves writes in the future: they count until it has caught up by a window.
fn recent(observed: &Observed, uid: &str, now: Timestamp) -> usize {
    let writes = observed.writes.get(uid).map(Vec::as_slice).unwrap_or_default();
    writes.iter().filter(|at| now.duration_since(**at).abs() < WINDOW).count()
}

impl Observed {
    /// Notes that a write for `key` is about to be tried.
    pub(super) fn attempt(&mut self, key: &Key, now: Timestamp) {
        let writes = self.writes.entry(key.pod_uid().to_owned()).or_default();
        writes.retain(|at| now.duration_since(*at).abs() < WINDOW);
        writes.push(now);
    }

    /// Takes the latest attempt back: it never reached the API server.
    pub(super) fn not_attempted(&mut self, key: &Key) {
        if let Some(writes) = self.writes.get_mut(key.pod_uid()) {
            writes.pop();
        }
    }
}

/// Whether anything waits to be written, now or later.
pub(super) fn is_pending(desired: &Desired, observed: &Observed) -> bool {
    desired
        .iter()
        .any(|(key, series)| observed.events.get(key).is_none_or(|written| written.count < series.count))
}

/// Forgets series that are written in full and have had no news for long, and what remains of pods without series.
pub(super) fn forget(desired: &mut Desired, observed: &mut Observed, now: Timestamp) {
    desired.retain(|key, series| {
        let complete = observed.events.get(key).is_some_and(|written| written.count >= series.count);
        let quiet = |at: Timestamp| now.duration_since(at) > FORGET;
        !(complete && quiet(series.last) && observed.events.get(key).is_some_and(|written| quiet(written.at)))
    });
    observed.events.retain(|key, _| desired.get(key).is_some());
    observed.writes.retain(|_, writes| {
        writes.retain(|at| now.duration_since(*at).abs() < WINDOW);
        !writes.is_empty()
    });
}
