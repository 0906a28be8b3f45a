//! How processes end: their exits, in order, and what is told of them; waiting; deleting.

use std::path::PathBuf;
use std::time::Duration;

use containerd_shim_protos::events::task::{TaskDelete, TaskExit, TaskOOM};
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::topics;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::{Pod, unsigned};
use crate::container::Target;
use crate::error::{Failure, Kind};
use crate::events::timestamp;
use crate::identity::Id;
use crate::lifecycle::{Lifecycle, Step};
use crate::oom::Watch;
use crate::reaper::Exit;
use crate::walls::Folders;
use crate::{cgroup, child, remove, running};

/// Longest that a container's other processes may take to end after its own did.
const REST: Duration = Duration::from_secs(10);

impl Pod {
    /// Follows a process to its end. To be called while an `Expecting` lives.
    pub(super) fn watch(&self, target: Target, pid: i32) {
        let exit = self.reaper.exit_of(Pid::from_raw(pid));
        let pod = self.clone();
        tokio::spawn(async move {
            let Ok(exit) = exit.await else { return };
            if target.exec.is_none() {
                pod.end_rest(&target.id).await;
            }
            pod.exited(&target, pid, exit);
        });
    }

    /// Watches the container's memory from now on. A container that cannot be watched runs all the same, as under runc.
    pub(super) fn watch_memory(&self, id: &Id, pid: i32) {
        let (publisher, container_id) = (self.publisher.clone(), id.as_str().to_owned());
        let told = move || {
            let event = TaskOOM { container_id: container_id.clone(), ..TaskOOM::default() };
            publisher.publish(topics::TASK_OOM_EVENT_TOPIC, &event);
        };
        let watched = Watch::start(pid, told).map_err(|err| {
            Failure::internal(&format!("cannot watch the memory of container {}", id.as_str()), &err)
        });
        let kept = watched.and_then(|watch| {
            self.containers.with(id, |container| {
                container.memory = Some(watch);
                Ok(())
            })
        });
        if let Err(failure) = kept {
            tracing::warn!(%failure, "should it run out of memory, nobody will be told");
        }
    }

    /// A container's own process is the last to end: what else it has is killed where the kernel does not, and their exits
    /// come first.
    async fn end_rest(&self, id: &Id) {
        let rest = self.containers.with(id, |container| {
            let running = container.execs.values().filter(|exec| exec.state.has_process());
            let ends: Vec<_> = running.map(|exec| exec.ended.subscribe()).collect();
            Ok((container.folders.clone(), container.own_pids, container.init.pid, ends))
        });
        let Ok((folders, own_pids, init, ends)) = rest else { return };
        if !own_pids {
            let killed = child::run(&self.reaper, "end the container's other processes", &[], move || {
                cgroup::signal_all(&folders, Signal::SIGKILL as i32, init)
            });
            if let Err(failure) = killed.await {
                tracing::error!(%failure, "processes of a container outlive it");
            }
        }
        let all = async {
            for mut end in ends {
                if end.wait_for(Option::is_some).await.is_err() {
                    tracing::debug!("an exec was deleted while its container ended");
                }
            }
        };
        if tokio::time::timeout(REST, all).await.is_err() {
            tracing::warn!(id = id.as_str(), "execs of a container outlive it");
        }
    }

    fn exited(&self, target: &Target, pid: i32, exit: Exit) {
        self.tell_of_memory(target);
        let stepped = self.containers.with_process(target, |process| {
            process.step(Step::Exit(exit))?;
            process.waiting = None;
            process.ended.send_replace(Some(exit));
            Ok(())
        });
        if let Err(failure) = stepped {
            tracing::warn!(%failure, pid, "an exit came for what is not there any more");
        }
        let id = target.exec.as_ref().unwrap_or(&target.id);
        let event = TaskExit {
            container_id: target.id.as_str().to_owned(),
            id: id.as_str().to_owned(),
            pid: unsigned(pid),
            exit_status: exit.code,
            exited_at: MessageField::some(timestamp(exit.at)),
            ..TaskExit::default()
        };
        self.publisher.publish(topics::TASK_EXIT_EVENT_TOPIC, &event);
    }

