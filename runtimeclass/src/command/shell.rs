//! `keep completion` and `keep man`.

use std::io::{self, Write as _};

use clap::CommandFactory as _;

use super::Outcome;
use crate::cli::Cli;

/// Print a completion script for a shell.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Example:
  keep completion bash > /etc/bash_completion.d/keep")]
pub(crate) struct Completion {
    /// The shell.
    shell: clap_complete::Shell,
}

/// Prints the completion script.
///
/// # Errors
/// When standard output is closed.
pub(crate) fn completion(args: &Completion) -> anyhow::Result<Outcome> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "keep", &mut script);
    io::stdout().write_all(&script)?;
    Ok(Outcome::Fine)
}

/// Prints the manual page, in roff.
///
/// # Errors
/// When standard output is closed.
pub(crate) fn man() -> anyhow::Result<Outcome> {
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page)?;
    io::stdout().write_all(&page)?;
    Ok(Outcome::Fine)
}
