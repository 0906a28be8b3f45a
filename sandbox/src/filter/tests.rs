//! The compiled program, interpreted, decides as the plan itself does.

use std::collections::BTreeMap;

use profiles::plan::{Action, Arch, CallRule, Compare, Condition, SeccompPlan};
use proptest::prelude::*;

use super::build::{AND, IF_AT_LEAST, IF_EQUAL, IF_GREATER, JUMP, LOAD, RETURN, return_value};
use super::*;

/// Runs a filter as the kernel would on one call.
fn interpret(program: &[Instruction], number: u32, arch: u32, arguments: &[u64; 6]) -> u32 {
    let word = |offset: u32| match offset {
        0 => number,
        4 => arch,
        16.. => (arguments[(offset as usize - 16) / 8] >> (8 * ((offset - 16) % 8))) as u32,
        _ => panic!("load at {offset}"),
    };
    let (mut at, mut a) = (0, 0u32);
    loop {
        let Instruction { code, jump_true, jump_false, k } = program[at];
        let mut branch = |holds: bool| at += usize::from(if holds { jump_true } else { jump_false });
        match code {
            LOAD => a = word(k),
            AND => a &= k,
            JUMP => at += k as usize,
            IF_EQUAL => branch(a == k),
            IF_GREATER => branch(a > k),
            IF_AT_LEAST => branch(a >= k),
            RETURN => return k,
            other => panic!("operation {other:#x}"),
        }
        at += 1;
    }
}

fn rule(when: &[Condition], action: Action) -> CallRule {
    CallRule { when: when.to_vec(), action }
}

fn plan(calls: impl IntoIterator<Item = (u32, Vec<CallRule>)>) -> SeccompPlan {
    SeccompPlan {
        arch: Arch::X86_64,
        calls: calls.into_iter().collect(),
        unknown: Action::Errno(libc::ENOSYS as u16),
    }
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => Just(Action::Allow),
        2 => (1u16..4096).prop_map(Action::Errno),
        1 => (1u16..4096).prop_map(Action::Refuse),
        1 => Just(Action::Observe),
        1 => Just(Action::Kill),
        1 => Just(Action::Log),
        1 => Just(Action::Trap),
    ]
}

/// Words at which comparisons change their minds.
fn word() -> impl Strategy<Value = u64> {
    let half =
        prop_oneof![Just(0u32), Just(1), Just(7), Just(0x7fff_ffff), Just(0x8000_0000), Just(u32::MAX)];
    prop_oneof![(half.clone(), half).prop_map(|(h, l)| u64::from(h) << 32 | u64::from(l)), any::<u64>()]
}

fn condition() -> impl Strategy<Value = Condition> {
    let op = prop_oneof![
        Just(Compare::Eq),
        Just(Compare::Ne),
        Just(Compare::Lt),
        Just(Compare::Le),
        Just(Compare::Gt),
        Just(Compare::Ge),
        word().prop_map(|mask| Compare::MaskedEq { mask }),
        word().prop_map(|mask| Compare::MaskedNe { mask }),
    ];
    (0u8..6, op, word()).prop_map(|(arg, op, value)| Condition { arg, op, value })
}

fn rules() -> impl Strategy<Value = Vec<CallRule>> {
    let one = (prop::collection::vec(condition(), 0..3), action()).prop_map(|(w, a)| rule(&w, a));
    prop_oneof![
        3 => action().prop_map(|a| vec![rule(&[], a)]),
        1 => prop::collection::vec(one, 0..6),
    ]
}

