use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use profiles::record::{Pod, Record, Verdict};

use super::agent::Agent;
use super::api::{Answer, Events, answer};
use super::plan::{Action, FORGET, Kind, Observed, RESERVED, WRITES, Written, forget, plan};
use super::series::{Desired, MAX_KINDS, MAX_NOTE, Series};
use super::{cursor, event};
use crate::spool::tests::{append, line, record};

fn at(seconds: i64) -> Timestamp {
    "2026-11-21T08:01:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_secs(seconds)
}

fn absorb(desired: &mut Desired, record: &Record) {
    desired.absorb(record, record.time.parse().unwrap()).unwrap();
}

/// Carries out all that is planned, as an API server that takes everything.
fn carry_out(desired: &Desired, observed: &mut Observed, now: Timestamp) -> Vec<Kind> {
    let actions = plan(desired, observed, now);
    for action in &actions {
        observed.attempt(&action.key, now);
        let count = desired.get(&action.key).unwrap().count;
        observed.events.insert(action.key.clone(), Written { count, at: now });
    }
    actions.iter().map(|action| action.kind).collect()
}

#[test]
fn repeats_are_counted_in_one_series() {
    let (mut desired, mut observed) = (Desired::default(), Observed::default());
    absorb(&mut desired, &record(1, "/bin/sh"));
    assert_eq!(carry_out(&desired, &mut observed, at(0)), [Kind::Create]);
    absorb(&mut desired, &record(2, "/bin/sh"));
    absorb(&mut desired, &Record { count: 40, ..record(3, "/bin/sh") });
    assert_eq!(carry_out(&desired, &mut observed, at(1)), [], "too soon after the last write of the series");
    assert_eq!(carry_out(&desired, &mut observed, at(11)), [Kind::Update]);
    let (key, series) = desired.iter().next().unwrap();
    assert_eq!((series.count, observed.events[key].count), (42, 42));
    assert_eq!(carry_out(&desired, &mut observed, at(100)), []);
}

#[test]
fn another_container_object_operation_or_verdict_is_another_series() {
    let mut desired = Desired::default();
    let base = record(1, "/bin/sh");
    let mut container = base.clone();
    container.container.id = "other".to_owned();
    let operation = Record { operation: "execveat".to_owned(), ..base.clone() };
    let verdict = Record { verdict: Verdict::Audited, ..base.clone() };
    let object = record(1, "/bin/bash");
    for record in [&base, &container, &operation, &verdict, &object, &base] {
        absorb(&mut desired, record);
    }
    assert_eq!(desired.iter().count(), 5);
}

#[test]
fn a_pod_gets_at_most_five_writes_in_any_minute_and_every_attempt_is_counted() {
    let (mut desired, mut observed) = (Desired::default(), Observed::default());
    let mut writes = Vec::new();
    for second in 0..600_i64 {
        for n in 0..17 {
            absorb(&mut desired, &Record { count: 10, ..record(1, &format!("/bin/{}", n * second % 31)) });
        }
        let done = carry_out(&desired, &mut observed, at(second));
        writes.extend(done.iter().map(|_| second));
    }
    for (i, first) in writes.iter().enumerate() {
        assert!(writes[i..].iter().filter(|w| *w - first < 60).count() <= WRITES);
    }
    for second in 600..7200 {
        carry_out(&desired, &mut observed, at(second));
    }
    assert_eq!(observed.events.values().map(|written| written.count).sum::<u64>(), 600 * 17 * 10);
}

#[test]
fn a_flood_of_one_kind_leaves_writes_for_a_new_kind() {
    let (mut desired, mut observed) = (Desired::default(), Observed::default());
    for second in 0..30 {
        absorb(&mut desired, &record(1, "/flood"));
        carry_out(&desired, &mut observed, at(second));
    }
    for kind in 0..RESERVED {
        absorb(&mut desired, &record(1, &format!("/new/{kind}")));
        assert_eq!(carry_out(&desired, &mut observed, at(31)), [Kind::Create]);
    }
}

