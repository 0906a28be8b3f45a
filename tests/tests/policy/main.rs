//! Policies against a real containerd: each container starts under a handler with a policy folder of its own, and what
//! the policies take away is refused by the walls and named in the records, what they leave works.

#![forbid(unsafe_code)]

mod case;
mod files;
mod grants;
mod rules;
mod sessions;

use std::process::ExitCode;

use anyhow::Result;
use case::Case;
use tests::image::{Image, Layer};
use tests::node::{Containerd, Node};
use tests::shared::Shared;
use tests::{images, suite, under_test};

/// Where what the containers connect to listens.
const LISTENER: u16 = 9000;

type Test = fn(&Case<'_>) -> Result<()>;

fn main() -> ExitCode {
    let containerd = Containerd::Built;
    let node = Shared::start(containerd, |containerd| Node::with_listener(containerd, LISTENER));
    let keep = node.with_shim();
    let mut trials = Vec::new();
    for (name, title, test) in
        grants::TESTS.iter().chain(rules::TESTS).chain(sessions::TESTS).chain(files::TESTS)
    {
        let trial = move |node: &mut Node| test(&Case::new(node, name)?);
        trials.push(keep.trial(format!("{containerd}: {title}"), trial));
    }
    let code = suite::conclude(trials);
    drop(keep);
    drop(node);
    code
}

/// The probe with a third program, a script, links that lead elsewhere, and no labels.
fn image() -> Result<Image> {
    let layer = Layer::new()
        .copy(&under_test::binary("keep-probe")?, "srv/third")?
        .file("srv/script", "#!/bin/other\n", 0o755)
        .symlink("srv/link", "/bin/other")
        .symlink("data/link", "/opt/state");
    Ok(images::probe()?.layer(layer))
}

/// The same, and it declares these labels, `dev.keep.` left out.
fn declaring(labels: &[(&str, &str)]) -> Result<Image> {
    let image = image()?.label("dev.keep.intent", "v1");
    Ok(labels.iter().fold(image, |image, (key, value)| image.label(&format!("dev.keep.{key}"), value)))
}

/// Declares something of each kind that these tests try.
fn generous() -> Result<Image> {
    declaring(&[
        ("exec", "/bin/other /srv/third"),
        ("listen", "8080/tcp 9990-9999/tcp"),
        ("connect", "9000/tcp"),
        ("write", "/data /opt/state"),
        ("needs", "ipc jit"),
    ])
}
