//! The task API's edge: containerd's messages become our own types here, and our failures its status codes.

use std::path::PathBuf;

use async_trait::async_trait;
use containerd_shim_protos::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
    CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest, PauseRequest,
    PidsRequest, PidsResponse, ProcessInfo, ResizePtyRequest, ResumeRequest, ShutdownRequest, StartRequest,
    StartResponse, StateRequest, StateResponse, StatsRequest, StatsResponse, Status, UpdateTaskRequest,
    WaitRequest, WaitResponse,
};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::shim::oci::ProcessDetails;
use containerd_shim_protos::shim_async::Task;
use containerd_shim_protos::ttrpc::Result as TtrpcResult;
use containerd_shim_protos::ttrpc::r#async::TtrpcContext;

use crate::config::Config;
use crate::container::Target;
use crate::error::{Failure, Kind};
use crate::events::{timestamp, type_url};
use crate::identity::Id;
use crate::lifecycle::Lifecycle;
use crate::pod::{NewContainer, Pod};
use crate::reaper::Exit;
use crate::rootfs::RootfsMount;
use crate::stdio::StdioRequest;

/// Answers containerd's calls for one pod.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    /// The pod.
    pub(crate) pod: Pod,
}

impl Service {
    /// The container that a request means, once its creation, if that is under way, has come to its end.
    async fn id(&self, id: &str) -> Result<Id, Failure> {
        let id = Id::parse(id)?;
        self.pod.containers.settled(&id).await;
        Ok(id)
    }

    /// The process that it means, likewise.
    async fn target(&self, id: &str, exec: &str) -> Result<Target, Failure> {
        let target = Target::parse(id, exec)?;
        self.pod.containers.settled(&target.id).await;
        Ok(target)
    }
}

#[async_trait]
impl Task for Service {
    async fn create(&self, _: &TtrpcContext, req: CreateTaskRequest) -> TtrpcResult<CreateTaskResponse> {
        if !req.checkpoint.is_empty() {
            return Err(Failure::new(Kind::Unimplemented, "Keep restores no checkpoints").into());
        }
        let new = NewContainer {
            id: Id::parse(&req.id)?,
            bundle: PathBuf::from(&req.bundle),
            config: Config::from_options(req.options.as_ref())
                .map_err(|err| Failure::from_error(Kind::Invalid, &err))?,
            rootfs: req
                .rootfs
                .iter()
                .map(|m| RootfsMount {
                    kind: m.type_.clone(),
                    source: m.source.clone(),
                    options: m.options.clone(),
                })
                .collect(),
            stdio: StdioRequest {
                stdin: req.stdin.clone(),
                stdout: req.stdout.clone(),
                stderr: req.stderr.clone(),
                terminal: req.terminal,
            },
        };
        let pid = self.pod.create(new).await?;
        Ok(CreateTaskResponse { pid: unsigned(pid), ..CreateTaskResponse::default() })
    }

    async fn start(&self, _: &TtrpcContext, req: StartRequest) -> TtrpcResult<StartResponse> {
        let pid = self.pod.start(&self.target(&req.id, &req.exec_id).await?).await?;
        Ok(StartResponse { pid: unsigned(pid), ..StartResponse::default() })
    }

    async fn delete(&self, _: &TtrpcContext, req: DeleteRequest) -> TtrpcResult<DeleteResponse> {
        let (pid, exit) = self.pod.delete(&self.target(&req.id, &req.exec_id).await?).await?;
        let (exit_status, exited_at) = exit.map(exit_fields).unwrap_or_default();
        Ok(DeleteResponse { pid: unsigned(pid), exit_status, exited_at, ..DeleteResponse::default() })
    }

    async fn exec(&self, _: &TtrpcContext, req: ExecProcessRequest) -> TtrpcResult<Empty> {
        let stdio = StdioRequest {
            stdin: req.stdin.clone(),
            stdout: req.stdout.clone(),
            stderr: req.stderr.clone(),
            terminal: req.terminal,
        };
        if req.exec_id.is_empty() {
            return Err(Failure::new(Kind::Invalid, "an exec needs an id").into());
        }
        let target = self.target(&req.id, &req.exec_id).await?;
        self.pod.add_exec(&target, stdio, req.spec.value.clone())?;
        Ok(Empty::default())
    }

    async fn state(&self, _: &TtrpcContext, req: StateRequest) -> TtrpcResult<StateResponse> {
        let target = self.target(&req.id, &req.exec_id).await?;
        let (bundle, paused) = self.pod.containers.with(&target.id, |container| {
            Ok((container.bundle.clone(), container.init.state == Lifecycle::Paused))
        })?;
        let state = self.pod.containers.with_process(&target, |process| {
            let mut response = StateResponse {
                // As runc's shim has it: the process's own id.
                id: if req.exec_id.is_empty() { req.id.clone() } else { req.exec_id.clone() },
                exec_id: req.exec_id.clone(),
                bundle: bundle.to_string_lossy().into_owned(),
                pid: unsigned(process.pid),
                // A container that is frozen is so with all its processes.
                status: if paused { Status::PAUSED } else { process.state.status() }.into(),
                stdin: process.stdio.stdin.clone(),
                stdout: process.stdio.stdout.clone(),
                stderr: process.stdio.stderr.clone(),
                terminal: process.stdio.terminal,
                ..StateResponse::default()
            };
            if let Some(exit) = process.state.exit() {
                (response.exit_status, response.exited_at) = exit_fields(exit);
            }
            Ok(response)
        })?;
        Ok(state)
    }

