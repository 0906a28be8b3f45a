//! One policy as it is written: `keep.dev/v1alpha1 RuntimePolicy`.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{
    Ceiling, Command, DebugGrants, InteractiveExec, Isolation, Mode, OnExceed, OnInvalid, Pattern, Report,
    Response, Undeclared,
};
use crate::intent::Intent;
use crate::plan::Wall;

/// A policy of the platform team: a cluster-scoped resource, or a YAML document in the node's policy folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RuntimePolicy {
    /// Version of this form.
    pub api_version: ApiVersion,
    /// Kind of the document.
    pub kind: Kind,
    /// Its name.
    pub metadata: Metadata,
    /// What it says.
    #[serde(default)]
    pub spec: Spec,
}

/// `keep.dev/v1alpha1`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum ApiVersion {
    /// The first.
    #[serde(rename = "keep.dev/v1alpha1")]
    V1Alpha1,
}

/// `RuntimePolicy`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Kind {
    /// The only one.
    RuntimePolicy,
}

/// What Kubernetes keeps of every object; all but the name is ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Metadata {
    /// Unique among all policies of a node; messages and records name it.
    pub name: String,
}

/// What a policy says. A field that is absent leaves the matter to less specific policies, and at last to the class.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spec {
    /// Which containers it is about; without it: all.
    #[serde(default)]
    pub selector: Selector,
    /// Enforce or audit.
    #[serde(default, deserialize_with = "super::given", skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Images that declare nothing.
    #[serde(default, deserialize_with = "super::given", skip_serializing_if = "Option::is_none")]
    pub undeclared: Option<Undeclared>,
    /// What images get that declare nothing; `undeclared: default` goes without saying.
    #[serde(default, deserialize_with = "super::given", skip_serializing_if = "Option::is_none")]
    pub default: Option<Intent>,
    /// The most that images may be granted.
    #[serde(default, deserialize_with = "super::given", skip_serializing_if = "Option::is_none")]
    pub ceiling: Option<Ceiling>,
    /// What is never granted, whatever else says so.
    #[serde(default, deserialize_with = "super::given", skip_serializing_if = "Option::is_none")]
    pub deny: Option<Intent>,
    /// Images with a label that is not understood.
    #[serde(default, deserialize_with = "super::given", skip_serializing_if = "Option::is_none")]
    pub on_invalid: Option<OnInvalid>,
    /// Images that declare more than the ceilings leave.
    #[serde(default, deserialize_with = "super::given", skip_serializing_if = "Option::is_none")]
    pub on_exceed: Option<OnExceed>,
    /// Walls without which a container does not start: `exec`, `file`, `network`, `syscall`, `capability`.
    #[serde(default, deserialize_with = "super::given", skip_serializing_if = "Option::is_none")]
    pub require: Option<BTreeSet<Wall>>,
    /// Programs that a pod spec's `command` names.
    #[serde(default, deserialize_with = "super::given", skip_serializing_if = "Option::is_none")]
    pub command: Option<Command>,
    /// Exec sessions with a terminal.
    #[serde(default, deserialize_with = "super::given", skip_serializing_if = "Option::is_none")]
    pub interactive_exec: Option<InteractiveExec>,
    /// What they get besides, where `interactiveExec` is `debug`.
    #[serde(default, deserialize_with = "super::given", skip_serializing_if = "Option::is_none")]
    pub debug: Option<DebugGrants>,
    /// Where the container runs.
    #[serde(default, deserialize_with = "super::given", skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Isolation>,
    /// What follows a denial.
    #[serde(default, deserialize_with = "super::given", skip_serializing_if = "Option::is_none")]
    pub response: Option<Response>,
    /// How much is observed.
    #[serde(default, deserialize_with = "super::given", skip_serializing_if = "Option::is_none")]
    pub report: Option<Report>,
    /// Whether privileged containers may run.
    #[serde(default, deserialize_with = "truth", skip_serializing_if = "Option::is_none")]
    pub privileged: Option<bool>,
    /// Images for which this policy's ceiling is higher for a while.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exceptions: Vec<Exception>,
}

