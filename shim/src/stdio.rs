//! Standard streams: pipes towards the container's process, relayed to and from what containerd names (fifos, log files).
//!
//! The container never holds containerd's fifos themselves: it could not reopen them as `/dev/stdout` (they are
//! root's), and would share their state with the host.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::unistd::{Gid, Uid, fchown, pipe2};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::task::coop::consume_budget;

use crate::error::{Failure, Kind};
use crate::logger::Logger;

/// How long output may still drain after the process ended; a child that outlives it may hold the pipe open.
/// Source: containerd-shim-runc-v2 waits as long.
const DRAIN: Duration = Duration::from_secs(2);

/// Bytes relayed at a time.
const CHUNK: usize = 8192;

/// What containerd asks the streams to be connected to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StdioRequest {
    /// Fifo; empty: nothing.
    pub(crate) stdin: String,
    /// Fifo or log URI; empty: nothing.
    pub(crate) stdout: String,
    /// Fifo or log URI; empty: nothing.
    pub(crate) stderr: String,
    /// Whether the process gets a terminal.
    pub(crate) terminal: bool,
}

/// The process's ends; with a terminal there are none.
#[derive(Debug, Default)]
pub(crate) struct ProcessStdio {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

impl ProcessStdio {
    /// Their numbers.
    pub(crate) fn raw(&self) -> Vec<RawFd> {
        [&self.stdin, &self.stdout, &self.stderr].into_iter().flatten().map(AsRawFd::as_raw_fd).collect()
    }

    /// Gives the pipes to the container's user, so that its program may reopen `/dev/stdout`.
    ///
    /// # Errors
    /// When the owner cannot be changed.
    pub(crate) fn chown(&self, (uid, gid): (u32, u32)) -> nix::Result<()> {
        [&self.stdin, &self.stdout, &self.stderr]
            .into_iter()
            .flatten()
            .try_for_each(|fd| fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))))
    }

    /// Standard input, output and error.
    pub(crate) fn into_descriptors(self) -> [Option<OwnedFd>; 3] {
        [self.stdin, self.stdout, self.stderr]
    }
}

/// Where output goes.
#[derive(Debug)]
enum Sink {
    Pipe(pipe::Sender),
    File(File),
    Nowhere,
}

/// The shim's ends of one process's streams, and the tasks that relay them.
#[derive(Debug)]
pub(crate) struct Relay {
    outputs: Vec<JoinHandle<()>>,
    /// Set to close standard input once what was sent is through.
    close_stdin: watch::Sender<bool>,
    /// The terminal's master.
    master: Option<OwnedFd>,
}

/// The shim's side before the process exists.
#[derive(Debug)]
pub(crate) struct Prepared {
    input: Option<(pipe::Receiver, Option<pipe::Sender>)>,
    outputs: Vec<(Option<pipe::Receiver>, Sink)>,
    logger: Option<Logger>,
}

/// Whose streams they are, for a logging program.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner<'a> {
    /// Container id.
    pub(crate) id: &'a str,
    /// containerd namespace.
    pub(crate) namespace: &'a str,
}

/// Opens what containerd names and makes the pipes.
///
/// # Errors
/// When a fifo or log cannot be opened, or a logging program not be started.
pub(crate) fn prepare(request: &StdioRequest, owner: Owner<'_>) -> Result<(ProcessStdio, Prepared), Failure> {
    let (logger, sinks) = if request.stdout.starts_with("binary://") {
        let (logger, pipes) = Logger::start(&request.stdout, owner.id, owner.namespace)?;
        (Some(logger), [Some(pipes.stdout), Some(pipes.stderr)])
    } else {
        (None, [None, None])
    };
    prepare_io(request, logger, sinks).map_err(|(what, err)| {
        Failure::new(Kind::Invalid, format!("cannot connect the standard streams: {what}: {err}"))
    })
}

