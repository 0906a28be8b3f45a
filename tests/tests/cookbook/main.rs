//! Every image of docs/cookbook.md behind the walls of its own labels: it does its work for a real client without a
//! violation, its digest is that of `keep explain`, and something that the labels leave out is refused and named.

#![forbid(unsafe_code)]

mod under;
mod work;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::command::Output;
use tests::node::{Containerd, Node, Runtime};
use tests::shared::Shared;
use tests::{cookbook, images, suite, under_test};
use work::Running;

/// How long a server may take until it answers.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long it may take where it lacks a label: most end at once, and all of them answered sooner with it.
const IMPATIENCE: Duration = Duration::from_secs(3);

/// At most so many system calls may an HTTP server's profile allow.
const HTTP_CALLS: usize = 200;

/// Servers of HTTP in C, Rust, Go, Python, JavaScript and Java.
const HTTP: [&str; 6] = ["nginx", "rust", "go", "gunicorn", "node", "java"];

/// Where what the images connect to listens.
const LISTENER: u16 = 9000;

/// A server of the cookbook.
struct Server {
    /// Its section.
    name: &'static str,
    /// Its real work, asked of it by a real client; waits until it serves.
    work: fn(&Running<'_>) -> Result<()>,
    /// Something that its labels leave out. What comes of it is for the record to say.
    attempt: fn(&Running<'_>) -> Result<Output>,
    /// Key and word of the label that would allow that.
    label: (&'static str, &'static str),
}

const SERVERS: &[Server] = &[
    Server {
        name: "nginx",
        work: work::nginx,
        attempt: |one| one.exec(&["/bin/cat", "/etc/passwd"]),
        label: ("dev.keep.exec", "/usr/bin/cat"),
    },
    Server {
        name: "redis",
        work: work::redis,
        // How Redis is usually taken over: it is made the replica of a master that sends it a module.
        attempt: |one| one.client("usr/bin/redis-cli", &["replicaof", "127.0.0.1", "9000"]),
        label: ("dev.keep.connect", "9000/tcp"),
    },
    Server {
        name: "postgres",
        work: work::postgres,
        attempt: |one| one.psql("copy (select 1) to program 'cat'"),
        label: ("dev.keep.exec", "/usr/bin/cat"),
    },
    Server {
        name: "go",
        work: |one| one.page("http://127.0.0.1:8080/", "hello from Go"),
        attempt: |one| one.exec(&["/hello", "9999"]),
        label: ("dev.keep.listen", "9999/tcp"),
    },
    Server {
        name: "rust",
        work: |one| one.page("http://127.0.0.1:8080/", "hello from Rust"),
        attempt: |one| one.exec(&["/hello", "9999"]),
        label: ("dev.keep.listen", "9999/tcp"),
    },
    Server {
        name: "gunicorn",
        work: |one| one.page("http://127.0.0.1:8080/", "hello from Python"),
        attempt: |one| one.exec(&["/usr/bin/python3", "-c", "import os; os.system('id')"]),
        label: ("dev.keep.exec", "/usr/bin/dash"),
    },
    Server {
        name: "node",
        work: |one| one.page("http://127.0.0.1:8080/", "hello from Node"),
        attempt: |one| one.exec(&["/usr/bin/node", "-e", "require('net').connect(9000, '127.0.0.1')"]),
        label: ("dev.keep.connect", "9000/tcp"),
    },
    Server {
        name: "java",
        work: |one| one.page("http://127.0.0.1:8080/", "hello from Java"),
        attempt: |one| {
            let java = "/usr/lib/jvm/java-17-openjdk-amd64/bin/java";
            one.exec(&[java, "-XX:-UsePerfData", "-cp", "/srv", "Hello", "9999"])
        },
        label: ("dev.keep.listen", "9999/tcp"),
    },
    Server {
        name: "haproxy",
        work: |one| one.page("http://127.0.0.1:8080/", "x-proxy: sidecar\r\n\r\nok"),
        attempt: |one| one.exec(&["/bin/sh", "-c", "true"]),
        label: ("dev.keep.exec", "/usr/bin/dash"),
    },
    Server {
        name: "memcached",
        work: work::memcached,
        attempt: |one| one.exec(&["/usr/bin/memcached", "--listen=0.0.0.0", "--port=11311"]),
        label: ("dev.keep.listen", "11311/tcp"),
    },
    Server {
        name: "dnsmasq",
        work: work::dnsmasq,
        attempt: |one| one.exec(&["/bin/ls", "/"]),
        label: ("dev.keep.exec", "/usr/bin/ls"),
    },
    Server {
        name: "lighttpd",
        work: |one| one.page("http://127.0.0.1:8080/", "hello from lighttpd"),
        attempt: |one| one.exec(&["/bin/bash", "-c", "true"]),
        label: ("dev.keep.exec", "/usr/bin/bash"),
    },
    Server {
        name: "node-exporter",
        work: |one| one.page("http://127.0.0.1:9100/metrics", "node_uname_info{"),
        attempt: |one| one.exec(&["/usr/bin/prometheus-node-exporter", "--web.listen-address=:9101"]),
        label: ("dev.keep.listen", "9101/tcp"),
    },
    Server {
        name: "cron",
        work: work::cron,
        attempt: |one| one.exec(&["/usr/bin/touch", "/data/other"]),
        label: ("dev.keep.exec", "/usr/bin/touch"),
    },
];

fn main() -> ExitCode {
    let containerd = Containerd::Built;
    let node = Shared::start(containerd, |containerd| Node::with_listener(containerd, LISTENER));
    let keep = node.with_shim();
    let mut trials = Vec::new();
    for server in SERVERS {
        let name =
            format!("{containerd}: {} works behind its labels, which name what it is refused", server.name);
        trials.push(keep.trial(name, |node| serve(node, server)));
        let name = format!("{containerd}: {} needs each of its labels", server.name);
        trials.push(keep.trial(name, |node| needs_each(node, server)));
    }
    let name = format!("{containerd}: job works behind its labels, which name what it is refused");
    trials.push(keep.trial(name, |node| job(node)));
    let name = format!("{containerd}: each image has the digest of keep explain under policies too");
    trials.push(keep.trial(name, |node| under::policies(node)));
    let name = format!(
        "{containerd}: runc takes the system calls that keep explain exports, and nginx works with them"
    );
    trials.push(keep.trial(name, |node| under::runc(node)));
    trials
        .push(suite::trial("keep lint --strict has nothing against the cookbook's Dockerfiles", under::lint));
    for name in HTTP {
        let title = format!("{name}: keep explain shows at most {HTTP_CALLS} system calls");
        trials.push(suite::trial(title, move || few_calls(name)));
    }
    trials.push(suite::trial("every section of the cookbook has its test", all_tested));
    let code = suite::conclude(trials);
    drop(keep);
    drop(node);
    code
}

fn all_tested() -> Result<()> {
    let mut tested: Vec<String> = SERVERS.iter().map(|server| server.name.to_owned()).collect();
    tested.push("job".to_owned());
    let mut documented = cookbook::documented()?;
    tested.sort();
    documented.sort();
    ensure!(tested == documented, "tested are {tested:?}, docs/cookbook.md has {documented:?}");
    Ok(())
}

fn few_calls(name: &str) -> Result<()> {
    let folder = tempfile::tempdir().context("cannot make a folder")?;
    let archive = images::write(&cookbook::image(name)?, &reference(name), folder.path())?;
    let explained = under_test::explain(&archive, "keep")?;
    let calls = explained.pointer("/profile/calls").and_then(Value::as_array);
    let calls = calls.with_context(|| format!("keep explain names no calls: {explained}"))?.len();
    ensure!(calls <= HTTP_CALLS, "{calls} system calls, at most {HTTP_CALLS} are wanted");
    Ok(())
}

fn reference(name: &str) -> String {
    format!("keep.test/cookbook-{name}:1")
}

fn serve(node: &Node, server: &Server) -> Result<()> {
    let archive = node.import(&cookbook::image(server.name)?, &reference(server.name))?;
    let digest = under_test::explained_digest(&archive, "keep")?;
    running(node, server.name, server.name, server.flags(), PATIENCE, |one| {
        (server.work)(one)?;
        ensure_digest(one, &digest)?;
        let said = (server.attempt)(one)?;
        ensure_refused_alone(one, server.label).with_context(|| format!("the attempt said: {said}"))
    })
}

/// Without any one of its labels it cannot do its work, or is refused something that asks for that label.
fn needs_each(node: &Node, server: &Server) -> Result<()> {
    let image = cookbook::image(server.name)?;
    let keys: Vec<&str> = image.label_keys().filter(|key| *key != "dev.keep.intent").collect();
    for key in keys {
        node.import(&image.clone().label(key, ""), &reference(server.name))?;
        let id = format!("{}-without-{}", server.name, key.trim_start_matches("dev.keep."));
        running(node, server.name, &id, server.flags(), IMPATIENCE, |one| {
            let works = (server.work)(one).is_ok();
            let asks = |record: &Value| record.pointer("/allow/label").is_some_and(|label| label == key);
            let asked = node.records(&id)?.iter().any(asks);
            ensure!(!works || asked, "nothing is amiss without {key}");
            Ok(())
        })?;
    }
    Ok(())
}

impl Server {
    /// What its container is started with.
    fn flags(&self) -> &'static [&'static str] {
        if self.name == "cron" { &["--env", "PERIOD=1"] } else { &[] }
    }
}

/// A container in the node's network, and everything of it removed however the test ends.
fn running<T>(
    node: &Node,
    name: &str,
    id: &str,
    flags: &[&str],
    patience: Duration,
    test: impl FnOnce(&Running<'_>) -> Result<T>,
) -> Result<T> {
    let log = format!("file://{}", node.folder.join("log").join(format!("{id}.log")).display());
    let mut all = vec!["-d", "--net-host", "--log-uri", &log];
    all.extend(flags);
    let started = node.start_container(Runtime::Keep, &all, &reference(name), id, &[])?.success();
    let result = started.and_then(|_| test(&Running { node, id, patience })).with_context(|| {
        let records: Vec<String> =
            node.records(id).unwrap_or_default().iter().map(ToString::to_string).collect();
        format!("{id} said:\n{}\nrecords:\n{}\n", node.log_end(id), records.join("\n"))
    });
    let gone = node.remove(id);
    let value = result?;
    gone.map(|()| value)
}

/// The node enforces the profile of which `keep explain` gave the digest.
fn ensure_digest(one: &Running<'_>, explained: &str) -> Result<()> {
    let walls = under::walls(one.node, one.id)?;
    let enforced = walls.pointer("/plan/profile").and_then(Value::as_str);
    ensure!(enforced == Some(explained), "keep explain says {explained}, the node enforces {enforced:?}");
    Ok(())
}

/// A violation is recorded that this label would allow, and no other: not before, by the work, either.
fn ensure_refused_alone(one: &Running<'_>, (key, word): (&str, &str)) -> Result<()> {
    let is_it = |record: &Value| {
        let value = record.pointer("/allow/value").and_then(Value::as_str).unwrap_or("");
        // An address may stand before a port.
        let grants = |one: &str| one == word || one.ends_with(&format!(":{word}"));
        record["verdict"] == "denied"
            && record.pointer("/allow/label").is_some_and(|label| label == key)
            && value.split_whitespace().any(grants)
    };
    one.node.record(one.id, &format!("a record that asks for {key} with {word}"), is_it)?;
    let others: Vec<Value> =
        one.node.records(one.id)?.into_iter().filter(|record| !is_it(record) && !is_gap(record)).collect();
    ensure!(others.is_empty(), "what the labels allow was recorded: {others:?}");
    Ok(())
}

/// A wall that this machine's kernel cannot raise is said once for each container; it is no violation.
fn is_gap(record: &Value) -> bool {
    record["operation"] == "gap"
}

fn job(node: &Node) -> Result<()> {
    let archive = node.import(&cookbook::image("job")?, &reference("job"))?;
    let digest = under_test::explained_digest(&archive, "keep")?;
    let volume = node.folder.join("state/out");
    std::fs::create_dir(&volume).context("cannot make the volume")?;
    std::os::unix::fs::chown(&volume, Some(65534), Some(65534)).context("cannot give the volume away")?;
    let mount = format!("type=bind,src={},dst=/out,options=rbind:rw", volume.display());
    running(node, "job", "job", &["--mount", &mount], PATIENCE, |one| {
        ensure_digest(one, &digest)?;
        work::stops(one)?;
        let packed = volume.join("page.tar.gz").to_string_lossy().into_owned();
        let page = node.run("tar", &["-x", "-z", "-O", "-f", &packed])?.success()?;
        ensure!(page.text() == "ok", "{page}");
        let records: Vec<Value> = node.records("job")?.into_iter().filter(|record| !is_gap(record)).collect();
        ensure!(records.is_empty(), "what the labels allow was recorded: {records:?}");
        Ok(())
    })?;
    let elsewhere = ["--mount", &mount, "--env", "SOURCE=http://127.0.0.1:9001/"];
    running(node, "job", "job-elsewhere", &elsewhere, PATIENCE, |one| {
        work::stops(one)?;
        ensure_refused_alone(one, ("dev.keep.connect", "9001/tcp"))
    })
}
