//! Writes records: one JSON line each, appended to the pod's spool file, repeats counted.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use profiles::labels::Notice;
use profiles::plan::Gap;
use profiles::record::{self, Allow, Observation, Record, Verdict};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use crate::identity::Identity;

/// A spool file larger than this is set aside as `.jsonl.1`, replacing the one before it, in bytes.
const MAX_SPOOL: u64 = 8 << 20;

/// Most different observations whose repeats are counted at a time; beyond it the counts are written early.
const MAX_KEYS: usize = 4096;

/// What all records of one process have in common.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    /// Whose container.
    pub(crate) identity: Identity,
    /// Image reference.
    pub(crate) image: record::Image,
    /// Class.
    pub(crate) class: String,
    /// Profile digest, where there is a profile.
    pub(crate) profile: Option<String>,
    /// Exec id, if it is not the container's own process.
    pub(crate) exec: Option<String>,
}

/// Where a pod's records go.
#[derive(Debug)]
pub(crate) struct Spool {
    path: PathBuf,
}

impl Spool {
    /// The spool file of a pod: `<data_dir>/spool/<containerd namespace>.<group>.jsonl`.
    pub(crate) fn new(data_dir: &Path, identity: &Identity) -> Self {
        Self { path: data_dir.join("spool").join(format!("{}.{}.jsonl", identity.namespace, identity.group)) }
    }

    /// Appends one record as one write, so that lines of several writers do not mix.
    ///
    /// # Errors
    /// When the folder cannot be made or the file not written.
    pub(crate) fn append(&self, record: &Record) -> io::Result<()> {
        if let Some(folder) = self.path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
        if file.metadata()?.len() + line.len() as u64 > MAX_SPOOL {
            std::fs::rename(&self.path, self.path.with_extension("jsonl.1"))?;
            file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
        }
        file.write_all(&line)
    }
}

/// Turns observations into records and writes them; repeats become one record with their exact count.
#[derive(Debug)]
pub(crate) struct Recorder {
    spool: Spool,
    context: Context,
    node: String,
    repeats: BTreeMap<(Option<String>, Observation), Repeats>,
}

/// Repeats of an observation that no record counts yet.
#[derive(Debug)]
struct Repeats {
    allow: Result<Allow, String>,
    count: u64,
}

impl Recorder {
    /// A recorder for one process's observations.
    pub(crate) fn new(spool: Spool, context: Context) -> Self {
        let node =
            nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Self { spool, context, node, repeats: BTreeMap::new() }
    }

    /// Records an observation: at once the first time, counted from then on until [`Recorder::settle`].
    pub(crate) fn observe(
        &mut self,
        observation: Observation,
        allow: impl FnOnce(&Observation) -> Result<Allow, String>,
    ) {
        self.observe_of(self.context.exec.clone(), observation, allow);
    }

    /// As [`Recorder::observe`], of a process of the exec `exec`.
    pub(crate) fn observe_of(
        &mut self,
        exec: Option<String>,
        mut observation: Observation,
        allow: impl FnOnce(&Observation) -> Result<Allow, String>,
    ) {
        let pid = std::mem::take(&mut observation.pid);
        let key = (exec, observation);
        if let Some(repeats) = self.repeats.get_mut(&key) {
            repeats.count += 1;
            return;
        }
        if self.repeats.len() >= MAX_KEYS {
            self.settle();
        }
        let (exec, observation) = key;
        let allow = allow(&Observation { pid, ..observation.clone() });
        self.write(&exec, &observation, pid, 1, &allow);
        self.repeats.insert((exec, observation), Repeats { allow, count: 0 });
    }

    /// Writes how often each observation was repeated, and forgets them.
    pub(crate) fn settle(&mut self) {
        for ((exec, observation), repeats) in std::mem::take(&mut self.repeats) {
            if repeats.count > 0 {
                self.write(&exec, &observation, 0, repeats.count, &repeats.allow);
            }
        }
    }

    /// Records what was odd about a declaration or the policies.
    pub(crate) fn notices(&mut self, notices: &[Notice]) {
        for notice in notices {
            let (observation, allow) = record::from_notice(notice);
            self.write(&self.context.exec, &observation, 0, 1, &allow);
        }
    }

    /// Names the profile in all records from now on.
    pub(crate) fn profile(&mut self, digest: &str) {
        self.context.profile = Some(digest.to_owned());
    }

    /// Records a wall that this host cannot give in full.
    pub(crate) fn gap(&mut self, gap: &Gap) {
        let observation = Observation {
            wall: gap.wall,
            operation: "gap".to_owned(),
            object: gap.sentence.clone(),
            verdict: Verdict::Audited,
            errno: None,
            pid: 0,
            program: String::new(),
        };
        self.write(
            &self.context.exec,
            &observation,
            0,
            1,
            &Err("this node cannot give that wall in full".to_owned()),
        );
    }

    fn write(
        &self,
        exec: &Option<String>,
        observation: &Observation,
        pid: u32,
        count: u64,
        allow: &Result<Allow, String>,
    ) {
        let context = &self.context;
        let (allow, because) = match allow {
            Ok(allow) => (Some(allow.clone()), None),
            Err(because) => (None, Some(because.clone())),
        };
        let record = Record {
            schema: record::SCHEMA.to_owned(),
            time: timestamp(SystemTime::now()),
            node: self.node.clone(),
            class: context.class.clone(),
            pod: context.identity.pod.clone(),
            container: record::Container {
                id: context.identity.id.clone(),
                name: context.identity.name.clone(),
                exec: exec.clone(),
            },
            image: context.image.clone(),
            profile: context.profile.clone(),
            process: record::Process { pid, program: observation.program.clone() },
            wall: observation.wall,
            operation: observation.operation.clone(),
            object: observation.object.clone(),
            verdict: observation.verdict,
            errno: observation.errno.clone(),
            count,
            allow,
            because,
        };
        if let Err(err) = self.spool.append(&record) {
            // Reporting fails open: the wall stands all the same, and the shim's log keeps the sentence.
            tracing::error!(error = %err, spool = ?self.spool.path, record = %record.sentence(), "cannot write record");
        }
    }
}

/// RFC 3339 in UTC, with microseconds.
pub(crate) fn timestamp(time: SystemTime) -> String {
    const FORM: &[BorrowedFormatItem<'_>] =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");
    OffsetDateTime::from(time).format(FORM).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn time_is_rfc_3339() {
        let at = |seconds| timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000000Z");
        assert_eq!(at(1_795_219_199), "2026-11-20T23:59:59.000000Z");
    }
}