    /// Tells, before an exit, that the container ran out of memory, if it did. After its own process's end there is nothing
    /// left to watch.
    fn tell_of_memory(&self, target: &Target) {
        let ran_out = self.containers.with(&target.id, |container| {
            let ran_out = container.memory.as_ref().is_some_and(Watch::take);
            if target.exec.is_none() {
                container.memory = None;
            }
            Ok(ran_out)
        });
        if ran_out == Ok(true) {
            let event = TaskOOM { container_id: target.id.as_str().to_owned(), ..TaskOOM::default() };
            self.publisher.publish(topics::TASK_OOM_EVENT_TOPIC, &event);
        }
    }

    /// Waits for a process's end.
    ///
    /// # Errors
    /// When there is no such process.
    pub(crate) async fn wait(&self, target: &Target) -> Result<Exit, Failure> {
        let mut ended = self.containers.with_process(target, |process| Ok(process.ended.subscribe()))?;
        let exit = ended
            .wait_for(Option::is_some)
            .await
            .map_err(|_| Failure::new(Kind::NotFound, "the process was deleted while it was waited for"))?;
        exit.ok_or_else(|| Failure::new(Kind::Internal, "an exit was lost"))
    }

    /// Deletes a process that ended or was never started, and for the container's own the container. Its exit, if it had one.
    ///
    /// # Errors
    /// When it still runs, or cannot be removed.
    pub(crate) async fn delete(&self, target: &Target) -> Result<(i32, Option<Exit>), Failure> {
        self.end_unstarted(target).await?;
        let (pid, exit, relay, folders, bundle) = self.containers.with(&target.id, |container| {
            let (folders, bundle) = (container.folders.clone(), container.bundle.clone());
            let process = container.process(target.exec.as_ref())?;
            let exit = match process.state {
                Lifecycle::Stopped(exit) => Some(exit),
                Lifecycle::Added => None,
                Lifecycle::Created | Lifecycle::Starting | Lifecycle::Running | Lifecycle::Paused => {
                    return Err(Failure::new(
                        Kind::Precondition,
                        "a process that has not ended cannot be deleted",
                    ));
                }
            };
            Ok((process.pid, exit, process.relay.take(), folders, bundle))
        })?;
        if let Some(relay) = relay {
            relay.drain().await;
        }
        match &target.exec {
            Some(exec) => self.containers.with(&target.id, |container| {
                container.execs.remove(exec);
                running::forget(&folders.execs(), exec.as_str());
                Ok(())
            })?,
            None => self.remove(target, pid, exit, folders, bundle).await?,
        }
        Ok((pid, exit))
    }

    /// Ends the process of a container that was created and never started: it may be deleted as it is.
    async fn end_unstarted(&self, target: &Target) -> Result<(), Failure> {
        let pid = self.containers.with_process(target, |process| {
            Ok((process.state == Lifecycle::Created).then_some(process.pid))
        })?;
        let Some(pid) = pid else { return Ok(()) };
        super::upkeep::signal_one(pid, Signal::SIGKILL as i32)?;
        let ended = tokio::time::timeout(REST, self.wait(target)).await;
        ended.map_err(|_| Failure::new(Kind::Deadline, "the container's process does not end"))?.map(drop)
    }

    async fn remove(
        &self,
        target: &Target,
        pid: i32,
        exit: Option<Exit>,
        folders: Folders,
        bundle: PathBuf,
    ) -> Result<(), Failure> {
        // The kernel takes its time to let a file system go; the rest is removed meanwhile. Whoever removes that makes sure that it is
        // unmounted.
        let rootfs = remove::rootfs(&bundle);
        let unmount = move || remove::unmount(&rootfs);
        let unmounting = child::begin_in(None, &self.reaper, "unmount the root filesystem", &[], unmount);
        child::run(&self.reaper, "delete the container", &[], move || remove::remove(&folders, &bundle))
            .await?;
        let unmounted = match unmounting {
            Ok(mut child) => child.answer::<()>(child::DEADLINE).await,
            Err(failure) => Err(failure),
        };
        if let Err(failure) = unmounted {
            tracing::debug!(%failure, "it was done where the rest was removed");
        }
        self.containers.remove(&target.id);
        self.end_if_unused();
        let event = TaskDelete {
            container_id: target.id.as_str().to_owned(),
            pid: unsigned(pid),
            exit_status: exit.map(|exit| exit.code).unwrap_or_default(),
            exited_at: exit.map(|exit| timestamp(exit.at)).into(),
            ..TaskDelete::default()
        };
        self.publisher.publish(topics::TASK_DELETE_EVENT_TOPIC, &event);
        Ok(())
    }
}
