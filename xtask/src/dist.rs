//! What is installed on nodes: a tarball and a Debian package, of static programs: the same bytes from the same sources.

mod package;

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use sha2::{Digest as _, Sha256};
use tests::provision::{self, say};
use tests::under_test;

use crate::build;
use package::Release;

/// Make the release: a tarball and a Debian package, and their checksums
#[derive(Debug, Args)]
pub(crate) struct Dist {
    /// Build a second time, from a copy of the sources elsewhere, and compare
    #[arg(long)]
    check: bool,
    /// Where to put the files
    #[arg(long, value_name = "DIR", default_value = "target/dist")]
    output: PathBuf,
}

/// The programs that are released.
const PROGRAMS: [&str; 2] = [under_test::SHIM, "keep"];

/// 1980, before which some archives have no time: where neither `SOURCE_DATE_EPOCH` nor git says one.
const EARLIEST: u64 = 315_532_800;

/// Builds, packs, and prints where the files are.
///
/// # Errors
/// When something cannot be built, or with `--check` differs from a second build.
pub(crate) fn run(dist: &Dist) -> Result<()> {
    provision::debian(provision::PACKAGES)?;
    let root = build::root();
    let output = root.join(&dist.output);
    let time = source_date(&root)?;
    let made = make(&root, &root.join("target/dist-build"), time)?;
    fs::create_dir_all(&output).with_context(|| format!("cannot make {}", output.display()))?;
    for (name, bytes) in &made {
        write(&output.join(name), bytes)?;
    }
    let sums: String = made.iter().map(|(name, bytes)| format!("{}  {name}\n", digest(bytes))).collect();
    write(&output.join("SHA256SUMS"), sums.as_bytes())?;
    print!("{sums}");
    println!("in {}", output.display());
    if dist.check { check(&root, &made, time) } else { Ok(()) }
}

/// Builds again from a copy, in another folder, and compares.
fn check(root: &Path, made: &BTreeMap<String, Vec<u8>>, time: u64) -> Result<()> {
    let elsewhere = tempfile::Builder::new()
        .prefix("keep-dist-")
        .tempdir_in(root.join("target"))
        .context("cannot make a folder for the second build")?;
    let copy = elsewhere.path().join("sources");
    for file in tracked(root)? {
        let to = copy.join(&file);
        fs::create_dir_all(to.parent().unwrap_or(&copy)).context("cannot copy the sources")?;
        fs::copy(root.join(&file), &to).with_context(|| format!("cannot copy {file}"))?;
    }
    let again = make(&copy, &elsewhere.path().join("build"), time)?;
    let differ: Vec<&str> = made
        .iter()
        .filter(|(name, bytes)| again.get(*name) != Some(bytes))
        .map(|(name, _)| &**name)
        .collect();
    ensure!(differ.is_empty(), "the second build made other files: {}", differ.join(", "));
    println!("a second build, from a copy of the sources elsewhere, made the same files");
    Ok(())
}

/// The files of the release, by name.
fn make(sources: &Path, target: &Path, time: u64) -> Result<BTreeMap<String, Vec<u8>>> {
    let programs = build_programs(sources, target, time)?;
    let release = Release { sources, programs: &programs, version: version(sources)?, time };
    let scratch = tempfile::tempdir().context("cannot make a folder to pack in")?;
    Ok(BTreeMap::from([release.tarball()?, release.debian(scratch.path())?]))
}

/// Builds the programs; neither the sources' place nor the build's shows in them.
fn build_programs(sources: &Path, target: &Path, time: u64) -> Result<PathBuf> {
    say("building the release (a few minutes from nothing)");
    let triple = under_test::triple();
    let home = cargo_home()?;
    // Of those that a path lies in the last counts, for rustc as for gcc.
    let places = [(home.as_path(), "/cargo"), (sources, "/keep"), (target, "/keep/target")];
    let flags = |option: &str| -> Vec<String> {
        places.iter().map(|(from, to)| format!("{option}={}={to}", from.display())).collect()
    };
    let mut cargo = build::cargo();
    cargo.current_dir(sources);
    cargo
        .env("RUSTFLAGS", build::FLAGS)
        .env("RUSTC_WRAPPER", wrapper(target, &flags("--remap-path-prefix"))?);
    cargo.env("CFLAGS", flags("-ffile-prefix-map").join(" "));
    cargo.env_remove("CARGO_ENCODED_RUSTFLAGS").env("CARGO_INCREMENTAL", "0");
    cargo.env("CARGO_TARGET_DIR", target).env("SOURCE_DATE_EPOCH", time.to_string());
    cargo.args(["build", "--release", "--quiet", "--locked", "--target", &triple]);
    cargo.args(["-p", "shim", "-p", "runtimeclass", "--bins"]);
    let status = cargo.status().context("cannot start cargo")?;
    ensure!(status.success(), "the release build failed");
    Ok(target.join(triple).join("release"))
}

/// A script that gives these flags to rustc. Cargo hashes its own into the names of object files, by which thin LTO names and orders
/// what it moves between crates: a folder's name among them would make another program.
fn wrapper(target: &Path, flags: &[String]) -> Result<PathBuf> {
    let quoted: Vec<String> = flags.iter().map(|flag| format!("'{}'", flag.replace('\'', r"'\''"))).collect();
    let script = format!("#!/bin/sh\nexec \"$@\" {}\n", quoted.join(" "));
    let path = target.join("rustc");
    if fs::read(&path).is_ok_and(|there| there == script.as_bytes()) {
        return Ok(path);
    }
    // Cargo does not see that other flags make what was built before another program.
    match fs::remove_dir_all(target) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot empty {}", target.display()));
        }
        _ => {}
    }
    fs::create_dir_all(target).with_context(|| format!("cannot make {}", target.display()))?;
    write(&path, script.as_bytes())?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
        .context("cannot make the script a program")?;
    Ok(path)
}

fn cargo_home() -> Result<PathBuf> {
    if let Some(home) = std::env::var_os("CARGO_HOME") {
        return Ok(home.into());
    }
    let home = std::env::var_os("HOME").context("neither CARGO_HOME nor HOME is set")?;
    Ok(Path::new(&home).join(".cargo"))
}

/// The time that all packed files get: `SOURCE_DATE_EPOCH` (reproducible-builds.org), else the last commit's.
fn source_date(root: &Path) -> Result<u64> {
    if let Ok(given) = std::env::var("SOURCE_DATE_EPOCH") {
        return given.parse().with_context(|| format!("SOURCE_DATE_EPOCH is {given:?}, which is no time"));
    }
    let Ok(said) = git(root, &["log", "-1", "--format=%ct"]) else { return Ok(EARLIEST) };
    said.trim().parse().with_context(|| format!("git says the last commit is of {said:?}"))
}

/// What belongs to the sources: files that git knows.
fn tracked(root: &Path) -> Result<Vec<String>> {
    let said = git(root, &["ls-files", "-z"]).context("--check copies what git knows of")?;
    Ok(said.split('\0').filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

fn git(root: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new("git").arg("-C").arg(root).args(arguments).output();
    let output = output.context("cannot start git")?;
    if !output.status.success() {
        bail!("git {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).context("git names a file that is no UTF-8")
}

fn version(sources: &Path) -> Result<String> {
    let manifest = fs::read_to_string(sources.join("Cargo.toml")).context("cannot read Cargo.toml")?;
    let line = manifest.lines().find_map(|line| line.strip_prefix("version = \""));
    line.and_then(|rest| rest.strip_suffix('"')).map(str::to_owned).context("Cargo.toml names no version")
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}
