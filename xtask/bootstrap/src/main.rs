//! `cargo xtask` on a machine with nothing but Rust: installs what building `xtask` itself needs, then runs it. A crate that
//! `xtask` uses generates its code with `protoc` while it is compiled, so `xtask` cannot install that.

#![forbid(unsafe_code)]

use std::env;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode, Stdio};

/// Debian's package of `protoc`.
const PACKAGE: &str = "protobuf-compiler";

fn main() -> ExitCode {
    let error = match install() {
        Ok(()) => run_xtask(),
        Err(error) => error,
    };
    eprintln!("error: {error}");
    ExitCode::FAILURE
}

/// Installs `protoc` where there is none, neither in `PATH` nor named by `PROTOC`.
fn install() -> io::Result<()> {
    let protoc = env::var_os("PROTOC").unwrap_or_else(|| "protoc".into());
    let found = Command::new(&protoc).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_ok_and(|status| status.success()) {
        return Ok(());
    }
    if env::var_os("PROTOC").is_some() {
        return Err(io::Error::other(format!("PROTOC names {}, which does not run", protoc.display())));
    }
    eprintln!("installing the Debian package {PACKAGE}, which cargo xtask is compiled with");
    apt(&["update"])?;
    apt(&["-y", "install", "--no-install-recommends", PACKAGE])
}

fn apt(arguments: &[&str]) -> io::Result<()> {
    let mend = format!("install {PACKAGE} as root, or let PROTOC name a protoc of your own");
    let output = Command::new("apt-get")
        .arg("-qq")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| io::Error::other(format!("cannot start apt-get ({error}): {mend}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("apt-get {}: {}\n{mend}", arguments.join(" "), said.trim())))
}

/// Becomes `cargo run` of `xtask` with the same arguments; returns only why it could not.
fn run_xtask() -> io::Error {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    Command::new(cargo)
        .args(["run", "--quiet", "--package", "xtask", "--"])
        .args(env::args_os().skip(1))
        .exec()
}
