//! The folder into which shims write their records: one JSON line each, a file for each pod.

mod tail;
mod watch;

pub(crate) use tail::{Entry, Item, Position, Tail, first_record};
pub(crate) use watch::{POLL, Watch, on_change};

use std::path::{Path, PathBuf};

/// Where everything lies that Keep stores on a node.
pub(crate) const DATA_DIR: &str = "/var/lib/keep";

/// The spool beneath a data folder.
pub(crate) fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join("spool")
}

#[cfg(test)]
pub(crate) mod tests;
