//! Each wall against real containerds: what was not declared is refused and named, for the container's own process and
//! for an exec; with the label that the record asks for, the same move works and the others still do not.

#![forbid(unsafe_code)]

mod anew;
mod sockets;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::command::until;
use tests::image::Image;
use tests::node::{Containerd, Node, Options, Runtime};
use tests::shared::Shared;
use tests::{images, suite, under_test};

/// Something that an intruder, or a program whose intent is incomplete, tries.
struct Move {
    /// In words, after "refused: ".
    words: &'static str,
    /// For the probe.
    what: &'static str,
    /// What comes of it where nothing forbids it.
    free: &'static str,
    /// Error numbers with which it may be refused.
    errnos: &'static [&'static str],
    /// Label and value that are missing.
    label: (&'static str, &'static str),
    /// `wall` of its record; none where the listener does not see it.
    wall: Option<&'static str>,
}

const DENIED: &[&str] = &["EACCES", "EPERM"];
const DENIED_FILE: &[&str] = &["EACCES", "EPERM", "EROFS"];

const MOVES: &[Move] = &[
    Move {
        words: "running another program",
        what: "exec:/bin/other",
        free: "ok",
        errnos: DENIED,
        label: ("dev.keep.exec", "/bin/other"),
        wall: Some("exec"),
    },
    Move {
        words: "writing to a file elsewhere",
        what: "write:/opt/state/file",
        free: "ok",
        errnos: DENIED_FILE,
        label: ("dev.keep.write", "/opt/state"),
        wall: Some("file"),
    },
    Move {
        words: "changing a file's mode elsewhere",
        what: "chmod:/opt/state/file",
        free: "ok",
        errnos: DENIED_FILE,
        label: ("dev.keep.write", "/opt/state"),
        wall: Some("file"),
    },
    Move {
        words: "connecting out",
        what: "connect:127.0.0.1:9000",
        free: "ok",
        errnos: DENIED,
        label: ("dev.keep.connect", "9000/tcp"),
        wall: Some("network"),
    },
    Move {
        words: "binding another port",
        what: "bind:9999",
        free: "ok",
        errnos: DENIED,
        label: ("dev.keep.listen", "9999/tcp"),
        wall: Some("network"),
    },
    Move {
        words: "sending a datagram",
        what: "udp:127.0.0.1:9000",
        free: "ok",
        errnos: DENIED,
        label: ("dev.keep.connect", "9000/udp"),
        wall: Some("network"),
    },
    Move {
        words: "binding a UDP port",
        what: "bind-udp:9998",
        free: "ok",
        errnos: DENIED,
        label: ("dev.keep.listen", "9998/udp"),
        wall: Some("network"),
    },
    Move {
        words: "System V message queues",
        what: "syscall:msgget",
        free: "ok",
        errnos: DENIED,
        label: ("dev.keep.needs", "ipc"),
        wall: Some("syscall"),
    },
    Move {
        words: "io_uring",
        what: "syscall:io_uring_setup",
        free: "denied EFAULT",
        errnos: DENIED,
        label: ("dev.keep.needs", "io-uring"),
        wall: Some("syscall"),
    },
    Move {
        words: "memory writable and executable",
        what: "syscall:wx",
        free: "ok",
        errnos: DENIED,
        label: ("dev.keep.needs", "jit"),
        wall: Some("syscall"),
    },
    Move {
        words: "files in memory",
        what: "syscall:memfd_create",
        free: "ok",
        errnos: DENIED,
        label: ("dev.keep.needs", "memfd-exec"),
        wall: Some("syscall"),
    },
    Move {
        words: "reading the password file",
        what: "read:/etc/shadow",
        free: "ok",
        errnos: &["EACCES", "EPERM", "ENODATA"],
        label: ("dev.keep.read", "/etc/shadow"),
        wall: None,
    },
];

/// What no label of these images allows.
const NEVER: &[&str] = &[
    "syscall:bpf",
    "syscall:mount",
    "syscall:userfaultfd",
    "syscall:packet",
    "syscall:vsock",
    "syscall:mptcp",
    "syscall:keyctl",
    "syscall:setns",
    "syscall:reboot",
];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Who {
    Init,
    Exec,
}

