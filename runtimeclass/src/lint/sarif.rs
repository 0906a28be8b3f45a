//! Reports in SARIF 2.1.0, which code hosts show beside the lines.
//! Source: <https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html>; the sections stand at the types.

use std::io::{self, Write};

use profiles::lint::{Place, Rule, rule};
use serde::Serialize;

use super::report::{Located, Report};

const SCHEMA: &str = "https://json.schemastore.org/sarif-2.1.0.json";
const VERSION: &str = "2.1.0";

/// Section 3.13.
#[derive(Serialize)]
struct Log<'a> {
    #[serde(rename = "$schema")]
    schema: &'static str,
    version: &'static str,
    runs: [Run<'a>; 1],
}

/// Section 3.14.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Run<'a> {
    tool: Tool,
    column_kind: &'static str,
    results: Vec<Finding<'a>>,
}

/// Section 3.18.
#[derive(Serialize)]
struct Tool {
    driver: Driver,
}

/// Section 3.19.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Driver {
    name: &'static str,
    version: &'static str,
    information_uri: &'static str,
    rules: Vec<Descriptor>,
}

/// Section 3.49.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    id: &'static str,
    short_description: Message<'static>,
    help_uri: String,
    default_configuration: Configuration,
}

/// Section 3.50.
#[derive(Serialize)]
struct Configuration {
    level: &'static str,
}

/// Section 3.11.
#[derive(Serialize)]
struct Message<'a> {
    text: std::borrow::Cow<'a, str>,
}

/// Section 3.27.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Finding<'a> {
    rule_id: &'static str,
    rule_index: usize,
    level: &'static str,
    message: Message<'a>,
    locations: [Location<'a>; 1],
}

/// Section 3.28.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Location<'a> {
    physical_location: PhysicalLocation,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    logical_locations: Vec<LogicalLocation<'a>>,
}

/// Section 3.29.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PhysicalLocation {
    artifact_location: ArtifactLocation,
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<Region>,
}

/// Section 3.4.
#[derive(Serialize)]
struct ArtifactLocation {
    uri: String,
}

/// Section 3.30; the end is exclusive.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Region {
    start_line: usize,
    start_column: usize,
    end_line: usize,
    end_column: usize,
}

/// Section 3.33.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LogicalLocation<'a> {
    fully_qualified_name: &'a str,
}

/// Prints reports as one run.
///
/// # Errors
/// When `out` is closed.
pub(crate) fn write(out: &mut impl Write, reports: &[Report]) -> io::Result<()> {
    let results = reports
        .iter()
        .flat_map(|report| report.findings.iter().map(|located| finding(&report.file, located)));
    let driver = Driver {
        name: "keep lint",
        version: env!("CARGO_PKG_VERSION"),
        information_uri: env!("CARGO_PKG_REPOSITORY"),
        rules: rule::ALL.iter().map(descriptor).collect(),
    };
    let run = Run { tool: Tool { driver }, column_kind: "unicodeCodePoints", results: results.collect() };
    let log = Log { schema: SCHEMA, version: VERSION, runs: [run] };
    serde_json::to_writer_pretty(&mut *out, &log).map_err(io::Error::from)?;
    writeln!(out)
}

fn descriptor(rule: &Rule) -> Descriptor {
    Descriptor {
        id: rule.id,
        short_description: Message { text: rule.summary.into() },
        help_uri: format!("{}/blob/main/docs/lint.md#{}", env!("CARGO_PKG_REPOSITORY"), rule.id),
        default_configuration: Configuration { level: rule.severity.as_str() },
    }
}

fn finding<'a>(file: &str, located: &'a Located) -> Finding<'a> {
    let finding = &located.finding;
    let key = match &finding.place {
        Place::Word { key, .. } | Place::Key(key) => Some(key.as_str()),
        Place::Entrypoint | Place::Cmd | Place::Exposed(_) | Place::Source(_) | Place::Image => None,
    };
    let region = located.region.map(|region| Region {
        start_line: region.line,
        start_column: region.column,
        end_line: region.end_line,
        end_column: region.end_column,
    });
    let location = Location {
        physical_location: PhysicalLocation {
            artifact_location: ArtifactLocation { uri: uri(file) },
            region,
        },
        logical_locations: key.map(|key| LogicalLocation { fully_qualified_name: key }).into_iter().collect(),
    };
    Finding {
        rule_id: finding.rule.id,
        rule_index: rule::ALL.iter().position(|rule| rule.id == finding.rule.id).unwrap_or_default(),
        level: finding.severity.as_str(),
        message: Message { text: format!("{}. To mend it: {}.", finding.message, finding.help).into() },
        locations: [location],
    }
}

/// A path as a URI reference. Source: RFC 3986, sections 2.3 and 4.2.
fn uri(path: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    let mut uri = String::new();
    for byte in path.bytes() {
        if plain(byte) {
            uri.push(char::from(byte));
        } else {
            uri.push_str(&format!("%{byte:02X}"));
        }
    }
    uri
}
