//! `cargo xtask test`: everything that tests need, then every test, and a last line that names what could not run.

use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use tests::provision::{self, say};
use tests::{cookbook, suite};

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
    let status = cargo.stdin(Stdio::null()).status().context("cannot start cargo test");
    let text = std::fs::read_to_string(&report).unwrap_or_default();
    std::fs::remove_file(&report).context("cannot remove the report")?;
    let missing: Vec<String> = text.lines().map(str::to_owned).collect();
    let passed = status?.success();
    println!(
        "\n{}",
        if passed { "All tests that could run passed." } else { "There are failed tests: see above." }
    );
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
