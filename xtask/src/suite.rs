//! `cargo xtask test`: everything that tests need, then every test, and a last line that names what could not run.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context as _, Result, ensure};
use tests::provision::{self, say};
use tests::{cookbook, suite};

/// Lines around what a test binary says of its failed tests.
const FAILURES: (&str, &str) = ("failures:", "test result:");

/// Runs every test, or those whose name contains `filter`.
///
/// # Errors
/// When something that tests need cannot be had, or a test fails.
pub(crate) fn run(filter: Option<&str>) -> Result<()> {
    provision::debian(provision::PACKAGES)?;
    let binaries = crate::build::run()?;
    provision::image_files()?;
    cookbook::files()?;
    if let Err(error) = provision::containerd() {
        // The tests that need it name themselves in the summary.
        say(&format!("containerd 2.3: {error:#}"));
    }
    let report = tests::cache::folder()?.join(format!("could-not-run-{}", std::process::id()));
    std::fs::write(&report, "").context("cannot make the report")?;
    say("running the tests");
    let mut cargo = crate::build::cargo();
    cargo.args(["test", "--workspace", "--locked", "--no-fail-fast"]);
    if let Some(filter) = filter {
        cargo.args(["--", filter]);
    }
    cargo.env("KEEP_BIN", &binaries).env(suite::REPORT, &report);
    let result = show(&mut cargo);
    let text = std::fs::read_to_string(&report).unwrap_or_default();
    std::fs::remove_file(&report).context("cannot remove the report")?;
    let missing: Vec<String> = text.lines().map(str::to_owned).collect();
    let (status, failures) = result?;
    let passed = status.success();
    println!("\n{}", if passed { "All tests that could run passed." } else { "There are failed tests:" });
    for line in failures {
        println!("{line}");
    }
    for line in suite::summary(&missing) {
        println!("{line}");
    }
    if passed && missing.is_empty() {
        println!("No test was left out.");
    }
    ensure!(passed, "tests failed");
    // What a person's machine lacks is named above; CI's has what its tests need.
    ensure!(missing.is_empty() || std::env::var_os("CI").is_none(), "CI leaves no test out");
    Ok(())
}

/// Runs `cargo test`, shows what it prints as it comes, and gives what it said of failed tests.
fn show(cargo: &mut Command) -> Result<(ExitStatus, Vec<String>)> {
    let mut child =
        cargo.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start cargo test")?;
    let output = child.stdout.take().context("cargo test has no output")?;
    let (mut failures, mut among) = (Vec::new(), false);
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("cannot read what cargo test prints")?;
        let line = String::from_utf8_lossy(&line).into_owned();
        println!("{line}");
        among = (among || line == FAILURES.0) && !line.starts_with(FAILURES.1);
        if among {
            failures.push(line);
        }
    }
    Ok((child.wait().context("cannot wait for cargo test")?, failures))
}
