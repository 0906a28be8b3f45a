//! What this kernel offers.

use profiles::plan::{Arch, HostFacts};

use crate::cgroup::Unified;
use crate::network;
use crate::sys::{landlock_abi, seccomp};

/// Architecture that this binary, and so every filter that it loads, is for.
#[cfg(target_arch = "x86_64")]
pub const NATIVE: Arch = Arch::X86_64;
/// Architecture that this binary, and so every filter that it loads, is for.
#[cfg(target_arch = "aarch64")]
pub const NATIVE: Arch = Arch::Aarch64;

/// Asks the kernel, without changing anything: nothing is restricted, left loaded or open.
#[must_use]
pub fn probe() -> HostFacts {
    let listener = seccomp::has_listener();
    HostFacts {
        arch: NATIVE,
        landlock_abi: landlock_abi(),
        listener,
        wait_killable: listener && seccomp::has_wait_killable(),
        cgroup_bpf: Unified::find().is_some_and(|hierarchy| hierarchy.is_writable()) && network::can_load(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asking_the_kernel_changes_nothing() {
        let facts = probe();
        assert!(facts.listener, "Linux 5.6 has it: {facts:?}");
        assert_eq!(facts, probe());
    }
}
