//! Reports as compilers print them.

use std::io::{self, Write};

use profiles::lint::Severity;

use super::Counts;
use super::report::{Located, Report};
use crate::words::printable;

/// So many characters of a line are shown.
const WIDTH: usize = 100;

/// Prints reports for people.
///
/// # Errors
/// When `out` is closed.
pub(crate) fn write(out: &mut impl Write, reports: &[Report], colours: bool) -> io::Result<()> {
    for report in reports {
        for located in &report.findings {
            finding(out, &report.file, located, colours)?;
        }
    }
    for report in reports {
        writeln!(out, "{}: {}", printable(&report.file), summary(Counts::of([report])))?;
    }
    Ok(())
}

fn summary(counts: Counts) -> String {
    let count = |number: usize, name: &str| match number {
        0 => None,
        1 => Some(format!("1 {name}")),
        _ => Some(format!("{number} {name}s")),
    };
    let parts =
        [count(counts.errors, "error"), count(counts.warnings, "warning"), count(counts.notes, "note")];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "nothing to mend".to_owned() } else { parts.join(", ") }
}

fn finding(out: &mut impl Write, file: &str, located: &Located, colours: bool) -> io::Result<()> {
    let paint = |code: &str, text: &str| {
        if colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    };
    let finding = &located.finding;
    let colour = match finding.severity {
        Severity::Error => "1;31",
        Severity::Warning => "1;33",
        Severity::Note => "1;36",
    };
    let place = match located.region {
        Some(region) => format!("{}:{}:{}", printable(file), region.line, region.column),
        None => printable(file),
    };
    let kind = format!("{}[{}]", finding.severity.as_str(), finding.rule.id);
    writeln!(
        out,
        "{}: {}: {}",
        paint("1", &place),
        paint(colour, &kind),
        paint("1", &printable(&finding.message))
    )?;
    if let Some((line, marked)) = &located.excerpt {
        let number = located.region.map_or(String::new(), |region| region.line.to_string());
        let (shown, before, length) = window(line, marked.start, marked.end);
        let marks = "^".repeat(length.max(1));
        writeln!(out, "{number:>5} | {shown}")?;
        writeln!(out, "      | {}{}", " ".repeat(before), paint(colour, &marks))?;
    }
    writeln!(out, "      {} {}", paint("1", "help:"), printable(&finding.help))
}

/// A line's part around what is marked, safe to show, with the place and length of the mark in it.
fn window(line: &str, start: usize, end: usize) -> (String, usize, usize) {
    let chars: Vec<char> = line.chars().map(|c| if c == '\t' { ' ' } else { c }).collect();
    let start = start.min(chars.len());
    let end = end.clamp(start, chars.len());
    let from = if end <= WIDTH { 0 } else { start.saturating_sub(WIDTH / 4) };
    let to = chars.len().min(from + WIDTH);
    let safe = |part: &[char]| printable(&part.iter().collect::<String>());
    let (left, right) = (if from > 0 { "…" } else { "" }, if to < chars.len() { "…" } else { "" });
    let head = safe(&chars[from..start]);
    let mark = safe(&chars[start..end.min(to)]);
    let tail = safe(&chars[end.min(to)..to]);
    let before = left.chars().count() + head.chars().count();
    (format!("{left}{head}{mark}{tail}{right}"), before, mark.chars().count())
}
