//! Reads all files of a spool in time order, and goes on where it stopped.
//!
//! A file is known by its inode and time of birth, so that a rotation (a rename to `.jsonl.1`) needs no care. Only
//! whole lines are taken; no file stays open and no more than a chunk of each is held.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use k8s_openapi::jiff::Timestamp;
use nix::libc::{O_NOFOLLOW, O_NONBLOCK};
use profiles::Record;
use serde::{Deserialize, Serialize};

/// Read from a file at a time, in bytes.
const CHUNK: u64 = 16 << 10;
/// Longest line that is taken, in bytes: a record's labels may have 4 KiB each, every byte of them escaped.
const MAX_LINE: u64 = 256 << 10;

/// How far a file has been consumed. Survives restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// Inode of the file.
    pub(crate) inode: u64,
    /// Its birth, in nanoseconds since 1970 (a recycled inode is another file); 0 where the file system has none.
    pub(crate) born: u64,
    /// Bytes consumed; always the end of a line.
    pub(crate) offset: u64,
    /// Lines consumed.
    pub(crate) lines: u64,
}

/// A record and the line it came from.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The record.
    pub(crate) record: Record,
    /// Its time.
    pub(crate) time: Timestamp,
    /// The whole line, without its end.
    pub(crate) line: String,
}

/// A line that is no record.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Name of the file in the spool.
    pub(crate) file: String,
    /// Number of the line, from 1.
    pub(crate) line: u64,
    /// What is wrong with it.
    pub(crate) problem: String,
}

/// What a spool gives.
#[derive(Debug)]
pub(crate) enum Item {
    /// A record.
    Entry(Box<Entry>),
    /// A line that is none.
    Fault(Fault),
}

type FileId = (u64, u64);

#[derive(Debug)]
struct Tracked {
    path: PathBuf,
    /// Read up to here; the lines between [`Tracked::consumed`] and this wait in `ready`.
    read: Position,
    consumed: Position,
    size: u64,
    modified: i64,
    /// Amid a line that is too long to take.
    skipping: bool,
    ready: VecDeque<(Position, Item)>,
}

/// A spool being read.
#[derive(Debug)]
pub(crate) struct Tail {
    folder: PathBuf,
    files: BTreeMap<FileId, Tracked>,
    resume: BTreeMap<FileId, Position>,
}

impl Tail {
    /// Reads the spool in `folder` from `positions` on; files that are not among them, from their beginning.
    pub(crate) fn new(folder: &Path, positions: &[Position]) -> Self {
        let resume = positions.iter().map(|p| ((p.inode, p.born), *p)).collect();
        Self { folder: folder.to_owned(), files: BTreeMap::new(), resume }
    }

    /// Hands at most `limit` items to `on`, those of all files merged by time (within one file, the order of its lines).
    /// Returns whether there may be more at once.
    ///
    /// # Errors
    /// When the folder cannot be listed or a file not be read; a folder that does not exist is an empty spool.
    pub(crate) fn poll(
        &mut self,
        limit: usize,
        on: &mut dyn FnMut(Item) -> io::Result<()>,
    ) -> io::Result<bool> {
        self.scan()?;
        let mut heads = BinaryHeap::new();
        for (id, file) in &mut self.files {
            file.fill()?;
            heads.extend(file.head().map(|time| Reverse((time, *id))));
        }
        for _ in 0..limit {
            let Some(Reverse((_, id))) = heads.pop() else { return Ok(false) };
            let Some(file) = self.files.get_mut(&id) else { continue };
            if let Some((position, item)) = file.ready.pop_front() {
                on(item)?;
                file.consumed = position;
            }
            file.fill()?;
            heads.extend(file.head().map(|time| Reverse((time, id))));
        }
        Ok(!heads.is_empty())
    }

    /// How far each file of the spool has been consumed.
    pub(crate) fn positions(&self) -> Vec<Position> {
        self.files.values().map(|file| file.consumed).chain(self.resume.values().copied()).collect()
    }

    /// Files that are consumed to their end and have not grown since `before` (seconds since 1970).
    pub(crate) fn idle_since(&self, before: i64) -> Vec<PathBuf> {
        let idle = |file: &&Tracked| file.consumed.offset == file.size && file.modified < before;
        self.files.values().filter(idle).map(|file| file.path.clone()).collect()
    }

