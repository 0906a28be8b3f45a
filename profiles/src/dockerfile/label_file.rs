//! Label files: `key=value` lines or `LABEL` instructions, with an optional `ENTRYPOINT` or `CMD`.

use super::evaluate::SHELL;
use super::text::{Glyph, logical_line, source_of, string};
use super::words::{Assignment, Value, assignments, expand, split};
use super::{Built, DockerfileError, LabelSource};
use crate::lint::Command;

const ESCAPE: char = '\\';

/// Reads a label file. As in a Dockerfile, the last value of a key stands.
///
/// # Errors
/// At the first thing that is no label, comment, ENTRYPOINT or CMD.
pub fn read_label_file(source: &str) -> Result<Built, DockerfileError> {
    let source = source.strip_prefix('\u{feff}').unwrap_or(source);
    let mut built = Built::default();
    let mut at = 0;
    while at < source.len() {
        let (line, next) = logical_line(source, at, ESCAPE);
        at = next;
        let words = split(&line, ESCAPE);
        let Some(first) = words.first().filter(|first| first.first().is_some_and(|glyph| glyph.c != '#'))
        else {
            continue;
        };
        let start = line.iter().position(|glyph| !glyph.c.is_whitespace()).unwrap_or_default();
        let rest = &line[start + first.len()..];
        match string(first).to_ascii_uppercase().as_str() {
            "LABEL" if rest.iter().all(|glyph| glyph.c.is_whitespace()) => {
                return Err(DockerfileError::new(source_of(first), "LABEL without a label"));
            }
            "LABEL" => {
                for Assignment { key, value } in assignments(rest, ESCAPE)? {
                    let (key, value) = (plain(key)?, plain(value.unwrap_or_default())?);
                    insert(&mut built, &key, &value);
                }
            }
            "ENTRYPOINT" => {
                built.subject.facts.entrypoint = command(rest)?;
                built.sources.entrypoint = Some(source_of(super::words::trimmed(rest)));
            }
            "CMD" => {
                built.subject.facts.cmd = command(rest)?;
                built.sources.cmd = Some(source_of(super::words::trimmed(rest)));
            }
            _ => bare(&mut built, &line, first)?,
        }
    }
    Ok(built)
}

fn insert(built: &mut Built, key: &[Glyph], value: &[Glyph]) {
    built.sources.labels.insert(string(key), LabelSource::new(key, value));
    built.subject.labels.insert(string(key), string(value));
}

/// Takes quotes and escapes off; there are no variables here.
fn plain(word: &[Glyph]) -> Result<Vec<Glyph>, DockerfileError> {
    let expanded = expand(word, ESCAPE, &|_| Value::Unset)?;
    match expanded.holes.into_iter().next() {
        None => Ok(expanded.glyphs),
        Some(hole) => {
            let problem =
                "a variable, whose value only the build knows; write the value, or \\$ for a dollar sign";
            Err(DockerfileError::new(hole.span, problem))
        }
    }
}

/// `key=value`, the value up to the end of the line or in quotes.
fn bare(built: &mut Built, line: &[Glyph], first: &[Glyph]) -> Result<(), DockerfileError> {
    let Some(equals) = line.iter().position(|glyph| glyph.c == '=') else {
        let word = string(first);
        let problem = match word.to_ascii_uppercase().as_str() {
            name @ ("FROM" | "RUN" | "COPY" | "ADD" | "ARG" | "ENV" | "USER" | "WORKDIR" | "EXPOSE"
            | "VOLUME") => {
                format!(
                    "{name}: this is a Dockerfile, and labels of its base image count too; \
                     lint it, or build it and give the image's archive"
                )
            }
            _ => format!("{word:?} is no label; write key=value or LABEL key=\"value\""),
        };
        return Err(DockerfileError::new(source_of(first), problem));
    };
    let key = super::words::trimmed(&line[..equals]);
    let value = super::words::trimmed(&line[equals + 1..]);
    if key.is_empty() || key.iter().any(|glyph| glyph.c.is_whitespace()) {
        let problem = format!("{:?} is no label key; write key=value or LABEL key=\"value\"", string(key));
        return Err(DockerfileError::new(source_of(&line[..=equals]), problem));
    }
    let quote = value.first().map(|glyph| glyph.c).filter(|c| matches!(c, '"' | '\''));
    let Some(quote) = quote else {
        insert(built, key, value);
        return Ok(());
    };
    let text = plain(value)?;
    let inside = value.get(1..value.len() - 1).unwrap_or_default();
    if split(value, ESCAPE).len() != 1
        || value.last().is_none_or(|last| last.c != quote)
        || closes(inside, quote)
    {
        let problem =
            format!("more stands after the closing quote of {}; one label a line, or use LABEL", string(key));
        return Err(DockerfileError::new(source_of(value), problem));
    }
    insert(built, key, &text);
    Ok(())
}

/// Whether `quote` stands in `inside` unescaped.
fn closes(inside: &[Glyph], quote: char) -> bool {
    let mut escaped = false;
    inside.iter().any(|glyph| {
        let closing = glyph.c == quote && !escaped;
        escaped = glyph.c == ESCAPE && quote == '"' && !escaped;
        closing
    })
}

/// A list in JSON, or a line that the shell runs; `None` where nothing stands.
fn command(rest: &[Glyph]) -> Result<Option<Command>, DockerfileError> {
    let text = string(super::words::trimmed(rest));
    if text.is_empty() {
        return Ok(None);
    }
    if !text.starts_with('[') {
        return Ok(Some(Command::Shell { shell: SHELL.to_owned(), line: text }));
    }
    let words: Vec<String> = serde_json::from_str(&text).map_err(|_| {
        let problem = format!("{text} is no list; write [\"/program\", \"argument\"]");
        DockerfileError::new(source_of(super::words::trimmed(rest)), problem)
    })?;
    Ok(Command::of(words))
}
