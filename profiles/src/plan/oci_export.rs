//! A profile's system calls as the runtime spec's `linux.seccomp`, for other runtimes.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::filter::{Action, CallRule, Compare, Condition};
use super::{Arch, HostFacts, PlanError};
use crate::plan::plan;
use crate::profile::Profile;
use crate::syscalls::{self, EPERM};

/// The calls of `profile` on `arch` as the runtime spec's `linux.seccomp`, which runc and crun load. A call outside it
/// answers `EPERM` (and `ENOSYS` if it is newer than all that are named, as runc has it); without an observer, what
/// Keep would record is only refused.
///
/// # Errors
/// When the profile was not made here.
pub fn seccomp_to_oci(profile: &Profile, arch: Arch) -> Result<Value, PlanError> {
    // No listener: what is observed is allowed there, what is refused answers an error number.
    let host = HostFacts {
        arch,
        landlock_abi: super::MAX_LANDLOCK_ABI,
        listener: false,
        wait_killable: false,
        cgroup_bpf: false,
    };
    let seccomp = plan(&Profile { require: [].into(), ..profile.clone() }, &host)?.seccomp;
    let mut plain = Vec::new();
    let mut answered: BTreeMap<u16, Vec<&str>> = BTreeMap::new();
    let mut conditional = Vec::new();
    for (number, rules) in seccomp.iter().flat_map(|seccomp| &seccomp.calls) {
        let Some(name) = syscalls::name(*number, arch) else { continue };
        match ways(rules) {
            ways if ways.iter().any(Vec::is_empty) => plain.push(name),
            ways if ways.is_empty() => match rules.first().map(|rule| rule.action) {
                Some(Action::Errno(errno)) if errno != EPERM => answered.entry(errno).or_default().push(name),
                _ => {}
            },
            ways => conditional.extend(ways.iter().map(|way| {
                json!({ "names": [name], "action": "SCMP_ACT_ALLOW", "args": way.iter().map(arg).collect::<Vec<_>>() })
            })),
        }
    }
    let answered = answered
        .iter()
        .map(|(errno, names)| json!({ "names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": errno }));
    let mut syscalls = vec![json!({ "names": plain, "action": "SCMP_ACT_ALLOW" })];
    syscalls.extend(conditional);
    syscalls.extend(answered);
    if seccomp.is_none() {
        return Ok(json!({ "defaultAction": "SCMP_ACT_ALLOW" }));
    }
    let architecture = match arch {
        Arch::X86_64 => "SCMP_ARCH_X86_64",
        Arch::Aarch64 => "SCMP_ARCH_AARCH64",
    };
    Ok(json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": EPERM,
        "architectures": [architecture],
        "syscalls": syscalls,
    }))
}

/// The ways in which a call is let through, each a list of conditions that all hold. Rules are tried in order, and
/// libseccomp's are not: so that each way holds of itself that no rule before it did.
fn ways(rules: &[CallRule]) -> Vec<Vec<Condition>> {
    let mut ways: Vec<Vec<Condition>> = Vec::new();
    // What holds once no rule before did; several lists: one of them does.
    let mut so_far: Vec<Vec<Condition>> = vec![Vec::new()];
    for rule in rules {
        if matches!(rule.action, Action::Allow | Action::Observe | Action::Log) {
            for before in &so_far {
                ways.extend(both(before, &rule.when));
            }
            // A later way that overlaps this one lets nothing more through.
            continue;
        }
        let failing: Vec<Condition> = rule.when.iter().flat_map(negated).collect();
        so_far = so_far
            .iter()
            .flat_map(|before| failing.iter().filter_map(|condition| both(before, &[*condition])))
            .collect();
    }
    ways
}

/// What is not `condition`: any one of these. libseccomp knows no "masked, and not equal", so that each bit of a mask
/// stands for itself.
fn negated(condition: &Condition) -> Vec<Condition> {
    let op = match condition.op {
        Compare::MaskedEq { mask } if !is_exact(condition) => {
            let bits = (0..u64::BITS).map(|bit| 1 << bit).filter(|bit| mask & bit != 0);
            return bits
                .map(|bit| Condition {
                    op: Compare::MaskedEq { mask: bit },
                    value: !condition.value & bit,
                    ..*condition
                })
                .collect();
        }
        Compare::MaskedEq { .. } => Compare::Ne,
        Compare::Eq => Compare::Ne,
        Compare::Ne => Compare::Eq,
        Compare::Lt => Compare::Ge,
        Compare::Le => Compare::Gt,
        Compare::Gt => Compare::Le,
        Compare::Ge => Compare::Lt,
        Compare::MaskedNe { mask } => Compare::MaskedEq { mask },
    };
    vec![Condition { op, ..*condition }]
}

