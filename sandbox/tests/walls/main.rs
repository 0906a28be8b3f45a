//! Walls against this kernel: every allow with its deny. Without the usual harness, whose threads forbid forking:
//! each case forks a child, confines it by a plan made by hand, and looks at what it could do and what was recorded.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod cgroups;
mod confine;
mod files;
mod lacking;
mod network;
mod observer;
mod programs;
mod servers;
mod sockets;
mod syscalls;

use std::fs::OpenOptions;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::ExitCode;

use sandbox::facts::probe;

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
        lacking::CASES,
        cgroups::CASES,
    ]
    .concat();
    let chosen = |name: &str| wanted.is_empty() || wanted.iter().any(|word| name.contains(word.as_str()));
    let cases: Vec<Case> = all.into_iter().filter(|(name, _)| chosen(name)).collect();
    println!("\nthis kernel: {}\nrunning {} tests", kernel(), cases.len());
    let (mut failed, mut left_out) = (Vec::new(), Vec::new());
    for (name, body) in &cases {
        let outcome = match catch_unwind(AssertUnwindSafe(body)) {
            Ok(()) => "ok".to_owned(),
            Err(payload) => match payload.downcast::<CannotRun>() {
                Ok(cannot) => {
                    left_out.push(*name);
                    report(name, &cannot.0);
                    format!("ignored, {}", cannot.0)
                }
                Err(_) => {
                    failed.push(*name);
                    "FAILED".to_owned()
                }
            },
        };
        println!("test {name} ... {outcome}");
    }
    let passed = cases.len() - failed.len() - left_out.len();
    println!(
        "\ntest result: {passed} passed; {} failed {failed:?}; {} could not run {left_out:?}\n",
        failed.len(),
        left_out.len()
    );
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Why this kernel cannot show a case.
struct CannotRun(String);

/// Ends a case that this kernel cannot show; the summary names it.
pub(crate) fn cannot_run(why: impl Into<String>) -> ! {
    resume_unwind(Box::new(CannotRun(why.into())))
}

/// Goes on where this kernel's Landlock has what came with `abi`.
pub(crate) fn needs_landlock(abi: u32, what: &str) {
    let found = confine::abi();
    if found == 0 {
        cannot_run("this kernel has no Landlock");
    } else if found < abi {
        cannot_run(format!("{what} came with Landlock ABI {abi}, and this kernel has {found}"));
    }
}

/// Names a case that could not run in the file that `cargo xtask test` sums up.
fn report(name: &str, why: &str) {
    if let Some(path) = std::env::var_os("KEEP_TEST_REPORT") {
        let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        writeln!(file, "sandbox: {name} -- {why}").unwrap();
    }
}

/// What was found of this kernel, which `cargo xtask kernels` compares with what it booted.
fn kernel() -> String {
    let facts = probe();
    let landlock = match facts.landlock_abi {
        0 => "no Landlock".to_owned(),
        abi => format!("Landlock ABI {abi}"),
    };
    let no = |has: bool| if has { "" } else { "no " };
    format!(
        "{landlock}, {}seccomp listener, {}calls that wait killable, {}cgroup-BPF",
        no(facts.listener),
        no(facts.wait_killable),
        no(facts.cgroup_bpf)
    )
}
