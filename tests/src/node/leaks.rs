//! What a container or a node may leave behind: processes, mounts, cgroups.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::Node;
use crate::cache;

/// A process of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// By the machine's count.
    pub pid: i32,
    /// By the node's count.
    pub inside: i32,
    /// Its command line.
    pub line: String,
    /// The file that it runs; empty where that cannot be told.
    pub program: String,
}

impl Process {
    /// Whether it belongs to the shim of container `id`: the server, or one of its children.
    fn is_shim_of(&self, id: &str) -> bool {
        self.program.contains("containerd-shim") && self.line.split(' ').any(|word| word == id)
    }
}

impl Node {
    /// Every process in the node's process namespace and those beneath it, its first one excluded.
    #[must_use]
    pub fn processes(&self) -> Vec<Process> {
        // NSpid has one number for each namespace from ours down; the second is the node's.
        let depth = |text: &str| {
            text.lines()
                .find_map(|l| l.strip_prefix("NSpid:"))
                .map(|l| l.split_whitespace().filter_map(|n| n.parse::<i32>().ok()).collect::<Vec<_>>())
        };
        let children = descendants(self.init());
        let mut all = Vec::new();
        for pid in children {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let Some(inside) = depth(&status).and_then(|numbers| numbers.get(1).copied()) else { continue };
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ").trim().to_owned();
            // A zombie has no command line; it holds nothing.
            if !line.is_empty() {
                let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
                let program = program.to_string_lossy().into_owned();
                all.push(Process { pid, inside, line, program });
            }
        }
        all
    }

    /// Processes of a container's shim.
    #[must_use]
    pub fn shims(&self, id: &str) -> Vec<Process> {
        let mut all = self.processes();
        all.retain(|process| process.is_shim_of(id));
        all
    }

    /// The node's cgroup, a path beneath each hierarchy.
    #[must_use]
    pub fn cgroup(&self) -> String {
        match self.options.kubernetes {
            true => self.folder.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            false => self.namespace.clone(),
        }
    }

    /// What there is of a container: processes that name it or run in its cgroup, mounts, cgroups.
    #[must_use]
    pub fn left_of(&self, id: &str) -> Vec<String> {
        let mut left = Vec::new();
        let own = format!("/{}/{id}", self.cgroup());
        for process in self.processes() {
            let cgroup = fs::read_to_string(format!("/proc/{}/cgroup", process.pid)).unwrap_or_default();
            if process.is_shim_of(id) || cgroup.lines().any(|line| line.ends_with(&own)) {
                left.push(format!("process {} {}", process.pid, process.line));
            }
        }
        let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", self.init())).unwrap_or_default();
        let folder = self.folder.to_string_lossy().into_owned();
        let names_it = |point: &str| point.trim_start_matches(&folder).split('/').any(|part| part == id);
        let of_it = |line: &&str| line.split(' ').nth(4).is_some_and(names_it);
        left.extend(mounts.lines().filter(of_it).map(|line| format!("mount {line}")));
        // On the v2 hierarchy beside v1 a container's cgroup is named after its namespace too.
        let colon = format!(":{id}");
        let is_its = |name: &str| name == id || name.ends_with(&colon);
        let named = |path: &Path| path.file_name().is_some_and(|name| is_its(&name.to_string_lossy()));
        for hierarchy in hierarchies() {
            let mut folders = Vec::new();
            find_folders(&hierarchy.join(self.cgroup()), 4, &mut |path| named(path), &mut folders);
            left.extend(folders.into_iter().map(|path| format!("cgroup {}", path.display())));
        }
        left
    }

    /// Waits until nothing is left of a container; gives what still is.
    #[must_use]
    pub fn wait_until_gone(&self, id: &str, limit: Duration) -> Vec<String> {
        let end = Instant::now() + limit;
        loop {
            let left = self.left_of(id);
            if left.is_empty() || Instant::now() > end {
                return left;
            }
            std::thread::sleep(Duration::from_millis(30));
        }
    }
}