/// Both lists at once, without what goes without saying; `None` where they exclude each other.
fn both(one: &[Condition], other: &[Condition]) -> Option<Vec<Condition>> {
    let all: Vec<Condition> = one.iter().chain(other).copied().collect();
    let exact = |arg: u8| all.iter().find(|c| c.arg == arg && is_exact(c)).map(|c| c.value);
    let mut left: Vec<Condition> = Vec::new();
    for condition in &all {
        if let Some(value) = exact(condition.arg).filter(|_| !is_exact(condition)) {
            let mut args = [0; 6];
            *args.get_mut(usize::from(condition.arg))? = value;
            if !condition.holds(&args) {
                return None;
            }
        } else if exact(condition.arg).is_some_and(|value| value != condition.value) {
            return None;
        } else if !left.contains(condition) {
            left.push(*condition);
        }
    }
    Some(left)
}

/// Whether a condition names one value (of the low 32 bits, which is all that the kernel reads of these arguments).
fn is_exact(condition: &Condition) -> bool {
    match condition.op {
        Compare::Eq => true,
        Compare::MaskedEq { mask } => mask == u64::from(u32::MAX),
        _ => false,
    }
}

fn arg(condition: &Condition) -> Value {
    let plain = |op: &str| json!({ "index": condition.arg, "value": condition.value, "op": op });
    match condition.op {
        Compare::Eq => plain("SCMP_CMP_EQ"),
        Compare::Ne => plain("SCMP_CMP_NE"),
        Compare::Lt => plain("SCMP_CMP_LT"),
        Compare::Le => plain("SCMP_CMP_LE"),
        Compare::Gt => plain("SCMP_CMP_GT"),
        Compare::Ge => plain("SCMP_CMP_GE"),
        Compare::MaskedEq { mask } => {
            json!({ "index": condition.arg, "value": mask, "valueTwo": condition.value, "op": "SCMP_CMP_MASKED_EQ" })
        }
        // Of one bit, as a test holds of our rules: it is the other way round.
        Compare::MaskedNe { mask } => {
            json!({ "index": condition.arg, "value": mask, "valueTwo": condition.value ^ mask, "op": "SCMP_CMP_MASKED_EQ" })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::labels;
    use crate::plan::seccomp_from_oci;
    use crate::policy::Policy;
    use crate::profile::compute;

    const CASES: [&[(&str, &str)]; 4] = [
        &[],
        &[("listen", "8080/tcp"), ("connect", "dns")],
        &[("needs", "jit ipc"), ("listen", "53/udp")],
        &[("needs", "memfd-exec ptrace raw-sockets"), ("caps", "AUDIT_WRITE NET_RAW")],
    ];

    fn profile(pairs: &[(&str, &str)]) -> Profile {
        let with = |(key, value): &(&str, &str)| (format!("dev.keep.{key}"), (*value).to_owned());
        let labels: BTreeMap<_, _> = pairs.iter().chain(&[("intent", "v1")]).map(with).collect();
        compute(labels::parse(&labels), None, &Policy::builtin("keep").unwrap()).unwrap().profile
    }

    fn through(action: Action) -> bool {
        matches!(action, Action::Allow | Action::Observe)
    }

    proptest! {
        /// What the exported filter lets through is what ours does, for every call and the arguments that rules look at.
        #[test]
        fn the_export_lets_the_same_through(case in 0usize..4, number in 0u32..480, args in proptest::collection::vec(
            prop_oneof![Just(0u64), 1u64..20, Just(0x22), Just(0x1000), Just(0x2000_0000), Just(0x5401), Just(0x5412), Just(0x1002_0000), Just(u64::from(u32::MAX)), 0u64..0x2_0000], 6)) {
            let profile = profile(CASES[case]);
            let host = HostFacts { arch: Arch::X86_64, landlock_abi: 7, listener: true, wait_killable: true, cgroup_bpf: true };
            let ours = plan(&profile, &host).unwrap().seccomp.unwrap();
            let json = seccomp_to_oci(&profile, Arch::X86_64).unwrap().to_string();
            let exported = seccomp_from_oci(&json, Arch::X86_64).unwrap();
            let args: [u64; 6] = args.try_into().unwrap();
            prop_assert_eq!(through(ours.action(number, &args)), through(exported.action(number, &args)), "{:?} {:?}", syscalls::name(number, Arch::X86_64), args);
        }
    }

    #[test]
    fn every_negated_mask_has_one_bit() {
        for pairs in CASES {
            let host = HostFacts {
                arch: Arch::X86_64,
                landlock_abi: 7,
                listener: true,
                wait_killable: true,
                cgroup_bpf: true,
            };
            let seccomp = plan(&profile(pairs), &host).unwrap().seccomp.unwrap();
            for condition in seccomp.calls.values().flat_map(|rules| ways(rules)).flatten() {
                if let Compare::MaskedNe { mask } = condition.op {
                    assert_eq!(mask.count_ones(), 1, "{condition:?}");
                }
            }
        }
    }

    #[test]
    fn an_image_without_walls_is_exported_as_such() {
        let profile = compute(
            Ok(labels::Declaration::Nothing(vec![])),
            None,
            &Policy::builtin("keep-permissive").unwrap(),
        );
        let json = seccomp_to_oci(&profile.unwrap().profile, Arch::X86_64).unwrap();
        assert_eq!(json, json!({ "defaultAction": "SCMP_ACT_ALLOW" }));
    }
}
