//! Tries to get around every wall, one way after the other, and says what came of each.
//!
//! Each probe runs in a forked child with a time limit and leaves nothing behind that outlives the container. It is
//! `crossed` where it got what it wanted, `stopped` where it did not, `absent` where the kernel lacks the thing; `broken` and `stuck` show nothing.

#![deny(unsafe_code)]

mod calls;
mod files;
mod network;
mod privileges;
mod probe;
mod processes;
mod programs;
#[allow(unsafe_code)]
mod raw;
mod runtime;
mod tools;

use std::io::{self, Read as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use probe::{Failure, Probe, Who};
use tools::CROSSED;

const USAGE: &str = "usage: keep-attack COMMAND
  list              NAME, wall, who crosses unconfined, and words of each probe, between tabs
  run [NAME]...     NAME: crossed | stopped WHY | absent WHAT | broken WHY | stuck
  sleep             until SIGTERM
  listen            on the abstract socket and the ports that the probes want to reach
  ok | raised       what undeclared and set-uid programs do";

/// Longest that a probe may take.
const LIMIT: Duration = Duration::from_secs(20);

/// The groups, as docs/escapes.md has them.
const GROUPS: &[(&str, &[&[Probe]])] = &[
    ("programs", &[programs::PROBES]),
    ("files", &[files::PROBES, files::MOUNTS]),
    ("network", &[network::PROBES]),
    ("calls", &[calls::PROBES, processes::PROBES, privileges::PROBES]),
    ("runtime", &[runtime::PROBES]),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["ok", ..] => ok(),
        ["raised", ..] => ExitCode::from(if nix::unistd::geteuid().is_root() { 42 } else { 1 }),
        ["list"] => {
            for (group, probe) in all() {
                let (wall, who) = (probe.wall.words(), probe.who.words());
                println!("{}\t{group}\t{wall}\t{who}\t{}", probe.name, probe.words);
            }
            ExitCode::SUCCESS
        }
        ["run", names @ ..] => run(names),
        ["listen"] => finish(network::listen()),
        ["sleep"] => {
            std::thread::sleep(Duration::from_secs(600));
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn all() -> impl Iterator<Item = (&'static str, &'static Probe)> {
    let probes = |probes: &'static [&'static [Probe]]| probes.iter().flat_map(|some| some.iter());
    GROUPS.iter().flat_map(move |(group, some)| probes(some).map(move |probe| (*group, probe)))
}

/// Descriptors beyond the standard ones that this program began with.
static INHERITED: std::sync::OnceLock<Vec<i32>> = std::sync::OnceLock::new();

pub(crate) fn inherited() -> &'static [i32] {
    INHERITED.get_or_init(|| {
        let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
        let all = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let mut all: Vec<i32> = all.filter(|fd| *fd > 2).collect();
        // The listing's own descriptor is closed again by now.
        all.retain(|fd| std::fs::read_link(tools::by_descriptor(*fd)).is_ok());
        all
    })
}

/// The declared program of the races ends otherwise than the undeclared one.
fn ok() -> ExitCode {
    let me = std::fs::read_link("/proc/self/exe").unwrap_or_default();
    ExitCode::from(if me.ends_with("first") { 0 } else { 42 })
}

fn finish(result: io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(names: &[&str]) -> ExitCode {
    let mut unknown = names.iter().filter(|name| all().all(|(_, probe)| probe.name != **name));
    if let Some(name) = unknown.next() {
        eprintln!("there is no probe {name}");
        return ExitCode::from(2);
    }
    // Before this program opens anything itself.
    inherited();
    let root = nix::unistd::geteuid().is_root();
    for (_, probe) in all().filter(|(_, probe)| names.is_empty() || names.contains(&probe.name)) {
        // What root is already, it cannot gain.
        if !(root && probe.who == Who::User) {
            println!("{}: {}", probe.name, outcome(probe));
        }
    }
    ExitCode::SUCCESS
}

/// Runs one probe in a child and says what came of it.
fn outcome(probe: &Probe) -> String {
    match attempt(probe) {
        Ok(words) => words,
        Err(error) => format!("stuck ({error})"),
    }
}

fn attempt(probe: &Probe) -> io::Result<String> {
    let (mut reader, mut writer) = io::pipe()?;
    let child = raw::forked(|| match (probe.go)() {
        Ok(()) => CROSSED,
        Err(failure) => {
            let words = match failure {
                Failure::Stopped(error) => format!("stopped {}", errno(&error)),
                Failure::Absent(what) => format!("absent {what}"),
                Failure::Broken(error) => format!("broken {}", errno(&error)),
            };
            i32::from(writer.write_all(words.as_bytes()).is_ok())
        }
    })?;
    drop(writer);
    let ended = raw::wait(child, LIMIT)?;
    Ok(match ended {
        raw::Ended::With(CROSSED) => "crossed".to_owned(),
        raw::Ended::With(1) => {
            let mut said = [0; 256];
            let length = reader.read(&mut said)?;
            String::from_utf8_lossy(said.get(..length).unwrap_or_default()).into_owned()
        }
        raw::Ended::With(code) => format!("stopped (ended with {code})"),
        raw::Ended::Killed(signal) => match nix::sys::signal::Signal::try_from(signal) {
            Ok(signal) => format!("stopped {signal}"),
            Err(_) => format!("stopped (signal {signal})"),
        },
        raw::Ended::NotInTime => "stuck".to_owned(),
    })
}

/// The error number's symbolic name, else the error in words.
fn errno(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => format!("{:?}", nix::errno::Errno::from_raw(number)),
        None => format!("({error})"),
    }
}
