//! A profile and the host's facts give a [`Plan`]: what each wall becomes on this kernel, and which gaps remain.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::intent::{AbsPath, Capability, Endpoint, EntryError, PortRange, Protocol, canonical_listen};
use crate::policy::Mode;
use crate::profile::{Bounds, Entries, Origin, Profile};
use crate::syscalls::{Grants, Sockets};

mod filter;
mod gaps;
mod oci;
mod oci_export;
mod sockets;

pub(crate) use filter::decide;
pub use filter::{Action, CallRule, Compare, Condition, ListenerFilter, SeccompPlan, baseline_seccomp};
pub use oci::{OciSeccompError, seccomp_from_oci};
pub use oci_export::seccomp_to_oci;
pub use sockets::{Ports, Reach, SocketPlan};

/// Newest Landlock ABI that plans are made for; a newer kernel serves older rulesets.
pub const MAX_LANDLOCK_ABI: u32 = 7;

/// First Landlock ABI with rights on TCP ports (Linux 6.7).
pub(crate) const NETWORK_ABI: u32 = 4;

/// What hides passwords: never readable unless `dev.keep.read` names them.
const PASSWORD_FILES: [&str; 5] =
    ["/etc/shadow", "/etc/gshadow", "/etc/shadow-", "/etc/gshadow-", "/etc/security/opasswd"];

/// What this kernel offers, as `sandbox` probed it. An argument, never a query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// Architecture whose system-call numbers the filter uses.
    pub arch: Arch,
    /// Landlock ABI; 0 where the kernel has none or it is off.
    pub landlock_abi: u32,
    /// `SECCOMP_FILTER_FLAG_NEW_LISTENER` works (Linux 5.5 with `SECCOMP_USER_NOTIF_FLAG_CONTINUE`).
    pub listener: bool,
    /// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV` (Linux 5.19).
    pub wait_killable: bool,
    /// A writable cgroup v2 hierarchy on which cgroup-BPF programs load.
    pub cgroup_bpf: bool,
}

/// Instruction-set architectures whose system calls are resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arch {
    /// `AUDIT_ARCH_X86_64`.
    X86_64,
    /// `AUDIT_ARCH_AARCH64`.
    Aarch64,
}

/// What each wall becomes on one host. `sandbox` enforces it without asking anything further.
///
/// Under [`Mode::Audit`] the plan is for judging alone: `programs`, `write` and `network` say what the observer
/// compares with, every call is let through, and nothing may be done to the container's mounts, rights or
/// capabilities. Ask [`Plan::hardens`] before touching the runtime spec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Digest of the profile that this plan enforces, `sha256:…`.
    pub profile: String,
    /// Enforce, or let everything through and record it.
    pub mode: Mode,
    /// Programs that may be executed, as declared (folders stand for all beneath); `None`: any program.
    pub programs: Option<BTreeSet<AbsPath>>,
    /// Those of them whose interpreters, if they are scripts, do not follow: a declared folder was narrowed to them.
    pub without_interpreter: BTreeSet<AbsPath>,
    /// Where programs must lie, symlinks followed.
    pub program_bounds: Bounds,
    /// The image's own entrypoint as its config names it (may need `PATH` look-up); always allowed.
    pub entrypoint: Option<String>,
    /// Write paths as declared, each to become a mount of its own; `None`: no file wall.
    pub write: Option<BTreeSet<AbsPath>>,
    /// Where write paths must lie, symlinks followed.
    pub write_bounds: Bounds,
    /// Files hidden from the container (password files that were not declared under `dev.keep.read`).
    pub hidden: BTreeSet<AbsPath>,
    /// Whether `no_new_privs` is set; `false`: as the runtime spec says.
    pub no_new_privileges: bool,
    /// Capabilities left, in all five sets; `None`: as the runtime spec says.
    pub capabilities: Option<BTreeSet<Capability>>,
    /// The Landlock ruleset; `None`: no Landlock wall.
    pub landlock: Option<LandlockPlan>,
    /// The seccomp filter; `None`: no filter.
    pub seccomp: Option<SeccompPlan>,
    /// Ports, for the observer's judgement of `bind` and `connect`; `None`: no network wall.
    pub network: Option<NetworkPlan>,
    /// What the cgroup-BPF programs let through; `None`: there are none.
    pub sockets: Option<SocketPlan>,
    /// Walls, or parts of them, that this host cannot give.
    pub gaps: Vec<Gap>,
}

