//! What sessions with a terminal get beside the container's grants, under `interactiveExec: debug`.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::clamp::Granted;
use super::{Entries, Profile};
use crate::intent::{AbsPath, Capability, Need};
use crate::policy::{InteractiveExec, Mode, Policy};
use crate::sets::topmost;
use crate::syscalls;

/// What a policy's `debug` grants, as far as its ceilings and denials leave it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct SessionGrants {
    /// Programs and folders of programs.
    pub exec: BTreeSet<AbsPath>,
    /// What a ceiling left of folders of programs.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub exec_beneath: BTreeSet<AbsPath>,
    /// Capabilities.
    pub caps: BTreeSet<Capability>,
    /// Needs.
    pub needs: BTreeSet<Need>,
}

impl SessionGrants {
    /// Those of `policy`, if sessions are to get any.
    pub(super) fn of(policy: &Policy) -> Option<Self> {
        let grants = policy.debug.clone().filter(|_| policy.interactive_exec == InteractiveExec::Debug)?;
        // What is taken away is the platform team's own wish, and no label's: `keep explain` shows what is left.
        let (granted, _) = Granted::of(&grants.into()).clamped(policy);
        let Granted { exec, exec_beneath, caps, needs, .. } = granted;
        Some(Self { exec, exec_beneath, caps, needs })
    }
}

impl Profile {
    /// The profile of a session with a terminal, where it is another than the container's: all of that, and what
    /// [`Profile::debug`] grants.
    #[must_use]
    pub fn of_session(&self) -> Option<Self> {
        let more = self.debug.as_ref().filter(|_| self.mode == Mode::Enforce)?;
        let mut session = Self { debug: None, ..self.clone() };
        session.exec.extend(more.exec.iter().cloned());
        session.exec_beneath.extend(more.exec_beneath.iter().cloned());
        session.exec_beneath = topmost(&session.exec_beneath);
        let named = |path: &AbsPath| session.exec.iter().any(|own| path.is_beneath(own));
        session.exec_beneath.retain(|path| !named(path));
        session.caps.extend(more.caps.iter().cloned());
        session.needs.extend(more.needs.iter().cloned());
        let none = Entries { listen: Vec::new(), connect: Vec::new() };
        session.calls = syscalls::allowed(&session.grants(&self.entries().unwrap_or(none)));
        Some(session)
    }
}
