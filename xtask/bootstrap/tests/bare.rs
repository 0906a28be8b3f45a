//! `bootstrap` where there is no `protoc`: with an `apt-get` and a `cargo` that note how they were called.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder that is all of `PATH`, and what its programs noted.
struct Machine(PathBuf);

impl Machine {
    fn new(name: &str, apt: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        if folder.exists() {
            fs::remove_dir_all(&folder).unwrap();
        }
        fs::create_dir(&folder).unwrap();
        let machine = Self(folder);
        machine.program("apt-get", apt);
        machine.program("cargo", "exit 3");
        machine
    }

    /// A program that notes its arguments, and then does `what`.
    fn program(&self, name: &str, what: &str) {
        let (path, notes) = (self.0.join(name), self.0.join("notes"));
        fs::write(&path, format!("#!/bin/sh\necho {name} \"$@\" >> '{}'\n{what}\n", notes.display()))
            .unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn run(&self, protoc: Option<&Path>) -> Output {
        let mut bootstrap = Command::new(env!("CARGO_BIN_EXE_bootstrap"));
        bootstrap
            .args(["test", "a name"])
            .env_clear()
            .env("PATH", &self.0)
            .env("CARGO", self.0.join("cargo"));
        bootstrap.envs(protoc.map(|path| ("PROTOC", path))).output().unwrap()
    }

    fn notes(&self) -> Vec<String> {
        let notes = fs::read_to_string(self.0.join("notes")).unwrap_or_default();
        notes.lines().map(str::to_owned).collect()
    }
}

const RUN: &str = "cargo run --quiet --package xtask -- test a name";

#[test]
fn protoc_is_installed_where_it_is_missing_and_xtask_runs_after_that() {
    let machine = Machine::new("missing", "");
    let output = machine.run(None);
    let install = "apt-get -qq -y install --no-install-recommends protobuf-compiler";
    assert_eq!(machine.notes(), ["apt-get -qq update", install, RUN]);
    assert_eq!(output.status.code(), Some(3), "xtask's own exit code is given");
    assert!(output.stdout.is_empty());
}

#[test]
fn nothing_is_installed_where_protoc_is_there() {
    let machine = Machine::new("there", "");
    machine.program("protoc", "");
    machine.run(None);
    assert_eq!(machine.notes(), ["protoc --version", RUN]);
}

#[test]
fn what_cannot_be_installed_is_said_and_nothing_runs() {
    let machine = Machine::new("refused", "echo 'are you root?' >&2; exit 100");
    let output = machine.run(None);
    assert_eq!((output.status.code(), machine.notes()), (Some(1), vec!["apt-get -qq update".to_owned()]));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("are you root?") && said.contains("install protobuf-compiler as root"), "{said}");
}

#[test]
fn a_protoc_that_is_named_and_does_not_run_is_an_error() {
    let machine = Machine::new("named", "");
    let output = machine.run(Some(Path::new("/nowhere/protoc")));
    assert_eq!((output.status.code(), machine.notes()), (Some(1), Vec::new()));
}
