//! Lines and columns of a text.

use std::ops::Range;

/// A text and where its lines begin.
#[derive(Debug, Clone)]
pub(crate) struct Lines {
    text: String,
    starts: Vec<usize>,
}

/// A place in a text: lines and columns from 1, columns in characters, the end exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Region {
    pub(crate) line: usize,
    pub(crate) column: usize,
    pub(crate) end_line: usize,
    pub(crate) end_column: usize,
}

impl Lines {
    pub(crate) fn new(text: &str) -> Self {
        let after_breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self { text: text.to_owned(), starts: std::iter::once(0).chain(after_breaks).collect() }
    }

    /// Line and column of the byte `at`, which begins a character or is the end.
    pub(crate) fn position(&self, at: usize) -> (usize, usize) {
        let line = self.starts.partition_point(|start| *start <= at);
        let start = self.starts.get(line.saturating_sub(1)).copied().unwrap_or_default();
        let before = self.text.get(start..at.min(self.text.len())).unwrap_or_default();
        (line, before.chars().count() + 1)
    }

    /// The place of `bytes`; an empty one is taken for one character.
    pub(crate) fn region(&self, bytes: &Range<usize>) -> Region {
        let (line, column) = self.position(bytes.start);
        let (end_line, end_column) = self.position(bytes.end.max(bytes.start));
        let end_column = if (end_line, end_column) == (line, column) { column + 1 } else { end_column };
        Region { line, column, end_line, end_column }
    }

    /// The line with the number `line`, without its end.
    pub(crate) fn line(&self, line: usize) -> &str {
        let start = self.starts.get(line.saturating_sub(1)).copied().unwrap_or(self.text.len());
        self.text.get(start..).and_then(|rest| rest.lines().next()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_characters_and_lines_count_from_one() {
        let lines = Lines::new("äb\nc\n\nd");
        assert_eq!((lines.position(0), lines.position(2), lines.position(4)), ((1, 1), (1, 2), (2, 1)));
        assert_eq!((lines.position(7), lines.position(8), lines.position(99)), ((4, 1), (4, 2), (4, 2)));
        assert_eq!((lines.line(1), lines.line(3), lines.line(4), lines.line(9)), ("äb", "", "d", ""));
        let region = lines.region(&(2..5));
        assert_eq!((region.line, region.column, region.end_line, region.end_column), (1, 2, 2, 2));
        assert_eq!(lines.region(&(4..4)).end_column, 2);
    }
}
