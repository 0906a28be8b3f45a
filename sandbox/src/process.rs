//! Forks a helper from a single-threaded process.

use std::io;
use std::os::fd::{OwnedFd, RawFd};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getpid, getppid};

use crate::sys::process;

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
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        let text = format!("cannot fork a process of {threads} threads");
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
    }
    let parent = getpid();
    process::fork(|| match set_up(keep, parent) {
        Ok(()) => f(),
        Err(_) => SETUP_FAILED,
    })
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

/// Puts each descriptor on the number beside it, without close-on-exec, for a program that a child of [`spawn`] is about
/// to execute. What was on those numbers is closed; the caller must not use it any more.
///
/// # Errors
/// When a descriptor cannot be duplicated.
pub fn place(descriptors: Vec<(OwnedFd, RawFd)>) -> io::Result<()> {
    process::place(descriptors)
}

/// Sends signal number `signal`, real-time ones included, to a process.
///
/// # Errors
/// `ESRCH` when there is none, `EINVAL` when there is no such signal.
pub fn signal(pid: Pid, signal: i32) -> nix::Result<()> {
    process::kill(pid, signal)
}
