//! Everything that is there in a node at one moment, to be compared with another moment.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::node::{Node, leaks};

/// Processes, mounts, cgroups, sockets, bundles and the shim's own files of a node. Two are equal when there is as much of
/// each: process ids do not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Census(BTreeMap<String, usize>);

impl Census {
    /// What is there now.
    #[must_use]
    pub fn take(node: &Node) -> Self {
        let mut found = Vec::new();
        // What enters the node to ask it something is none of its own.
        let visits = |line: &str| line.starts_with("ctr ") || line.starts_with("strace ");
        let processes = node.processes().into_iter().filter(|process| !visits(&process.line));
        // An observer goes on as another program in a while, and is the same one.
        let name = |line: String| match line.strip_suffix(" observe") {
            Some(shim) => format!("process {shim} serve"),
            None => format!("process {line}"),
        };
        found.extend(processes.map(|process| name(process.line)));
        found.extend(mount_points(node).into_iter().map(|point| format!("mount {point}")));
        for hierarchy in leaks::hierarchies() {
            walk(&hierarchy.join(node.cgroup()), "cgroup", &|path| path.is_dir(), &mut found);
        }
        let root = PathBuf::from(format!("/proc/{}/root", node.init()));
        walk(&root.join("run/keep"), "state", &|_| true, &mut found);
        walk(&root.join("run/containerd/s"), "socket", &|_| true, &mut found);
        // Containers that ctr was told of: containerd's own list of tasks, one bundle each.
        for version in ["runtime.v2.task", "runtime-v2.task"] {
            let tasks = node.folder.join("ctd/state/io.containerd.").to_string_lossy().into_owned() + version;
            let bundles = Path::new(&tasks).join(&node.namespace);
            found.extend(names(&bundles).into_iter().map(|name| format!("bundle {name}")));
        }
        let mut all = BTreeMap::new();
        for line in found {
            *all.entry(line).or_default() += 1;
        }
        Self(all)
    }

    /// Waits until there is again what there was, at most `limit`; gives what is there beside it (`+`) or is missing (`-`).
    #[must_use]
    pub fn wait_until_back(&self, node: &Node, limit: Duration) -> Vec<String> {
        let end = Instant::now() + limit;
        loop {
            let changed = self.changed(&Self::take(node));
            if changed.is_empty() || Instant::now() > end {
                return changed;
            }
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    fn changed(&self, now: &Self) -> Vec<String> {
        let count = |of: &Self, line: &String| of.0.get(line).copied().unwrap_or(0);
        let new =
            now.0.keys().filter(|line| count(now, line) > count(self, line)).map(|line| format!("+ {line}"));
        let gone =
            self.0.keys().filter(|line| count(now, line) < count(self, line)).map(|line| format!("- {line}"));
        new.chain(gone).collect()
    }
}

fn mount_points(node: &Node) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{}/mountinfo", node.init())).unwrap_or_default();
    text.lines().filter_map(|line| line.split(' ').nth(4)).map(str::to_owned).collect()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Every path beneath a folder of which `wanted` is true.
fn walk(folder: &Path, what: &str, wanted: &dyn Fn(&Path) -> bool, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if wanted(&path) {
            found.push(format!("{what} {}", path.display()));
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&path, what, wanted, found);
        }
    }
}
