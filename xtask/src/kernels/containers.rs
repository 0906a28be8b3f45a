//! Containers on these kernels: what they need, whether each probe of the attack suite came out as docs/escapes.md says, and what
//! the task API says of memory on cgroup v2, which only these machines have alone.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::attack::{self, Probe, Setting, User, Walls};
use tests::image::Layer;
use tests::{command, images, provision, under_test};

use super::machine;
use crate::build;

/// What `keep-task update` ends with, and the files of the limits that it is to set: memory.max, pids.max, cpu.max, cpu.weight.
const UPDATED: &str = "0 134217728 32 50000 100000 59";

/// Adds containerd, the shim, the images and the kernels' overlay file system.
pub(super) fn add(layer: Layer, kernels: &[&str]) -> Result<Layer> {
    provision::containerd()?;
    let folder = tempfile::tempdir().context("cannot make a folder")?;
    let built = provision::binaries()?;
    let mut layer = layer;
    for (name, script) in [
        ("containerd", include_str!("containerd.sh")),
        ("containers", include_str!("containers.sh")),
        ("systemd", include_str!("systemd.sh")),
        ("bench", include_str!("bench.sh")),
    ] {
        layer = layer.file(&format!("keep/{name}.sh"), script, 0o755);
    }
    for name in ["containerd", "ctr", "containerd-shim-runc-v2"] {
        layer = layer.copy(&built.join(name), &format!("keep/{name}"))?;
    }
    for name in [under_test::SHIM, attack::PROGRAM] {
        layer = layer.copy(&under_test::binary(name)?, &format!("keep/{name}"))?;
    }
    layer = layer.copy(&client()?, "keep/keep-task")?;
    for (user, name) in [(User::Root, "root"), (User::Other, "user")] {
        let archive =
            images::write(&attack::image(user)?, &format!("keep.test/attack:{name}"), folder.path())?;
        layer = layer.copy(&archive, &format!("keep/{name}.tar"))?;
    }
    let plain = images::static_true()?.label("dev.keep.intent", "v1");
    for (name, image) in [("busybox", images::busybox()?), ("true", plain)] {
        let archive = images::write(&image, &format!("keep.test/{name}:1"), folder.path())?;
        layer = layer.copy(&archive, &format!("keep/{name}.tar"))?;
    }
    for package in kernels {
        let (version, module) = overlay(&provision::kernel(package)?, folder.path())?;
        layer = layer.file(&format!("keep/overlay-{version}.ko"), module, 0o644);
    }
    Ok(layer)
}

/// Builds the client of the task service, static.
fn client() -> Result<PathBuf> {
    let triple = under_test::triple();
    let mut cargo = build::cargo();
    cargo.env("RUSTFLAGS", build::FLAGS).env_remove("CARGO_ENCODED_RUSTFLAGS");
    cargo.args([
        "build",
        "--quiet",
        "--locked",
        "--target",
        &triple,
        "-p",
        "tests",
        "--example",
        "keep-task",
    ]);
    let status = cargo.stdin(Stdio::null()).status().context("cannot start cargo")?;
    ensure!(status.success(), "keep-task does not build");
    Ok(build::target()?.join(triple).join("debug/examples/keep-task"))
}

/// A kernel's version, and its module of overlay file systems.
fn overlay(root: &Path, folder: &Path) -> Result<(String, Vec<u8>)> {
    let version = machine::version(&machine::image(root)?);
    let plain = root.join("lib/modules").join(&version).join("kernel/fs/overlayfs/overlay.ko");
    let packed = plain.with_extension("ko.xz");
    let module = if packed.exists() {
        let copy = folder.join("overlay.ko.xz");
        std::fs::copy(&packed, &copy).with_context(|| format!("cannot copy {}", packed.display()))?;
        let mut xz = Command::new("xz");
        command::run(xz.args(["--decompress", "--force"]).arg(&copy), Duration::from_secs(30))?.success()?;
        copy.with_extension("")
    } else {
        plain
    };
    let bytes = std::fs::read(&module).with_context(|| format!("cannot read {}", module.display()))?;
    Ok((version, bytes))
}

/// What came of the probes, as results of tests: each of Keep's is to be stopped, but for `open`, which this kernel leaves
/// open. One that said nothing has failed.
pub(super) fn judged(text: &str, open: &[&str]) -> Result<String> {
    let probes = attack::probes()?;
    ensure!(!probes.is_empty(), "{} lists no probe", attack::PROGRAM);
    let mut results = String::new();
    for (name, good) in [
        ("metrics on cgroup v2", said_of(text, "metrics").is_some_and(metrics_are_right)),
        ("new limits on cgroup v2", said_of(text, "update") == Some(UPDATED)),
        ("execs and a deletion after the clock jumped", said_of(text, "clock") == Some("0 0 0 0")),
        ("a container out of memory is ended", said_of(text, "exit") == Some("137")),
        ("it is told of before its exit", said_of(text, "events").is_some_and(events_are_right)),
    ] {
        results += &format!("test task API: {name} ... {}\n", if good { "ok" } else { "FAILED" });
    }
    for setting in Setting::all().filter(|setting| setting.walls == Walls::Keep) {
        for probe in probes.iter().filter(|probe| probe.who != "user" || setting.user == User::Other) {
            let prefix = format!("attack {setting}: {}: ", probe.name);
            let said = text.lines().find_map(|line| line.trim_end().strip_prefix(&prefix));
            let good = said.is_some_and(|said| is_right(probe, said, open));
            let outcome = if good { "ok" } else { "FAILED" };
            results += &format!("test {setting}: {} ... {outcome}\n", probe.name);
        }
    }
    Ok(results)
}

