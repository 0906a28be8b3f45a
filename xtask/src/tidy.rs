//! `cargo xtask tidy`: what STYLE asks and no compiler checks.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::build;

/// Arrows between the crates of this workspace that may be: from, to.
const ARROWS: &[(&str, &str)] = &[
    ("shim", "sandbox"),
    ("shim", "profiles"),
    ("sandbox", "profiles"),
    ("runtimeclass", "profiles"),
    ("runtimeclass", "sandbox"),
    ("xtask", "tests"),
];
/// Crates above all: they may use any, and nothing uses them but they each other.
const ABOVE: &[&str] = &["tests", "xtask"];
/// The crate that is compiled where nothing is installed yet: it uses no other at all.
const FIRST: &str = "bootstrap";
/// Where `unsafe` may stand.
const UNSAFE: &[&str] = &[
    "sandbox/src/sys/",
    "sandbox/src/sys.rs",
    "tests/src/bin/keep-probe/raw.rs",
    "tests/src/bin/keep-attack/raw.rs",
    "tests/src/bin/keep-attack/raw/",
];
/// Crate roots whose crate has a file with `unsafe`: they deny it everywhere else.
const DENY_ONLY: &[&str] =
    &["sandbox/src/lib.rs", "tests/src/bin/keep-probe/main.rs", "tests/src/bin/keep-attack/main.rs"];
/// Past this many lines a file is to be split.
const LONGEST: usize = 600;

/// Checks, and prints everything that is wrong.
///
/// # Errors
/// When something is wrong.
pub(crate) fn run() -> Result<()> {
    let metadata = build::metadata()?;
    let mut wrong = arrows(&metadata)?;
    wrong.extend(crate::schemas::drifted()?);
    let files = sources()?;
    ensure!(!files.is_empty(), "git ls-files names no Rust file");
    let roots = roots(&metadata);
    for file in &files {
        let text = std::fs::read_to_string(build::root().join(file));
        let text = text.with_context(|| format!("cannot read {}", file.display()))?;
        wrong.extend(check(&file.to_string_lossy(), &text, roots.contains(file)));
    }
    for line in &wrong {
        println!("{line}");
    }
    if wrong.is_empty() {
        println!("tidy: {} files, nothing to say", files.len());
        return Ok(());
    }
    bail!("tidy: {} things to mend", wrong.len())
}

fn arrows(metadata: &Value) -> Result<Vec<String>> {
    let packages = metadata["packages"].as_array().context("cargo metadata names no package")?;
    let name = |package: &Value| package["name"].as_str().unwrap_or_default().to_owned();
    let ours: BTreeSet<String> = packages.iter().map(name).collect();
    let mut wrong = Vec::new();
    for package in packages {
        let from = name(package);
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let to = dependency["name"].as_str().unwrap_or_default();
            if from == FIRST {
                wrong.push(format!("{FIRST} is compiled where nothing is installed, and uses {to}"));
            }
            let allowed = ARROWS.contains(&(from.as_str(), to))
                || (ABOVE.contains(&from.as_str()) && !ABOVE.contains(&to));
            if ours.contains(to) && !allowed {
                wrong.push(format!("{from}/Cargo.toml: no arrow may go from {from} to {to}"));
            }
        }
    }
    Ok(wrong)
}

/// The root of every library and program, beneath the workspace's root.
fn roots(metadata: &Value) -> BTreeSet<PathBuf> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let targets = packages.flat_map(|package| package["targets"].as_array().into_iter().flatten());
    // Tests and examples are not shipped; the word itself is looked for in them as everywhere.
    let shipped = |target: &&Value| {
        let kinds = target["kind"].as_array().into_iter().flatten();
        kinds.into_iter().any(|kind| kind == "lib" || kind == "bin")
    };
    let paths =
        targets.filter(shipped).filter_map(|target| Some(PathBuf::from(target["src_path"].as_str()?)));
    paths.filter_map(|path| path.strip_prefix(build::root()).map(Path::to_path_buf).ok()).collect()
}

