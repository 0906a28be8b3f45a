//! `keep explain`: what an image would be granted, in words or as JSON.

use std::io::{self, Write};
use std::path::PathBuf;

use profiles::explain::{self, Figures};
use profiles::plan::seccomp_to_oci;
use profiles::profile::{Computed, ProfileError};
use profiles::{Policy, Profile};
use sandbox::facts::NATIVE;
use serde::Serialize;

use super::Outcome;
use super::image_args::{ImageArgs, file_name};
use super::policy_args::PolicyArgs;
use crate::image::Image;

/// What an image may do under a class and its policies: programs, ports, paths, system calls, digest.
///
/// IMAGE is an OCI image (archive or layout folder), an archive of `docker save`, or a label file: lines
/// key=value or LABEL key="value", with an optional ENTRYPOINT line; or JSON (labels, or an image config).
/// The digest is the one that nodes report for this image, class and policies.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  docker save shop/web:1.4 -o web.tar && keep explain web.tar
  keep explain --class keep-strict ./layout --image shop/web:1.4
  keep explain web.tar --policy /etc/keep/policy.d --namespace shop
  echo 'dev.keep.intent=v1' | keep explain -
  keep explain web.tar --format json | jq -r .digest
  keep explain web.tar --format oci > seccomp.json

Exit codes:
  0  the image would run; its grants are printed
  1  the image would be refused: a label is invalid, or the class or a policy does not run it
  2  bad usage, or the image or a policy cannot be read")]
pub(crate) struct Explain {
    /// Archive, layout folder or label file; `-` reads a label file from standard input.
    image: PathBuf,
    #[command(flatten)]
    under: PolicyArgs,
    #[command(flatten)]
    which: ImageArgs,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// How a profile is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// Sentences for people.
    Text,
    /// JSON for programs.
    Json,
    /// Its system calls as the seccomp section of an OCI runtime spec, as runc loads it.
    Oci,
}

/// What `--format json` prints.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Output<'a> {
    image: Option<&'a str>,
    class: &'a str,
    policies: &'a [String],
    digest: String,
    figures: Figures,
    profile: &'a Profile,
    notices: Vec<String>,
}

impl<'a> Output<'a> {
    pub(crate) fn new(image: &'a Image, policy: &'a Policy, computed: &'a Computed) -> Self {
        Self {
            image: image.name.as_deref(),
            class: &policy.class,
            policies: &policy.policies,
            digest: computed.profile.digest(),
            figures: Figures::of(&computed.profile),
            profile: &computed.profile,
            notices: computed.notices.iter().map(explain::noticed).collect(),
        }
    }
}

/// Runs the command.
///
/// # Errors
/// When the image or a policy cannot be read, the class is unknown, or standard output is closed.
pub(crate) fn run(args: &Explain) -> anyhow::Result<Outcome> {
    let policies = args.under.policies()?;
    let image = args.which.open(&args.image)?;
    let policy = args.under.in_force(&policies, Some(&image))?;
    let computed = match compute(&image, &policy, &file_name(&args.image)) {
        Ok(computed) => computed,
        Err(refusal) => {
            eprintln!("keep: {}", crate::words::printable(&refusal));
            return Ok(Outcome::Refused);
        }
    };
    let mut out = io::stdout().lock();
    match args.format {
        Format::Text => write!(out, "{}", text(&image, &policy, &computed))?,
        Format::Json => super::print_json(&mut out, &Output::new(&image, &policy, &computed))?,
        Format::Oci => super::print_json(&mut out, &seccomp_to_oci(&computed.profile, NATIVE)?)?,
    }
    out.flush()?;
    Ok(Outcome::Fine)
}

/// The profile, or one line that says why there is none: file, key, value, column, what was meant.
pub(crate) fn compute(image: &Image, policy: &Policy, file: &str) -> Result<Computed, String> {
    let declaration = profiles::labels::parse(&image.labels);
    profiles::compute(declaration, image.entrypoint.as_deref(), policy).map_err(|error| {
        let key = match &error {
            ProfileError::Invalid(label) => Some(&label.key),
            ProfileError::Exceeds { key, .. } => Some(key),
            ProfileError::Undeclared { .. } | ProfileError::Entrypoint { .. } => None,
        };
        match key.and_then(|key| image.lines.get(key)) {
            Some(line) => format!("{file}:{line}: {error}"),
            None => format!("{file}: {error}"),
        }
    })
}

/// What people are told about a profile.
pub(crate) fn text(image: &Image, policy: &Policy, computed: &Computed) -> String {
    let mut text = String::new();
    if let Some(name) = &image.name {
        text.push_str(&format!("image: {}\n", crate::words::printable(name)));
    }
    for line in explain::explain(computed, policy).lines() {
        text.push_str(&crate::words::printable(line));
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests;
