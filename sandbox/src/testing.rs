//! Plans made by hand, for this crate's tests.

use std::collections::BTreeSet;

use profiles::Plan;
use profiles::intent::AbsPath;
use profiles::policy::Mode;
use profiles::profile::Bounds;

pub(crate) fn abs(path: &str) -> AbsPath {
    AbsPath::new(path).unwrap()
}

/// A plan of an enforcing class that has no wall yet.
pub(crate) fn bare_plan() -> Plan {
    Plan {
        profile: "sha256:0".to_owned(),
        mode: Mode::Enforce,
        programs: None,
        without_interpreter: BTreeSet::new(),
        program_bounds: Bounds::default(),
        entrypoint: None,
        write: None,
        write_bounds: Bounds::default(),
        hidden: Default::default(),
        no_new_privileges: true,
        capabilities: None,
        landlock: None,
        seccomp: None,
        network: None,
        sockets: None,
        gaps: Vec::new(),
    }
}
