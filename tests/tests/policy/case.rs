//! What containers do under one handler's policies.

use std::cell::Cell;
use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::command::Output;
use tests::handler::Handler;
use tests::image::Image;
use tests::node::Node;

/// Error numbers with which a wall refuses.
const REFUSED: [&str; 3] = ["EACCES", "EPERM", "EROFS"];

/// A handler of its own.
pub(crate) struct Case<'a> {
    pub(crate) node: &'a Node,
    pub(crate) handler: Handler,
    name: &'static str,
    count: Cell<u32>,
}

/// A container that has ended.
pub(crate) struct Ended<'a> {
    case: &'a Case<'a>,
    id: String,
    /// What `ctr run` said.
    pub(crate) output: Output,
}

impl<'a> Case<'a> {
    /// A handler of class `keep`, without a policy.
    pub(crate) fn new(node: &'a Node, name: &'static str) -> Result<Self> {
        Ok(Self { node, handler: Handler::new(node, name)?, name, count: Cell::new(0) })
    }

    /// Imports an image; gives the reference.
    pub(crate) fn image(&self, image: &Image) -> Result<String> {
        let reference = format!("keep.test/policy-{}:1", self.name);
        self.node.import(image, &reference)?;
        Ok(reference)
    }

    /// `ctr run` with this handler.
    pub(crate) fn ctr(&self, id: &str, flags: &[&str], image: &str, words: &[&str]) -> Result<Output> {
        let configuration = self.handler.flags();
        let mut line = vec!["run"];
        line.extend(configuration.iter().map(String::as_str));
        line.extend(["--net-host"].iter().chain(flags).chain(&[image, id]).chain(words));
        self.node.ctr(&line)
    }

    /// Runs a container to its end.
    pub(crate) fn run(&'a self, image: &str, words: &[&str]) -> Result<Ended<'a>> {
        self.count.set(self.count.get() + 1);
        let id = format!("policy-{}-{}", self.name, self.count.get());
        let output = self.ctr(&id, &["--rm"], image, words)?;
        if !output.status.success() {
            // A container that did not start is left to who made it.
            self.node.remove(&id)?;
        }
        Ok(Ended { case: self, id, output })
    }

    /// Has the image's own program try something: what comes of each move, by its name.
    pub(crate) fn tries(&'a self, image: &str, moves: &[&str]) -> Result<(Ended<'a>, Outcomes)> {
        let words: Vec<&str> = ["/bin/keep-probe", "many"].iter().chain(moves).copied().collect();
        let ended = self.run(image, &words)?;
        let output = ended.output.clone().success()?;
        let lines = output.stdout.lines().filter_map(|line| line.rsplit_once(": "));
        let outcomes: BTreeMap<String, String> =
            lines.map(|(what, said)| (what.to_owned(), said.to_owned())).collect();
        ensure!(outcomes.len() == moves.len(), "not every move has an outcome: {output}");
        Ok((ended, Outcomes(outcomes)))
    }

    /// Makes sure that a container does not start, and that the message has each of `parts`.
    pub(crate) fn refuses(&'a self, image: &str, words: &[&str], parts: &[&str]) -> Result<Ended<'a>> {
        let ended = self.run(image, words)?;
        ensure!(!ended.output.status.success(), "it started: {}", ended.output);
        for part in parts {
            ensure!(ended.output.stderr.contains(part), "{part:?} is not in: {}", ended.output);
        }
        Ok(ended)
    }

    /// Records of a container.
    pub(crate) fn records(&self, id: &str) -> Result<Vec<Value>> {
        self.node.records_in(&self.handler.spool(), id)
    }
}

impl Ended<'_> {
    /// Makes sure that there is a record of this operation whose object and `because` have these parts.
    pub(crate) fn recorded(&self, operation: &str, object: &str, because: &str) -> Result<Value> {
        let has = |record: &Value, key: &str, part: &str| record[key].as_str().unwrap_or("").contains(part);
        let what = format!("a record of {operation} {object:?} because {because:?}");
        self.case.node.record_in(&self.case.handler.spool(), &self.id, &what, |record| {
            record["operation"] == operation
                && has(record, "object", object)
                && has(record, "because", because)
        })
    }

    /// Records of this wall.
    pub(crate) fn of_wall(&self, wall: &str) -> Result<Vec<Value>> {
        let records = self.case.records(&self.id)?;
        Ok(records
            .into_iter()
            .filter(|record| record["wall"] == wall && record["operation"] != "gap")
            .collect())
    }
}

/// What came of moves.
pub(crate) struct Outcomes(BTreeMap<String, String>);

impl Outcomes {
    fn of(&self, what: &str) -> Result<&str> {
        let found = self.0.get(what).map(String::as_str);
        found.with_context(|| format!("{what} was not tried"))
    }

    /// Makes sure that these worked.
    pub(crate) fn allowed(&self, moves: &[&str]) -> Result<()> {
        for what in moves {
            let said = self.of(what)?;
            ensure!(said == "ok", "{what}: {said}, expected ok");
        }
        Ok(())
    }

    /// Makes sure that a wall refused these.
    pub(crate) fn refused(&self, moves: &[&str]) -> Result<()> {
        for what in moves {
            let said = self.of(what)?;
            let errno = said.strip_prefix("denied ").unwrap_or("");
            ensure!(REFUSED.contains(&errno), "{what}: {said}, expected one of {REFUSED:?}");
        }
        Ok(())
    }
}
