//! Processes from their creation to their deletion, and the events that tell of it.

use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use containerd_client::services::v1::{
    CloseIoRequest, DeleteProcessRequest, ListPidsRequest, PauseTaskRequest, ResizePtyRequest,
    ResumeTaskRequest,
};
use containerd_client::types::v1::{Process, ProcessInfo, Status};
use containerd_shim_protos::protobuf::Message as _;
use containerd_shim_protos::shim::oci::ProcessDetails;
use nix::sys::stat::Mode;
use tests::command::until;
use tests::node::Runtime;
use tests::task::Streams;

use crate::{Case, PATIENCE, Run};

pub const CASES: &[(&str, Run)] = &[
    ("a container's life and its events", life),
    ("an exec's life and its events", exec_life),
    ("an exec that cannot be started", exec_no_program),
    ("an exec that is started twice", exec_twice),
    ("a container that is deleted before it is started", never_started),
    ("exit codes of signals", signals),
    ("exit codes of programs", codes),
    ("a paused container", paused),
    ("a signal to all processes", all_processes),
    ("standard input is closed by the call, not by its writer", closed_input),
    ("a terminal takes its size", terminal_size),
    ("with a shared process namespace nothing outlives the container", shared_pids),
];

fn life(case: &mut Case<'_>) -> Result<()> {
    case.make(&[], &["sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.1; done"])?;
    let (client, id) = (case.client, case.id.clone());
    case.said.call("state before there is a task", client.get(&id, "").map(state));
    let pid = client.create(&id, &Streams::default())?;
    case.said.call("state when created", client.get(&id, "").map(state));
    case.said.call("pids when created", pids(case).map(|pids| named(&pids, &[(pid, "init")])));
    let started = client.start(&id, "")?;
    case.said.note("start answers create's pid", (started == pid).to_string());
    case.said.call("state when running", client.get(&id, "").map(state));
    // The trap stands once the shell sleeps.
    until("the shell to sleep", PATIENCE, || (pids(case).ok()?.len() > 1).then_some(()))?;
    case.said.call("kill", client.kill(&id, "", 15, false));
    case.said.call("wait", client.wait(&id, ""));
    case.said.call("wait again", client.wait(&id, ""));
    case.said.call("state when stopped", client.get(&id, "").map(state));
    case.said.call("pids when stopped", pids(case).map(|pids| pids.len()));
    let events = case.deleted()?;
    case.said.events(&events, &[(pid, "init")]);
    case.said.call("state when deleted", client.get(&id, "").map(state));
    Ok(())
}

fn exec_life(case: &mut Case<'_>) -> Result<()> {
    let pid = case.running(&[], &["sleep", "600"])?;
    let (client, id) = (case.client, case.id.clone());
    client.add_exec(&id, "one", &["sh", "-c", "sleep 600; exit 1"], &Streams::default())?;
    case.said.call("state when added", client.get(&id, "one").map(state));
    case.said.call("kill when added", client.kill(&id, "one", 9, false));
    let exec = client.start(&id, "one")?;
    case.said.call("state when running", client.get(&id, "one").map(state));
    let names = [(pid, "init"), (exec, "exec")];
    let inside =
        until("the exec's own process", PATIENCE, || pids(case).ok().filter(|pids| pids.len() == 3))?;
    case.said.note("pids", named(&inside, &names));
    case.said.done("delete when running", delete_exec(case, "one"));
    case.said.call("kill", client.kill(&id, "one", 9, false));
    case.said.call("wait", client.wait(&id, "one"));
    case.said.call("state when stopped", client.get(&id, "one").map(state));
    case.said.call("kill when stopped", client.kill(&id, "one", 9, false));
    case.said.call("delete", delete_exec(case, "one"));
    case.said.call("state when deleted", client.get(&id, "one").map(state));
    client.add_exec(&id, "two", &["true"], &Streams::default())?;
    case.said.call("delete when added", delete_exec(case, "two"));
    let events = case.ended()?;
    case.said.events(&events, &[(pid, "init"), (exec, "exec")]);
    Ok(())
}

/// The container is not ended by the case: the shim for runc of containerd 2.3 does not outlive that after an exec was started
/// twice.
fn exec_twice(case: &mut Case<'_>) -> Result<()> {
    case.running(&[], &["sleep", "600"])?;
    case.exec("one", &["sleep", "600"])?;
    case.said.done("start when running", case.client.start(&case.id, "one"));
    case.client.kill(&case.id, "one", 9, false)?;
    case.said.call("wait", case.client.wait(&case.id, "one"));
    case.said.done("start when stopped", case.client.start(&case.id, "one"));
    Ok(())
}

