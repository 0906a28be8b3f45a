//! Brings the listener from the process that is confined to its observer, over one close-on-exec socket pair, so that
//! the end of file tells the observer that `execve` succeeded.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair};

use crate::enforce::Listener;
use crate::sys::descriptors;

/// Longest message, in bytes: its kind and the text.
const LONGEST: usize = 1 + 4096;

const LISTENER: u8 = b'L';
const NO_LISTENER: u8 = b'N';
const FAILURE: u8 = b'F';

/// End of the process to be confined. Every copy must be closed for the observer to see the end of file: keep no
/// other open than that of the process itself, whose `execve` closes it.
#[derive(Debug)]
pub struct Giver(OwnedFd);

/// End of the observer.
#[derive(Debug)]
pub struct Taker(OwnedFd);

/// What the confined process said.
#[derive(Debug)]
pub(crate) enum Message {
    /// The filter's listener.
    Listener(OwnedFd),
    /// The plan needs no listener.
    NoListener,
    /// Why there will be no program.
    Failure(String),
    /// Every copy of the other end is closed.
    End,
}

/// Makes a pair. Both ends are close-on-exec.
///
/// # Errors
/// When the process is out of descriptors.
pub fn pair() -> io::Result<(Giver, Taker)> {
    let (giver, taker) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    Ok((Giver(giver), Taker(taker)))
}

impl Giver {
    /// Gives the listener, or says that the plan needs none. Only `sendmsg` and `close` are called, which
    /// [`crate::enforce::Prepared::new`] made sure that the filters allow.
    ///
    /// # Errors
    /// When the observer is gone.
    pub fn give(&self, listener: Option<Listener>) -> io::Result<()> {
        match listener {
            Some(Listener(fd)) => self.send(&[LISTENER], &[fd.as_raw_fd()]),
            None => self.send(&[NO_LISTENER], &[]),
        }
    }

    /// Says why the program was not started; at most 4096 bytes of it arrive.
    ///
    /// # Errors
    /// When the observer is gone.
    pub fn fail(&self, text: &str) -> io::Result<()> {
        let mut message = vec![FAILURE];
        message.extend(text.bytes().take(LONGEST - 1));
        self.send(&message, &[])
    }

    fn send(&self, bytes: &[u8], descriptors: &[RawFd]) -> io::Result<()> {
        let rights = [ControlMessage::ScmRights(descriptors)];
        let control = if descriptors.is_empty() { &[][..] } else { &rights[..] };
        sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(bytes)], control, MsgFlags::MSG_NOSIGNAL, None)?;
        Ok(())
    }
}

impl Taker {
    /// Waits for what the other end says.
    pub(crate) fn take(&self) -> io::Result<Message> {
        self.receive(MsgFlags::empty())
    }

    /// What the other end said, if it said anything.
    pub(crate) fn poll(&self) -> io::Result<Option<Message>> {
        match self.receive(MsgFlags::MSG_DONTWAIT) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            said => said.map(Some),
        }
    }

    fn receive(&self, flags: MsgFlags) -> io::Result<Message> {
        let mut buffer = [0; LONGEST];
        let (length, descriptor) = loop {
            match descriptors::receive(self.0.as_fd(), &mut buffer, flags) {
                Err(Errno::EINTR) => {}
                // The other end died with something of ours unread: there is nothing of ours.
                Err(Errno::ECONNRESET) => break (0, None),
                received => break received?,
            }
        };
        match (buffer[..length].split_first(), descriptor) {
            (None, _) => Ok(Message::End),
            (Some((&LISTENER, _)), Some(fd)) => Ok(Message::Listener(fd)),
            (Some((&NO_LISTENER, _)), _) => Ok(Message::NoListener),
            (Some((&FAILURE, text)), _) => Ok(Message::Failure(String::from_utf8_lossy(text).into_owned())),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

impl AsFd for Giver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsFd for Taker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_arrives_as_a_descriptor_of_the_same_file() {
        let (giver, taker) = pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        let sent = nix::sys::stat::fstat(&file).unwrap().st_ino;
        giver.give(Some(Listener(file.into()))).unwrap();
        let Message::Listener(fd) = taker.take().unwrap() else { panic!("no listener") };
        assert_eq!(nix::sys::stat::fstat(&fd).unwrap().st_ino, sent);
        assert!(taker.poll().unwrap().is_none(), "the giver is still there");
        drop(giver);
        assert!(matches!(taker.poll().unwrap(), Some(Message::End)));
    }

    #[test]
    fn a_failure_arrives_cut_to_what_fits() {
        let (giver, taker) = pair().unwrap();
        giver.fail(&"x".repeat(9000)).unwrap();
        assert!(matches!(taker.take().unwrap(), Message::Failure(text) if text == "x".repeat(4096)));
    }

    #[test]
    fn giving_to_nobody_is_an_error_and_no_signal() {
        let (giver, taker) = pair().unwrap();
        drop(taker);
        assert_eq!(giver.give(None).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