fn main() -> ExitCode {
    let mut trials = Vec::new();
    let mut nodes = Vec::new();
    for containerd in Containerd::ALL {
        let node = Shared::start(containerd, prepare);
        let keep = node.with_shim();
        let name = format!("{containerd}, runc: every move succeeds where nothing forbids it");
        trials.push(node.trial(name, |node| control(node)));
        for (index, one) in MOVES.iter().enumerate() {
            for who in [Who::Init, Who::Exec] {
                let actor = if who == Who::Init { "init" } else { "exec" };
                let name = format!(
                    "{containerd}, {actor}: {} is refused, named, and allowed by its label",
                    one.words
                );
                trials.push(keep.trial(name, move |node| both_sides(node, index, who)));
            }
        }
        for (name, test) in OTHERS {
            trials.push(keep.trial(format!("{containerd}: {name}"), move |node| test(node)));
        }
        nodes.push(node);
    }
    let old = Shared::start(Containerd::Debian, prepare_without_v2);
    let name = "containerd 1.6, no cgroup v2: what the network wall lacks is said, and TCP ports stand";
    trials.push(old.with_shim().trial(name.to_owned(), |node| sockets::without_v2(node)));
    nodes.push(old);
    let code = suite::conclude(trials);
    drop(nodes);
    code
}

fn prepare(containerd: Containerd) -> Result<Node> {
    let mut node = Node::start(Options::new(containerd))?;
    node.import(&images::probe()?, "keep.test/plain:1")?;
    node.import(&images::declared_probe()?, "keep.test/declared:1")?;
    let probe = under_test::binary("keep-probe")?;
    node.daemon("listener", &probe.to_string_lossy(), &["serve", "9000"])?;
    Ok(node)
}

fn prepare_without_v2(containerd: Containerd) -> Result<Node> {
    let node = Node::start(Options { unified: false, ..Options::new(containerd) })?;
    let image = images::declared_probe()?.label("dev.keep.connect", "127.0.0.0/16:9000/udp");
    node.import(&image, "keep.test/datagrams:1")?;
    Ok(node)
}

/// A container that serves, and is removed with everything of it, however the test ends.
fn serving<T>(
    node: &Node,
    runtime: Runtime,
    image: &str,
    id: &str,
    test: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let arguments = ["/bin/keep-probe", "serve", "8080"];
    let result = node
        .start_container(runtime, &["-d", "--net-host"], image, id, &arguments)?
        .success()
        .and_then(|_| {
            until("the probe to serve", Duration::from_secs(5), || ask(node, "").ok())?;
            test()
        });
    let gone = node.remove(id);
    let value = result?;
    gone.map(|()| value)
}

fn ask(node: &Node, path: &str) -> Result<String> {
    let url = format!("http://127.0.0.1:8080/{path}");
    Ok(node.run("curl", &["-sS", "-m", "10", "-g", &url])?.success()?.text().to_owned())
}

/// What comes of a move, by the container's own process or an exec.
fn outcome(node: &Node, id: &str, who: Who, what: &str) -> Result<String> {
    let said = match who {
        Who::Init => ask(node, &format!("many?{what}"))?,
        Who::Exec => node.exec(id, &["/bin/keep-probe", "many", what])?.success()?.text().to_owned(),
    };
    let said = said.strip_prefix(&format!("{what}: ")).with_context(|| format!("the probe said {said:?}"))?;
    Ok(said.to_owned())
}

fn ensure_refused(said: &str, errnos: &[&str], what: &str) -> Result<()> {
    let errno = said.strip_prefix("denied ").unwrap_or("");
    ensure!(errnos.contains(&errno), "{what}: {said}, expected one of {errnos:?}");
    Ok(())
}

fn control(node: &Node) -> Result<()> {
    serving(node, Runtime::Runc, "keep.test/plain:1", "control", || {
        for one in MOVES {
            for who in [Who::Init, Who::Exec] {
                // On a busy machine runc's shim loses the output of an exec now and then; ours is never asked twice.
                let said = outcome(node, "control", who, one.what)
                    .or_else(|_| outcome(node, "control", who, one.what))?;
                ensure!(said == one.free, "{} as {who:?}: {said}, expected {}", one.what, one.free);
            }
        }
        Ok(())
    })
}

