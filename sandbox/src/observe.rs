//! Serves a filter's listener: answers what is refused, continues what other walls judge, and says what was forbidden.

pub(crate) mod caller;
mod calls;
mod judge;
pub(crate) mod listening;
mod network;
mod words;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use profiles::{Observation, Plan};

use crate::handover::{Message, Taker};
use crate::network::{Denial, Denials};
use crate::programs::ResolvedPrograms;
use crate::sys::seccomp::{self, Answer, Notification};
use caller::Caller;
use judge::{Finding, Judge};
pub use listening::{Left, Listening};

/// What the observer has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The program's own `execve` succeeded.
    Started,
    /// It was not started; why, where the process could say.
    Failed(String),
    /// Something tried to cross a wall. Repeats are not merged here.
    Observed(Observation),
    /// A process is about to execute a program, and does not before this was heard. Said where programs of the network wall
    /// watch: what they refuse is read later, when the process may be gone.
    Executes {
        /// The process, as the container counts.
        pid: u32,
        /// Path of the program, as the container sees it.
        program: String,
    },
    /// The programs of the network wall refused something to one of the container's processes, whoever serves that one's
    /// filter. Repeats are not merged here.
    Denied(Denial),
    /// [`SETTLE`] has passed since the first call that was answered after the last of these: time to write counts of repeats,
    /// and to rest.
    Settled,
}

/// How long after a call, or what the network wall refused, [`Event::Settled`] follows.
pub const SETTLE: Duration = Duration::from_secs(1);

/// Most denials of the network wall that are passed on before a call is looked at.
const DENIALS_AT_ONCE: usize = 256;

/// Why observing ended early. Refused and observed calls of the container fail with `ENOSYS` from then on.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// What the confined process says does not arrive.
    #[error("cannot hear from the confined process")]
    Take(#[source] io::Error),
    /// The listener failed.
    #[error("cannot {operation} the listener")]
    Listener {
        /// What was tried: `receive from`, `answer`, `wait for`.
        operation: &'static str,
        /// Cause.
        source: io::Error,
    },
}

/// Until when to serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// All of the container's tasks are gone.
    Gone,
    /// That, or its program runs and the first [`Event::Settled`] was said.
    Settled,
}

/// Waits for the listener and serves it until all of the container's tasks are gone, or else gives what is still to be served. Takes
/// the plan, of which it keeps in memory what it needs. `writable` as for
/// [`crate::enforce::Prepared::new`], `denials` what the network wall refuses in the container: one observer reads them
/// for all of its processes.
///
/// Before Linux 6.11 a task counts until its parent has collected it: who serves its own child must collect it beside this, or waits
/// for ever.
///
/// `on` is called when the call that it speaks of is answered already; the next one waits while it runs.
///
/// # Errors
/// When the listener cannot be taken or fails.
pub fn serve(
    taker: &Taker,
    plan: Plan,
    programs: &ResolvedPrograms,
    writable: &[PathBuf],
    denials: Option<Denials>,
    until: Until,
    on: &mut dyn FnMut(Event),
) -> Result<Option<Listening>, ObserveError> {
    let said = taker.take().map_err(ObserveError::Take)?;
    let (event, listener) = match said {
        Message::Listener(fd) => (None, Some(fd)),
        Message::NoListener => (Some(started(taker)?), None),
        Message::Failure(text) => (Some(Event::Failed(text)), None),
        Message::End => (Some(Event::Failed(ENDED_EARLY.to_owned())), None),
    };
    event.into_iter().for_each(&mut *on);
    let Some(listener) = listener else { return Ok(None) };
    // Kernels before 6.6 do not know it, and are only slower.
    if let Err(errno) = seccomp::set_sync_wake_up(listener.as_fd())
        && errno != Errno::EINVAL
    {
        return Err(failed("set up")(errno));
    }
    let watched = plan.sockets.is_some();
    let runtime_executes = judge::sees_execve(&plan);
    let judge = Judge::new(plan, programs, writable);
    Observer {
        listener,
        starting: Some(taker),
        runtime_executes,
        watched,
        judge,
        denials,
        unsettled: None,
        until,
        on,
    }
    .run()
}

