//! eBPF instructions, and jumps by label. Pure; no more of the instruction set than the programs beside this use.

use std::os::fd::RawFd;

/// One eBPF instruction, laid out as the kernel's `struct bpf_insn`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// A register: `R0` is what calls return, `R1` to `R5` their arguments (lost by the call), `R6` to `R9` survive it, `R10` is
/// the end of the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Register {
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    R10,
}

/// Bytes that a load or store moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Size {
    Word = 0x00,
    Byte = 0x10,
    Double = 0x18,
}

/// Arithmetic on 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Operation {
    Add = 0x00,
    Or = 0x40,
    And = 0x50,
    ShiftLeft = 0x60,
    ShiftRight = 0x70,
    Move = 0xb0,
}

/// When a jump is taken (unsigned, 64 bits).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum When {
    Equal = 0x10,
    Greater = 0x20,
    NotEqual = 0x50,
}

/// The kernel's functions. Source: `BPF_FUNC_*`, include/uapi/linux/bpf.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum Helper {
    MapLookup = 1,
    MapUpdate = 2,
    CurrentProcess = 14,
    CurrentCommand = 16,
    CurrentProcessIn = 120,
    RingOutput = 130,
}

/// A place to jump to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Label(usize);

/// A program in the making.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    instructions: Vec<Instruction>,
    /// Where each label is, once placed.
    labels: Vec<Option<usize>>,
    /// Instructions whose offset awaits a label.
    jumps: Vec<(usize, Label)>,
}

/// A label that was never placed, or lies too far away: the program's author erred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a jump of a network program leads nowhere")]
pub struct BadJump;

const LOAD: u8 = 0x61;
const STORE: u8 = 0x63;
const STORE_IMMEDIATE: u8 = 0x62;
const ATOMIC_DOUBLE: u8 = 0xdb;
const WIDE: u8 = 0x18;
const MAP_DESCRIPTOR: u8 = 1;
const TO_BIG_ENDIAN: u8 = 0xdc;
const FROM_REGISTER: u8 = 0x08;
const ARITHMETIC: u8 = 0x07;
const JUMP: u8 = 0x05;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;

impl Assembler {
    fn push(&mut self, code: u8, to: Register, from: u8, offset: i16, immediate: i32) -> &mut Self {
        let registers =
            if cfg!(target_endian = "little") { to as u8 | from << 4 } else { (to as u8) << 4 | from };
        self.instructions.push(Instruction { code, registers, offset, immediate });
        self
    }

    /// `to = *(from + offset)`
    pub(super) fn load(&mut self, size: Size, to: Register, from: Register, offset: i16) -> &mut Self {
        self.push(LOAD | size as u8, to, from as u8, offset, 0)
    }

    /// `*(to + offset) = from`
    pub(super) fn store(&mut self, size: Size, to: Register, offset: i16, from: Register) -> &mut Self {
        self.push(STORE | size as u8, to, from as u8, offset, 0)
    }

    /// `*(to + offset) = value`, of 32 bits
    pub(super) fn store_value(&mut self, to: Register, offset: i16, value: i32) -> &mut Self {
        self.push(STORE_IMMEDIATE, to, 0, offset, value)
    }

    /// `*(to + offset) += from`, of 64 bits, atomically
    pub(super) fn add_atomically(&mut self, to: Register, offset: i16, from: Register) -> &mut Self {
        self.push(ATOMIC_DOUBLE, to, from as u8, offset, 0)
    }

    /// `to = to OPERATION from`
    pub(super) fn with(&mut self, operation: Operation, to: Register, from: Register) -> &mut Self {
        self.push(ARITHMETIC | FROM_REGISTER | operation as u8, to, from as u8, 0, 0)
    }

    /// `to = to OPERATION value`
    pub(super) fn value(&mut self, operation: Operation, to: Register, value: i32) -> &mut Self {
        self.push(ARITHMETIC | operation as u8, to, 0, 0, value)
    }

    /// The lower 16 bits from network order to the machine's; the others become zero.
    pub(super) fn network_to_host(&mut self, register: Register) -> &mut Self {
        self.push(TO_BIG_ENDIAN, register, 0, 0, 16).value(Operation::And, register, 0xffff)
    }

