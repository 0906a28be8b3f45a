//! Judges one call: what to answer, and whether the profile forbids it.

mod files;
mod sockets;

use std::cell::{OnceCell, RefCell};
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use profiles::plan::{Action, ListenerFilter, SeccompPlan, Wall};
use profiles::policy::Mode;
use profiles::record::Verdict;
use profiles::{Observation, Plan};

use super::caller::Caller;
use super::calls::{self, Call};
use super::network::Network;
use super::{still_waits, words};
use crate::filter;
use crate::floor;
use crate::paths::{Root, is_beneath};
use crate::programs::ResolvedPrograms;
use crate::sys::seccomp::{Answer, Notification};

/// What a plan forbids, ready to be compared with.
pub(super) struct Judge<'a> {
    /// Without its filter.
    plan: Plan,
    /// Of the filter, what a listener needs.
    filter: Option<ListenerFilter>,
    /// What may be written whatever is declared.
    floor: Vec<&'static str>,
    programs: &'a ResolvedPrograms,
    /// Write paths as declared, volumes and the floor.
    writable: Vec<PathBuf>,
    /// The same, free of symlinks, once the container's root could be looked at.
    real_writable: OnceCell<Vec<PathBuf>>,
    /// The root of all callers, where none can change its own.
    one_root: Option<OnceCell<PathBuf>>,
    network: Option<Network>,
    name_servers: OnceCell<Vec<IpAddr>>,
    /// Who called last: floods come from one process. Any execve makes it forgotten.
    last_caller: RefCell<Option<Identity>>,
}

/// Who a caller is, in the container's words.
#[derive(Debug, Clone)]
struct Identity {
    thread: u32,
    pid: u32,
    program: String,
}

/// Something forbidden, before it is known who did it.
#[derive(Debug)]
struct Forbidden {
    wall: Wall,
    object: String,
    /// The error that the caller gets; `None` where no wall of this host stops it.
    errno: Option<Errno>,
}

/// What comes of looking at a call.
#[derive(Debug)]
pub(super) enum Finding<F> {
    /// Nothing to tell.
    Nothing,
    /// It is forbidden.
    Forbidden(F),
    /// It is about to execute this program.
    Executes(String),
}

impl<F> Finding<F> {
    fn of(forbidden: Option<F>) -> Self {
        forbidden.map_or(Self::Nothing, Self::Forbidden)
    }
}

impl<'a> Judge<'a> {
    pub(super) fn new(plan: Plan, programs: &'a ResolvedPrograms, volumes: &[PathBuf]) -> Self {
        let one_root = keeps_root(&plan).then(OnceCell::new);
        let floor: Vec<_> = floor::paths(&plan).collect();
        let filter = plan.seccomp.as_ref().map(SeccompPlan::of_listener);
        let plan = Plan { seccomp: None, ..plan };
        let declared = plan.write.iter().flatten().map(|path| PathBuf::from(path.as_str()));
        Self {
            writable: declared
                .chain(volumes.iter().cloned())
                .chain(floor.iter().map(PathBuf::from))
                .collect(),
            real_writable: OnceCell::new(),
            one_root,
            network: Network::of(&plan),
            plan,
            filter,
            floor,
            programs,
            name_servers: OnceCell::new(),
            last_caller: RefCell::new(None),
        }
    }

    /// The answer to `call`, and what there is to tell of it.
    pub(super) fn decide(
        &self,
        call: &Notification,
        listener: BorrowedFd<'_>,
    ) -> (Answer, Finding<Observation>) {
        let caller = Caller::new(call.pid).with_one_root(self.one_root.as_ref());
        let (answer, finding) = match self.action(call) {
            Action::Refuse(errno) => self.refuse(call, i32::from(errno)),
            _ => self.observe(call, caller, listener),
        };
        let finding = match finding {
            Finding::Forbidden(forbidden) => Finding::Forbidden(self.record(forbidden, call, caller)),
            Finding::Executes(program) => Finding::Executes(program),
            Finding::Nothing => return (answer, Finding::Nothing),
        };
        // What was read may be another process's if the caller died meanwhile.
        (answer, if still_waits(listener, call) { finding } else { Finding::Nothing })
    }

    fn action(&self, call: &Notification) -> Action {
        match &self.filter {
            Some(filter) => filter.action(call.data.nr.cast_unsigned(), &call.data.args),
            None => Action::Observe,
        }
    }