fn both_sides(node: &Node, index: usize, who: Who) -> Result<()> {
    let one = MOVES.get(index).context("no such move")?;
    let id = format!("move-{index}-{}", if who == Who::Init { "init" } else { "exec" });
    let (key, value) = serving(node, Runtime::Keep, "keep.test/declared:1", &id, || {
        let said = outcome(node, &id, who, one.what)?;
        ensure_refused(&said, one.errnos, one.what)?;
        let errno = said.trim_start_matches("denied ");
        match one.wall {
            None => Ok((one.label.0.to_owned(), one.label.1.to_owned())),
            Some(wall) => named(node, &id, one, wall, who, errno),
        }
    })?;
    let image = images::declared_probe()?.label(&key, &value);
    node.import(&image, "keep.test/allowed:1")?;
    let id = format!("{id}-allowed");
    serving(node, Runtime::Keep, "keep.test/allowed:1", &id, || {
        let said = outcome(node, &id, who, one.what)?;
        ensure!(said == one.free, "with {key}={value:?}, {}: {said}, expected {}", one.what, one.free);
        for other in MOVES.iter().filter(|other| other.label != one.label) {
            let said = outcome(node, &id, who, other.what)?;
            // `jit` and `memfd-exec` both open memory files.
            if !(other.what == "syscall:memfd_create" && value.contains("jit")) {
                ensure_refused(&said, other.errnos, &format!("with {key}={value:?} only, {}", other.what))?;
            }
        }
        Ok(())
    })
}

/// The record of a move, and the label and whole value that it asks for.
fn named(node: &Node, id: &str, one: &Move, wall: &str, who: Who, errno: &str) -> Result<(String, String)> {
    let (key, missing) = one.label;
    let record = node.record(id, &format!("a record of wall {wall} with {key}"), |record| {
        record["wall"] == wall && record["allow"]["label"] == key
    })?;
    let check = |path: &str, expected: Value| {
        let found = record.pointer(path).cloned().unwrap_or(Value::Null);
        ensure!(found == expected, "{path} is {found}, expected {expected}, in {record}");
        Ok(())
    };
    check("/schema", "keep.dev/violation/v1".into())?;
    check("/verdict", "denied".into())?;
    check("/class", "keep".into())?;
    check("/container/id", id.into())?;
    check("/errno", errno.into())?;
    check("/image/name", "keep.test/declared:1".into())?;
    check("/process/program", "/bin/keep-probe".into())?;
    ensure!(
        record.pointer("/container/exec").is_some_and(Value::is_string) == (who == Who::Exec),
        "exec in {record}"
    );
    let value = record["allow"]["value"].as_str().unwrap_or("").to_owned();
    ensure!(value.split_whitespace().any(|word| covers(word, missing)), "{key}={value:?} lacks {missing}");
    Ok((key.to_owned(), value))
}

/// Whether a proposed word grants at least `missing`: the word itself, a file beneath it, or an address before the port.
fn covers(word: &str, missing: &str) -> bool {
    word == missing || word.starts_with(&format!("{missing}/")) || word.ends_with(&format!(":{missing}"))
}

type Test = fn(&Node) -> Result<()>;

const OTHERS: [(&str, Test); 17] = [
    ("the walls stand in /proc/PID/status of init", status_of_init),
    ("the walls stand in /proc/self/status of an exec", status_of_exec),
    ("a program that looks at once finds every wall standing", looks_at_once),
    ("only the declared capabilities are left", capabilities),
    ("what no label of the image allows is refused to init and exec", never),
    ("what the pod's other containers keep in /dev/shm is not changed without `ipc`", others_shared_memory),
    ("the declared port, folder and program work", declared),
    ("the loader does not run a program that was not declared", loader),
    ("networks, both protocols and name servers count for init and exec", sockets::networks),
    ("name servers that are written before the start count", sockets::late_name_servers),
    (
        "where a volume may hold unix sockets they are refused, and every connection recorded once",
        sockets::unix_sockets,
    ),
    ("sockets are watched in a cgroup of the container's own, which its end removes", sockets::own_cgroup),
    ("a container that does not start leaves no cgroup", sockets::no_cgroup_left),
    ("a container whose cgroup has another's process in it does not start", sockets::taken_cgroup),
    ("an observer that executed itself anew goes on, and its end lets nothing pass", anew::goes_on),
    ("keep violations says the label in one sentence", sentence),
    ("keep ps lists what runs, with its class, digest and gaps", listed),
];

fn field<'a>(status: &'a str, key: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.map_or("", str::trim)
}

fn ensure_walls(status: &str, capabilities: &str) -> Result<()> {
    let expected = [
        ("Seccomp", "2"),
        ("NoNewPrivs", "1"),
        ("CapInh", capabilities),
        ("CapPrm", capabilities),
        ("CapEff", capabilities),
        ("CapBnd", capabilities),
        ("CapAmb", capabilities),
    ];
    for (key, value) in expected {
        ensure!(
            field(status, key) == value,
            "{key} is {:?}, expected {value}, in\n{status}",
            field(status, key)
        );
    }
    Ok(())
}

const NONE: &str = "0000000000000000";

