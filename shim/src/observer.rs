//! The process that answers one filter's listener: a small child of the shim, one for each container and exec, that
//! dies with it. Should it die, the kernel refuses what it would have answered.
//!
//! As it comes from the server it holds all that the server held. Once the program has run for a while it executes the shim
//! anew, as `observe`, and loads the little that it needs.

use std::convert::Infallible;
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, PipeReader, Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use containerd_shim::Flags;
use libcontainer::container::Container;
use nix::sys::memfd::{MFdFlags, memfd_create};
use profiles::Observation;
use profiles::record::Allow;
use sandbox::handover::Taker;
use sandbox::observe::{self, Event, Left, Listening, ObserveError, Until};
use serde::{Deserialize, Serialize};

use crate::child::Answers;
use crate::error::{Failure, Kind, chain};
use crate::network;
use crate::records::Recorder;
use crate::running::Running;
use crate::walls::{Folders, Walls};

/// The shim's action for an observer that executed it anew.
pub(crate) const OBSERVE: &str = "observe";

/// How the kernel calls the shim's processes: the first 15 bytes of its name.
const NAME: &CStr = c"containerd-shim";

/// Has glibc's allocator keep no small blocks back when they are freed: hundreds of them, scattered, hold as many pages. Source:
/// "Tunables" in glibc's manual.
const TUNABLES: &str = "GLIBC_TUNABLES";
const NO_CACHE: &str = "glibc.malloc.tcache_count=0";

/// Longest that is read of what an observer goes on with, in bytes: a thousand of the longest paths.
const MAX_KEPT: u64 = 8 << 20;

/// Whose listener it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Of {
    /// The container's own process, which the observer starts.
    Init,
    /// An exec, which another child creates and starts.
    Exec {
        /// Its id.
        id: String,
        /// Whether it is a session with a terminal.
        session: bool,
    },
}

impl Of {
    /// The walls that it belongs to.
    fn walls(&self, folders: &Folders) -> Result<Walls, Failure> {
        let walls =
            folders.load().map_err(|err| Failure::internal("cannot read the container's walls", &err))?;
        Ok(match self {
            Self::Init | Self::Exec { session: false, .. } => walls,
            Self::Exec { session: true, .. } => walls.of_session(),
        })
    }

    /// The exec's id.
    fn exec(&self) -> Option<&str> {
        match self {
            Self::Init => None,
            Self::Exec { id, .. } => Some(id),
        }
    }
}

/// What an observer needs.
#[derive(Debug)]
pub(crate) struct Observer {
    /// Whose listener.
    pub(crate) of: Of,
    /// The container's folders.
    pub(crate) folders: Folders,
    /// Where records go.
    pub(crate) data_dir: PathBuf,
    /// Where the listener arrives.
    pub(crate) taker: Taker,
    /// An init's: where the shim says, a byte for each, that the container is created, and that it is to start. An end instead says
    /// that it will not.
    pub(crate) words: Option<PipeReader>,
}

impl Observer {
    /// Raises the network wall and starts the container's process (if it is an init's observer, once it is told to), tells the shim when its
    /// program runs or why not, and serves the listener until the last of its processes is gone. The exit code of the child.
    pub(crate) fn run(self, answers: &Answers) -> i32 {
        let mut told = Told { answers, done: false };
        match self.serve(&mut told) {
            Ok(()) => 0,
            Err(failure) => {
                tracing::error!(%failure, "observer ended");
                told.tell(Err(failure));
                1
            }
        }
    }

    fn serve(mut self, told: &mut Told<'_>) -> Result<(), Failure> {
        if !self.hears_a_word()? {
            return Ok(());
        }
        let walls = self.of.walls(&self.folders)?;
        let mut recorder = walls.recorder(&self.data_dir, self.of.exec());
        let mut running = Running::new(self.folders.execs(), self.of.exec());
        let (mut denials, mut mounts) = (None, None);
        if matches!(self.of, Of::Init) {
            let failed = |err| Failure::internal("cannot start container", &err);
            let mut container = Container::load(self.folders.oci_state()).map_err(failed)?;
            // Name servers may be written until then: Docker sets up a container's network once it is created.
            let at_start = walls.plan.sockets.as_ref().is_some_and(|sockets| sockets.dns);
            if !at_start {
                denials = network::raise(&walls, &self.folders, &container)?;
            }
            // The kernel takes the mounts of a process apart before it tells of its end, unless somebody else has them too.
            mounts = container.pid().and_then(|pid| File::open(format!("/proc/{pid}/ns/mnt")).ok());
            if !self.hears_a_word()? {
                return Ok(());
            }
            if at_start {
                denials = network::raise(&walls, &self.folders, &container)?;
            }
            container.start().map_err(failed)?;
        }
        let mut labels = Labels::new(self.of.clone(), self.folders.clone());
        let served = observe::serve(
            &self.taker,
            walls.plan.clone(),
            &walls.programs,
            &walls.writable,
            denials,
            Until::Settled,
            &mut |event| handle(event, &mut labels, &mut running, &mut recorder, told),
        );
        recorder.settle();
        told.tell(Err(Failure::new(Kind::Internal, "the process ended before its program was started")));
        let Some(listening) = served.map_err(cannot_observe)? else { return Ok(()) };
        drop(mounts);
        let kept = Kept { of: self.of, folders: self.folders, data_dir: self.data_dir, running };
        // It returns only where it fails, and then this process goes on as it is.
        let Err(err) = kept.execute(&listening);
        tracing::warn!(error = %chain(err.as_ref()), "cannot execute the observer anew");
        kept.serve(walls, listening)
    }

