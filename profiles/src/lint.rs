//! What an expert would say of an image's labels: errors that stop it from running, warnings of what is unwise. Pure:
//! what is known of the image is an argument.

use std::ops::Range;

use crate::intent::{AbsPath, Intent};
use crate::labels::{self, Fault, PREFIX, Survey, cut};
use crate::policy::Policy;

mod declared;
mod facts;
mod names;
mod network;
mod programs;
mod rights;
pub mod rule;
mod script;
#[cfg(test)]
mod tests;

pub use facts::{Command, File, Files, ImageFacts, Kind, MAX_SCRIPT, Script, Subject, exposed_port};
pub use rule::{Rule, Severity};

use crate::dockerfile::{Built, DockerfileError};

/// Longest message and help, in characters: what they quote may be as long as the image's author likes.
const MAX_MESSAGE: usize = 1000;
/// So many variables without a value are named.
const MAX_HOLES: usize = 100;

/// What one rule found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The rule.
    pub rule: Rule,
    /// How much it weighs here; mostly the rule's own severity.
    pub severity: Severity,
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
    /// How to mend it.
    pub help: String,
    /// Where.
    pub place: Place,
}

/// What a finding is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A word of a label's value.
    Word {
        /// The label's key.
        key: String,
        /// First character, from 1.
        column: usize,
        /// How many characters.
        length: usize,
    },
    /// A label as a whole.
    Key(String),
    /// The command of ENTRYPOINT.
    Entrypoint,
    /// The command of CMD.
    Cmd,
    /// One of the exposed ports, by its place in [`ImageFacts::exposed`].
    Exposed(usize),
    /// Bytes of a Dockerfile.
    Source(Range<usize>),
    /// The image as a whole.
    Image,
}

/// One word of a label, and the path that it is.
#[derive(Debug, Clone)]
struct Entry<'a> {
    key: &'a str,
    column: usize,
    word: &'a str,
}

impl Entry<'_> {
    fn place(&self) -> Place {
        Place::Word { key: self.key.to_owned(), column: self.column, length: self.word.chars().count() }
    }

    fn path(&self) -> Option<AbsPath> {
        AbsPath::from_label(self.word).ok()
    }
}

/// What the rules work on.
struct Lint<'a> {
    subject: &'a Subject,
    policy: &'a Policy,
    intent: &'a Intent,
    found: Vec<Finding>,
}

impl<'a> Lint<'a> {
    fn add(&mut self, rule: Rule, place: Place, message: impl Into<String>, help: impl Into<String>) {
        let message = cut(&message.into(), MAX_MESSAGE);
        let help = cut(&help.into(), MAX_MESSAGE);
        self.found.push(Finding { rule, severity: rule.severity, message, help, place });
    }

    fn facts(&self) -> &'a ImageFacts {
        &self.subject.facts
    }

    /// The words of a list's label and its fragments.
    fn entries(&self, list: &str) -> Vec<Entry<'a>> {
        let of_list = |key: &str| key.strip_prefix(PREFIX).and_then(labels::list_of) == Some(list);
        let labels = self.subject.labels.iter().filter(|(key, _)| of_list(key));
        labels
            .flat_map(|(key, value)| {
                labels::words(value).map(move |(column, word)| Entry { key, column, word })
            })
            .collect()
    }

    /// Where the command that the image starts is written.
    fn command_place(&self) -> Place {
        if self.facts().entrypoint.is_some() { Place::Entrypoint } else { Place::Cmd }
    }
}

/// Lints an image's labels against what is known of the image and what a class leaves to it.
#[must_use]
pub fn lint(subject: &Subject, policy: &Policy) -> Vec<Finding> {
    let Survey { declares, intent, notices, errors } = labels::survey(&subject.labels);
    let mut lint = Lint { subject, policy, intent: &intent, found: Vec::new() };
    declared::check(&mut lint, declares, &notices, &errors);
    // Labels that are too long are not read on: nothing bounds what there would be to say.
    let too_long = errors.iter().any(|error| error.fault == Fault::Size);
    if !too_long && subject.labels.keys().any(|key| key.starts_with(PREFIX)) {
        programs::check(&mut lint);
        script::check(&mut lint);
        network::check(&mut lint);
        rights::check(&mut lint);
    }
    lint.found
}

/// What may be said in vain where the base image is not known: it may hold the label that is missed.
const FROM_BASE: [Rule; 2] = [rule::WITHOUT_INTENT, rule::UNDECLARED];

/// Lints what a Dockerfile makes: as [`lint`], and what only a Dockerfile shows.
#[must_use]
pub fn lint_dockerfile(built: &Built, policy: &Policy) -> Vec<Finding> {
    let mut found = lint(&built.subject, policy);
    let holes = built.holes.iter().flat_map(|(key, holes)| holes.iter().map(move |hole| (key, hole)));
    for (key, hole) in holes.take(MAX_HOLES) {
        let name = cut(&hole.name, 80);
        found.push(Finding {
            rule: rule::UNDEFINED_VARIABLE,
            severity: rule::UNDEFINED_VARIABLE.severity,
            message: format!(
                "{name} has no value here, and label {} gets nothing in its place",
                cut(key, 80)
            ),
            help: format!("declare it in this stage, ARG {name}=…, or lint with --build-arg {name}=…"),
            place: Place::Source(hole.span.clone()),
        });
    }
    if let Some((name, span)) = &built.base {
        for finding in found.iter_mut().filter(|finding| FROM_BASE.contains(&finding.rule)) {
            finding.severity = Severity::Note;
            finding.message.push_str(&format!(", unless the base image {name} does it"));
        }
        found.push(Finding {
            rule: rule::UNKNOWN_BASE,
            severity: rule::UNKNOWN_BASE.severity,
            message: format!("labels and files of the base image {name} are not known here"),
            help: "give its archive or its labels with --base FILE, or lint the image that was built"
                .to_owned(),
            place: Place::Source(span.clone()),
        });
    }
    found
}

/// The finding that a Dockerfile which cannot be understood is.
#[must_use]
pub fn invalid_dockerfile(error: &DockerfileError) -> Finding {
    Finding {
        rule: rule::INVALID_DOCKERFILE,
        severity: rule::INVALID_DOCKERFILE.severity,
        message: error.problem.clone(),
        help: "the Dockerfile reference, docs.docker.com/reference/dockerfile, has the form of every instruction"
            .to_owned(),
        place: Place::Source(error.span.clone()),
    }
}
