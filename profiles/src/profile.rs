//! What a container is granted, free of any host.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::intent::{AbsPath, Capability, Endpoint, EntryError, Intent, Need, PortRange, Protocol};
use crate::labels::{Declaration, LabelError, Notice};
use crate::plan::{PlanError, Wall};
use crate::policy::{Command, InteractiveExec, Mode, OnExceed, OnInvalid, Policy, Report, Undeclared};
use crate::syscalls::{self, Grants, Sockets};

mod clamp;
mod session;

use clamp::Granted;

pub use session::SessionGrants;

/// `schema` of every profile.
pub const SCHEMA: &str = "keep.dev/profile/v1";

/// Where a profile's grants come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The image's labels.
    Declared,
    /// What the policy grants to images that declare nothing.
    Default,
    /// The image declares nothing: containerd's default system calls, no further walls.
    Baseline,
    /// The image declares nothing and the class confines nothing.
    Unconfined,
}

/// Where paths must lie that are known once the image is there: what symlinks, `PATH` and interpreters come to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Bounds {
    /// Within one of these; `None`: anywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub within: Option<BTreeSet<AbsPath>>,
    /// Nowhere near one of these.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub denied: BTreeSet<AbsPath>,
}

impl Bounds {
    /// Whether `path`, and all beneath it, lies within the bounds.
    #[must_use]
    pub fn leave(&self, path: &AbsPath) -> bool {
        let within = self.within.as_ref().is_none_or(|set| set.iter().any(|entry| path.is_beneath(entry)));
        within && !self.denied.iter().any(|entry| crate::sets::overlapping(path, entry))
    }

    fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// What a container is granted. Serialises canonically: equal profiles give equal bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    /// Version of this form, `keep.dev/profile/v1`.
    #[cfg_attr(feature = "schema", schemars(extend("const" = SCHEMA)))]
    pub schema: String,
    /// Enforce or audit.
    pub mode: Mode,
    /// Where the grants come from.
    pub origin: Origin,
    /// The image's entrypoint as its config names it (first word of Entrypoint, else of Cmd).
    pub entrypoint: Option<String>,
    /// Programs and folders of programs.
    pub exec: BTreeSet<AbsPath>,
    /// What a ceiling left of declared folders of programs. The interpreters of scripts among them do not follow, as
    /// they did not for the folder.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub exec_beneath: BTreeSet<AbsPath>,
    /// Where programs must lie, the entrypoint and interpreters too.
    #[serde(default, skip_serializing_if = "Bounds::is_none")]
    pub exec_bounds: Bounds,
    /// Canonical entries of `listen`.
    #[cfg_attr(feature = "schema", schemars(with = "Vec<PortRange>"))]
    pub listen: Vec<String>,
    /// Canonical entries of `connect`.
    #[cfg_attr(feature = "schema", schemars(with = "Vec<Endpoint>"))]
    pub connect: Vec<String>,
    /// Paths written beneath.
    pub write: BTreeSet<AbsPath>,
    /// Where they must lie once symlinks are followed.
    #[serde(default, skip_serializing_if = "Bounds::is_none")]
    pub write_bounds: Bounds,
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
    /// Programs that a pod spec's `command` names.
    pub command: Command,
    /// Exec sessions with a terminal.
    pub interactive_exec: InteractiveExec,
    /// What they get besides, where that is `debug`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debug: Option<SessionGrants>,
    /// How much is observed.
    pub report: Report,
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

    /// How much of the kernel its calls reach.
    pub(crate) fn surface(&self) -> syscalls::Surface {
        let none = Entries { listen: Vec::new(), connect: Vec::new() };
        syscalls::Surface::of(&self.grants(&self.entries().unwrap_or(none)))
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
    /// What the image declares, or the policy grants in its place, before anything was taken away.
    pub intent: Intent,
    /// The profile.
    pub profile: Profile,
    /// Clamped and unknown labels, undeclared image: each becomes one record of wall `policy`.
    pub notices: Vec<Notice>,
}

/// Why there is no profile, so that the container does not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// The policy refuses images that declare nothing.
    #[error(
        "class {class:?} runs only images that declare what they need, and this image has no dev.keep.intent label; \
         add LABEL dev.keep.intent=\"v1\" and what it needs to its Dockerfile, for example dev.keep.listen=\"8080/tcp\" dev.keep.write=\"/var/cache/app\""
    )]
    Undeclared {
        /// The class.
        class: String,
    },
    /// A label is not understood.
    #[error(transparent)]
    Invalid(#[from] LabelError),
    /// The image declares more than is left to it, and the policy does not clamp.
    #[error(
        "{by} does not leave {value:?} of label {key} to an image, and onExceed is Reject; remove it from the label"
    )]
    Exceeds {
        /// The label's key.
        key: String,
        /// The first entry that is above.
        value: String,
        /// Who set the ceiling.
        by: String,
    },
    /// The image's entrypoint is a program that is not left to it.
    #[error("{by} does not leave the image's entrypoint {entrypoint:?} to it")]
    Entrypoint {
        /// As the image's config names it.
        entrypoint: String,
        /// Who set the ceiling.
        by: String,
    },
}

