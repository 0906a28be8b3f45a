//! critest, the conformance tests of the Kubernetes runtime interface, against a containerd of a node's own.

mod benchmark;
mod images;
mod page;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::command::run;
use crate::node::{Containerd, Node, Options, leaks};
use crate::provision::{self, patiently};
use crate::registry::Registry;
use crate::{cache, cluster};

pub use benchmark::{Amount, Times};
pub use page::Expected;

/// Longest that critest may take with one handler.
const PATIENCE: Duration = Duration::from_secs(900);
/// Where containerd puts the cgroups of containers whose pod names none.
const CGROUP: &str = "k8s.io";
/// It names an image by a digest that only its maker can make.
const LEFT_OUT: &str = "public image with digest";

/// What came of one spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It passed.
    Passed,
    /// It failed, and why.
    Failed(String),
    /// It was not run, and why.
    Skipped(String),
}

/// One handler's run.
#[derive(Debug)]
pub struct Report {
    /// What came of each spec, by its name.
    pub outcomes: BTreeMap<String, Outcome>,
    /// How long it took.
    pub took: Duration,
}

/// Installs and builds what it needs.
///
/// # Errors
/// When something cannot be had; says what.
pub fn provide(containerd: Containerd) -> Result<()> {
    provision::debian(provision::PACKAGES)?;
    provision::debian(provision::KUBERNETES_PACKAGES)?;
    containerd.provide()?;
    provision::critest()
}

/// A containerd that serves the Kubernetes runtime interface, and a registry with critest's images. Dropping it ends both.
#[derive(Debug)]
pub struct Site {
    // In the order in which they are dropped: the registry serves in the node's network.
    _registry: Registry,
    /// The node.
    pub node: Node,
    _cgroups: Cgroups,
}

/// The cgroups that containerd makes outside of the node's own; dropping it removes them.
#[derive(Debug)]
struct Cgroups;

impl Drop for Cgroups {
    fn drop(&mut self) {
        leaks::remove_cgroups(CGROUP);
    }
}

impl Site {
    /// Brings it up, with the binaries in `path` in front of containerd's PATH.
    ///
    /// # Errors
    /// When a part does not come up.
    pub fn start(containerd: Containerd, path: PathBuf) -> Result<Self> {
        let shelf = images::shelf()?;
        let options = Options { containerd, path: Some(path), unified: true, stay: false, kubernetes: true };
        let node = Node::start(options)?;
        cache::open_folder(&node.folder.join("cni"))?;
        fs::write(node.folder.join("cni/10-node.conflist"), cluster::CNI)
            .context("cannot write the network")?;
        let registry = Registry::start(&node, shelf)?;
        node.import(&cluster::pause()?, cluster::PAUSE)?;
        Ok(Self { _registry: registry, node, _cgroups: Cgroups })
    }

    /// critest with one runtime handler, to be run in the node, whose own PATH need not have it.
    fn critest(&self, handler: &str) -> Result<Command> {
        let mut critest = self.node.command(&provision::binaries()?.join("critest").to_string_lossy());
        let endpoint = format!("unix://{}", self.node.socket().display());
        critest.args(["-runtime-endpoint", &endpoint, "-runtime-handler", handler, "-ginkgo.no-color"]);
        Ok(critest)
    }

    /// Runs critest with one runtime handler. That specs fail is no error.
    ///
    /// # Errors
    /// When critest cannot be run, or leaves no report.
    pub fn run(&self, handler: &str) -> Result<Report> {
        let path = self.node.folder.join(format!("state/critest-{handler}.json"));
        let mut critest = self.critest(handler)?;
        critest.args(["-ginkgo.skip", LEFT_OUT, "-ginkgo.json-report"]).arg(&path);
        let output = patiently(&format!("critest with handler {handler}"), || run(&mut critest, PATIENCE))?;
        let text = fs::read_to_string(&path).with_context(|| format!("critest left no report: {output}"))?;
        report(&text).with_context(|| format!("critest's report is none: {output}"))
    }
}

/// Ginkgo's report, as far as it is used.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Suite {
    run_time: u64,
    #[serde(default)]
    spec_reports: Vec<Spec>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spec {
    leaf_node_type: String,
    container_hierarchy_texts: Option<Vec<String>>,
    leaf_node_text: String,
    state: String,
    failure: Option<Failure>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    #[serde(default)]
    message: String,
}

fn report(text: &str) -> Result<Report> {
    let mut suites: Vec<Suite> = serde_json::from_str(text)?;
    let suite = suites.pop().context("no suite")?;
    let specs = suite.spec_reports.into_iter().filter(|spec| spec.leaf_node_type == "It");
    let outcomes = specs.map(|spec| {
        let why = spec.failure.map(|failure| failure.message).unwrap_or_default();
        let why = why.split_whitespace().collect::<Vec<_>>().join(" ");
        let why = why.chars().take(400).collect::<String>();
        let outcome = match spec.state.as_str() {
            "passed" => Outcome::Passed,
            "skipped" | "pending" => Outcome::Skipped(why),
            _ => Outcome::Failed(why),
        };
        let mut words = spec.container_hierarchy_texts.unwrap_or_default();
        words.push(spec.leaf_node_text);
        let name = words.join(" / ");
        (name.trim_start_matches("[k8s.io] ").to_owned(), outcome)
    });
    Ok(Report { outcomes: outcomes.collect(), took: Duration::from_nanos(suite.run_time) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_names_each_spec_and_what_came_of_it() {
        let text = r#"[{"RunTime":2000000000,"SpecReports":[
            {"LeafNodeType":"BeforeSuite","LeafNodeText":"","State":"passed"},
            {"LeafNodeType":"It","ContainerHierarchyTexts":["[k8s.io] A","b"],"LeafNodeText":"c","State":"passed"},
            {"LeafNodeType":"It","ContainerHierarchyTexts":null,"LeafNodeText":"d","State":"panicked",
             "Failure":{"Message":"too\n  bad"}},
            {"LeafNodeType":"It","LeafNodeText":"e","State":"skipped","Failure":{"Message":""}}]}]"#;
        let report = report(text).expect("a report");
        assert_eq!(report.took, Duration::from_secs(2));
        let expected = [
            ("A / b / c", Outcome::Passed),
            ("d", Outcome::Failed("too bad".to_owned())),
            ("e", Outcome::Skipped(String::new())),
        ];
        let expected = expected.map(|(name, outcome)| (name.to_owned(), outcome));
        assert_eq!(report.outcomes, BTreeMap::from(expected));
        assert!(super::report("[]").is_err());
    }
}
