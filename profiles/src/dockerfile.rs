//! What the image that a Dockerfile builds would declare, without building it: labels, entrypoint, ports, each with
//! its place in the text. The instructions are split by the crate `parse-dockerfile`; what BuildKit then makes of
//! them (stages, inheritance, variables) is here.

use std::collections::BTreeMap;
use std::ops::Range;

use parse_dockerfile::{Instruction, parse_iter};

use crate::labels::{cut, nearest};
use crate::lint::Subject;

mod evaluate;
mod label_file;
mod stages;
#[cfg(test)]
mod tests;
mod text;
mod words;

use evaluate::State;
pub use label_file::read_label_file;
use stages::Stages;
use text::Glyph;
pub use words::Hole;

/// Longest Dockerfile that is read, in bytes.
pub const MAX_SOURCE: usize = 1 << 20;

/// Longest sentence of an error, in characters.
const MAX_PROBLEM: usize = 400;

/// Every instruction.
const INSTRUCTIONS: &str = "ADD ARG CMD COPY ENTRYPOINT ENV EXPOSE FROM HEALTHCHECK LABEL MAINTAINER ONBUILD RUN SHELL \
    STOPSIGNAL USER VOLUME WORKDIR";

/// How a Dockerfile is to be built.
#[derive(Debug, Clone, Default)]
pub struct Options<'a> {
    /// The stage that is built, by name or number; the last one if `None`.
    pub target: Option<&'a str>,
    /// `--build-arg`s.
    pub build_args: BTreeMap<String, String>,
    /// The base image outside the Dockerfile, where it is known.
    pub base: Option<Subject>,
    /// Operating system of the image, as Go names it.
    pub os: &'a str,
    /// Architecture of the image, as Go names it.
    pub arch: &'a str,
}

/// What a Dockerfile makes. Places are bytes of the text, from after a byte order mark.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Built {
    /// Labels, and what the instructions say of the image.
    pub subject: Subject,
    /// Where they stand.
    pub sources: Sources,
    /// The image outside that the built stage goes back to; `None` for `scratch` and where [`Options::base`] is given.
    pub base: Option<(String, Range<usize>)>,
    /// Variables in labels that have no known value, by the label's key.
    pub holes: BTreeMap<String, Vec<Hole>>,
    /// Files that are brought in.
    pub copies: Vec<Copy>,
}

/// Where things stand in a text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    /// Labels by their keys; of a Dockerfile, those beneath `dev.keep.`.
    pub labels: BTreeMap<String, LabelSource>,
    /// The command of ENTRYPOINT.
    pub entrypoint: Option<Range<usize>>,
    /// The command of CMD.
    pub cmd: Option<Range<usize>>,
    /// Each of the exposed ports.
    pub exposed: Vec<Range<usize>>,
}

/// Where a label stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSource {
    /// Its key.
    pub key: Range<usize>,
    /// Each character of its value; those that a variable gave have the variable's place.
    pub value: Vec<Range<usize>>,
}

impl LabelSource {
    fn new(key: &[Glyph], value: &[Glyph]) -> Self {
        Self { key: text::source_of(key), value: value.iter().map(Glyph::source).collect() }
    }

    /// The place of `length` characters of the value from `column` on, in characters from 1; the key where the value
    /// has no such character.
    #[must_use]
    pub fn part(&self, column: usize, length: usize) -> Range<usize> {
        let from = column.saturating_sub(1);
        let wanted = self.value.get(from..from.saturating_add(length.max(1)).min(self.value.len()));
        match wanted.and_then(|part| Some((part.first()?, part.last()?))) {
            Some((first, last)) => first.start..last.end.max(first.start),
            None => self.key.clone(),
        }
    }
}

/// A COPY or ADD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// What is copied; a path of the build context, of another stage, or a URL.
    pub sources: Vec<String>,
    /// Whether the sources lie in the build context.
    pub from_context: bool,
    /// Where to; ends with a slash where that is a folder for certain.
    pub destination: String,
    /// `--chmod` as a number.
    pub mode: Option<u32>,
    /// The text of a here-document, which is the file's.
    pub text: Option<String>,
}

