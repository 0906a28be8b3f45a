//! What can be written on the command line.

use clap::{Parser, Subcommand};

use crate::command::{self, Outcome};

/// Starts containers behind walls made from their images' labels: explains them, shows what was stopped, reports it.
#[derive(Debug, Parser)]
#[command(name = "keep", version, propagate_version = true)]
#[command(after_help = "\
Exit codes:
  0  fine
  1  what was checked is refused
  2  bad usage or bad input

Also a kubectl plugin: installed as kubectl-keep, it is called as `kubectl keep`.")]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Lint(command::lint::Lint),
    Explain(command::explain::Explain),
    Diff(command::diff::Args),
    Policy(command::policy::Policy),
    Violations(command::violations::Violations),
    Ps(command::ps::Ps),
    Doctor(command::doctor::Doctor),
    Node(command::node::Node),
    Completion(command::shell::Completion),
    /// Print the manual page, in roff.
    #[command(after_long_help = "Example:\n  keep man | man -l -")]
    Man,
}

impl Cli {
    /// Runs the command that was asked for.
    ///
    /// # Errors
    /// When it cannot do its work; every such error is exit code 2.
    pub(crate) fn run(&self) -> anyhow::Result<Outcome> {
        match &self.command {
            Command::Lint(args) => command::lint::run(args),
            Command::Explain(args) => command::explain::run(args),
            Command::Diff(args) => command::diff::run(args),
            Command::Policy(args) => command::policy::run(args),
            Command::Violations(args) => command::violations::run(args),
            Command::Ps(args) => command::ps::run(args),
            Command::Doctor(args) => command::doctor::run(args),
            Command::Node(args) => command::node::run(args),
            Command::Completion(args) => command::shell::completion(args),
            Command::Man => command::shell::man(),
        }
    }
}

/// Under which name the program was called: as a kubectl plugin it is `kubectl keep` to its users.
pub(crate) fn display_name(arg0: Option<&std::ffi::OsStr>) -> Option<&'static str> {
    let name = std::path::Path::new(arg0?).file_name()?;
    (name == "kubectl-keep").then_some("kubectl keep")
}
