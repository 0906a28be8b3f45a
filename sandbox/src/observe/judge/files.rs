//! Programs and files: paths as the caller means them.

use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::stat::SFlag;
use nix::sys::statvfs::{FsFlags, fstatvfs};
use profiles::plan::Wall;

use super::{Forbidden, Judge};
use crate::observe::caller::{self, Caller};
use crate::observe::calls::{At, Call, Links, OpenFlags};
use crate::paths::{Found, Root};
use crate::programs::interpreter;

/// What every program writes to its own entry in /proc, and may fail at: nothing to report.
const OWN_KNOBS: [&str; 4] = ["oom_score_adj", "loginuid", "coredump_filter", "comm"];

/// Where a call's path leads.
enum Meant {
    /// An absolute path in the container, symlinks in it still to be followed.
    Path(PathBuf),
    /// Nothing to judge: the call fails by itself, or concerns no file of the container.
    Nothing,
}

/// What has to be there for a call to get as far as a wall.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    /// The thing itself, a symlink followed.
    Followed,
    /// The thing itself, a symlink not followed.
    Itself,
    /// Nothing: the call would make it.
    Absent,
    /// The thing or nothing.
    Either,
}

impl Judge<'_> {
    /// What is wrong with executing, or else the program, if there is one.
    pub(super) fn execute(
        &self,
        at: At,
        arguments: &[u64; 6],
        caller: Caller<'_>,
    ) -> Result<Option<String>, Forbidden> {
        if self.plan.programs.is_none() {
            return Ok(None);
        }
        let Meant::Path(path) = meant(at, arguments, caller) else { return Ok(None) };
        let Ok(root) = caller.root() else { return Ok(None) };
        let program = |path: &Path| {
            let found = root.look(path).ok().filter(Found::is_program)?;
            Some((root.path_of(&found.fd)?, found))
        };
        let Some((real, found)) = program(&path) else { return Ok(None) };
        let stopped = self.plan.landlock.is_some();
        let forbidden =
            |object: String| Forbidden { wall: Wall::Exec, object, errno: stopped.then_some(Errno::EACCES) };
        if !self.programs.contains(&real) {
            return Err(forbidden(real.to_string()));
        }
        // A script that may run, by an interpreter that may not.
        let interpreter = interpreter(&found).and_then(|path| program(path.as_ref()));
        match interpreter.filter(|(real, _)| !self.programs.contains(real)) {
            Some((real, _)) => Err(forbidden(real.to_string())),
            None => Ok(Some(real.to_string())),
        }
    }

    pub(super) fn write(&self, call: Call, arguments: &[u64; 6], caller: Caller<'_>) -> Option<Forbidden> {
        self.plan.write.as_ref()?;
        let judge = |at, last| self.path(at, last, arguments, caller);
        match call {
            Call::Open(at, flags) => judge(at, opened(flags, arguments, caller)?),
            Call::Make(at) => judge(at, Last::Absent),
            Call::Remove(at) => judge(at, Last::Itself),
            Call::Rename(from, to) => {
                // Without the one there is nothing to rename, whatever the other is.
                if !exists(from, arguments, caller) {
                    return None;
                }
                judge(from, Last::Itself).or_else(|| judge(to, Last::Either))
            }
            Call::Link(from, to) => {
                if exists(from, arguments, caller) {
                    judge(to, Last::Absent)
                } else {
                    None
                }
            }
            Call::Change(at, Links::Flags(flags))
                if arguments[flags] & libc::AT_SYMLINK_NOFOLLOW as u64 != 0 =>
            {
                judge(at, Last::Itself)
            }
            Call::Change(at, Links::NoFollow) => judge(at, Last::Itself),
            Call::Change(at, Links::Follow | Links::Flags(_)) => judge(at, Last::Followed),
            Call::ChangeOpen(fd) => self.open_file(arguments[fd] as RawFd, caller),
            Call::Execute(_) | Call::Bind | Call::Connect | Call::Listen => None,
        }
    }

    /// A call that makes `path` appear, as bind(2) does.
    pub(super) fn make(&self, path: &Path, caller: Caller<'_>) -> Option<Forbidden> {
        self.plan.write.as_ref()?;
        self.resolved(path, Last::Absent, caller)
    }

    fn path(&self, at: At, last: Last, arguments: &[u64; 6], caller: Caller<'_>) -> Option<Forbidden> {
        match meant(at, arguments, caller) {
            Meant::Path(path)
                if self.is_plainly_writable(&path) && caller::is_plain(caller::bytes(&path)) =>
            {
                None
            }
            Meant::Path(path) => self.special(&path, last, caller),
            Meant::Nothing => None,
        }
    }

    /// Sorts out what /proc and the standard descriptors' names are before looking at files.
    fn special(&self, path: &Path, last: Last, caller: Caller<'_>) -> Option<Forbidden> {
        if let Some(fd) = own_descriptor(path) {
            return self.open_file(fd, caller);
        }
        if let Ok(inside) = path.strip_prefix("/proc") {
            if inside.file_name().is_some_and(|name| OWN_KNOBS.iter().any(|knob| name == *knob)) {
                return None;
            }
            // The observer is another "self".
            if let Ok(rest) = inside.strip_prefix("self") {
                let own = Path::new("/proc").join(caller.inner_pid().to_string()).join(rest);
                return self.resolved(&own, last, caller);
            }
        }
        self.resolved(path, last, caller)
    }

    /// A file that the caller has open already, by whatever name.
    fn open_file(&self, fd: RawFd, caller: Caller<'_>) -> Option<Forbidden> {
        let kind = caller.descriptor(fd)?.st_mode & SFlag::S_IFMT.bits();
        if kind != SFlag::S_IFREG.bits() && kind != SFlag::S_IFDIR.bits() {
            return None;
        }
        let path = caller.directory(fd).filter(|path| path.is_absolute())?;
        // The kernel's own word: there is no symlink in it.
        if self.is_plainly_writable(&path) { None } else { self.resolved(&path, Last::Followed, caller) }
    }

    fn resolved(&self, path: &Path, last: Last, caller: Caller<'_>) -> Option<Forbidden> {
        let root = caller.root().ok()?;
        let (found, name) = locate(&root, path, last)?;
        let mut real = PathBuf::from(root.path_of(&found.fd)?.as_str());
        real.extend(name);
        if self.is_writable(&real, &root) {
            return None;
        }
        let read_only = fstatvfs(&found.fd).is_ok_and(|fs| fs.flags().contains(FsFlags::ST_RDONLY));
        let errno = if read_only { Errno::EROFS } else { Errno::EACCES };
        let object = real.to_string_lossy().into_owned();
        let stopped = read_only || self.plan.landlock.is_some();
        Some(Forbidden { wall: Wall::File, object, errno: stopped.then_some(errno) })
    }
}

