//! `keep diff`: what a change of an image, its labels or the policy grants more, and what less.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use profiles::Profile;
use profiles::diff::{Change, Diff, diff};
use profiles::policy::Policies;
use serde::Serialize;

use super::explain::compute;
use super::image_args::{ImageArgs, file_name};
use super::policy_args::{self, PolicyArgs};
use super::{Format, Outcome};

/// What image B is granted that image A is not, and the other way round; exit code 1 if B is granted more.
///
/// A and B are what `keep explain` takes: archives, layouts or label files. To see what a change of policies does, give the
/// same image twice, the old policies by --policy and the new ones by --policy-after.
#[derive(Debug, clap::Args)]
#[command(name = "diff")]
#[command(after_long_help = "\
Examples:
  keep diff web-1.4.tar web-1.5.tar
  git show main:labels.txt | keep diff - labels.txt
  keep diff web.tar web.tar --policy old/ --policy-after new/ --namespace shop

Exit codes:
  0  nothing widens
  1  something widens
  2  bad usage, or an image is refused or cannot be read")]
pub(crate) struct Args {
    /// Before: archive, layout folder or label file; `-` is standard input.
    a: PathBuf,
    /// After.
    b: PathBuf,
    #[command(flatten)]
    under: PolicyArgs,
    /// Policy file or folder for B, where it is another than for A; may be given several times.
    #[arg(long, value_name = "PATH")]
    policy_after: Vec<PathBuf>,
    #[command(flatten)]
    which: ImageArgs,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// What `--format json` prints.
#[derive(Serialize)]
struct Output {
    before: String,
    after: String,
    #[serde(flatten)]
    diff: Diff,
}

/// Runs the command.
///
/// # Errors
/// When an image or a policy cannot be read, an image would be refused, or standard output is closed.
pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let before = args.under.policies()?;
    let after = match args.policy_after.as_slice() {
        [] => before.clone(),
        paths => policy_args::read(paths)?,
    };
    let (before, after) = (profile(args, &args.a, &before)?, profile(args, &args.b, &after)?);
    let output = Output { before: before.digest(), after: after.digest(), diff: diff(&before, &after) };
    let mut out = io::stdout().lock();
    match args.format {
        Format::Json => super::print_json(&mut out, &output)?,
        Format::Text => {
            for line in text(&output.diff).lines() {
                writeln!(out, "{}", crate::words::printable(line))?;
            }
        }
    }
    out.flush()?;
    Ok(if output.diff.widens.is_empty() { Outcome::Fine } else { Outcome::Refused })
}

fn profile(args: &Args, path: &Path, policies: &Policies) -> anyhow::Result<Profile> {
    let image = args.which.open(path)?;
    let policy = args.under.in_force(policies, Some(&image))?;
    Ok(compute(&image, &policy, &file_name(path)).map_err(anyhow::Error::msg)?.profile)
}

fn text(diff: &Diff) -> String {
    let mut text = String::new();
    for (sign, heading, changes) in [('+', "widens", &diff.widens), ('-', "narrows", &diff.narrows)] {
        if changes.is_empty() {
            continue;
        }
        text.push_str(&format!("{heading}:\n"));
        let (calls, others): (Vec<&Change>, Vec<&Change>) =
            changes.iter().partition(|change| change.kind == "calls");
        for change in others {
            text.push_str(&format!("  {sign} {}\n", sentence(change)));
        }
        if !calls.is_empty() {
            let names: Vec<&str> = calls.iter().map(|change| change.value.as_str()).collect();
            text.push_str(&format!("  {sign} {} system calls: {}\n", calls.len(), names.join(" ")));
        }
    }
    if text.is_empty() {
        text.push_str("grants the same\n");
    }
    text
}

fn sentence(change: &Change) -> String {
    let value = &change.value;
    match change.kind {
        "entrypoint" => format!("starts {value}"),
        "exec" => format!("runs {value}"),
        "listen" => format!("listens on {value}"),
        "connect" => format!("connects to {value}"),
        "write" => format!("writes {value}"),
        "read" => format!("reads {value}"),
        "caps" => format!("has the capability {value}"),
        "needs" => format!("uses {value}"),
        "walls" => format!("walls: {value}"),
        _ => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_by_what_it_lets_the_image_do() {
        let change = |kind, value: &str| Change { kind, value: value.to_owned() };
        let diff = Diff {
            widens: vec![change("exec", "/bin/sh"), change("calls", "fork"), change("calls", "vfork")],
            narrows: vec![change("listen", "80/tcp")],
        };
        let expected =
            "widens:\n  + runs /bin/sh\n  + 2 system calls: fork vfork\nnarrows:\n  - listens on 80/tcp\n";
        assert_eq!(text(&diff), expected);
        assert_eq!(text(&Diff::default()), "grants the same\n");
    }
}
