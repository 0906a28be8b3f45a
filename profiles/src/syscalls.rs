//! System-call sets as data: groups with their reasons, names resolved for each architecture.
//!
//! `data/calls.tsv` names every known call with its numbers, `data/groups.txt` says which calls a container
//! gets for what, `data/rules.txt` which arguments are looked at, and `data/baseline.txt` holds containerd's
//! default. They are parsed once, at first use; data that did not parse would allow nothing (and fails a test).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use crate::intent::{Capability, Need};
use crate::plan::{Action, Arch, CallRule};

mod data;

pub use data::DataError;
use data::{Group, Kind, Sets, Term};

/// Error number of `EPERM`, what a refused call answers.
pub(crate) const EPERM: u16 = 1;
/// Error number of `ENOSYS`, what an unknown call answers.
pub(crate) const ENOSYS: u16 = 38;

/// A call's numbers by architecture; `None` where the architecture lacks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Numbers {
    x86_64: Option<u32>,
    aarch64: Option<u32>,
}

const GROUPS: &str = include_str!("../data/groups.txt");

static CALLS: LazyLock<BTreeMap<&'static str, Numbers>> =
    LazyLock::new(|| data::calls(include_str!("../data/calls.tsv")).unwrap_or_default());
static GENERATED: LazyLock<Sets> =
    LazyLock::new(|| data::sets(&[GROUPS, include_str!("../data/rules.txt")]).unwrap_or_default());
static BASELINE: LazyLock<Sets> =
    LazyLock::new(|| data::sets(&[include_str!("../data/baseline.txt")]).unwrap_or_default());
static NAMES: LazyLock<[BTreeMap<u32, &'static str>; 2]> = LazyLock::new(|| {
    [Arch::X86_64, Arch::Aarch64].map(|arch| {
        CALLS.keys().filter_map(|name| number(name, arch).map(|number| (number, *name))).collect()
    })
});

/// How much of the kernel can be reached by system calls, in halves: a call counts two, one whose arguments are
/// checked counts one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Surface(usize);

impl Surface {
    /// Of what is granted.
    pub(crate) fn of(grants: &Grants) -> Self {
        Self::by(|call| rules(call, grants))
    }

    /// Of containerd's default with the capabilities `caps`.
    pub(crate) fn baseline(caps: &BTreeSet<Capability>) -> Self {
        Self::by(|call| baseline_rules(call, caps))
    }

    /// Of all known calls.
    pub(crate) fn everything() -> Self {
        Self(2 * CALLS.len())
    }

    /// The sum.
    pub(crate) fn halves(self) -> usize {
        self.0
    }

    fn by(rules: impl Fn(&'static str) -> Vec<CallRule>) -> Self {
        let through = |rule: &CallRule| matches!(rule.action, Action::Allow | Action::Observe);
        let weight = |rules: Vec<CallRule>| match rules.as_slice() {
            rules if !rules.iter().any(through) => 0,
            rules if rules.iter().all(through) => 2,
            _ => 1,
        };
        Self(names().map(|call| weight(rules(call))).sum())
    }
}

/// Names of all known calls of any architecture, sorted.
pub fn names() -> impl Iterator<Item = &'static str> {
    CALLS.keys().copied()
}

/// The number of the call `name` on `arch`, if that architecture has it.
#[must_use]
pub fn number(name: &str, arch: Arch) -> Option<u32> {
    let numbers = CALLS.get(name)?;
    match arch {
        Arch::X86_64 => numbers.x86_64,
        Arch::Aarch64 => numbers.aarch64,
    }
}

/// The name of call `number` on `arch`, if it is known.
#[must_use]
pub fn name(number: u32, arch: Arch) -> Option<&'static str> {
    by_number(arch).get(&number).copied()
}

/// Every call that `arch` has, with its number, in the order of the numbers.
pub(crate) fn numbered(arch: Arch) -> impl Iterator<Item = (u32, &'static str)> {
    by_number(arch).iter().map(|(number, name)| (*number, *name))
}

fn by_number(arch: Arch) -> &'static BTreeMap<u32, &'static str> {
    let [x86_64, aarch64] = &*NAMES;
    match arch {
        Arch::X86_64 => x86_64,
        Arch::Aarch64 => aarch64,
    }
}

/// Known values of `dev.keep.needs` with what each stands for.
pub fn needs() -> impl Iterator<Item = (&'static str, &'static str)> {
    // Without the calls that they allow: whoever reads a policy or labels asks for the names alone.
    data::needs(GROUPS)
}

/// What decides which calls a container gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grants {
    /// Declared and left by the policy.
    pub(crate) needs: BTreeSet<Need>,
    /// Declared and left by the policy.
    pub(crate) caps: BTreeSet<Capability>,
    /// Which sockets.
    pub(crate) sockets: Sockets,
}

