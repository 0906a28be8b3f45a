//! `keep lint` as scripts meet it: exit codes, standard input, formats.
#![forbid(unsafe_code)]

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

/// Runs `keep lint` with `input` on its standard input.
fn lint(args: &[&str], input: &str) -> anyhow::Result<Output> {
    let mut keep = Command::new(env!("CARGO_BIN_EXE_keep"));
    keep.arg("lint").args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = keep.spawn()?;
    if let Some(mut stdin) = child.stdin.take()
        && let Err(error) = stdin.write_all(input.as_bytes())
    {
        // What refuses its arguments does not read.
        anyhow::ensure!(error.kind() == std::io::ErrorKind::BrokenPipe, error);
    }
    Ok(child.wait_with_output()?)
}

#[test]
fn the_exit_code_says_whether_there_are_errors() -> anyhow::Result<()> {
    let code = |args: &[&str], input: &str| lint(args, input).map(|output| output.status.code());
    let warned = "dev.keep.intent=v1\ndev.keep.listen=80/tcp\n";
    assert_eq!(code(&["-"], warned)?, Some(0));
    assert_eq!(code(&["--strict", "-"], warned)?, Some(1));
    assert_eq!(code(&["--warnings-as-errors", "-"], warned)?, Some(1));
    assert_eq!(code(&["-"], "dev.keep.intent=v2\n")?, Some(1));
    assert_eq!(code(&["-"], "x=y\n")?, Some(0));
    assert_eq!(code(&["--class", "keep-strict", "-"], "x=y\n")?, Some(1));
    for usage in [
        &[][..],
        &["--class", "no", "-"],
        &["/nonexistent"],
        &["--build-arg", "A", "-"],
        &["--base", "/nonexistent", "-"],
    ] {
        assert_eq!(code(usage, warned)?, Some(2), "{usage:?}");
    }
    Ok(())
}

#[test]
fn arguments_choose_the_stage_and_give_values() -> anyhow::Result<()> {
    let dockerfile =
        "FROM scratch AS a\nARG PORT\nLABEL dev.keep.intent=v1 dev.keep.listen=$PORT/tcp\nFROM scratch\n";
    let printed = |args: &[&str]| {
        lint(args, dockerfile).map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    assert!(printed(&["-"])?.contains("warning[undeclared]"));
    assert!(printed(&["--target", "a", "-"])?.contains("standard input:3:47: error[invalid-port]"));
    assert_eq!(
        printed(&["--target", "a", "--build-arg", "PORT=8080", "-"])?,
        "standard input: nothing to mend\n"
    );
    let sarif = printed(&["--format", "sarif", "-"])?;
    assert_eq!(serde_json::from_str::<serde_json::Value>(&sarif)?["version"], "2.1.0");
    assert!(!printed(&["-"])?.contains('\u{1b}'));
    Ok(())
}