    fn scan(&mut self) -> io::Result<()> {
        let mut seen = BTreeMap::new();
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let is_spool = name.to_str().is_some_and(|n| n.ends_with(".jsonl") || n.ends_with(".jsonl.1"));
            // Gone between the listing and here: rotated away.
            let Ok(metadata) = entry.metadata() else { continue };
            if is_spool && metadata.is_file() {
                seen.insert(id_of(&metadata), (entry.path(), metadata));
            }
        }
        self.files.retain(|id, file| seen.contains_key(id) || !file.ready.is_empty());
        for (id, (path, metadata)) in seen {
            let from = self.resume.remove(&id).filter(|position| position.offset <= metadata.len());
            let file = self.files.entry(id).or_insert_with(|| Tracked::new(id, from));
            file.path = path;
            file.size = metadata.len();
            file.modified = metadata.mtime();
            if file.size < file.read.offset {
                // Truncated: what follows is new.
                *file = Tracked { path: file.path.clone(), size: file.size, ..Tracked::new(id, None) };
            }
        }
        // What is not in the folder now was deleted while nobody read.
        self.resume.clear();
        Ok(())
    }
}

fn id_of(metadata: &Metadata) -> FileId {
    let born = metadata.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    (metadata.ino(), born.map_or(0, |age| u64::try_from(age.as_nanos()).unwrap_or(u64::MAX)))
}

impl Tracked {
    fn new((inode, born): FileId, from: Option<Position>) -> Self {
        let start = from.unwrap_or(Position { inode, born, offset: 0, lines: 0 });
        Self {
            path: PathBuf::new(),
            read: start,
            consumed: start,
            size: 0,
            modified: 0,
            skipping: false,
            ready: VecDeque::new(),
        }
    }

    /// Time of the next item; faults come at once.
    fn head(&self) -> Option<Timestamp> {
        self.ready.front().map(|(_, item)| match item {
            Item::Entry(entry) => entry.time,
            Item::Fault(_) => Timestamp::MIN,
        })
    }

    /// Reads on until a line is ready or the last whole line was read.
    fn fill(&mut self) -> io::Result<()> {
        while self.ready.is_empty() && self.read.offset < self.size {
            let options =
                OpenOptions::new().read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK).open(&self.path);
            let mut file = match options {
                // Rotated away since the scan; the next one finds it under its new name.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                other => other?,
            };
            let metadata = file.metadata()?;
            if id_of(&metadata) != (self.read.inode, self.read.born) || metadata.len() < self.read.offset {
                return Ok(());
            }
            let before = self.read.offset;
            self.take_lines(&mut file)?;
            if self.read.offset == before {
                return Ok(());
            }
        }
        Ok(())
    }

    fn take_lines(&mut self, file: &mut File) -> io::Result<()> {
        file.seek(SeekFrom::Start(self.read.offset))?;
        let mut chunk = Vec::new();
        file.by_ref().take(CHUNK).read_to_end(&mut chunk)?;
        if !chunk.contains(&b'\n') {
            file.by_ref().take(MAX_LINE - CHUNK).read_to_end(&mut chunk)?;
        }
        let Some(end) = chunk.iter().rposition(|byte| *byte == b'\n') else {
            if chunk.len() as u64 >= MAX_LINE {
                self.read.offset += chunk.len() as u64;
                self.skipping = true;
            }
            return Ok(());
        };
        for line in chunk[..end].split(|byte| *byte == b'\n') {
            self.read.offset += line.len() as u64 + 1;
            self.read.lines += 1;
            let parsed = if std::mem::take(&mut self.skipping) {
                Err(format!("longer than {MAX_LINE} bytes"))
            } else {
                parse(line)
            };
            let item = match parsed {
                Ok(entry) => Item::Entry(Box::new(entry)),
                Err(problem) => {
                    let name = self.path.file_name().unwrap_or_default();
                    Item::Fault(Fault {
                        file: name.to_string_lossy().into_owned(),
                        line: self.read.lines,
                        problem,
                    })
                }
            };
            self.ready.push_back((self.read, item));
        }
        Ok(())
    }
}

fn parse(line: &[u8]) -> Result<Entry, String> {
    let line = std::str::from_utf8(line).map_err(|error| error.to_string())?;
    let record: Record = serde_json::from_str(line).map_err(|error| error.to_string())?;
    if record.schema != profiles::record::SCHEMA {
        return Err(format!("schema {:?} is not {:?}", record.schema, profiles::record::SCHEMA));
    }
    let time = record.time.parse().map_err(|_| format!("time {:?} is not RFC 3339", record.time))?;
    Ok(Entry { record, time, line: line.to_owned() })
}

/// The first record of a file, where its first line is one.
pub(crate) fn first_record(path: &Path) -> Option<Record> {
    let file = OpenOptions::new().read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK).open(path).ok()?;
    let mut line = Vec::new();
    BufReader::new(file.take(MAX_LINE)).read_until(b'\n', &mut line).ok()?;
    parse(line.strip_suffix(b"\n")?).ok().map(|entry| entry.record)
}
