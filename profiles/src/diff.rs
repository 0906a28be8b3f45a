//! What changes between two profiles: what is granted more, and what less.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::intent::{AbsPath, Endpoint};
use crate::policy::{Command, InteractiveExec, Mode, Report};
use crate::profile::{Bounds, Origin, Profile, SessionGrants};
use crate::sets::Reach;

/// One thing that is granted on one side only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Change {
    /// What it is about: `exec`, `listen`, `connect`, `write`, `read`, `caps`, `needs`, `calls`, `entrypoint`, `walls`,
    /// `mode`, `require`, `command`, `interactiveExec`, `debug`, `report`.
    pub kind: &'static str,
    /// The grant, as a label writes it, or a value of the kind.
    pub value: String,
}

/// Changes from one profile to another. Nothing in either: they grant the same.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Diff {
    /// What the second grants and the first does not.
    pub widens: Vec<Change>,
    /// What the first grants and the second does not.
    pub narrows: Vec<Change>,
}

/// Compares what `after` grants with what `before` did.
#[must_use]
pub fn diff(before: &Profile, after: &Profile) -> Diff {
    Diff { widens: beyond(before, after), narrows: beyond(after, before) }
}

/// What `wide` grants beyond `narrow`.
fn beyond(narrow: &Profile, wide: &Profile) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut add = |kind, value: String| changes.push(Change { kind, value });
    match (walls(narrow.origin), walls(wide.origin)) {
        (low, high) if low < high => {
            add("walls", origin(wide.origin).to_owned());
        }
        _ => {}
    }
    if (narrow.mode, wide.mode) == (Mode::Enforce, Mode::Audit) {
        add("mode", "audit: nothing is stopped".to_owned());
    }
    let compared = walls(narrow.origin) == 0 && walls(wide.origin) == 0;
    if compared {
        grants(narrow, wide, &mut add);
    }
    for call in wide.calls.difference(&narrow.calls) {
        add("calls", call.clone());
    }
    for wall in narrow.require.difference(&wide.require).filter(|_| compared) {
        add("require", format!("runs without the {wall} wall"));
    }
    if (narrow.command, wide.command) == (Command::Declared, Command::Allow) {
        add("command", "the pod's command may name another program".to_owned());
    }
    if narrow.interactive_exec == InteractiveExec::Deny && wide.interactive_exec != InteractiveExec::Deny {
        add("interactiveExec", "sessions with a terminal are let in".to_owned());
    }
    if let Some(more) = &wide.debug {
        sessions(narrow.debug.as_ref().unwrap_or(&SessionGrants::default()), more, &mut add);
    }
    if (narrow.report, wide.report) == (Report::Full, Report::Calls) {
        add("report", "refused changes of files are not recorded".to_owned());
    }
    changes
}

