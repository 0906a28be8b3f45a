//! Text that knows where in the Dockerfile each of its characters stood.

use std::ops::Range;

/// One character and the bytes of the source that it came from (those of `$NAME` for what a variable held).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Glyph {
    pub(super) c: char,
    start: u32,
    end: u32,
}

impl Glyph {
    pub(super) fn new(c: char, source: &Range<usize>) -> Self {
        // Sources have at most `MAX_SOURCE` bytes.
        let at = |byte: usize| u32::try_from(byte).unwrap_or(u32::MAX);
        Self { c, start: at(source.start), end: at(source.end) }
    }

    pub(super) fn source(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// The bytes of the source that `glyphs` came from.
pub(super) fn source_of(glyphs: &[Glyph]) -> Range<usize> {
    match (glyphs.first(), glyphs.last()) {
        (Some(first), Some(last)) => first.source().start..last.source().end.max(first.source().start),
        _ => 0..0,
    }
}

pub(super) fn string(glyphs: &[Glyph]) -> String {
    glyphs.iter().map(|glyph| glyph.c).collect()
}

/// The characters of an instruction from byte `at` on, and where what follows it begins: continued lines joined,
/// comments and empty lines between them left out. Source: `lineContinuation`, `trimComments` in frontend/dockerfile/parser of BuildKit.
pub(super) fn logical_line(source: &str, at: usize, escape: char) -> (Vec<Glyph>, usize) {
    let mut glyphs = Vec::new();
    let mut start = at;
    let mut continued = false;
    while let Some(rest) = source.get(start..).filter(|rest| !rest.is_empty()) {
        let line = rest.split('\n').next().unwrap_or_default();
        let next = start + line.len() + 1;
        let text = line.trim_end_matches('\r');
        let blank = text.trim_start();
        if continued && (blank.is_empty() || blank.starts_with('#')) {
            start = next;
            continue;
        }
        let body = continued_body(text, escape);
        glyphs.extend(glyphs_of(body.unwrap_or(text), start));
        start = next;
        if body.is_none() {
            break;
        }
        continued = true;
    }
    (glyphs, start)
}

/// `text` as it stands at byte `at` of the source.
pub(super) fn glyphs_of(text: &str, at: usize) -> impl Iterator<Item = Glyph> {
    text.char_indices().map(move |(offset, c)| {
        let start = at + offset;
        Glyph::new(c, &(start..start + c.len_utf8()))
    })
}

/// What stands before the escape character that ends the line, if one does.
fn continued_body(line: &str, escape: char) -> Option<&str> {
    let body = line.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
    (!body.ends_with(escape)).then_some(body)
}
