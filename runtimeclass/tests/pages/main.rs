//! Pages of docs/ as tests: their files are written, their commands run, and what is printed must be what stands there.

#![forbid(unsafe_code)]

mod command;
mod mending;
mod policy;

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};

/// What came of a page's commands.
struct Replayed {
    /// How many there were.
    commands: usize,
    /// What the last one printed.
    last: String,
}

/// The fenced blocks of a page: the words of their fences, and their texts.
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

/// What a shell prints for `command` in `folder`, with the `keep` under test found first.
fn run(folder: &Path, command: &str) -> anyhow::Result<String> {
    let keep = Path::new(env!("CARGO_BIN_EXE_keep")).parent().context("keep lies in no folder")?;
    let path = format!("{}:{}", keep.display(), std::env::var("PATH")?);
    let shell = Command::new("sh").args(["-c", command]).current_dir(folder).env("PATH", path).output()?;
    Ok(format!("{}{}", String::from_utf8(shell.stdout)?, String::from_utf8(shell.stderr)?))
}

/// Writes the page's files into `folder` and runs its commands there, in their order. A block is a file where a name
/// stands behind its kind; `dockerfile` and `sh` without one are `Dockerfile` and `start.sh`.
fn replay(name: &str, page: &str, folder: &Path) -> anyhow::Result<Replayed> {
    let mut replayed = Replayed { commands: 0, last: String::new() };
    for (fence, text) in blocks(page)? {
        let file = match fence.split_once(' ') {
            Some((_, file)) => file,
            None if fence == "dockerfile" => "Dockerfile",
            None if fence == "sh" => "start.sh",
            None => {
                ensure!(fence == "console", "{name} has a block of kind {fence:?}");
                let mut printed = String::new();
                for command in text.lines().filter_map(|line| line.strip_prefix("$ ")) {
                    replayed.last = run(folder, command)?;
                    printed.push_str(&format!("$ {command}\n{}", replayed.last));
                    replayed.commands += 1;
                }
                ensure!(printed.trim_end() == text, "{name} is not what is printed:\n{printed}");
                continue;
            }
        };
        let path = folder.join(file);
        std::fs::create_dir_all(path.parent().context("a file lies in a folder")?)?;
        std::fs::write(path, format!("{text}\n"))?;
    }
    Ok(replayed)
}
