//! What a shim does when something around it fails or is changed, and how it is configured.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use containerd_shim_protos::protobuf::Message as _;
use containerd_shim_protos::types::introspection::RuntimeInfo;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use prost_types::Any;
use tests::command::{run, until};
use tests::node::{Containerd, Node, Runtime};
use tests::task::{Answer, Client, Shim, Streams};
use tests::under_test;

use crate::{BUSYBOX, PATIENCE};

type Test = fn(&mut Node) -> Result<()>;

pub const TESTS: &[(&str, Test)] = &[
    ("a cgroup that cannot be read is not taken for one that is gone", unreadable_cgroup),
    ("killing the shim of a paused container leaves nothing", killed_while_paused),
    ("what ends while containerd is away is known and told when it is back", ended_unseen),
    (
        "a pod's shim serves on while its program is replaced, and takes the newer one's containers",
        replaced_program,
    ),
    ("the id of a container that ended is free at once", used_again),
    ("containers of a pod share a shim, which ends with the last", grouped),
    ("containerd's debug level reaches the shim's log", debug_level),
    ("-info says what the runtime does", info),
    (
        "options by ConfigPath and by ConfigBody name the class, wrong ones start nothing, runc's are not ours",
        options,
    ),
];

fn sleeping(node: &Node, client: &Client, id: &str, sandbox: Option<&str>) -> Result<i32> {
    sleeping_under(node, Runtime::Keep, client, id, sandbox)
}

fn sleeping_under(
    node: &Node,
    runtime: Runtime,
    client: &Client,
    id: &str,
    sandbox: Option<&str>,
) -> Result<i32> {
    node.make_container(runtime, &[], BUSYBOX, id, &["sleep", "600"])?;
    if let Some(sandbox) = sandbox {
        client.edit_spec(id, |spec| spec["annotations"]["io.kubernetes.cri.sandbox-id"] = sandbox.into())?;
    }
    let pid = client.create(id, &Streams::default())?;
    client.start(id, "")?;
    node.outside(pid.cast_signed())
}

/// Runs a test, and leaves nothing of its containers whatever it says.
fn with(node: &mut Node, ids: &[&str], test: impl FnOnce(&mut Node) -> Result<()>) -> Result<()> {
    let result = test(node);
    let gone = ids.iter().map(|id| node.remove(id)).find(Result::is_err).unwrap_or(Ok(()));
    result.and(gone)
}

fn unreadable_cgroup(node: &mut Node) -> Result<()> {
    let id = "unreadable";
    let broken = node.folder.join("state/broken");
    std::fs::create_dir_all(&broken)?;
    std::fs::write(broken.join("cgroup.procs"), "no number\n")?;
    let cgroup = format!("/sys/fs/cgroup/devices/{}/{id}", node.namespace);
    with(node, &[id], |node| {
        let client = Client::connect(node)?;
        sleeping(node, &client, id, None)?;
        node.run("mount", &["--bind", &broken.to_string_lossy(), &cgroup])?.success()?;
        client.kill(id, "", 9, false)?;
        client.wait(id, "")?;
        let refused = client.delete(id);
        node.run("umount", &[&cgroup])?.success()?;
        let message = refused.err().map(|status| status.message().to_owned());
        let named =
            message.as_ref().is_some_and(|text| text.contains("cannot list the container's processes"));
        ensure!(named, "the deletion says {message:?}");
        client.delete(id)?;
        Ok(())
    })?;
    with(node, &["gone"], |node| {
        let client = Client::connect(node)?;
        sleeping(node, &client, "gone", None)?;
        client.kill("gone", "", 9, false)?;
        client.wait("gone", "")?;
        node.run("rmdir", &[&cgroup.replace(id, "gone")])?.success()?;
        client.delete("gone").map(drop).context("a cgroup that is gone hinders the deletion")
    })
}

