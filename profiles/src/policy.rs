//! What the platform team decides: classes, and the policies that narrow them.
//!
//! A [`RuntimePolicy`] is one document; [`Policies`] are all of a node, checked against each other; a [`Policy`] is
//! what they come to for one container. The three built-in classes work with no document at all.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::intent::{AbsPath, Capability, Endpoint, Intent, Need, PortRange};
use crate::plan::Wall;

mod builtin;
mod document;
mod pattern;
mod select;
mod set;

pub use document::{Exception, Expiry, ImageDigest, Metadata, RuntimePolicy, Selector, Spec};
pub use pattern::{Pattern, PatternError};
pub use select::{SelectError, Subject};
pub use set::{MAX_FILE, MAX_POLICIES, Policies, PolicyError};

/// Enforce, or record only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Walls stand.
    Enforce,
    /// No wall stands; what would have been refused is recorded with verdict `audited`.
    Audit,
}

/// What happens to an image that declares nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Undeclared {
    /// containerd's default seccomp list, capabilities and mounts of the pod spec, no further walls.
    Baseline,
    /// It gets what the policy's `default` grants.
    Default,
    /// The container does not start.
    Refuse,
    /// Exactly as the pod spec says, as under runc.
    Unconfined,
}

/// What happens to an image with a label that is not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum OnInvalid {
    /// The container does not start.
    Reject,
    /// It gets what the policy's `default` grants, and a record.
    UseDefault,
}

/// What happens to an image that declares more than the ceilings leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum OnExceed {
    /// What is above is taken away and recorded.
    Clamp,
    /// The container does not start.
    Reject,
}

/// May a pod spec's `command` start what the image did not declare?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Command {
    /// No.
    Declared,
    /// Yes, within the ceilings.
    Allow,
}

/// Which exec sessions are let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum InteractiveExec {
    /// An exec with a terminal is refused.
    Deny,
    /// An exec with a terminal gets the container's walls.
    Confined,
    /// An exec with a terminal gets the container's walls, and within them what the policy's `debug` grants besides.
    Debug,
}

/// Where the container runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// On the host's kernel.
    Host,
    /// In a microVM of its pod.
    Microvm,
}

/// What follows a denial beside its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Response {
    /// An Event on the pod.
    Event,
    /// An Event, and the pod is evicted.
    Evict,
}

/// How much is observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Report {
    /// Everything that is refused is recorded.
    Full,
    /// Refused changes of files are not recorded (the walls stand all the same): programs that write much are faster.
    Calls,
}

/// The most that may be granted. A list that is absent leaves everything of its kind, an empty one nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Ceiling {
    /// Programs; a folder leaves every program beneath.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub exec: Option<BTreeSet<AbsPath>>,
    /// Ports that are bound, as `8000-8010/tcp`.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub listen: Option<BTreeSet<PortRange>>,
    /// Where to connect, as `10.0.0.0/8:443/tcp`, `dns`, `unix:/run/x`.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub connect: Option<BTreeSet<Endpoint>>,
    /// What is written beneath.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub write: Option<BTreeSet<AbsPath>>,
    /// What is read beyond the default set.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub read: Option<BTreeSet<AbsPath>>,
    /// Capabilities, without `CAP_`.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub caps: Option<BTreeSet<Capability>>,
    /// Needs.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub needs: Option<BTreeSet<Need>>,
}

/// What sessions with a terminal get beside what the container has, where `interactiveExec` is `debug`: within every
/// ceiling and denial. Nothing of the network, of files or of reads: those walls are the container's own, and a session
/// shares them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct DebugGrants {
    /// Programs; a folder grants every program beneath.
    pub exec: BTreeSet<AbsPath>,
    /// Capabilities, without `CAP_`, of those that the pod leaves.
    pub caps: BTreeSet<Capability>,
    /// Needs.
    pub needs: BTreeSet<Need>,
}

impl From<DebugGrants> for Intent {
    fn from(grants: DebugGrants) -> Self {
        let DebugGrants { exec, caps, needs } = grants;
        Self { exec, caps, needs, ..Self::default() }
    }
}

/// A ceiling or a hard deny, with who set it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule<T> {
    /// Who set it, as a sentence names it: `class keep`, `policy shop`.
    pub by: String,
    /// What it says.
    pub is: T,
}