    /// `to = map`
    pub(super) fn map(&mut self, to: Register, map: RawFd) -> &mut Self {
        self.push(WIDE, to, MAP_DESCRIPTOR, 0, map).push(0, Register::R0, 0, 0, 0)
    }

    /// `to = value`, of 64 bits
    pub(super) fn wide(&mut self, to: Register, value: u64) -> &mut Self {
        let (low, high) = ((value as u32).cast_signed(), ((value >> 32) as u32).cast_signed());
        self.push(WIDE, to, 0, 0, low).push(0, Register::R0, 0, 0, high)
    }

    /// `R0 = helper(R1, ...)`
    pub(super) fn call(&mut self, helper: Helper) -> &mut Self {
        self.push(CALL, Register::R0, 0, 0, helper as i32)
    }

    /// Ends the program with `value`.
    pub(super) fn exit(&mut self, value: i32) -> &mut Self {
        self.value(Operation::Move, Register::R0, value).push(EXIT, Register::R0, 0, 0, 0)
    }

    /// A label to be placed later.
    pub(super) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// Places a label here.
    pub(super) fn place(&mut self, Label(label): Label) -> &mut Self {
        let here = self.instructions.len();
        if let Some(place) = self.labels.get_mut(label) {
            *place = Some(here);
        }
        self
    }

    /// Goes on at `label`.
    pub(super) fn jump(&mut self, label: Label) -> &mut Self {
        self.jumps.push((self.instructions.len(), label));
        self.push(JUMP, Register::R0, 0, 0, 0)
    }

    /// Goes on at `label` if `register WHEN value`.
    pub(super) fn jump_if(&mut self, register: Register, when: When, value: i32, label: Label) -> &mut Self {
        self.jumps.push((self.instructions.len(), label));
        self.push(JUMP | when as u8, register, 0, 0, value)
    }

    /// Goes on at `label` if `register WHEN other`.
    pub(super) fn jump_if_than(
        &mut self,
        register: Register,
        when: When,
        other: Register,
        label: Label,
    ) -> &mut Self {
        self.jumps.push((self.instructions.len(), label));
        self.push(JUMP | FROM_REGISTER | when as u8, register, other as u8, 0, 0)
    }

    /// The program, jumps filled in.
    ///
    /// # Errors
    /// When a label was not placed, or lies too far.
    pub(super) fn finish(mut self) -> Result<Vec<Instruction>, BadJump> {
        for (at, Label(label)) in self.jumps {
            let to = self.labels.get(label).copied().flatten().ok_or(BadJump)?;
            let offset = to.cast_signed() - at.cast_signed() - 1;
            let jump = self.instructions.get_mut(at).ok_or(BadJump)?;
            jump.offset = offset.try_into().map_err(|_| BadJump)?;
        }
        Ok(self.instructions)
    }
}

#[cfg(test)]
mod tests {
    use super::Register::*;
    use super::*;

    #[test]
    fn jumps_count_from_the_instruction_after_them_and_must_lead_somewhere() {
        let mut program = Assembler::default();
        let (end, never) = (program.label(), program.label());
        program.jump_if(R0, When::Equal, 7, end).exit(1).place(end).exit(0);
        let finished = program.finish().unwrap();
        assert_eq!(finished[0], Instruction { code: 0x15, registers: 0, offset: 2, immediate: 7 });
        let mut lost = Assembler::default();
        lost.label();
        lost.label();
        lost.jump(never);
        assert_eq!(lost.finish(), Err(BadJump));
    }

    #[test]
    fn a_map_takes_two_instructions_and_stores_name_both_registers() {
        let mut program = Assembler::default();
        program.map(R1, 5).store(Size::Double, R10, -8, R6);
        let finished = program.finish().unwrap();
        assert_eq!((finished.len(), finished[0].code, finished[0].immediate), (3, 0x18, 5));
        if cfg!(target_endian = "little") {
            assert_eq!((finished[0].registers, finished[2].registers, finished[2].code), (0x11, 0x6a, 0x7b));
        }
    }
}
