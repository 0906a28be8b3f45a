//! Static release binaries: what is installed on nodes, and what tests and the demo run.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use tests::provision::{self, say};
use tests::under_test;

/// Static and at fixed addresses: half the memory of a dynamic, relocated one (SPECIFICATION.md).
pub(crate) const FLAGS: &str = "-C target-feature=+crt-static -C relocation-model=static";

/// Builds them and gives the folder in which they lie.
///
/// # Errors
/// When a Debian package that the build needs cannot be installed, or the build fails.
pub(crate) fn run() -> Result<PathBuf> {
    provision::debian(provision::PACKAGES)?;
    say("building the release binaries (a few minutes from nothing)");
    let triple = under_test::triple();
    let mut cargo = cargo();
    cargo.env("RUSTFLAGS", FLAGS).env_remove("CARGO_ENCODED_RUSTFLAGS");
    cargo.args(["build", "--release", "--quiet", "--locked", "--target", &triple]);
    cargo.args(["-p", "shim", "-p", "runtimeclass", "-p", "tests", "--bins"]);
    let status = cargo.stdin(Stdio::null()).status().context("cannot start cargo")?;
    ensure!(status.success(), "the release build failed");
    let folder = target()?.join(triple).join("release");
    for name in [under_test::SHIM, "keep", "keep-probe", "keep-attack"] {
        ensure!(folder.join(name).exists(), "the build made no {name} in {}", folder.display());
    }
    for name in under_test::SHIM_NAMES {
        let link = folder.join(name);
        match std::os::unix::fs::symlink(under_test::SHIM, &link) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| format!("cannot make {}", link.display()));
            }
            _ => {}
        }
    }
    Ok(folder)
}

/// Runs ourselves once more, built for release: what is measured or fuzzed is what nodes run, optimised as there.
///
/// # Errors
/// When the build fails, or the task.
pub(crate) fn released(arguments: &[&str]) -> Result<()> {
    say("building xtask for release");
    let mut cargo = cargo();
    cargo.args(["run", "--release", "--quiet", "--locked", "--package", "xtask", "--"]).args(arguments);
    let status = cargo.stdin(Stdio::null()).status().context("cannot start cargo")?;
    ensure!(status.success(), "cargo xtask {} failed", arguments.join(" "));
    Ok(())
}

/// The cargo that runs us.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), PathBuf::from)
}

/// What `cargo metadata` says of the workspace, without its dependencies.
pub(crate) fn metadata() -> Result<serde_json::Value> {
    let output = cargo().args(["metadata", "--no-deps", "--format-version", "1"]).output();
    let output = output.context("cannot start cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("cargo metadata printed no JSON")
}

/// The folder that cargo builds into.
///
/// # Errors
/// When cargo does not name it.
pub(crate) fn target() -> Result<PathBuf> {
    let metadata = metadata()?;
    metadata["target_directory"].as_str().map(PathBuf::from).context("cargo metadata names no target folder")
}