fn any_plan() -> impl Strategy<Value = SeccompPlan> {
    let arch = prop_oneof![Just(Arch::X86_64), Just(Arch::Aarch64)];
    (arch, prop::collection::btree_map(0u32..470, rules(), 0..300), action())
        .prop_map(|(arch, calls, unknown)| SeccompPlan { arch, calls, unknown })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn interpreted_filter_decides_as_the_plan_does(
        plan in any_plan(),
        tries in prop::collection::vec((prop_oneof![0u32..480, any::<u32>()], prop::array::uniform6(word())), 64),
    ) {
        let filter = match compile(&plan) {
            Ok(filter) => filter,
            Err(FilterError::TooLong(_)) => return Ok(()),
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        };
        for (number, mut arguments) in tries {
            let compared = plan.calls.get(&number).into_iter().flatten().flat_map(|rule| &rule.when);
            let planned: Vec<_> = compared.map(|c| (c.arg, c.value)).collect();
            for near in [0i64, 1, -1] {
                for (arg, value) in &planned {
                    arguments[usize::from(*arg)] = value.wrapping_add_signed(near);
                }
                let expected = return_value(evaluate(&plan, number, &arguments));
                let got = interpret(filter.instructions(), number, audit_arch(plan.arch), &arguments);
                prop_assert_eq!(got, expected, "call {} {:?}", number, arguments);
            }
        }
    }
}

#[test]
fn another_architecture_and_x32_are_killed_the_native_entry_is_not() {
    let plan = plan((0..450).map(|n| (n, vec![rule(&[], Action::Allow)])));
    let filter = compile(&plan).unwrap();
    let run = |number, arch| interpret(filter.instructions(), number, arch, &[0; 6]);
    assert_eq!(run(1, audit_arch(Arch::X86_64)), libc::SECCOMP_RET_ALLOW);
    assert_eq!(run(1, 0x4000_0003), libc::SECCOMP_RET_KILL_PROCESS, "i386");
    assert_eq!(run(1, audit_arch(Arch::Aarch64)), libc::SECCOMP_RET_KILL_PROCESS);
    assert_eq!(run(X32_BIT + 1, audit_arch(Arch::X86_64)), libc::SECCOMP_RET_KILL_PROCESS);
    assert_eq!(run(NO_CALL, audit_arch(Arch::X86_64)), libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32);
}

#[test]
fn adjacent_calls_with_one_action_cost_nothing_more() {
    let few = compile(&plan((10..12).map(|n| (n, vec![rule(&[], Action::Allow)])))).unwrap();
    let many = compile(&plan((10..400).map(|n| (n, vec![rule(&[], Action::Allow)])))).unwrap();
    assert_eq!(few.instructions().len(), many.instructions().len());
}

#[test]
fn a_list_of_values_of_one_argument_loads_it_once() {
    let values = |n: u64| {
        let one = |value| Condition { arg: 1, op: Compare::MaskedEq { mask: 0xffff_ffff }, value };
        (0..n).map(|v| rule(&[one(v * 3)], Action::Allow)).chain([rule(&[], Action::Refuse(1))]).collect()
    };
    let length = |n| compile(&plan([(16, values(n))])).unwrap().instructions().len();
    assert_eq!(length(50) - length(10), 40);
}

#[test]
fn too_long_a_filter_is_an_error_and_not_a_shorter_one() {
    let conditions = |n: u32| (0..6).map(move |arg| Condition { arg, op: Compare::Gt, value: u64::from(n) });
    let calls = (0..400).map(|n| (2 * n, vec![rule(&conditions(n).collect::<Vec<_>>(), Action::Allow)]));
    assert!(matches!(compile(&plan(calls)), Err(FilterError::TooLong(length)) if length > MAX_INSTRUCTIONS));
}

#[test]
fn rules_that_no_kernel_could_follow_are_errors() {
    let sixth = Condition { arg: 6, op: Compare::Eq, value: 0 };
    let bad = plan([(3, vec![rule(&[sixth], Action::Allow)])]);
    assert_eq!(compile(&bad), Err(FilterError::NoSuchArgument { call: 3, arg: 6 }));
    let success = plan([(3, vec![rule(&[], Action::Errno(0))])]);
    assert_eq!(compile(&success), Err(FilterError::NoSuchErrno(0)));
}

#[test]
fn a_filter_notifies_only_if_a_rule_does() {
    let calls = |action| BTreeMap::from([(3, vec![rule(&[], action)])]);
    assert!(!compile(&plan(calls(Action::Errno(1)))).unwrap().notifies());
    assert!(compile(&plan(calls(Action::Refuse(1)))).unwrap().notifies());
    assert!(compile(&plan(calls(Action::Observe))).unwrap().notifies());
}
