//! The release binaries under test, and what the `keep` command says.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::command::{Output, run};

/// Name of the shim's binary.
pub const SHIM: &str = "containerd-shim-keep-v2";
/// Its other names, which stand for classes.
pub const SHIM_NAMES: [&str; 2] = ["containerd-shim-keep-strict-v2", "containerd-shim-keep-permissive-v2"];
/// containerd's name of the runtime.
pub const RUNTIME: &str = "io.containerd.keep.v2";

/// The target triple of the static builds: this machine's own.
#[must_use]
pub fn triple() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

/// The folder of the static release binaries: `$KEEP_BIN`, else beside the running test in cargo's target folder.
///
/// # Errors
/// When it is not there; says how to build them.
pub fn folder() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("KEEP_BIN") {
        return Ok(PathBuf::from(folder));
    }
    let me = std::env::current_exe().context("cannot tell where this program lies")?;
    let places = me.ancestors().map(|folder| folder.join(triple()).join("release"));
    let mut places = places.filter(|folder| folder.join("keep-probe").exists());
    places.next().context("the static binaries are not built: run `cargo xtask build`")
}

/// The path of one of them.
///
/// # Errors
/// When it was not built; says how.
pub fn binary(name: &str) -> Result<PathBuf> {
    let path = folder()?.join(name);
    path.exists().then_some(path).with_context(|| format!("{name} is not built: run `cargo xtask build`"))
}

/// Runs the `keep` command on this machine.
///
/// # Errors
/// When it is not built or takes longer than 30 s.
pub fn keep(arguments: &[&str]) -> Result<Output> {
    run(Command::new(binary("keep")?).args(arguments), Duration::from_secs(30))
}

/// `keep explain --format json` of an image archive.
///
/// # Errors
/// When it fails or prints no JSON.
pub fn explain(archive: &Path, class: &str) -> Result<Value> {
    explain_with(archive, &["--class", class, "--format", "json"])
}

/// `keep explain` of an image archive with options of which one is a `--format` that is JSON.
///
/// # Errors
/// When it fails or prints no JSON.
pub fn explain_with(archive: &Path, options: &[&str]) -> Result<Value> {
    let path = archive.to_string_lossy();
    let words: Vec<&str> = ["explain", path.as_ref()].iter().chain(options).copied().collect();
    let output = keep(&words)?.success()?;
    serde_json::from_str(&output.stdout)
        .with_context(|| format!("keep explain printed no JSON: {}", output.stdout))
}

/// The profile's digest, as `keep explain` gives it.
///
/// # Errors
/// As [`explain`], and when there is no digest.
pub fn explained_digest(archive: &Path, class: &str) -> Result<String> {
    let explained = explain(archive, class)?;
    explained["digest"].as_str().map(str::to_owned).with_context(|| format!("no digest in {explained}"))
}
