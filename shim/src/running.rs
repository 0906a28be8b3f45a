//! Which exec a process of a container belongs to and what program it runs, known also when it is gone: what the network
//! wall's programs refuse is read by the container's own observer, later than it happened.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use profiles::Observation;
use sandbox::network::Denial;
use serde::{Deserialize, Serialize};

use crate::walls::replace_private;

/// Most processes of a container's own, and of each exec, whose program is remembered; the oldest are forgotten first.
const MAX_PROCESSES: usize = 1024;

/// Longest command name, which the kernel cut.
const COMMAND: usize = 15;

/// What one observer knows, and where execs' observers leave what they know: `<folder>/<exec id>/<process id>`, each with
/// the path of a program.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Running {
    folder: PathBuf,
    /// The exec whose observer this is.
    exec: Option<String>,
    /// Programs of the container's own processes, by process id as the container counts.
    own: BTreeMap<u32, String>,
    /// Whose program is known, the oldest first.
    order: VecDeque<u32>,
}

impl Running {
    /// For the observer of the container's own process, or of an exec.
    pub(crate) fn new(folder: PathBuf, exec: Option<&str>) -> Self {
        Self { folder, exec: exec.map(str::to_owned), own: BTreeMap::new(), order: VecDeque::new() }
    }

    /// Notes what a process is about to run.
    pub(crate) fn executes(&mut self, pid: u32, program: String) {
        self.order.retain(|known| *known != pid);
        self.order.push_back(pid);
        let full = self.order.len() > MAX_PROCESSES;
        let forgotten = if full { self.order.pop_front() } else { None };
        let Some(exec) = &self.exec else {
            self.own.insert(pid, program);
            forgotten.and_then(|pid| self.own.remove(&pid));
            return;
        };
        let folder = self.folder.join(exec);
        if let Err(error) = replace_private(&folder.join(pid.to_string()), program.as_bytes()) {
            // What the network wall refuses it is recorded as the container's then.
            tracing::error!(%error, "cannot note the process of an exec");
        }
        if let Some(pid) = forgotten {
            warn_unless_gone(fs::remove_file(folder.join(pid.to_string())));
        }
    }

    /// The exec that was refused something, and what is to be recorded of it.
    pub(crate) fn attribute(&self, denial: Denial) -> (Option<String>, Observation) {
        let Denial { mut observation, process } = denial;
        let Some(process) = process else {
            let Some((exec, program)) = self.known(observation.pid) else { return (None, observation) };
            let command = Path::new(&program).file_name().unwrap_or_default().as_encoded_bytes();
            if command.iter().take(COMMAND).eq(observation.program.as_bytes()) {
                observation.program = program;
            }
            return (exec, observation);
        };
        let exec = sandbox::process::lineage(process).find_map(|pid| self.exec_of(pid));
        (exec.map(|(exec, _)| exec), observation)
    }

    fn known(&self, pid: u32) -> Option<(Option<String>, String)> {
        let of_exec = self.exec_of(pid).map(|(exec, program)| (Some(exec), program));
        of_exec.or_else(|| self.own.get(&pid).map(|program| (None, program.clone())))
    }

    fn exec_of(&self, pid: u32) -> Option<(String, String)> {
        let execs = fs::read_dir(&self.folder).ok()?;
        execs.flatten().find_map(|exec| {
            let program = fs::read_to_string(exec.path().join(pid.to_string())).ok()?;
            Some((exec.file_name().to_str()?.to_owned(), program))
        })
    }
}

/// Forgets an exec that was deleted.
pub(crate) fn forget(folder: &Path, exec: &str) {
    warn_unless_gone(fs::remove_dir_all(folder.join(exec)));
}

fn warn_unless_gone(removed: std::io::Result<()>) {
    if let Err(error) = removed
        && error.kind() != ErrorKind::NotFound
    {
        tracing::warn!(%error, "cannot forget the process of an exec");
    }
}

#[cfg(test)]
mod tests {
    use profiles::plan::Wall;
    use profiles::record::Verdict;
    use tempfile::TempDir;

    use super::*;

    fn denial(pid: u32, program: &str, process: Option<u32>) -> Denial {
        let observation = Observation {
            wall: Wall::Network,
            operation: "connect".to_owned(),
            object: "10.0.0.1:80/tcp".to_owned(),
            verdict: Verdict::Denied,
            errno: None,
            pid,
            program: program.to_owned(),
        };
        Denial { observation, process }
    }

    fn who(running: &Running, denial: Denial) -> (Option<String>, String) {
        let (exec, observation) = running.attribute(denial);
        (exec, observation.program)
    }

    #[test]
    fn who_was_refused_is_known_when_it_is_gone() {
        let folder = TempDir::new().unwrap();
        let mut own = Running::new(folder.path().to_owned(), None);
        let mut exec = Running::new(folder.path().to_owned(), Some("one"));
        own.executes(7, "/usr/bin/a-name-of-more-than-15".to_owned());
        exec.executes(9, "/bin/nc".to_owned());
        let some = |exec: &str, program: &str| (Some(exec.to_owned()), program.to_owned());
        let none = |program: &str| (None, program.to_owned());
        assert_eq!(who(&own, denial(7, "a-name-of-more-", None)), none("/usr/bin/a-name-of-more-than-15"));
        assert_eq!(who(&own, denial(9, "nc", None)), some("one", "/bin/nc"));
        assert_eq!(who(&own, denial(9, "renamed", None)), some("one", "renamed"));
        assert_eq!(who(&own, denial(8, "sh", None)), none("sh"), "it only forked");
        forget(folder.path(), "one");
        assert_eq!(who(&own, denial(9, "nc", None)), none("nc"));
    }

    #[test]
    fn a_child_of_an_exec_s_process_belongs_to_the_exec() {
        let folder = TempDir::new().unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let own = Running::new(folder.path().to_owned(), None);
        assert_eq!(who(&own, denial(1, "/bin/sleep", Some(child.id()))), (None, "/bin/sleep".to_owned()));
        Running::new(folder.path().to_owned(), Some("one"))
            .executes(std::process::id(), "/bin/test".to_owned());
        let found = who(&own, denial(1, "/bin/sleep", Some(child.id())));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found, (Some("one".to_owned()), "/bin/sleep".to_owned()));
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let folder = TempDir::new().unwrap();
        for exec in [None, Some("one")] {
            let mut running = Running::new(folder.path().to_owned(), exec);
            for pid in 1..=MAX_PROCESSES as u32 + 1 {
                running.executes(pid, "/bin/x".to_owned());
            }
            let last = MAX_PROCESSES as u32 + 1;
            assert_eq!(who(&running, denial(last, "x", None)).1, "/bin/x");
            assert_eq!(who(&running, denial(1, "x", None)), (None, "x".to_owned()));
        }
        assert_eq!(fs::read_dir(folder.path().join("one")).unwrap().count(), MAX_PROCESSES);
    }
}