    /// Waits for the next of the shim's words, where there are any; whether it came.
    fn hears_a_word(&mut self) -> Result<bool, Failure> {
        let heard = self.words.as_mut().map_or(Ok(()), |words| words.read_exact(&mut [0]));
        match heard {
            Ok(()) => Ok(true),
            Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(err) => Err(Failure::internal("cannot hear whether the container is to start", &err)),
        }
    }
}

/// What an observer goes on with in a new program.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    of: Of,
    folders: Folders,
    data_dir: PathBuf,
    running: Running,
}

impl Kept {
    /// Executes the shim in this process, which then serves `listening`.
    fn execute(&self, listening: &Listening) -> Result<Infallible> {
        // Read anew by the new program, for which there is no way back.
        self.of.walls(&self.folders)?;
        let text = serde_json::to_vec(&(self, listening.leave()?))?;
        ensure!(text.len() as u64 <= MAX_KEPT, "{} bytes are too much to go on with", text.len());
        let file =
            memfd_create(c"keep-observer", MFdFlags::MFD_CLOEXEC).context("cannot make a memory file")?;
        let mut file = File::from(file);
        file.write_all(&text).context("cannot write what to go on with")?;
        file.rewind()?;
        let mut arguments: Vec<_> = std::env::args_os().collect();
        // The last is the action.
        arguments.pop();
        let (name, arguments) = arguments.split_first().context("this process has no name")?;
        // The program's own file: what is at its path may be another version by now.
        let mut command = Command::new("/proc/self/exe");
        command.arg0(name).args(arguments).arg(OBSERVE).stdin(file).env(TUNABLES, NO_CACHE);
        Err(command.exec()).context("cannot execute the shim")
    }

    /// Serves until the last of the container's processes is gone.
    fn serve(mut self, walls: Walls, listening: Listening) -> Result<(), Failure> {
        let mut recorder = walls.recorder(&self.data_dir, self.of.exec());
        let Walls { plan, programs, writable, .. } = walls;
        let mut labels = Labels::new(self.of, self.folders);
        let served = observe::resume(listening, plan, &programs, &writable, &mut |event| {
            observed(event, &mut labels, &mut self.running, &mut recorder)
        });
        recorder.settle();
        served.map_err(cannot_observe)
    }
}

/// Says which label would allow something. What that takes is read when it is asked for, and kept until things have settled.
#[derive(Debug)]
struct Labels {
    of: Of,
    folders: Folders,
    walls: Option<Walls>,
}

impl Labels {
    fn new(of: Of, folders: Folders) -> Self {
        Self { of, folders, walls: None }
    }

    fn allow(&mut self, seen: &Observation) -> Result<Allow, String> {
        let walls = match self.walls.take() {
            Some(walls) => walls,
            None => self.of.walls(&self.folders).map_err(|failure| failure.to_string())?,
        };
        self.walls.insert(walls).allow(seen)
    }
}

fn cannot_observe(err: ObserveError) -> Failure {
    Failure::internal("cannot observe", &err)
}

/// Goes on with what the program before this one left to this process, on its standard input.
///
/// # Errors
/// When it left nothing, or observing fails.
pub(crate) fn go_on(flags: &Flags) -> Result<()> {
    crate::logging::init(flags.debug).context("cannot open the log")?;
    nix::sys::prctl::set_name(NAME).context("cannot name this process")?;
    let mut text = Vec::new();
    File::from(std::io::stdin().as_fd().try_clone_to_owned()?)
        .take(MAX_KEPT)
        .read_to_end(&mut text)
        .context("cannot read what to go on with")?;
    let (kept, left): (Kept, Left) =
        serde_json::from_slice(&text).context("cannot parse what to go on with")?;
    drop(text);
    let listening = Listening::take(left).context("cannot take over the listener")?;
    let served = kept.of.walls(&kept.folders).and_then(|walls| kept.serve(walls, listening));
    Ok(served.inspect_err(|failure| tracing::error!(%failure, "observer ended"))?)
}

fn handle(
    event: Event,
    labels: &mut Labels,
    running: &mut Running,
    recorder: &mut Recorder,
    told: &mut Told<'_>,
) {
    match event {
        Event::Started => told.tell(Ok(())),
        Event::Failed(why) => {
            told.tell(Err(Failure::new(Kind::Internal, format!("cannot start container: {why}"))))
        }
        event => observed(event, labels, running, recorder),
    }
}

/// Once the program runs.
fn observed(event: Event, labels: &mut Labels, running: &mut Running, recorder: &mut Recorder) {
    match event {
        Event::Started | Event::Failed(_) => {}
        Event::Settled => {
            recorder.settle();
            labels.walls = None;
            crate::idle::rest();
        }
        Event::Observed(observation) => recorder.observe(observation, |seen| labels.allow(seen)),
        Event::Executes { pid, program } => running.executes(pid, program),
        Event::Denied(denial) => {
            let (exec, observation) = running.attribute(denial);
            recorder.observe_of(exec, observation, |seen| labels.allow(seen));
        }
    }
}

/// Tells the shim once how the start went.
struct Told<'a> {
    answers: &'a Answers,
    done: bool,
}

impl Told<'_> {
    fn tell(&mut self, how: Result<(), Failure>) {
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        if let Err(err) = self.answers.send(&how) {
            tracing::debug!(error = %err, "the shim does not listen any more");
        }
    }
}
