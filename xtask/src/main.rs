//! `cargo xtask`: everything that is done with this repository beside cargo's own commands.

#![forbid(unsafe_code)]

mod bench;
mod build;
mod conformance;
mod demo;
mod dist;
mod e2e;
mod fuzz;
mod kernels;
mod schemas;
mod suite;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Tasks of the Keep repository. Those that start containers need root on Debian 12; they install what is missing,
/// say so, and leave the machine as it was otherwise.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Xtask {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Show a real nginx behind its walls: it serves, an intruder's moves are refused and named, one label allows one
    Demo {
        /// Leave nginx running at the end and print how to look around
        #[arg(long)]
        keep: bool,
    },
    /// Install what tests need, build the release binaries, run every test
    Test {
        /// Only tests whose name contains this
        filter: Option<String>,
    },
    /// Bring up a real Kubernetes node, let a labelled pod misbehave, read the Event on it
    E2e {
        /// Leave the node running at the end and print how to look around
        #[arg(long)]
        keep: bool,
    },
    /// Run critest, the conformance tests of the Kubernetes runtime interface, against what docs/conformance.md says
    Conformance(conformance::Conformance),
    /// Measure against runc and crun, side by side in one run
    Bench {
        #[command(subcommand)]
        what: bench::What,
    },
    /// Run the sandbox's tests on Debian's kernels 6.1 and 6.12, in virtual machines
    Kernels(kernels::Kernels),
    /// Feed the parsers of labels, policies, image configs and Dockerfiles with inputs of all kinds
    Fuzz(fuzz::Fuzz),
    /// Make the release: a tarball and a Debian package of static programs, and their checksums
    Dist(dist::Dist),
    /// Write the JSON Schemas and the custom resource definition anew from the types
    Schemas,
    /// Check what no compiler does: arrows between crates, unsafe in one place, file sizes, schemas as the types are
    Tidy,
    /// Install the Debian packages that building and testing need
    Setup,
    /// Build the static release binaries: the shim, the keep command, the tests' probe
    Build,
}

fn main() -> ExitCode {
    let result = match Xtask::parse().task {
        Task::Demo { keep } => demo::run(keep),
        Task::Test { filter } => suite::run(filter.as_deref()),
        Task::E2e { keep } => e2e::run(keep),
        Task::Conformance(what) => conformance::run(&what),
        Task::Bench { what } => bench::run(&what),
        Task::Kernels(kernels) => kernels::run(&kernels),
        Task::Fuzz(fuzz) => fuzz::run(&fuzz),
        Task::Dist(dist) => dist::run(&dist),
        Task::Schemas => schemas::write(),
        Task::Tidy => tidy::run(),
        Task::Setup => tests::provision::debian(tests::provision::PACKAGES),
        Task::Build => build::run().map(|folder| println!("built in {}", folder.display())),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
