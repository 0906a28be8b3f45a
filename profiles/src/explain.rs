//! A profile in people's words.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::intent::{AbsPath, Need};
use crate::labels::Notice;
use crate::policy::{InteractiveExec, Mode};
use crate::profile::{Computed, Origin, Profile};
use crate::record::readable;
use crate::syscalls;

/// Width of the first column, in characters.
const LABEL: usize = 14;

/// Several lines: what it may run, where it may connect, what it may write, what it cannot do, calls, digest.
#[must_use]
pub fn explain(computed: &Computed) -> String {
    let profile = &computed.profile;
    let mut text = String::new();
    let mut line = |label: &str, what: &str| {
        // Writing to a String cannot fail.
        if writeln!(text, "{label:LABEL$}{what}").is_err() {
            text.clear();
        }
    };
    line("class", &class(profile));
    match profile.origin {
        Origin::Declared => declared(profile, &mut line),
        Origin::Baseline => {
            line("declares", "nothing: capabilities and mounts are those of the pod, no further walls");
            line("calls", &format!("{}, containerd's default", profile.calls.len()));
        }
        Origin::Unconfined => line("declares", "nothing: runs exactly as the pod says, without any wall"),
    }
    for notice in &computed.notices {
        line("note", &noticed(notice));
    }
    line("digest", &profile.digest());
    text
}

/// The same for programs: the profile under `profile`, its digest, and the numbers that [`explain`] states.
#[must_use]
pub fn explain_json(computed: &Computed) -> Value {
    json!({
        "profile": computed.profile,
        "digest": computed.profile.digest(),
        "calls": { "allowed": computed.profile.calls.len(), "containerDefault": default_calls() },
        "notices": computed.notices.iter().map(noticed).collect::<Vec<_>>(),
    })
}

/// How many calls containerd's default allows, with the capabilities that it gives.
fn default_calls() -> usize {
    syscalls::baseline(&syscalls::default_capabilities()).len()
}

fn class(profile: &Profile) -> String {
    let mode = match profile.mode {
        Mode::Enforce => "enforced",
        Mode::Audit => "audited: nothing is stopped, what would be is recorded",
    };
    format!("{} ({mode})", profile.policy)
}

fn declared(profile: &Profile, line: &mut impl FnMut(&str, &str)) {
    let entrypoint =
        profile.entrypoint.as_deref().map_or("its entrypoint".to_owned(), |name| readable(name, 200));
    let is_entrypoint = |path: &AbsPath| profile.entrypoint.as_deref() == Some(path.as_str());
    let others = listed(profile.exec.iter().filter(|path| !is_entrypoint(path)), "");
    line(
        "runs",
        &if others.is_empty() {
            format!("{entrypoint}, nothing else")
        } else {
            format!("{entrypoint}, {others}")
        },
    );
    line("listens on", &listed(profile.listen.iter(), "no port"));
    line("connects to", &listed(profile.connect.iter(), "nothing"));
    line("writes", &listed(profile.write.iter(), "nothing but the volumes that its pod mounts writable"));
    if !profile.read.is_empty() {
        line("reads also", &listed(profile.read.iter(), ""));
    }
    line("capabilities", &listed(profile.caps.iter(), "none"));
    let needs: Vec<String> =
        profile.needs.iter().map(|need| format!("{need} ({})", need.meaning())).collect();
    line("needs", &listed(needs.iter(), "nothing special of the kernel"));
    let exec = match profile.interactive_exec {
        InteractiveExec::Deny => "refused",
        InteractiveExec::Confined => "behind the same walls",
    };
    line("exec", &format!("sessions with a terminal are {exec}"));
    line("cannot", &cannot(profile));
    line("calls", &format!("{} (container default: {})", profile.calls.len(), default_calls()));
}

