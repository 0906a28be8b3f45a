//! Failures of task calls, and the status code each becomes.

use containerd_shim_protos::ttrpc;
use libcontainer::error::LibcontainerError;
use serde::{Deserialize, Serialize};

use crate::causes::Causes;

/// What kind of failure, as containerd's clients tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// No such container or exec.
    NotFound,
    /// It exists already.
    AlreadyExists,
    /// The request, the image's labels or the configuration are wrong.
    Invalid,
    /// Not in this state.
    Precondition,
    /// Refused by policy.
    Denied,
    /// Not offered.
    Unimplemented,
    /// A deadline passed.
    Deadline,
    /// Everything else.
    Internal,
}

/// A failed task call: kind, and one line for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub(crate) struct Failure {
    /// Kind.
    pub(crate) kind: Kind,
    /// One line.
    pub(crate) message: String,
}

impl Failure {
    /// A failure with a message of its own.
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into().replace('\n', "; ") }
    }

    /// A failure from an error and its causes.
    pub(crate) fn from_error(kind: Kind, err: &(dyn std::error::Error + 'static)) -> Self {
        Self::new(kind, chain(err))
    }

    /// An internal failure: what was being done, and why it failed.
    pub(crate) fn internal(doing: &str, err: &(dyn std::error::Error + 'static)) -> Self {
        Self::new(Kind::Internal, format!("{doing}: {}", chain(err)))
    }

    /// A failure of libcontainer: what was being done, what libcontainer said first, and what it answered.
    pub(crate) fn of_libcontainer(doing: &str, causes: &Causes, err: &LibcontainerError) -> Self {
        let answer = chain(err);
        // That it could not remove everything is no news: the shim does, once the processes have ended.
        let answer = answer.split(". error during cleanup").next().unwrap_or_default();
        // It fills up what an exec answers.
        let answer = answer.trim_end_matches('\0');
        let beyond = causes.beyond(answer).map(|said| format!("{said}: ")).unwrap_or_default();
        Self::new(Kind::Internal, format!("{doing}: {beyond}{answer}"))
    }
}

impl From<Failure> for ttrpc::Error {
    fn from(failure: Failure) -> Self {
        use ttrpc::Code;
        let code = match failure.kind {
            Kind::NotFound => Code::NOT_FOUND,
            Kind::AlreadyExists => Code::ALREADY_EXISTS,
            Kind::Invalid => Code::INVALID_ARGUMENT,
            Kind::Precondition => Code::FAILED_PRECONDITION,
            Kind::Denied => Code::PERMISSION_DENIED,
            Kind::Unimplemented => Code::UNIMPLEMENTED,
            Kind::Deadline => Code::DEADLINE_EXCEEDED,
            Kind::Internal => Code::INTERNAL,
        };
        ttrpc::Error::RpcStatus(ttrpc::get_status(code, failure.message))
    }
}

/// An error and its causes on one line, without saying the same twice.
pub(crate) fn chain(err: &(dyn std::error::Error + 'static)) -> String {
    let mut line = err.to_string();
    let mut cause = err.source();
    while let Some(next) = cause {
        let text = next.to_string();
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = next.source();
    }
    line.replace('\n', "; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line() {
        assert_eq!(Failure::new(Kind::Invalid, "a\nb").message, "a; b");
    }
}
