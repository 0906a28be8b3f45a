//! The shim itself: what containerd does not hand on, and how it is started.

use anyhow::{Context as _, Result, ensure};
use containerd_shim_protos::api::{
    ConnectRequest, ConnectResponse, Empty, PidsRequest, PidsResponse, ShutdownRequest, StateRequest,
    StateResponse,
};
use tests::task::Shim;

use crate::{Case, Run};

pub const CASES: &[(&str, Run)] = &[
    ("a shim asked by itself", asked),
    ("the kernel ends a shim sooner than containerd", oom_score),
    ("a recursive read-only mount", recursive_read_only),
];

fn asked(case: &mut Case<'_>) -> Result<()> {
    let pid = case.running(&[], &["sleep", "600"])?;
    let exec = case.exec("one", &["sleep", "600"])?;
    let shim = Shim::connect(case.node, &case.id)?;
    let connect = ConnectRequest { id: case.id.clone(), ..ConnectRequest::default() };
    let connected: ConnectResponse =
        shim.call("Connect", &connect)?.map_err(|code| anyhow::anyhow!("{code:?}"))?;
    let outside = case.node.outside(connected.shim_pid.cast_signed())?;
    let line = std::fs::read_to_string(format!("/proc/{outside}/cmdline"))?;
    case.said.note("connect: the shim's pid", line.contains("containerd-shim").to_string());
    case.said.note("connect: the task's pid", (connected.task_pid == pid).to_string());
    let nobody = ConnectRequest { id: "nobody".to_owned(), ..ConnectRequest::default() };
    let answer = shim.call::<_, ConnectResponse>("Connect", &nobody)?;
    case.said.note("connect of an unknown task", format!("{:?}", answer.map(|answer| answer.task_pid)));
    for (what, exec_id) in [("task", ""), ("exec", "one"), ("unknown exec", "none")] {
        let request =
            StateRequest { id: case.id.clone(), exec_id: exec_id.to_owned(), ..StateRequest::default() };
        let answer = shim.call::<_, StateResponse>("State", &request)?.map(|state| {
            let whose = if state.pid == pid {
                "init"
            } else if state.pid == exec {
                "exec"
            } else {
                "nobody"
            };
            let id = state.id.replace(&case.id, "ID");
            let bundle = state.bundle.ends_with(&case.id);
            format!("id {id} bundle {bundle} {whose} {:?} status {}", state.status, state.exit_status)
        });
        case.said.note(&format!("state of the {what}"), format!("{answer:?}"));
    }
    let none = PidsRequest { id: "nobody".to_owned(), ..PidsRequest::default() };
    case.said.note(
        "pids of an unknown task",
        format!("{:?}", shim.call::<_, PidsResponse>("Pids", &none)?.map(drop)),
    );
    let request = ShutdownRequest { id: case.id.clone(), ..ShutdownRequest::default() };
    let answer = shim.call::<_, Empty>("Shutdown", &request)?.map(drop);
    case.said.note("shutdown with a container", format!("{answer:?}"));
    let again = shim.call::<_, ConnectResponse>("Connect", &connect)?;
    case.said.note("it serves on", again.is_ok().to_string());
    case.ended()?;
    let gone = tests::command::until("the shim to end", crate::PATIENCE, || {
        (!std::path::Path::new(&format!("/proc/{outside}")).exists()).then_some(())
    });
    case.said.note("after the last container it ends", gone.is_ok().to_string());
    Ok(())
}

fn oom_score(case: &mut Case<'_>) -> Result<()> {
    case.running(&[], &["sleep", "600"])?;
    let score = |pid: i32| -> Result<i64> {
        let path = format!("/proc/{pid}/oom_score_adj");
        std::fs::read_to_string(&path)?.trim().parse().with_context(|| format!("{path} is no number"))
    };
    let containerd = std::fs::read_to_string(case.node.folder.join("state/containerd.pid"))?;
    let containerd = score(case.node.outside(containerd.trim().parse()?)?)?;
    let shims = case.node.shims(&case.id);
    let shim = shims.iter().map(|process| process.pid).min().context("there is no shim")?;
    case.said.note("above containerd's by", (score(shim)? - containerd).to_string());
    case.ended()?;
    Ok(())
}

fn recursive_read_only(case: &mut Case<'_>) -> Result<()> {
    let folder = case.node.folder.join("state").join(&case.id);
    let inner = folder.join("inner");
    case.node.run("mkdir", &["-p", &inner.to_string_lossy()])?.success()?;
    case.node.run("mount", &["-t", "tmpfs", "tmpfs", &inner.to_string_lossy()])?.success()?;
    for (number, option) in ["ro", "rro"].into_iter().enumerate() {
        let mount = format!("type=bind,src={},dst=/mnt,options=rbind:{option}", folder.display());
        let line = "touch /mnt/file && echo written || echo refused; touch /mnt/inner/file && echo written || echo refused";
        let id = format!("{}-{number}", case.id);
        let flags = ["--rm", "--mount", mount.as_str()];
        let said =
            case.node.start_container(case.runtime, &flags, crate::BUSYBOX, &id, &["sh", "-c", line])?;
        case.said.note(option, said.success()?.text().replace('\n', ", "));
    }
    case.node.run("umount", &[&inner.to_string_lossy()])?.success()?;
    ensure!(!inner.join("file").exists(), "the mount beneath was written, not what is mounted there");
    Ok(())
}
