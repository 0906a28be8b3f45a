//! Execs: added first, started later, each behind the container's walls.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::SystemTime;

use containerd_shim_protos::events::task::{TaskExecAdded, TaskExecStarted};
use containerd_shim_protos::topics;

use super::starts::START;
use super::{Connections, Pod, unsigned};
use crate::child;
use crate::console::Console;
use crate::container::{Process, Target};
use crate::error::{Failure, Kind};
use crate::exec::{self, Exec};
use crate::identity::Id;
use crate::lifecycle::Step;
use crate::network::Birthplace;
use crate::observer::{Observer, Of};
use crate::reaper::Exit;
use crate::stdio::StdioRequest;

impl Pod {
    /// Adds an exec, to be started later.
    ///
    /// # Errors
    /// When there is no such container, it takes no exec, there is one of this id, or the process cannot be parsed.
    pub(crate) fn add_exec(
        &self,
        target: &Target,
        stdio: StdioRequest,
        spec: Vec<u8>,
    ) -> Result<(), Failure> {
        let Some(exec_id) = &target.exec else {
            return Err(Failure::new(Kind::Invalid, "an exec needs an id"));
        };
        exec::check_spec(exec_id, &spec)?;
        self.containers.with(&target.id, |container| {
            if container.execs.contains_key(exec_id) {
                return Err(Failure::new(
                    Kind::AlreadyExists,
                    format!("exec {} exists already", exec_id.as_str()),
                ));
            }
            container.takes_exec()?;
            container.execs.insert(exec_id.clone(), Process::new(stdio, spec));
            Ok(())
        })?;
        let event = TaskExecAdded {
            container_id: target.id.as_str().to_owned(),
            exec_id: exec_id.as_str().to_owned(),
            ..TaskExecAdded::default()
        };
        self.publisher.publish(topics::TASK_EXEC_ADDED_EVENT_TOPIC, &event);
        Ok(())
    }

    pub(super) async fn start_exec(&self, target: &Target, exec_id: &Id) -> Result<i32, Failure> {
        let expecting = self.reaper.expecting();
        let (exec, observer, cgroup, mut ours, terminal) = self.containers.with(&target.id, |container| {
            container.process(Some(exec_id))?.state.after(Step::Start)?;
            container.takes_exec()?;
            let process = container.execs.get_mut(exec_id).ok_or_else(|| {
                Failure::new(Kind::NotFound, format!("exec {} not found", exec_id.as_str()))
            })?;
            // A start whose streams cannot be had leaves an exec that can be deleted.
            let starting = process.state.after(Step::Start)?;
            let connections = Connections::make(&process.stdio, &container.config, self.owner(&target.id))?;
            process.state = starting;
            let console = connections.console_path();
            let (spec, is_session) = (std::mem::take(&mut process.spec), process.stdio.terminal);
            let Connections { theirs, ours, console: terminal, giver, taker } = connections;
            let of = Of::Exec { id: exec_id.as_str().to_owned(), session: is_session };
            let observer = Observer {
                of,
                folders: container.folders.clone(),
                data_dir: container.config.data_dir.clone(),
                taker,
                words: None,
            };
            let Birthplace { folder: cgroup, problem: no_cgroup } =
                Birthplace::find(&container.folders, container.init.pid);
            let exec = Exec {
                id: target.id.clone(),
                exec_id: exec_id.clone(),
                folders: container.folders.clone(),
                data_dir: container.config.data_dir.clone(),
                spec,
                stdio: theirs,
                console,
                giver,
                no_cgroup,
            };
            Ok((exec, observer, cgroup, ours, terminal))
        })?;
        let started = match ours.ready().await {
            Ok(()) => self.run_exec(exec, observer, cgroup.as_ref().map(AsFd::as_fd)).await,
            Err(failure) => Err(failure),
        };
        let connected = started.and_then(|pid| {
            let master = terminal.map(Console::receive).transpose();
            let relay = master.and_then(|master| ours.relay(master));
            let relay = relay.map_err(|err| Failure::internal("cannot connect the exec's streams", &err))?;
            Ok((pid, relay))
        });
        let (pid, relay) = match connected {
            Ok(connected) => connected,
            Err(failure) => {
                self.reaper.failed();
                self.containers.with_process(target, |process| {
                    let exit = Exit { code: 255, at: SystemTime::now() };
                    process.step(Step::Exit(exit))?;
                    process.ended.send_replace(Some(exit));
                    Ok(())
                })?;
                return Err(failure);
            }
        };
        self.containers.with_process(target, |process| {
            process.pid = pid;
            process.relay = Some(relay);
            process.step(Step::Started)
        })?;
        let event = TaskExecStarted {
            container_id: target.id.as_str().to_owned(),
            exec_id: exec_id.as_str().to_owned(),
            pid: unsigned(pid),
            ..TaskExecStarted::default()
        };
        self.publisher.publish(topics::TASK_EXEC_STARTED_EVENT_TOPIC, &event);
        self.watch(target.clone(), pid);
        drop(expecting);
        Ok(pid)
    }

    async fn run_exec(
        &self,
        exec: Exec,
        observer: Observer,
        cgroup: Option<BorrowedFd<'_>>,
    ) -> Result<i32, Failure> {
        let starting = exec.folders.starting(exec.exec_id.as_str());
        let started = self.run_children(exec, observer, cgroup).await;
        if let Err(err) = starting.remove() {
            tracing::error!(error = %err, "cannot remove what an exec needed to start");
        }
        started
    }

    /// One child observes the exec, another, which is born in the cgroup whose folder is open as `cgroup`, makes its process.
    async fn run_children(
        &self,
        exec: Exec,
        observer: Observer,
        cgroup: Option<BorrowedFd<'_>>,
    ) -> Result<i32, Failure> {
        let keep_observer = [observer.taker.as_fd().as_raw_fd()];
        let mut keep = exec.stdio.raw();
        keep.push(exec.giver.as_fd().as_raw_fd());
        let mut serving = child::spawn(&self.reaper, "observe the exec", &keep_observer, move |answers| {
            observer.run(&answers)
        })?;
        let start = move || exec::start(exec);
        match child::run_in(cgroup, &self.reaper, "start the exec", &keep, start).await {
            Ok(pid) => serving.answer::<()>(START).await.map(|()| pid),
            Err(failure) => {
                serving.kill();
                Err(failure)
            }
        }
    }
}
