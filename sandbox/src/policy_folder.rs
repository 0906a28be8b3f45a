//! Reads the files of a policy folder, without understanding them.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Most files that are looked at.
const MAX_FILES: usize = 512;
/// What a policy file's name ends in; others in the folder are left alone.
const ENDINGS: [&str; 3] = [".yaml", ".yml", ".json"];

/// What tells a file from its next version without reading it. A file cannot be changed without its `ctime`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    name: String,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// One file of the folder.
#[derive(Debug)]
pub struct PolicyFile {
    /// Which version it is.
    pub stamp: Stamp,
    /// Whether somebody but the superuser may write it.
    pub open_to_others: bool,
    file: File,
}

impl PolicyFile {
    /// Its name in the folder.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.stamp.name
    }

    /// Its text, of which more than one byte beyond `limit` is not read.
    ///
    /// # Errors
    /// When it cannot be read, or is not UTF-8.
    pub fn text(&self, limit: usize) -> io::Result<String> {
        let mut text = String::new();
        let limit = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
        Read::take(&self.file, limit).read_to_string(&mut text)?;
        Ok(text)
    }
}

/// The policy files of `folder`, by name.
///
/// # Errors
/// When the folder or a file in it cannot be looked at, or there are more than 512.
pub fn files(folder: &Path) -> io::Result<Vec<PolicyFile>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        let name = name.to_str().filter(|name| !name.starts_with('.'));
        names.extend(name.filter(|name| ENDINGS.iter().any(|end| name.ends_with(end))).map(str::to_owned));
    }
    if names.len() > MAX_FILES {
        return Err(io::Error::other(format!("it holds more than {MAX_FILES} policy files")));
    }
    names.sort_unstable();
    names.into_iter().map(|name| open(&folder.join(&name), name)).collect()
}

/// One policy file by its path.
///
/// # Errors
/// When it cannot be opened or is no regular file.
pub fn file(path: &Path) -> io::Result<PolicyFile> {
    open(path, path.display().to_string())
}

fn open(path: &Path, name: String) -> io::Result<PolicyFile> {
    let with_name = |err: io::Error| io::Error::new(err.kind(), format!("{}: {err}", path.display()));
    // A fifo would not be opened before somebody writes.
    if !std::fs::metadata(path).map_err(with_name)?.is_file() {
        return Err(io::Error::other(format!("{} is not a regular file", path.display())));
    }
    let file = File::open(path).map_err(with_name)?;
    let metadata = file.metadata().map_err(with_name)?;
    let stamp = Stamp {
        name,
        inode: metadata.ino(),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    };
    Ok(PolicyFile { stamp, open_to_others: open_to_others(&metadata), file })
}

/// The policy folder, or a file in it, may be changed by somebody but the superuser: no policy in it counts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} can be written by others than root; chown root, chmod go-w", .0.display())]
pub struct Changeable(PathBuf);

/// What there is of that kind: the folder, or the first of its `files`.
///
/// # Errors
/// When the folder cannot be looked at.
pub fn changeable(folder: &Path, files: &[PolicyFile]) -> io::Result<Option<Changeable>> {
    if open_to_others(&std::fs::metadata(folder)?) {
        return Ok(Some(Changeable(folder.to_owned())));
    }
    let file = files.iter().find(|file| file.open_to_others);
    Ok(file.map(|file| Changeable(folder.join(file.name()))))
}

/// Whether somebody but the superuser may change what this is of.
fn open_to_others(metadata: &std::fs::Metadata) -> bool {
    metadata.uid() != 0 || metadata.mode() & 0o022 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_files_are_read_by_name_and_others_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("b.yml", "b"),
            ("a.yaml", "a"),
            ("c.json", "c"),
            ("README", "x"),
            (".a.yaml.swp", "x"),
            (".d.yaml", "x"),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let files = files(folder.path()).unwrap();
        assert_eq!(files.iter().map(PolicyFile::name).collect::<Vec<_>>(), ["a.yaml", "b.yml", "c.json"]);
        assert_eq!(files[0].text(10).unwrap(), "a");
    }

    #[test]
    fn a_changed_file_has_another_stamp_even_with_its_old_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.yaml");
        std::fs::write(&path, "one").unwrap();
        let before = file(&path).unwrap().stamp;
        assert_eq!(file(&path).unwrap().stamp, before);
        let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        std::fs::write(&path, "two").unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        assert_ne!(file(&path).unwrap().stamp, before);
    }

    #[test]
    fn what_is_no_regular_file_is_an_error_and_does_not_block() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("a.yaml");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(files(folder.path()).unwrap_err().to_string().contains("not a regular file"));
    }
}
