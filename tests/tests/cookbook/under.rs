//! The cookbook's images under policies, under runc with the system calls that Keep would allow, and under `keep lint`.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::handler::Handler;
use tests::node::{Node, Runtime};
use tests::{cookbook, under_test};

use crate::work::Running;
use crate::{PATIENCE, reference};

/// How often a policy must change what an image of the cookbook gets, so that the comparison says something.
const CHANGED: usize = 5;

/// Policies beside none at all: name, and spec.
const POLICIES: [(&str, &str); 2] = [
    (
        "narrow",
        "selector: { images: ['keep.test/cookbook-*'] }\n\
         ceiling: { listen: [1024-65535/tcp], write: [/var, /data, /tmp], needs: [jit], caps: [] }",
    ),
    (
        "house",
        "selector: { classes: [keep] }\n\
         default: { listen: [8080/tcp] }\n\
         deny: { write: [/run, /var/lib], needs: [jit], connect: [9000/tcp] }",
    ),
];

pub(crate) fn policies(node: &Node) -> Result<()> {
    let mut changed = [0; POLICIES.len()];
    let handlers: Vec<Handler> = POLICIES
        .iter()
        .map(|(name, spec)| {
            let handler = Handler::new(node, name)?;
            handler.policy(name, spec)?;
            Ok(handler)
        })
        .collect::<Result<_>>()?;
    for name in cookbook::documented()? {
        let archive = node.import(&cookbook::image(&name)?, &reference(&name))?;
        let plain = under_test::explained_digest(&archive, "keep")?;
        for ((handler, (policy, _)), changed) in handlers.iter().zip(POLICIES).zip(&mut changed) {
            let folder = handler.policies();
            let folder = folder.to_string_lossy();
            let explained = under_test::explain_with(&archive, &["--policy", &folder, "--format", "json"])?;
            let explained = explained["digest"].as_str().context("no digest")?;
            let enforced = enforced(node, handler, &name, policy)?;
            ensure!(
                explained == enforced,
                "{name} under {policy}: keep explain says {explained}, the node {enforced}"
            );
            *changed += usize::from(explained != plain);
        }
    }
    ensure!(changed.iter().all(|many| *many >= CHANGED), "the policies changed {changed:?} images only");
    Ok(())
}

/// The digest of the profile that the node raises walls by. What the container does behind them does not matter.
fn enforced(node: &Node, handler: &Handler, name: &str, policy: &str) -> Result<String> {
    let id = format!("{name}-under-{policy}");
    let flags = handler.flags();
    let mut line = vec!["run"];
    line.extend(flags.iter().map(String::as_str));
    let image = reference(name);
    line.extend(["-d", "--null-io", &image, &id]);
    let walls = node.ctr(&line)?.success().and_then(|_| walls(node, &id));
    let gone = node.remove(&id);
    let walls = walls?;
    gone?;
    let digest = walls.pointer("/plan/profile").and_then(Value::as_str);
    digest.map(str::to_owned).with_context(|| format!("no digest in {walls}"))
}

/// What the shim decided for a container.
pub(crate) fn walls(node: &Node, id: &str) -> Result<Value> {
    let path = format!("/run/keep/{}/{id}/walls.json", node.namespace);
    let text = node.run("cat", &[&path])?.success()?;
    serde_json::from_str(&text.stdout).context("walls.json is no JSON")
}

/// A call that the profile does not have, as runc's own default would not refuse it.
const NOT_DECLARED: &str = "syscall:msgget";

pub(crate) fn runc(node: &Node) -> Result<()> {
    let archive = node.import(&cookbook::image("nginx")?, &reference("nginx"))?;
    let exported = under_test::explain_with(&archive, &["--format", "oci"])?;
    let file = node.folder.join("state/seccomp.json");
    std::fs::write(&file, exported.to_string()).context("cannot write the section")?;
    let file = file.to_string_lossy();
    let section = ["--seccomp", "--seccomp-profile", &file];
    // As the control: without the section.
    for (id, section) in [("nginx-plain", &[][..]), ("nginx-exported", &section[..])] {
        let log = format!("file://{}", node.folder.join("log").join(format!("{id}.log")).display());
        let mut flags = vec!["-d", "--net-host", "--log-uri", &log];
        // Keep makes declared write paths that the image lacks; runc does not.
        flags.extend(["--mount", "type=tmpfs,src=tmpfs,dst=/var/cache/nginx,options=mode=1777"]);
        flags.extend(section);
        let started = node.start_container(Runtime::Runc, &flags, &reference("nginx"), id, &[])?.success();
        let one = Running { node, id, patience: PATIENCE };
        let served = started
            .and_then(|_| one.page("http://127.0.0.1:8080/", "hello from nginx"))
            .with_context(|| format!("{id} said:\n{}", node.log_end(id)));
        let gone = node.remove(id);
        served?;
        gone?;
    }
    // The same calls for a program that can be told to make others.
    node.import(&tests::images::probe()?, "keep.test/exported:1")?;
    for (section, said) in [(&section[..], "denied EPERM"), (&[][..], "ok")] {
        let flags: Vec<&str> = ["--rm", "--net-host"].iter().chain(section).copied().collect();
        let words = ["/bin/keep-probe", "many", "bind:8080", NOT_DECLARED];
        let output =
            node.start_container(Runtime::Runc, &flags, "keep.test/exported:1", "exported", &words)?;
        let output = output.success()?;
        let expected = format!("bind:8080: ok\n{NOT_DECLARED}: {said}");
        ensure!(output.text() == expected, "{output}, expected {expected}");
        let left = node.wait_until_gone("exported", Duration::from_secs(5));
        ensure!(left.is_empty(), "left behind: {left:?}");
    }
    Ok(())
}

pub(crate) fn lint() -> Result<()> {
    let all = cookbook::all_dockerfiles()?;
    ensure!(all.len() >= 15, "{} Dockerfiles", all.len());
    for (name, text) in all {
        // Beside what it copies: an entrypoint that is a script is read there.
        let folder = tempfile::tempdir().context("cannot make a folder")?;
        if let Ok(files) = std::fs::read_dir(cookbook::context(&name)) {
            for file in files {
                let file = file.context("cannot read the section's folder")?;
                std::fs::copy(file.path(), folder.path().join(file.file_name()))
                    .context("cannot copy a file")?;
            }
        }
        std::fs::write(folder.path().join("Dockerfile"), text).context("cannot write a Dockerfile")?;
        let output = under_test::keep(&["lint", "--strict", &folder.path().to_string_lossy()])?;
        ensure!(output.status.success(), "{name}: {output}");
    }
    Ok(())
}