fn status_of_init(node: &Node) -> Result<()> {
    serving(node, Runtime::Keep, "keep.test/declared:1", "status-init", || {
        let pid = node.pid_of("status-init")?;
        let status =
            std::fs::read_to_string(format!("/proc/{pid}/status")).context("cannot read the status")?;
        ensure_walls(&status, NONE)
    })
}

fn status_of_exec(node: &Node) -> Result<()> {
    serving(node, Runtime::Keep, "keep.test/declared:1", "status-exec", || {
        let said = node.exec("status-exec", &["/bin/keep-probe", "status"])?.success()?;
        ensure_walls(&said.stdout, NONE)
    })
}

fn looks_at_once(node: &Node) -> Result<()> {
    let run = |id: &str, arguments: &[&str]| {
        let output = node.start_container(
            Runtime::Keep,
            &["--rm", "--net-host"],
            "keep.test/declared:1",
            id,
            arguments,
        )?;
        let left = node.wait_until_gone(id, Duration::from_secs(5));
        ensure!(left.is_empty(), "left behind: {left:?}");
        output.success()
    };
    for turn in 0..5 {
        let status = run(&format!("at-once-{turn}"), &["/bin/keep-probe", "status"])?;
        ensure_walls(&status.stdout, NONE)?;
    }
    let mut arguments = vec!["/bin/keep-probe", "many"];
    arguments.extend(MOVES.iter().map(|one| one.what));
    let said = run("at-once-many", &arguments)?;
    for one in MOVES {
        let line = said.stdout.lines().find_map(|line| line.strip_prefix(one.what)?.strip_prefix(": "));
        ensure_refused(line.unwrap_or("nothing"), one.errnos, one.what)?;
    }
    Ok(())
}

fn run_image(node: &Node, image: &Image, id: &str, arguments: &[&str]) -> Result<String> {
    node.import(image, "keep.test/special:1")?;
    let output =
        node.start_container(Runtime::Keep, &["--rm"], "keep.test/special:1", id, arguments)?.success()?;
    Ok(output.stdout)
}

fn others_shared_memory(node: &Node) -> Result<()> {
    let folder = node.folder.join("state/shared-memory");
    std::fs::create_dir(&folder).context("cannot make the folder")?;
    let theirs = folder.join("theirs");
    let mount = format!("type=bind,src={},dst=/dev/shm,options=rbind:rw", folder.display());
    let moves = ["truncate", "chmod", "write", "remove"].map(|what| format!("{what}:/dev/shm/theirs"));
    let run = |image: &str, id: &str| {
        std::fs::write(&theirs, "theirs").context("cannot write the file")?;
        let words: Vec<&str> =
            ["/bin/keep-probe", "many"].into_iter().chain(moves.iter().map(String::as_str)).collect();
        let flags = ["--rm", "--mount", &mount];
        node.start_container(Runtime::Keep, &flags, image, id, &words)?.success()
    };
    let said = run("keep.test/declared:1", "shared-memory")?;
    for line in said.stdout.lines() {
        let (what, outcome) = line.rsplit_once(": ").with_context(|| format!("{said}"))?;
        ensure_refused(outcome, DENIED_FILE, what)?;
    }
    ensure!(said.stdout.lines().count() == moves.len(), "{said}");
    ensure!(std::fs::read(&theirs).is_ok_and(|text| text == b"theirs"), "it was changed");
    node.import(&images::declared_probe()?.label("dev.keep.needs", "ipc"), "keep.test/special:1")?;
    let said = run("keep.test/special:1", "shared-memory-ipc")?;
    ensure!(said.stdout.lines().filter(|line| line.ends_with(": ok")).count() == moves.len(), "{said}");
    ensure!(!theirs.exists(), "it was not removed");
    Ok(())
}

fn capabilities(node: &Node) -> Result<()> {
    let image = images::declared_probe()?.label("dev.keep.caps", "NET_BIND_SERVICE");
    let status = run_image(node, &image, "caps-root", &["/bin/keep-probe", "status"])?;
    ensure_walls(&status, "0000000000000400")?;
    let status = run_image(node, &image.user("33:33"), "caps-user", &["/bin/keep-probe", "status"])?;
    ensure_walls(&status, "0000000000000400")
}

fn never(node: &Node) -> Result<()> {
    serving(node, Runtime::Keep, "keep.test/declared:1", "never", || {
        for what in NEVER {
            for who in [Who::Init, Who::Exec] {
                let said = outcome(node, "never", who, what)?;
                let refused = ["EPERM", "EACCES", "EAFNOSUPPORT", "EPROTONOSUPPORT", "ENOSYS"];
                ensure_refused(&said, &refused, &format!("{what} as {who:?}"))?;
            }
        }
        Ok(())
    })
}

