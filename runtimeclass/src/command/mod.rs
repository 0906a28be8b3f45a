//! One file for each command.

pub(crate) mod diff;
pub(crate) mod doctor;
pub(crate) mod explain;
mod image_args;
pub(crate) mod lint;
pub(crate) mod node;
pub(crate) mod policy;
mod policy_args;
pub(crate) mod ps;
pub(crate) mod shell;
pub(crate) mod violations;

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;

/// How a command ended, for its caller's scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Exit code 0.
    Fine,
    /// Exit code 1: what was checked is refused.
    Refused,
}

/// Exit code for bad usage or bad input.
pub(crate) const BAD_INPUT: u8 = 2;

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Fine => Self::SUCCESS,
            Outcome::Refused => Self::from(1),
        }
    }
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Sentences for people.
    Text,
    /// JSON for programs.
    Json,
}

/// Prints a value as JSON for people too, with a last line end.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn print_json(out: &mut impl io::Write, value: &impl serde::Serialize) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}

/// Whether to colour what goes to standard output: on a terminal, and not where <https://no-color.org> says no.
pub(crate) fn colours() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Whether `error` only says that nobody reads on (`keep … | head`).
pub(crate) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|e| e.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe))
}
