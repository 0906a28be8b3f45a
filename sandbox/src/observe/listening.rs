//! Serving that is left off, and taken up again by another program of the same process.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::unistd::getpid;
use serde::{Deserialize, Serialize};

use crate::network::{Denials, LeftDenials};
use crate::sys::descriptors;

/// Who is served: a filter's listener, and what the network wall refuses.
#[derive(Debug)]
pub struct Listening {
    pub(super) listener: OwnedFd,
    pub(super) denials: Option<Denials>,
}

/// The same, as numbers of descriptors that stay open across an execve(2).
#[derive(Debug, Serialize, Deserialize)]
pub struct Left {
    listener: RawFd,
    denials: Option<LeftDenials>,
}

impl Listening {
    /// Leaves it to the program that this process executes next. Calls wait in the kernel meanwhile.
    ///
    /// # Errors
    /// When a descriptor cannot be kept open.
    pub fn leave(&self) -> io::Result<Left> {
        let denials = self.denials.as_ref().map(Denials::leave).transpose()?;
        Ok(Left { listener: leave(self.listener.as_fd())?, denials })
    }

    /// Takes over what the program before this one left.
    ///
    /// # Errors
    /// When there is no such descriptor, or the refusals cannot be read.
    pub fn take(left: Left) -> io::Result<Self> {
        let denials = left.denials.map(Denials::of_left).transpose()?;
        Ok(Self { listener: left_open(left.listener)?, denials })
    }
}

/// Keeps a descriptor open across an execve(2); its number.
pub(crate) fn leave(descriptor: BorrowedFd<'_>) -> io::Result<RawFd> {
    fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(descriptor.as_raw_fd())
}

/// A duplicate of this process's descriptor `number`, closed at the next execve(2).
pub(crate) fn left_open(number: RawFd) -> io::Result<OwnedFd> {
    descriptors::pidfd_getfd(descriptors::pidfd_open(getpid())?.as_fd(), number)
}
