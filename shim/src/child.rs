//! One short-lived child for each operation that needs libcontainer, memory, or blocking calls. The shim itself stays
//! single-threaded and small, and a failure in libcontainer cannot take it down.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, pipe2};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

use crate::error::{Failure, Kind};
use crate::reaper::{Exit, Reaper};

/// Longest answer of a child, in bytes.
const MAX_ANSWER: u32 = 1 << 20;

/// Longest that any operation may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// Runs `operation` in a child that keeps the descriptors `keep`, and waits for its answer. What `operation` owns is
/// the child's; the shim's copies are closed at once.
///
/// # Errors
/// The operation's own failure; or an internal one when the child cannot be forked, dies, or takes too long.
pub(crate) async fn run<T, F>(reaper: &Reaper, what: &str, keep: &[RawFd], operation: F) -> Result<T, Failure>
where
    T: Serialize + DeserializeOwned,
    F: FnOnce() -> Result<T, Failure>,
{
    run_in(None, reaper, what, keep, operation).await
}

/// As [`run`], in a child that is born in the cgroup whose folder is open as `cgroup`, if the kernel can do that.
///
/// # Errors
/// As [`run`].
pub(crate) async fn run_in<T, F>(
    cgroup: Option<BorrowedFd<'_>>,
    reaper: &Reaper,
    what: &str,
    keep: &[RawFd],
    operation: F,
) -> Result<T, Failure>
where
    T: Serialize + DeserializeOwned,
    F: FnOnce() -> Result<T, Failure>,
{
    begin_in(cgroup, reaper, what, keep, operation)?.answer(DEADLINE).await
}

/// Begins what [`run_in`] does; the child's answer, for which [`DEADLINE`] is the longest to wait, is `operation`'s.
///
/// # Errors
/// When the child cannot be forked.
pub(crate) fn begin_in<T, F>(
    cgroup: Option<BorrowedFd<'_>>,
    reaper: &Reaper,
    what: &str,
    keep: &[RawFd],
    operation: F,
) -> Result<Child, Failure>
where
    T: Serialize,
    F: FnOnce() -> Result<T, Failure>,
{
    let body = |answers: Answers| i32::from(answers.send(&operation()).is_err());
    spawn_in(cgroup, reaper, what, keep, body)
}

/// Where a child writes its answers.
#[derive(Debug)]
pub(crate) struct Answers(File);

impl Answers {
    /// Sends one answer, framed by its length: the container's init inherits the pipe and holds it open until its
    /// `execve`, so the end of file says nothing.
    ///
    /// # Errors
    /// When the shim is gone.
    pub(crate) fn send<T: Serialize>(&self, answer: &Result<T, Failure>) -> io::Result<()> {
        let json = serde_json::to_vec(answer)?;
        let length = u32::try_from(json.len()).map_err(io::Error::other)?;
        let mut frame = length.to_le_bytes().to_vec();
        frame.extend_from_slice(&json);
        (&self.0).write_all(&frame)
    }
}

/// A child that is running, and the pipe on which it answers.
#[derive(Debug)]
pub(crate) struct Child {
    what: String,
    pid: Pid,
    answers: pipe::Receiver,
    exit: oneshot::Receiver<Exit>,
}

/// Forks a child that keeps `keep` and a pipe for its answers.
///
/// # Errors
/// When the pipe or the child cannot be made.
pub(crate) fn spawn(
    reaper: &Reaper,
    what: &str,
    keep: &[RawFd],
    body: impl FnOnce(Answers) -> i32,
) -> Result<Child, Failure> {
    spawn_in(None, reaper, what, keep, body)
}

fn spawn_in(
    cgroup: Option<BorrowedFd<'_>>,
    reaper: &Reaper,
    what: &str,
    keep: &[RawFd],
    body: impl FnOnce(Answers) -> i32,
) -> Result<Child, Failure> {
    let fail = |err: &(dyn std::error::Error + 'static)| {
        Failure::internal(&format!("cannot start a child to {what}"), err)
    };
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).map_err(|err| fail(&err))?;
    let answers = pipe::Receiver::from_owned_fd(reader).map_err(|err| fail(&err))?;
    let mut all = keep.to_vec();
    all.push(writer.as_raw_fd());
    all.extend(crate::logging::descriptor());
    let writer = Answers(File::from(writer));
    let expecting = reaper.expecting();
    let pid = sandbox::process::spawn_in(cgroup, &all, move || body(writer)).map_err(|err| fail(&err))?;
    let exit = reaper.exit_of(pid);
    drop(expecting);
    Ok(Child { what: what.to_owned(), pid, answers, exit })
}

impl Child {
    /// The next answer.
    ///
    /// # Errors
    /// The answer's own failure, or an internal one when the child dies or `deadline` passes; then it is killed.
    pub(crate) async fn answer<T: DeserializeOwned>(&mut self, deadline: Duration) -> Result<T, Failure> {
        let Ok(answer) = tokio::time::timeout(deadline, self.read()).await else {
            self.kill();
            return Err(Failure::new(
                Kind::Deadline,
                format!("{} took longer than {} s", self.what, deadline.as_secs()),
            ));
        };
        let bytes = answer?;
        serde_json::from_slice::<Result<T, Failure>>(&bytes).map_err(|err| {
            Failure::internal(&format!("{}: unexpected answer of the child", self.what), &err)
        })?
    }

    async fn read(&mut self) -> Result<Vec<u8>, Failure> {
        let what = self.what.clone();
        let died =
            move |how: String| Failure::new(Kind::Internal, format!("{what}: the child that does it {how}"));
        tokio::select! {
            biased;
            frame = frame(&mut self.answers) => frame.map_err(|err| died(format!("ended without an answer ({err})"))),
            exit = &mut self.exit => match exit {
                // Its answer may be in the pipe already.
                Ok(exit) => match tokio::time::timeout(AFTER_EXIT, frame(&mut self.answers)).await {
                    Ok(Ok(bytes)) => Ok(bytes),
                    _ => Err(died(format!("exited with code {}", exit.code))),
                },
                Err(_) => Err(died("was lost".to_owned())),
            },
        }
    }

    /// Ends the child; the reaper collects it.
    pub(crate) fn kill(&self) {
        if let Err(errno) = nix::sys::signal::kill(self.pid, Signal::SIGKILL) {
            tracing::debug!(%errno, pid = %self.pid, "a child had ended before it was killed");
        }
    }
}

/// How long an answer may still take after the child's exit was seen.
const AFTER_EXIT: Duration = Duration::from_millis(50);

async fn frame(pipe: &mut pipe::Receiver) -> io::Result<Vec<u8>> {
    let length = pipe.read_u32_le().await?;
    if length > MAX_ANSWER {
        return Err(io::Error::other("the answer is too long"));
    }
    let mut bytes = vec![0; length as usize];
    pipe.read_exact(&mut bytes).await?;
    Ok(bytes)
}