#[test]
fn one_pod_does_not_use_up_the_writes_of_another() {
    let (mut desired, observed) = (Desired::default(), Observed::default());
    let mut other = record(1, "/bin/sh");
    other.pod = Some(Pod { namespace: "shop".to_owned(), name: "db".to_owned(), uid: "u-2".to_owned() });
    absorb(&mut desired, &other);
    for n in 0..20 {
        absorb(&mut desired, &record(1, &format!("/{n}")));
    }
    assert_eq!(plan(&desired, &observed, at(0)).len(), WRITES + 1);
}

#[test]
fn kinds_beyond_the_limit_are_counted_in_one_series() {
    let mut desired = Desired::default();
    for n in 0..10_000 {
        absorb(&mut desired, &record(1, &format!("/{n}")));
    }
    assert_eq!(desired.iter().count(), MAX_KINDS + 1);
    assert_eq!(desired.iter().map(|(_, series)| series.count).sum::<u64>(), 10_000);
    assert!(desired.iter().any(|(_, series)| series.note.contains("keep violations --pod shop/web")));
}

#[test]
fn a_series_is_forgotten_when_it_is_written_and_quiet() {
    let (mut desired, mut observed) = (Desired::default(), Observed::default());
    absorb(&mut desired, &record(1, "/bin/sh"));
    let late = at(0) + FORGET + SignedDuration::from_secs(1);
    forget(&mut desired, &mut observed, late);
    assert_eq!(desired.iter().count(), 1, "not written yet");
    carry_out(&desired, &mut observed, at(0));
    forget(&mut desired, &mut observed, at(10));
    assert_eq!(desired.iter().count(), 1, "its event is still there");
    forget(&mut desired, &mut observed, late);
    assert_eq!((desired, observed), (Desired::default(), Observed::default()));
}

#[test]
fn names_that_would_bend_a_url_are_refused() {
    for (namespace, name, uid) in
        [("../x", "web", "u"), ("shop", "a/b", "u"), ("shop", "web", "a/b"), ("", "web", "u")]
    {
        let text = str::to_owned;
        let mut record = record(1, "/bin/sh");
        record.pod = Some(Pod { namespace: text(namespace), name: text(name), uid: text(uid) });
        let mut desired = Desired::default();
        assert!(desired.absorb(&record, at(0)).is_err());
        assert_eq!(desired.iter().count(), 0);
    }
}

#[test]
fn an_event_says_what_happened_to_which_container() {
    let mut desired = Desired::default();
    absorb(&mut desired, &record(1, &"/bin/\u{1b}[31mä".repeat(300)));
    let (key, series) = desired.iter().next().unwrap();
    let event = event::event(key, series, "n1");
    assert!(event.note.as_ref().is_some_and(|note| note.len() <= MAX_NOTE && !note.contains('\u{1b}')));
    assert_eq!(event.reason.as_deref(), Some("IntentViolation"));
    assert_eq!(event.action.as_deref(), Some("Denied"));
    assert_eq!(event.series, None, "the API server refuses a series of one");
    let regarding = event.regarding.unwrap();
    assert_eq!(regarding.field_path.as_deref(), Some("spec.containers{web}"));
    assert_eq!(regarding.uid.as_deref(), Some("u-1"));
    let name = event.metadata.name.unwrap();
    assert!(name.starts_with("web.") && name.len() == 4 + 16);
}

#[test]
fn the_longest_pod_name_still_gives_a_valid_event_name() {
    let mut desired = Desired::default();
    let mut long = record(1, "/bin/sh");
    if let Some(pod) = &mut long.pod {
        pod.name = format!("{}-{}", "a".repeat(235), "b".repeat(17));
    }
    absorb(&mut desired, &long);
    let (key, series) = desired.iter().next().unwrap();
    let name = event::name(key, series);
    assert!(name.len() <= 253 && name.starts_with("aaa") && !name.contains("-."));
}

