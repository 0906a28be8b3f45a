//! Forks a helper from a single-threaded process.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;

use nix::fcntl::AT_FDCWD;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getpid, getppid};
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::observe::caller::Caller;
use crate::paths::magic_link;
use crate::sys::{memory, mounts, process};

/// What the child exits with when it cannot be set up, before `f` runs.
pub const SETUP_FAILED: i32 = 125;

/// Forks; the child runs `f` and exits with its value. It has default signal handlers and an empty mask, keeps of the
/// descriptors from 3 up only `keep`, dies with its parent (`PDEATHSIG`), and aborts on a panic: it never returns into
/// the caller's stack, and nothing that `f` does not own is dropped. What `f` owns is dropped in the parent: numbers, not
/// borrows, say what the child keeps, so that `f` can own it. `f` must not use a descriptor that is not in `keep`.
///
/// # Errors
/// When the process has more than one thread (forking then could leave locks held for ever), or cannot be forked.
pub fn spawn(keep: &[RawFd], f: impl FnOnce() -> i32) -> io::Result<Pid> {
    spawn_in(None, keep, f)
}

/// As [`spawn`]; the child is born in the cgroup of the v2 hierarchy whose folder is open as `cgroup`, for which the kernel waits less
/// than for a move. Where it cannot do that, the child is born in this process's cgroup: it sees in which it is.
///
/// # Errors
/// As [`spawn`].
pub fn spawn_in(cgroup: Option<BorrowedFd<'_>>, keep: &[RawFd], f: impl FnOnce() -> i32) -> io::Result<Pid> {
    single_thread("fork")?;
    let parent = getpid();
    process::fork(cgroup, || match set_up(keep, parent) {
        Ok(()) => f(),
        Err(_) => SETUP_FAILED,
    })
}

pub(crate) fn single_thread(doing: &str) -> io::Result<()> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        let text = format!("cannot {doing} in a process of {threads} threads");
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
    }
    Ok(())
}

fn set_up(keep: &[RawFd], parent: Pid) -> io::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    // The parent may have died before that.
    if getppid() != parent {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    process::reset_signals()?;
    process::close_others(keep)
}

/// Most generations that are followed.
const MAX_ANCESTORS: usize = 64;

/// Process ids of `process` and its ancestors, nearest first, as each one's own process namespace counts.
pub fn lineage(process: u32) -> impl Iterator<Item = u32> {
    let callers = std::iter::successors(Some(Caller::new(process)), |caller| caller.parent());
    callers.take(MAX_ANCESTORS).map(Caller::inner_pid)
}

/// Puts each descriptor on the number beside it, without close-on-exec, for a program that a child of [`spawn`] is about
/// to execute. What was on those numbers is closed; the caller must not use it any more.
///
/// # Errors
/// When a descriptor cannot be duplicated.
pub fn place(descriptors: Vec<(OwnedFd, RawFd)>) -> io::Result<()> {
    process::place(descriptors)
}

/// This process's program on a read-only mount of its own, which no mount namespace has. Who runs it from there gives nobody
/// who comes by its `/proc/PID/exe`, a container among them, a way to write to it.
#[derive(Debug)]
pub struct OwnProgram {
    folder: OwnedFd,
    name: OsString,
}

impl OwnProgram {
    /// Makes the mount, of the folder that the program lies in.
    ///
    /// # Errors
    /// When the kernel refuses: `ENOSYS` before Linux 5.12.
    pub fn read_only() -> io::Result<Self> {
        let program = std::env::current_exe()?;
        let (Some(folder), Some(name)) = (program.parent(), program.file_name()) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let folder = open_tree(AT_FDCWD, folder, flags)?;
        mounts::set_read_only(folder.as_fd())?;
        Ok(Self { folder, name: name.to_owned() })
    }

    /// Its path, for this process and its children as long as this lives.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        magic_link(&self.folder).join(&self.name)
    }
}

/// The mount. Whoever closes it last waits until the kernel has taken it apart.
impl From<OwnProgram> for OwnedFd {
    fn from(program: OwnProgram) -> Self {
        program.folder
    }
}

/// Gives back memory that this process, which waits and has one thread, does not need until it goes on: free heap, and the
/// mapped pages of its program file. They stay in the page cache, where it finds them again.
///
/// # Errors
/// When the process has more than one thread, its mappings cannot be read, or the kernel refuses.
pub fn rest() -> io::Result<()> {
    single_thread("rest")?;
    memory::rest()
}

/// Sends signal number `signal`, real-time ones included, to a process.
///
/// # Errors
/// `ESRCH` when there is none, `EINVAL` when there is no such signal.
pub fn signal(pid: Pid, signal: i32) -> nix::Result<()> {
    process::kill(pid, signal)
}
