//! docs/mending.md is what `keep lint` says: its Dockerfiles are linted by its commands.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::Command;

use anyhow::Context as _;

const PAGE: &str = include_str!("../../docs/mending.md");

/// The fenced blocks of a page: their kinds and texts.
fn blocks(page: &str) -> anyhow::Result<Vec<(&str, &str)>> {
    let mut blocks = Vec::new();
    let mut rest = page;
    while let Some((_, after)) = rest.split_once("\n```") {
        let (kind, body) = after.split_once('\n').context("a fence without a line")?;
        let (text, next) = body.split_once("\n```\n").context("a block without an end")?;
        blocks.push((kind, text));
        rest = next;
    }
    Ok(blocks)
}

/// What a shell prints for `command`, with the `keep` under test found first.
fn run(folder: &Path, command: &str) -> anyhow::Result<String> {
    let keep = Path::new(env!("CARGO_BIN_EXE_keep")).parent().context("keep lies in no folder")?;
    let path = format!("{}:{}", keep.display(), std::env::var("PATH")?);
    let shell = Command::new("sh").args(["-c", command]).current_dir(folder).env("PATH", path).output()?;
    Ok(format!("{}{}", String::from_utf8(shell.stdout)?, String::from_utf8(shell.stderr)?))
}

#[test]
fn the_transcript_is_what_keep_lint_prints() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut commands = 0;
    let mut last = String::new();
    for (kind, text) in blocks(PAGE)? {
        match kind {
            "dockerfile" => std::fs::write(folder.path().join("Dockerfile"), format!("{text}\n"))?,
            "sh" => std::fs::write(folder.path().join("start.sh"), format!("{text}\n"))?,
            "console" => {
                let mut printed = String::new();
                for command in text.lines().filter_map(|line| line.strip_prefix("$ ")) {
                    last = run(folder.path(), command)?;
                    printed.push_str(&format!("$ {command}\n{last}"));
                    commands += 1;
                }
                assert_eq!(printed.trim_end(), text, "docs/mending.md is not what keep lint prints");
            }
            other => panic!("docs/mending.md has a block of kind {other:?}"),
        }
    }
    assert!(commands >= 5, "{commands} commands");
    assert!(last.ends_with("nothing to mend\nexit code 0\n"), "{last}");
    Ok(())
}