fn prepare_io(
    request: &StdioRequest,
    logger: Option<Logger>,
    sinks: [Option<OwnedFd>; 2],
) -> Result<(ProcessStdio, Prepared), (String, io::Error)> {
    let mut process = ProcessStdio::default();
    let mut prepared = Prepared { input: None, outputs: Vec::new(), logger };
    let at = |what: &str| {
        let what = what.to_owned();
        move |err: io::Error| (what, err)
    };
    if !request.stdin.is_empty() {
        // Opened for writing as well, as under runc: input ends when containerd says so, not when one of its writers leaves.
        let fifo = pipe::OpenOptions::new().read_write(true).open_receiver(&request.stdin);
        let fifo = fifo.map_err(at(&request.stdin))?;
        let sender = if request.terminal {
            None
        } else {
            let (theirs, ours) = pair().map_err(at("pipe"))?;
            process.stdin = Some(theirs);
            Some(pipe::Sender::from_owned_fd(ours).map_err(at("pipe"))?)
        };
        prepared.input = Some((fifo, sender));
    }
    let outputs = [(&request.stdout, &mut process.stdout), (&request.stderr, &mut process.stderr)];
    for ((target, theirs), logger) in outputs.into_iter().zip(sinks) {
        // A terminal has one output.
        if target.is_empty() || (request.terminal && !prepared.outputs.is_empty()) {
            continue;
        }
        let sink = match logger {
            Some(pipe) => Sink::Pipe(pipe::Sender::from_owned_fd(pipe).map_err(at(target))?),
            None => Sink::open(target).map_err(at(target))?,
        };
        let receiver = if request.terminal {
            None
        } else {
            let (ours, end) = pair().map_err(at("pipe"))?;
            *theirs = Some(end);
            Some(pipe::Receiver::from_owned_fd(ours).map_err(at("pipe"))?)
        };
        prepared.outputs.push((receiver, sink));
    }
    Ok((process, prepared))
}

/// Reading and writing end of a new pipe.
fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(pipe2(OFlag::O_CLOEXEC)?)
}

impl Sink {
    fn open(target: &str) -> io::Result<Self> {
        let (scheme, path) = match target.split_once("://") {
            Some((scheme, rest)) => (scheme, Path::new(rest.split('?').next().unwrap_or(rest))),
            None => ("fifo", Path::new(target)),
        };
        match scheme {
            // Opened for reading as well, so that a reader that comes late or leaves is no error, as under runc.
            "fifo" if is_fifo(path) => {
                Ok(Self::Pipe(pipe::OpenOptions::new().read_write(true).open_sender(path)?))
            }
            "fifo" if path == Path::new("/dev/null") => Ok(Self::Nowhere),
            "fifo" | "file" => {
                Ok(Self::File(OpenOptions::new().append(true).create(true).mode(0o640).open(path)?))
            }
            other => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("log scheme {other:?} is not offered; fifo, file and binary are"),
            )),
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Pipe(fifo) => fifo.write_all(bytes).await,
            Self::File(file) => file.write_all(bytes),
            Self::Nowhere => Ok(()),
        }
    }
}

fn is_fifo(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo())
}

impl Prepared {
    /// Waits until the logging program, if there is one, is ready for output.
    ///
    /// # Errors
    /// When it takes too long.
    pub(crate) async fn ready(&mut self) -> Result<(), Failure> {
        match self.logger.take() {
            Some(logger) => logger.ready().await,
            None => Ok(()),
        }
    }