fn sources() -> Result<Vec<PathBuf>> {
    let mut git = std::process::Command::new("git");
    git.current_dir(build::root()).args(["ls-files", "--cached", "--others", "--exclude-standard", "*.rs"]);
    let output = git.output().context("cannot start git")?;
    ensure!(output.status.success(), "git ls-files failed: {}", String::from_utf8_lossy(&output.stderr));
    let mut files: Vec<PathBuf> =
        String::from_utf8_lossy(&output.stdout).lines().map(PathBuf::from).collect();
    files.retain(|path| build::root().join(path).exists());
    Ok(files)
}

fn check(path: &str, text: &str, is_root: bool) -> Vec<String> {
    let mut wrong = Vec::new();
    let lines = text.lines().count();
    if lines > LONGEST {
        wrong.push(format!("{path}: {lines} lines; past {LONGEST}, split it"));
    }
    if !UNSAFE.iter().any(|place| path.starts_with(place)) {
        let found = text.lines().enumerate().filter(|(_, line)| has_unsafe(line));
        wrong.extend(found.map(|(at, _)| format!("{path}:{}: unsafe outside sandbox/src/sys", at + 1)));
    }
    let lint = if DENY_ONLY.contains(&path) { "#![deny(unsafe_code)]" } else { "#![forbid(unsafe_code)]" };
    if is_root && !text.lines().any(|line| line == lint) {
        wrong.push(format!("{path}: a crate root without {lint}"));
    }
    wrong
}

/// Whether a line of code has the word `unsafe`; comments and string literals do not count.
fn has_unsafe(line: &str) -> bool {
    let mut code = String::new();
    let (mut quoted, mut escaped, mut previous) = (false, false, ' ');
    for character in line.chars() {
        if !quoted && character == '/' && previous == '/' {
            break;
        }
        if character == '"' && !escaped && previous != '\'' {
            quoted = !quoted;
        } else if !quoted {
            code.push(character);
        }
        escaped = character == '\\' && !escaped;
        previous = character;
    }
    code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_in_code_counts_and_in_words_does_not() {
        assert!(has_unsafe("    let x = unsafe { f() };"));
        assert!(has_unsafe("unsafe impl Send for X {}"));
        assert!(!has_unsafe("// unsafe { }"));
        assert!(!has_unsafe("let x = \"unsafe\"; // unsafe"));
        assert!(!has_unsafe("#![forbid(unsafe_code)]"));
    }

    #[test]
    fn an_arrow_that_style_does_not_have_is_found() {
        let package =
            |name: &str, to: &str| serde_json::json!({"name": name, "dependencies": [{"name": to}]});
        let both = |from: &str, to: &str| serde_json::json!({"packages": [package(from, to), package(to, "anyhow")]});
        assert_eq!(arrows(&both("profiles", "sandbox")).expect("arrows").len(), 1);
        assert_eq!(arrows(&both("runtimeclass", "shim")).expect("arrows").len(), 1);
        assert_eq!(arrows(&both("shim", "tests")).expect("arrows").len(), 1);
        assert!(arrows(&both("shim", "sandbox")).expect("arrows").is_empty());
        assert!(arrows(&both("tests", "shim")).expect("arrows").is_empty());
    }

    #[test]
    fn a_root_without_its_lint_and_a_long_file_are_found() {
        assert_eq!(check("shim/src/main.rs", "fn main() {}\n", true).len(), 1);
        assert!(check("shim/src/main.rs", "#![forbid(unsafe_code)]\nfn main() {}\n", true).is_empty());
        assert_eq!(check("shim/src/a.rs", &"\n".repeat(601), false).len(), 1);
        assert_eq!(check("shim/src/a.rs", "unsafe {}\n", false).len(), 1);
        assert!(check("sandbox/src/sys/a.rs", "unsafe {}\n", false).is_empty());
    }
}
