//! Folders of the image that hold programs are bound over themselves `noexec`, each declared program on top without.
//! Landlock refuses only execve: the ELF loader called by hand would map every other program, and run it.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{DirEntry, read_dir};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;
use profiles::plan::{Gap, Wall};

use super::mounts::{is_bind, mount, set};
use super::write_paths::{make_place, real};
use crate::paths::{Root, is_absent, is_beneath, magic_link};
use crate::programs::ResolvedPrograms;

/// Where images keep their programs.
const USUAL: [&str; 10] = [
    "/bin",
    "/sbin",
    "/usr/bin",
    "/usr/sbin",
    "/usr/libexec",
    "/usr/games",
    "/usr/local/bin",
    "/usr/local/sbin",
    "/usr/local/libexec",
    "/usr/local/games",
];

/// Packages have folders of their own beneath these, so deep, with [`OF_A_PACKAGE`] in each.
const PACKAGES: [(&str, u32); 2] = [("/opt", 2), ("/usr/local", 1)];

/// Names of a package's folders of programs.
const OF_A_PACKAGE: [&str; 2] = ["bin", "sbin"];

/// Entries looked at beneath one usual folder.
const MAX_ENTRIES: usize = 20_000;

/// How deep a usual folder is looked at.
const MAX_DEPTH: u32 = 16;

/// In folders that hold libraries too, so many programs of an image are covered one by one. A mount costs a start
/// 0.15 to 0.2 ms.
const MAX_SINGLE: usize = 64;

/// Whether what lies on a mount can be executed, and mapped executable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exec {
    Yes,
    No,
}

