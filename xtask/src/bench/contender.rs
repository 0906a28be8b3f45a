//! Runtimes that are measured side by side.

use ::tests::command::Output;
use ::tests::handler::Handler;
use ::tests::node::Node;
use ::tests::under_test;
use anyhow::{Context as _, Result};

/// A runtime, with the options by which `ctr run` uses it.
#[derive(Debug)]
pub(super) struct Contender {
    pub(super) name: &'static str,
    pub(super) flags: Vec<String>,
}

impl Contender {
    /// Keep, class `keep`.
    pub(super) fn keep() -> Self {
        Self { name: "keep", flags: vec!["--runtime".to_owned(), under_test::RUNTIME.to_owned()] }
    }

    /// Keep with a policy of its own.
    pub(super) fn with_policy(name: &'static str, node: &Node, spec: &str) -> Result<Self> {
        let handler = Handler::new(node, name)?;
        handler.policy(name, spec)?;
        Ok(Self { name, flags: handler.flags() })
    }

    /// containerd's own shim with runc, and no seccomp profile.
    pub(super) fn runc() -> Self {
        let flags = ["--runtime", "io.containerd.runc.v2"];
        Self { name: "shim-runc-v2 + runc", flags: flags.map(str::to_owned).into() }
    }

    /// The same with containerd's seccomp profile, as Kubernetes' RuntimeDefault.
    pub(super) fn runc_default() -> Self {
        let mut runc = Self::runc();
        runc.flags.push("--seccomp".to_owned());
        runc
    }

    /// containerd's own shim with crun.
    pub(super) fn crun() -> Self {
        let flags = ["--runtime", "io.containerd.runc.v2", "--runc-binary", "crun"];
        Self { name: "shim-runc-v2 + crun", flags: flags.map(str::to_owned).into() }
    }

    /// Keep with another class.
    pub(super) fn of_class(class: &'static str, node: &Node) -> Result<Self> {
        let handler = Handler::new(node, class)?;
        handler.class(class)?;
        Ok(Self { name: class, flags: handler.flags() })
    }

    /// `ctr run` with `flags` besides, which must succeed.
    pub(super) fn run(
        &self,
        node: &Node,
        flags: &[&str],
        image: &str,
        id: &str,
        command: &[&str],
    ) -> Result<Output> {
        let words = self.words(&["run"], &[flags, &[image, id], command].concat());
        node.ctr(&words)?.success().with_context(|| format!("{} does not run", self.name))
    }

    /// Makes a container without a task.
    pub(super) fn make(&self, node: &Node, image: &str, id: &str) -> Result<()> {
        let words = self.words(&["containers", "create"], &[image, id]);
        node.ctr(&words)?.success().map(drop).with_context(|| format!("{} has no container", self.name))
    }

    /// The number that a command prints in a container in the node's network, which is removed afterwards.
    pub(super) fn number(&self, node: &Node, image: &str, id: &str, command: &[&str]) -> Result<f64> {
        self.number_with(node, &[], image, id, command)
    }

    /// The same with `flags` for `ctr run` besides.
    pub(super) fn number_with(
        &self,
        node: &Node,
        flags: &[&str],
        image: &str,
        id: &str,
        command: &[&str],
    ) -> Result<f64> {
        let output = self.run(node, &[&["--rm", "--net-host"], flags].concat(), image, id, command)?;
        output.text().parse().with_context(|| format!("{output}"))
    }

    /// A command line with the contender's own options in its midst.
    fn words<'a>(&'a self, before: &[&'a str], after: &[&'a str]) -> Vec<&'a str> {
        let own = self.flags.iter().map(String::as_str);
        before.iter().copied().chain(own).chain(after.iter().copied()).collect()
    }

    /// Wall nanoseconds of one `ctr run --rm`, taken inside the node, without the cost of entering it.
    pub(super) fn time(&self, node: &Node, image: &str, id: &str, command: &[&str]) -> Result<f64> {
        let words = self.words(&["run", "--rm"], &[&[image, id], command].concat());
        nanoseconds(node, &words).with_context(|| format!("{} does not run", self.name))
    }
}

/// Wall nanoseconds of one `ctr`, which must succeed, taken inside the node, without the cost of entering it.
pub(super) fn nanoseconds(node: &Node, words: &[&str]) -> Result<f64> {
    let probe = under_test::binary("keep-probe")?;
    let output = node.run(&probe.to_string_lossy(), &[&["time", "1", "ctr"], words].concat())?.success()?;
    output.text().parse().with_context(|| format!("{output}"))
}

/// Measures each of `count` contenders, given by number, once a round in turn; gives their medians. The first round fills
/// caches, and does not count.
pub(super) fn medians(
    rounds: usize,
    count: usize,
    mut measure: impl FnMut(usize, usize) -> Result<f64>,
) -> Result<Vec<f64>> {
    let mut measured = vec![Vec::with_capacity(rounds); count];
    for round in 0..=rounds {
        for (contender, values) in measured.iter_mut().enumerate() {
            let value = measure(contender, round)?;
            if round > 0 {
                values.push(value);
            }
        }
    }
    Ok(measured.into_iter().map(median).collect())
}

/// The middle value.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_round_does_not_count_and_contenders_take_turns() {
        let mut turns = Vec::new();
        let found = medians(3, 2, |contender, round| {
            turns.push((round, contender));
            let values = [[100.0, 1.0, 9.0, 2.0], [0.0, 5.0, 4.0, 6.0]];
            Ok(values[contender][round])
        });
        assert_eq!(found.unwrap(), [2.0, 5.0]);
        assert_eq!(turns, [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1)]);
    }
}