fn exec_no_program(case: &mut Case<'_>) -> Result<()> {
    case.running(&[], &["sleep", "600"])?;
    let (client, id) = (case.client, case.id.clone());
    client.add_exec(&id, "one", &["/no/such/program"], &Streams::default())?;
    let refused = client.start(&id, "one");
    let names_it = refused.as_ref().is_err_and(|status| status.message().contains("/no/such/program"));
    case.said.note("the message names the program", names_it.to_string());
    case.said.done("start", refused);
    case.said.call("state", client.get(&id, "one").map(state));
    case.said.call("wait", client.wait(&id, "one"));
    case.said.done("delete", delete_exec(case, "one"));
    case.exec("two", &["sh", "-c", "exit 4"])?;
    case.said.call("the next exec", client.wait(&id, "two"));
    case.said.done("delete of the next exec", delete_exec(case, "two"));
    Ok(())
}

fn never_started(case: &mut Case<'_>) -> Result<()> {
    let pid = case.created(&[], &["sleep", "600"])?;
    let request = containerd_client::services::v1::DeleteTaskRequest { container_id: case.id.clone() };
    let deleted = case.client.task(request, async |mut tasks, request| tasks.delete(request).await);
    case.said.done("delete", deleted);
    let (events, _) = case.events.until(&case.id, crate::DELETED, PATIENCE)?;
    let topics: Vec<&str> = events.iter().map(|event| event.topic.as_str()).collect();
    if case.runtime != Runtime::Runc {
        // Under runc's shim it is left to chance which of the last two come, and in which order.
        ensure!(topics == ["/tasks/create", "/tasks/exit", "/tasks/delete"], "{topics:?}");
    }
    case.said.note(
        "its process",
        until("its process to end", PATIENCE, || {
            (!case.node.processes().iter().any(|process| process.inside == pid.cast_signed()))
                .then_some("gone")
        })?,
    );
    Ok(())
}

fn signals(case: &mut Case<'_>) -> Result<()> {
    case.running(&[], &["sleep", "600"])?;
    for signal in [1, 2, 3, 4, 6, 8, 9, 10, 11, 12, 13, 14, 15] {
        let exec = format!("signal-{signal}");
        let pid = case.exec(&exec, &["sleep", "600"])?;
        case.runs(pid, "sleep")?;
        case.said.call(&format!("kill -{signal}"), case.client.kill(&case.id, &exec, signal, false));
        case.said.call(&format!("wait after {signal}"), case.client.wait(&case.id, &exec));
    }
    case.exec("unknown", &["sleep", "600"])?;
    case.said.done("kill -99", case.client.kill(&case.id, "unknown", 99, false));
    // No handler, and the first process of its namespace: the kernel delivers it nothing but SIGKILL.
    case.said.call("kill -15 of the container", case.client.kill(&case.id, "", 15, false));
    case.said.call("state afterwards", case.client.get(&case.id, "").map(state));
    case.ended()?;
    Ok(())
}

fn codes(case: &mut Case<'_>) -> Result<()> {
    case.running(&[], &["sh", "-c", "sleep 1; exit 255"])?;
    for code in ["0", "1", "126", "127", "128", "255"] {
        let exec = format!("code-{code}");
        case.exec(&exec, &["sh", "-c", &format!("exit {code}")])?;
        case.said.call(&format!("exit {code}"), case.client.wait(&case.id, &exec));
    }
    case.said.call("the container's own", case.client.wait(&case.id, ""));
    case.deleted()?;
    Ok(())
}

fn paused(case: &mut Case<'_>) -> Result<()> {
    case.running(&[], &["sleep", "600"])?;
    case.exec("one", &["sleep", "600"])?;
    let (client, id) = (case.client, case.id.clone());
    case.said.call("pause", pause(case));
    case.said.call("state", client.get(&id, "").map(state));
    case.said.call("state of its exec", client.get(&id, "one").map(state));
    case.said.done("exec", client.add_exec(&id, "two", &["true"], &Streams::default()));
    case.said.done("pause again", pause(case));
    case.said.call("pids", pids(case).map(|pids| pids.len()));
    case.said.call("resume", resume(case));
    case.said.call("state when resumed", client.get(&id, "").map(state));
    case.said.done("resume again", resume(case));
    case.said.call("pause once more", pause(case));
    case.said.call("kill -9 when paused", client.kill(&id, "", 9, false));
    case.said.call("wait", client.wait(&id, ""));
    case.said.done("pause when stopped", pause(case));
    case.said.done("resume when stopped", resume(case));
    let topics: Vec<String> = case.deleted()?.into_iter().map(|event| event.topic).collect();
    case.said.note("events", topics.join(" "));
    Ok(())
}

