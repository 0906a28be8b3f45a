//! Wakes when a folder's files change.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

/// How often to look where the kernel grants no watch, or the folder is not there yet.
pub(crate) const POLL: Duration = Duration::from_millis(200);

/// An inotify watch on one folder and what is in it.
#[derive(Debug)]
pub(crate) struct Watch {
    inotify: Inotify,
}

impl Watch {
    /// Watches `folder`.
    ///
    /// # Errors
    /// When there is no such folder, or the kernel grants no further watch.
    pub(crate) fn new(folder: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let changes = AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_ONLYDIR;
        inotify.add_watch(folder, changes)?;
        Ok(Self { inotify })
    }

    /// Takes all pending notices; `false` when the folder itself is gone, so that nothing more will come.
    ///
    /// # Errors
    /// When the kernel's queue cannot be read.
    pub(crate) fn drain(&self) -> io::Result<bool> {
        let mut watching = true;
        loop {
            match self.inotify.read_events() {
                Ok(events) => watching &= !events.iter().any(|e| e.mask.contains(AddWatchFlags::IN_IGNORED)),
                Err(nix::errno::Errno::EAGAIN) => return Ok(watching),
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

/// Calls `changed` after each change in `folder`, from a thread of its own, until the process ends. (tokio's `AsyncFd` would
/// do without the thread, but can only be had through `unsafe`.)
///
/// # Errors
/// When the thread cannot be started.
pub(crate) fn on_change(folder: PathBuf, changed: impl Fn() + Send + 'static) -> io::Result<()> {
    let watch_on = move || loop {
        let watch = Watch::new(&folder);
        // Whatever came before the watch stood.
        changed();
        if let Ok(watch) = watch {
            while wait(&watch) {
                changed();
            }
        }
        thread::sleep(POLL);
    };
    thread::Builder::new().name("spool-watch".to_owned()).spawn(watch_on).map(drop)
}

/// Waits for a change; `false` when the watch is lost.
fn wait(watch: &Watch) -> bool {
    let mut waits = [PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
    match poll(&mut waits, PollTimeout::NONE) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => watch.drain().unwrap_or(false),
        Err(_) => false,
    }
}
