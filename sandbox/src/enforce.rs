//! Puts the walls around the calling process: Landlock, then the system-call filters, last of all.

mod ruleset;

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use landlock::{RulesetCreated, RulesetStatus};
use nix::sys::prctl;
use profiles::Plan;
use profiles::plan::{Action, Gap, SeccompPlan, Wall};
use profiles::policy::Mode;

use crate::facts::NATIVE;
use crate::filter::{self, Filter, FilterError};
use crate::network::{self, NetworkError};
use crate::programs::ResolvedPrograms;
use crate::sys::seccomp;

/// Everything that can fail is done: rulesets built, paths open, filters compiled.
#[derive(Debug)]
#[must_use = "nothing is enforced yet"]
pub struct Prepared {
    mode: Mode,
    no_new_privileges: bool,
    /// Whether programs watch this process's sockets; raised by another process, proved by this one.
    watched_sockets: bool,
    ruleset: Option<RulesetCreated>,
    filters: Filters,
}

/// The walls stand.
#[derive(Debug)]
#[must_use = "a wall may be missing, and an unserved listener refuses every call that it is asked about"]
pub enum Enforced {
    /// All of the plan.
    Fully(Option<Listener>),
    /// Not all that the plan has; what is missing.
    Partially(Option<Listener>, Vec<Gap>),
}

/// The listener of the filter that was loaded.
#[derive(Debug)]
pub struct Listener(pub(crate) OwnedFd);

