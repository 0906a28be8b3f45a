//! The attack suite in containers on these kernels: what they need, and whether each probe came out as docs/escapes.md says.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::attack::{self, Probe, Setting, User, Walls};
use tests::image::Layer;
use tests::{command, images, provision, under_test};

use super::machine;

/// Adds containerd, the shim, the images and the kernels' overlay file system.
pub(super) fn add(layer: Layer, kernels: &[&str]) -> Result<Layer> {
    provision::containerd()?;
    let folder = tempfile::tempdir().context("cannot make a folder")?;
    let built = provision::binaries()?;
    let mut layer = layer.file("keep/containers.sh", include_str!("containers.sh"), 0o755);
    for name in ["containerd", "ctr"] {
        layer = layer.copy(&built.join(name), &format!("keep/{name}"))?;
    }
    for name in [under_test::SHIM, attack::PROGRAM] {
        layer = layer.copy(&under_test::binary(name)?, &format!("keep/{name}"))?;
    }
    for (user, name) in [(User::Root, "root"), (User::Other, "user")] {
        let archive =
            images::write(&attack::image(user)?, &format!("keep.test/attack:{name}"), folder.path())?;
        layer = layer.copy(&archive, &format!("keep/{name}.tar"))?;
    }
    for package in kernels {
        let (version, module) = overlay(&provision::kernel(package)?, folder.path())?;
        layer = layer.file(&format!("keep/overlay-{version}.ko"), module, 0o644);
    }
    Ok(layer)
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