/// `true` or `false`: a YAML reader that is asked for a `bool` takes `"true"` in quotes too, which is a text.
fn truth<'de, D: Deserializer<'de>>(value: D) -> Result<Option<bool>, D::Error> {
    struct Truth(bool);

    impl<'de> Deserialize<'de> for Truth {
        fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
            value.deserialize_any(Bare).map(Self)
        }
    }

    struct Bare;

    impl Visitor<'_> for Bare {
        type Value = bool;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("true or false")
        }

        fn visit_bool<E>(self, value: bool) -> Result<bool, E> {
            Ok(value)
        }

        fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<bool, E> {
            Err(E::custom("write true or false here"))
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<bool, E> {
            let quotes = if matches!(text, "true" | "false") { ", without quotes" } else { "" };
            Err(E::custom(format!("write true or false here{quotes}")))
        }
    }

    Ok(super::given::<D, Truth>(value)?.map(|truth| truth.0))
}

/// Which containers a policy is about. Every list that is there must have an entry that fits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Selector {
    /// Classes by name.
    #[serde(default, deserialize_with = "super::given", skip_serializing_if = "Option::is_none")]
    pub classes: Option<BTreeSet<String>>,
    /// Kubernetes namespaces, as patterns. Containers outside Kubernetes are in none.
    #[serde(default, deserialize_with = "super::given", skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<BTreeSet<Pattern>>,
    /// Image names as containerd has them (`docker.io/shop/web:1.4`), as patterns.
    #[serde(default, deserialize_with = "super::given", skip_serializing_if = "Option::is_none")]
    pub images: Option<BTreeSet<Pattern>>,
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn list<T: ToString>(entries: &BTreeSet<T>) -> String {
            entries.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        }
        let classes = self.classes.as_ref().map(|classes| format!("classes {}", list(classes)));
        let namespaces =
            self.namespaces.as_ref().map(|namespaces| format!("namespaces {}", list(namespaces)));
        let images = self.images.as_ref().map(|images| format!("images {}", list(images)));
        let parts: Vec<String> = [classes, namespaces, images].into_iter().flatten().collect();
        f.write_str(if parts.is_empty() { "all containers".to_owned() } else { parts.join(", ") }.as_str())
    }
}

/// An image for which a policy's ceiling is higher, until a day. The class's ceiling and what is denied stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Exception {
    /// The image by the digest of its manifest or index, `sha256:…`: a tag may move.
    pub image: ImageDigest,
    /// When it ends, RFC 3339.
    pub expires: Expiry,
    /// Why, for people.
    pub reason: String,
    /// What is left to the image beside the ceiling.
    pub grants: Intent,
}

macro_rules! as_text {
    ($type:ty) => {
        impl TryFrom<String> for $type {
            type Error = String;
            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

/// `sha256:` and 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageDigest(String);

impl FromStr for ImageDigest {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let hex = text.strip_prefix("sha256:").filter(|hex| {
            hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        });
        if hex.is_some() {
            return Ok(Self(text.to_owned()));
        }
        let shown: String = text.chars().take(80).collect();
        Err(format!(
            "{shown:?} is no digest; write sha256: and 64 hexadecimal digits, as `crictl images --digests` shows"
        ))
    }
}

as_text!(ImageDigest);

/// A moment, RFC 3339, as `2027-03-31T00:00:00Z`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Expiry(String);

impl Expiry {
    /// Whether it is over at `now`.
    #[must_use]
    pub fn is_over(&self, now: SystemTime) -> bool {
        // Checked when it was made; what cannot be read is over.
        let Ok(moment) = OffsetDateTime::parse(&self.0, &Rfc3339) else { return true };
        let seconds = u64::try_from(moment.unix_timestamp()).unwrap_or_default();
        now >= SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }
}

impl FromStr for Expiry {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match OffsetDateTime::parse(text, &Rfc3339) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(_) => {
                let shown: String = text.chars().take(80).collect();
                Err(format!("{shown:?} is no moment; write it as 2027-03-31T00:00:00Z"))
            }
        }
    }
}

as_text!(Expiry);
