//! Compiles a [`SeccompPlan`] to classic BPF: a balanced tree over ranges of equal actions. Pure.

mod build;
#[cfg(test)]
mod tests;

use profiles::plan::{Action, Arch, SeccompPlan};

use build::{Builder, Position};

/// Longest filter that the kernel accepts, in instructions.
/// Source: `BPF_MAXINSNS`, include/uapi/linux/bpf_common.h.
pub const MAX_INSTRUCTIONS: usize = 4096;

/// First number of x32's calls, which enter by the same instruction as x86_64's own.
/// Source: `__X32_SYSCALL_BIT`, arch/x86/include/uapi/asm/unistd.h.
const X32_BIT: u32 = 0x4000_0000;

/// What a tracer writes in place of a number to skip a call, and `syscall(-1)`: a call that does not exist, no x32 entry.
const NO_CALL: u32 = u32::MAX;

/// `SECCOMP_RET_ERRNO` keeps this many values. Source: `MAX_ERRNO`, include/linux/err.h.
const MAX_ERRNO: u16 = 4095;

/// One classic-BPF instruction, laid out as the kernel's `struct sock_filter`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip when a comparison holds.
    pub jump_true: u8,
    /// Instructions to skip when it does not.
    pub jump_false: u8,
    /// Operand.
    pub k: u32,
}

/// A filter ready to be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    instructions: Vec<Instruction>,
    notifies: bool,
}

/// Why a plan cannot become a filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// More than [`MAX_INSTRUCTIONS`].
    #[error("filter has {0} instructions, the kernel takes at most {MAX_INSTRUCTIONS}")]
    TooLong(usize),
    /// A condition names an argument that no call has.
    #[error("rule for call {call} looks at argument {arg}, a call has arguments 0 to 5")]
    NoSuchArgument {
        /// Number of the call.
        call: u32,
        /// Argument.
        arg: u8,
    },
    /// An error number that the kernel cannot answer with.
    #[error("a rule answers with error number {0}, the kernel knows 1 to {MAX_ERRNO}")]
    NoSuchErrno(u16),
}

impl Filter {
    /// The instructions, first to last.
    #[must_use]
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }

    /// Whether any call reaches a listener, so that one must be asked for when loading.
    #[must_use]
    pub fn notifies(&self) -> bool {
        self.notifies
    }
}

/// Compiles `plan`. The entry for another architecture, and x32's, kill the process.
///
/// # Errors
/// When the filter would be longer than the kernel accepts, or a rule has an argument or error number that does not exist.
pub fn compile(plan: &SeccompPlan) -> Result<Filter, FilterError> {
    check(plan)?;
    let mut builder = Builder::default();
    let tree = tree(&mut builder, &ranges(plan));
    let kill = builder.ret(Action::Kill);
    let known = match plan.arch {
        Arch::X86_64 => {
            let unknown = builder.ret(plan.unknown);
            let foreign = builder.if_equal(NO_CALL, unknown, kill);
            builder.if_at_least(X32_BIT, foreign, tree)
        }
        Arch::Aarch64 => tree,
    };
    let number = builder.load(build::NUMBER, known);
    let native = builder.if_equal(audit_arch(plan.arch), number, kill);
    builder.load(build::ARCH, native);
    let instructions = builder.finish();
    if instructions.len() > MAX_INSTRUCTIONS {
        return Err(FilterError::TooLong(instructions.len()));
    }
    let notifies = actions(plan).any(|action| matches!(action, Action::Refuse(_) | Action::Observe));
    Ok(Filter { instructions, notifies })
}

/// What `plan` says about one call, as the compiled filter would.
#[must_use]
pub fn evaluate(plan: &SeccompPlan, number: u32, arguments: &[u64; 6]) -> Action {
    if plan.arch == Arch::X86_64 && number >= X32_BIT {
        return if number == NO_CALL { plan.unknown } else { Action::Kill };
    }
    plan.action(number, arguments)
}

/// `AUDIT_ARCH_*`. Source: include/uapi/linux/audit.h.
fn audit_arch(arch: Arch) -> u32 {
    match arch {
        Arch::X86_64 => 0xC000_003E,
        Arch::Aarch64 => 0xC000_00B7,
    }
}

fn actions(plan: &SeccompPlan) -> impl Iterator<Item = Action> {
    let rules = plan.calls.values().flatten();
    rules.map(|rule| rule.action).chain([plan.unknown])
}

fn check(plan: &SeccompPlan) -> Result<(), FilterError> {
    for (&call, rules) in &plan.calls {
        for condition in rules.iter().flat_map(|rule| &rule.when) {
            if condition.arg > 5 {
                return Err(FilterError::NoSuchArgument { call, arg: condition.arg });
            }
        }
    }
    for action in actions(plan) {
        match action {
            // An error of 0 would skip the call and report success.
            Action::Errno(errno) | Action::Refuse(errno) if errno == 0 || errno > MAX_ERRNO => {
                return Err(FilterError::NoSuchErrno(errno));
            }
            _ => {}
        }
    }
    Ok(())
}

/// What to do with the numbers from one on, up to the next range's first.
#[derive(Clone, Copy, PartialEq)]
enum Leaf<'a> {
    Always(Action),
    Rules { rules: &'a [profiles::plan::CallRule], otherwise: Action },
}

fn ranges(plan: &SeccompPlan) -> Vec<(u32, Leaf<'_>)> {
    let unknown = Leaf::Always(plan.unknown);
    let mut ranges = vec![(0, unknown)];
    let mut push = |first: u32, leaf| match ranges.last_mut() {
        Some(last) if last.1 == leaf => {}
        Some(last) if last.0 == first => last.1 = leaf,
        _ => ranges.push((first, leaf)),
    };
    let mut next = 0;
    for (&number, rules) in &plan.calls {
        if number > next {
            push(next, unknown);
        }
        let leaf = match rules.iter().position(|rule| rule.when.is_empty()) {
            Some(0) => Leaf::Always(rules[0].action),
            Some(last) => Leaf::Rules { rules: &rules[..last], otherwise: rules[last].action },
            None if rules.is_empty() => unknown,
            None => Leaf::Rules { rules, otherwise: plan.unknown },
        };
        push(number, leaf);
        next = number.saturating_add(1);
    }
    push(next, unknown);
    ranges
}

fn tree(builder: &mut Builder, ranges: &[(u32, Leaf<'_>)]) -> Position {
    match ranges {
        [] => builder.ret(Action::Kill),
        [(_, Leaf::Always(action))] => builder.ret(*action),
        [(_, Leaf::Rules { rules, otherwise })] => {
            let mut next = builder.ret(*otherwise);
            for rule in rules.iter().rev() {
                let no = next;
                next = builder.ret(rule.action);
                for condition in rule.when.iter().rev() {
                    next = builder.test(condition, next, no);
                }
            }
            next
        }
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            let right = tree(builder, high);
            let left = tree(builder, low);
            builder.if_at_least(high[0].0, right, left)
        }
    }
}
