//! A node that the tests of one file share, and what becomes of them where there is none.

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use libtest_mimic::Trial;

use crate::node::{Containerd, Node};
use crate::{suite, under_test};

/// A node, or why there is none.
#[derive(Debug, Clone)]
pub enum Shared {
    /// It runs; one test at a time has it.
    Node(Arc<Mutex<Node>>),
    /// What it takes cannot be had here: its tests are left out, and named in the summary.
    NotHere(String),
    /// It should run and does not: its tests fail.
    Broken(String),
}

impl Shared {
    /// Provides a containerd and starts a node with it.
    pub fn start(containerd: Containerd, prepare: impl FnOnce(Containerd) -> Result<Node>) -> Self {
        match containerd.provide().map(|()| prepare(containerd)) {
            Err(error) => Self::NotHere(format!("{error:#}")),
            Ok(Err(error)) => Self::Broken(format!("{error:#}")),
            Ok(Ok(node)) => Self::Node(Arc::new(Mutex::new(node))),
        }
    }

    /// Runs the `trials` of each containerd on a node of its own.
    pub fn conclude(
        prepare: impl Fn(Containerd) -> Result<Node>,
        trials: impl Fn(Containerd, &Self) -> Vec<Trial>,
    ) -> ExitCode {
        let nodes = Containerd::ALL.map(|containerd| (containerd, Self::start(containerd, &prepare)));
        let trials = nodes.iter().flat_map(|(containerd, node)| trials(*containerd, node)).collect();
        let code = suite::conclude(trials);
        drop(nodes);
        code
    }

    /// The same node for tests of the shim, which fail where it was not built.
    #[must_use]
    pub fn with_shim(&self) -> Self {
        match (self, under_test::binary(under_test::SHIM)) {
            (Self::Node(_), Err(error)) => Self::Broken(format!("{error:#}")),
            (shared, _) => shared.clone(),
        }
    }

    /// A test on the node.
    pub fn trial(&self, name: String, test: impl FnOnce(&mut Node) -> Result<()> + Send + 'static) -> Trial {
        match self.clone() {
            Self::NotHere(why) => suite::missing(name, &why),
            Self::Broken(why) => suite::trial(name, move || Err(anyhow::anyhow!(why))),
            Self::Node(node) => {
                suite::trial(name, move || test(&mut node.lock().unwrap_or_else(PoisonError::into_inner)))
            }
        }
    }
}
