//! Label files: `key=value` lines or Dockerfile `LABEL` instructions, with an optional `ENTRYPOINT` or `CMD`.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::str::CharIndices;

use super::Image;

/// Why a label file is none.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {problem}")]
pub(crate) struct LabelFileError {
    /// First line of the instruction, from 1.
    pub(crate) line: usize,
    /// What is wrong and what was meant.
    pub(crate) problem: String,
}

/// Parses a label file. As in a Dockerfile, the last value of a key stands.
///
/// # Errors
/// With the line of the first thing that is no label, comment, ENTRYPOINT or CMD.
pub(super) fn parse(bytes: &[u8]) -> Result<Image, LabelFileError> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = bytes[..error.valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
        LabelFileError { line, problem: "not UTF-8, so neither a label file nor an image archive".to_owned() }
    })?;
    let mut image = Image { name: None, labels: BTreeMap::new(), entrypoint: None, lines: BTreeMap::new() };
    let (mut entrypoint, mut cmd) = (None, None);
    for (line, instruction) in instructions(text) {
        let fail = |problem| LabelFileError { line, problem };
        let (word, rest) = instruction.split_once(char::is_whitespace).unwrap_or((&instruction, ""));
        let labels = match word.to_ascii_uppercase().as_str() {
            "LABEL" => words(rest).map_err(fail)?,
            "ENTRYPOINT" => {
                entrypoint = command(rest).map_err(fail)?;
                continue;
            }
            "CMD" => {
                cmd = command(rest).map_err(fail)?;
                continue;
            }
            _ => vec![bare(&instruction).map_err(fail)?],
        };
        for (key, value) in labels {
            image.lines.insert(key.clone(), line);
            image.labels.insert(key, value);
        }
    }
    image.entrypoint = entrypoint.or(cmd);
    Ok(image)
}

/// Instructions with their first lines: comments and empty lines gone, continued lines joined.
fn instructions(text: &str) -> Vec<(usize, String)> {
    let mut all = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (number, line) in (1..).zip(text.lines()) {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        let (first, mut joined) = open.take().unwrap_or((number, String::new()));
        if let Some(part) = trimmed.strip_suffix('\\') {
            joined.push_str(part);
            // A break always ends a word, even where the next line is not indented.
            joined.push(' ');
            open = Some((first, joined));
        } else {
            joined.push_str(trimmed);
            all.push((first, joined));
        }
    }
    all.extend(open);
    all
}

/// `key=value`, the value up to the end of the line or in quotes.
fn bare(line: &str) -> Result<(String, String), String> {
    let Some((key, value)) = line.split_once('=') else {
        let word = line.split_whitespace().next().unwrap_or_default();
        return Err(match word.to_ascii_uppercase().as_str() {
            "FROM" | "RUN" | "COPY" | "ADD" | "ARG" | "ENV" | "USER" | "WORKDIR" | "EXPOSE" | "VOLUME" => {
                format!(
                    "{word}: this is a Dockerfile, and labels of its base image count too; build it and explain the image's archive"
                )
            }
            _ => format!("{word:?} is no label; write key=value or LABEL key=\"value\""),
        });
    };
    let (key, value) = (key.trim(), value.trim());
    if key.is_empty() || key.contains(char::is_whitespace) {
        return Err(format!("{key:?} is no label key; write key=value or LABEL key=\"value\""));
    }
    if value.starts_with(['"', '\'']) {
        let mut chars = value.char_indices().peekable();
        let text = word(value, &mut chars, false)?;
        if chars.next().is_some() {
            return Err(format!(
                "more stands after the closing quote of {key}; one label a line, or use LABEL"
            ));
        }
        return Ok((key.to_owned(), text));
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// `key=value key="value" …`, quoted as in a Dockerfile.
fn words(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut chars = text.char_indices().peekable();
    let mut labels = Vec::new();
    loop {
        while chars.next_if(|(_, c)| c.is_whitespace()).is_some() {}
        if chars.peek().is_none() {
            break;
        }
        let key = word(text, &mut chars, true)?;
        if chars.next_if(|(_, c)| *c == '=').is_none() || key.is_empty() {
            return Err(format!("{key:?} has no value; write LABEL key=\"value\""));
        }
        labels.push((key, word(text, &mut chars, false)?));
    }
    if labels.is_empty() { Err("LABEL without a label".to_owned()) } else { Ok(labels) }
}

/// One word: up to white space (or `=`, in a key), quotes and backslashes taken off.
fn word(text: &str, chars: &mut Peekable<CharIndices<'_>>, key: bool) -> Result<String, String> {
    let mut out = String::new();
    let mut quote = None;
    while let Some(&(at, c)) = chars.peek() {
        if quote.is_none() && (c.is_whitespace() || (key && c == '=')) {
            break;
        }
        chars.next();
        match (c, quote) {
            ('"' | '\'', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            ('\\', None | Some('"')) => match chars.next_if(|(_, c)| quote.is_none() || "\"\\$".contains(*c))
            {
                Some((_, escaped)) => out.push(escaped),
                None => out.push('\\'),
            },
            ('$', None | Some('"')) => {
                let column = text[..at].chars().count() + 1;
                return Err(format!(
                    "column {column}: a variable, whose value only the build knows; write the value, or \\$ for a dollar sign"
                ));
            }
            (c, _) => out.push(c),
        }
    }
    match quote {
        None => Ok(out),
        Some(quote) => Err(format!("the quote {quote} is not closed")),
    }
}

/// The first word of a command: of its JSON list, else the shell that would run it.
fn command(text: &str) -> Result<Option<String>, String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    if !text.starts_with('[') {
        return Ok(Some("/bin/sh".to_owned()));
    }
    let words: Vec<String> = serde_json::from_str(text)
        .map_err(|_| format!("{text} is no list; write [\"/program\", \"argument\"]"))?;
    Ok(words.into_iter().next())
}