/// Computes what an image is granted: its declaration, clamped by the policy. `declaration` is what
/// [`crate::labels::parse`] said; `entrypoint` is the first word of the image config's Entrypoint, else of its Cmd.
///
/// # Errors
/// When the policy refuses the declaration.
pub fn compute(
    declaration: Result<Declaration, LabelError>,
    entrypoint: Option<&str>,
    policy: &Policy,
) -> Result<Computed, ProfileError> {
    let (undeclared, notices) = match declaration {
        Ok(Declaration::V1(intent, notices)) => {
            return granted(&intent, Origin::Declared, notices, entrypoint, policy);
        }
        Ok(Declaration::Nothing(notices)) => {
            (policy.undeclared, notices.into_iter().chain([Notice::Undeclared]).collect())
        }
        Err(error) if policy.on_invalid == OnInvalid::Reject => return Err(error.into()),
        Err(error) => (Undeclared::Default, vec![Notice::Invalid { error: error.to_string() }]),
    };
    let (origin, calls) = match (undeclared, &policy.default) {
        (Undeclared::Default, Some(default)) => {
            return granted(default, Origin::Default, notices, entrypoint, policy);
        }
        (Undeclared::Refuse | Undeclared::Default, _) => {
            return Err(ProfileError::Undeclared { class: policy.class.clone() });
        }
        (Undeclared::Baseline, _) => {
            (Origin::Baseline, syscalls::baseline(&syscalls::default_capabilities()))
        }
        (Undeclared::Unconfined, _) => (Origin::Unconfined, syscalls::names().map(str::to_owned).collect()),
    };
    // Nothing was promised, so that no wall is required.
    let profile = Profile { origin, calls, require: BTreeSet::new(), ..empty(entrypoint, policy) };
    Ok(Computed { intent: Intent::default(), profile, notices })
}

/// The fixed profile of a pod's own infrastructure container (the pause image of a CRI pod sandbox): its
/// entrypoint and nothing else. No image declares it, so that no ceiling is asked.
#[must_use]
pub fn pod_sandbox(entrypoint: Option<&str>, policy: &Policy) -> Computed {
    let intent = Intent::default();
    let profile = profile(Granted::of(&intent), Origin::Declared, entrypoint, policy);
    Computed { intent, profile, notices: Vec::new() }
}

/// A profile that grants nothing.
fn empty(entrypoint: Option<&str>, policy: &Policy) -> Profile {
    Profile {
        schema: SCHEMA.to_owned(),
        mode: policy.mode,
        origin: Origin::Declared,
        entrypoint: entrypoint.map(str::to_owned),
        exec: BTreeSet::new(),
        exec_beneath: BTreeSet::new(),
        exec_bounds: Bounds::default(),
        listen: Vec::new(),
        connect: Vec::new(),
        write: BTreeSet::new(),
        write_bounds: Bounds::default(),
        read: BTreeSet::new(),
        caps: BTreeSet::new(),
        needs: BTreeSet::new(),
        calls: BTreeSet::new(),
        require: policy.require.clone(),
        command: policy.command,
        interactive_exec: policy.interactive_exec,
        debug: None,
        report: policy.report,
    }
}

fn granted(
    intent: &Intent,
    origin: Origin,
    mut notices: Vec<Notice>,
    entrypoint: Option<&str>,
    policy: &Policy,
) -> Result<Computed, ProfileError> {
    let (granted, clamped) = Granted::of(intent).clamped(policy);
    if let (OnExceed::Reject, Some(Notice::Clamped { key, value, by, .. })) =
        (policy.on_exceed, clamped.first())
    {
        return Err(ProfileError::Exceeds { key: key.clone(), value: value.clone(), by: by.clone() });
    }
    notices.extend(clamped);
    // One that is no absolute path is looked up in the image, and held against the same bounds then.
    if let Some(path) =
        entrypoint.filter(|name| name.starts_with('/')).and_then(|name| AbsPath::new(name).ok())
        && let Some(by) = policy.withholds_program(&path)
    {
        return Err(ProfileError::Entrypoint { entrypoint: path.to_string(), by: by.to_owned() });
    }
    let profile = Profile {
        exec_bounds: clamp::bounds(policy, |ceiling| ceiling.exec.as_ref(), |denied| &denied.exec),
        write_bounds: clamp::bounds(policy, |ceiling| ceiling.write.as_ref(), |denied| &denied.write),
        debug: SessionGrants::of(policy),
        ..profile(granted, origin, entrypoint, policy)
    };
    Ok(Computed { intent: intent.clone(), profile, notices })
}

fn profile(granted: Granted, origin: Origin, entrypoint: Option<&str>, policy: &Policy) -> Profile {
    let entries = Entries { listen: granted.listen(), connect: granted.connect.endpoints() };
    let grants =
        Grants { needs: granted.needs.clone(), caps: granted.caps.clone(), sockets: entries.sockets() };
    Profile {
        origin,
        listen: entries.listen.iter().map(ToString::to_string).collect(),
        connect: entries.connect.iter().map(ToString::to_string).collect(),
        calls: syscalls::allowed(&grants),
        exec: granted.exec,
        exec_beneath: granted.exec_beneath,
        write: granted.write,
        read: granted.read,
        caps: granted.caps,
        needs: granted.needs,
        ..empty(entrypoint, policy)
    }
}

#[cfg(test)]
mod tests;