/// Which Landlock rights are handled. Paths come from [`Plan::programs`] and [`Plan::write`] as `sandbox` resolved them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LandlockPlan {
    /// ABI to build for; at most the host's.
    pub abi: u32,
    /// TCP ports that may be bound; `None`: the ABI has no network rights (below 4).
    pub bind_tcp: Option<Vec<(u16, u16)>>,
    /// TCP ports that may be connected to; `None`: the ABI has no network rights, or the programs of [`Plan::sockets`]
    /// watch. Landlock would come before them, and nobody would learn what it refused.
    pub connect_tcp: Option<Vec<(u16, u16)>>,
}

/// What may be bound and connected to, for judging and for what Landlock cannot express.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkPlan {
    /// Entries of `dev.keep.listen`, in canonical text.
    pub listen: Vec<String>,
    /// Entries of `dev.keep.connect`, in canonical text.
    pub connect: Vec<String>,
}

/// A wall, as policies' `require` and records name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Wall {
    /// What may be executed.
    Exec,
    /// What may be written and read.
    File,
    /// Where to connect, what to listen on.
    Network,
    /// System calls.
    Syscall,
    /// Capabilities.
    Capability,
    /// Not a wall of the kernel: the policy itself (clamped labels, undeclared images, refused exec sessions).
    Policy,
}

impl fmt::Display for Wall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exec => "exec",
            Self::File => "file",
            Self::Network => "network",
            Self::Syscall => "syscall",
            Self::Capability => "capability",
            Self::Policy => "policy",
        })
    }
}

/// Something that a wall should stop and cannot on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Which wall.
    pub wall: Wall,
    /// One sentence for `keep doctor` and the record.
    pub sentence: String,
}

/// Why no plan can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The policy requires a wall that this host cannot give in full.
    #[error("the policy requires the {wall} wall, and {gap}")]
    Required {
        /// The wall.
        wall: Wall,
        /// The gap's sentence.
        gap: String,
    },
    /// The profile was not made by [`crate::compute`]: an entry of its lists has not the canonical form.
    #[error("profile lists {entry:?}, which is no port or endpoint")]
    Entry {
        /// The entry.
        entry: String,
        /// What is wrong with it.
        source: EntryError,
    },
}

impl Plan {
    /// Whether anything of the container may be hardened: mounts, rights, capabilities. `false` where nothing is
    /// declared and in audit mode.
    #[must_use]
    pub fn hardens(&self) -> bool {
        self.mode == Mode::Enforce && self.programs.is_some()
    }

    /// Takes connect(2) out of what the listener sees, where programs on the cgroup watch it and tell what they refuse. For a
    /// container into which nothing is mounted that could hold another's unix sockets: of those the programs know nothing.
    pub fn leave_connect_to_programs(&mut self) {
        if self.sockets.is_some()
            && let Some(filter) = &mut self.seccomp
        {
            filter.no_longer_observe("connect");
        }
    }

    /// How many system calls the filter lets through, with whatever arguments; all known ones without a filter.
    #[must_use]
    pub fn seccomp_calls_allowed(&self) -> usize {
        self.seccomp.as_ref().map_or_else(|| crate::syscalls::names().count(), SeccompPlan::calls_allowed)
    }

    /// A plan that changes nothing of what the runtime spec says.
    fn bare(profile: &Profile) -> Self {
        Self {
            profile: profile.digest(),
            mode: profile.mode,
            programs: None,
            without_interpreter: BTreeSet::new(),
            program_bounds: Bounds::default(),
            entrypoint: profile.entrypoint.clone(),
            write: None,
            write_bounds: Bounds::default(),
            hidden: BTreeSet::new(),
            no_new_privileges: false,
            capabilities: None,
            landlock: None,
            seccomp: None,
            network: None,
            sockets: None,
            gaps: Vec::new(),
        }
    }
}

