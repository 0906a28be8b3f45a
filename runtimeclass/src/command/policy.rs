//! `keep policy check`: whether policies are understood, and what images become under them.

use std::io::{self, Write};
use std::path::PathBuf;

use profiles::policy::Policies;
use serde::Serialize;
use serde_json::{Value, json};

use super::explain::{self, compute};
use super::image_args::{ImageArgs, file_name};
use super::policy_args::{self, PolicyArgs};
use super::{Format, Outcome};

/// Work with the platform team's policies.
#[derive(Debug, clap::Args)]
pub(crate) struct Policy {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Check(Check),
}

/// Whether the policies of a folder are understood, and do not conflict.
///
/// With --against, also what each image would become under them.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  keep policy check /etc/keep/policy.d
  keep policy check policies/ --against web.tar --against db.tar --namespace shop

Exit codes:
  0  the policies are fine, and every image would run
  1  a policy is wrong, two conflict, or an image would be refused
  2  bad usage, or a file cannot be read")]
struct Check {
    /// Policy files, and folders of them.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Image to show under the policies: archive, layout folder or label file; may be given several times.
    #[arg(long, value_name = "IMAGE", num_args = 1..)]
    against: Vec<PathBuf>,
    /// Class that the pods would select by their runtimeClassName.
    #[arg(long, default_value = "keep", value_name = "CLASS")]
    class: String,
    /// Namespace of the pods [default: none, as outside Kubernetes].
    #[arg(long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    #[command(flatten)]
    which: ImageArgs,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Runs the command.
///
/// # Errors
/// When a file cannot be read, the class is unknown, or standard output is closed.
pub(crate) fn run(args: &Policy) -> anyhow::Result<Outcome> {
    let Command::Check(check) = &args.command;
    let mut out = io::stdout().lock();
    let policies = match policy_args::read(&check.paths) {
        Ok(policies) => policies,
        Err(error) if error.is::<profiles::policy::PolicyError>() => {
            let error = crate::words::printable(&error.to_string());
            match check.format {
                Format::Text => eprintln!("keep: {error}"),
                Format::Json => super::print_json(&mut out, &json!({ "error": error }))?,
            }
            return Ok(Outcome::Refused);
        }
        Err(error) => return Err(error),
    };
    let images = check.images(&policies)?;
    match check.format {
        Format::Text => print(&mut out, &policies, &images)?,
        Format::Json => {
            let policies: Vec<Listed<'_>> = listed(&policies).collect();
            let images: Vec<&Value> = images.iter().map(|image| &image.json).collect();
            super::print_json(&mut out, &json!({ "policies": policies, "images": images }))?;
        }
    }
    out.flush()?;
    Ok(if images.iter().any(|image| image.refused) { Outcome::Refused } else { Outcome::Fine })
}

/// An image under the policies.
struct Shown {
    text: String,
    json: Value,
    refused: bool,
}

#[derive(Serialize)]
struct Listed<'a> {
    name: &'a str,
    file: &'a str,
    selects: String,
}

fn listed(policies: &Policies) -> impl Iterator<Item = Listed<'_>> {
    policies.iter().map(|(name, file, spec)| Listed { name, file, selects: spec.selector.to_string() })
}

impl Check {
    fn images(&self, policies: &Policies) -> anyhow::Result<Vec<Shown>> {
        let under = PolicyArgs::of(&self.class, self.namespace.as_deref());
        let show = |path: &PathBuf| {
            let image = self.which.open(path)?;
            let policy = under.in_force(policies, Some(&image))?;
            let file = file_name(path);
            Ok(match compute(&image, &policy, &file) {
                Ok(computed) => {
                    let text = explain::text(&image, &policy, &computed);
                    let json =
                        json!({ "file": file, "granted": explain::Output::new(&image, &policy, &computed) });
                    Shown { text: format!("{file}\n{text}"), json, refused: false }
                }
                Err(refusal) => {
                    let json = json!({ "file": file, "refused": refusal });
                    Shown {
                        text: format!("refused: {}\n", crate::words::printable(&refusal)),
                        json,
                        refused: true,
                    }
                }
            })
        };
        self.against.iter().map(show).collect()
    }
}

fn print(out: &mut impl Write, policies: &Policies, images: &[Shown]) -> io::Result<()> {
    let listed: Vec<Listed<'_>> = listed(policies).collect();
    let widest = listed.iter().map(|policy| policy.name.len()).max().unwrap_or_default();
    for Listed { name, file, selects } in &listed {
        writeln!(
            out,
            "{name:widest$}  {}  ({})",
            crate::words::printable(selects),
            crate::words::printable(file)
        )?;
    }
    let many = listed.len();
    writeln!(out, "{many} {}, no conflicts", if many == 1 { "policy" } else { "policies" })?;
    for image in images {
        write!(out, "\n{}", image.text)?;
    }
    Ok(())
}
