//! What the agent remembers over a restart, as one file: how far the spool is read, and the series counted so far.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::plan::Observed;
use super::series::Desired;
use crate::spool::Position;

/// Version of the file's form.
const SCHEMA: &str = "keep.dev/cursor/v1";
/// Largest cursor that is read, in bytes; the agent writes far less.
const MAX_CURSOR: u64 = 64 << 20;

/// The agent's memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cursor {
    schema: String,
    /// How far each file of the spool is counted.
    pub(super) files: Vec<Position>,
    /// What was counted.
    pub(super) desired: Desired,
    /// What of it the API has.
    pub(super) observed: Observed,
}

impl Default for Cursor {
    fn default() -> Self {
        let schema = SCHEMA.to_owned();
        Self { schema, files: Vec::new(), desired: Desired::default(), observed: Observed::default() }
    }
}

/// Where the cursor lies beneath a data folder.
pub(super) fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("node").join("cursor.json")
}

/// Reads the cursor; none yet is an empty one.
///
/// # Errors
/// When there is one that cannot be read or understood.
pub(super) fn load(path: &Path) -> io::Result<Cursor> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Cursor::default()),
        other => other?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_CURSOR).read_to_end(&mut bytes)?;
    let cursor: Cursor = serde_json::from_slice(&bytes)?;
    if cursor.schema != SCHEMA {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("schema {:?} is unknown", cursor.schema),
        ));
    }
    Ok(cursor)
}

/// Replaces the cursor as a whole: after a power cut there is the old one or the new one.
///
/// # Errors
/// When it cannot be written; the old one stands then.
pub(super) fn save(path: &Path, cursor: &Cursor) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let new = path.with_extension("json.new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(&serde_json::to_vec(cursor)?)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(folder)?.sync_all()
}

/// Puts a cursor that cannot be understood out of the way, for people to look at.
///
/// # Errors
/// When it cannot be renamed.
pub(super) fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let aside = path.with_extension("json.bad");
    fs::rename(path, &aside)?;
    Ok(aside)
}
