//! `keep explain`: what an image would be granted, in words or as JSON.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Context as _;
use oci_spec::image::{Arch, Os};
use profiles::labels::Notice;
use profiles::profile::Computed;
use profiles::{Policy, Profile};
use serde::Serialize;

use super::{Format, Outcome};
use crate::image::{self, Choice, Image};

/// What an image may do under a class: programs, ports, paths, system calls, digest.
///
/// IMAGE is an OCI image (archive or layout folder), an archive of `docker save`, or a label file: lines
/// key=value or LABEL key="value", with an optional ENTRYPOINT line; or JSON (labels, or an image config).
/// The digest is the one that nodes report for this image and class.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  docker save shop/web:1.4 -o web.tar && keep explain web.tar
  keep explain --class keep-strict ./layout --image shop/web:1.4
  echo 'dev.keep.intent=v1' | keep explain -
  keep explain web.tar --format json | jq -r .digest

Exit codes:
  0  the image would run; its grants are printed
  1  the image would be refused: a label is invalid, or the class does not run it
  2  bad usage, or the image cannot be read")]
pub(crate) struct Explain {
    /// Archive, layout folder or label file; `-` reads a label file from standard input.
    image: PathBuf,
    /// Class that the pod would select by its runtimeClassName.
    #[arg(long, default_value = "keep", value_name = "CLASS")]
    class: String,
    /// Image to take from an archive that holds several: its name, the end of its name after a slash, or its digest.
    #[arg(long = "image", value_name = "NAME")]
    name: Option<String>,
    /// Platform to take from a multi-platform image [default: this machine's, linux].
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Serialize)]
struct Output<'a> {
    image: Option<&'a str>,
    digest: String,
    profile: &'a Profile,
    notices: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// When the image cannot be read, the class is unknown, or standard output is closed.
pub(crate) fn run(args: &Explain) -> anyhow::Result<Outcome> {
    let policy = Policy::builtin(&args.class)?;
    let choice = Choice { name: args.name.clone(), ..platform(args.platform.as_deref())? };
    let from_stdin = args.image.as_os_str() == "-";
    let file = if from_stdin { "standard input".to_owned() } else { args.image.display().to_string() };
    let image = if from_stdin {
        image::label_text(io::stdin().lock(), &file, &choice)
    } else {
        image::open(&args.image, &choice)
    };
    let image = image.with_context(|| crate::words::printable(&file))?;
    let computed = match compute(&image, &policy, &file) {
        Ok(computed) => computed,
        Err(refusal) => {
            eprintln!("keep: {}", crate::words::printable(&refusal));
            return Ok(Outcome::Refused);
        }
    };
    let mut out = io::stdout().lock();
    match args.format {
        Format::Text => write!(out, "{}", text(&image, &computed))?,
        Format::Json => {
            let profile = &computed.profile;
            let notices = computed.notices.iter().map(sentence).collect();
            let output = Output { image: image.name.as_deref(), digest: profile.digest(), profile, notices };
            serde_json::to_writer_pretty(&mut out, &output).map_err(io::Error::from)?;
            writeln!(out)?;
        }
    }
    out.flush()?;
    Ok(Outcome::Fine)
}

/// The profile, or one line that says why there is none: file, key, value, column, what was meant.
fn compute(image: &Image, policy: &Policy, file: &str) -> Result<Computed, String> {
    let declaration =
        profiles::labels::parse(&image.labels).map_err(|error| match image.lines.get(&error.key) {
            Some(line) => format!("{file}:{line}: {error}"),
            None => format!("{file}: {error}"),
        })?;
    profiles::compute(&declaration, image.entrypoint.as_deref(), policy)
        .map_err(|error| format!("{file}: {error}"))
}

fn text(image: &Image, computed: &Computed) -> String {
    let mut text = String::new();
    if let Some(name) = &image.name {
        text.push_str(&format!("image: {}\n", crate::words::printable(name)));
    }
    for line in profiles::explain::explain(computed).lines() {
        text.push_str(&crate::words::printable(line));
        text.push('\n');
    }
    text
}

pub(super) fn platform(wanted: Option<&str>) -> anyhow::Result<Choice> {
    let Some(wanted) = wanted else { return Ok(Choice { name: None, os: Os::Linux, arch: Arch::default() }) };
    let parts = wanted.split_once('/').filter(|(os, arch)| !os.is_empty() && !arch.is_empty());
    let (os, arch) = parts.with_context(|| format!("platform {wanted:?} is not of the form linux/amd64"))?;
    Ok(Choice { name: None, os: Os::from(os), arch: Arch::from(arch) })
}

/// One sentence for each thing that is odd about the labels.
fn sentence(notice: &Notice) -> String {
    match notice {
        Notice::UnknownKey { key, suggestion: Some(near) } => {
            format!("label {key} is unknown and ignored; did you mean {near}?")
        }
        Notice::UnknownKey { key, suggestion: None } => format!("label {key} is unknown and ignored"),
        Notice::WithoutIntent { key } => {
            format!("label {key} counts for nothing without dev.keep.intent=\"v1\"")
        }
        Notice::Clamped { key, value, by } => format!("{by} took {value:?} from label {key}"),
        Notice::Undeclared => "the image declares nothing".to_owned(),
    }
}

#[cfg(test)]
mod tests;
