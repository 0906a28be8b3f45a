//! A profile in people's words.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use crate::intent::{AbsPath, Endpoint, Need, PortRange};
use crate::labels::Notice;
use crate::policy::{Command, InteractiveExec, Mode, Policy, Report};
use crate::profile::{Computed, Origin, Profile};
use crate::record::{listed as few, readable};
use crate::sets::Reach;
use crate::syscalls::{self, Surface};

/// More networks than this are told by what they leave out, if that is less.
const MANY_NETWORKS: usize = 8;

/// Width of the first column, in characters.
const LABEL: usize = 14;

/// What can be counted about a profile, beside containerd's default for a container that declares nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Figures {
    /// System calls that are allowed, with whatever arguments.
    pub calls: usize,
    /// The same of containerd's default seccomp profile with its default capabilities.
    pub container_default_calls: usize,
    /// The kernel's attack surface in percent of containerd's default: calls, of which those whose arguments are
    /// checked count half.
    pub surface_percent: usize,
    /// Capabilities that are left.
    pub capabilities: usize,
    /// Capabilities that containerd gives by default.
    pub container_default_capabilities: usize,
}

impl Figures {
    /// Counts.
    #[must_use]
    pub fn of(profile: &Profile) -> Self {
        let default_caps = syscalls::default_capabilities();
        let default = Surface::baseline(&default_caps);
        let own = match profile.origin {
            Origin::Declared | Origin::Default => profile.surface(),
            Origin::Baseline => default,
            Origin::Unconfined => Surface::everything(),
        };
        let nothing_taken = matches!(profile.origin, Origin::Baseline | Origin::Unconfined);
        Self {
            calls: profile.calls.len(),
            container_default_calls: syscalls::baseline(&default_caps).len(),
            surface_percent: (100 * own.halves() + default.halves() / 2) / default.halves().max(1),
            capabilities: if nothing_taken { default_caps.len() } else { profile.caps.len() },
            container_default_capabilities: default_caps.len(),
        }
    }
}

/// Several lines: what it may run, where it may connect, what it may write, what it cannot do, what the policy took and
/// by which rule, calls, digest.
#[must_use]
pub fn explain(computed: &Computed, policy: &Policy) -> String {
    let profile = &computed.profile;
    let mut text = String::new();
    let mut line = |label: &str, what: &str| {
        // Writing to a String cannot fail.
        if writeln!(text, "{label:LABEL$}{what}").is_err() {
            text.clear();
        }
    };
    let mode = match profile.mode {
        Mode::Enforce => "enforced",
        Mode::Audit => "audited: nothing is stopped, what would be is recorded",
    };
    line("class", &format!("{} ({mode})", policy.class));
    if !policy.policies.is_empty() {
        line("policies", &policy.policies.join(", "));
    }
    let figures = Figures::of(profile);
    match profile.origin {
        Origin::Declared => declared(profile, &mut line),
        Origin::Default => {
            line("declares", "nothing: it gets the policy's default");
            declared(profile, &mut line);
        }
        Origin::Baseline => {
            line("declares", "nothing: capabilities and mounts are those of the pod, no further walls");
        }
        Origin::Unconfined => line("declares", "nothing: runs exactly as the pod says, without any wall"),
    }
    for notice in &computed.notices {
        line(if matches!(notice, Notice::Clamped { .. }) { "taken away" } else { "note" }, &noticed(notice));
    }
    line("calls", &format!("{} (container default: {})", figures.calls, figures.container_default_calls));
    line("surface", &surface(&figures));
    line("digest", &profile.digest());
    text
}

fn surface(figures: &Figures) -> String {
    format!(
        "{} % of the container default's system calls, {} of its {} capabilities",
        figures.surface_percent, figures.capabilities, figures.container_default_capabilities
    )
}