/// Goes on serving where [`serve`] left off, with the same arguments, until all of the container's tasks are gone. Says
/// [`Event::Settled`] first.
///
/// # Errors
/// When the listener fails.
pub fn resume(
    listening: Listening,
    plan: Plan,
    programs: &ResolvedPrograms,
    writable: &[PathBuf],
    on: &mut dyn FnMut(Event),
) -> Result<(), ObserveError> {
    let watched = plan.sockets.is_some();
    let judge = Judge::new(plan, programs, writable);
    on(Event::Settled);
    Observer {
        listener: listening.listener,
        starting: None,
        runtime_executes: false,
        watched,
        judge,
        denials: listening.denials,
        unsettled: None,
        until: Until::Gone,
        on,
    }
    .run()
    .map(drop)
}

/// What comes of a program that nothing is observed of.
fn started(taker: &Taker) -> Result<Event, ObserveError> {
    Ok(match taker.take().map_err(ObserveError::Take)? {
        Message::Failure(text) => Event::Failed(text),
        Message::Listener(_) | Message::NoListener | Message::End => Event::Started,
    })
}

const ENDED_EARLY: &str = "the process ended before its program was started";

fn failed(operation: &'static str) -> impl Fn(Errno) -> ObserveError {
    move |errno| ObserveError::Listener { operation, source: errno.into() }
}

/// What woke the observer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Woken {
    /// A call waits.
    Call,
    /// All tasks are gone.
    Gone,
    /// Only the confined process's socket, or the network wall, has something.
    Other,
}

struct Observer<'a> {
    listener: OwnedFd,
    /// The socket whose end of file says that the program's `execve` succeeded, until then.
    starting: Option<&'a Taker>,
    /// Whether the runtime's own `execve`, the first of all, is still to be seen.
    runtime_executes: bool,
    /// Whether programs watch the container's sockets.
    watched: bool,
    judge: Judge<'a>,
    denials: Option<Denials>,
    /// When the first call was answered that no [`Event::Settled`] followed yet.
    unsettled: Option<Instant>,
    until: Until,
    on: &'a mut dyn FnMut(Event),
}

