//! `KEY=value` words of LABEL, ENV and ARG: split, then unquoted with variables put in.
//! Source: `parseNameVal`, `parseWords` in frontend/dockerfile/parser and frontend/dockerfile/shell of BuildKit.

use std::ops::Range;

use super::text::{Glyph, source_of, string};

/// Substitutions nested deeper than this, `${a:-${b:-…}}`, are refused.
const MAX_DEPTH: usize = 16;

/// Longest value that variables may make, in characters: labels and PATH are far shorter.
const MAX_VALUE: usize = 64 << 10;

/// One assignment, quotes and variables still in it.
#[derive(Debug)]
pub(super) struct Assignment<'a> {
    pub(super) key: &'a [Glyph],
    /// `None` for `ARG NAME`.
    pub(super) value: Option<&'a [Glyph]>,
}

/// What a variable holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Known(String),
    /// Set by the build, or by a substitution that is not followed here.
    Unknown,
    Unset,
}

/// A value whose variables were put in.
#[derive(Debug, Default)]
pub(super) struct Expanded {
    pub(super) glyphs: Vec<Glyph>,
    /// Variables without a known value, which became empty.
    pub(super) holes: Vec<Hole>,
}

/// A variable that has no known value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hole {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub span: Range<usize>,
}

/// What is wrong with a word, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WordError {
    pub(super) problem: String,
    pub(super) span: Range<usize>,
}

impl WordError {
    fn new(problem: impl Into<String>, glyphs: &[Glyph]) -> Self {
        Self { problem: problem.into(), span: source_of(glyphs) }
    }
}

/// The assignments of LABEL and ENV: `KEY=value …`, or the old form `KEY value with spaces`.
pub(super) fn assignments(line: &[Glyph], escape: char) -> Result<Vec<Assignment<'_>>, WordError> {
    let words = split(line, escape);
    let Some(first) = words.first() else { return Ok(Vec::new()) };
    if !first.iter().any(|glyph| glyph.c == '=') {
        let start = line.iter().position(|glyph| !glyph.c.is_whitespace()).unwrap_or_default();
        let rest = trimmed(&line[start + first.len()..]);
        if rest.is_empty() {
            let name = string(first);
            return Err(WordError::new(format!("{name} has no value; write {name}=\"value\""), first));
        }
        return Ok(vec![Assignment { key: first, value: Some(rest) }]);
    }
    words.into_iter().map(assignment).collect()
}

/// The declarations of ARG: `NAME` or `NAME=default`, several of them.
pub(super) fn declarations(line: &[Glyph], escape: char) -> Vec<Assignment<'_>> {
    let word = |word| assignment(word).unwrap_or(Assignment { key: word, value: None });
    split(line, escape).into_iter().map(word).collect()
}

fn assignment(word: &[Glyph]) -> Result<Assignment<'_>, WordError> {
    match word.iter().position(|glyph| glyph.c == '=') {
        Some(0) => Err(WordError::new("nothing stands before the =; write KEY=\"value\"", word)),
        Some(at) => Ok(Assignment { key: &word[..at], value: Some(&word[at + 1..]) }),
        None => {
            let name = string(word);
            let problem =
                format!("{name:?} has no value; write KEY=\"value\", and quote a value that has spaces");
            Err(WordError::new(problem, word))
        }
    }
}

/// Without the white space around.
pub(super) fn trimmed(glyphs: &[Glyph]) -> &[Glyph] {
    let start = glyphs.iter().position(|glyph| !glyph.c.is_whitespace()).unwrap_or(glyphs.len());
    let end = glyphs.iter().rposition(|glyph| !glyph.c.is_whitespace()).map_or(start, |last| last + 1);
    &glyphs[start..end]
}

/// Words between white space; quotes and escapes hold a word together and stay in it.
pub(super) fn split(line: &[Glyph], escape: char) -> Vec<&[Glyph]> {
    let mut words = Vec::new();
    let mut start = None;
    let mut quote = None;
    let mut at = 0;
    while let Some(glyph) = line.get(at) {
        let c = glyph.c;
        if start.is_none() && !c.is_whitespace() {
            start = Some(at);
        }
        if c == escape && quote != Some('\'') {
            at += 1;
        } else if quote == Some(c) {
            quote = None;
        } else if quote.is_none() && matches!(c, '"' | '\'') {
            quote = Some(c);
        } else if quote.is_none()
            && c.is_whitespace()
            && let Some(begun) = start.take()
        {
            words.push(&line[begun..at]);
        }
        at += 1;
    }
    words.extend(start.map(|begun| &line[begun..]));
    words
}

/// Takes quotes and escapes off and puts variables in.
pub(super) fn expand(
    word: &[Glyph],
    escape: char,
    variables: &dyn Fn(&str) -> Value,
) -> Result<Expanded, WordError> {
    let mut expansion = Expansion { escape, variables, result: Expanded::default() };
    expansion.run(word, 0)?;
    Ok(expansion.result)
}

struct Expansion<'a> {
    escape: char,
    variables: &'a dyn Fn(&str) -> Value,
    result: Expanded,
}

