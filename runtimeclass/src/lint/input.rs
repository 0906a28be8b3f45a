//! Reads what is to be linted, by its kind.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use profiles::Policy;
use profiles::dockerfile::{self, Built, Sources};
use profiles::lint::{Subject, invalid_dockerfile, lint as lint_subject, lint_dockerfile};

use super::{Report, context};
use crate::image::{self, Choice, Input};
use crate::lines::Lines;

/// How files are linted.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) policy: Policy,
    pub(crate) choice: Choice,
    /// The stage of a Dockerfile.
    pub(crate) target: Option<String>,
    /// `--build-arg`s.
    pub(crate) build_args: BTreeMap<String, String>,
    /// What a Dockerfile's base image is known to be.
    pub(crate) base: Option<Subject>,
}

/// Lints the file or folder at `path`; `-` is a text on standard input.
///
/// # Errors
/// When it cannot be read, or is nothing that can be linted.
pub(crate) fn lint(path: &Path, options: &Options) -> anyhow::Result<Report> {
    if path.as_os_str() == "-" {
        let bytes = image::read_text(io::stdin().lock(), "standard input")?;
        return Ok(text("standard input", None, &bytes, options)?);
    }
    let path = &dockerfile_in(path);
    let file = path.display().to_string();
    let what = || crate::words::printable(&file);
    match image::input(path).with_context(what)? {
        Input::Store(mut store) => {
            let subject = image::inspect(&mut store, &options.choice).with_context(what)?;
            Ok(Report::of_image(&file, &subject.labels, lint_subject(&subject, &options.policy)))
        }
        Input::Text(open) => {
            let bytes = image::read_text(open, &file)?;
            text(&file, Some(path), &bytes, options).with_context(what)
        }
    }
}

/// What an archive, a layout or a text of labels says: of a base image.
///
/// # Errors
/// As [`lint`].
pub(crate) fn subject(path: &Path, choice: &Choice) -> anyhow::Result<Subject> {
    let file = path.display().to_string();
    let what = || format!("base {}", crate::words::printable(&file));
    match image::input(path).with_context(what)? {
        Input::Store(mut store) => image::inspect(&mut store, choice).with_context(what),
        Input::Text(open) => {
            let bytes = image::read_text(open, &file)?;
            if image::is_json(&bytes) {
                return image::inspect_json(&bytes).with_context(what);
            }
            let text = image::text(&bytes).with_context(what)?;
            Ok(dockerfile::read_label_file(text).with_context(what)?.subject)
        }
    }
}

/// A folder that holds a Dockerfile and is no image layout stands for that Dockerfile.
fn dockerfile_in(path: &Path) -> PathBuf {
    if ["index.json", "manifest.json"].iter().any(|name| path.join(name).is_file()) {
        return path.to_owned();
    }
    let names = ["Dockerfile", "Containerfile"].map(|name| path.join(name));
    names.into_iter().find(|path| path.is_file()).unwrap_or_else(|| path.to_owned())
}

fn text(
    file: &str,
    path: Option<&Path>,
    bytes: &[u8],
    options: &Options,
) -> Result<Report, image::ImageError> {
    if image::is_json(bytes) {
        let subject = image::inspect_json(bytes)?;
        return Ok(Report::of_image(file, &subject.labels, lint_subject(&subject, &options.policy)));
    }
    let source = image::text(bytes)?;
    let built = if is_dockerfile(source) {
        let building = dockerfile::Options {
            target: options.target.as_deref(),
            build_args: options.build_args.clone(),
            base: options.base.clone(),
            os: &options.choice.os.to_string(),
            arch: &options.choice.arch.to_string(),
        };
        dockerfile::read(source, &building).map(|mut built| {
            if let Some(folder) = path.and_then(Path::parent) {
                context::add_entrypoint(&mut built, folder);
            }
            built
        })
    } else {
        dockerfile::read_label_file(source)
    };
    let lines = Lines::new(source);
    Ok(match built {
        Ok(built) => {
            let findings = lint_dockerfile(&built, &options.policy);
            let Built { sources, .. } = built;
            Report::of_text(file, &lines, &sources, findings)
        }
        Err(error) => Report::of_text(file, &lines, &Sources::default(), vec![invalid_dockerfile(&error)]),
    })
}

/// Whether a text is a Dockerfile and not a label file: it has a FROM, or an instruction that label files have not.
fn is_dockerfile(source: &str) -> bool {
    const ONLY_THERE: [&str; 9] = ["FROM", "RUN", "COPY", "ADD", "ENV", "ARG", "WORKDIR", "USER", "EXPOSE"];
    let mut words = source.lines().filter_map(|line| line.split_whitespace().next());
    words.any(|word| ONLY_THERE.iter().any(|name| word.eq_ignore_ascii_case(name)))
}
