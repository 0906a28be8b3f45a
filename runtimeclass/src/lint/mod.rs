//! Linting of files: reads them, finds the places of findings in them, prints reports.

mod context;
mod input;
mod json;
mod report;
mod sarif;
#[cfg(test)]
mod tests;
mod text;

pub(crate) use input::{Options, lint, subject};
pub(crate) use report::{Counts, Report};

pub(crate) use self::json::write as write_json;
pub(crate) use self::sarif::write as write_sarif;
pub(crate) use self::text::write as write_text;
