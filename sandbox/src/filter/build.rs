//! Writes a program from its end to its beginning. Classic BPF jumps only forward, so every target is already
//! written when a jump to it is, and its distance is known: no labels, no second pass.

use profiles::plan::{Action, Compare, Condition};

use super::Instruction;

/// Offset of `nr` in `struct seccomp_data`. Source: include/uapi/linux/seccomp.h.
pub(super) const NUMBER: u32 = 0;
/// Offset of `arch`.
pub(super) const ARCH: u32 = 4;
/// Offset of `args`, eight bytes each, low word first (both architectures are little-endian).
const ARGUMENTS: u32 = 16;

// Source: include/uapi/linux/bpf_common.h.
pub(super) const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
pub(super) const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
pub(super) const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
pub(super) const IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
pub(super) const IF_GREATER: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
pub(super) const IF_AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
pub(super) const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// An instruction, counted from the program's end: 1 is the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position(usize);

/// The part of a program that is written, last instruction first.
#[derive(Default)]
pub(super) struct Builder(Vec<Instruction>);

impl Builder {
    /// The program, first instruction first, without those that nothing leads to.
    pub(super) fn finish(mut self) -> Vec<Instruction> {
        self.0.reverse();
        let all = self.0;
        let mut reached = vec![false; all.len()];
        if let Some(first) = reached.first_mut() {
            *first = true;
        }
        for (at, instruction) in all.iter().enumerate() {
            if reached[at] {
                for target in targets(at, instruction).into_iter().flatten() {
                    reached[target] = true;
                }
            }
        }
        // Where each instruction stands once the unreached ones are gone: distances only shrink.
        let places: Vec<usize> = reached
            .iter()
            .scan(0, |next, &is| Some(std::mem::replace(next, *next + usize::from(is))))
            .collect();
        let kept = all.iter().enumerate().filter(|(at, _)| reached[*at]);
        let moved = |at: usize, distance: usize| places[at + 1 + distance] - places[at] - 1;
        kept.map(|(at, &i)| match i.code {
            LOAD | AND | RETURN => i,
            JUMP => Instruction { k: moved(at, i.k as usize) as u32, ..i },
            _ => Instruction {
                jump_true: moved(at, i.jump_true.into()) as u8,
                jump_false: moved(at, i.jump_false.into()) as u8,
                ..i
            },
        })
        .collect()
    }

    /// An instruction that ends the filter with `action`: one within reach of a short jump, else a new one.
    pub(super) fn ret(&mut self, action: Action) -> Position {
        let k = return_value(action);
        let near = self.0.len().saturating_sub(128);
        let found = self.0[near..].iter().position(|i| i.code == RETURN && i.k == k);
        match found {
            Some(index) => Position(near + index + 1),
            None => self.push(Instruction { code: RETURN, jump_true: 0, jump_false: 0, k }),
        }
    }

    /// Loads the word at `offset` of `struct seccomp_data`, then goes on at `next`.
    pub(super) fn load(&mut self, offset: u32, next: Position) -> Position {
        self.then(LOAD, offset, next)
    }

    /// Compares the loaded word with `k`.
    pub(super) fn if_equal(&mut self, k: u32, yes: Position, no: Position) -> Position {
        self.branch(IF_EQUAL, k, yes, no)
    }

    /// Whether the loaded word is `k` or more (unsigned).
    pub(super) fn if_at_least(&mut self, k: u32, yes: Position, no: Position) -> Position {
        self.branch(IF_AT_LEAST, k, yes, no)
    }

    /// Tests one argument, 64 bits wide, in two halves.
    pub(super) fn test(&mut self, condition: &Condition, yes: Position, no: Position) -> Position {
        let value = condition.value;
        let arg = u32::from(condition.arg);
        match condition.op {
            Compare::Eq => self.masked(arg, u64::MAX, value, yes, no),
            Compare::Ne => self.masked(arg, u64::MAX, value, no, yes),
            Compare::MaskedEq { mask } => self.masked(arg, mask, value, yes, no),
            Compare::MaskedNe { mask } => self.masked(arg, mask, value, no, yes),
            Compare::Gt => self.ordered(arg, IF_GREATER, value, yes, no),
            Compare::Le => self.ordered(arg, IF_GREATER, value, no, yes),
            Compare::Ge => self.ordered(arg, IF_AT_LEAST, value, yes, no),
            Compare::Lt => self.ordered(arg, IF_AT_LEAST, value, no, yes),
        }
    }

