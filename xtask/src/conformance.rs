//! `cargo xtask conformance`: critest under Keep, against what docs/conformance.md says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde_json::{Value, json};
use tests::conformance::{self, Expected, Outcome, Report, Site};
use tests::node::Containerd;
use tests::node::leaks;
use tests::provision::say;

/// What to run.
#[derive(Debug, Args)]
pub(crate) struct Conformance {
    /// Only with this runtime handler; may be given several times [default: runc, keep and keep-permissive]
    #[arg(long, value_name = "HANDLER", value_parser = HANDLERS)]
    handler: Vec<String>,
    /// Which containerd
    #[arg(long, value_name = "VERSION", default_value = "2.3")]
    containerd: Containerd,
    /// Write what came of each spec into this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// `keep-strict` is none of them: it refuses images that declare nothing, and critest's declare nothing.
const HANDLERS: [&str; 3] = ["runc", "keep", "keep-permissive"];

/// Runs critest with each handler, prints what came of it and every difference to the page.
///
/// # Errors
/// When critest cannot be run, or the outcome is another than the page says.
pub(crate) fn run(what: &Conformance) -> Result<()> {
    let page = crate::build::root().join("docs/conformance.md");
    let text = std::fs::read_to_string(&page).with_context(|| format!("cannot read {}", page.display()))?;
    let expected = Expected::parse(&text).context("docs/conformance.md")?;
    conformance::provide(what.containerd)?;
    let binaries = crate::build::run()?;
    let handlers: Vec<&str> = match what.handler.as_slice() {
        [] => HANDLERS.to_vec(),
        named => named.iter().map(String::as_str).collect(),
    };
    say(&format!("bringing up {}", what.containerd));
    let site = Site::start(what.containerd, binaries)?;
    let reports: Result<Vec<Report>> = handlers.iter().map(|handler| site.run(handler)).collect();
    drop(site);
    let reports: BTreeMap<&str, Report> = handlers.into_iter().zip(reports?).collect();
    if let Some(path) = &what.json {
        write(path, &reports)?;
    }
    let mut differ = 0;
    for (handler, report) in &reports {
        differ += print(handler, report, &expected.differences(what.containerd, handler, &report.outcomes));
    }
    let left = leaks::on_machine();
    ensure!(left.is_empty(), "left on this machine: {left:#?}");
    ensure!(differ == 0, "{differ} specs came out otherwise than docs/conformance.md says");
    Ok(())
}

/// Prints one handler's report; how many differences there are.
fn print(handler: &str, report: &Report, differences: &[String]) -> usize {
    let count = |is: fn(&Outcome) -> bool| report.outcomes.values().filter(|outcome| is(outcome)).count();
    println!(
        "{handler}: {} passed, {} failed, {} skipped, in {} s; {}",
        count(|outcome| matches!(outcome, Outcome::Passed)),
        count(|outcome| matches!(outcome, Outcome::Failed(_))),
        count(|outcome| matches!(outcome, Outcome::Skipped(_))),
        report.took.as_secs(),
        if differences.is_empty() {
            "as docs/conformance.md says"
        } else {
            "otherwise than docs/conformance.md says:"
        },
    );
    for line in differences {
        println!("  {line}");
    }
    differences.len()
}

fn write(path: &Path, reports: &BTreeMap<&str, Report>) -> Result<()> {
    let outcome = |outcome: &Outcome| match outcome {
        Outcome::Passed => json!({"outcome": "passed"}),
        Outcome::Failed(why) => json!({"outcome": "failed", "because": why}),
        Outcome::Skipped(why) => json!({"outcome": "skipped", "because": why}),
    };
    let of = |report: &Report| -> Value {
        let specs = report.outcomes.iter().map(|(spec, found)| (spec.clone(), outcome(found)));
        json!({"seconds": report.took.as_secs(), "specs": Value::Object(specs.collect())})
    };
    let all = reports.iter().map(|(handler, report)| ((*handler).to_owned(), of(report)));
    let text = serde_json::to_string_pretty(&Value::Object(all.collect())).context("cannot write JSON")?;
    std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
}
