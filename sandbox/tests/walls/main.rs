//! Walls against this kernel: every allow with its deny. Without the usual harness, whose threads forbid forking:
//! each case forks a child, confines it by a plan made by hand, and looks at what it could do and what was recorded.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod confine;
mod files;
mod network;
mod observer;
mod programs;
mod servers;
mod sockets;
mod syscalls;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

/// Name and body of a case.
type Case = (&'static str, fn());

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let all = [
        programs::CASES,
        files::CASES,
        network::CASES,
        sockets::CASES,
        syscalls::CASES,
        observer::CASES,
        servers::CASES,
    ]
    .concat();
    let chosen = |name: &str| wanted.is_empty() || wanted.iter().any(|word| name.contains(word.as_str()));
    let cases: Vec<Case> = all.into_iter().filter(|(name, _)| chosen(name)).collect();
    println!("\nrunning {} tests", cases.len());
    let mut failed = Vec::new();
    for (name, body) in &cases {
        let passed = catch_unwind(AssertUnwindSafe(body)).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        if !passed {
            failed.push(name);
        }
    }
    println!("\ntest result: {} passed; {} failed {failed:?}\n", cases.len() - failed.len(), failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
