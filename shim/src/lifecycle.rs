//! The states of a process, and which calls each of them takes.

use containerd_shim_protos::types::task::Status;

use crate::error::{Failure, Kind};
use crate::reaper::Exit;

/// Where a container's own process, or an exec's, stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lifecycle {
    /// An exec that was added and has no process yet.
    Added,
    /// The process waits behind no wall yet for its start.
    Created,
    /// Its start is under way.
    Starting,
    /// The program runs.
    Running,
    /// It is frozen.
    Paused,
    /// It ended.
    Stopped(Exit),
}

/// What can happen to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// A start begins.
    Start,
    /// Its program runs.
    Started,
    /// It is frozen.
    Pause,
    /// It goes on.
    Resume,
    /// It ended.
    Exit(Exit),
}

impl Lifecycle {
    /// The state after `step`.
    ///
    /// # Errors
    /// When the state does not take that step.
    pub(crate) fn after(self, step: Step) -> Result<Self, Failure> {
        match (self, step) {
            (Self::Added | Self::Created, Step::Start) => Ok(Self::Starting),
            (Self::Starting, Step::Started) => Ok(Self::Running),
            (Self::Running, Step::Pause) => Ok(Self::Paused),
            (Self::Paused, Step::Resume) => Ok(Self::Running),
            // A process may end at any time, and before its start was reported.
            (Self::Stopped(exit), Step::Started | Step::Exit(_)) => Ok(Self::Stopped(exit)),
            (
                Self::Added | Self::Created | Self::Starting | Self::Running | Self::Paused,
                Step::Exit(exit),
            ) => Ok(Self::Stopped(exit)),
            (
                Self::Added
                | Self::Created
                | Self::Starting
                | Self::Running
                | Self::Paused
                | Self::Stopped(_),
                Step::Start | Step::Started | Step::Pause | Step::Resume,
            ) => Err(Failure::new(
                Kind::Precondition,
                format!("cannot {} a process that {}", step.verb(), self.words()),
            )),
        }
    }

    /// Its exit, once it ended.
    pub(crate) fn exit(self) -> Option<Exit> {
        match self {
            Self::Stopped(exit) => Some(exit),
            Self::Added | Self::Created | Self::Starting | Self::Running | Self::Paused => None,
        }
    }

    /// Whether it has a process, or is about to.
    pub(crate) fn has_process(self) -> bool {
        match self {
            Self::Created | Self::Starting | Self::Running | Self::Paused => true,
            Self::Added | Self::Stopped(_) => false,
        }
    }

    /// As containerd names it.
    pub(crate) fn status(self) -> Status {
        match self {
            Self::Added | Self::Created | Self::Starting => Status::CREATED,
            Self::Running => Status::RUNNING,
            Self::Paused => Status::PAUSED,
            Self::Stopped(_) => Status::STOPPED,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Added => "is not created",
            Self::Created => "is not started",
            Self::Starting => "is being started",
            Self::Running => "is running",
            Self::Paused => "is paused",
            Self::Stopped(_) => "has stopped",
        }
    }
}

impl Step {
    fn verb(self) -> &'static str {
        match self {
            Self::Start | Self::Started => "start",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Exit(_) => "end",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn a_stopped_process_is_not_started_again_and_keeps_its_first_exit() {
        let first = Exit { code: 3, at: SystemTime::UNIX_EPOCH };
        let stopped = Lifecycle::Running.after(Step::Exit(first)).unwrap();
        assert!(stopped.after(Step::Start).is_err());
        let again = stopped.after(Step::Exit(Exit { code: 9, at: SystemTime::UNIX_EPOCH })).unwrap();
        assert_eq!(again.exit(), Some(first));
    }

    #[test]
    fn a_running_process_is_not_started_twice() {
        assert!(Lifecycle::Running.after(Step::Start).is_err());
        assert!(Lifecycle::Starting.after(Step::Start).is_err());
    }
}