/// What became of a container's cgroup that systemd makes: its own process and an exec are in it, its limit is the unit's, and it is
/// gone afterwards.
pub(super) fn judged_of_systemd(text: &str) -> String {
    let of = |what: &str| said_of(text, what).unwrap_or_default();
    let unit: BTreeSet<&str> = of("unit").split_whitespace().collect();
    let scope = "0::/keep.slice/keep-metered.scope";
    let mut results = String::new();
    for (name, good) in [
        ("a container and its exec are in its scope", of("cgroups") == format!("{scope} {scope}")),
        (
            "the scope has the container's new limit",
            unit == BTreeSet::from(["ActiveState=active", "MemoryMax=134217728"]),
        ),
        ("the scope goes with the container", of("afterwards") == "ActiveState=inactive"),
    ] {
        results += &format!("test systemd: {name} ... {}\n", if good { "ok" } else { "FAILED" });
    }
    results
}

/// What the task API said, in the line that has it.
fn said_of<'a>(text: &'a str, what: &str) -> Option<&'a str> {
    let prefix = format!("task {what}: ");
    text.lines().find_map(|line| line.trim_end().strip_prefix(prefix.as_str()))
}

/// Whether there is what containerd and kubelet look for, in kind: metrics of a container that sleeps, with a limit of 64 MiB.
fn metrics_are_right(json: &str) -> bool {
    let Ok(all) = serde_json::from_str::<serde_json::Value>(json) else { return false };
    let number = |path: &str| all.pointer(path).and_then(serde_json::Value::as_u64).unwrap_or_default();
    number("/pids/current") == 1
        && number("/cpu/usage_usec") > 0
        && number("/memory/usage") > 0
        && number("/memory/anon") > 0
        && number("/memory/usage_limit") == 67_108_864
        && ["/memory_events", "/io", "/cpu/psi/some", "/memory/psi/full"]
            .iter()
            .all(|path| all.pointer(path).is_some())
}

/// Whether a container ran out of memory before it ended; the kernel may tell several times.
fn events_are_right(topics: &str) -> bool {
    let mut topics: Vec<&str> = topics.split_whitespace().collect();
    topics.dedup();
    topics == ["/tasks/create", "/tasks/start", "/tasks/oom", "/tasks/exit", "/tasks/delete"]
}

fn is_right(probe: &Probe, said: &str, open: &[&str]) -> bool {
    if open.contains(&probe.name.as_str()) {
        said == "crossed"
    } else {
        said.starts_with("stopped ") || said.starts_with("absent ")
    }
}

#[cfg(test)]
mod outcomes {
    use super::*;

    #[test]
    fn metrics_need_every_part_that_is_looked_for() {
        let json = r#"{"pids":{"current":1},"cpu":{"usage_usec":365616,"psi":{"some":{"total":21453},"full":{}}},
            "memory":{"anon":122880,"usage":516096,"usage_limit":67108864,"psi":{"some":{},"full":{}}},
            "io":{"psi":{"some":{},"full":{}}},"memory_events":{}}"#;
        assert!(metrics_are_right(json));
        for (part, other) in
            [("67108864", "67108863"), ("\"io\"", "\"oi\""), ("122880", "0"), ("{\"pids\"", "{")]
        {
            assert!(!metrics_are_right(&json.replace(part, other)), "{part}");
        }
    }

    #[test]
    fn the_event_of_running_out_of_memory_is_to_come_before_the_exit() {
        assert!(events_are_right(
            "/tasks/create /tasks/start /tasks/oom /tasks/oom /tasks/exit /tasks/delete"
        ));
        assert!(!events_are_right("/tasks/create /tasks/start /tasks/exit /tasks/oom /tasks/delete"));
        assert!(!events_are_right("/tasks/create /tasks/start /tasks/exit /tasks/delete"));
    }

    #[test]
    fn a_probe_is_to_be_stopped_unless_it_is_open_and_then_it_is_to_cross() {
        let probe = Probe {
            name: "x".to_owned(),
            group: String::new(),
            wall: "Landlock".to_owned(),
            who: "anyone".to_owned(),
            words: String::new(),
        };
        for (open, said, right) in [
            (&[][..], "stopped EACCES", true),
            (&[], "absent this call", true),
            (&[], "crossed", false),
            (&[], "broken: no file", false),
            (&["x"], "crossed", true),
            (&["x"], "stopped EACCES", false),
        ] {
            assert_eq!(is_right(&probe, said, open), right, "{open:?}: {said}");
        }
    }
}
