//! Hears of a container that runs out of memory, without a thread of its own: on cgroup v1 the kernel counts up an eventfd,
//! on v2 it changes `memory.events`, which an inotify descriptor tells.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::unistd::Pid;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::inotify;
use rustix::io::Errno;
use sandbox::cgroup::{Unified, v1_cgroup_of};
use tokio::net::unix::pipe;
use tokio::task::AbortHandle;

use crate::cgroup::is_gone;

/// Room for what a descriptor tells: an eventfd's count, or inotify's events, which have no names.
const BYTES: usize = 256;

/// A container's memory, watched until this is dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    source: Arc<Source>,
    task: AbortHandle,
}

impl Watch {
    /// Watches the cgroup that process `pid` is in; `told` is called for what happens while nobody asks.
    ///
    /// # Errors
    /// When its cgroup cannot be found or watched.
    pub(crate) fn start(pid: i32, told: impl Fn() + Send + 'static) -> io::Result<Self> {
        let source = Arc::new(Source::of(Pid::from_raw(pid))?);
        let task = tokio::spawn(follow(source.clone(), told)).abort_handle();
        Ok(Self { source, task })
    }

    /// Whether it ran out of memory since this was last asked or told. The kernel tells before it ends a process, so after
    /// an exit this is complete.
    pub(crate) fn take(&self) -> bool {
        self.source.take().unwrap_or_else(|err| {
            tracing::warn!(error = %err, "cannot tell whether the container ran out of memory");
            false
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(source: Arc<Source>, told: impl Fn()) {
    loop {
        let ready = source.descriptor.readable().await;
        match ready.and_then(|()| source.settle()) {
            Ok(true) => told(),
            Ok(false) => {}
            Err(err) => {
                tracing::warn!(error = %err, "the container's memory is not watched any more");
                return;
            }
        }
    }
}

#[derive(Debug)]
struct Source {
    /// No pipe, but what tokio waits for as it does for one.
    descriptor: pipe::Receiver,
    /// On v2, what says how often.
    events: Option<PathBuf>,
    /// How often it had happened when that was last read.
    seen: AtomicU64,
}

impl Source {
    /// On v1 where that has a hierarchy for memory, else on v2.
    fn of(pid: Pid) -> io::Result<Self> {
        if let Some(cgroup) = v1_cgroup_of("memory", pid)? {
            return Self::v1(&cgroup);
        }
        let none = || io::Error::new(io::ErrorKind::NotFound, "no cgroup hierarchy counts memory");
        Self::v2(Unified::find().ok_or_else(none)?.cgroup_of(pid)?)
    }

    /// Source: Documentation/admin-guide/cgroup-v1/memory.rst, "OOM Control".
    fn v1(cgroup: &Path) -> io::Result<Self> {
        let descriptor = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let control = fs::File::open(cgroup.join("memory.oom_control"))?;
        let line = format!("{} {}", descriptor.as_raw_fd(), control.as_raw_fd());
        fs::write(cgroup.join("cgroup.event_control"), line)?;
        let descriptor = pipe::Receiver::from_owned_fd_unchecked(descriptor)?;
        Ok(Self { descriptor, events: None, seen: AtomicU64::new(0) })
    }

    fn v2(cgroup: PathBuf) -> io::Result<Self> {
        let events = cgroup.join("memory.events");
        let descriptor = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(&descriptor, &events, inotify::WatchFlags::MODIFY)?;
        let seen = AtomicU64::new(kills(&fs::read_to_string(&events)?));
        let descriptor = pipe::Receiver::from_owned_fd_unchecked(descriptor)?;
        Ok(Self { descriptor, events: Some(events), seen })
    }

    /// Whether it happened since last asked, whatever tokio knows of it: it may not have looked yet.
    fn take(&self) -> io::Result<bool> {
        let mut told = false;
        let mut bytes = [0; BYTES];
        loop {
            match rustix::io::read(&self.descriptor, &mut bytes) {
                Ok(0) | Err(Errno::AGAIN) => return self.happened(told),
                Ok(_) => told = true,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// The same, after which tokio waits for what is new.
    fn settle(&self) -> io::Result<bool> {
        let mut told = false;
        let mut bytes = [0; BYTES];
        loop {
            match self.descriptor.try_read(&mut bytes) {
                Ok(0) => return self.happened(told),
                Ok(_) => told = true,
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return self.happened(told),
                Err(err) => return Err(err),
            }
        }
    }

    /// On v1 what the descriptor told is all there is; on v2 it tells of every change.
    fn happened(&self, told: bool) -> io::Result<bool> {
        let Some(events) = &self.events else { return Ok(told) };
        match fs::read_to_string(events) {
            Ok(text) => {
                let now = kills(&text);
                Ok(now > self.seen.swap(now, Ordering::Relaxed))
            }
            // The cgroup was removed.
            Err(err) if is_gone(&err) => Ok(false),
            Err(err) => Err(err),
        }
    }
}

/// How often the kernel ended a process of the cgroup for lack of memory, as its `memory.events` says.
fn kills(events: &str) -> u64 {
    let count = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or_default()
}