/// The file that a path names, or the folder that its name is to appear in; `None` where the call fails by itself.
fn locate<'a>(root: &Root, path: &'a Path, last: Last) -> Option<(Found, Option<&'a Path>)> {
    let in_folder = || {
        // "." and ".." are there always.
        let name = path.file_name().map(Path::new)?;
        let folder = root.look(path.parent()?).ok().filter(Found::is_directory)?;
        Some((folder, Some(name)))
    };
    match last {
        Last::Followed => Some((root.look(path).ok()?, None)),
        Last::Itself => {
            root.look_at_link(path).ok()?;
            in_folder()
        }
        Last::Absent => match root.look_at_link(path) {
            Ok(_) => None,
            Err(_) => in_folder(),
        },
        Last::Either => match root.look(path) {
            // Writing a folder fails by itself.
            Ok(found) => (!found.is_directory()).then_some((found, None)),
            Err(_) => in_folder(),
        },
    }
}

/// What an open needs to be there; `None` where it has no intent to write, or fails by itself.
fn opened(flags: OpenFlags, arguments: &[u64; 6], caller: Caller<'_>) -> Option<Last> {
    let flags = match flags {
        OpenFlags::Argument(index) => arguments[index] as u32 as i32,
        OpenFlags::Behind(index) => {
            let bytes = caller.bytes(arguments[index], 8)?;
            u64::from_ne_bytes(bytes.try_into().ok()?) as i32
        }
        OpenFlags::Create => libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC,
    };
    let has = |flag| flags & flag == flag;
    let writes = flags & libc::O_ACCMODE != libc::O_RDONLY || has(libc::O_TRUNC);
    match () {
        () if has(libc::O_PATH) => None,
        // The path is the folder that the nameless file is made in.
        () if has(libc::O_TMPFILE) => Some(Last::Followed),
        () if has(libc::O_CREAT | libc::O_EXCL) => Some(Last::Absent),
        () if has(libc::O_CREAT) && writes => Some(Last::Either),
        () if has(libc::O_CREAT) => Some(Last::Absent),
        () if writes => Some(Last::Either),
        () => None,
    }
}

fn exists(at: At, arguments: &[u64; 6], caller: Caller<'_>) -> bool {
    let Meant::Path(path) = meant(at, arguments, caller) else { return false };
    caller.root().is_ok_and(|root| root.look_at_link(&path).is_ok())
}

/// The path that a call means: as it stands, or seen from its directory.
fn meant(at: At, arguments: &[u64; 6], caller: Caller<'_>) -> Meant {
    // utimensat(2) without a path concerns the descriptor itself, as an empty path does.
    let text = if arguments[at.path] == 0 { Some(Vec::new()) } else { caller.text(arguments[at.path]) };
    let Some(text) = text else { return Meant::Nothing };
    if text.starts_with(b"/") {
        return Meant::Path(caller::join(Path::new("/"), &text));
    }
    let directory = match at.directory {
        Some(index) => arguments[index] as RawFd,
        None => libc::AT_FDCWD,
    };
    if text.is_empty() && at.directory.is_none() {
        return Meant::Nothing;
    }
    match caller.directory(directory).filter(|path| path.is_absolute()) {
        Some(folder) if text.is_empty() => Meant::Path(folder),
        Some(folder) => Meant::Path(caller::join(&folder, &text)),
        None => Meant::Nothing,
    }
}

/// The descriptor that a path stands for: /dev/stdout, /dev/fd/N, /proc/self/fd/N.
fn own_descriptor(path: &Path) -> Option<RawFd> {
    match path.to_str()? {
        "/dev/stdin" => Some(0),
        "/dev/stdout" => Some(1),
        "/dev/stderr" => Some(2),
        text => {
            let folders = ["/dev/fd/", "/proc/self/fd/", "/proc/thread-self/fd/"];
            folders.iter().find_map(|folder| text.strip_prefix(folder))?.parse().ok()
        }
    }
}
