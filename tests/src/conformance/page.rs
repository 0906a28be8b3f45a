//! What docs/conformance.md says is to be expected: the page is the list, so that it cannot drift.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};

use super::Outcome;
use crate::node::Containerd;

/// The heading of what is another where containerd is the older one.
const OLDER: &str = "Containerd 1.6";

/// Specs by name, each with its reason.
type Rows = BTreeMap<String, String>;

/// The page's tables.
#[derive(Debug, PartialEq, Eq)]
pub struct Expected {
    /// Specs that are skipped with every handler.
    skipped: Rows,
    /// Specs that fail or are skipped with every handler where containerd is 1.6.
    older: Rows,
    /// Specs that fail by design, by handler.
    refused: BTreeMap<String, Rows>,
}

impl Expected {
    /// Reads the tables of the page: one beneath the heading `Skipped`, one beneath `Containerd 1.6`, one beneath each heading of
    /// the form ``Class `NAME` ``.
    ///
    /// # Errors
    /// When the page has none of specs that are skipped, or names a spec twice.
    pub fn parse(page: &str) -> Result<Self> {
        let mut expected = Self { skipped: Rows::new(), older: Rows::new(), refused: BTreeMap::new() };
        let mut heading = "";
        let mut all = BTreeSet::new();
        for line in page.lines() {
            if let Some(found) = line.strip_prefix("## ") {
                heading = found.trim();
            }
            let Some((spec, why)) = row(line) else { continue };
            let class = heading.strip_prefix("Class `").and_then(|rest| rest.strip_suffix('`'));
            let rows = match class {
                Some(class) => expected.refused.entry(class.to_owned()).or_default(),
                None if heading == "Skipped" => &mut expected.skipped,
                None if heading == OLDER => &mut expected.older,
                None => continue,
            };
            ensure!(all.insert((heading, spec)), "{heading}: {spec} is there twice");
            rows.insert(spec.to_owned(), why.to_owned());
        }
        ensure!(!expected.skipped.is_empty(), "the page has no table beneath `## Skipped`");
        Ok(expected)
    }

    /// Every difference between what the page expects with `containerd` and `handler`, and what came out; one line each.
    #[must_use]
    pub fn differences(
        &self,
        containerd: Containerd,
        handler: &str,
        found: &BTreeMap<String, Outcome>,
    ) -> Vec<String> {
        let none = Rows::new();
        let refused = self.refused.get(handler).unwrap_or(&none);
        let older = if containerd == Containerd::Debian { &self.older } else { &none };
        let mut lines = Vec::new();
        for (spec, outcome) in found {
            let (skipped, refused) = (self.skipped.contains_key(spec), refused.contains_key(spec));
            let older = older.contains_key(spec);
            match outcome {
                Outcome::Passed if refused || older => {
                    lines.push(format!("passed, and the page says that it does not: {spec}"));
                }
                Outcome::Failed(why) if !refused && !older => lines.push(format!("failed: {spec}: {why}")),
                Outcome::Skipped(why) if !skipped && !older => lines.push(format!("skipped: {spec}: {why}")),
                Outcome::Passed | Outcome::Failed(_) | Outcome::Skipped(_) => {}
            }
        }
        let gone = |spec: &&String| !found.contains_key(*spec);
        let unknown = self.skipped.keys().chain(older.keys()).chain(refused.keys()).filter(gone);
        lines.extend(unknown.map(|spec| format!("critest has no such spec as the page names: {spec}")));
        lines
    }
}

/// Both cells of a table's row; not those of its head.
fn row(line: &str) -> Option<(&str, &str)> {
    let (spec, why) = line.strip_prefix("| ")?.strip_suffix(" |")?.split_once(" | ")?;
    (spec != "spec").then_some((spec, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# x\n## Skipped\n| spec | why |\n|---|---|\n| A / a | no AppArmor |\n\n\
                        ## Class `keep`\n| spec | why |\n|---|---|\n| B / b | refused |\n\
                        ## Containerd 1.6\n| spec | why |\n|---|---|\n| E | no such field |\n## Other\n| C | c |\n";

    fn found(outcomes: &[(&str, Outcome)]) -> BTreeMap<String, Outcome> {
        outcomes.iter().map(|(spec, outcome)| ((*spec).to_owned(), outcome.clone())).collect()
    }

    fn failed() -> Outcome {
        Outcome::Failed("why".to_owned())
    }

    fn skipped() -> Outcome {
        Outcome::Skipped("why".to_owned())
    }

    #[test]
    fn what_the_page_names_may_differ_and_nothing_else() {
        let page = Expected::parse(PAGE).expect("a page");
        let as_said = found(&[("A / a", skipped()), ("B / b", failed()), ("D", Outcome::Passed)]);
        assert!(page.differences(Containerd::Built, "keep", &as_said).is_empty());
        assert_eq!(
            page.differences(Containerd::Built, "runc", &as_said).len(),
            1,
            "B / b is refused by keep alone"
        );
        let other = found(&[("A / a", failed()), ("B / b", skipped()), ("D", failed())]);
        assert_eq!(page.differences(Containerd::Built, "keep", &other).len(), 3);
    }

    #[test]
    fn a_spec_that_passes_or_is_gone_though_the_page_names_it_is_a_difference() {
        let page = Expected::parse(PAGE).expect("a page");
        let better = found(&[("A / a", Outcome::Passed), ("B / b", Outcome::Passed)]);
        let lines = page.differences(Containerd::Built, "keep", &better);
        assert!(lines.len() == 1 && lines[0].contains("B / b"), "{lines:?}");
        assert_eq!(page.differences(Containerd::Built, "keep", &found(&[("A / a", skipped())])).len(), 1);
    }

    #[test]
    fn the_older_containerd_has_a_table_of_its_own() {
        let page = Expected::parse(PAGE).expect("a page");
        let all = |e| found(&[("A / a", skipped()), ("B / b", failed()), ("E", e)]);
        assert!(page.differences(Containerd::Debian, "keep", &all(failed())).is_empty());
        assert!(page.differences(Containerd::Debian, "keep", &all(skipped())).is_empty());
        assert_eq!(page.differences(Containerd::Debian, "keep", &all(Outcome::Passed)).len(), 1);
        assert_eq!(page.differences(Containerd::Built, "keep", &all(failed())).len(), 1);
    }

    #[test]
    fn a_page_without_its_table_or_with_a_spec_twice_is_refused() {
        assert!(Expected::parse("# x\n").is_err());
        assert!(Expected::parse(&PAGE.replace("\n\n", "\n| A / a | again |\n\n")).is_err());
    }
}
