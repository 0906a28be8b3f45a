//! Confines a program by a hand-made plan, serves its listener, and tells what came of it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{Read, Seek};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::raise;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, close, dup2_stderr, dup2_stdout, execve, pipe};
use profiles::intent::AbsPath;
use profiles::plan::{Action, CallRule, LandlockPlan, NetworkPlan, SeccompPlan, SocketPlan};
use profiles::policy::Mode;
use profiles::profile::Bounds;
use profiles::record::Verdict;
use profiles::{Observation, Plan, syscalls};
use sandbox::cgroup::{OwnCgroup, Unified};
use sandbox::enforce::{Enforced, Prepared};
use sandbox::facts::{NATIVE, probe};
use sandbox::network::{Denial, Denials, NetworkWall, ProcessNamespace, name_servers};
use sandbox::observe::{Event, Until, serve};
use sandbox::programs::{ResolvedPrograms, resolve};
use sandbox::{handover, process};
use tempfile::TempDir;

use crate::cannot_run;

pub(crate) fn abs(path: impl AsRef<Path>) -> AbsPath {
    AbsPath::new(path.as_ref().to_str().unwrap()).unwrap()
}

/// A filter that allows every call but these.
pub(crate) fn filter(others: &[(&str, Action)]) -> SeccompPlan {
    let rules = |action| vec![CallRule { when: Vec::new(), action }];
    let number = |name: &str| syscalls::number(name, NATIVE);
    let mut calls: BTreeMap<_, _> =
        syscalls::names().filter_map(number).map(|number| (number, rules(Action::Allow))).collect();
    for (name, action) in others {
        calls.insert(number(name).unwrap(), rules(*action));
    }
    SeccompPlan { arch: NATIVE, calls, unknown: Action::Errno(nix::libc::ENOSYS as u16) }
}

/// Calls that a plan for a declared image observes, as far as the cases need them.
const OBSERVED: [&str; 12] = [
    "execve",
    "execveat",
    "openat",
    "openat2",
    "unlinkat",
    "mkdirat",
    "renameat2",
    "fchmodat",
    "utimensat",
    "bind",
    "connect",
    "listen",
];
#[cfg(target_arch = "x86_64")]
const OBSERVED_OLDER: [&str; 8] = ["open", "creat", "mkdir", "rmdir", "unlink", "rename", "chmod", "symlink"];
#[cfg(target_arch = "aarch64")]
const OBSERVED_OLDER: [&str; 0] = [];

/// A plan that confines nothing; all calls of interest observed.
pub(crate) fn open_plan() -> Plan {
    let observed = OBSERVED.iter().chain(&OBSERVED_OLDER);
    let observed: Vec<_> = observed.map(|name| (*name, Action::Observe)).collect();
    Plan {
        profile: "sha256:0".to_owned(),
        mode: Mode::Enforce,
        programs: None,
        without_interpreter: BTreeSet::new(),
        program_bounds: Bounds::default(),
        entrypoint: None,
        write: None,
        write_bounds: Bounds::default(),
        hidden: Default::default(),
        no_new_privileges: true,
        capabilities: None,
        landlock: None,
        seccomp: Some(filter(&observed)),
        network: None,
        sockets: None,
        gaps: Vec::new(),
    }
}

pub(crate) fn landlock(abi: u32) -> LandlockPlan {
    LandlockPlan { abi, bind_tcp: None, connect_tcp: None }
}

/// The kernel's own ABI.
pub(crate) fn abi() -> u32 {
    probe().landlock_abi
}

/// A plan with a program wall.
pub(crate) fn programs_plan(programs: &[&str]) -> Plan {
    let programs = programs.iter().map(abs).collect();
    Plan { programs: Some(programs), landlock: Some(landlock(abi())), ..open_plan() }
}

