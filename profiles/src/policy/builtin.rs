//! The three classes that are there without any document.

use std::collections::BTreeSet;

use super::{
    Ceiling, Command, InteractiveExec, Isolation, Mode, OnExceed, OnInvalid, Policies, Policy, Report,
    Response, Rule, SelectError, Subject, Undeclared,
};
use crate::intent::{Capability, Need};
use crate::plan::Wall;

/// Names of the built-in classes.
pub(super) const CLASSES: [&str; 3] = ["keep", "keep-strict", "keep-permissive"];

/// What the classes `keep` and `keep-strict` leave of declared needs. Not: `mount` (opens the file wall from
/// within), `userns` (opens the kernel behind namespace-only root, most container escapes of late), `keyring` (no
/// namespace separates key rings), `perf` and `bpf` (look into the kernel and other containers), `userfaultfd` (holds
/// kernel threads at will).
pub(super) const NEEDS_CEILING: [&str; 11] = [
    "newer-calls",
    "rare-calls",
    "xattr",
    "jit",
    "ipc",
    "aio",
    "numa",
    "memfd-exec",
    "raw-sockets",
    "ptrace",
    "io-uring",
];

/// What they leave of declared capabilities beside containerd's default: locking memory, real-time scheduling and
/// placement, terminals' hang-up, waking the machine, leases on files, raising limits, looking into one's own
/// processes. Each is confined to the container or bounded by its cgroup. Not: what administers the machine or its
/// network (SYS_ADMIN, NET_ADMIN, SYS_MODULE, SYS_RAWIO, SYS_BOOT, SYS_TIME, BPF, PERFMON, SYSLOG, MAC_*, AUDIT_CONTROL),
/// and what reads every file (DAC_READ_SEARCH).
pub(super) const CAPS_CEILING: [&str; 6] =
    ["IPC_LOCK", "LEASE", "SYS_NICE", "SYS_PTRACE", "SYS_RESOURCE", "SYS_TTY_CONFIG"];

impl Policy {
    /// The built-in class `name` with no policy beside it: `keep`, `keep-strict` or `keep-permissive`.
    ///
    /// # Errors
    /// When there is no such class; the error lists those that there are.
    pub fn builtin(name: &str) -> Result<Self, SelectError> {
        Policies::default().select(&Subject::of_class(name))
    }
}

/// The class `name` as it ships, or a class of the platform team's own before its document is read: as `keep`.
pub(super) fn class(name: &str) -> Policy {
    let keep = Policy {
        class: name.to_owned(),
        policies: Vec::new(),
        mode: Mode::Enforce,
        undeclared: Undeclared::Baseline,
        default: None,
        on_invalid: OnInvalid::Reject,
        on_exceed: OnExceed::Clamp,
        // Not the network wall: without cgroup v2, or with raw sockets granted, it has gaps, which are reported.
        require: [Wall::Exec, Wall::File, Wall::Syscall, Wall::Capability].into(),
        command: Command::Declared,
        interactive_exec: InteractiveExec::Confined,
        debug: None,
        isolation: Isolation::Host,
        response: Response::Event,
        report: Report::Full,
        privileged: false,
        ceilings: vec![Rule { by: format!("class {name}"), is: ceiling() }],
        denied: Vec::new(),
    };
    match name {
        "keep-strict" => Policy {
            undeclared: Undeclared::Refuse,
            interactive_exec: InteractiveExec::Deny,
            require: keep.require.iter().copied().chain([Wall::Network]).collect(),
            ..keep
        },
        "keep-permissive" => Policy {
            mode: Mode::Audit,
            undeclared: Undeclared::Unconfined,
            require: BTreeSet::new(),
            command: Command::Allow,
            privileged: true,
            ceilings: vec![Rule { by: format!("class {name}"), is: Ceiling::default() }],
            ..keep
        },
        _ => keep,
    }
}

fn ceiling() -> Ceiling {
    let more = CAPS_CEILING.iter().filter_map(|name| Capability::new(name).ok());
    Ceiling {
        caps: Some(crate::syscalls::default_capabilities().into_iter().chain(more).collect()),
        needs: Some(NEEDS_CEILING.iter().filter_map(|name| Need::new(name).ok()).collect()),
        ..Ceiling::default()
    }
}
