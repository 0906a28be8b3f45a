//! What the platform team decides. The three built-in classes work with no policy file.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::intent::{Capability, Need};
use crate::plan::Wall;

/// Enforce, or record only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Walls stand.
    Enforce,
    /// No wall stands; what would have been refused is recorded with verdict `audited`.
    Audit,
}

/// What happens to an image that declares nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Undeclared {
    /// containerd's default seccomp list, capabilities and mounts of the pod spec, no further walls.
    Baseline,
    /// The container does not start.
    Refuse,
    /// Exactly as the pod spec says, as under runc.
    Unconfined,
}

/// Which exec sessions are let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InteractiveExec {
    /// An exec with a terminal is refused.
    Deny,
    /// An exec with a terminal gets the container's walls.
    Confined,
}

/// A policy in force: a built-in class, later clamped by the platform team's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Class or policy name.
    pub name: String,
    /// Enforce or audit.
    pub mode: Mode,
    /// Images that declare nothing.
    pub undeclared: Undeclared,
    /// Highest set of capabilities; `None`: no ceiling of the class (the pod spec still is one).
    pub caps_ceiling: Option<BTreeSet<Capability>>,
    /// Highest set of needs; `None`: no ceiling.
    pub needs_ceiling: Option<BTreeSet<Need>>,
    /// Walls that must have no gap on the host, or else a container that declared something does not start. The
    /// shipped classes leave the network wall out: UDP and addresses wait for cgroup-BPF programs, so that it has
    /// gaps on every host; they are reported.
    pub require: BTreeSet<Wall>,
    /// Exec sessions with a terminal.
    pub interactive_exec: InteractiveExec,
    /// Whether a privileged container may run.
    pub privileged: bool,
}

/// What the classes `keep` and `keep-strict` leave of declared needs. Not: `mount` (opens the file wall from
/// within), `userns` (opens the kernel behind namespace-only root, most container escapes of late), `keyring` (no
/// namespace separates key rings), `perf` and `bpf` (look into the kernel and other containers), `userfaultfd` (holds
/// kernel threads at will).
const NEEDS_CEILING: [&str; 11] = [
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
const CAPS_CEILING: [&str; 6] =
    ["IPC_LOCK", "LEASE", "SYS_NICE", "SYS_PTRACE", "SYS_RESOURCE", "SYS_TTY_CONFIG"];

impl Policy {
    /// The built-in class `name`: `keep`, `keep-strict` or `keep-permissive`.
    ///
    /// # Errors
    /// When there is no such class; the error lists those that there are.
    pub fn builtin(name: &str) -> Result<Self, UnknownClass> {
        let keep = Self {
            name: name.to_owned(),
            mode: Mode::Enforce,
            undeclared: Undeclared::Baseline,
            caps_ceiling: Some(caps_ceiling()),
            needs_ceiling: Some(NEEDS_CEILING.iter().filter_map(|name| Need::new(name).ok()).collect()),
            require: [Wall::Exec, Wall::File, Wall::Syscall, Wall::Capability].into(),
            interactive_exec: InteractiveExec::Confined,
            privileged: false,
        };
        match name {
            "keep" => Ok(keep),
            "keep-strict" => {
                Ok(Self { undeclared: Undeclared::Refuse, interactive_exec: InteractiveExec::Deny, ..keep })
            }
            "keep-permissive" => Ok(Self {
                mode: Mode::Audit,
                undeclared: Undeclared::Unconfined,
                caps_ceiling: None,
                needs_ceiling: None,
                require: BTreeSet::new(),
                privileged: true,
                ..keep
            }),
            _ => Err(UnknownClass(name.to_owned())),
        }
    }

    /// Whether the ceiling leaves `capability`.
    #[must_use]
    pub fn leaves_capability(&self, capability: &Capability) -> bool {
        self.caps_ceiling.as_ref().is_none_or(|ceiling| ceiling.contains(capability))
    }

    /// Whether the ceiling leaves `need`.
    #[must_use]
    pub fn leaves_need(&self, need: &Need) -> bool {
        self.needs_ceiling.as_ref().is_none_or(|ceiling| ceiling.contains(need))
    }
}

fn caps_ceiling() -> BTreeSet<Capability> {
    let more = CAPS_CEILING.iter().filter_map(|name| Capability::new(name).ok());
    crate::syscalls::default_capabilities().into_iter().chain(more).collect()
}

/// There is no class of this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown class {0:?}; built-in classes are keep, keep-strict and keep-permissive")]
pub struct UnknownClass(pub String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_in_the_ceilings_is_known() {
        let keep = Policy::builtin("keep").unwrap();
        assert_eq!(keep.needs_ceiling.unwrap().len(), NEEDS_CEILING.len());
        assert_eq!(keep.caps_ceiling.unwrap().len(), CAPS_CEILING.len() + 14);
    }

    #[test]
    fn the_classes_are_those_of_the_design() {
        let [keep, strict, permissive] =
            ["keep", "keep-strict", "keep-permissive"].map(|name| Policy::builtin(name).unwrap());
        assert_eq!((keep.mode, strict.mode, permissive.mode), (Mode::Enforce, Mode::Enforce, Mode::Audit));
        assert_eq!((keep.undeclared, strict.undeclared), (Undeclared::Baseline, Undeclared::Refuse));
        assert_eq!(permissive.undeclared, Undeclared::Unconfined);
        assert_eq!((keep.privileged, strict.privileged, permissive.privileged), (false, false, true));
        assert_eq!(strict.interactive_exec, InteractiveExec::Deny);
        assert!(permissive.require.is_empty() && !keep.require.contains(&Wall::Network));
        assert_eq!(Policy::builtin("none").unwrap_err().to_string().matches("keep-strict").count(), 1);
    }

    #[test]
    fn the_ceiling_leaves_harmless_needs_and_takes_dangerous_ones() {
        let keep = Policy::builtin("keep").unwrap();
        let permissive = Policy::builtin("keep-permissive").unwrap();
        for (name, left) in
            [("jit", true), ("mount", false), ("userns", false), ("bpf", false), ("keyring", false)]
        {
            let need = Need::new(name).unwrap();
            assert_eq!((keep.leaves_need(&need), permissive.leaves_need(&need)), (left, true), "{name}");
        }
        for (name, left) in [("NET_BIND_SERVICE", true), ("SYS_NICE", true), ("SYS_ADMIN", false)] {
            assert_eq!(keep.leaves_capability(&Capability::new(name).unwrap()), left, "{name}");
        }
    }
}
