//! Finds what the declared programs are in an image: symlinks, interpreters of scripts, ELF loaders.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use profiles::Plan;
use profiles::intent::AbsPath;
use profiles::profile::Bounds;
use serde::{Deserialize, Serialize};

use crate::header::{self, Header};
use crate::paths::{Found, Root, is_absent, join};

/// The kernel follows interpreters of interpreters this deep. Source: `exec_binprm`, fs/exec.c.
const MAX_DEPTH: u32 = 4;

/// Of a folder's programs, so many (by name) are asked for their loader. An image has one libc, rarely two; those by
/// the usual names are granted in any case.
const MAX_SCANNED: usize = 64;

/// Where the loaders of glibc and musl are, on the architectures that Keep knows.
const USUAL_LOADERS: [&str; 4] = [
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/ld-linux-aarch64.so.1",
    "/lib/ld-musl-x86_64.so.1",
    "/lib/ld-musl-aarch64.so.1",
];

/// The programs of a plan as they are in one image. Paths are final: no symlink is left in them, except in those of
/// programs that the image lacks (a volume may bring them).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedPrograms {
    /// Programs, and folders that stand for all programs beneath; interpreters of scripts named one by one.
    pub entries: BTreeSet<AbsPath>,
    /// ELF loaders that they need.
    pub loaders: BTreeSet<AbsPath>,
    /// The image's own entrypoint; with its interpreter in `entries`.
    pub entrypoint: Option<AbsPath>,
}

impl ResolvedPrograms {
    /// Whether `path`, free of symlinks, is one of the programs or lies in one of the folders.
    #[must_use]
    pub fn contains(&self, path: &AbsPath) -> bool {
        self.entrypoint.as_ref() == Some(path)
            || self.loaders.contains(path)
            || self.entries.iter().any(|entry| path.is_beneath(entry))
    }

    /// Every path that may be executed, or executed beneath.
    pub fn paths(&self) -> impl Iterator<Item = &AbsPath> {
        self.entries.iter().chain(&self.loaders).chain(&self.entrypoint)
    }
}

/// Why programs cannot be resolved.
#[derive(Debug, thiserror::Error)]
pub enum ProgramsError {
    /// The image's root cannot be opened.
    #[error("cannot open the image's root {path}")]
    Root {
        /// The root.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// A declared program is there and cannot be looked at.
    #[error("cannot look at program {path}")]
    Look {
        /// As declared.
        path: String,
        /// Cause.
        source: io::Error,
    },
}

/// Resolves the programs of `plan` in the image mounted at `rootfs`; `path_env` and `cwd` are the container's, for an
/// entrypoint that is a bare name or a relative path. `command` is a program that is granted as the entrypoint is. What
/// lies outside the plan's bounds is left out; loaders may lie anywhere. A plan without a program wall gives an empty
/// result.
///
/// # Errors
/// When the root, or a program that is there, cannot be read. A program that is not there is no error.
pub fn resolve(
    rootfs: &Path,
    plan: &Plan,
    command: Option<&str>,
    path_env: &str,
    cwd: &str,
) -> Result<ResolvedPrograms, ProgramsError> {
    let Some(declared) = &plan.programs else { return Ok(ResolvedPrograms::default()) };
    let root =
        Root::open(rootfs).map_err(|source| ProgramsError::Root { path: rootfs.to_owned(), source })?;
    let bounds = &plan.program_bounds;
    let mut resolver = Resolver { root: &root, path_env, cwd, bounds, result: ResolvedPrograms::default() };
    for path in declared {
        let follow = !plan.without_interpreter.contains(path);
        resolver
            .declared(path, follow)
            .map_err(|source| ProgramsError::Look { path: path.to_string(), source })?;
    }
    if let Some(arg0) = &plan.entrypoint {
        let found = resolver.program(arg0);
        resolver.result.entrypoint =
            found.map_err(|source| ProgramsError::Look { path: arg0.clone(), source })?;
    }
    if let Some(arg0) = command {
        let found = resolver.program(arg0);
        resolver
            .result
            .entries
            .extend(found.map_err(|source| ProgramsError::Look { path: arg0.to_owned(), source })?);
    }
    Ok(resolver.result)
}

/// Finds what `execvp` would run for `arg0` within `root`, free of symlinks: by `path_env` where it has no slash,
/// from `cwd` where it is relative. `None` where there is no such regular file with an execute bit.
#[must_use]
pub fn find_program(root: &Path, arg0: &str, path_env: &str, cwd: &str) -> Option<AbsPath> {
    let root = Root::open(root).ok()?;
    let found = search(&root, arg0, path_env, cwd)?;
    root.path_of(&found.fd)
}

fn search(root: &Root, arg0: &str, path_env: &str, cwd: &str) -> Option<Found> {
    let program = |path: &str| root.look(path).ok().filter(Found::is_program);
    match arg0 {
        "" => None,
        _ if arg0.contains('/') => program(&join(cwd, arg0)),
        _ => path_env.split(':').find_map(|folder| program(&join(cwd, &join(folder, arg0)))),
    }
}

/// The interpreter that a script names, if `found` is a script that can be read.
pub(crate) fn interpreter(found: &Found) -> Option<String> {
    match header::read(&found.read().ok()?).ok()? {
        Header::Script { interpreter, .. } => Some(interpreter),
        Header::Dynamic { .. } | Header::Other => None,
    }
}

struct Resolver<'a> {
    root: &'a Root,
    path_env: &'a str,
    cwd: &'a str,
    bounds: &'a Bounds,
    result: ResolvedPrograms,
}

