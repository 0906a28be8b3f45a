//! What is known of an image besides its labels.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::intent::{AbsPath, PortRange};

/// What is to be linted: an image's labels and what is known of the image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subject {
    /// Labels; those outside `dev.keep.` are ignored.
    pub labels: BTreeMap<String, String>,
    /// The rest.
    pub facts: ImageFacts,
}

/// What is known of an image. What is not known stays empty, and no rule speaks of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageFacts {
    /// The image that it is built from, by its name in the Dockerfile.
    pub base: Option<String>,
    /// Entrypoint.
    pub entrypoint: Option<Command>,
    /// Cmd: the program where there is no entrypoint, else its arguments.
    pub cmd: Option<Command>,
    /// Exposed ports.
    pub exposed: Vec<PortRange>,
    /// The user that it starts as.
    pub user: Option<String>,
    /// Environment.
    pub env: BTreeMap<String, String>,
    /// Working directory.
    pub workdir: String,
    /// Files.
    pub files: Files,
}

/// A command of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// A list of words, of which the first is the program. Never empty.
    Exec(Vec<String>),
    /// A line for a shell.
    Shell {
        /// The shell.
        shell: String,
        /// The line.
        line: String,
    },
}

impl Command {
    /// The command that an image config's list of words is: `/bin/sh -c LINE` is what builders make of a line.
    #[must_use]
    pub fn of(words: Vec<String>) -> Option<Self> {
        match words.as_slice() {
            [] => None,
            [shell, flag, line] if flag == "-c" && super::names::is_shell(shell) => {
                Some(Self::Shell { shell: shell.clone(), line: line.clone() })
            }
            _ => Some(Self::Exec(words)),
        }
    }

    /// The program that it starts.
    #[must_use]
    pub fn program(&self) -> &str {
        match self {
            Self::Exec(words) => words.first().map_or("", String::as_str),
            Self::Shell { shell, .. } => shell,
        }
    }
}

/// So many folders of PATH are searched.
const MAX_FOLDERS: usize = 64;

impl ImageFacts {
    /// What the image starts: its entrypoint, else its cmd.
    #[must_use]
    pub fn command(&self) -> Option<&Command> {
        self.entrypoint.as_ref().or(self.cmd.as_ref())
    }

    /// The absolute path of a program: by PATH where it has no slash (`None` where that does not find it), from the
    /// working directory where it is relative.
    #[must_use]
    pub fn locate(&self, program: &str) -> Option<AbsPath> {
        if program.starts_with('/') {
            return AbsPath::new(program).ok();
        }
        if program.contains('/') {
            return AbsPath::new(&format!("{}/{program}", self.workdir)).ok();
        }
        let mut candidates =
            self.folders().filter_map(|folder| AbsPath::new(&format!("{folder}/{program}")).ok());
        candidates.find(|path| self.files.resolve(path).is_some())
    }

    /// The folders of PATH.
    pub fn folders(&self) -> impl Iterator<Item = &str> {
        /// What containerd sets where the image says nothing.
        const DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        self.env
            .get("PATH")
            .map_or(DEFAULT, String::as_str)
            .split(':')
            .filter(|folder| !folder.is_empty())
            .take(MAX_FOLDERS)
    }
}

/// The files of an image, so far as they are known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    /// Whether what is not here is not in the image.
    pub complete: bool,
    /// By path.
    pub entries: BTreeMap<AbsPath, File>,
}

/// A file of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// What it is.
    pub kind: Kind,
    /// Permission bits, set-uid and set-gid with them.
    pub mode: u32,
}

/// What a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A folder.
    Folder,
    /// A symbolic link, as it is written.
    Link(String),
    /// A script.
    Script(Script),
    /// Any other regular file.
    Regular,
    /// A device, socket or pipe.
    Other,
}

/// A script that names its interpreter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// What follows `#!`, trimmed.
    pub interpreter: String,
    /// Its text, where that was read.
    pub text: Option<String>,
}