#[test]
fn answers_of_the_api_server_are_told_apart() {
    let error = |code: u16, cause: &str| {
        let details = serde_json::json!({ "causes": [{ "reason": cause, "message": "", "field": "" }] });
        let status = serde_json::json!({ "status": "Failure", "code": code, "message": "m", "reason": "", "details": details });
        kube::Error::Api(serde_json::from_value::<kube::core::Status>(status).unwrap().boxed())
    };
    assert_eq!(answer(Kind::Create, &error(409, "")), Answer::Exists);
    assert_eq!(answer(Kind::Update, &error(404, "")), Answer::Expired);
    assert_eq!(answer(Kind::Create, &error(404, "")), Answer::Gone("m".to_owned()));
    assert_eq!(answer(Kind::Create, &error(403, "NamespaceTerminating")), Answer::Gone("m".to_owned()));
    assert!(matches!(answer(Kind::Create, &error(403, "")), Answer::Forbidden(_)));
    assert!(matches!(answer(Kind::Create, &error(422, "")), Answer::Refused(_)));
    assert!(matches!(answer(Kind::Update, &error(429, "")), Answer::Away(_)));
}

/// An API server in memory.
#[derive(Default)]
struct Fake {
    counts: RefCell<BTreeMap<String, u64>>,
    script: RefCell<Vec<Answer>>,
    writes: RefCell<usize>,
    ended: bool,
}

impl Events for &Fake {
    async fn carry_out(&self, action: &Action, series: &Series) -> Answer {
        *self.writes.borrow_mut() += 1;
        if let Some(answer) = self.script.borrow_mut().pop() {
            return answer;
        }
        let name = event::name(&action.key, series);
        let known = self.counts.borrow().contains_key(&name);
        match (action.kind, known) {
            (Kind::Create, true) => return Answer::Exists,
            (Kind::Update, false) => return Answer::Expired,
            (Kind::Create, false) | (Kind::Update, true) => {}
        }
        self.counts.borrow_mut().insert(name, series.count);
        Answer::Done
    }

    async fn has_ended(&self, _: &Pod) -> Option<bool> {
        Some(self.ended)
    }
}

fn round(dir: &Path, api: &Fake, now: Timestamp) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut agent = Agent::new(dir, api).unwrap();
    while runtime.block_on(agent.round(now)) {}
}

fn counts(api: &Fake) -> Vec<u64> {
    api.counts.borrow().values().copied().collect()
}

#[test]
fn a_restart_goes_on_where_the_agent_stopped() {
    let (dir, api) = (tempfile::tempdir().unwrap(), Fake::default());
    let spool = crate::spool::folder(dir.path());
    for minute in 0..4 {
        for _ in 0..5000 {
            append(&spool, "k8s.io.web.jsonl", &line(&record(1, "/bin/sh")));
        }
        round(dir.path(), &api, at(minute * 60));
    }
    round(dir.path(), &api, at(300));
    assert_eq!(counts(&api), [20_000]);
    let writes = *api.writes.borrow();
    round(dir.path(), &api, at(400));
    assert_eq!(*api.writes.borrow(), writes, "nothing new, nothing written");
}

#[test]
fn while_the_api_server_is_away_nothing_is_lost() {
    let (dir, api) = (tempfile::tempdir().unwrap(), Fake::default());
    let spool = crate::spool::folder(dir.path());
    *api.script.borrow_mut() = vec![Answer::Away("refused".to_owned()); 3];
    for second in 0..3 {
        append(&spool, "k8s.io.web.jsonl", &line(&record(second, "/bin/sh")));
        round(dir.path(), &api, at(i64::from(second)));
        std::fs::remove_file(spool.join("k8s.io.web.jsonl")).unwrap();
    }
    assert!(counts(&api).is_empty());
    round(dir.path(), &api, at(10));
    assert_eq!(counts(&api), [3], "also without the files that they were read from");
}

#[test]
fn a_write_whose_answer_was_lost_is_not_doubled() {
    let (dir, api) = (tempfile::tempdir().unwrap(), Fake::default());
    let spool = crate::spool::folder(dir.path());
    append(&spool, "k8s.io.web.jsonl", &line(&record(1, "/bin/sh")));
    round(dir.path(), &api, at(0));
    // Killed before the cursor was saved.
    std::fs::remove_file(cursor::path(dir.path())).unwrap();
    append(&spool, "k8s.io.web.jsonl", &line(&record(2, "/bin/sh")));
    round(dir.path(), &api, at(20));
    round(dir.path(), &api, at(40));
    assert_eq!(counts(&api), [2]);
}