    async fn pids(&self, _: &TtrpcContext, req: PidsRequest) -> TtrpcResult<PidsResponse> {
        let pids = self.pod.pids(&self.id(&req.id).await?).await?;
        let processes = pids.into_iter().map(|(pid, exec)| process_info(pid, exec)).collect();
        Ok(PidsResponse { processes, ..PidsResponse::default() })
    }

    async fn pause(&self, _: &TtrpcContext, req: PauseRequest) -> TtrpcResult<Empty> {
        self.pod.pause(&self.id(&req.id).await?).await?;
        Ok(Empty::default())
    }

    async fn resume(&self, _: &TtrpcContext, req: ResumeRequest) -> TtrpcResult<Empty> {
        self.pod.resume(&self.id(&req.id).await?).await?;
        Ok(Empty::default())
    }

    async fn checkpoint(&self, _: &TtrpcContext, _: CheckpointTaskRequest) -> TtrpcResult<Empty> {
        let why = "Keep makes no checkpoints: a process that is restored would run without its walls";
        Err(Failure::new(Kind::Unimplemented, why).into())
    }

    async fn kill(&self, _: &TtrpcContext, req: KillRequest) -> TtrpcResult<Empty> {
        let signal = i32::try_from(req.signal)
            .map_err(|_| Failure::new(Kind::Invalid, format!("there is no signal {}", req.signal)))?;
        self.pod.kill(&self.target(&req.id, &req.exec_id).await?, signal, req.all).await?;
        Ok(Empty::default())
    }

    async fn resize_pty(&self, _: &TtrpcContext, req: ResizePtyRequest) -> TtrpcResult<Empty> {
        let size = |n: u32| {
            u16::try_from(n).map_err(|_| Failure::new(Kind::Invalid, format!("{n} characters are too many")))
        };
        self.pod.resize(&self.target(&req.id, &req.exec_id).await?, size(req.width)?, size(req.height)?)?;
        Ok(Empty::default())
    }

    async fn close_io(&self, _: &TtrpcContext, req: CloseIORequest) -> TtrpcResult<Empty> {
        if req.stdin {
            self.pod.close_stdin(&self.target(&req.id, &req.exec_id).await?)?;
        }
        Ok(Empty::default())
    }

    async fn update(&self, _: &TtrpcContext, req: UpdateTaskRequest) -> TtrpcResult<Empty> {
        self.pod.update(&self.id(&req.id).await?, req.resources.value.clone()).await?;
        Ok(Empty::default())
    }

    async fn wait(&self, _: &TtrpcContext, req: WaitRequest) -> TtrpcResult<WaitResponse> {
        let exit = self.pod.wait(&self.target(&req.id, &req.exec_id).await?).await?;
        let (exit_status, exited_at) = exit_fields(exit);
        Ok(WaitResponse { exit_status, exited_at, ..WaitResponse::default() })
    }

    async fn stats(&self, _: &TtrpcContext, req: StatsRequest) -> TtrpcResult<StatsResponse> {
        let stats = self.pod.stats(&self.id(&req.id).await?).await?;
        Ok(StatsResponse { stats: MessageField::some(stats), ..StatsResponse::default() })
    }

    async fn connect(&self, _: &TtrpcContext, req: ConnectRequest) -> TtrpcResult<ConnectResponse> {
        let task_pid = match self.id(&req.id).await {
            Ok(id) => self.pod.containers.with(&id, |container| Ok(container.init.pid)).unwrap_or_default(),
            Err(_) => 0,
        };
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: unsigned(task_pid),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..ConnectResponse::default()
        })
    }

    async fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> TtrpcResult<Empty> {
        // One shim serves the pod: it ends with the last of its containers.
        if self.pod.containers.is_empty() {
            self.pod.end();
        }
        Ok(Empty::default())
    }
}

fn exit_fields(
    exit: Exit,
) -> (u32, MessageField<containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp>) {
    (exit.code, MessageField::some(timestamp(exit.at)))
}

/// Protobuf package of [`ProcessDetails`].
const DETAILS_PACKAGE: &str = "containerd.runc.v1";

/// A process, and for an exec its id, in the message in which runc's shim says it and clients look for it.
fn process_info(pid: i32, exec: Option<Id>) -> ProcessInfo {
    let info = exec.and_then(|exec| {
        let details = ProcessDetails { exec_id: exec.as_str().to_owned(), ..ProcessDetails::default() };
        let type_url = type_url::<ProcessDetails>(DETAILS_PACKAGE);
        Some(Any { type_url, value: details.write_to_bytes().ok()?, ..Any::default() })
    });
    ProcessInfo { pid: unsigned(pid), info: info.into(), ..ProcessInfo::default() }
}

fn unsigned(pid: i32) -> u32 {
    u32::try_from(pid).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use containerd_shim_protos::protobuf::MessageFull;

    use super::*;

    #[test]
    fn messages_are_named_as_their_descriptors_name_them() {
        let name = type_url::<ProcessDetails>(DETAILS_PACKAGE);
        assert_eq!(name, ProcessDetails::descriptor().full_name());
    }
}
