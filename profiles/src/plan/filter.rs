//! The seccomp filter before compilation, and how it is made.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Arch, HostFacts};
use crate::intent::Capability;
use crate::policy::{Mode, Report};
use crate::profile::Profile;
use crate::syscalls::{self, ENOSYS, EPERM, Grants};

/// A seccomp filter before compilation: an action for each call of one architecture. Ordered, so that
/// compiling it twice gives the same bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeccompPlan {
    /// Native architecture; every other entry kills the process.
    pub arch: Arch,
    /// Rules by system-call number, tried in order; first match decides.
    pub calls: BTreeMap<u32, Vec<CallRule>>,
    /// For numbers above every known call (`ENOSYS`) and for known calls without a rule.
    pub unknown: Action,
}

/// What a filter does with the calls that it asks a listener about, in little memory: most of them it always refuses. Of other calls
/// this does not say what the filter does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerFilter {
    /// Calls that are refused whatever their arguments, with the error numbers.
    refused: BTreeMap<u32, u16>,
    others: SeccompPlan,
}

impl ListenerFilter {
    /// What the filter does with one of these calls.
    #[must_use]
    pub fn action(&self, number: u32, args: &[u64; 6]) -> Action {
        match self.refused.get(&number) {
            Some(errno) => Action::Refuse(*errno),
            None => self.others.action(number, args),
        }
    }
}

/// One rule for one call: when all conditions hold, the action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallRule {
    /// All must hold; empty: always.
    pub when: Vec<Condition>,
    /// What then.
    pub action: Action,
}

/// A comparison on one argument of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// Argument, 0 to 5.
    pub arg: u8,
    /// Comparison.
    pub op: Compare,
    /// Value compared with; for the masked ones, what `arg & mask` is compared with.
    pub value: u64,
}

/// How an argument is compared (64 bits, unsigned).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compare {
    /// `arg == value`
    Eq,
    /// `arg != value`
    Ne,
    /// `arg < value`
    Lt,
    /// `arg <= value`
    Le,
    /// `arg > value`
    Gt,
    /// `arg >= value`
    Ge,
    /// `arg & mask == value`
    MaskedEq {
        /// Bits that are looked at.
        mask: u64,
    },
    /// `arg & mask != value`
    MaskedNe {
        /// Bits that are looked at.
        mask: u64,
    },
}

/// What the filter does with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Action {
    /// `SECCOMP_RET_ALLOW`.
    Allow,
    /// `SECCOMP_RET_ERRNO` with this error number, unseen by the observer.
    Errno(u16),
    /// `SECCOMP_RET_USER_NOTIF`: refused; the observer answers with this error number and records the call.
    Refuse(u16),
    /// `SECCOMP_RET_USER_NOTIF`: continued; the observer records what the profile forbids (other walls decide).
    Observe,
    /// `SECCOMP_RET_KILL_PROCESS`.
    Kill,
    /// `SECCOMP_RET_LOG`: allowed and logged by the kernel (only from a pod's own seccomp profile).
    Log,
    /// `SECCOMP_RET_TRAP` (only from a pod's own seccomp profile).
    Trap,
}

impl SeccompPlan {
    /// What the filter does with a call: the first rule that holds decides.
    #[must_use]
    pub fn action(&self, number: u32, args: &[u64; 6]) -> Action {
        self.calls.get(&number).and_then(|rules| decide(rules, args)).unwrap_or(self.unknown)
    }

    /// What a listener needs: the calls that it may be asked about.
    #[must_use]
    pub fn of_listener(&self) -> ListenerFilter {
        let asks = |rule: &CallRule| matches!(rule.action, Action::Observe | Action::Refuse(_));
        let (mut refused, mut calls) = (BTreeMap::new(), BTreeMap::new());
        for (&call, rules) in self.calls.iter().filter(|(_, rules)| rules.iter().any(asks)) {
            match rules.as_slice() {
                [CallRule { when, action: Action::Refuse(errno) }] if when.is_empty() => {
                    refused.insert(call, *errno);
                }
                rules => {
                    calls.insert(call, rules.to_vec());
                }
            }
        }
        ListenerFilter { refused, others: Self { calls, ..*self } }
    }

