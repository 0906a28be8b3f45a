//! Labels to [`Intent`], intent and [`Policy`] to [`Profile`], profile and [`HostFacts`] to [`Plan`].
//!
//! Everything here is a pure function of its arguments: this crate opens no file, asks no kernel, reads no
//! clock and no environment, so that `keep explain` on a laptop and the shim on a node cannot disagree.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod diff;
pub mod dockerfile;
pub mod explain;
pub mod intent;
pub mod labels;
pub mod lint;
pub mod plan;
pub mod policy;
pub mod profile;
pub mod record;
#[cfg(feature = "schema")]
pub mod schema;
mod sets;
pub mod syscalls;

pub use intent::Intent;
pub use plan::{HostFacts, Plan, plan};
pub use policy::Policy;
pub use profile::{Profile, compute};
pub use record::{Observation, Record};