fn cannot(profile: &Profile) -> String {
    let mut things = Vec::new();
    if profile.exec.is_empty() {
        things.push("start another program".to_owned());
    } else {
        things.push("start any other program".to_owned());
    }
    if profile.write.is_empty() {
        things.push("change its own files".to_owned());
    } else {
        things.push("change other files, or run what it wrote".to_owned());
    }
    if profile.listen.is_empty() && profile.connect.is_empty() {
        things.push("use the network".to_owned());
    }
    let lacking = Need::all().filter(|need| !profile.needs.contains(need)).map(|need| need.to_string());
    let lacking: Vec<String> = lacking.collect();
    if !lacking.is_empty() {
        things.push(format!("use {}", lacking.join(", ")));
    }
    things.push("gain rights by setuid programs".to_owned());
    things.join("; ")
}

fn listed<T: ToString>(items: impl Iterator<Item = T>, none: &str) -> String {
    let items: Vec<String> = items.map(|item| readable(&item.to_string(), 400)).collect();
    if items.is_empty() { none.to_owned() } else { items.join(", ") }
}

/// A notice in one sentence.
fn noticed(notice: &Notice) -> String {
    let plain = |text: &str| readable(text, 200);
    match notice {
        Notice::UnknownKey { key, suggestion: Some(known) } => {
            format!("label {} is unknown and ignored; did you mean {}?", plain(key), plain(known))
        }
        Notice::UnknownKey { key, suggestion: None } => {
            format!("label {} is unknown and ignored", plain(key))
        }
        Notice::WithoutIntent { key } => {
            format!("label {} counts for nothing without dev.keep.intent=\"v1\"", plain(key))
        }
        Notice::Clamped { key, value, by } => {
            format!(
                "{} of label {} was not granted: {} does not leave it to an image",
                plain(value),
                plain(key),
                plain(by)
            )
        }
        Notice::Undeclared => {
            "the image declares nothing; dev.keep.intent=\"v1\" begins a declaration".to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::labels;
    use crate::policy::Policy;
    use crate::profile::compute;

    fn computed(class: &str, pairs: &[(&str, &str)]) -> Computed {
        let labels: BTreeMap<_, _> =
            pairs.iter().map(|(key, value)| (format!("dev.keep.{key}"), (*value).to_owned())).collect();
        compute(&labels::parse(&labels).unwrap(), Some("nginx"), &Policy::builtin(class).unwrap()).unwrap()
    }

    #[test]
    fn a_declared_image_is_told_with_what_it_may_and_may_not() {
        let computed = computed(
            "keep",
            &[
                ("intent", "v1"),
                ("listen", "8080/tcp"),
                ("write", "/run"),
                ("needs", "jit mount"),
                ("lisen", ""),
            ],
        );
        let text = explain(&computed);
        for part in [
            "class         keep (enforced)\n",
            "runs          nginx, nothing else\n",
            "listens on    8080/tcp\n",
            "connects to   nothing\n",
            "writes        /run\n",
            "capabilities  none\n",
            "needs         jit (memory that is writable and executable",
            "start another program",
            "note          mount of label dev.keep.needs was not granted: class keep",
            "note          label dev.keep.lisen is unknown and ignored; did you mean dev.keep.listen?",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(!text.contains("use the network"));
        assert!(text.ends_with(&format!("digest        {}\n", computed.profile.digest())));
    }

    #[test]
    fn an_image_that_declares_nothing_is_told_so() {
        assert!(explain(&computed("keep", &[])).contains("containerd's default"));
        assert!(explain(&computed("keep-permissive", &[])).contains("without any wall"));
    }

    #[test]
    fn json_holds_the_profile_and_its_digest() {
        let computed = computed("keep", &[("intent", "v1")]);
        let json = explain_json(&computed);
        assert_eq!(json["digest"], computed.profile.digest());
        let profile: Profile = serde_json::from_value(json["profile"].clone()).unwrap();
        assert_eq!(profile, computed.profile);
        assert!(json["calls"]["allowed"].as_u64() < json["calls"]["containerDefault"].as_u64());
    }
}