    /// Lets through what of a call was observed.
    pub(super) fn no_longer_observe(&mut self, name: &str) {
        let number =
            syscalls::numbered(self.arch).find(|(_, known)| *known == name).map(|(number, _)| number);
        if let Some(rules) = number.and_then(|number| self.calls.get_mut(&number)) {
            for rule in rules.iter_mut().filter(|rule| rule.action == Action::Observe) {
                rule.action = Action::Allow;
            }
            *rules = simplified(std::mem::take(rules));
        }
    }

    pub(super) fn calls_allowed(&self) -> usize {
        let through = |action: Action| matches!(action, Action::Allow | Action::Observe | Action::Log);
        self.calls.values().filter(|rules| rules.iter().any(|rule| through(rule.action))).count()
    }
}

impl Condition {
    /// Whether the condition holds for these arguments.
    #[must_use]
    pub fn holds(&self, args: &[u64; 6]) -> bool {
        let Some(arg) = args.get(usize::from(self.arg)).copied() else {
            return false;
        };
        match self.op {
            Compare::Eq => arg == self.value,
            Compare::Ne => arg != self.value,
            Compare::Lt => arg < self.value,
            Compare::Le => arg <= self.value,
            Compare::Gt => arg > self.value,
            Compare::Ge => arg >= self.value,
            Compare::MaskedEq { mask } => arg & mask == self.value,
            Compare::MaskedNe { mask } => arg & mask != self.value,
        }
    }
}

/// The action of the first rule that holds.
pub(crate) fn decide(rules: &[CallRule], args: &[u64; 6]) -> Option<Action> {
    rules.iter().find(|rule| rule.when.iter().all(|condition| condition.holds(args))).map(|rule| rule.action)
}

/// Calls that are observed whatever a policy's `report` says: rare ones, and `listen`, which the observer decides.
const ALWAYS_OBSERVED: [&str; 5] = ["execve", "execveat", "bind", "connect", "listen"];

/// The filter of a declared image. In audit mode nothing is refused: what would be refused and recorded is
/// observed, what would be refused unseen is let through.
pub(super) fn declared(grants: &Grants, profile: &Profile, host: &HostFacts) -> SeccompPlan {
    let become_here = |action: Action| match (action, profile.mode, host.listener) {
        (Action::Refuse(_), Mode::Audit, true) => Action::Observe,
        (Action::Refuse(_) | Action::Errno(_), Mode::Audit, _) => Action::Allow,
        (Action::Refuse(errno), Mode::Enforce, false) => Action::Errno(errno),
        (Action::Observe, _, false) => Action::Allow,
        (other, ..) => other,
    };
    let calls = numbered(host.arch, |name| {
        let rules = syscalls::rules(name, grants);
        let seen = profile.report == Report::Full || ALWAYS_OBSERVED.contains(&name);
        let here = |action| match become_here(action) {
            Action::Observe if !seen => Action::Allow,
            action => action,
        };
        rules.into_iter().map(|rule| CallRule { action: here(rule.action), ..rule }).collect()
    });
    SeccompPlan { arch: host.arch, calls, unknown: become_here(Action::Errno(ENOSYS)) }
}

/// containerd's default filter for a container with the capabilities `caps` in its bounding set; nothing of it
/// reaches a listener. Unlike containerd's, it serves the native architecture only.
#[must_use]
pub fn baseline_seccomp(caps: &BTreeSet<Capability>, arch: Arch) -> SeccompPlan {
    let calls = numbered(arch, |name| syscalls::baseline_rules(name, caps));
    SeccompPlan { arch, calls, unknown: Action::Errno(ENOSYS) }
}

/// Rules for each call that `arch` has.
pub(super) fn numbered(arch: Arch, rules: impl Fn(&str) -> Vec<CallRule>) -> BTreeMap<u32, Vec<CallRule>> {
    syscalls::numbered(arch).map(|(number, name)| (number, simplified(rules(name)))).collect()
}

/// Drops conditions that no longer decide anything, so that the kernel can cache plain calls.
fn simplified(mut rules: Vec<CallRule>) -> Vec<CallRule> {
    while let [.., before, last] = &rules[..]
        && last.when.is_empty()
        && before.action == last.action
    {
        rules.remove(rules.len() - 2);
    }
    rules
}

/// Answer of a refused call when a profile names none.
pub(super) const DEFAULT_ERRNO: u16 = EPERM;