#[test]
fn an_event_that_expired_is_written_anew() {
    let (dir, api) = (tempfile::tempdir().unwrap(), Fake::default());
    let spool = crate::spool::folder(dir.path());
    append(&spool, "k8s.io.web.jsonl", &line(&record(1, "/bin/sh")));
    round(dir.path(), &api, at(0));
    api.counts.borrow_mut().clear();
    append(&spool, "k8s.io.web.jsonl", &line(&record(2, "/bin/sh")));
    round(dir.path(), &api, at(20));
    round(dir.path(), &api, at(21));
    assert_eq!(counts(&api), [2]);
}

#[test]
fn records_of_a_namespace_that_is_gone_are_dropped_and_others_are_not() {
    let (dir, api) = (tempfile::tempdir().unwrap(), Fake::default());
    let spool = crate::spool::folder(dir.path());
    let mut other = record(1, "/bin/sh");
    other.pod = Some(Pod { namespace: "bank".to_owned(), name: "db".to_owned(), uid: "u-2".to_owned() });
    append(
        &spool,
        "k8s.io.web.jsonl",
        &(line(&record(1, "/a")) + &line(&record(1, "/b")) + "junk\n" + &line(&other)),
    );
    *api.script.borrow_mut() = vec![Answer::Gone("namespace not found".to_owned())];
    round(dir.path(), &api, at(0));
    round(dir.path(), &api, at(20));
    assert_eq!(counts(&api), [1]);
    assert_eq!(*api.writes.borrow(), 2);
}

#[test]
fn a_namespace_that_takes_no_events_holds_up_no_other_and_is_tried_again() {
    let (dir, api) = (tempfile::tempdir().unwrap(), Fake::default());
    let spool = crate::spool::folder(dir.path());
    let mut other = record(1, "/bin/sh");
    other.pod = Some(Pod { namespace: "bank".to_owned(), name: "db".to_owned(), uid: "u-2".to_owned() });
    append(&spool, "k8s.io.web.jsonl", &(line(&record(1, "/a")) + &line(&other)));
    *api.script.borrow_mut() = vec![Answer::Forbidden("exceeded quota".to_owned())];
    round(dir.path(), &api, at(0));
    assert_eq!(counts(&api).len(), 1);
    round(dir.path(), &api, at(1));
    assert_eq!(counts(&api).len(), 2);
}

#[test]
fn a_cursor_that_cannot_be_understood_is_set_aside() {
    let (dir, api) = (tempfile::tempdir().unwrap(), Fake::default());
    let path = cursor::path(dir.path());
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, "{\"schema\":\"keep.dev/cursor/v9\"}").unwrap();
    append(&crate::spool::folder(dir.path()), "k8s.io.web.jsonl", &line(&record(1, "/bin/sh")));
    round(dir.path(), &api, at(0));
    assert_eq!(counts(&api), [1]);
    assert!(path.with_extension("json.bad").exists() && cursor::load(&path).is_ok());
}

#[test]
fn files_are_deleted_only_of_pods_that_have_ended_and_when_read() {
    for ended in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let api = Fake { ended, ..Fake::default() };
        let spool = crate::spool::folder(dir.path());
        append(&spool, "k8s.io.web.jsonl", &line(&record(1, "/bin/sh")));
        append(&spool, "default.ctr.jsonl", &line(&Record { pod: None, ..record(1, "/bin/sh") }));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut agent = Agent::new(dir.path(), &api).unwrap();
        runtime.block_on(agent.clean_before(Timestamp::MAX));
        assert!(spool.join("k8s.io.web.jsonl").exists(), "not read yet");
        runtime.block_on(agent.round(at(0)));
        runtime.block_on(agent.clean_before(at(-1_000_000_000)));
        assert!(spool.join("k8s.io.web.jsonl").exists(), "grew lately");
        runtime.block_on(agent.clean_before(Timestamp::MAX));
        assert_eq!(spool.join("k8s.io.web.jsonl").exists(), !ended);
        assert!(spool.join("default.ctr.jsonl").exists(), "no pod's");
    }
}