fn killed_while_paused(node: &mut Node) -> Result<()> {
    let id = "killed-paused";
    with(node, &[id], |node| {
        let client = Client::connect(node)?;
        let pid = sleeping(node, &client, id, None)?;
        node.ctr(&["task", "pause", id])?.success()?;
        let shim = node.shims(id).iter().map(|process| process.pid).min().context("there is no shim")?;
        kill(Pid::from_raw(shim), Signal::SIGKILL).context("cannot kill the shim")?;
        until("the container's process to end", PATIENCE, || {
            (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(())
        })?;
        let left = node.wait_until_gone(id, PATIENCE);
        ensure!(left.is_empty(), "left behind: {left:#?}");
        Ok(())
    })
}

/// A shim that ends is not found by the next one's start, though its last events are on their way.
fn used_again(node: &mut Node) -> Result<()> {
    let id = "again";
    with(node, &[id], |node| {
        let client = Client::connect(node)?;
        node.make_container(Runtime::Keep, &[], BUSYBOX, id, &["true"])?;
        for turn in 0..50 {
            let turned = client.create(id, &Streams::default()).and_then(|_| {
                client.start(id, "")?;
                client.wait(id, "")?;
                client.delete(id)
            });
            let code = turned.with_context(|| format!("turn {turn}"))?;
            ensure!(code == 0, "turn {turn} ended with {code}");
        }
        Ok(())
    })
}

/// containerd 2.3 forgets tasks that ended while it was away, whatever the runtime: what it is told counts.
fn ended_unseen(node: &mut Node) -> Result<()> {
    let reference = while_away(node, Runtime::Runc, "unseen-runc")?;
    let ours = while_away(node, Runtime::Keep, "unseen-keep")?;
    ensure!(ours == reference, "runc's shim says {reference:?}, and Keep {ours:?}");
    let topics = ["/tasks/exit", "/tasks/exit", "/tasks/delete"];
    let told = until("the events", PATIENCE, || {
        let lines = node.log_lines("containerd", "event forwarded");
        let line = |topic: &&str| format!("topic={topic} ");
        let told: Vec<&str> = lines
            .iter()
            .filter(|line| line.contains("ns=") && line.contains(&node.namespace))
            .filter_map(|said| topics.iter().find(|topic| format!("{said} ").contains(&line(topic))).copied())
            .collect();
        told.ends_with(&topics).then_some(())
    });
    let result = told.with_context(|| format!("{:#?}", node.log_lines("containerd", "event forwarded")));
    node.stop_daemon("containerd", "TERM")?;
    node.start_containerd()?;
    result
}

/// What containerd answers of a container and an exec that ended while it was away; it is left noting what it is told.
fn while_away(node: &mut Node, runtime: Runtime, id: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    with(node, &[id], |node| {
        let client = Client::connect(node)?;
        let pid = sleeping_under(node, runtime, &client, id, None)?;
        client.add_exec(id, "one", &["sh", "-c", "sleep 1; exit 5"], &Streams::default())?;
        client.start(id, "one")?;
        drop(client);
        node.stop_daemon("containerd", "KILL")?;
        std::thread::sleep(Duration::from_millis(1500));
        kill(Pid::from_raw(pid), Signal::SIGKILL).context("cannot kill the container's process")?;
        std::thread::sleep(Duration::from_millis(500));
        node.start_containerd_with(&["--log-level", "trace"])?;
        let client = Client::connect(node)?;
        let mut say = |what: &str, answer: Answer<u32>| {
            let answer = answer.map_err(|status| status.code());
            found.push(format!("{what}: {answer:?}"));
        };
        say("wait for the exec", client.wait(id, "one"));
        say("wait", client.wait(id, ""));
        say("delete", client.delete(id));
        Ok(())
    })?;
    Ok(found)
}

fn replaced_program(node: &mut Node) -> Result<()> {
    let folder = node.folder.join("state/bin");
    std::fs::create_dir_all(&folder)?;
    let (built, program) = (under_test::binary(under_test::SHIM)?, folder.join(under_test::SHIM));
    // A package manager replaces a program that runs: a new file under the old name.
    let install = |bytes: &[u8]| -> Result<()> {
        let new = folder.join("new");
        std::fs::write(&new, bytes)?;
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755))?;
        std::fs::rename(&new, &program).context("cannot replace the program")
    };
    let bytes = std::fs::read(built)?;
    install(&bytes)?;
    let usual = node.options.path.replace(folder.clone());
    let result = with(node, &["older", "newer"], |node| {
        node.stop_daemon("containerd", "TERM")?;
        node.start_containerd()?;
        let client = Client::connect(node)?;
        sleeping(node, &client, "older", Some("older"))?;
        let shim = Shim::address(node, "older")?;
        install(&[bytes.as_slice(), b"newer"].concat())?;
        sleeping(node, &client, "newer", Some("older"))?;
        ensure!(Shim::address(node, "newer")? == shim, "the newer program did not find the pod's shim");
        install(b"#!/bin/sh\nexit 1\n")?;
        for id in ["older", "newer"] {
            client.add_exec(id, "one", &["sh", "-c", "exit 6"], &Streams::default())?;
            client.start(id, "one")?;
            ensure!(client.wait(id, "one")? == 6, "the exec in {id} has another exit");
            client.kill(id, "", 9, false)?;
            client.wait(id, "")?;
            client.delete(id)?;
        }
        Ok(())
    });
    node.options.path = usual;
    node.stop_daemon("containerd", "TERM")?;
    node.start_containerd()?;
    result
}