/// Why a Dockerfile cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct DockerfileError {
    /// Where.
    pub span: Range<usize>,
    /// What is wrong and what was meant.
    pub problem: String,
}

impl From<words::WordError> for DockerfileError {
    fn from(error: words::WordError) -> Self {
        Self::new(error.span, error.problem)
    }
}

impl DockerfileError {
    fn new(span: Range<usize>, problem: impl Into<String>) -> Self {
        // It may quote a name that is as long as the Dockerfile.
        Self { span, problem: cut(&problem.into(), MAX_PROBLEM) }
    }
}

/// Works out what the Dockerfile `source` makes.
///
/// # Errors
/// When it is too long, BuildKit would refuse it, or it has no such stage as is asked for.
pub fn read(source: &str, options: &Options<'_>) -> Result<Built, DockerfileError> {
    let source = source.strip_prefix('\u{feff}').unwrap_or(source);
    if source.len() > MAX_SOURCE {
        let problem = format!("it is {} bytes long; at most {MAX_SOURCE} are read", source.len());
        return Err(DockerfileError::new(0..0, problem));
    }
    let parsed = without_empty_lists(source);
    let (escape, instructions) = instructions(source, &parsed)?;
    let stages = Stages::of(source, escape, &instructions, options)?;
    let mut state = State::new(source, escape, options, stages.global.clone());
    for stage in stages.chain(options)? {
        state.stage(stage)?;
    }
    let mut built = state.finish();
    // The parser's place of a FROM may end within a character that is none of its own.
    if let Some((_, span)) = &mut built.base {
        while span.end < source.len() && !source.is_char_boundary(span.end) {
            span.end += 1;
        }
    }
    Ok(built)
}

fn instructions<'a>(source: &str, parsed: &'a str) -> Result<(char, Vec<Instruction<'a>>), DockerfileError> {
    let failed = |error: parse_dockerfile::Error| {
        let span = span_of_line(source, error.line());
        let word = source.get(span.clone()).unwrap_or_default().to_ascii_uppercase();
        let meant = match nearest(&word, INSTRUCTIONS.split(' ')) {
            Some(name) if name != word => format!("; did you mean {name}?"),
            _ => String::new(),
        };
        DockerfileError::new(span, format!("{error:#}{meant}"))
    };
    let escape = escape_of(source);
    let all: Result<Vec<_>, _> = parse_iter(parsed).map_err(failed)?.collect();
    Ok((escape, all.map_err(failed)?))
}

/// The first word of a line, counted from 1.
fn span_of_line(source: &str, line: usize) -> Range<usize> {
    let mut start = 0;
    for text in source.split_inclusive('\n').take(line.saturating_sub(1)) {
        start += text.len();
    }
    let rest = source.get(start..).unwrap_or_default();
    let line = rest.lines().next().unwrap_or_default();
    let word = line.trim_start();
    let start = start + line.len() - word.len();
    start..start + word.split_whitespace().next().map_or(0, str::len)
}

/// The escape character: that of a `# escape=` directive among the first comments, else a backslash.
fn escape_of(source: &str) -> char {
    for line in source.lines() {
        let Some((name, value)) = line.trim().strip_prefix('#').and_then(|text| text.split_once('=')) else {
            break;
        };
        if name.trim().eq_ignore_ascii_case("escape") {
            return if value.trim() == "`" { '`' } else { '\\' };
        }
    }
    '\\'
}

/// `ENTRYPOINT []` takes a base's away, which the parser does not know: the brackets are replaced by a command that
/// [`State`] knows by the brackets in the source.
fn without_empty_lists(source: &str) -> String {
    let mut copy = String::with_capacity(source.len());
    for line in source.split_inclusive('\n') {
        let word = line.split_whitespace().next().unwrap_or_default();
        let takes_list = word.eq_ignore_ascii_case("ENTRYPOINT") || word.eq_ignore_ascii_case("CMD");
        let list: String = line.chars().filter(|c| !c.is_whitespace()).skip(word.chars().count()).collect();
        if takes_list && list == "[]" {
            copy.push_str(&line.replace('[', ":").replace(']', " "));
        } else {
            copy.push_str(line);
        }
    }
    copy
}
