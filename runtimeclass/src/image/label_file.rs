//! Label files, and the lines of what stands in them.

use profiles::dockerfile::{Built, DockerfileError, read_label_file};

use super::Image;
use crate::lines::Lines;

/// Why a label file is none.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {problem}")]
pub(crate) struct LabelFileError {
    /// Line, from 1.
    pub(crate) line: usize,
    /// What is wrong and what was meant.
    pub(crate) problem: String,
}

/// Parses a label file.
///
/// # Errors
/// With the line of the first thing that is no label, comment, ENTRYPOINT or CMD.
pub(super) fn parse(bytes: &[u8]) -> Result<Image, LabelFileError> {
    let text = text(bytes)?;
    let lines = Lines::new(text);
    let line_of = |at| lines.position(at).0;
    let Built { subject, sources, .. } = read_label_file(text)
        .map_err(|DockerfileError { span, problem }| LabelFileError { line: line_of(span.start), problem })?;
    let entrypoint = subject.facts.command().map(|command| command.program().to_owned());
    let places = sources.labels.into_iter().map(|(key, source)| (key, line_of(source.key.start)));
    Ok(Image { labels: subject.labels, entrypoint, lines: places.collect(), ..Image::default() })
}

/// The text of a file, without a byte order mark.
///
/// # Errors
/// When it is not UTF-8, with the line where it ceases to be.
pub(crate) fn text(bytes: &[u8]) -> Result<&str, LabelFileError> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = bytes[..error.valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
        LabelFileError { line, problem: "not UTF-8, so neither a label file nor an image archive".to_owned() }
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}
