//! What was found in one file.

use std::collections::BTreeMap;
use std::ops::Range;

use profiles::dockerfile::Sources;
use profiles::lint::{Finding, Place, Severity};

use crate::lines::{Lines, Region};

/// What was found in one file, in the order of its places.
#[derive(Debug)]
pub(crate) struct Report {
    /// The file, as it was named.
    pub(crate) file: String,
    pub(crate) findings: Vec<Located>,
}

/// A finding and where in the file it is.
#[derive(Debug)]
pub(crate) struct Located {
    pub(crate) finding: Finding,
    /// Where, in a file that is a text.
    pub(crate) region: Option<Region>,
    /// A line to show, and the characters to mark in it, counted from 0.
    pub(crate) excerpt: Option<(String, Range<usize>)>,
}

/// How many findings there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) errors: usize,
    pub(crate) warnings: usize,
    pub(crate) notes: usize,
}

impl Counts {
    pub(crate) fn of<'a>(reports: impl IntoIterator<Item = &'a Report>) -> Self {
        let mut counts = Self::default();
        for located in reports.into_iter().flat_map(|report| &report.findings) {
            match located.finding.severity {
                Severity::Error => counts.errors += 1,
                Severity::Warning => counts.warnings += 1,
                Severity::Note => counts.notes += 1,
            }
        }
        counts
    }
}

impl Report {
    /// Of a text: `sources` says where in it labels and instructions stand.
    pub(crate) fn of_text(file: &str, lines: &Lines, sources: &Sources, findings: Vec<Finding>) -> Self {
        let locate = |finding: Finding| {
            let region = bytes(&finding.place, sources).map(|bytes| lines.region(&bytes));
            let excerpt = region.map(|region| {
                let line = lines.line(region.line);
                let end =
                    if region.end_line == region.line { region.end_column - 1 } else { line.chars().count() };
                (line.to_owned(), region.column - 1..end.max(region.column))
            });
            Located { finding, region, excerpt }
        };
        Self::sorted(file, findings.into_iter().map(locate).collect())
    }

    /// Of an image, whose labels have no lines.
    pub(crate) fn of_image(file: &str, labels: &BTreeMap<String, String>, findings: Vec<Finding>) -> Self {
        let locate = |finding: Finding| {
            let excerpt = match &finding.place {
                Place::Word { key, column, length } => labels.get(key).map(|value| {
                    let start = key.chars().count() + 1 + column;
                    (format!("{key}=\"{value}\""), start..start + length)
                }),
                Place::Key(key) => {
                    labels.get(key).map(|value| (format!("{key}=\"{value}\""), 0..key.chars().count()))
                }
                Place::Entrypoint | Place::Cmd | Place::Exposed(_) | Place::Source(_) | Place::Image => None,
            };
            Located { finding, region: None, excerpt }
        };
        Self::sorted(file, findings.into_iter().map(locate).collect())
    }

    fn sorted(file: &str, mut findings: Vec<Located>) -> Self {
        findings.sort_by_key(|located| {
            (
                located.region.map(|region| (region.line, region.column)),
                std::cmp::Reverse(located.finding.severity),
            )
        });
        Self { file: file.to_owned(), findings }
    }
}

/// The bytes of a text that a finding is about; `None` for the image as a whole.
fn bytes(place: &Place, sources: &Sources) -> Option<Range<usize>> {
    match place {
        Place::Word { key, column, length } => {
            sources.labels.get(key).map(|label| label.part(*column, *length))
        }
        Place::Key(key) => sources.labels.get(key).map(|label| label.key.clone()),
        Place::Entrypoint => sources.entrypoint.clone(),
        Place::Cmd => sources.cmd.clone(),
        // A base's ports stand elsewhere.
        Place::Exposed(at) => sources.exposed.get(*at).filter(|range| !range.is_empty()).cloned(),
        Place::Source(range) => Some(range.clone()),
        Place::Image => None,
    }
}