/// A plan with a file wall.
pub(crate) fn write_plan(paths: &[&Path]) -> Plan {
    let write = paths.iter().map(abs).collect();
    Plan { write: Some(write), landlock: Some(landlock(abi())), ..open_plan() }
}

/// A plan with a network wall; Landlock's ports as the entries say.
pub(crate) fn network_plan(listen: &[u16], connect: &[u16]) -> Plan {
    let entries = |ports: &[u16]| ports.iter().map(|port| format!("{port}/tcp")).collect();
    let ranges = |ports: &[u16]| Some(ports.iter().map(|port| (*port, *port)).collect());
    Plan {
        network: Some(NetworkPlan { listen: entries(listen), connect: entries(connect) }),
        landlock: Some(LandlockPlan {
            bind_tcp: ranges(listen),
            connect_tcp: ranges(connect),
            ..landlock(abi())
        }),
        ..open_plan()
    }
}

/// What came of a confined program.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: WaitStatus,
    pub(crate) output: String,
    pub(crate) events: Vec<Event>,
}

impl Outcome {
    pub(crate) fn code(&self) -> i32 {
        match self.status {
            WaitStatus::Exited(_, code) => code,
            other => panic!("{other:?}: {self:?}"),
        }
    }

    /// `operation object errno` of each record.
    pub(crate) fn records(&self) -> Vec<String> {
        self.observations()
            .map(|o| format!("{} {} {}", o.operation, o.object, o.errno.as_deref().unwrap_or("-")))
            .collect()
    }

    pub(crate) fn observations(&self) -> impl Iterator<Item = &Observation> {
        self.events.iter().filter_map(|event| match event {
            Event::Observed(observation) | Event::Denied(Denial { observation, .. }) => Some(observation),
            Event::Started | Event::Settled | Event::Failed(_) | Event::Executes { .. } => None,
        })
    }

    pub(crate) fn verdicts(&self) -> Vec<Verdict> {
        self.observations().map(|observation| observation.verdict).collect()
    }
}

/// Two folders: one to be written in, one not.
pub(crate) fn folders() -> (TempDir, TempDir) {
    (TempDir::new().unwrap(), TempDir::new().unwrap())
}

/// Runs `command` (an absolute path and arguments) under `plan`.
pub(crate) fn run(plan: &Plan, command: &[&str]) -> Outcome {
    run_with(plan, &[], None, command)
}

/// Runs a shell script under `plan`, with `W` and `N` the paths of the two folders.
pub(crate) fn shell(plan: &Plan, script: &str) -> Outcome {
    run(plan, &["/bin/sh", "-c", script])
}

pub(crate) fn perl(plan: &Plan, script: &str) -> Outcome {
    run(plan, &["/usr/bin/perl", "-e", script])
}

pub(crate) fn run_with(
    plan: &Plan,
    volumes: &[PathBuf],
    extra: Option<&SeccompPlan>,
    command: &[&str],
) -> Outcome {
    let servers = name_servers(Path::new("/")).unwrap();
    let watched = plan.sockets.as_ref().map(|sockets| Watched::new(sockets, &servers));
    let (cgroup, denials) = watched.map(|watched| (watched.cgroup, watched.denials)).unzip();
    run_in(cgroup.as_ref(), denials, plan, volumes, extra, command)
}