fn descendants(root: i32) -> Vec<i32> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse::<i32>().ok());
        parents.extend(parent.map(|parent| (pid, parent)));
    }
    let namespace = fs::read_link(format!("/proc/{root}/ns/pid_for_children")).ok();
    let mut found = vec![root];
    // Programs that entered by nsenter have their parent outside: take every process of the same namespace too.
    found.extend(parents.iter().map(|(pid, _)| *pid).filter(|pid| {
        *pid != root && namespace.is_some() && fs::read_link(format!("/proc/{pid}/ns/pid")).ok() == namespace
    }));
    let mut at = 0;
    while let Some(parent) = found.get(at).copied() {
        let next: Vec<i32> = parents
            .iter()
            .filter(|(pid, p)| *p == parent && !found.contains(pid))
            .map(|(pid, _)| *pid)
            .collect();
        found.extend(next);
        at += 1;
    }
    found.split_off(1)
}

/// Every cgroup hierarchy of this machine.
#[must_use]
pub fn hierarchies() -> Vec<PathBuf> {
    let top = Path::new("/sys/fs/cgroup");
    if top.join("cgroup.controllers").exists() {
        return vec![top.to_path_buf()];
    }
    let mut all: Vec<PathBuf> =
        fs::read_dir(top).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    all.retain(|path| path.is_dir() && !path.is_symlink());
    all.sort();
    all
}

fn find_folders(at: &Path, depth: u32, wanted: &mut dyn FnMut(&Path) -> bool, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(at).into_iter().flatten().flatten() {
        let path = entry.path();
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if wanted(&path) {
            found.push(path);
        } else if depth > 0 {
            find_folders(&path, depth - 1, wanted, found);
        }
    }
}

/// Removes a cgroup and those beneath it; a moment's patience for processes that are just ending.
fn remove_cgroup(path: &Path) -> bool {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    (0..100).any(|_| {
        let gone = fs::remove_dir(path).is_ok() || !path.exists();
        if !gone {
            std::thread::sleep(Duration::from_millis(20));
        }
        gone
    })
}

/// Removes the cgroups of `name` in every hierarchy, as far as they are empty.
pub fn remove_cgroups(name: &str) {
    for path in hierarchies().into_iter().map(|hierarchy| hierarchy.join(name)).filter(|path| path.exists()) {
        if !remove_cgroup(&path) {
            eprintln!("left behind: cgroup {}", path.display());
        }
    }
}

/// Removes a node's cgroups and folder; gives what could not be removed.
pub(super) fn clean(folder: &Path, cgroup: &str) -> Vec<String> {
    let mut left = Vec::new();
    for path in hierarchies().into_iter().map(|hierarchy| hierarchy.join(cgroup)).filter(|path| path.exists())
    {
        if !remove_cgroup(&path) {
            left.push(format!("cgroup {}", path.display()));
        }
    }
    if let Err(error) = fs::remove_dir_all(folder) {
        left.push(format!("folder {}: {error}", folder.display()));
    }
    left
}

/// Removes what nodes left whose process was killed before it could clean.
pub(super) fn sweep() -> Result<()> {
    let nodes = cache::subfolder("nodes")?;
    for entry in fs::read_dir(&nodes).context("cannot read the folder of nodes")?.flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        let maker = name.split('-').nth(1).and_then(|pid| pid.parse::<u32>().ok());
        let init = fs::read_to_string(path.join("state/init.pid"))
            .ok()
            .and_then(|text| text.trim().parse::<u32>().ok());
        let alive = |pid: Option<u32>| pid.is_some_and(|pid| Path::new(&format!("/proc/{pid}")).exists());
        let ours = fs::read(format!("/proc/{}/cmdline", init.unwrap_or(0)))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&name));
        if !alive(maker) && !ours {
            for left in clean(&path, &name) {
                eprintln!("left behind by an earlier run: {left}");
            }
        }
    }
    Ok(())
}

/// What there is on this machine of every node of this project: for the demo's last check.
#[must_use]
pub fn on_machine() -> Vec<String> {
    let Ok(nodes) = cache::folder().map(|path| path.join("nodes")) else { return Vec::new() };
    let nodes = nodes.to_string_lossy().into_owned();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut left: Vec<String> =
        mounts.lines().filter(|line| line.contains(&nodes)).map(|line| format!("mount {line}")).collect();
    for hierarchy in hierarchies() {
        let mut found = Vec::new();
        let mine = format!("keep-{}-", std::process::id());
        find_folders(
            &hierarchy,
            2,
            &mut |path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&mine)),
            &mut found,
        );
        left.extend(found.into_iter().map(|path| format!("cgroup {}", path.display())));
    }
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(&format!("{nodes}/keep-{}-", std::process::id())) {
            left.push(format!("process {}", line.trim()));
        }
    }
    left
}
