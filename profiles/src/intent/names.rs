//! Names that come from a closed table: capabilities and needs.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::EntryError;
use crate::syscalls;

/// Every Linux capability; its place is its number.
/// Source: include/uapi/linux/capability.h, Linux 6.18 (none was added since 5.9).
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// A Linux capability by its name without `CAP_`, for example `NET_BIND_SERVICE`; validated against the
/// table in capabilities(7) when parsed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Capability(String);

/// One value of `dev.keep.needs`: the name of a documented set of calls that widens the kernel's attack surface.
/// The names are the `need` groups of `data/groups.txt` (see [`crate::syscalls`]).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Need(String);

/// Neither a capability nor a need has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown name {0:?}")]
pub struct UnknownName(pub String);

impl Capability {
    /// The capability called `name`, upper case, without `CAP_`.
    ///
    /// # Errors
    /// When Linux has no such capability.
    pub fn new(name: &str) -> Result<Self, UnknownName> {
        if CAPABILITIES.contains(&name) {
            Ok(Self(name.to_owned()))
        } else {
            Err(UnknownName(name.to_owned()))
        }
    }

    /// Its name, without `CAP_`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its number in the kernel's capability sets.
    #[must_use]
    pub fn number(&self) -> u8 {
        let place = CAPABILITIES.iter().position(|name| *name == self.0);
        place.and_then(|place| u8::try_from(place).ok()).unwrap_or(u8::MAX)
    }

    /// Every capability, in the order of their numbers.
    pub fn all() -> impl Iterator<Item = Self> {
        CAPABILITIES.iter().map(|name| Self((*name).to_owned()))
    }
}

impl Need {
    /// The need called `name`.
    ///
    /// # Errors
    /// When there is no such need.
    pub fn new(name: &str) -> Result<Self, UnknownName> {
        if syscalls::needs().any(|(known, _)| known == name) {
            Ok(Self(name.to_owned()))
        } else {
            Err(UnknownName(name.to_owned()))
        }
    }

    /// Its name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What it stands for, in a few words.
    #[must_use]
    pub fn meaning(&self) -> &'static str {
        syscalls::needs().find(|(name, _)| *name == self.0).map_or("", |(_, text)| text)
    }

    /// Every need, the least dangerous that may do a thing before the more dangerous.
    pub fn all() -> impl Iterator<Item = Self> {
        syscalls::needs().map(|(name, _)| Self(name.to_owned()))
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Capability {
    type Error = EntryError;
    fn try_from(text: String) -> Result<Self, EntryError> {
        crate::labels::capability(&text)
    }
}

impl From<Capability> for String {
    fn from(capability: Capability) -> Self {
        capability.0
    }
}

impl TryFrom<String> for Need {
    type Error = EntryError;
    fn try_from(text: String) -> Result<Self, EntryError> {
        crate::labels::need(&text)
    }
}

impl From<Need> for String {
    fn from(need: Need) -> Self {
        need.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_have_the_kernels_numbers() {
        for (name, number) in
            [("CHOWN", 0), ("NET_BIND_SERVICE", 10), ("SYS_ADMIN", 21), ("CHECKPOINT_RESTORE", 40)]
        {
            assert_eq!(Capability::new(name).unwrap().number(), number, "{name}");
        }
    }

    #[test]
    fn a_name_with_prefix_or_in_lower_case_is_no_capability() {
        for name in ["CAP_CHOWN", "chown", "", "ALL"] {
            assert!(Capability::new(name).is_err(), "{name}");
        }
    }

    #[test]
    fn needs_are_those_of_the_data_and_have_a_meaning() {
        assert!(Need::new("jit").is_ok() && Need::new("iouring").is_err());
        assert!(Need::all().all(|need| !need.meaning().is_empty()));
    }
}
