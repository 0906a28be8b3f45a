//! Work with many files: `git clone` and `tar -x`.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::image::{Image, Layer};
use tests::node::Node;
use tests::provision::{self, say};
use tests::{command, debian, under_test};

use super::contender::{Contender, medians};

/// Files that are cloned, and that are unpacked.
const CLONED: usize = 5_000;
const UNPACKED: usize = 20_000;
/// Bytes of each.
const SIZE: usize = 1_000;
const REFERENCE: &str = "keep.bench/files:1";

const MEMORY: [&str; 2] = ["--mount", "type=tmpfs,src=tmpfs,dst=/data,options=mode=755"];

/// What is done, and the least that each report setting may reach of runc's speed.
struct Work {
    name: &'static str,
    command: [&'static str; 7],
    aims: [f64; 2],
}

const WORK: [Work; 2] = [
    Work {
        name: "git clone of 5,000 files",
        command: ["/bin/keep-probe", "time", "1", "/usr/bin/git", "clone", "--quiet", "--no-local"],
        aims: [0.90, 0.97],
    },
    Work {
        name: "tar -x of 20,000 files",
        command: ["/bin/keep-probe", "time", "1", "/usr/bin/tar", "-x", "-f", "/srv/files.tar"],
        aims: [0.70, 0.97],
    },
];

/// Measures, and prints medians beside their aims.
///
/// # Errors
/// When the files cannot be made or a container does not run.
pub(super) fn run(node: &Node, rounds: usize, memory: bool) -> Result<()> {
    say("making the image");
    node.import(&image(&node.folder.join("images"))?, REFERENCE)?;
    let contenders = [
        Contender::runc(),
        Contender { name: "keep, report: full", ..Contender::keep() },
        Contender { name: "keep, report: calls", ..Contender::with_policy("calls", node, "report: calls")? },
    ];
    let flags = if memory { &MEMORY[..] } else { &[] };
    println!("{rounds} rounds each, interleaved; medians:");
    for (number, Work { name, command, aims }) in WORK.iter().enumerate() {
        say(&format!("measuring {name}"));
        let to = if number == 0 { ["/srv/repository", "/data/clone"] } else { ["-C", "/data"] };
        let command: Vec<&str> = command.iter().copied().chain(to).collect();
        let times = medians(rounds, contenders.len(), |index, round| {
            contenders[index].number_with(
                node,
                flags,
                REFERENCE,
                &format!("f{number}-{index}-{round}"),
                &command,
            )
        })?;
        println!("{name}:");
        let (runc, keep) = times.split_first().context("there are contenders")?;
        println!("  {:<22} {:>8.1} ms", contenders[0].name, runc / 1e6);
        for ((contender, time), aim) in contenders[1..].iter().zip(keep).zip(aims) {
            let speed = runc / time;
            println!(
                "  {:<22} {:>8.1} ms, speed {speed:.2} of runc's (aim: at least {aim:.2})",
                contender.name,
                time / 1e6
            );
        }
    }
    Ok(())
}

/// Git and tar of Debian, a repository and an archive, with the labels that they need.
fn image(folder: &Path) -> Result<Image> {
    let packages: Vec<&str> = debian::PACKAGES.iter().copied().chain(["git"]).collect();
    let root = provision::debian_files("bench-files", &packages)?;
    let work = tempfile::tempdir_in(folder).context("cannot make a folder")?;
    let work = work.path();
    write_files(&work.join("repository"), CLONED)?;
    write_files(&work.join("files"), UNPACKED)?;
    let run = |program: &str, words: &[&str]| {
        let mut command = Command::new(program);
        command::run(command.current_dir(work).args(words), Duration::from_secs(120))?.success()
    };
    let git = |words: &[&str]| {
        let who = ["-C", "repository", "-c", "user.name=Keep", "-c", "user.email=keep@keep.test"];
        run("git", &[&who, words].concat())
    };
    git(&["init", "--quiet"])?;
    git(&["add", "."])?;
    git(&["commit", "--quiet", "--message", "all"])?;
    run("tar", &["-c", "-f", "files.tar", "--owner=0", "--group=0", "-C", "files", "."])?;
    let probe = under_test::binary("keep-probe")?;
    let layer = debian::add(Layer::new(), &root, &["usr/bin/git", "usr/lib/git-core"])?
        .copy(&probe, "usr/bin/keep-probe")?
        .copy(&work.join("files.tar"), "srv/files.tar")?
        .tree(&work.join("repository"), "srv/repository")?
        .folder("data", 0o755, 0);
    Ok(Image::new([debian::base(&root)?, layer])
        .environment("HOME", "/data")
        // Else git asks name servers, in vain, what this machine is called.
        .environment("EMAIL", "keep@keep.test")
        .environment("PATH", "/usr/bin:/bin")
        .labels([
            ("dev.keep.intent", "v1"),
            ("dev.keep.exec", "/usr/bin/keep-probe /usr/bin/git /usr/bin/tar /usr/lib/git-core /bin/sh"),
            ("dev.keep.write", "/data"),
        ]))
}

/// `many` files in folders of a hundred.
fn write_files(folder: &Path, many: usize) -> Result<()> {
    for number in 0..many {
        let inside = folder.join(format!("part-{}", number / 100));
        if number % 100 == 0 {
            std::fs::create_dir_all(&inside).with_context(|| format!("cannot make {}", inside.display()))?;
        }
        let line = format!("file {number}\n");
        let text: String = line.chars().cycle().take(SIZE).collect();
        let path = inside.join(format!("file-{number}"));
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    ensure!(many > 0, "there must be files");
    Ok(())
}
