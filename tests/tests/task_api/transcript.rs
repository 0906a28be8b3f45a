//! What a runtime answered, question by question, and how two runtimes' answers may differ.

use std::fmt::Debug;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use tests::node::Containerd;
use tests::task::{Answer, Event};

/// Differences that are meant: tables with these columns, the first of which names the case.
const DECISIONS: &str = "docs/task-api.md";
const COLUMNS: usize = 6;

/// In place of a case or a question: wherever the two answers are these.
const ANY: &str = "any";

/// Questions and answers, in order.
#[derive(Debug, Default)]
pub struct Transcript(Vec<(String, String)>);

impl Transcript {
    /// Notes an answer.
    pub fn note(&mut self, question: &str, answer: impl Into<String>) {
        self.0.push((question.to_owned(), answer.into()));
    }

    /// Notes what a call answered: a value, or its status code.
    pub fn call<T: Debug>(&mut self, question: &str, answer: Answer<T>) {
        let answer = match answer {
            Ok(value) => format!("ok {value:?}").replace("ok ()", "ok"),
            Err(status) => format!("{:?}", status.code()),
        };
        self.note(question, answer);
    }

    /// Notes whether a call succeeded, or its status code.
    pub fn done<T>(&mut self, question: &str, answer: Answer<T>) {
        self.call(question, answer.map(drop));
    }

    /// Notes events; `names` are the processes that the case knows.
    pub fn events(&mut self, events: &[Event], names: &[(u32, &str)]) {
        for (number, event) in events.iter().enumerate() {
            let name = names.iter().find(|(pid, _)| *pid == event.pid).map(|(_, name)| *name);
            let process = name.unwrap_or(if event.pid == 0 { "" } else { "another process" });
            let said = format!("{} {process} {}", event.topic, event.words);
            self.note(
                &format!("event {}", number + 1),
                said.split_whitespace().collect::<Vec<_>>().join(" "),
            );
        }
    }

    /// Compares Keep's answers (`self`) with runc's.
    ///
    /// # Errors
    /// When an answer differs and no decision says so, or a decision says so and none does.
    pub fn compare(&self, case: &str, containerd: Containerd, reference: &Self) -> Result<()> {
        let decisions = decisions()?;
        let version = containerd.to_string().replace("containerd ", "");
        let of_case: Vec<&Decision> = decisions
            .iter()
            .filter(|one| one.case == case || one.case == ANY)
            .filter(|one| one.containerd == "both" || one.containerd == version)
            .collect();
        ensure!(!self.0.is_empty(), "the case asks nothing");
        let mut wrong = Vec::new();
        let longest = self.0.len().max(reference.0.len());
        let none = (String::new(), "nothing".to_owned());
        for number in 0..longest {
            let (ours, theirs) =
                (self.0.get(number).unwrap_or(&none), reference.0.get(number).unwrap_or(&none));
            let question = if ours.0.is_empty() { &theirs.0 } else { &ours.0 };
            let decided = of_case.iter().filter(|one| one.question == *question || one.question == ANY);
            let same = ours.1 == theirs.1;
            let meant = decided.clone().any(|one| one.runc == theirs.1 && one.keep == ours.1);
            if same && decided.clone().any(|one| one.case != ANY) {
                wrong.push(format!(
                    "{question}: {DECISIONS} says that they differ, and both say {:?}",
                    ours.1
                ));
            } else if !same && !meant {
                wrong.push(format!("| {case} | {version} | {question} | {} | {} |", theirs.1, ours.1));
            }
        }
        for one in of_case {
            let asked = self.0.iter().chain(&reference.0).any(|(question, _)| *question == one.question);
            if !asked && one.question != ANY {
                wrong.push(format!("{}: {DECISIONS} names what nobody asks", one.question));
            }
        }
        ensure!(wrong.is_empty(), "what runc's shim says and what Keep says:\n{}", wrong.join("\n"));
        Ok(())
    }
}

/// One difference that is meant.
struct Decision {
    case: String,
    containerd: String,
    question: String,
    runc: String,
    keep: String,
}

fn decisions() -> Result<Vec<Decision>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(DECISIONS);
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let rows = text.lines().filter_map(|line| {
        let cells: Vec<&str> =
            line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ").map(str::trim).collect();
        let [case, containerd, question, runc, keep, _why] = cells.as_slice() else { return None };
        let text = |cell: &str| cell.trim_matches('`').to_owned();
        let decision = Decision {
            case: text(case),
            containerd: text(containerd),
            question: text(question),
            runc: text(runc),
            keep: text(keep),
        };
        (cells.len() == COLUMNS && decision.case != "case").then_some(decision)
    });
    Ok(rows.collect())
}
