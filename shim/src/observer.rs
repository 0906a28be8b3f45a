//! The process that answers one filter's listener: a small child of the shim, one for each container and exec, that
//! dies with it. Should it die, the kernel refuses what it would have answered.

use std::path::PathBuf;

use libcontainer::container::Container;
use profiles::record::{self, Granted};
use sandbox::handover::Taker;
use sandbox::observe::{self, Event};

use crate::child::Answers;
use crate::error::{Failure, Kind};
use crate::network;
use crate::records::Recorder;
use crate::running::Running;
use crate::walls::{Folders, Walls};

/// Whose listener it is.
#[derive(Debug, Clone)]
pub(crate) enum Of {
    /// The container's own process, which the observer starts.
    Init,
    /// An exec, which another child creates and starts.
    Exec {
        /// Its id.
        id: String,
        /// Whether it is a session with a terminal.
        session: bool,
    },
}

impl Of {
    /// The exec's id.
    fn exec(&self) -> Option<&str> {
        match self {
            Self::Init => None,
            Self::Exec { id, .. } => Some(id),
        }
    }
}

/// What an observer needs.
#[derive(Debug)]
pub(crate) struct Observer {
    /// Whose listener.
    pub(crate) of: Of,
    /// The container's folders.
    pub(crate) folders: Folders,
    /// Where records go.
    pub(crate) data_dir: PathBuf,
    /// Where the listener arrives.
    pub(crate) taker: Taker,
}

impl Observer {
    /// Raises the network wall and starts the container's process (if it is an init's observer), tells the shim when its program runs or why not,
    /// and serves the listener until the last of its processes is gone. The exit code of the child.
    pub(crate) fn run(self, answers: &Answers) -> i32 {
        let mut told = Told { answers, done: false };
        match self.serve(&mut told) {
            Ok(()) => 0,
            Err(failure) => {
                tracing::error!(%failure, "observer ended");
                told.tell(Err(failure));
                1
            }
        }
    }

    fn serve(self, told: &mut Told<'_>) -> Result<(), Failure> {
        let walls = self
            .folders
            .load()
            .map_err(|err| Failure::internal("cannot read the container's walls", &err))?;
        let (exec, walls) = match &self.of {
            Of::Init | Of::Exec { session: false, .. } => (self.of.exec(), walls),
            Of::Exec { session: true, .. } => (self.of.exec(), walls.of_session()),
        };
        let mut recorder = walls.recorder(&self.data_dir, exec);
        let mut running = Running::new(self.folders.execs(), exec);
        let mut denials = None;
        if matches!(self.of, Of::Init) {
            let failed = |err| Failure::internal("cannot start container", &err);
            let mut container = Container::load(self.folders.oci_state()).map_err(failed)?;
            denials = network::raise(&walls, &self.folders, &container)?;
            container.start().map_err(failed)?;
        }
        let Walls { intent, profile, policy, plan, programs, writable, .. } = walls;
        let granted = Granted { intent: &intent, profile: &profile, policy: &policy };
        let served = observe::serve(&self.taker, plan, &programs, &writable, denials, &mut |event| {
            handle(event, granted, &mut running, &mut recorder, told)
        });
        recorder.settle();
        told.tell(Err(Failure::new(Kind::Internal, "the process ended before its program was started")));
        served.map_err(|err| Failure::internal("cannot observe", &err))
    }
}

fn handle(
    event: Event,
    granted: Granted<'_>,
    running: &mut Running,
    recorder: &mut Recorder,
    told: &mut Told<'_>,
) {
    match event {
        Event::Started => told.tell(Ok(())),
        Event::Failed(why) => {
            told.tell(Err(Failure::new(Kind::Internal, format!("cannot start container: {why}"))))
        }
        Event::Settled => {
            recorder.settle();
            crate::idle::rest();
        }
        Event::Observed(observation) => recorder.observe(observation, |seen| record::allow(granted, seen)),
        Event::Executes { pid, program } => running.executes(pid, program),
        Event::Denied(denial) => {
            let (exec, observation) = running.attribute(denial);
            recorder.observe_of(exec, observation, |seen| record::allow(granted, seen));
        }
    }
}

/// Tells the shim once how the start went.
struct Told<'a> {
    answers: &'a Answers,
    done: bool,
}

impl Told<'_> {
    fn tell(&mut self, how: Result<(), Failure>) {
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        if let Err(err) = self.answers.send(&how) {
            tracing::debug!(error = %err, "the shim does not listen any more");
        }
    }
}
