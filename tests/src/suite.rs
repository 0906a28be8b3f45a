//! The tests' frame: trials by name, run one after the other on shared nodes, and none skipped in silence.

use std::io::Write as _;
use std::sync::Mutex;

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};

/// Environment variable with the file in which tests that could not run are named; set by `cargo xtask test`.
pub const REPORT: &str = "KEEP_TEST_REPORT";

/// Between a test's name and why it could not run.
const SEPARATOR: &str = " -- ";

static COULD_NOT_RUN: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Notes that a test cannot run here, and why.
pub fn could_not_run(name: &str, why: &str) {
    let line = line(name, why);
    if let Some(path) = std::env::var_os(REPORT) {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        if let Err(error) = file.and_then(|mut file| writeln!(file, "{line}")) {
            eprintln!("cannot report what could not run: {error}");
        }
    }
    if let Ok(mut all) = COULD_NOT_RUN.lock() {
        all.push(line);
    }
}

/// The line that says so, as [`summary`] takes it.
#[must_use]
pub fn line(name: &str, why: &str) -> String {
    format!("{name}{SEPARATOR}{}", why.lines().next().unwrap_or(why))
}

/// A trial that fails with an error's whole chain.
pub fn trial(name: impl Into<String>, test: impl FnOnce() -> Result<()> + Send + 'static) -> Trial {
    Trial::test(name, move || test().map_err(|error| Failed::from(format!("{error:#}"))))
}

/// A trial that cannot run here; it is named in the summary.
pub fn missing(name: impl Into<String>, why: &str) -> Trial {
    let name = name.into();
    could_not_run(&name, why);
    Trial::test(name, || Ok(())).with_ignored_flag(true)
}

/// What could not run, one line for each reason: how many tests, why, and their names.
#[must_use]
pub fn summary(missing: &[String]) -> Vec<String> {
    let mut reasons: std::collections::BTreeMap<&str, Vec<&str>> = std::collections::BTreeMap::new();
    for line in missing {
        let (name, why) = line.split_once(SEPARATOR).unwrap_or((line, "no reason given"));
        reasons.entry(why).or_default().push(name);
    }
    let line = |(why, names): (&str, Vec<&str>)| {
        format!("{} tests could not run here ({why}): {}", names.len(), names.join("; "))
    };
    reasons.into_iter().map(line).collect()
}

/// Runs trials one after the other, drops what they shared, and gives the process's exit code.
pub fn conclude(trials: Vec<Trial>) -> std::process::ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let conclusion = libtest_mimic::run(&arguments, trials);
    let missing = COULD_NOT_RUN.lock().map(|all| all.clone()).unwrap_or_default();
    for line in summary(&missing) {
        println!("{line}");
    }
    conclusion.exit_code()
}