fn declared(profile: &Profile, line: &mut impl FnMut(&str, &str)) {
    let entrypoint =
        profile.entrypoint.as_deref().map_or("its entrypoint".to_owned(), |name| readable(name, 200));
    let is_entrypoint = |path: &AbsPath| profile.entrypoint.as_deref() == Some(path.as_str());
    let programs = profile.exec.iter().chain(&profile.exec_beneath);
    let others = listed(programs.filter(|path| !is_entrypoint(path)), "");
    let command = match profile.command {
        Command::Declared => "",
        Command::Allow => ", and what the pod's command names",
    };
    line(
        "runs",
        &if others.is_empty() && command.is_empty() {
            format!("{entrypoint}, nothing else")
        } else if others.is_empty() {
            format!("{entrypoint}{command}")
        } else {
            format!("{entrypoint}, {others}{command}")
        },
    );
    line("listens on", &listed(profile.listen.iter(), "no port"));
    line("connects to", &listed(reached(profile).iter(), "nothing"));
    line("writes", &listed(profile.write.iter(), "nothing but the volumes that its pod mounts writable"));
    if !profile.read.is_empty() {
        line("reads also", &listed(profile.read.iter(), ""));
    }
    line("capabilities", &listed(profile.caps.iter(), "none"));
    let needs: Vec<String> =
        profile.needs.iter().map(|need| format!("{need} ({})", need.meaning())).collect();
    line("needs", &listed(needs.iter(), "nothing special of the kernel"));
    line("exec", &format!("sessions with a terminal {}", sessions(profile)));
    if profile.report == Report::Calls {
        line("reports", "all but refused changes of files");
    }
    line("cannot", &cannot(profile));
}

fn sessions(profile: &Profile) -> String {
    match (profile.interactive_exec, &profile.debug) {
        (InteractiveExec::Deny, _) => "are refused".to_owned(),
        (InteractiveExec::Debug, Some(more)) => format!(
            "may also run {}; capabilities besides: {}; needs besides: {}",
            listed(more.exec.iter().chain(&more.exec_beneath), "nothing"),
            listed(more.caps.iter(), "none"),
            listed(more.needs.iter(), "none"),
        ),
        (InteractiveExec::Confined | InteractiveExec::Debug, _) => "are behind the same walls".to_owned(),
    }
}

/// Where it connects. A port that is reached nearly everywhere is told by where it is not: what is left around an
/// address that a policy denies is dozens of networks.
fn reached(profile: &Profile) -> Vec<String> {
    let endpoints: Vec<Endpoint> = profile.connect.iter().filter_map(|entry| entry.parse().ok()).collect();
    let mut networks: BTreeMap<PortRange, usize> = BTreeMap::new();
    for endpoint in &endpoints {
        if let Endpoint::Ports { ports, .. } = endpoint {
            *networks.entry(*ports).or_default() += 1;
        }
    }
    let reach = Reach::new(&endpoints);
    let but = |ports: &PortRange| -> Vec<Endpoint> {
        let everywhere = Reach::new(&[Endpoint::Ports { network: None, ports: *ports }]);
        everywhere.difference(&reach).endpoints()
    };
    let told: BTreeMap<PortRange, Vec<Endpoint>> = networks
        .into_iter()
        .map(|(ports, many)| (ports, but(&ports), many))
        .filter(|(_, but, many)| *many > MANY_NETWORKS && but.len() <= MANY_NETWORKS)
        .map(|(ports, but, _)| (ports, but))
        .collect();
    let folded = |ports: &PortRange| told.get(ports);
    let others = endpoints
        .iter()
        .filter(|endpoint| !matches!(endpoint, Endpoint::Ports { ports, .. } if folded(ports).is_some()));
    let everywhere = told.iter().map(|(ports, but)| {
        let but: Vec<String> = but.iter().map(ToString::to_string).collect();
        format!("{ports} anywhere but {}", but.join(" "))
    });
    everywhere.chain(others.map(ToString::to_string)).collect()
}