/// Why the walls cannot be put up.
#[derive(Debug, thiserror::Error)]
pub enum EnforceError {
    /// A filter does not compile.
    #[error("cannot compile the {which} system-call filter")]
    Compile {
        /// Whose it is: the plan's or the pod's.
        which: &'static str,
        /// Cause.
        source: FilterError,
    },
    /// A filter is for another architecture.
    #[error("the {0} system-call filter is for another architecture than this program's")]
    Architecture(&'static str),
    /// The pod's filter asks for a listener of its own.
    #[error("the pod's system-call filter notifies a listener, which it has none of")]
    PodListener,
    /// A filter would stop what is still to be done once it stands.
    #[error("the {which} system-call filter does not allow {call}, without which no program can be started")]
    StartCall {
        /// Whose it is: the plan's or the pod's.
        which: &'static str,
        /// The call.
        call: &'static str,
    },
    /// The Landlock ruleset cannot be built.
    #[error("cannot build the Landlock ruleset")]
    Ruleset(#[source] landlock::RulesetError),
    /// A path that is there cannot be opened.
    #[error("cannot open {path} for its Landlock rule")]
    OpenPath {
        /// Path in the container.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// `no_new_privs` cannot be set.
    #[error("cannot set no_new_privs")]
    NoNewPrivileges(#[source] io::Error),
    /// The Landlock ruleset cannot be put in force.
    #[error("cannot enforce the Landlock ruleset")]
    Restrict(#[source] landlock::RulesetError),
    /// The network wall does not stand around this process.
    #[error(transparent)]
    Network(NetworkError),
    /// A filter cannot be loaded.
    #[error("cannot load the {which} system-call filter")]
    Load {
        /// Whose it is: the plan's or the pod's.
        which: &'static str,
        /// Cause.
        source: io::Error,
    },
}

impl Prepared {
    /// Prepares the walls of `plan` for the calling process. To be called in the container's init (or an exec's
    /// process), inside its root and with its capabilities dropped. `writable` are the pod's read-write volumes,
    /// `extra` is the pod's own seccomp profile.
    ///
    /// # Errors
    /// When a filter does not compile or would stop the program's start, or the ruleset cannot be built. Paths that do
    /// not exist are skipped, which only narrows.
    pub fn new(
        plan: &Plan,
        programs: &ResolvedPrograms,
        writable: &[PathBuf],
        extra: Option<&SeccompPlan>,
    ) -> Result<Self, EnforceError> {
        Ok(Self {
            mode: plan.mode,
            no_new_privileges: plan.no_new_privileges,
            watched_sockets: plan.sockets.is_some(),
            filters: Filters::compile(plan.seccomp.as_ref(), extra)?,
            ruleset: ruleset::build(plan, programs, writable)?,
        })
    }

    /// Restricts the calling thread, for ever; it should be the process's only one. Afterwards hand the listener
    /// over, then `execve`, once, by an absolute path: the observer takes the first `execve` for the runtime's.
    ///
    /// # Errors
    /// When a step fails. The process may then be partly restricted, and must end. In audit mode a filter that cannot
    /// be loaded is a gap and no error.
    pub fn enforce(self) -> Result<Enforced, EnforceError> {
        if self.watched_sockets {
            network::prove().map_err(EnforceError::Network)?;
        }
        if self.needs_no_new_privileges() {
            prctl::set_no_new_privs().map_err(|errno| EnforceError::NoNewPrivileges(errno.into()))?;
        }
        let mut gaps = Vec::new();
        if let Some(ruleset) = self.ruleset {
            let status = ruleset.restrict_self().map_err(EnforceError::Restrict)?;
            if status.ruleset != RulesetStatus::FullyEnforced {
                gaps.extend(ruleset::not_enforced());
            }
        }
        let listener = match (self.filters.load(), self.mode) {
            (Ok(listener), _) => listener,
            (Err(error @ EnforceError::Load { .. }), Mode::Audit) => {
                let sentence = format!("system calls cannot be observed: {error}");
                gaps.push(Gap { wall: Wall::Syscall, sentence });
                None
            }
            (Err(error), _) => return Err(error),
        };
        if gaps.is_empty() { Ok(Enforced::Fully(listener)) } else { Ok(Enforced::Partially(listener, gaps)) }
    }
}

impl Prepared {
    /// Planned, or the only way: who has neither `no_new_privs` nor CAP_SYS_ADMIN can load nothing. In audit mode the
    /// container is to run as it would without us, even if that cannot be observed then.
    fn needs_no_new_privileges(&self) -> bool {
        let restricts = self.ruleset.is_some() || !self.filters.0.is_empty();
        let may =
            || caps::has_cap(None, caps::CapSet::Effective, caps::Capability::CAP_SYS_ADMIN).unwrap_or(false);
        self.no_new_privileges || (restricts && self.mode == Mode::Enforce && !may())
    }
}

const PLAN: &str = "plan's";
const POD: &str = "pod's";

/// Compiled filters, in the order in which they are loaded.
#[derive(Debug)]
struct Filters(Vec<(&'static str, Filter)>);

impl Filters {
    fn compile(plan: Option<&SeccompPlan>, extra: Option<&SeccompPlan>) -> Result<Self, EnforceError> {
        let mut filters = Vec::new();
        // A filter that refuses seccomp(2) itself must be the last.
        let load = (libc::SYS_seccomp, "seccomp");
        let both = plan.is_some() && extra.is_some();
        let pod_last = both && extra.is_some_and(|pod| !allows(pod, load.0));
        if let Some(pod) = extra {
            let filter = compiled(pod, POD)?;
            if filter.notifies() {
                return Err(EnforceError::PodListener);
            }
            filters.push((POD, filter));
        }
        if let Some(plan) = plan {
            if pod_last && !allows(plan, load.0) {
                return Err(EnforceError::StartCall { which: PLAN, call: load.1 });
            }
            filters.push((PLAN, compiled(plan, PLAN)?));
        }
        if pod_last {
            filters.reverse();
        }
        Ok(Self(filters))
    }

    fn load(self) -> Result<Option<Listener>, EnforceError> {
        let wait_killable = seccomp::has_wait_killable();
        let mut listener = None;
        for (which, filter) in self.0 {
            let load = |source| EnforceError::Load { which, source };
            if filter.notifies() {
                let fd = seccomp::load_with_listener(filter.instructions(), wait_killable);
                listener = Some(Listener(fd.map_err(load)?));
            } else {
                seccomp::load(filter.instructions()).map_err(load)?;
            }
        }
        Ok(listener)
    }
}

fn compiled(plan: &SeccompPlan, which: &'static str) -> Result<Filter, EnforceError> {
    if plan.arch != NATIVE {
        return Err(EnforceError::Architecture(which));
    }
    for (number, call) in [(libc::SYS_sendmsg, "sendmsg"), (libc::SYS_close, "close")] {
        if !allows(plan, number) {
            return Err(EnforceError::StartCall { which, call });
        }
    }
    let execve = action(plan, libc::SYS_execve);
    if !matches!(execve, Action::Allow | Action::Log | Action::Observe) {
        return Err(EnforceError::StartCall { which, call: "execve" });
    }
    filter::compile(plan).map_err(|source| EnforceError::Compile { which, source })
}

/// What `plan` says about a call whose arguments are as harmless as can be.
fn action(plan: &SeccompPlan, number: libc::c_long) -> Action {
    u32::try_from(number).map_or(Action::Kill, |number| filter::evaluate(plan, number, &[0; 6]))
}

fn allows(plan: &SeccompPlan, number: libc::c_long) -> bool {
    matches!(action(plan, number), Action::Allow | Action::Log)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use profiles::plan::{Arch, CallRule};

    use super::*;
    use crate::testing::bare_plan;

    fn filter(others: &[(libc::c_long, Action)]) -> SeccompPlan {
        let rule = |action| vec![CallRule { when: Vec::new(), action }];
        let mut calls: BTreeMap<_, _> = (0..450).map(|number| (number, rule(Action::Allow))).collect();
        calls.extend(others.iter().map(|(number, action)| (*number as u32, rule(*action))));
        SeccompPlan { arch: NATIVE, calls, unknown: Action::Errno(38) }
    }

    fn prepared(own: SeccompPlan, extra: Option<&SeccompPlan>) -> Result<Prepared, EnforceError> {
        Prepared::new(&Plan { seccomp: Some(own), ..bare_plan() }, &ResolvedPrograms::default(), &[], extra)
    }

    #[test]
    fn a_filter_that_would_stop_the_program_s_start_is_refused_before_it_stands() {
        let refuse = Action::Refuse(1);
        for (number, name) in
            [(libc::SYS_sendmsg, "sendmsg"), (libc::SYS_close, "close"), (libc::SYS_execve, "execve")]
        {
            let error = prepared(filter(&[(number, refuse)]), None).unwrap_err();
            assert!(matches!(error, EnforceError::StartCall { call, .. } if call == name), "{error}");
        }
        assert!(prepared(filter(&[(libc::SYS_execve, Action::Observe)]), None).is_ok());
    }

    #[test]
    fn the_pod_s_filter_may_not_ask_for_a_listener_and_one_of_both_must_allow_loading() {
        let notifies = filter(&[(libc::SYS_getpid, Action::Refuse(1))]);
        assert!(matches!(prepared(filter(&[]), Some(&notifies)), Err(EnforceError::PodListener)));
        let closed = filter(&[(libc::SYS_seccomp, Action::Errno(1))]);
        assert!(
            prepared(filter(&[]), Some(&closed)).is_ok()
                && prepared(closed.clone(), Some(&filter(&[]))).is_ok()
        );
        let error = prepared(closed.clone(), Some(&closed)).unwrap_err();
        assert!(matches!(error, EnforceError::StartCall { call: "seccomp", .. }), "{error}");
    }

    #[test]
    fn a_filter_for_another_architecture_is_refused() {
        let foreign = if NATIVE == Arch::X86_64 { Arch::Aarch64 } else { Arch::X86_64 };
        let plan = SeccompPlan { arch: foreign, ..filter(&[]) };
        assert!(matches!(prepared(plan, None), Err(EnforceError::Architecture(_))));
    }
}