    /// Starts relaying, over the terminal's master if there is one.
    ///
    /// # Errors
    /// When the master cannot be used.
    pub(crate) fn relay(self, master: Option<OwnedFd>) -> io::Result<Relay> {
        let (close_stdin, closed) = watch::channel(false);
        if let Some(master) = &master {
            nix::fcntl::fcntl(master, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK))?;
        }
        if let Some((fifo, sender)) = self.input {
            let sender = match (sender, &master) {
                (Some(sender), _) => Some(sender),
                (None, Some(master)) => Some(pipe::Sender::from_owned_fd_unchecked(master.try_clone()?)?),
                (None, None) => None,
            };
            if let Some(sender) = sender {
                tokio::spawn(input(fifo, sender, closed));
            }
        }
        let mut outputs = Vec::new();
        for (receiver, sink) in self.outputs {
            let receiver = match (receiver, &master) {
                (Some(receiver), _) => Some(receiver),
                (None, Some(master)) => Some(pipe::Receiver::from_owned_fd_unchecked(master.try_clone()?)?),
                (None, None) => None,
            };
            outputs.extend(receiver.map(|receiver| tokio::spawn(output(receiver, sink))));
        }
        Ok(Relay { outputs, close_stdin, master })
    }
}

impl Relay {
    /// Closes the process's standard input once what was sent is through.
    pub(crate) fn close_stdin(&self) {
        self.close_stdin.send_replace(true);
    }

    /// The terminal's master, if there is a terminal.
    pub(crate) fn master(&self) -> Option<&OwnedFd> {
        self.master.as_ref()
    }

    /// Waits until all output has been relayed, but not for ever.
    pub(crate) async fn drain(self) {
        let aborts: Vec<_> = self.outputs.iter().map(JoinHandle::abort_handle).collect();
        let all = async {
            for output in self.outputs {
                if let Err(err) = output.await {
                    tracing::debug!(error = %err, "a stream's relay ended early");
                }
            }
        };
        if tokio::time::timeout(DRAIN, all).await.is_err() {
            aborts.iter().for_each(tokio::task::AbortHandle::abort);
        }
    }
}

/// What can be read from a stream at once. Nobody holds it while he waits for more: most streams are silent, and many.
enum Chunk {
    Bytes(Vec<u8>),
    /// Nothing yet.
    Later,
    /// No more: the end of file, or what a terminal's last reader sees instead, EIO.
    End,
}

impl Chunk {
    fn read(stream: &pipe::Receiver) -> Self {
        let mut bytes = Vec::with_capacity(CHUNK);
        match stream.try_read_buf(&mut bytes) {
            Ok(1..) => Self::Bytes(bytes),
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => Self::Later,
            Ok(0) | Err(_) => Self::End,
        }
    }
}

async fn input(fifo: pipe::Receiver, mut process: pipe::Sender, mut closed: watch::Receiver<bool>) {
    loop {
        let told = tokio::select! {
            biased;
            readable = fifo.readable() => readable.map(|()| false),
            changed = closed.changed() => changed.map(|()| true).map_err(io::Error::other),
        };
        match told {
            Ok(false) => {}
            Ok(true) => return rest(&fifo, &mut process).await,
            Err(_) => return,
        }
        match Chunk::read(&fifo) {
            Chunk::Bytes(bytes) if process.write_all(&bytes).await.is_ok() => {}
            Chunk::Later => {}
            Chunk::Bytes(_) | Chunk::End => return,
        }
    }
}

/// Relays what is in the fifo already.
async fn rest(fifo: &pipe::Receiver, process: &mut pipe::Sender) {
    while let Chunk::Bytes(bytes) = Chunk::read(fifo) {
        if process.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

async fn output(process: pipe::Receiver, mut sink: Sink) {
    while process.readable().await.is_ok() {
        match Chunk::read(&process) {
            Chunk::Bytes(bytes) => {
                if let Err(err) = sink.write(&bytes).await {
                    tracing::warn!(error = %err, "output is lost: its reader failed");
                    sink = Sink::Nowhere;
                }
            }
            Chunk::Later => {}
            Chunk::End => return,
        }
        // A log file takes all that there is: others get their turn here.
        consume_budget().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_log_scheme_is_refused_by_name() {
        let err = Sink::open("carrier-pigeon:///x").unwrap_err();
        assert!(err.to_string().contains("carrier-pigeon"));
    }
}