/// Which inet sockets a container may open; each grants what stands before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sockets {
    /// None.
    Local,
    /// TCP.
    Stream,
    /// TCP and UDP.
    Datagram,
}

impl Grants {
    fn hold(&self, term: &Term) -> bool {
        match term {
            Term::Always => true,
            Term::Inet => self.sockets >= Sockets::Stream,
            Term::Datagram => self.sockets >= Sockets::Datagram,
            Term::Need(name) => self.needs.iter().any(|need| need.as_str() == *name),
            Term::Cap(name) => self.caps.iter().any(|cap| cap.as_str() == *name),
            Term::Not(term) => !self.hold(term),
        }
    }

    fn grant(&self, group: &Group) -> bool {
        match group.kind {
            Kind::Base => true,
            Kind::Need => self.hold(&Term::Need(group.name)),
            Kind::Cap => self.hold(&Term::Cap(group.name)),
        }
    }
}

impl Sets {
    /// Whether one of the groups that `grants` hold has `call`.
    fn grants(&self, call: &str, grants: &Grants) -> bool {
        let groups = self.groups_of.get(call).into_iter().flatten();
        groups.filter_map(|place| self.groups.get(*place)).any(|group| grants.grant(group))
    }
}

/// The rules of the generated filter for one call, the last one without condition.
pub(crate) fn rules(call: &str, grants: &Grants) -> Vec<CallRule> {
    rules_of(&GENERATED, call, grants, Action::Refuse(EPERM))
}

/// The rules of containerd's default for one call: nothing reaches a listener.
pub(crate) fn baseline_rules(call: &str, caps: &BTreeSet<Capability>) -> Vec<CallRule> {
    rules_of(&BASELINE, call, &baseline_grants(caps), Action::Errno(EPERM))
}

fn baseline_grants(caps: &BTreeSet<Capability>) -> Grants {
    Grants { needs: BTreeSet::new(), caps: caps.clone(), sockets: Sockets::Local }
}

fn rules_of(sets: &Sets, call: &str, grants: &Grants, refused: Action) -> Vec<CallRule> {
    let mut rules: Vec<CallRule> = in_force(sets, call, grants).cloned().collect();
    if rules.is_empty() {
        let action = if sets.grants(call, grants) { Action::Allow } else { refused };
        return vec![CallRule { when: Vec::new(), action }];
    }
    if rules.last().is_some_and(|last| !last.when.is_empty()) {
        rules.push(CallRule { when: Vec::new(), action: refused });
    }
    rules
}

/// The rules of a call whose sections hold, up to the first without a condition.
fn in_force<'a>(sets: &'a Sets, call: &str, grants: &Grants) -> impl Iterator<Item = &'a CallRule> {
    let lines = sets.rules.get(call).into_iter().flatten();
    let held = lines.filter(|(terms, _)| terms.iter().all(|term| grants.hold(term)));
    let mut ended = false;
    held.flat_map(|(_, rules)| rules).take_while(move |rule| {
        let before = ended;
        ended |= rule.when.is_empty();
        !before
    })
}

/// Whether a call is let through, with whatever arguments.
fn lets_through(sets: &Sets, call: &str, grants: &Grants) -> bool {
    let mut rules = in_force(sets, call, grants).peekable();
    if rules.peek().is_none() {
        return sets.grants(call, grants);
    }
    rules.any(|rule| match rule.action {
        Action::Allow | Action::Observe | Action::Log => true,
        Action::Errno(_) | Action::Refuse(_) | Action::Kill | Action::Trap => false,
    })
}

/// Names of the calls that the generated filter lets through, with whatever arguments.
pub(crate) fn allowed(grants: &Grants) -> BTreeSet<String> {
    names().filter(|call| lets_through(&GENERATED, call, grants)).map(str::to_owned).collect()
}

/// Names of the calls that containerd's default lets through with the capabilities `caps`.
#[must_use]
pub fn baseline(caps: &BTreeSet<Capability>) -> BTreeSet<String> {
    let grants = baseline_grants(caps);
    names().filter(|call| lets_through(&BASELINE, call, &grants)).map(str::to_owned).collect()
}

