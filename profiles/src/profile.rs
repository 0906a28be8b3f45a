//! What a container is granted, free of any host.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::intent::{
    AbsPath, Capability, Endpoint, EntryError, Intent, Need, PortRange, Protocol, canonical_connect,
    canonical_listen, topmost,
};
use crate::labels::{Declaration, Notice};
use crate::plan::{PlanError, Wall};
use crate::policy::{InteractiveExec, Mode, Policy, Undeclared};
use crate::syscalls::{self, Grants, Sockets};

/// `schema` of every profile.
pub const SCHEMA: &str = "keep.dev/profile/v1";

/// Where a profile's grants come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The image's labels.
    Declared,
    /// The image declares nothing: containerd's default system calls, no further walls.
    Baseline,
    /// The image declares nothing and the class confines nothing.
    Unconfined,
}

/// What a container is granted. Serialises canonically: equal profiles give equal bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// Version of this form, `keep.dev/profile/v1`.
    pub schema: String,
    /// Policy or class that made it.
    pub policy: String,
    /// Enforce or audit.
    pub mode: Mode,
    /// Where the grants come from.
    pub origin: Origin,
    /// The image's entrypoint as its config names it (first word of Entrypoint, else of Cmd).
    pub entrypoint: Option<String>,
    /// Programs and folders of programs.
    pub exec: BTreeSet<AbsPath>,
    /// Canonical entries of `listen`.
    pub listen: Vec<String>,
    /// Canonical entries of `connect`.
    pub connect: Vec<String>,
    /// Paths written beneath.
    pub write: BTreeSet<AbsPath>,
    /// Reads beyond the default.
    pub read: BTreeSet<AbsPath>,
    /// Capabilities. Empty, and without meaning, where nothing is declared: the pod's stand.
    pub caps: BTreeSet<Capability>,
    /// Needs.
    pub needs: BTreeSet<Need>,
    /// Names of the system calls that are allowed (with or without conditions on arguments). For
    /// [`Origin::Baseline`] with the capabilities that containerd gives by default; for [`Origin::Unconfined`] every
    /// call that Keep knows.
    pub calls: BTreeSet<String>,
    /// Walls without which the container does not start.
    pub require: BTreeSet<Wall>,
    /// Exec sessions with a terminal.
    pub interactive_exec: InteractiveExec,
}

/// A profile's lists of ports and endpoints, typed again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entries {
    pub(crate) listen: Vec<PortRange>,
    pub(crate) connect: Vec<Endpoint>,
}

impl Entries {
    /// Whether any inet socket is asked for.
    pub(crate) fn has_inet(&self) -> bool {
        self.sockets() >= Sockets::Stream
    }

    /// Which inet sockets the entries ask for.
    pub(crate) fn sockets(&self) -> Sockets {
        let of = |ports: &PortRange| match ports.protocol {
            Protocol::Tcp => Sockets::Stream,
            Protocol::Udp => Sockets::Datagram,
        };
        let reached = self.connect.iter().map(|endpoint| match endpoint {
            Endpoint::Ports { ports, .. } => of(ports),
            Endpoint::Dns => Sockets::Datagram,
            Endpoint::Unix(_) => Sockets::Local,
        });
        self.listen.iter().map(of).chain(reached).max().unwrap_or(Sockets::Local)
    }
}

impl Profile {
    /// The canonical form: JSON without white space, keys in the order of this type, sets sorted.
    #[must_use]
    pub fn canonical(&self) -> String {
        // Strings and sets of them always serialise; were that to change, no two profiles would share the text.
        serde_json::to_string(self).unwrap_or_else(|error| format!("{error}: {self:?}"))
    }

    /// `sha256:` and the hexadecimal SHA-256 of [`Profile::canonical`].
    #[must_use]
    pub fn digest(&self) -> String {
        let hash = Sha256::digest(self.canonical().as_bytes());
        let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("sha256:{hex}")
    }

    /// `listen` and `connect`, typed.
    ///
    /// # Errors
    /// When an entry has not the canonical form: the profile was not made here.
    pub(crate) fn entries(&self) -> Result<Entries, PlanError> {
        Ok(Entries { listen: typed(&self.listen)?, connect: typed(&self.connect)? })
    }

    /// What decides which calls the container gets.
    pub(crate) fn grants(&self, entries: &Entries) -> Grants {
        Grants { needs: self.needs.clone(), caps: self.caps.clone(), sockets: entries.sockets() }
    }
}

fn typed<T: std::str::FromStr<Err = EntryError>>(entries: &[String]) -> Result<Vec<T>, PlanError> {
    let parse =
        |entry: &String| entry.parse().map_err(|source| PlanError::Entry { entry: entry.clone(), source });
    entries.iter().map(parse).collect()
}

