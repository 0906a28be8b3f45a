//! Leaves the calling process with the capabilities that a runtime spec names, where that could not be done earlier.

use caps::{CapSet, Capability, CapsHashSet};
use oci_spec::runtime::{Capabilities, LinuxCapabilities};

/// Why capabilities cannot be dropped; the process must end.
#[derive(Debug, thiserror::Error)]
pub enum CapabilityError {
    /// The spec names one that this build does not know.
    #[error("unknown capability {0}")]
    Unknown(String),
    /// The kernel refused.
    #[error("cannot set the {set} capabilities")]
    Set {
        /// Which set.
        set: &'static str,
        /// Cause.
        source: caps::errors::CapsError,
    },
}

/// Sets all five sets of the calling thread to those of `sets`; for a process that kept some only to load its filter.
///
/// # Errors
/// When a set cannot be lowered.
pub fn keep_only(sets: &LinuxCapabilities) -> Result<(), CapabilityError> {
    // The bounding set first: lowering it takes CAP_SETPCAP.
    let bounding = convert(sets.bounding().as_ref())?;
    for capability in caps::read(None, CapSet::Bounding).map_err(failed("bounding"))?.difference(&bounding) {
        caps::drop(None, CapSet::Bounding, *capability).map_err(failed("bounding"))?;
    }
    let ambient = convert(sets.ambient().as_ref())?;
    for capability in caps::read(None, CapSet::Ambient).map_err(failed("ambient"))?.difference(&ambient) {
        caps::drop(None, CapSet::Ambient, *capability).map_err(failed("ambient"))?;
    }
    let inheritable = convert(sets.inheritable().as_ref())?;
    let effective = convert(sets.effective().as_ref())?;
    let permitted = convert(sets.permitted().as_ref())?;
    caps::set(None, CapSet::Inheritable, &inheritable).map_err(failed("inheritable"))?;
    caps::set(None, CapSet::Effective, &effective).map_err(failed("effective"))?;
    caps::set(None, CapSet::Permitted, &permitted).map_err(failed("permitted"))
}

fn failed(set: &'static str) -> impl Fn(caps::errors::CapsError) -> CapabilityError {
    move |source| CapabilityError::Set { set, source }
}

fn convert(set: Option<&Capabilities>) -> Result<CapsHashSet, CapabilityError> {
    set.into_iter()
        .flatten()
        .map(|capability| {
            let name = format!("CAP_{}", capability.to_string().trim_start_matches("CAP_"));
            name.parse::<Capability>().map_err(|_| CapabilityError::Unknown(name))
        })
        .collect()
}