    fn masked(&mut self, arg: u32, mask: u64, value: u64, yes: Position, no: Position) -> Position {
        if value & !mask != 0 {
            return no;
        }
        let [low_mask, high_mask] = halves(mask);
        let [low, high] = halves(value);
        let offset = ARGUMENTS + 8 * arg;
        let low = self.masked_word(offset, low_mask, low, yes, no);
        self.masked_word(offset + 4, high_mask, high, low, no)
    }

    fn masked_word(&mut self, offset: u32, mask: u32, value: u32, yes: Position, no: Position) -> Position {
        match mask {
            0 => yes,
            u32::MAX => {
                let yes = self.past_load(offset, yes);
                let no = self.past_load(offset, no);
                let compare = self.if_equal(value, yes, no);
                self.load(offset, compare)
            }
            mask => {
                let compare = self.if_equal(value, yes, no);
                let masked = self.then(AND, mask, compare);
                self.load(offset, masked)
            }
        }
    }

    fn ordered(&mut self, arg: u32, code: u16, value: u64, yes: Position, no: Position) -> Position {
        let [low, high] = halves(value);
        let offset = ARGUMENTS + 8 * arg;
        let compare = self.branch(code, low, yes, no);
        let low = self.load(offset, compare);
        let equal = self.if_equal(high, low, no);
        let greater = self.branch(IF_GREATER, high, yes, equal);
        self.load(offset + 4, greater)
    }

    /// Where the word at `offset` is loaded already, a load of it can be skipped.
    fn past_load(&self, offset: u32, target: Position) -> Position {
        match self.at(target) {
            Some(Instruction { code: LOAD, k, .. }) if *k == offset => Position(target.0 - 1),
            _ => target,
        }
    }

    fn at(&self, position: Position) -> Option<&Instruction> {
        self.0.get(position.0.wrapping_sub(1))
    }

    fn push(&mut self, instruction: Instruction) -> Position {
        self.0.push(instruction);
        Position(self.0.len())
    }

    /// An instruction that does not jump, and goes on at `next`.
    fn then(&mut self, code: u16, k: u32, next: Position) -> Position {
        if next.0 != self.0.len() {
            self.bridge(next);
        }
        self.push(Instruction { code, jump_true: 0, jump_false: 0, k })
    }

    /// A conditional jump. Its distances have eight bits: what is farther away is reached over a bridge.
    fn branch(&mut self, code: u16, k: u32, mut yes: Position, mut no: Position) -> Position {
        if yes == no {
            return yes;
        }
        loop {
            match (self.distance(yes), self.distance(no)) {
                (Some(jump_true), Some(jump_false)) => {
                    return self.push(Instruction { code, jump_true, jump_false, k });
                }
                (None, _) => yes = self.bridge(yes),
                (_, None) => no = self.bridge(no),
            }
        }
    }

    /// Instructions between the next one to be written and `target`, if eight bits hold it.
    fn distance(&self, target: Position) -> Option<u8> {
        u8::try_from(self.0.len() - target.0).ok()
    }

    /// One instruction here that does what jumping to `target` would.
    fn bridge(&mut self, target: Position) -> Position {
        match self.at(target) {
            Some(&end) if end.code == RETURN => self.push(end),
            _ => {
                // A program longer than 32 bits can count does not fit in memory; the cast cannot lose anything.
                let k = (self.0.len() - target.0) as u32;
                self.push(Instruction { code: JUMP, jump_true: 0, jump_false: 0, k })
            }
        }
    }
}

/// Where control goes from the instruction at `at`.
fn targets(at: usize, instruction: &Instruction) -> [Option<usize>; 2] {
    let after = |distance: usize| Some(at + 1 + distance);
    match instruction.code {
        RETURN => [None, None],
        LOAD | AND => [after(0), None],
        JUMP => [after(instruction.k as usize), None],
        _ => [after(instruction.jump_true.into()), after(instruction.jump_false.into())],
    }
}

/// Low word, high word.
fn halves(value: u64) -> [u32; 2] {
    [value as u32, (value >> 32) as u32]
}

/// Source: `SECCOMP_RET_*`, include/uapi/linux/seccomp.h.
pub(super) fn return_value(action: Action) -> u32 {
    match action {
        Action::Allow => libc::SECCOMP_RET_ALLOW,
        Action::Errno(errno) => libc::SECCOMP_RET_ERRNO | u32::from(errno),
        Action::Refuse(_) | Action::Observe => libc::SECCOMP_RET_USER_NOTIF,
        Action::Kill => libc::SECCOMP_RET_KILL_PROCESS,
        Action::Log => libc::SECCOMP_RET_LOG,
        Action::Trap => libc::SECCOMP_RET_TRAP,
    }
}