/// A profile and what there is to report about how it came about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Computed {
    /// The profile.
    pub profile: Profile,
    /// Clamped and unknown labels, undeclared image: each becomes one record of wall `policy`.
    pub notices: Vec<Notice>,
}

/// Why there is no profile, so that the container does not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// The class refuses images that declare nothing.
    #[error(
        "class {class:?} runs only images that declare what they need, and this image has no dev.keep.intent label; \
         add LABEL dev.keep.intent=\"v1\" and what it needs to its Dockerfile, for example dev.keep.listen=\"8080/tcp\" dev.keep.write=\"/var/cache/app\""
    )]
    Undeclared {
        /// The class.
        class: String,
    },
}

/// Computes what an image is granted: its declaration, clamped by the policy.
/// `entrypoint` is the first word of the image config's Entrypoint, else of its Cmd.
///
/// # Errors
/// When the policy refuses the declaration.
pub fn compute(
    declaration: &Declaration,
    entrypoint: Option<&str>,
    policy: &Policy,
) -> Result<Computed, ProfileError> {
    match declaration {
        Declaration::V1(intent, notices) => {
            let (profile, clamped) = declared(intent, entrypoint, policy);
            Ok(Computed { profile, notices: notices.iter().cloned().chain(clamped).collect() })
        }
        Declaration::Nothing(notices) => {
            let (origin, calls) = match policy.undeclared {
                Undeclared::Refuse => return Err(ProfileError::Undeclared { class: policy.name.clone() }),
                Undeclared::Baseline => {
                    (Origin::Baseline, syscalls::baseline(&syscalls::default_capabilities()))
                }
                Undeclared::Unconfined => {
                    (Origin::Unconfined, syscalls::names().map(str::to_owned).collect())
                }
            };
            // Nothing was promised, so that no wall is required.
            let profile = Profile { origin, calls, require: BTreeSet::new(), ..empty(entrypoint, policy) };
            Ok(Computed { profile, notices: notices.iter().cloned().chain([Notice::Undeclared]).collect() })
        }
    }
}

/// The fixed profile of a pod's own infrastructure container (the pause image of a CRI pod sandbox): its
/// entrypoint and nothing else.
#[must_use]
pub fn pod_sandbox(entrypoint: Option<&str>, policy: &Policy) -> Profile {
    declared(&Intent::default(), entrypoint, policy).0
}

/// A profile that grants nothing.
fn empty(entrypoint: Option<&str>, policy: &Policy) -> Profile {
    Profile {
        schema: SCHEMA.to_owned(),
        policy: policy.name.clone(),
        mode: policy.mode,
        origin: Origin::Declared,
        entrypoint: entrypoint.map(str::to_owned),
        exec: BTreeSet::new(),
        listen: Vec::new(),
        connect: Vec::new(),
        write: BTreeSet::new(),
        read: BTreeSet::new(),
        caps: BTreeSet::new(),
        needs: BTreeSet::new(),
        calls: BTreeSet::new(),
        require: policy.require.clone(),
        interactive_exec: policy.interactive_exec,
    }
}

fn declared(intent: &Intent, entrypoint: Option<&str>, policy: &Policy) -> (Profile, Vec<Notice>) {
    let mut clamped = Vec::new();
    let mut clamp = |key: &str, value: &str| {
        let by = format!("class {}", policy.name);
        clamped.push(Notice::Clamped { key: key.to_owned(), value: value.to_owned(), by });
    };
    let mut caps = intent.caps.clone();
    caps.retain(|cap| {
        let left = policy.leaves_capability(cap);
        if !left {
            clamp("dev.keep.caps", cap.as_str());
        }
        left
    });
    let mut needs = intent.needs.clone();
    needs.retain(|need| {
        let left = policy.leaves_need(need);
        if !left {
            clamp("dev.keep.needs", need.as_str());
        }
        left
    });
    let entries =
        Entries { listen: canonical_listen(&intent.listen), connect: canonical_connect(&intent.connect) };
    let grants = Grants { needs: needs.clone(), caps: caps.clone(), sockets: entries.sockets() };
    let profile = Profile {
        // Not reduced to the topmost: naming a script grants its interpreter, naming its folder does not.
        exec: intent.exec.clone(),
        listen: entries.listen.iter().map(ToString::to_string).collect(),
        connect: entries.connect.iter().map(ToString::to_string).collect(),
        write: topmost(&intent.write),
        read: topmost(&intent.read),
        calls: syscalls::allowed(&grants),
        caps,
        needs,
        ..empty(entrypoint, policy)
    };
    (profile, clamped)
}

#[cfg(test)]
mod tests;
