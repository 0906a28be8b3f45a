//! How processes start: a container's by its observer, which waits for that from the creation on, an exec's by a child of its own.

use std::io::{PipeWriter, Write, pipe};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::time::Duration;

use containerd_shim_protos::events::task::TaskStart;
use containerd_shim_protos::topics;
use sandbox::handover::Taker;

use super::{Pod, unsigned};
use crate::child::{self, Child};
use crate::container::Target;
use crate::error::{Failure, Kind};
use crate::lifecycle::Step;
use crate::observer::{Observer, Of};
use crate::reaper::Reaper;
use crate::walls::Folders;

/// Longest from a start to the program's first instruction.
pub(super) const START: Duration = Duration::from_secs(60);

impl Pod {
    /// Starts a created container or an added exec; returns when its program runs behind its walls.
    ///
    /// # Errors
    /// When a wall cannot be raised, the program cannot be executed, or the state is another.
    pub(crate) async fn start(&self, target: &Target) -> Result<i32, Failure> {
        match &target.exec {
            None => self.start_init(target).await,
            Some(exec) => self.start_exec(target, exec).await,
        }
    }

    /// Tells a container's observer, once containerd has been answered, that the container is created: the kernel may run the observer
    /// at once in place of this process.
    pub(super) fn tell_of_creation(&self, target: Target) {
        let containers = self.containers.clone();
        tokio::spawn(async move {
            // Whatever is to be written now is written before it goes on.
            tokio::task::yield_now().await;
            let told = containers.with_process(&target, |process| {
                process.waiting.iter_mut().for_each(Waiting::created);
                Ok(())
            });
            if let Err(failure) = told {
                tracing::debug!(%failure, "it is gone already");
            }
        });
    }

    async fn start_init(&self, target: &Target) -> Result<i32, Failure> {
        let (pid, waiting) = self.containers.with(&target.id, |container| {
            container.init.step(Step::Start)?;
            let waiting = container
                .init
                .waiting
                .take()
                .ok_or_else(|| Failure::new(Kind::Precondition, "the container was started before"))?;
            Ok((container.init.pid, waiting))
        })?;
        waiting.start().await?;
        self.containers.with_process(target, |process| process.step(Step::Started))?;
        let event = TaskStart {
            container_id: target.id.as_str().to_owned(),
            pid: unsigned(pid),
            ..TaskStart::default()
        };
        self.publisher.publish(topics::TASK_START_EVENT_TOPIC, &event);
        Ok(pid)
    }
}

/// The observer of a container's own process until it starts that: what a start takes, but for the start itself, it does while
/// containerd is on its way to ask for one. Dropped, it ends.
#[derive(Debug)]
pub(crate) struct Waiting {
    child: Child,
    words: PipeWriter,
    /// Whether it knows that the container is created.
    knows: bool,
}

impl Waiting {
    /// Forks it. `taker` is where the listener will arrive.
    ///
    /// # Errors
    /// When the pipe or the child cannot be made.
    pub(super) fn fork(
        reaper: &Reaper,
        folders: Folders,
        data_dir: PathBuf,
        taker: Taker,
    ) -> Result<Self, Failure> {
        let (heard, words) = pipe().map_err(|err| Failure::internal("cannot make a pipe", &err))?;
        let keep = [taker.as_fd().as_raw_fd(), heard.as_raw_fd()];
        let observer = Observer { of: Of::Init, folders, data_dir, taker, words: Some(heard) };
        let observe = move |answers| observer.run(&answers);
        Ok(Self { child: child::spawn(reaper, "start the container", &keep, observe)?, words, knows: false })
    }

    /// Tells it that the container is created, unless it knows.
    fn created(&mut self) {
        if !std::mem::replace(&mut self.knows, true) {
            self.tell();
        }
    }

    /// Has it start the container, and waits until the program runs.
    ///
    /// # Errors
    /// What hindered it, then or before.
    async fn start(mut self) -> Result<(), Failure> {
        self.created();
        self.tell();
        self.child.answer(START).await
    }

    /// Says the next word. Whether the observer could not go on so far, its answer says.
    fn tell(&mut self) {
        if let Err(err) = self.words.write_all(&[0]) {
            tracing::debug!(error = %err, "the observer has ended");
        }
    }
}
