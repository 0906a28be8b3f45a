//! Receives the terminal that a container's process opened.

use std::fs::DirBuilder;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::termios::{Winsize, tcsetwinsize};

/// Longest that a process that was created may take to send its terminal.
const DEADLINE: Duration = Duration::from_secs(5);

/// A socket on which libcontainer sends a terminal's master.
#[derive(Debug)]
pub(crate) struct Console {
    listener: UnixListener,
    path: PathBuf,
}

impl Console {
    /// Listens in `folder`, under a name that is short: a socket's path has at most 107 bytes.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub(crate) fn bind(folder: &Path) -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let path =
            folder.join(format!("tty-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        Ok(Self { listener: UnixListener::bind(&path)?, path })
    }

    /// Where it listens.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Receives the master. To be called when the process was created: it has sent it by then, so this does not wait.
    ///
    /// # Errors
    /// When nothing was sent, or something that is no descriptor.
    pub(crate) fn receive(self) -> io::Result<OwnedFd> {
        self.listener.set_nonblocking(true)?;
        let (stream, _) = self.listener.accept()?;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        receive_descriptor(&stream)
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        if let Err(err) = std::fs::remove_file(&self.path) {
            tracing::debug!(error = %err, "the console socket was gone already");
        }
    }
}

fn receive_descriptor(stream: &UnixStream) -> io::Result<OwnedFd> {
    let mut name = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    recvmsg(stream, &mut [IoSliceMut::new(&mut name)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message
            && let Some(descriptor) = descriptors.next()
        {
            return Ok(descriptor);
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "no terminal was sent"))
}

/// Sets a terminal's size in characters.
///
/// # Errors
/// When `master` is no terminal.
pub(crate) fn resize(master: &OwnedFd, columns: u16, rows: u16) -> io::Result<()> {
    let size = Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(master, size)?)
}
