use super::builtin::{CAPS_CEILING, NEEDS_CEILING};
use super::*;

#[test]
fn every_name_in_the_ceilings_is_known() {
    let keep = Policy::builtin("keep").unwrap();
    let ceiling = &keep.ceilings[0].is;
    assert_eq!(ceiling.needs.as_ref().unwrap().len(), NEEDS_CEILING.len());
    assert_eq!(ceiling.caps.as_ref().unwrap().len(), CAPS_CEILING.len() + 14);
}

#[test]
fn the_classes_are_those_of_the_design() {
    let [keep, strict, permissive] =
        ["keep", "keep-strict", "keep-permissive"].map(|name| Policy::builtin(name).unwrap());
    assert_eq!((keep.mode, strict.mode, permissive.mode), (Mode::Enforce, Mode::Enforce, Mode::Audit));
    assert_eq!((keep.undeclared, strict.undeclared), (Undeclared::Baseline, Undeclared::Refuse));
    assert_eq!(permissive.undeclared, Undeclared::Unconfined);
    assert_eq!((keep.privileged, strict.privileged, permissive.privileged), (false, false, true));
    assert_eq!(strict.interactive_exec, InteractiveExec::Deny);
    assert_eq!(
        (keep.command, keep.on_invalid, keep.on_exceed),
        (Command::Declared, OnInvalid::Reject, OnExceed::Clamp)
    );
    assert!(permissive.require.is_empty() && !keep.require.contains(&Wall::Network));
    assert_eq!(Policy::builtin("none").unwrap_err().to_string().matches("keep-strict").count(), 1);
}

#[test]
fn the_ceiling_leaves_harmless_needs_and_takes_dangerous_ones() {
    let keep = Policy::builtin("keep").unwrap();
    let permissive = Policy::builtin("keep-permissive").unwrap();
    for (name, left) in
        [("jit", true), ("mount", false), ("userns", false), ("bpf", false), ("keyring", false)]
    {
        let need = Need::new(name).unwrap();
        assert_eq!(keep.withholds_need(&need), (!left).then_some("class keep"), "{name}");
        assert_eq!(permissive.withholds_need(&need), None, "{name}");
    }
    for (name, left) in [("NET_BIND_SERVICE", true), ("SYS_NICE", true), ("SYS_ADMIN", false)] {
        assert_eq!(keep.withholds_capability(&Capability::new(name).unwrap()).is_none(), left, "{name}");
    }
}