/// So much of a script is read, in bytes.
pub const MAX_SCRIPT: usize = 32 << 10;

impl Script {
    /// What a file's first bytes say, if they are a script's.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let bytes = &bytes[..bytes.len().min(MAX_SCRIPT)];
        let line = bytes.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
        let interpreter = std::str::from_utf8(line).ok()?.trim().to_owned();
        let text = Some(String::from_utf8_lossy(bytes).into_owned());
        (!interpreter.is_empty()).then_some(Self { interpreter, text })
    }

    /// The name of the program that interprets it: of `/usr/bin/env -S node --x`, `node`.
    #[must_use]
    pub fn interpreter_name(&self) -> &str {
        let mut words = self.interpreter.split_whitespace();
        let first = super::names::base(words.next().unwrap_or_default());
        if first != "env" {
            return first;
        }
        let program = words.map(|word| word.trim_start_matches("-S"));
        let mut program =
            program.filter(|word| !word.is_empty() && !word.starts_with('-') && !word.contains('='));
        super::names::base(program.next().unwrap_or("env"))
    }
}

/// As deep as the kernel follows symbolic links. Source: `MAXSYMLINKS`, include/linux/namei.h.
const MAX_LINKS: usize = 40;

/// Longest path that the kernel takes. Source: `PATH_MAX`, include/uapi/linux/limits.h.
const MAX_PATH: usize = 4096;

impl Files {
    /// The file that `path` leads to, and its own path, symbolic links followed.
    #[must_use]
    pub fn resolve(&self, path: &AbsPath) -> Option<(AbsPath, &File)> {
        let mut wanted = path.as_str().to_owned();
        for _ in 0..=MAX_LINKS {
            match self.step(&wanted)? {
                Step::Found(path, file) => return Some((path, file)),
                Step::Link(next) if next.len() <= MAX_PATH => wanted = next,
                Step::Link(_) => return None,
            }
        }
        None
    }

    /// Walks `path` down to its end or to the first symbolic link in it.
    fn step(&self, path: &str) -> Option<Step<'_>> {
        let mut walked: Vec<&str> = Vec::new();
        let mut parts = path.split('/').filter(|part| !matches!(*part, "" | ".")).peekable();
        let mut found = None;
        while let Some(part) = parts.next() {
            if part == ".." {
                walked.pop();
                continue;
            }
            walked.push(part);
            let here = AbsPath::new(&format!("/{}", walked.join("/"))).ok()?;
            let entry = self.entries.get(&here);
            if let Some(File { kind: Kind::Link(target), .. }) = entry {
                let folder = if target.starts_with('/') { String::new() } else { here.parent().to_string() };
                let rest: Vec<&str> = parts.collect();
                return Some(Step::Link(format!("{folder}/{target}/{}", rest.join("/"))));
            }
            if parts.peek().is_none() {
                found = entry.map(|file| (here, file));
            }
        }
        found.map(|(path, file)| Step::Found(path, file))
    }

    /// Files in the folder `path` and beneath.
    pub fn beneath(&self, path: &AbsPath) -> impl Iterator<Item = (&AbsPath, &File)> + use<'_> {
        let inside = format!("{}/", path.as_str().trim_end_matches('/'));
        let from = self.entries.range::<str, _>((Bound::Excluded(inside.as_str()), Bound::Unbounded));
        from.take_while(move |(path, _)| path.as_str().starts_with(&inside))
    }
}

enum Step<'a> {
    Found(AbsPath, &'a File),
    Link(String),
}

/// A port of EXPOSE: `80`, `80/tcp`, `8000-8010/udp`; `None` for what Keep has no word for.
#[must_use]
pub fn exposed_port(word: &str) -> Option<PortRange> {
    let (ports, protocol) = word.split_once('/').unwrap_or((word, "tcp"));
    format!("{ports}/{}", protocol.to_ascii_lowercase()).parse().ok()
}