/// What classes and policies come to for one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// The class that the pod selected.
    pub class: String,
    /// Names of the documents that apply, the least specific first.
    pub policies: Vec<String>,
    /// Enforce or audit.
    pub mode: Mode,
    /// Images that declare nothing.
    pub undeclared: Undeclared,
    /// What images get that declare nothing, where `undeclared` is [`Undeclared::Default`].
    pub default: Option<Intent>,
    /// Images whose labels are not understood.
    pub on_invalid: OnInvalid,
    /// Images that declare more than the ceilings leave.
    pub on_exceed: OnExceed,
    /// Walls that must have no gap on the host, or else a container that declared something does not start.
    pub require: BTreeSet<Wall>,
    /// Programs that a pod spec's `command` names.
    pub command: Command,
    /// Exec sessions with a terminal.
    pub interactive_exec: InteractiveExec,
    /// What they get besides, where that is [`InteractiveExec::Debug`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debug: Option<DebugGrants>,
    /// Where the container runs.
    pub isolation: Isolation,
    /// What follows a denial.
    pub response: Response,
    /// How much is observed.
    pub report: Report,
    /// Whether a privileged container may run.
    pub privileged: bool,
    /// Every one of them holds.
    pub ceilings: Vec<Rule<Ceiling>>,
    /// What is never granted, whatever an exception says.
    pub denied: Vec<Rule<Intent>>,
}

/// A field that is there must have a value: nothing behind `needs:` would mean that the field is absent, which leaves
/// everything.
fn given<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(value: D) -> Result<Option<T>, D::Error> {
    Option::deserialize(value)?.map(Some).ok_or_else(|| {
        serde::de::Error::custom(
            "there is nothing behind this field; remove it, or write [] for an empty list",
        )
    })
}

impl Policy {
    /// Who, if anybody, does not leave `capability` to an image.
    #[must_use]
    pub fn withholds_capability(&self, capability: &Capability) -> Option<&str> {
        self.withholds(
            |ceiling| ceiling.caps.as_ref().is_none_or(|caps| caps.contains(capability)),
            |denied| denied.caps.contains(capability),
        )
    }

    /// Who, if anybody, does not leave `need` to an image.
    #[must_use]
    pub fn withholds_need(&self, need: &Need) -> Option<&str> {
        self.withholds(
            |ceiling| ceiling.needs.as_ref().is_none_or(|needs| needs.contains(need)),
            |denied| denied.needs.contains(need),
        )
    }

    /// Who, if anybody, does not leave the program or folder of programs `path` to an image.
    #[must_use]
    pub fn withholds_program(&self, path: &AbsPath) -> Option<&str> {
        self.withholds_path(path, |ceiling| ceiling.exec.as_ref(), |denied| &denied.exec)
    }

    /// Who, if anybody, does not leave writing at or beneath `path` to an image.
    #[must_use]
    pub fn withholds_write(&self, path: &AbsPath) -> Option<&str> {
        self.withholds_path(path, |ceiling| ceiling.write.as_ref(), |denied| &denied.write)
    }

    /// Who, if anybody, does not leave binding all of `ports` to an image.
    #[must_use]
    pub fn withholds_listen(&self, ports: &PortRange) -> Option<&str> {
        let meets = |other: &PortRange| {
            other.protocol == ports.protocol && other.first <= ports.last && ports.first <= other.last
        };
        self.withholds(
            |ceiling| {
                let covered =
                    |set| crate::intent::canonical_listen(set).iter().any(|left| left.covers(ports));
                ceiling.listen.as_ref().is_none_or(covered)
            },
            |denied| denied.listen.iter().any(meets),
        )
    }

    /// Who, if anybody, does not leave connecting to all of `endpoint` to an image.
    #[must_use]
    pub fn withholds_connect(&self, endpoint: &Endpoint) -> Option<&str> {
        use crate::sets::Reach;
        let wanted = Reach::new([endpoint]);
        self.withholds(
            |ceiling| {
                ceiling.connect.as_ref().is_none_or(|set| wanted.intersection(&Reach::new(set)) == wanted)
            },
            |denied| wanted.difference(&Reach::new(&denied.connect)) != wanted,
        )
    }

    fn withholds(&self, leaves: impl Fn(&Ceiling) -> bool, denies: impl Fn(&Intent) -> bool) -> Option<&str> {
        let ceiling = self.ceilings.iter().find(|rule| !leaves(&rule.is)).map(|rule| rule.by.as_str());
        ceiling.or_else(|| self.denied.iter().find(|rule| denies(&rule.is)).map(|rule| rule.by.as_str()))
    }

    fn withholds_path<'a>(
        &'a self,
        path: &AbsPath,
        left: impl Fn(&'a Ceiling) -> Option<&'a BTreeSet<AbsPath>>,
        denied: impl Fn(&'a Intent) -> &'a BTreeSet<AbsPath>,
    ) -> Option<&'a str> {
        let beneath = |set: &BTreeSet<AbsPath>| set.iter().any(|entry| path.is_beneath(entry));
        let above = self.ceilings.iter().find(|rule| !left(&rule.is).is_none_or(beneath));
        above.map(|rule| rule.by.as_str()).or_else(|| {
            let meets = |entry: &AbsPath| crate::sets::overlapping(path, entry);
            self.denied.iter().find(|rule| denied(&rule.is).iter().any(meets)).map(|rule| rule.by.as_str())
        })
    }
}

#[cfg(test)]
mod tests;