/// The capabilities that containerd gives a container whose pod asks for none.
/// Source: containerd 2.3, pkg/oci/spec.go, `defaultUnixCaps`.
#[must_use]
pub fn default_capabilities() -> BTreeSet<Capability> {
    [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "NET_RAW",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ]
    .iter()
    .filter_map(|name| Capability::new(name).ok())
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(needs: &[&str], caps: &[&str], sockets: Sockets) -> Grants {
        Grants {
            needs: needs.iter().map(|name| Need::new(name).unwrap()).collect(),
            caps: caps.iter().map(|name| Capability::new(name).unwrap()).collect(),
            sockets,
        }
    }

    #[test]
    fn the_needs_are_those_of_the_groups() {
        let groups = GENERATED.groups.iter().filter(|group| group.kind == Kind::Need);
        let groups: Vec<_> = groups.map(|group| (group.name, group.text)).collect();
        assert_eq!(needs().collect::<Vec<_>>(), groups);
        assert!(groups.len() > 5 && groups.iter().all(|(_, text)| !text.is_empty()));
    }

    #[test]
    fn all_data_parses_and_every_name_in_it_is_known() {
        assert!(data::calls(include_str!("../data/calls.tsv")).is_ok());
        let files = [GROUPS, include_str!("../data/rules.txt")];
        let generated = data::sets(&files).unwrap();
        let baseline = data::sets(&[include_str!("../data/baseline.txt")]).unwrap();
        for sets in [generated, baseline] {
            let named = sets.groups.iter().flat_map(|group| &group.calls).chain(sets.rules.keys());
            for call in named {
                assert!(CALLS.contains_key(call), "{call} is not in calls.tsv");
            }
            for group in &sets.groups {
                assert!(group.kind != Kind::Cap || Capability::new(group.name).is_ok(), "{}", group.name);
            }
            for term in sets.rules.values().flatten().flat_map(|line| &line.0) {
                let term = if let Term::Not(term) = term { term } else { term };
                match term {
                    Term::Need(name) => assert!(Need::new(name).is_ok(), "{name}"),
                    Term::Cap(name) => assert!(Capability::new(name).is_ok(), "{name}"),
                    Term::Always | Term::Inet | Term::Datagram | Term::Not(_) => {}
                }
            }
        }
    }

    #[test]
    fn numbers_are_those_of_the_architecture() {
        assert_eq!((number("openat", Arch::X86_64), number("openat", Arch::Aarch64)), (Some(257), Some(56)));
        assert_eq!((number("open", Arch::X86_64), number("open", Arch::Aarch64)), (Some(2), None));
        assert_eq!((name(59, Arch::X86_64), name(221, Arch::Aarch64)), (Some("execve"), Some("execve")));
        assert_eq!((number("oben", Arch::X86_64), name(9999, Arch::X86_64)), (None, None));
    }

    #[test]
    fn no_two_calls_share_a_number() {
        for arch in [Arch::X86_64, Arch::Aarch64] {
            let numbers: Vec<_> = names().filter_map(|name| number(name, arch)).collect();
            assert_eq!(numbers.len(), numbers.iter().collect::<BTreeSet<_>>().len());
        }
    }

    #[test]
    fn dangerous_calls_are_there_only_for_who_declared_them() {
        let plain = allowed(&grants(&[], &[], Sockets::Datagram));
        for (need, call) in [
            ("ipc", "msgget"),
            ("ptrace", "ptrace"),
            ("io-uring", "io_uring_setup"),
            ("userns", "setns"),
            ("keyring", "add_key"),
            ("perf", "perf_event_open"),
            ("mount", "mount"),
            ("bpf", "bpf"),
            ("userfaultfd", "userfaultfd"),
            ("memfd-exec", "memfd_create"),
            ("aio", "io_submit"),
        ] {
            assert!(!plain.contains(call), "{call}");
            assert!(allowed(&grants(&[need], &[], Sockets::Local)).contains(call), "{call}");
        }
        assert!(plain.contains("read") && plain.contains("clone") && !plain.contains("clone3"));
        assert!(!plain.contains("chroot"));
        assert!(allowed(&grants(&[], &["SYS_CHROOT"], Sockets::Local)).contains("chroot"));
    }

    #[test]
    fn a_generated_filter_allows_fewer_calls_than_containerds_default() {
        let plain = allowed(&grants(&[], &[], Sockets::Datagram));
        let default = baseline(&default_capabilities());
        assert!(plain.len() + 30 < default.len(), "{} and {}", plain.len(), default.len());
        assert!(default.contains("chroot") && !default.contains("mount"));
    }

    #[test]
    fn every_list_of_rules_ends_without_a_condition() {
        let all: Vec<String> = Need::all().map(String::from).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        for grants in [grants(&[], &[], Sockets::Local), grants(&all, &["NET_ADMIN"], Sockets::Datagram)] {
            for call in names() {
                let rules = rules(call, &grants);
                assert!(rules.last().is_some_and(|rule| rule.when.is_empty()), "{call}");
                assert_eq!(rules.iter().filter(|rule| rule.when.is_empty()).count(), 1, "{call}");
            }
        }
    }
}
