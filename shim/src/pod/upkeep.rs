//! What is done to containers while they run: signals, freezing, terminals, limits, metrics.

use containerd_shim_protos::events::task::{TaskPaused, TaskResumed};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::topics;
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::{Pod, unsigned};
use crate::container::Target;
use crate::error::{Failure, Kind};
use crate::identity::Id;
use crate::lifecycle::{Lifecycle, Step};
use crate::{cgroup, child, console, stats, stdio};

impl Pod {
    /// Sends a signal to one process, or to all of the container's.
    ///
    /// # Errors
    /// When there is no such process, or it has ended.
    pub(crate) async fn kill(&self, target: &Target, signal: i32, all: bool) -> Result<(), Failure> {
        let (pid, state, folders) = self
            .containers
            .with(&target.id, |container| Ok(container.folders.clone()))
            .and_then(|folders| {
                self.containers.with_process(target, |process| Ok((process.pid, process.state, folders)))
            })?;
        // An exec is one process, as under runc. Of a container that has stopped something may run on where it shares a process
        // namespace.
        let all = all && target.exec.is_none();
        if !all {
            match state {
                Lifecycle::Stopped(_) => {
                    return Err(Failure::new(Kind::NotFound, "process already finished"));
                }
                Lifecycle::Added => {
                    return Err(Failure::new(Kind::Precondition, "the exec has no process yet"));
                }
                Lifecycle::Created | Lifecycle::Starting | Lifecycle::Running | Lifecycle::Paused => {
                    signal_one(pid, signal)?;
                }
            }
        }
        let thaws = state == Lifecycle::Paused && signal == Signal::SIGKILL as i32;
        if !all && !thaws {
            return Ok(());
        }
        child::run(&self.reaper, "signal the container", &[], move || {
            if all {
                cgroup::signal_all(&folders, signal, pid)?;
            }
            if thaws { cgroup::thaw(&folders) } else { Ok(()) }
        })
        .await
    }

    /// Freezes the container's processes.
    ///
    /// # Errors
    /// When it does not run or cannot be frozen.
    pub(crate) async fn pause(&self, id: &Id) -> Result<(), Failure> {
        self.freeze(id, Step::Pause).await?;
        let event = TaskPaused { container_id: id.as_str().to_owned(), ..TaskPaused::default() };
        self.publisher.publish(topics::TASK_PAUSED_EVENT_TOPIC, &event);
        Ok(())
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// When it is not paused or cannot be thawed.
    pub(crate) async fn resume(&self, id: &Id) -> Result<(), Failure> {
        self.freeze(id, Step::Resume).await?;
        let event = TaskResumed { container_id: id.as_str().to_owned(), ..TaskResumed::default() };
        self.publisher.publish(topics::TASK_RESUMED_EVENT_TOPIC, &event);
        Ok(())
    }

    async fn freeze(&self, id: &Id, step: Step) -> Result<(), Failure> {
        let folders = self.containers.with(id, |container| {
            container.init.state.after(step)?;
            Ok(container.folders.clone())
        })?;
        child::run(&self.reaper, "freeze or thaw the container", &[], move || cgroup::freeze(&folders, step))
            .await?;
        self.containers.with(id, |container| container.init.step(step))
    }

    /// Sets a terminal's size.
    ///
    /// # Errors
    /// When there is no such process.
    pub(crate) fn resize(&self, target: &Target, columns: u16, rows: u16) -> Result<(), Failure> {
        self.containers.with_process(target, |process| {
            match process.relay.as_ref().and_then(stdio::Relay::master) {
                Some(master) => console::resize(master, columns, rows)
                    .map_err(|err| Failure::internal("cannot resize the terminal", &err)),
                // containerd sends sizes before the terminal is there and after it is gone, and runc's shim takes them for
                // processes without one too.
                None => Ok(()),
            }
        })
    }

    /// Closes a process's standard input.
    ///
    /// # Errors
    /// When there is no such process.
    pub(crate) fn close_stdin(&self, target: &Target) -> Result<(), Failure> {
        self.containers.with_process(target, |process| {
            if let Some(relay) = &process.relay {
                relay.close_stdin();
            }
            Ok(())
        })
    }

    /// Process ids of the container, in the shim's pid namespace, and which exec each is.
    ///
    /// # Errors
    /// When its cgroup cannot be read.
    pub(crate) async fn pids(&self, id: &Id) -> Result<Vec<(i32, Option<Id>)>, Failure> {
        let folders = self.containers.with(id, |container| Ok(container.folders.clone()))?;
        let pids =
            child::run(&self.reaper, "list the container's processes", &[], move || cgroup::pids(&folders));
        let pids = pids.await?;
        self.containers.with(id, |container| {
            let exec =
                |pid| container.execs.iter().find(|(_, exec)| exec.pid == pid).map(|(id, _)| id.clone());
            Ok(pids.into_iter().map(|pid| (pid, exec(pid))).collect())
        })
    }

    /// Metrics of the container's cgroup.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(crate) async fn stats(&self, id: &Id) -> Result<Any, Failure> {
        let pid = self.containers.with(id, |container| Ok(container.init.pid))?;
        let encoded =
            child::run(&self.reaper, "read the container's metrics", &[], move || stats::of(pid)).await?;
        Ok(Any { type_url: encoded.type_url, value: encoded.value, ..Any::default() })
    }

    /// Changes the container's limits; `json` is a runtime spec's `linux.resources`.
    ///
    /// # Errors
    /// When it is no such JSON, the container has stopped, or a limit cannot be set.
    pub(crate) async fn update(&self, id: &Id, json: Vec<u8>) -> Result<(), Failure> {
        let (pid, folders) = self.containers.with(id, |container| match container.init.state {
            Lifecycle::Stopped(_) => {
                Err(Failure::new(Kind::Precondition, "cannot update a container that has stopped"))
            }
            _ => Ok((unsigned(container.init.pid), container.folders.clone())),
        })?;
        let update = move || cgroup::update(&folders, pid, &json);
        child::run(&self.reaper, "change the container's limits", &[], update).await
    }
}

/// Sends a signal to one process.
///
/// # Errors
/// When there is no such process or signal.
pub(super) fn signal_one(pid: i32, signal: i32) -> Result<(), Failure> {
    match sandbox::process::signal(Pid::from_raw(pid), signal) {
        Ok(()) => Ok(()),
        Err(Errno::ESRCH) => Err(Failure::new(Kind::NotFound, "process already finished")),
        Err(Errno::EINVAL) => Err(Failure::new(Kind::Invalid, format!("there is no signal {signal}"))),
        Err(errno) => Err(Failure::internal(&format!("cannot send signal {signal}"), &errno)),
    }
}