fn grants(narrow: &Profile, wide: &Profile, add: &mut impl FnMut(&'static str, String)) {
    if let Some(entrypoint) = wide.entrypoint.as_ref().filter(|_| narrow.entrypoint != wide.entrypoint) {
        add("entrypoint", entrypoint.clone());
    }
    for path in wide.exec.iter().filter(|path| !runs(narrow, path, true)) {
        add("exec", path.to_label());
    }
    for path in wide.exec_beneath.iter().filter(|path| !runs(narrow, path, false)) {
        add("exec", path.to_label());
    }
    for (kind, narrow, wide) in [
        ("exec", &narrow.exec_bounds, &wide.exec_bounds),
        ("write", &narrow.write_bounds, &wide.write_bounds),
    ] {
        bounds(narrow, wide, |what| add(kind, what));
    }
    for (kind, narrow, wide) in
        [("listen", &narrow.listen, &wide.listen), ("connect", &narrow.connect, &wide.connect)]
    {
        let [narrow, wide] = [narrow, wide].map(|entries| {
            Reach::new(&entries.iter().filter_map(|entry| entry.parse().ok()).collect::<Vec<Endpoint>>())
        });
        for endpoint in wide.beyond(&narrow) {
            add(kind, endpoint.to_string());
        }
    }
    for (kind, narrow, wide) in [("write", &narrow.write, &wide.write), ("read", &narrow.read, &wide.read)] {
        for path in wide.iter().filter(|path| !covered(narrow, path)) {
            add(kind, path.to_label());
        }
    }
    for cap in wide.caps.difference(&narrow.caps) {
        add("caps", cap.to_string());
    }
    for need in wide.needs.difference(&narrow.needs) {
        add("needs", need.to_string());
    }
}

/// What sessions get beside the container's grants.
fn sessions(narrow: &SessionGrants, wide: &SessionGrants, add: &mut impl FnMut(&'static str, String)) {
    let mut add = |list: &str, value: String| add("debug", format!("{list} {value}"));
    for path in wide.exec.difference(&narrow.exec) {
        add("exec", path.to_label());
    }
    let runs = |path: &AbsPath| covered(&narrow.exec, path) || covered(&narrow.exec_beneath, path);
    for path in wide.exec_beneath.iter().filter(|path| !runs(path)) {
        add("exec", path.to_label());
    }
    for cap in wide.caps.difference(&narrow.caps) {
        add("caps", cap.to_string());
    }
    for need in wide.needs.difference(&narrow.needs) {
        add("needs", need.to_string());
    }
}

/// Whether `profile` grants `path`; `named`: also the interpreter that a script there names, as only an entry for it
/// alone does.
fn runs(profile: &Profile, path: &AbsPath, named: bool) -> bool {
    profile.exec.contains(path)
        || !named && (covered(&profile.exec, path) || covered(&profile.exec_beneath, path))
}

fn covered(set: &BTreeSet<AbsPath>, path: &AbsPath) -> bool {
    set.iter().any(|entry| path.is_beneath(entry))
}

/// Limits on what symlinks lead to, that only the narrow side has.
fn bounds(narrow: &Bounds, wide: &Bounds, mut add: impl FnMut(String)) {
    match (&narrow.within, &wide.within) {
        (Some(_), None) => add("what symbolic links lead to, anywhere".to_owned()),
        (Some(narrow), Some(wide)) => {
            for path in wide.iter().filter(|path| !covered(narrow, path)) {
                add(format!("what symbolic links lead to, in {}", path.to_label()));
            }
        }
        (None, _) => {}
    }
    for path in narrow.denied.iter().filter(|path| !covered(&wide.denied, path)) {
        add(format!("{}, denied before", path.to_label()));
    }
}

/// How far a profile's walls are down: 0 where they stand.
fn walls(origin: Origin) -> u8 {
    match origin {
        Origin::Declared | Origin::Default => 0,
        Origin::Baseline => 1,
        Origin::Unconfined => 2,
    }
}

fn origin(origin: Origin) -> &'static str {
    match origin {
        Origin::Declared | Origin::Default => "as declared",
        Origin::Baseline => "none but containerd's default seccomp profile",
        Origin::Unconfined => "none",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::labels;
    use crate::policy::Policy;
    use crate::profile::compute;

    fn profile(class: &str, pairs: &[(&str, &str)]) -> Profile {
        let labels: BTreeMap<_, _> =
            pairs.iter().map(|(key, value)| (format!("dev.keep.{key}"), (*value).to_owned())).collect();
        compute(labels::parse(&labels), Some("/app"), &Policy::builtin(class).unwrap()).unwrap().profile
    }

    fn declared(pairs: &[(&str, &str)]) -> Profile {
        profile("keep", &[&[("intent", "v1")], pairs].concat())
    }

    fn text(changes: &[Change]) -> Vec<String> {
        let of_grants = changes.iter().filter(|change| change.kind != "calls");
        of_grants.map(|change| format!("{}={}", change.kind, change.value)).collect()
    }

    #[test]
    fn each_kind_of_grant_widens_one_way_and_narrows_the_other() {
        let before = [("connect", "10.0.0.0/8:443/tcp"), ("write", "/data/a"), ("exec", "/app/bin")];
        for (key, more, expected) in [
            ("exec", "/app/bin /bin/sh", "exec=/bin/sh"),
            ("exec", "/app/bin /app/bin/x.sh", "exec=/app/bin/x.sh"),
            ("listen", "80-81/tcp", "listen=80-81/tcp"),
            ("connect", "10.0.0.0/8:443-444/tcp", "connect=10.0.0.0/8:444/tcp"),
            ("connect", "10.0.0.0/8:443/tcp dns", "connect=dns"),
            ("connect", "10.0.0.0/8:443/tcp unix:/run/x", "connect=unix:/run/x"),
            ("write", "/data", "write=/data"),
            ("read", "/etc/shadow", "read=/etc/shadow"),
            ("caps", "KILL", "caps=KILL"),
            ("needs", "jit", "needs=jit"),
        ] {
            let mut after: BTreeMap<_, _> = before.into();
            after.insert(key, more);
            let after: Vec<_> = after.into_iter().collect();
            let there = diff(&declared(&before), &declared(&after));
            let back = diff(&declared(&after), &declared(&before));
            assert_eq!(text(&there.widens), [expected]);
            assert_eq!((text(&back.widens), text(&back.narrows)), (Vec::new(), vec![expected.to_owned()]));
        }
    }

    #[test]
    fn a_folder_of_sockets_is_more_than_one_of_them() {
        let (one, all) = (declared(&[("connect", "unix:/run/x")]), declared(&[("connect", "unix:/run")]));
        assert_eq!(text(&diff(&one, &all).widens), ["connect=unix:/run"]);
        assert_eq!(diff(&all, &one).widens, Vec::new());
    }

    #[test]
    fn another_spelling_changes_nothing() {
        let one = declared(&[("listen", "80/tcp 81/tcp"), ("write", "/a /a/b"), ("exec", "//app")]);
        let other = declared(&[("listen", "80-81/tcp"), ("write", "/a"), ("exec", "/app/")]);
        assert_eq!(diff(&one, &other), Diff::default());
    }

    #[test]
    fn an_image_that_stops_declaring_widens() {
        let widened = diff(&declared(&[]), &profile("keep", &[])).widens;
        assert_eq!(text(&widened), ["walls=none but containerd's default seccomp profile"]);
        assert!(widened.iter().any(|change| change.value == "ptrace"));
        let back = diff(&profile("keep", &[]), &declared(&[]));
        assert!(back.widens.iter().all(|change| change.kind == "calls"), "{back:?}");
    }
}
