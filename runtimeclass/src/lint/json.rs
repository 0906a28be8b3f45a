//! Reports as JSON; docs/keep-command.md has the form.

use std::io::{self, Write};

use profiles::lint::Place;
use serde::Serialize;

use super::Counts;
use super::report::{Located, Report};

/// `schema` of every report.
const SCHEMA: &str = "keep.dev/lint/v1";

#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    errors: usize,
    warnings: usize,
    notes: usize,
    files: Vec<FileReport<'a>>,
}

#[derive(Serialize)]
struct FileReport<'a> {
    file: &'a str,
    findings: Vec<Entry<'a>>,
}

#[derive(Serialize)]
struct Entry<'a> {
    rule: &'static str,
    severity: &'static str,
    message: &'a str,
    help: &'a str,
    label: Option<Label<'a>>,
    region: Option<Region>,
}

#[derive(Serialize)]
struct Label<'a> {
    key: &'a str,
    column: Option<usize>,
    length: Option<usize>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Region {
    line: usize,
    column: usize,
    end_line: usize,
    end_column: usize,
}

/// Prints reports for programs.
///
/// # Errors
/// When `out` is closed.
pub(crate) fn write(out: &mut impl Write, reports: &[Report]) -> io::Result<()> {
    let Counts { errors, warnings, notes } = Counts::of(reports);
    let files = reports.iter().map(|report| FileReport {
        file: &report.file,
        findings: report.findings.iter().map(entry).collect(),
    });
    let document = Document { schema: SCHEMA, errors, warnings, notes, files: files.collect() };
    serde_json::to_writer_pretty(&mut *out, &document).map_err(io::Error::from)?;
    writeln!(out)
}

fn entry(located: &Located) -> Entry<'_> {
    let finding = &located.finding;
    let label = match &finding.place {
        Place::Word { key, column, length } => {
            Some(Label { key, column: Some(*column), length: Some(*length) })
        }
        Place::Key(key) => Some(Label { key, column: None, length: None }),
        Place::Entrypoint | Place::Cmd | Place::Exposed(_) | Place::Source(_) | Place::Image => None,
    };
    let region = located.region.map(|region| Region {
        line: region.line,
        column: region.column,
        end_line: region.end_line,
        end_column: region.end_column,
    });
    Entry {
        rule: finding.rule.id,
        severity: finding.severity.as_str(),
        message: &finding.message,
        help: &finding.help,
        label,
        region,
    }
}