impl Observer<'_> {
    fn run(mut self) -> Result<Option<Listening>, ObserveError> {
        loop {
            let woken = self.wait()?;
            self.hear_denials(DENIALS_AT_ONCE);
            let leave_off = self.settle() && self.until == Until::Settled && self.starting.is_none();
            match woken {
                // A call waits until it is taken up again.
                Woken::Call | Woken::Other if leave_off => {
                    let Self { listener, denials, .. } = self;
                    return Ok(Some(Listening { listener, denials }));
                }
                Woken::Call => self.serve_one()?,
                Woken::Other => {}
                Woken::Gone => {
                    self.hear(Woken::Gone)?;
                    self.hear_denials(usize::MAX);
                    return Ok(None);
                }
            }
        }
    }

    /// Whether it was time to, and [`Event::Settled`] was said.
    fn settle(&mut self) -> bool {
        let due = self.unsettled.is_some_and(|since| since.elapsed() >= SETTLE);
        if due {
            self.unsettled = None;
            (self.on)(Event::Settled);
        }
        due
    }

    /// Passes on what the network wall refused: at most so much, for calls wait too.
    fn hear_denials(&mut self, most: usize) {
        let Some(denials) = &mut self.denials else { return };
        let mut last = None;
        for _ in 0..most {
            let Some(denial) = denials.take() else { break };
            self.unsettled.get_or_insert_with(Instant::now);
            last = Some(denial.clone());
            (self.on)(Event::Denied(denial));
        }
        // The ring was full: a flood, of which those that were read are the likeliest to have been repeated.
        if let Some(denial) = last {
            for _ in 0..denials.newly_lost() {
                (self.on)(Event::Denied(denial.clone()));
            }
        }
    }

    /// Waits with poll(2): unlike a blocking receive, it tells on every kernel when all tasks are gone.
    fn wait(&mut self) -> Result<Woken, ObserveError> {
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let listener = readable(self.listener.as_fd());
        let denials = self.denials.as_ref().map(|denials| readable(denials.as_fd()));
        let taker = self.starting.map(|taker| readable(taker.as_fd()));
        let woken = match (denials, taker) {
            (None, None) => wait_for(&mut [listener], self.unsettled)?,
            (Some(other), None) | (None, Some(other)) => wait_for(&mut [listener, other], self.unsettled)?,
            (Some(denials), Some(taker)) => wait_for(&mut [listener, denials, taker], self.unsettled)?,
        };
        if self.starting.is_some() {
            self.hear(woken)?;
        }
        Ok(woken)
    }

    /// Listens to the confined process until its program runs.
    fn hear(&mut self, woken: Woken) -> Result<(), ObserveError> {
        let Some(taker) = self.starting else { return Ok(()) };
        match taker.poll().map_err(ObserveError::Take)? {
            // Others may hold the socket open still; what the process itself had to say has been said.
            None if woken == Woken::Gone && self.runtime_executes => {
                (self.on)(Event::Failed(ENDED_EARLY.to_owned()));
            }
            None if woken == Woken::Gone => (self.on)(Event::Started),
            None => return Ok(()),
            Some(Message::Failure(text)) => (self.on)(Event::Failed(text)),
            Some(_) if self.runtime_executes => (self.on)(Event::Failed(ENDED_EARLY.to_owned())),
            Some(_) => (self.on)(Event::Started),
        }
        self.starting = None;
        Ok(())
    }

    fn serve_one(&mut self) -> Result<(), ObserveError> {
        let mut call = seccomp::empty();
        match seccomp::receive(self.listener.as_fd(), &mut call) {
            // The caller died, or a signal interrupted its call, before this.
            Err(Errno::ENOENT | Errno::EINTR) => return Ok(()),
            received => received.map_err(failed("receive from"))?,
        }
        let (answer, finding) = self.decide(&call);
        if let (Finding::Executes(program), true) = (&finding, self.watched) {
            let pid = Caller::new(call.pid).inner_pid();
            (self.on)(Event::Executes { pid, program: program.clone() });
        }
        match seccomp::answer(self.listener.as_fd(), call.id, answer) {
            // As above, after this. What was tried was tried all the same.
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(failed("answer")(errno)),
        }
        self.unsettled.get_or_insert_with(Instant::now);
        if let Finding::Forbidden(observation) = finding {
            (self.on)(Event::Observed(observation));
        }
        Ok(())
    }

    fn decide(&mut self, call: &Notification) -> (Answer, Finding<Observation>) {
        if self.runtime_executes && calls::is_execve(call.data.nr) {
            self.runtime_executes = false;
            let program = Caller::new(call.pid).text(call.data.args[0]).unwrap_or_default();
            return (Answer::Continue, Finding::Executes(String::from_utf8_lossy(&program).into_owned()));
        }
        self.judge.decide(call, self.listener.as_fd())
    }
}

/// Waits, but no longer than until what was observed `since` is to settle.
fn wait_for(descriptors: &mut [PollFd<'_>], since: Option<Instant>) -> Result<Woken, ObserveError> {
    let left = |since: Instant| SETTLE.saturating_sub(since.elapsed()) + Duration::from_millis(1);
    let timeout = since
        .map_or(PollTimeout::NONE, |since| PollTimeout::try_from(left(since)).unwrap_or(PollTimeout::MAX));
    match poll(descriptors, timeout) {
        Err(Errno::EINTR) => return Ok(Woken::Other),
        polled => polled.map_err(failed("wait for"))?,
    };
    let events = descriptors.first().and_then(PollFd::revents).unwrap_or(PollFlags::empty());
    Ok(match events {
        _ if events.contains(PollFlags::POLLIN) => Woken::Call,
        _ if events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR) => Woken::Gone,
        _ => Woken::Other,
    })
}

/// Whether the call that a judgement is about still waits, so that what was read of its caller is its caller's.
fn still_waits(listener: BorrowedFd<'_>, call: &Notification) -> bool {
    seccomp::still_waits(listener, call.id)
}