    fn refuse(&self, call: &Notification, errno: i32) -> (Answer, Finding<Forbidden>) {
        let forbidden = Finding::Forbidden(Forbidden {
            wall: Wall::Syscall,
            object: words::call(call.data.nr, &call.data.args),
            errno: Some(Errno::from_raw(errno)),
        });
        match self.plan.mode {
            Mode::Enforce => (Answer::Errno(errno), forbidden),
            Mode::Audit => (Answer::Continue, forbidden),
        }
    }

    fn observe(
        &self,
        call: &Notification,
        caller: Caller<'_>,
        listener: BorrowedFd<'_>,
    ) -> (Answer, Finding<Forbidden>) {
        let Some(kind) = calls::call(call.data.nr) else {
            // Only audit mode observes what it would else refuse.
            let object = words::call(call.data.nr, &call.data.args);
            let forbidden = Forbidden { wall: Wall::Syscall, object, errno: None };
            return (Answer::Continue, Finding::Forbidden(forbidden));
        };
        let arguments = &call.data.args;
        let finding = match kind {
            Call::Listen => {
                let (answer, forbidden) = self.listen(call, caller, listener);
                return (answer, Finding::of(forbidden));
            }
            Call::Connect => {
                let (answer, forbidden) = self.connect(arguments, caller);
                return (answer, Finding::of(forbidden));
            }
            Call::Bind => Finding::of(self.bind(arguments, caller)),
            Call::Execute(at) => match self.execute(at, arguments, caller) {
                Err(forbidden) => Finding::Forbidden(forbidden),
                Ok(program) => {
                    self.last_caller.take();
                    program.map_or(Finding::Nothing, Finding::Executes)
                }
            },
            _ => Finding::of(self.write(kind, arguments, caller)),
        };
        (Answer::Continue, finding)
    }

    fn record(&self, forbidden: Forbidden, call: &Notification, caller: Caller<'_>) -> Observation {
        let errno = forbidden.errno.filter(|_| self.plan.mode == Mode::Enforce);
        let who = self.identity(call.pid, caller);
        Observation {
            wall: forbidden.wall,
            operation: words::name(call.data.nr),
            object: forbidden.object,
            verdict: if errno.is_some() { Verdict::Denied } else { Verdict::Audited },
            errno: errno.map(|errno| words::errno(errno as i32)),
            pid: who.pid,
            program: who.program,
        }
    }

    fn identity(&self, thread: u32, caller: Caller<'_>) -> Identity {
        let mut last = self.last_caller.borrow_mut();
        match &*last {
            Some(known) if known.thread == thread => known.clone(),
            _ => {
                let found = Identity { thread, pid: caller.inner_pid(), program: caller.program() };
                last.insert(found).clone()
            }
        }
    }

    /// Whether text alone says that `path` may be written.
    fn is_plainly_writable(&self, path: &Path) -> bool {
        self.writable.iter().any(|folder| is_beneath(path, folder))
    }

    /// Whether `path`, free of symlinks, may be written.
    fn is_writable(&self, path: &Path, root: &Root) -> bool {
        let real = self.real_writable.get_or_init(|| {
            let look = |path: &PathBuf| root.path_of(root.look(path).ok()?.fd);
            self.writable.iter().filter_map(look).map(|path| PathBuf::from(path.as_str())).collect()
        });
        self.is_plainly_writable(path) || real.iter().any(|folder| is_beneath(path, folder))
    }
}

/// Whether `plan` has execve(2) observed, so that the runtime's own is seen.
pub(super) fn sees_execve(plan: &Plan) -> bool {
    let execve = u32::try_from(libc::SYS_execve).unwrap_or(u32::MAX);
    let action = plan.seccomp.as_ref().map(|plan| filter::evaluate(plan, execve, &[0; 6]));
    action == Some(Action::Observe)
}

/// Whether `plan` lets no process have another root than the container's.
fn keeps_root(plan: &Plan) -> bool {
    let Some(seccomp) = plan.seccomp.as_ref().filter(|_| plan.mode == Mode::Enforce) else { return false };
    let stops = |action| matches!(action, Action::Errno(_) | Action::Refuse(_) | Action::Kill | Action::Trap);
    [libc::SYS_chroot, libc::SYS_pivot_root, libc::SYS_setns].into_iter().all(|call| {
        let rules = u32::try_from(call).ok().and_then(|number| seccomp.calls.get(&number));
        stops(seccomp.unknown) && rules.is_none_or(|rules| rules.iter().all(|rule| stops(rule.action)))
    })
}