fn cannot(profile: &Profile) -> String {
    let mut things = Vec::new();
    if profile.exec.is_empty() && profile.exec_beneath.is_empty() {
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
#[must_use]
pub fn noticed(notice: &Notice) -> String {
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
        Notice::Clamped { key, value, left, by } if left.is_empty() => {
            format!("{} of label {}, by {}", plain(value), plain(key), plain(by))
        }
        Notice::Clamped { key, value, left, by } => {
            format!(
                "{} of label {} but for {}, by {}",
                plain(value),
                plain(key),
                plain(&few(left)),
                plain(by)
            )
        }
        Notice::Invalid { error } => {
            format!(
                "the labels are not understood, so that the policy's default takes their place: {}",
                readable(error, 400)
            )
        }
        Notice::BrokenPolicies { problem } => {
            format!(
                "the policies are broken, so that the last that were understood are in force: {}",
                readable(problem, 400)
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
    use crate::profile::compute;

    fn computed(class: &str, pairs: &[(&str, &str)]) -> (Computed, String) {
        let labels: BTreeMap<_, _> =
            pairs.iter().map(|(key, value)| (format!("dev.keep.{key}"), (*value).to_owned())).collect();
        let policy = Policy::builtin(class).unwrap();
        let computed = compute(labels::parse(&labels), Some("nginx"), &policy).unwrap();
        let text = explain(&computed, &policy);
        (computed, text)
    }

    #[test]
    fn a_declared_image_is_told_with_what_it_may_and_may_not() {
        let (computed, text) = computed(
            "keep",
            &[
                ("intent", "v1"),
                ("listen", "8080/tcp"),
                ("write", "/run"),
                ("needs", "jit mount"),
                ("lisen", ""),
            ],
        );
        for part in [
            "class         keep (enforced)\n",
            "runs          nginx, nothing else\n",
            "listens on    8080/tcp\n",
            "connects to   nothing\n",
            "writes        /run\n",
            "capabilities  none\n",
            "needs         jit (memory that is writable and executable",
            "start another program",
            "taken away    mount of label dev.keep.needs, by class keep\n",
            "note          label dev.keep.lisen is unknown and ignored; did you mean dev.keep.listen?",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(!text.contains("use the network"));
        assert!(text.ends_with(&format!("digest        {}\n", computed.profile.digest())));
    }

    #[test]
    fn an_image_that_declares_nothing_is_told_so() {
        assert!(computed("keep", &[]).1.contains("no further walls"));
        assert!(computed("keep-permissive", &[]).1.contains("without any wall"));
    }

    #[test]
    fn what_is_denied_is_told_and_not_the_networks_around_it() {
        let text = r#"
apiVersion: keep.dev/v1alpha1
kind: RuntimePolicy
metadata: { name: no-metadata }
spec: { deny: { connect: ["169.254.169.254:1-65535/tcp"] } }
"#;
        let policies = crate::policy::Policies::parse([("a.yaml", text)]).unwrap();
        let policy = policies.select(&crate::policy::Subject::of_class("keep")).unwrap();
        let labels = [("dev.keep.intent", "v1"), ("dev.keep.connect", "443/tcp 10.0.0.0/8:80/tcp dns")];
        let labels: BTreeMap<_, _> = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let computed = compute(labels::parse(&labels), None, &policy).unwrap();
        let text = explain(&computed, &policy);
        for part in [
            "connects to   443/tcp anywhere but 169.254.169.254:443/tcp, 10.0.0.0/8:80/tcp, dns\n",
            "taken away    169.254.169.254:443/tcp of label dev.keep.connect, by a hard deny of policy no-metadata\n",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn figures_are_measured_against_the_container_default() {
        let bare = Figures::of(&computed("keep", &[("intent", "v1")]).0.profile);
        let jit = Figures::of(
            &computed("keep", &[("intent", "v1"), ("needs", "jit"), ("listen", "1/tcp")]).0.profile,
        );
        let undeclared = Figures::of(&computed("keep", &[]).0.profile);
        assert!(bare.surface_percent < jit.surface_percent && jit.surface_percent < 100, "{bare:?} {jit:?}");
        assert_eq!((undeclared.surface_percent, undeclared.calls), (100, undeclared.container_default_calls));
        assert!(Figures::of(&computed("keep-permissive", &[]).0.profile).surface_percent > 100);
    }
}