fn all_processes(case: &mut Case<'_>) -> Result<()> {
    let line = "trap 'exit 7' TERM; sleep 601 & sleep 602 & while :; do sleep 0.1; done";
    case.running(&[], &["sh", "-c", line])?;
    case.exec("one", &["sleep", "600"])?;
    until("the shell's children", PATIENCE, || pids(case).ok().filter(|pids| pids.len() >= 4))?;
    case.said.call("kill all", case.client.kill(&case.id, "", 15, true));
    case.said.call("wait for the exec", case.client.wait(&case.id, "one"));
    case.said.call("wait", case.client.wait(&case.id, ""));
    case.said.call("pids", pids(case).map(|pids| pids.len()));
    case.deleted()?;
    Ok(())
}

/// A fifo of the container's.
fn fifo(case: &Case<'_>, name: &str) -> Result<PathBuf> {
    let path = case.node.folder.join("log").join(format!("{}.{name}", case.id));
    nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o600)).context("cannot make a fifo")?;
    Ok(path)
}

fn opened(path: &PathBuf) -> Result<std::fs::File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits());
    options.open(path).with_context(|| format!("cannot open {}", path.display()))
}

fn streams_of(stdin: &std::path::Path, stdout: &std::path::Path, terminal: bool) -> Streams {
    let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
    // runc's shim takes no output without errors.
    let stderr = if terminal { String::new() } else { text(stdout) };
    Streams { stdin: text(stdin), stdout: text(stdout), stderr, terminal }
}

/// What arrives in a fifo until `wanted` does.
fn heard(from: &mut std::fs::File, wanted: &str) -> Result<String> {
    let mut text = String::new();
    until(&format!("{wanted:?}"), PATIENCE, || {
        let mut bytes = [0; 4096];
        if let Ok(length) = from.read(&mut bytes) {
            text.push_str(&String::from_utf8_lossy(bytes.get(..length).unwrap_or_default()));
        }
        text.contains(wanted).then_some(())
    })
    .with_context(|| format!("heard {text:?}"))?;
    Ok(text)
}

fn closed_input(case: &mut Case<'_>) -> Result<()> {
    case.make(&[], &["wc", "-c"])?;
    let (stdin, stdout) = (fifo(case, "in")?, fifo(case, "out")?);
    let (mut input, mut output) = (opened(&stdin)?, opened(&stdout)?);
    case.client.create(&case.id, &streams_of(&stdin, &stdout, false))?;
    case.client.start(&case.id, "")?;
    input.write_all(b"12345")?;
    drop(input);
    std::thread::sleep(Duration::from_millis(500));
    case.said.call("state after its writer left", case.client.get(&case.id, "").map(state));
    let mut input =
        OpenOptions::new().write(true).custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits()).open(&stdin);
    case.said.note("another writer comes", input.is_ok().to_string());
    if let Ok(input) = &mut input {
        input.write_all(b"678")?;
    }
    drop(input);
    let request = CloseIoRequest { container_id: case.id.clone(), exec_id: String::new(), stdin: true };
    let closed = case.client.task(request, async |mut tasks, request| tasks.close_io(request).await);
    case.said.done("close io", closed);
    case.said.call("wait", case.client.wait(&case.id, ""));
    case.said.note("what arrived", heard(&mut output, "\n")?);
    let request = CloseIoRequest { container_id: case.id.clone(), exec_id: String::new(), stdin: true };
    let closed = case.client.task(request, async |mut tasks, request| tasks.close_io(request).await);
    case.said.done("close io when stopped", closed);
    case.deleted()?;
    Ok(())
}

fn terminal_size(case: &mut Case<'_>) -> Result<()> {
    case.make(&[], &["sh", "-c", "while :; do stty size; sleep 0.1; done"])?;
    case.client.edit_spec(&case.id, |spec| spec["process"]["terminal"] = true.into())?;
    let (stdin, stdout) = (fifo(case, "in")?, fifo(case, "out")?);
    let (_input, mut output) = (opened(&stdin)?, opened(&stdout)?);
    case.client.create(&case.id, &streams_of(&stdin, &stdout, true))?;
    case.said.done("resize when created", resize(case, "", 80, 25));
    case.client.start(&case.id, "")?;
    heard(&mut output, "25 80")?;
    case.said.done("resize", resize(case, "", 100, 40));
    ensure!(heard(&mut output, "40 100").is_ok(), "the terminal does not take its size");
    case.exec("none", &["sleep", "600"])?;
    case.said.done("resize without a terminal", resize(case, "none", 100, 40));
    case.ended()?;
    Ok(())
}