/// Turns a profile into what each wall becomes on `host`.
///
/// Images that declare nothing: with [`Origin::Baseline`] containerd's default filter (for the capabilities that
/// containerd gives by default; [`baseline_seccomp`] makes it for others), answered by the kernel alone, as under
/// runc; with [`Origin::Unconfined`] nothing.
///
/// # Errors
/// When the profile's policy requires a wall that the host cannot give, or an entry of the profile is malformed.
pub fn plan(profile: &Profile, host: &HostFacts) -> Result<Plan, PlanError> {
    let mut plan = Plan::bare(profile);
    match profile.origin {
        Origin::Unconfined => return Ok(plan),
        Origin::Baseline => {
            plan.seccomp = Some(baseline_seccomp(&crate::syscalls::default_capabilities(), host.arch));
            return Ok(plan);
        }
        Origin::Declared | Origin::Default => {}
    }
    let entries = profile.entries()?;
    plan.programs = Some(profile.exec.union(&profile.exec_beneath).cloned().collect());
    plan.without_interpreter.clone_from(&profile.exec_beneath);
    plan.program_bounds.clone_from(&profile.exec_bounds);
    plan.write = Some(profile.write.clone());
    plan.write_bounds.clone_from(&profile.write_bounds);
    plan.network = Some(NetworkPlan { listen: profile.listen.clone(), connect: profile.connect.clone() });
    plan.seccomp = Some(filter::declared(&grants(profile, &entries, host), profile, host));
    plan.gaps = gaps::of(profile.mode, &entries, &profile.needs, host);
    if profile.mode == Mode::Audit {
        return Ok(plan);
    }
    if let Some(gap) = plan.gaps.iter().find(|gap| profile.require.contains(&gap.wall)) {
        return Err(PlanError::Required { wall: gap.wall, gap: gap.sentence.clone() });
    }
    plan.hidden = hidden(&profile.read);
    plan.no_new_privileges = true;
    plan.capabilities = Some(profile.caps.clone());
    plan.sockets = sockets::of(profile, &entries, host);
    plan.landlock = landlock(&entries, host.landlock_abi);
    if let (Some(landlock), Some(_)) = (&mut plan.landlock, &plan.sockets) {
        landlock.connect_tcp = None;
    }
    Ok(plan)
}

/// The gaps that some declaration would meet on `host`: for what a node lacks, before anything is started on it.
#[must_use]
pub fn gaps(host: &HostFacts) -> Vec<Gap> {
    gaps::of_host(host)
}

/// What decides which calls the container gets here. Where programs watch every datagram, whoever has internet sockets may
/// have datagram sockets too: resolvers open them, if only to sort addresses.
fn grants(profile: &Profile, entries: &Entries, host: &HostFacts) -> Grants {
    let mut grants = profile.grants(entries);
    if host.cgroup_bpf && entries.has_inet() {
        grants.sockets = Sockets::Datagram;
    }
    grants
}

/// The password files that `read` does not cover.
fn hidden(read: &BTreeSet<AbsPath>) -> BTreeSet<AbsPath> {
    let files = PASSWORD_FILES.iter().filter_map(|file| AbsPath::new(file).ok());
    files.filter(|file| !read.iter().any(|read| file.is_beneath(read))).collect()
}

fn landlock(entries: &Entries, host_abi: u32) -> Option<LandlockPlan> {
    let abi = host_abi.min(MAX_LANDLOCK_ABI);
    if abi == 0 {
        return None;
    }
    let network = abi >= NETWORK_ABI;
    let connect = tcp(entries.connect.iter().filter_map(reached));
    let mut bind = tcp(entries.listen.iter().copied());
    if !connect.is_empty() || !bind.is_empty() {
        // A client may bind to port 0 to choose its address, and a server to learn which families the kernel has, as every
        // Go program does; the observer sees who then listens.
        bind.insert(0, (0, 0));
    }
    Some(LandlockPlan { abi, bind_tcp: network.then_some(bind), connect_tcp: network.then_some(connect) })
}

/// Ports of an endpoint as far as TCP goes; Landlock knows no addresses.
fn reached(endpoint: &Endpoint) -> Option<PortRange> {
    match endpoint {
        Endpoint::Ports { ports, .. } => Some(*ports),
        Endpoint::Dns => Some(PortRange { protocol: Protocol::Tcp, first: 53, last: 53 }),
        Endpoint::Unix(_) => None,
    }
}

fn tcp(ports: impl Iterator<Item = PortRange>) -> Vec<(u16, u16)> {
    let ports = ports.filter(|ports| ports.protocol == Protocol::Tcp).collect();
    canonical_listen(&ports).iter().map(|range| (range.first, range.last)).collect()
}

#[cfg(test)]
mod tests;
