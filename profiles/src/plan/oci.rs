//! A pod's own seccomp profile, from the runtime spec's `linux.seccomp`, as a filter beside ours.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::Arch;
use super::filter::{Action, CallRule, Compare, Condition, DEFAULT_ERRNO, SeccompPlan, numbered};
use crate::syscalls::ENOSYS;

/// Why a runtime spec's `linux.seccomp` cannot be turned into a filter.
#[derive(Debug, thiserror::Error)]
pub enum OciSeccompError {
    /// Not JSON of the runtime spec's form.
    #[error("seccomp profile has not the form of the OCI runtime spec")]
    Json(#[from] serde_json::Error),
    /// An action that is unknown or that needs a tracer or listener of its own.
    #[error("seccomp profile uses action {action:?}, which Keep does not support")]
    Action {
        /// The action.
        action: String,
    },
    /// An unknown comparison.
    #[error("seccomp profile compares an argument of {call} with {op:?}, which is no operator")]
    Operator {
        /// First call of the rule.
        call: String,
        /// The operator.
        op: String,
    },
    /// Calls have six arguments.
    #[error("seccomp profile looks at argument {index} of {call}; the last one is 5")]
    Argument {
        /// First call of the rule.
        call: String,
        /// The index.
        index: u64,
    },
    /// Error numbers end at 4095.
    #[error("seccomp profile answers with error number {errno}; the highest is 4095")]
    Errno {
        /// The number.
        errno: u64,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Seccomp {
    default_action: String,
    default_errno_ret: Option<u64>,
    #[serde(default)]
    syscalls: Option<Vec<Rule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    names: Vec<String>,
    action: String,
    errno_ret: Option<u64>,
    #[serde(default)]
    args: Option<Vec<Arg>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Arg {
    index: u64,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

/// Turns the runtime spec's `linux.seccomp` (JSON) into a filter for `arch`.
///
/// Names that `arch` lacks or Keep does not know are ignored, as libseccomp does. Of several rules for a call those with
/// conditions are asked first; conditions on the same argument of one rule count as rules of their own, as in runc.
/// A call that Keep does not know answers `ENOSYS` where the default is an error number, else the default.
/// `architectures` and `flags` are ignored: the filter serves the native architecture.
///
/// # Errors
/// On malformed JSON, an action that is unknown or needs a listener or tracer (`SCMP_ACT_NOTIFY`,
/// `SCMP_ACT_TRACE`), an unknown operator, an argument beyond 5 or an error number beyond 4095.
pub fn seccomp_from_oci(json: &str, arch: Arch) -> Result<SeccompPlan, OciSeccompError> {
    let seccomp: Seccomp = serde_json::from_str(json)?;
    let default = action(&seccomp.default_action, seccomp.default_errno_ret)?;
    let mut conditional: BTreeMap<String, Vec<CallRule>> = BTreeMap::new();
    let mut plain: BTreeMap<String, Action> = BTreeMap::new();
    for rule in seccomp.syscalls.unwrap_or_default() {
        let action = action(&rule.action, rule.errno_ret.or(seccomp.default_errno_ret))?;
        let alternatives = conditions(&rule)?;
        for name in rule.names {
            if alternatives.is_empty() {
                plain.entry(name).or_insert(action);
            } else {
                let rules = alternatives.iter().map(|when| CallRule { when: when.clone(), action });
                conditional.entry(name).or_default().extend(rules);
            }
        }
    }
    let calls = numbered(arch, |name| {
        let mut rules = conditional.get(name).cloned().unwrap_or_default();
        rules.push(CallRule { when: Vec::new(), action: plain.get(name).copied().unwrap_or(default) });
        rules
    });
    let unknown = if let Action::Errno(_) = default { Action::Errno(ENOSYS) } else { default };
    Ok(SeccompPlan { arch, calls, unknown })
}

/// The alternatives that a rule's arguments stand for; none: the rule has no condition.
fn conditions(rule: &Rule) -> Result<Vec<Vec<Condition>>, OciSeccompError> {
    let call = || rule.names.first().cloned().unwrap_or_default();
    let mut conditions = Vec::new();
    for arg in rule.args.iter().flatten() {
        let index = u8::try_from(arg.index).ok().filter(|index| *index < 6);
        let index = index.ok_or_else(|| OciSeccompError::Argument { call: call(), index: arg.index })?;
        let (op, value) = match arg.op.as_str() {
            "SCMP_CMP_NE" => (Compare::Ne, arg.value),
            "SCMP_CMP_LT" => (Compare::Lt, arg.value),
            "SCMP_CMP_LE" => (Compare::Le, arg.value),
            "SCMP_CMP_EQ" => (Compare::Eq, arg.value),
            "SCMP_CMP_GE" => (Compare::Ge, arg.value),
            "SCMP_CMP_GT" => (Compare::Gt, arg.value),
            "SCMP_CMP_MASKED_EQ" => (Compare::MaskedEq { mask: arg.value }, arg.value_two),
            op => return Err(OciSeccompError::Operator { call: call(), op: op.to_owned() }),
        };
        conditions.push(Condition { arg: index, op, value });
    }
    let repeated =
        (0..6).any(|index| conditions.iter().filter(|condition| condition.arg == index).count() > 1);
    Ok(match conditions {
        none if none.is_empty() => Vec::new(),
        several if repeated => several.into_iter().map(|condition| vec![condition]).collect(),
        all => vec![all],
    })
}

fn action(name: &str, errno: Option<u64>) -> Result<Action, OciSeccompError> {
    match name {
        "SCMP_ACT_ALLOW" => Ok(Action::Allow),
        "SCMP_ACT_LOG" => Ok(Action::Log),
        "SCMP_ACT_TRAP" => Ok(Action::Trap),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" | "SCMP_ACT_KILL_PROCESS" => Ok(Action::Kill),
        "SCMP_ACT_ERRNO" => {
            let errno = errno.unwrap_or(u64::from(DEFAULT_ERRNO));
            let number = u16::try_from(errno).ok().filter(|errno| *errno <= 4095);
            number.map(Action::Errno).ok_or(OciSeccompError::Errno { errno })
        }
        action => Err(OciSeccompError::Action { action: action.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(json: &str) -> Result<SeccompPlan, OciSeccompError> {
        seccomp_from_oci(json, Arch::X86_64)
    }

    #[test]
    fn rules_with_conditions_are_asked_before_the_plain_one() {
        let plan = from(
            r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86"],"syscalls":[
                {"names":["read","oldcall"],"action":"SCMP_ACT_ALLOW"},
                {"names":["socket"],"action":"SCMP_ACT_ALLOW","args":null},
                {"names":["socket"],"action":"SCMP_ACT_ERRNO","errnoRet":97,
                 "args":[{"index":0,"value":16,"op":"SCMP_CMP_EQ"}]},
                {"names":["clone"],"action":"SCMP_ACT_ALLOW",
                 "args":[{"index":0,"value":2114060288,"valueTwo":0,"op":"SCMP_CMP_MASKED_EQ"}]}]}"#,
        )
        .unwrap();
        assert_eq!(plan.action(0, &[0; 6]), Action::Allow);
        assert_eq!(plan.action(1, &[0; 6]), Action::Errno(1));
        assert_eq!(plan.action(41, &[16, 0, 0, 0, 0, 0]), Action::Errno(97));
        assert_eq!(plan.action(41, &[2, 0, 0, 0, 0, 0]), Action::Allow);
        assert_eq!(plan.action(56, &[0x1000_0000, 0, 0, 0, 0, 0]), Action::Errno(1));
        assert_eq!(plan.action(56, &[17, 0, 0, 0, 0, 0]), Action::Allow);
        assert_eq!(plan.action(9999, &[0; 6]), Action::Errno(38));
    }

    #[test]
    fn a_default_that_kills_kills_unknown_calls_too() {
        let plan = from(r#"{"defaultAction":"SCMP_ACT_KILL_PROCESS"}"#).unwrap();
        assert_eq!((plan.action(0, &[0; 6]), plan.action(9999, &[0; 6])), (Action::Kill, Action::Kill));
    }

    #[test]
    fn what_cannot_be_served_is_an_error_and_never_allows() {
        for json in [
            "",
            "[]",
            "{}",
            r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#,
            r#"{"defaultAction":"ALLOW"}"#,
            r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":4096}"#,
            r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW",
                "args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]}]}"#,
            r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW",
                "args":[{"index":0,"value":0,"op":"EQ"}]}]}"#,
        ] {
            assert!(from(json).is_err(), "{json}");
        }
    }

    #[test]
    fn conditions_on_one_argument_are_alternatives_as_in_runc() {
        let plan = from(
            r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["personality"],"action":"SCMP_ACT_ALLOW",
                "args":[{"index":0,"value":0,"op":"SCMP_CMP_EQ"},{"index":0,"value":8,"op":"SCMP_CMP_EQ"}]}]}"#,
        )
        .unwrap();
        let asked = |value| plan.action(135, &[value, 0, 0, 0, 0, 0]);
        assert_eq!((asked(0), asked(8), asked(4)), (Action::Allow, Action::Allow, Action::Errno(1)));
    }
}