/// Why a folder is left as it is.
enum Left {
    Because(&'static str),
    Unreadable(PathBuf, io::Error),
}

/// A folder or file that cannot be looked at.
pub(super) type Unreadable = (PathBuf, io::Error);

/// Adds the binds, before all of `mounts`: what the spec mounts beneath such a folder must be mounted over it. A
/// folder at or beneath one of `mounts` is none of the image's, and is left alone. Says which folders were left
/// although they hold programs.
pub(super) fn add(
    mounts: &mut Vec<Mount>,
    programs: &ResolvedPrograms,
    root: &Root,
    readonly: bool,
) -> Result<Vec<Gap>, Unreadable> {
    let mut scan = Scan {
        root,
        declared: programs.paths().map(|path| Path::new(path.as_str())).collect(),
        mounted: mounts.iter().map(|mount| real(root, mount.destination())).collect(),
        found: Vec::new(),
        entries: 0,
        singles: 0,
    };
    let mut gaps = Vec::new();
    for folder in usual(root)? {
        let before = (scan.found.len(), scan.singles);
        scan.entries = 0;
        match scan.folder(&folder, Exec::Yes, 0) {
            Ok(()) => {}
            Err(Left::Because(reason)) => {
                scan.found.truncate(before.0);
                scan.singles = before.1;
                let sentence = format!("{reason} in {}: the ELF loader can run them all", folder.display());
                gaps.push(Gap { wall: Wall::Exec, sentence });
            }
            Err(Left::Unreadable(path, error)) => return Err((path, error)),
        }
    }
    let Scan { found, mounted, .. } = scan;
    for (mount, place) in mounts.iter_mut().zip(&mounted) {
        if found.iter().any(|(above, _)| is_beneath(place, above)) {
            keep_apart(mount, place, root).map_err(|error| (place.clone(), error))?;
        }
    }
    mounts.splice(0..0, found.iter().map(|(path, exec)| bind(root, path, *exec, readonly)));
    Ok(gaps)
}

/// Makes a mount independent of the read-only folder above it, in which no place for it could be made later.
fn keep_apart(mount: &mut Mount, place: &Path, root: &Root) -> io::Result<()> {
    let source = mount.source().clone().unwrap_or_default();
    make_place(root, place, is_bind(mount) && !source.is_dir())?;
    // A write path: its source is on the folder's mount by then, and takes over the flags.
    if source.starts_with(root.path()) {
        set(mount, "rrw", &[]);
    }
    Ok(())
}

fn bind(root: &Root, path: &Path, exec: Exec, readonly: bool) -> Mount {
    let exec = match exec {
        // Clears what is taken over from the folder's mount.
        Exec::Yes => "rexec",
        Exec::No => "noexec",
    };
    let options = ["bind", "nosuid", "nodev", exec].into_iter().chain(readonly.then_some("ro"));
    let source = root.path().join(path.strip_prefix("/").unwrap_or(path));
    mount(path, "bind", source, options.map(str::to_owned).collect())
}

/// The usual folders as they are in the image: once each, none within another.
fn usual(root: &Root) -> Result<Vec<PathBuf>, Unreadable> {
    let mut paths: Vec<PathBuf> = USUAL.iter().map(PathBuf::from).collect();
    for (parent, depth) in PACKAGES {
        packages(root, Path::new(parent), depth, &mut paths)?;
    }
    let folder = |path: &PathBuf| {
        let found = root.look(path).ok().filter(crate::paths::Found::is_directory)?;
        root.path_of(&found.fd).filter(|path| path.as_str() != "/").map(|path| PathBuf::from(path.as_str()))
    };
    let all: BTreeSet<PathBuf> = paths.iter().filter_map(folder).collect();
    let within = |path: &Path| all.iter().any(|other| other != path && is_beneath(path, other));
    Ok(all.iter().filter(|path| !within(path)).cloned().collect())
}

fn packages(root: &Root, parent: &Path, depth: u32, into: &mut Vec<PathBuf>) -> Result<(), Unreadable> {
    into.extend(OF_A_PACKAGE.map(|name| parent.join(name)));
    if depth == 0 {
        return Ok(());
    }
    for entry in list(root, parent).map_err(|error| (parent.to_owned(), error))?.into_iter().take(MAX_ENTRIES)
    {
        let name = entry.file_name();
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_folder && !OF_A_PACKAGE.iter().any(|usual| name == *usual) {
            packages(root, &parent.join(name), depth - 1, into)?;
        }
    }
    Ok(())
}

/// What a folder holds; nothing if there is none. At most one more than [`MAX_ENTRIES`].
fn list(root: &Root, folder: &Path) -> io::Result<Vec<DirEntry>> {
    match root.look(folder) {
        Ok(found) if found.is_directory() => read_dir(magic_link(&found.fd))?.take(MAX_ENTRIES + 1).collect(),
        Ok(_) => Ok(Vec::new()),
        Err(error) if is_absent(error) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

struct Scan<'a> {
    root: &'a Root,
    declared: Vec<&'a Path>,
    /// Where the spec mounts something.
    mounted: Vec<PathBuf>,
    /// What becomes a mount; containing folders first.
    found: Vec<(PathBuf, Exec)>,
    entries: usize,
    singles: usize,
}

impl Scan<'_> {
    /// Looks at `folder`, which lies on a mount that is `on`.
    fn folder(&mut self, folder: &Path, on: Exec, depth: u32) -> Result<(), Left> {
        if self.is_mounted(folder) {
            return Ok(());
        }
        if self.declared.iter().any(|declared| is_beneath(folder, declared)) {
            self.want(folder, Exec::Yes, on);
            return Ok(());
        }
        let unreadable = |error| Left::Unreadable(folder.to_owned(), error);
        let (mut folders, mut files) = (Vec::new(), Vec::new());
        for entry in list(self.root, folder).map_err(unreadable)? {
            match entry.file_type().map_err(unreadable)? {
                kind if kind.is_dir() => folders.push(entry),
                kind if kind.is_file() => files.push(entry),
                _ => {}
            }
        }
        self.entries += folders.len() + files.len();
        if self.entries > MAX_ENTRIES || depth > MAX_DEPTH {
            return Err(Left::Because("too many files"));
        }
        let exec = if files.iter().any(|file| is_library(&file.file_name())) {
            Exec::Yes
        } else if any_program(&files).map_err(unreadable)? {
            Exec::No
        } else {
            on
        };
        self.want(folder, exec, on);
        match exec {
            Exec::Yes => self.single_programs(folder, &files)?,
            Exec::No => self.declared_programs(folder),
        }
        for below in folders {
            self.folder(&folder.join(text(&below)?), exec, depth + 1)?;
        }
        Ok(())
    }

    fn want(&mut self, path: &Path, exec: Exec, on: Exec) {
        if exec != on {
            self.found.push((path.to_owned(), exec));
        }
    }

    /// Opens those programs of a covered folder that were declared.
    fn declared_programs(&mut self, folder: &Path) {
        let is_file = |path: &Path| self.root.look(path).is_ok_and(|found| found.is_regular());
        let here = self.declared.iter().filter(|path| path.parent() == Some(folder));
        let open = here.filter(|path| is_file(path) && !self.is_mounted(path));
        let open: BTreeSet<PathBuf> = open.map(|path| path.to_path_buf()).collect();
        self.found.extend(open.into_iter().map(|path| (path, Exec::Yes)));
    }

    /// Covers those programs of a folder that were not declared, but for libraries.
    fn single_programs(&mut self, folder: &Path, files: &[DirEntry]) -> Result<(), Left> {
        let others = files.iter().filter(|file| !is_library(&file.file_name()));
        for file in others {
            let path = folder.join(file.file_name());
            let declared = self.declared.iter().any(|declared| *declared == path);
            let is_program = is_program(file).map_err(|error| Left::Unreadable(path.clone(), error))?;
            if !is_program || declared || self.is_mounted(&path) {
                continue;
            }
            text(file)?;
            self.singles += 1;
            if self.singles > MAX_SINGLE {
                return Err(Left::Because("too many programs beside shared libraries"));
            }
            self.found.push((path, Exec::No));
        }
        Ok(())
    }

    fn is_mounted(&self, path: &Path) -> bool {
        self.mounted.iter().any(|mounted| is_beneath(path, mounted))
    }
}

/// A runtime spec is JSON, whose paths are text.
fn text(entry: &DirEntry) -> Result<String, Left> {
    entry.file_name().into_string().map_err(|_| Left::Because("a name that is no text"))
}

fn any_program(files: &[DirEntry]) -> io::Result<bool> {
    for file in files {
        if is_program(file)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_program(file: &DirEntry) -> io::Result<bool> {
    Ok(file.metadata()?.permissions().mode() & 0o111 != 0)
}

/// `libx.so`, `libx.so.1`; and Node's add-ons, which are mapped likewise.
fn is_library(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.ends_with(b".so") || name.ends_with(b".node") || name.windows(4).any(|part| part == b".so.")
}
