//! What is refused, and with which status code.

use anyhow::Result;
use containerd_client::services::v1::CheckpointTaskRequest;
use tests::node::Runtime;
use tests::task::{Answer, Streams};

use crate::processes::{pause, resize, resume, state};
use crate::{Case, Run};

pub const CASES: &[(&str, Run)] = &[
    ("what a running container refuses", running),
    ("what a created container refuses", created),
    ("what a stopped container refuses", stopped),
    ("ids that are unknown", unknown),
    ("a program that cannot be started", no_program),
    ("a checkpoint", checkpoint),
];

fn running(case: &mut Case<'_>) -> Result<()> {
    case.running(&[], &["sleep", "600"])?;
    let (client, id) = (case.client, case.id.clone());
    case.said.done("create again", client.create(&id, &Streams::default()));
    case.said.done("start again", client.start(&id, ""));
    case.said.done("resume", resume(case));
    case.said.done("delete", delete(case));
    case.said
        .done("an exec whose process is no JSON", client.add_exec_of(&id, "bad", b"{", &Streams::default()));
    client.add_exec(&id, "one", &["true"], &Streams::default())?;
    case.said
        .done("an exec of an id that is taken", client.add_exec(&id, "one", &["true"], &Streams::default()));
    case.said.done("limits that are no JSON", case.client.update(&case.id, b"{"));
    case.said.call("state afterwards", client.get(&id, "").map(state));
    case.ended()?;
    Ok(())
}

fn created(case: &mut Case<'_>) -> Result<()> {
    case.created(&[], &["sleep", "600"])?;
    case.said.done("pause", pause(case));
    case.said.done("resume", resume(case));
    case.said.done("resize", resize(case, "", 80, 25));
    case.said.done("kill", case.client.kill(&case.id, "", 9, false));
    case.said.call("wait", case.client.wait(&case.id, ""));
    case.said.done("start", case.client.start(&case.id, ""));
    case.said.done("delete", delete(case));
    Ok(())
}

fn stopped(case: &mut Case<'_>) -> Result<()> {
    case.running(&[], &["true"])?;
    case.client.wait(&case.id, "")?;
    let (client, id) = (case.client, case.id.clone());
    case.said.done("kill", client.kill(&id, "", 9, false));
    case.said.done("kill all", client.kill(&id, "", 9, true));
    case.said.done("start", client.start(&id, ""));
    case.said.done("pause", pause(case));
    case.said.done("resume", resume(case));
    case.said.done("resize", resize(case, "", 80, 25));
    case.said.done("exec", client.add_exec(&id, "one", &["true"], &Streams::default()));
    case.said.done("update", case.client.update(&case.id, b"{\"memory\":{\"limit\":67108864}}"));
    case.said.done("delete", delete(case));
    case.said.done("delete again", delete(case));
    Ok(())
}

fn unknown(case: &mut Case<'_>) -> Result<()> {
    case.running(&[], &["sleep", "600"])?;
    let (client, id) = (case.client, case.id.clone());
    for (whose, id, exec) in [("exec", id.as_str(), "none"), ("container", "nobody", "")] {
        case.said.done(&format!("state of an unknown {whose}"), client.get(id, exec));
        case.said.done(&format!("start of an unknown {whose}"), client.start(id, exec));
        case.said.done(&format!("kill of an unknown {whose}"), client.kill(id, exec, 9, false));
        case.said.done(&format!("wait for an unknown {whose}"), client.wait(id, exec));
    }
    case.said.done("resize of an unknown exec", resize(case, "none", 80, 25));
    case.said.done(
        "an exec in an unknown container",
        client.add_exec_of("nobody", "x", b"{}", &Streams::default()),
    );
    case.ended()?;
    Ok(())
}

fn no_program(case: &mut Case<'_>) -> Result<()> {
    case.make(&[], &["/no/such/program"])?;
    let created = case.client.create(&case.id, &Streams::default());
    case.said.note("when", if created.is_ok() { "start" } else { "create" });
    let refused = created.and_then(|_| case.client.start(&case.id, ""));
    let message = refused.as_ref().err().map(|status| status.message().to_owned()).unwrap_or_default();
    case.said.done("code", refused);
    case.said.note("the message names the program", message.contains("/no/such/program").to_string());
    case.said.call("a task is left", case.client.get(&case.id, "").map(state));
    Ok(())
}

/// runc answers by what it has: without criu it fails.
fn checkpoint(case: &mut Case<'_>) -> Result<()> {
    case.running(&[], &["sleep", "600"])?;
    let request = CheckpointTaskRequest { container_id: case.id.clone(), ..CheckpointTaskRequest::default() };
    let refused = case.client.task(request, async |mut tasks, request| tasks.checkpoint(request).await);
    if case.runtime == Runtime::Keep {
        let message = refused.as_ref().err().map(|status| status.message().to_owned()).unwrap_or_default();
        anyhow::ensure!(message.contains("Keep makes no checkpoints"), "it says {message:?}");
    }
    case.said.done("code", refused);
    case.said.call("state afterwards", case.client.get(&case.id, "").map(state));
    case.ended()?;
    Ok(())
}

fn delete(case: &Case<'_>) -> Answer<()> {
    case.client.delete(&case.id).map(drop)
}