/// As [`run_with`], in a cgroup that has its programs.
pub(crate) fn run_in(
    cgroup: Option<&Cgroup>,
    denials: Option<Denials>,
    plan: &Plan,
    volumes: &[PathBuf],
    extra: Option<&SeccompPlan>,
    command: &[&str],
) -> Outcome {
    let programs = resolve(Path::new("/"), plan, None, "/usr/bin", "/").unwrap();
    let mut output = tempfile::tempfile().unwrap();
    let (giver, taker) = handover::pair().unwrap();
    let keep = [giver.as_fd().as_raw_fd(), output.as_fd().as_raw_fd()];
    let program = || {
        cgroup.iter().for_each(|cgroup| cgroup.0.take(nix::unistd::getpid()).unwrap());
        match confine(plan, &programs, volumes, extra, &giver, &output) {
            Ok(()) => exec(command),
            Err(text) => {
                giver.fail(&text).unwrap();
                99
            }
        }
    };
    // A parent of its own collects it: before Linux 6.11 a listener hangs up only once that is done, and we serve until then.
    let parent = process::spawn(&keep, || {
        let program = process::spawn(&keep, program).unwrap();
        // Its end tells us that the program was started.
        close(keep[0]).unwrap();
        end_as(program)
    })
    .unwrap();
    drop(giver);
    let mut events = Vec::new();
    serve(&taker, plan.clone(), &programs, volumes, denials, Until::Gone, &mut |event| events.push(event))
        .unwrap();
    let status = waitpid(parent, None).unwrap();
    let mut text = String::new();
    output.rewind().unwrap();
    output.read_to_string(&mut text).unwrap();
    Outcome { status, output: text, events }
}

/// Waits for a child, and ends as it did.
fn end_as(child: Pid) -> i32 {
    match waitpid(child, None).unwrap() {
        WaitStatus::Exited(_, code) => code,
        WaitStatus::Signaled(_, signal, _) => {
            raise(signal).unwrap();
            panic!("{signal} did not end this process");
        }
        other => panic!("{other:?}"),
    }
}

/// A cgroup with the network wall's programs, removed in the end.
pub(crate) struct Watched {
    pub(crate) cgroup: Cgroup,
    pub(crate) denials: Denials,
}

/// A cgroup of a test.
pub(crate) struct Cgroup(pub(crate) OwnCgroup);

impl Cgroup {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let Some(hierarchy) = Unified::find() else { cannot_run("this machine has no cgroup v2") };
        let cgroup = Self(hierarchy.own(&format!("keep-test-{}-{count}", std::process::id())));
        cgroup.0.make().unwrap();
        cgroup
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        self.0.remove().unwrap();
    }
}

/// The process namespace of this process and those that it confines.
pub(crate) fn own_processes() -> ProcessNamespace {
    ProcessNamespace::of(nix::unistd::getpid()).unwrap()
}

impl Watched {
    pub(crate) fn new(sockets: &SocketPlan, servers: &[IpAddr]) -> Self {
        let cgroup = Cgroup::new();
        let wall = NetworkWall::load(sockets, servers, own_processes()).unwrap();
        let denials = wall.attach(cgroup.0.path()).unwrap();
        Self { cgroup, denials }
    }
}

pub(crate) fn confine(
    plan: &Plan,
    programs: &ResolvedPrograms,
    volumes: &[PathBuf],
    extra: Option<&SeccompPlan>,
    giver: &handover::Giver,
    output: &File,
) -> Result<(), String> {
    dup2_stdout(output).unwrap();
    // Whatever the test's own standard error is. The program keeps the reading end open, and nobody reads.
    let (read, write) = pipe().unwrap();
    dup2_stderr(&write).unwrap();
    std::mem::forget(read);
    let prepared = Prepared::new(plan, programs, volumes, extra).map_err(|error| error.to_string())?;
    match prepared.enforce().map_err(|error| error.to_string())? {
        Enforced::Fully(listener) => giver.give(listener).map_err(|error| error.to_string()),
        Enforced::Partially(_, gaps) => Err(format!("{gaps:?}")),
    }
}

pub(crate) fn exec(command: &[&str]) -> i32 {
    let words: Vec<_> = command.iter().map(|word| CString::new(*word).unwrap()).collect();
    let path = fs::canonicalize(command[0]).unwrap_or_else(|_| command[0].into());
    let path = CString::new(path.to_str().unwrap()).unwrap();
    let environment = [c"PATH=/nowhere:/usr/bin", c"LC_ALL=C"];
    execve(&path, &words, &environment).unwrap_err() as i32
}