fn declared(node: &Node) -> Result<()> {
    serving(node, Runtime::Keep, "keep.test/declared:1", "declared", || {
        for what in [
            "write:/data/file",
            "chmod:/data/file",
            "exec:/bin/keep-probe",
            "read:/etc/motd",
            "syscall:getpid",
        ] {
            for who in [Who::Init, Who::Exec] {
                let said = outcome(node, "declared", who, what)?;
                ensure!(said == "ok", "{what} as {who:?}: {said}");
            }
        }
        let records = node.records("declared")?;
        ensure!(records.is_empty(), "what was declared was recorded: {records:?}");
        Ok(())
    })
}

fn loader(node: &Node) -> Result<()> {
    let loader = if std::env::consts::ARCH == "aarch64" {
        "/lib/ld-linux-aarch64.so.1"
    } else {
        "/lib64/ld-linux-x86-64.so.2"
    };
    let line = format!("{loader} /bin/busybox true && echo ran || echo refused");
    node.import(&images::shell()?, "keep.test/loader:1")?;
    let run = |runtime, id: &str| {
        node.start_container(runtime, &["--rm"], "keep.test/loader:1", id, &["/bin/sh", "-c", &line])?
            .success()
    };
    ensure!(run(Runtime::Runc, "loader-runc")?.text() == "ran", "the control does not run");
    let said = run(Runtime::Keep, "loader-keep")?;
    ensure!(said.text().ends_with("refused"), "the loader ran it: {}", said.text());
    Ok(())
}

fn listed(node: &Node) -> Result<()> {
    let list = |arguments: &[&str]| {
        let keep = under_test::binary("keep")?.to_string_lossy().into_owned();
        Ok::<_, anyhow::Error>(node.run(&keep, &[&["ps"], arguments].concat())?.success()?.stdout)
    };
    let gone = |id: &str| Ok::<_, anyhow::Error>(!list(&[])?.lines().any(|line| line.starts_with(id)));
    let plain = (Runtime::Keep, "keep.test/plain:1", "undeclared");
    let audited = (Runtime::KeepClass("keep-permissive"), "keep.test/declared:1", "audited");
    for (runtime, image, walls) in [(Runtime::Keep, "keep.test/declared:1", "enforced"), plain, audited] {
        let id = format!("listed-{walls}");
        serving(node, runtime, image, &id, || {
            let rows: Vec<Value> = serde_json::from_str(&list(&["--format", "json"])?)?;
            let row = rows.iter().find(|row| row["id"] == id.as_str()).context("it is not listed")?;
            let class = if walls == "audited" { "keep-permissive" } else { "keep" };
            ensure!(
                row["class"] == class && row["walls"] == walls && row["missing"] == Value::Array(vec![]),
                "{row}"
            );
            let pid = row["pid"].as_i64().context("no pid")?;
            node.run("test", &["-d", &format!("/proc/{pid}")])?.success().with_context(|| row.to_string())?;
            let digest =
                row["profile"].as_str().and_then(|digest| digest.strip_prefix("sha256:")).unwrap_or_default();
            ensure!(digest.len() == 64, "{row}");
            let line = list(&[])?.lines().find(|line| line.starts_with(&id)).map(str::to_owned);
            let line = line.context("it is not in the table")?;
            ensure!(line.contains(walls) && line.contains(&digest[..12]) && line.ends_with("  -"), "{line}");
            Ok(())
        })?;
        ensure!(gone(&id)?, "{id} is listed still");
    }
    Ok(())
}

fn sentence(node: &Node) -> Result<()> {
    serving(node, Runtime::Keep, "keep.test/declared:1", "sentence", || {
        outcome(node, "sentence", Who::Init, "exec:/bin/other")?;
        node.record("sentence", "a record", |record| record["wall"] == "exec")?;
        let keep = under_test::binary("keep")?;
        let said = node.run(&keep.to_string_lossy(), &["violations"])?.success()?;
        let line = said.stdout.lines().rev().find(|line| line.contains("/bin/other"));
        let line = line.with_context(|| format!("no line names /bin/other: {said}"))?;
        ensure!(line.contains("dev.keep.exec=\"") && line.contains("/bin/other\""), "{line}");
        let json = node.run(&keep.to_string_lossy(), &["violations", "--format", "json"])?.success()?;
        for line in json.stdout.lines() {
            let record: Value = serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))?;
            ensure!(record["schema"] == "keep.dev/violation/v1", "{line}");
        }
        Ok(())
    })
}
