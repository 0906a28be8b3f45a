//! `keep lint`: what an expert would say of an image's labels.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::PathBuf;

use super::Outcome;
use super::image_args::ImageArgs;
use super::policy_args::PolicyArgs;
use crate::image::Choice;
use crate::lint::{self, Counts, Options};

/// Check the labels of Dockerfiles and images: errors and warnings, each with its place and how to mend it.
///
/// PATH is a Dockerfile (or a folder that holds one), an OCI image (archive or layout folder), an archive of
/// `docker save`, or a label file. Of an archive the layers are read too, so that it is known which programs are
/// there. Every rule is explained in docs/lint.md.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  keep lint Dockerfile
  keep lint --target release --build-arg PORT=8080 .
  docker save nginx:1.29 -o nginx.tar && keep lint --base nginx.tar Dockerfile
  keep lint --strict --format sarif web.tar > web.sarif

Exit codes:
  0  no errors (with --strict: no warnings either)
  1  errors were found
  2  bad usage, or a file cannot be read")]
pub(crate) struct Lint {
    /// Dockerfiles, archives, layout folders or label files; `-` reads a Dockerfile or label file from standard input.
    #[arg(required = true)]
    path: Vec<PathBuf>,
    /// Output format.
    #[arg(long, value_enum, default_value_t = LintFormat::Text)]
    format: LintFormat,
    /// Stage of a Dockerfile that is built, by name or number [default: the last].
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// Value of an ARG in a Dockerfile.
    #[arg(long = "build-arg", value_name = "NAME=VALUE", value_parser = build_arg)]
    build_args: Vec<(String, String)>,
    /// The base image of a Dockerfile: its archive, layout folder or label file.
    #[arg(long, value_name = "FILE")]
    base: Option<PathBuf>,
    #[command(flatten)]
    under: PolicyArgs,
    #[command(flatten)]
    which: ImageArgs,
    /// Let warnings count as errors for the exit code.
    #[arg(long, visible_alias = "warnings-as-errors")]
    strict: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum LintFormat {
    /// As compilers print.
    Text,
    /// JSON for programs.
    Json,
    /// SARIF 2.1.0 for code hosts.
    Sarif,
}

fn build_arg(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("it is not of the form NAME=VALUE".to_owned()),
    }
}

/// Runs the command.
///
/// # Errors
/// When a file cannot be read, the class is unknown, or standard output is closed.
pub(crate) fn run(args: &Lint) -> anyhow::Result<Outcome> {
    let choice = args.which.choice()?;
    // The name is that of an image to lint, not of the base.
    let base_choice = Choice { name: None, ..choice.clone() };
    let base = args.base.as_deref().map(|path| lint::subject(path, &base_choice)).transpose()?;
    let options = Options {
        policy: args.under.in_force(&args.under.policies()?, None)?,
        choice,
        target: args.target.clone(),
        build_args: args.build_args.iter().cloned().collect::<BTreeMap<_, _>>(),
        base,
    };
    let reports =
        args.path.iter().map(|path| lint::lint(path, &options)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    match args.format {
        LintFormat::Text => lint::write_text(&mut out, &reports, super::colours())?,
        LintFormat::Json => lint::write_json(&mut out, &reports)?,
        LintFormat::Sarif => lint::write_sarif(&mut out, &reports)?,
    }
    out.flush()?;
    let counts = Counts::of(&reports);
    let refused = counts.errors > 0 || (args.strict && counts.warnings > 0);
    Ok(if refused { Outcome::Refused } else { Outcome::Fine })
}