impl Resolver<'_> {
    fn declared(&mut self, path: &AbsPath, follow: bool) -> io::Result<()> {
        let found = match self.root.look(path.as_str()) {
            Err(error) if is_absent(error) => {
                self.result.entries.insert(path.clone());
                return Ok(());
            }
            found => found?,
        };
        let Some(real) = self.within_bounds(&found) else { return Ok(()) };
        self.result.entries.insert(real);
        // Deeper than any script: its interpreter does not follow.
        let depth = if follow { 0 } else { MAX_DEPTH };
        if found.is_directory() { self.folder(&found) } else { self.header(&found, depth) }
    }

    /// What `arg0` is, if it is there or may be on a volume, and is left.
    fn program(&mut self, arg0: &str) -> io::Result<Option<AbsPath>> {
        let Some(found) = search(self.root, arg0, self.path_env, self.cwd) else {
            let elsewhere = arg0.contains('/').then(|| AbsPath::new(&join(self.cwd, arg0)).ok()).flatten();
            return Ok(elsewhere.filter(|path| self.bounds.leave(path)));
        };
        let Some(real) = self.within_bounds(&found) else { return Ok(None) };
        self.header(&found, 0)?;
        Ok(Some(real))
    }

    fn within_bounds(&self, found: &Found) -> Option<AbsPath> {
        self.root.path_of(&found.fd).filter(|real| self.bounds.leave(real))
    }

    /// Adds what else must be executable for `found` to run.
    fn header(&mut self, found: &Found, depth: u32) -> io::Result<()> {
        if !found.is_regular() {
            return Ok(());
        }
        match header::read(&found.read()?)? {
            Header::Script { interpreter, argument } if depth < MAX_DEPTH => {
                if let Some(interpreter) = search(self.root, &interpreter, "", self.cwd) {
                    self.interpreter(&interpreter, depth)?;
                }
                if interpreter.ends_with("/env")
                    && let Some(name) = env_program(&argument)
                    && let Some(program) = search(self.root, name, self.path_env, self.cwd)
                {
                    self.interpreter(&program, depth)?;
                }
            }
            Header::Dynamic { loader } => self.loader(&loader),
            Header::Script { .. } | Header::Other => {}
        }
        Ok(())
    }

    fn interpreter(&mut self, found: &Found, depth: u32) -> io::Result<()> {
        let Some(real) = self.within_bounds(found) else { return Ok(()) };
        self.result.entries.insert(real);
        self.header(found, depth + 1)
    }

    fn loader(&mut self, path: &str) {
        if let Ok(found) = self.root.look(path) {
            self.result.loaders.extend(self.root.path_of(&found.fd));
        }
    }

    /// The loaders of a folder's programs; not the interpreters of its scripts, which would grant a shell silently.
    fn folder(&mut self, folder: &Found) -> io::Result<()> {
        for loader in USUAL_LOADERS {
            self.loader(loader);
        }
        let Some(path) = self.root.path_of(&folder.fd) else { return Ok(()) };
        let mut names = Vec::new();
        for entry in std::fs::read_dir(crate::paths::magic_link(&folder.fd))? {
            names.extend(entry?.file_name().into_string());
        }
        names.sort_unstable();
        let programs = names.iter().filter_map(|name| self.root.look(join(path.as_str(), name)).ok());
        for found in programs.filter(Found::is_program).take(MAX_SCANNED).collect::<Vec<_>>() {
            if let Header::Dynamic { loader } = header::read(&found.read()?)? {
                self.loader(&loader);
            }
        }
        Ok(())
    }
}

/// What `env` would run, of the rest of a `#!` line.
fn env_program(argument: &str) -> Option<&str> {
    let mut words = argument.split_whitespace();
    while let Some(word) = words.next() {
        match word {
            "-u" | "-C" | "--unset" | "--chdir" => {
                words.next()?;
            }
            _ if word.starts_with("-S") && word.len() > 2 => return Some(&word[2..]),
            _ if word.starts_with('-') || word.contains('=') => {}
            _ => return Some(word),
        }
    }
    None
}
