//! A runtime handler with policies and data of its own.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::node::Node;
use crate::under_test;

/// A configuration of the shim, as a handler of containerd names it.
#[derive(Debug)]
pub struct Handler {
    folder: PathBuf,
}

impl Handler {
    /// A handler of class `keep` with an empty policy folder, beneath the node's folder.
    ///
    /// # Errors
    /// When its files cannot be written.
    pub fn new(node: &Node, name: &str) -> Result<Self> {
        let handler = Self { folder: node.folder.join("handlers").join(name) };
        std::fs::create_dir_all(handler.policies()).context("cannot make the policy folder")?;
        handler.class("keep")?;
        Ok(handler)
    }

    /// Makes it stand for another class.
    ///
    /// # Errors
    /// When its file cannot be written.
    pub fn class(&self, class: &str) -> Result<()> {
        let (policies, data) = (self.policies(), self.folder.join("data"));
        let text = format!("class = {class:?}\npolicy_dir = {policies:?}\ndata_dir = {data:?}\n");
        std::fs::write(self.configuration(), text).context("cannot write the handler's configuration")
    }

    /// Its policy folder.
    #[must_use]
    pub fn policies(&self) -> PathBuf {
        self.folder.join("policy.d")
    }

    /// Where its shims spool their records.
    #[must_use]
    pub fn spool(&self) -> PathBuf {
        self.folder.join("data/spool")
    }

    /// Writes the policy `name`, of which `spec` is given as lines of YAML, into a file of that name.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn policy(&self, name: &str, spec: &str) -> Result<()> {
        let spec: String = spec.trim().lines().map(|line| format!("  {line}\n")).collect();
        let head = "apiVersion: keep.dev/v1alpha1\nkind: RuntimePolicy";
        self.file(&format!("{name}.yaml"), &format!("{head}\nmetadata:\n  name: {name}\nspec:\n{spec}"))
    }

    /// Writes a file into the policy folder.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn file(&self, name: &str, text: &str) -> Result<()> {
        let path = self.policies().join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The options with which `ctr run` uses it.
    #[must_use]
    pub fn flags(&self) -> Vec<String> {
        let configuration = path_text(&self.configuration());
        ["--runtime", under_test::RUNTIME, "--runtime-config-path", &configuration]
            .map(str::to_owned)
            .to_vec()
    }

    fn configuration(&self) -> PathBuf {
        self.folder.join("runtime.toml")
    }
}

fn path_text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