impl Expansion<'_> {
    fn run(&mut self, word: &[Glyph], depth: usize) -> Result<(), WordError> {
        if depth > MAX_DEPTH {
            return Err(WordError::new("substitutions are nested too deep", word));
        }
        let mut at = 0;
        let mut quoted: Option<usize> = None;
        while let Some(glyph) = word.get(at) {
            match glyph.c {
                '\'' if quoted.is_none() => {
                    let rest = &word[at + 1..];
                    let Some(length) = rest.iter().position(|glyph| glyph.c == '\'') else {
                        return Err(WordError::new("the quote ' is not closed", &word[at..=at]));
                    };
                    self.result.glyphs.extend(&rest[..length]);
                    at += length + 2;
                }
                '"' => {
                    quoted = if quoted.is_some() { None } else { Some(at) };
                    at += 1;
                }
                c if c == self.escape => {
                    let next = word.get(at + 1);
                    let taken = next.filter(|next| {
                        quoted.is_none() || next.c == '"' || next.c == '$' || next.c == self.escape
                    });
                    match taken {
                        Some(next) => {
                            let source = glyph.source().start..next.source().end;
                            self.result.glyphs.push(Glyph::new(next.c, &source));
                            at += 2;
                        }
                        None => {
                            self.result.glyphs.push(*glyph);
                            at += 1;
                        }
                    }
                }
                '$' => at += self.variable(&word[at..], depth)?,
                _ => {
                    self.result.glyphs.push(*glyph);
                    at += 1;
                }
            }
        }
        match quoted {
            Some(open) => Err(WordError::new("the quote \" is not closed", &word[open..=open])),
            None => Ok(()),
        }
    }

    /// Puts in the variable at the beginning of `rest`; gives how many characters it took.
    fn variable(&mut self, rest: &[Glyph], depth: usize) -> Result<usize, WordError> {
        if rest.get(1).is_some_and(|glyph| glyph.c == '{') {
            return self.braced(rest, depth);
        }
        let length = name_length(&rest[1..]);
        if length == 0 {
            self.result.glyphs.push(rest[0]);
            return Ok(1);
        }
        self.insert(&string(&rest[1..=length]), &source_of(&rest[..=length]))?;
        Ok(length + 1)
    }

    fn braced(&mut self, rest: &[Glyph], depth: usize) -> Result<usize, WordError> {
        let Some(close) = closing_brace(rest) else {
            return Err(WordError::new("the brace { is not closed", &rest[..2]));
        };
        let length = name_length(&rest[2..]);
        let name = string(&rest[2..2 + length]);
        let span = source_of(&rest[..=close]);
        let operator = &rest[2 + length..close];
        if length == 0 {
            return Err(WordError::new("a variable's name is missing; write ${NAME}", &rest[..=close]));
        }
        let colon = operator.first().is_some_and(|glyph| glyph.c == ':');
        let operation = operator.get(usize::from(colon)).map(|glyph| glyph.c);
        let word = operator.get(usize::from(colon) + 1..).unwrap_or_default();
        let value = (self.variables)(&name);
        let given = match &value {
            Value::Known(text) => !(colon && text.is_empty()),
            Value::Unknown => true,
            Value::Unset => false,
        };
        match operation {
            None if !colon => self.insert(&name, &span)?,
            Some('-') if !given => self.run(word, depth + 1)?,
            Some('-') => self.insert(&name, &span)?,
            Some('+') if given => self.run(word, depth + 1)?,
            Some('+') => {}
            Some('?') if !given => {
                return Err(WordError::new(
                    format!("{name} must have a value; give --build-arg {name}=…"),
                    &rest[..=close],
                ));
            }
            Some('?') => self.insert(&name, &span)?,
            // Patterns (`#`, `%`, `/`) are not followed.
            Some('#' | '%' | '/') if !colon => self.result.holes.push(Hole { name, span }),
            _ => {
                return Err(WordError::new(
                    "no such substitution; there are ${NAME}, ${NAME:-default} and ${NAME:+other}",
                    &rest[..=close],
                ));
            }
        }
        Ok(close + 1)
    }

    fn insert(&mut self, name: &str, span: &Range<usize>) -> Result<(), WordError> {
        match (self.variables)(name) {
            Value::Known(text) => self.result.glyphs.extend(text.chars().map(|c| Glyph::new(c, span))),
            Value::Unknown | Value::Unset => {
                self.result.holes.push(Hole { name: name.to_owned(), span: span.clone() });
            }
        }
        if self.result.glyphs.len() > MAX_VALUE {
            let problem = format!("variables make this longer than {MAX_VALUE} characters");
            return Err(WordError { problem, span: span.clone() });
        }
        Ok(())
    }
}

/// How many characters of a variable's name `glyphs` begins with.
fn name_length(glyphs: &[Glyph]) -> usize {
    let letter = |c: char| c == '_' || c.is_ascii_alphanumeric();
    match glyphs.first() {
        // `$1`, `$@` …: one character.
        Some(glyph) if glyph.c.is_ascii_digit() || "@*#".contains(glyph.c) => 1,
        _ => glyphs.iter().take_while(|glyph| letter(glyph.c)).count(),
    }
}

fn closing_brace(rest: &[Glyph]) -> Option<usize> {
    let mut open = 0;
    for (at, glyph) in rest.iter().enumerate() {
        match glyph.c {
            '{' => open += 1,
            '}' => {
                open -= 1;
                if open == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}