fn shared_pids(case: &mut Case<'_>) -> Result<()> {
    case.make(&[], &["sh", "-c", "sleep 1235 & exec sleep 600"])?;
    case.client.edit_spec(&case.id, |spec| {
        if let Some(namespaces) = spec["linux"]["namespaces"].as_array_mut() {
            namespaces.retain(|namespace| namespace["type"] != "pid");
        }
    })?;
    let pid = case.client.create(&case.id, &Streams::default())?;
    case.client.start(&case.id, "")?;
    let exec = case.exec("one", &["sleep", "1236"])?;
    until("the shell's child", PATIENCE, || pids(case).ok().filter(|pids| pids.len() == 3))?;
    case.client.kill(&case.id, "", 9, false)?;
    case.said.call("wait", case.client.wait(&case.id, ""));
    let left = || {
        let all = case.node.processes();
        let mut of_it =
            all.iter().filter(|one| ["sleep 1235", "sleep 1236"].iter().any(|line| one.line.ends_with(line)));
        of_it.next().is_none().then_some(())
    };
    case.said
        .note("its processes", if until("all to end", PATIENCE, left).is_ok() { "gone" } else { "left" });
    let events = case.deleted()?;
    case.said.events(&events, &[(pid, "init"), (exec, "exec")]);
    Ok(())
}

/// How a process stands, in words.
pub fn state(process: Process) -> String {
    let status = Status::try_from(process.status).map_or("?", |status| status.as_str_name());
    let streams = (!process.stdin.is_empty(), !process.stdout.is_empty(), process.terminal);
    let at = process.exited_at.is_some_and(|at| at.seconds > 1_600_000_000);
    format!(
        "{status}, pid {}, streams {streams:?}, exit {}, exited at a time {at}",
        process.pid != 0,
        process.exit_status
    )
}

pub fn pids(case: &Case<'_>) -> tests::task::Answer<Vec<ProcessInfo>> {
    let request = ListPidsRequest { container_id: case.id.clone() };
    case.client
        .task(request, async |mut tasks, request| tasks.list_pids(request).await)
        .map(|answer| answer.processes)
}

/// Processes by name, and what is said of them.
fn named(pids: &[ProcessInfo], names: &[(u32, &str)]) -> String {
    let mut words: Vec<String> = pids
        .iter()
        .map(|process| {
            let name = names.iter().find(|(pid, _)| *pid == process.pid).map_or("another", |(_, name)| name);
            let info = process.info.as_ref().map(|any| {
                let details = ProcessDetails::parse_from_bytes(&any.value).map(|details| details.exec_id);
                format!(" {} {:?}", any.type_url, details.unwrap_or_default())
            });
            format!("{name}{}", info.unwrap_or_default())
        })
        .collect();
    words.sort();
    words.join(", ")
}

fn delete_exec(case: &Case<'_>, exec: &str) -> tests::task::Answer<String> {
    let request = DeleteProcessRequest { container_id: case.id.clone(), exec_id: exec.to_owned() };
    let deleted =
        case.client.task(request, async |mut tasks, request| tasks.delete_process(request).await)?;
    let at = deleted.exited_at.is_some_and(|at| at.seconds > 1_600_000_000);
    Ok(format!("{} pid {} status {} at a time {at}", deleted.id, deleted.pid != 0, deleted.exit_status))
}

pub fn pause(case: &Case<'_>) -> tests::task::Answer<()> {
    let request = PauseTaskRequest { container_id: case.id.clone() };
    case.client.task(request, async |mut tasks, request| tasks.pause(request).await)
}

pub fn resume(case: &Case<'_>) -> tests::task::Answer<()> {
    let request = ResumeTaskRequest { container_id: case.id.clone() };
    case.client.task(request, async |mut tasks, request| tasks.resume(request).await)
}

pub fn resize(case: &Case<'_>, exec: &str, width: u32, height: u32) -> tests::task::Answer<()> {
    let request = ResizePtyRequest { container_id: case.id.clone(), exec_id: exec.to_owned(), width, height };
    case.client.task(request, async |mut tasks, request| tasks.resize_pty(request).await)
}