fn grouped(node: &mut Node) -> Result<()> {
    with(node, &["pod-a", "pod-b", "pod-c"], |node| {
        let client = Client::connect(node)?;
        for id in ["pod-a", "pod-b"] {
            sleeping(node, &client, id, Some("pod-a"))?;
        }
        sleeping(node, &client, "pod-c", None)?;
        let [a, b, c] = ["pod-a", "pod-b", "pod-c"].map(|id| Shim::address(node, id));
        let (a, b, c) = (a?, b?, c?);
        ensure!(a == b && a != c, "addresses {a}, {b}, {c}");
        let socket = node.inside(std::path::Path::new(a.trim_start_matches("unix://")));
        for (id, lives) in [("pod-a", true), ("pod-b", false)] {
            client.kill(id, "", 9, false)?;
            client.wait(id, "")?;
            client.delete(id)?;
            let ended = until("the shim to end", Duration::from_secs(if lives { 3 } else { 20 }), || {
                (!socket.exists()).then_some(())
            });
            ensure!(ended.is_err() == lives, "after {id} the shim's socket: {ended:?}");
        }
        Ok(())
    })
}

fn debug_level(node: &mut Node) -> Result<()> {
    // Other tests have had containerd at other levels.
    let lines = |node: &Node| node.log_lines("containerd", "DEBUG containerd_shim_keep_v2").len();
    let one = |node: &Node| -> Result<()> {
        let words = ["true"];
        node.start_container(Runtime::Keep, &["--rm"], BUSYBOX, "debug", &words)?.success().map(drop)
    };
    with(node, &["debug"], |node| {
        let before = lines(node);
        one(node)?;
        ensure!(lines(node) == before, "without the level there are debug lines");
        node.stop_daemon("containerd", "TERM")?;
        node.start_containerd_with(&["--log-level", "debug"])?;
        let said = one(node).and_then(|()| {
            until("the shim's debug lines in containerd's log", PATIENCE, || {
                (lines(node) > before).then_some(())
            })
        });
        node.stop_daemon("containerd", "TERM")?;
        node.start_containerd()?;
        said
    })
}

fn info(node: &mut Node) -> Result<()> {
    let mut command = std::process::Command::new("sh");
    let shim = under_test::binary(under_test::SHIM)?;
    let out = node.folder.join("state/info");
    command.args(["-c", "\"$0\" -info </dev/null >\"$1\""]).arg(&shim).arg(&out);
    run(&mut command, PATIENCE)?.success()?;
    let info = RuntimeInfo::parse_from_bytes(&std::fs::read(&out)?)?;
    ensure!(info.name == under_test::RUNTIME, "it is {}", info.name);
    ensure!(info.version.version == env!("CARGO_PKG_VERSION"), "it is of version {:?}", info.version);
    let features: serde_json::Value = serde_json::from_slice(&info.features.value)?;
    ensure!(features["linux"]["cgroup"]["v1"] == true, "{features}");
    if node.options.containerd == Containerd::Built {
        // containerd decodes the document by its type, and prints it.
        let said = node.ctr(&["plugins", "inspect-runtime", "--runtime", under_test::RUNTIME])?.success()?;
        ensure!(said.stdout.contains("\"rro\"") && said.stdout.contains("dev.keep.version"), "{said}");
    }
    Ok(())
}

/// Handler options as containerd passes them: `runtimeoptions.v1.Options`, with a path or a body; or, as `ctr --runc-root` does for any
/// runtime, `containerd.runc.v1.Options`.
fn handler_options(kind: &str, field: u8, value: &str) -> Result<Any> {
    // A field of a protobuf message: its number and type, its length, its bytes.
    let length = u8::try_from(value.len()).ok().filter(|length| *length < 128).context("too long")?;
    let value = [&[field << 3 | 2, length], value.as_bytes()].concat();
    Ok(Any { type_url: format!("{kind}.v1.Options"), value })
}

fn options(node: &mut Node) -> Result<()> {
    const PATH: u8 = 2;
    const BODY: u8 = 3;
    const RUNC_ROOT: u8 = 7;
    let file = node.folder.join("classes/strict.toml");
    std::fs::write(&file, "class = \"keep-strict\"\n")?;
    let file = file.to_string_lossy().into_owned();
    let cases = [
        ("by-path", "runtimeoptions", PATH, file.as_str(), Some("dev.keep.intent")),
        ("by-body", "runtimeoptions", BODY, "class = \"keep-strict\"\n", Some("dev.keep.intent")),
        ("permissive", "runtimeoptions", BODY, "class = \"keep-permissive\"\n", None),
        ("no-file", "runtimeoptions", PATH, "/no/such/file.toml", Some("/no/such/file.toml")),
        ("wrong", "runtimeoptions", BODY, "clas = \"keep\"\n", Some("clas")),
        ("runc-typed", "containerd.runc", RUNC_ROOT, "/no/such/root", None),
    ];
    for (id, kind, field, value, refused) in cases {
        with(node, &[id], |node| {
            let client = Client::connect(node)?;
            node.make_container(Runtime::Keep, &[], BUSYBOX, id, &["sleep", "600"])?;
            client.set_options(id, handler_options(kind, field, value)?)?;
            match (client.create(id, &Streams::default()), refused) {
                (Ok(_), None) => Ok(()),
                (Err(status), Some(words)) if status.message().contains(words) => Ok(()),
                (made, _) => anyhow::bail!("{id}: {made:?}"),
            }
        })?;
    }
    Ok(())
}
