//! The `keep` command, also callable as the kubectl plugin `kubectl-keep`.
#![forbid(unsafe_code)]

mod cli;
mod command;
mod image;
mod lines;
mod lint;
mod node;
mod spool;
mod words;

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};

fn main() -> ExitCode {
    let mut command = cli::Cli::command();
    if let Some(name) = cli::display_name(std::env::args_os().next().as_deref()) {
        command = command.bin_name(name);
    }
    let cli = match cli::Cli::from_arg_matches(&command.get_matches()) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    match cli.run() {
        Ok(outcome) => outcome.into(),
        Err(error) if command::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("keep: {}", words::printable(&format!("{error:#}")));
            ExitCode::from(command::BAD_INPUT)
        }
    }
}
