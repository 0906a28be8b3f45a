//! The programs. Each looks one address and port up, in time that does not depend on how much was declared.

use std::io;
use std::os::fd::RawFd;
use std::path::Path;

use nix::sys::stat::stat;
use nix::unistd::Pid;

use super::assembler::Operation::{Add, And, Move, Or, ShiftLeft, ShiftRight};
use super::assembler::Register::{R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10};
use super::assembler::When::{Equal, Greater, NotEqual};
use super::assembler::{Assembler, BadJump, Helper, Instruction, Label, Size};
use super::tables::UDP_BITS;
use crate::sys::bpf::Hook;

/// Members of `struct bpf_sock_addr`, in bytes from its beginning. Source of these and below: include/uapi/linux/bpf.h.
mod address {
    pub(super) const IP4: i16 = 4;
    pub(super) const IP6: i16 = 8;
    pub(super) const PORT: i16 = 24;
    pub(super) const PROTOCOL: i16 = 36;
    pub(super) const SOCKET: i16 = 64;
}

/// Member of `struct bpf_sock`, in the machine's order.
const LOCAL_PORT: i16 = 44;

/// Members of `struct __sk_buff`.
mod packet {
    pub(super) const DATA: i16 = 76;
    pub(super) const DATA_END: i16 = 80;
}

const TCP: i32 = libc::IPPROTO_TCP;
const UDP: i32 = libc::IPPROTO_UDP;

/// Places on the stack, from its end.
mod stack {
    /// Key of networks and peers: a word, then the address.
    pub(super) const KEY: i16 = -24;
    pub(super) const ADDRESS: i16 = KEY + 4;
    /// Key of sets, and a value of peers.
    pub(super) const INDEX: i16 = -28;
    pub(super) const DENIAL: i16 = -88;
}

/// A denial as the programs write it: `u64` process and thread, 16 bytes address, `u32` port, `u32` protocol and flags, 16
/// bytes command name; `u32` thread, `u32` process as the container counts them, or zeroes.
pub(super) const DENIAL: usize = 56;

/// Flag of a denial: a connect(2), not a datagram.
pub(super) const CONNECTS: u32 = 1 << 16;

/// Bytes of keys of networks (prefix length, address) and of peers (ports, address).
pub(super) const KEY: u32 = 20;

/// The maps that the programs use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Maps {
    pub(super) networks: RawFd,
    pub(super) sets: RawFd,
    pub(super) denials: RawFd,
    pub(super) lost: RawFd,
    /// Who wrote to declared UDP ports, where there are any.
    pub(super) peers: Option<RawFd>,
    /// By whose count denials name processes besides the kernel's own.
    pub(super) processes: Option<ProcessNamespace>,
}

/// A process namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessNamespace {
    device: u64,
    inode: u64,
}

impl ProcessNamespace {
    /// That of a process.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn of(pid: Pid) -> io::Result<Self> {
        let namespace = stat(Path::new(&format!("/proc/{pid}/ns/pid")))?;
        Ok(Self { device: namespace.st_dev, inode: namespace.st_ino })
    }
}

/// The program of one hook; `raw` lets ping sockets through, which have no ports.
pub(super) fn program(hook: Hook, maps: Maps, raw: bool) -> Result<Vec<Instruction>, BadJump> {
    match hook {
        Hook::Bind4 | Hook::Bind6 => bind(maps),
        Hook::Connect4 | Hook::Connect6 | Hook::Send4 | Hook::Send6 => reach(hook, maps, raw),
        Hook::Receive4 | Hook::Receive6 => receive(hook, maps),
        Hook::Egress => egress(),
    }
}

/// Keeps the context in R6, and puts the port into R7, the protocol into R8.
fn begin(program: &mut Assembler) {
    program.with(Move, R6, R1);
    program.load(Size::Word, R7, R6, address::PORT).network_to_host(R7);
    program.load(Size::Word, R8, R6, address::PROTOCOL);
}

/// Puts the address onto the stack, IPv4 in IPv6 form.
fn store_address(program: &mut Assembler, hook: Hook) {
    if matches!(hook, Hook::Connect4 | Hook::Send4 | Hook::Receive4) {
        let mapped = 0xffff_u32.to_be().cast_signed();
        program.store_value(R10, stack::ADDRESS, 0).store_value(R10, stack::ADDRESS + 4, 0);
        program.store_value(R10, stack::ADDRESS + 8, mapped);
        program.load(Size::Word, R1, R6, address::IP4).store(Size::Word, R10, stack::ADDRESS + 12, R1);
    } else {
        for word in 0..4 {
            program.load(Size::Word, R1, R6, address::IP6 + 4 * word);
            program.store(Size::Word, R10, stack::ADDRESS + 4 * word, R1);
        }
    }
}

fn look_up(program: &mut Assembler, map: RawFd, key: i16) {
    program.map(R1, map).with(Move, R2, R10).value(Add, R2, key.into()).call(Helper::MapLookup);
}

/// Puts into R9 where the bits of R8's protocol begin; goes to `other` if it is neither TCP nor UDP.
fn bits_of_protocol(program: &mut Assembler, other: Label) {
    let known = program.label();
    program.value(Move, R9, 0).jump_if(R8, Equal, TCP, known);
    program.jump_if(R8, NotEqual, UDP, other).value(Move, R9, UDP_BITS).place(known);
}

/// Looks the set up whose number is on the stack, and goes to `yes` if it has R7's port; R9 says where bits begin.
fn look_into_set(program: &mut Assembler, maps: Maps, yes: Label, no: Label) {
    look_up(program, maps.sets, stack::INDEX);
    program.jump_if(R0, Equal, 0, no);
    program.with(Move, R1, R7).value(ShiftRight, R1, 3).with(Add, R1, R9).with(Add, R0, R1);
    program.load(Size::Byte, R1, R0, 0).with(Move, R2, R7).value(And, R2, 7);
    program.with(ShiftRight, R1, R2).value(And, R1, 1).jump_if(R1, NotEqual, 0, yes).jump(no);
}

/// A port may be bound if the first set has it.
fn bind(maps: Maps) -> Result<Vec<Instruction>, BadJump> {
    let mut program = Assembler::default();
    let (yes, no) = (program.label(), program.label());
    begin(&mut program);
    bits_of_protocol(&mut program, no);
    program.store_value(R10, stack::INDEX, 0);
    look_into_set(&mut program, maps, yes, no);
    program.place(yes).exit(1).place(no).exit(0);
    program.finish()
}

/// An address may be reached if the set of its longest network has the port, or if it wrote to the socket's declared port.
fn reach(hook: Hook, maps: Maps, raw: bool) -> Result<Vec<Instruction>, BadJump> {
    let mut program = Assembler::default();
    let (yes, no, refuse) = (program.label(), program.label(), program.label());
    begin(&mut program);
    store_address(&mut program, hook);
    program.store_value(R10, stack::KEY, 128);
    let portless = program.label();
    bits_of_protocol(&mut program, portless);
    look_up(&mut program, maps.networks, stack::KEY);
    program.jump_if(R0, Equal, 0, no).load(Size::Word, R1, R0, 0).store(Size::Word, R10, stack::INDEX, R1);
    look_into_set(&mut program, maps, yes, no);
    program.place(no);
    let sends = matches!(hook, Hook::Send4 | Hook::Send6);
    let told = program.label();
    if let Some(peers) = maps.peers {
        let stranger = program.label();
        peer_key(&mut program, stranger);
        look_up(&mut program, peers, stack::KEY);
        program.jump_if(R0, NotEqual, 0, yes);
        if !sends {
            // Of a declared server everything is told: it has no reason to ask where it may connect.
            let (server, other) = (program.label(), program.label());
            local_port_in_first_set(&mut program, maps, server, other);
            for (place, next) in [(server, told), (other, stranger)] {
                program.place(place).load(Size::Word, R7, R10, stack::KEY).value(And, R7, 0xffff).jump(next);
            }
        }
        program.place(stranger);
    }
    if !sends {
        leave_untold(&mut program, maps, refuse, told);
    }
    program.place(told);
    tell(&mut program, maps, if sends { 0 } else { CONNECTS });
    program.jump(refuse).place(portless);
    if raw {
        program.jump_if(R8, Equal, libc::IPPROTO_ICMP, yes).jump_if(R8, Equal, libc::IPPROTO_ICMPV6, yes);
    }
    program.place(refuse).exit(0).place(yes).exit(1);
    program.finish()
}

/// Goes to `refuse` with a connect(2) of a UDP socket of which nothing is to be told, with others to `told`: resolvers sort
/// addresses by connecting UDP sockets to where TCP will be, send nothing, and do without; and port 0, where nothing is, is how
/// a process of the runtime's makes sure that the wall stands.
fn leave_untold(program: &mut Assembler, maps: Maps, refuse: Label, told: Label) {
    program.jump_if(R8, NotEqual, UDP, told).jump_if(R7, Equal, 0, refuse);
    program.store_value(R10, stack::KEY, 128);
    look_up(program, maps.networks, stack::KEY);
    program.jump_if(R0, Equal, 0, told).load(Size::Word, R1, R0, 0).store(Size::Word, R10, stack::INDEX, R1);
    // TCP's bits come first.
    program.value(Move, R9, 0);
    look_into_set(program, maps, refuse, told);
}

/// Puts onto the stack the key of the peer at the address there and R7's port, of the socket's own port, which stays in R9;
/// goes to `none` if the socket is not UDP's.
fn peer_key(program: &mut Assembler, none: Label) {
    program.jump_if(R8, NotEqual, UDP, none);
    program.load(Size::Double, R1, R6, address::SOCKET).jump_if(R1, Equal, 0, none);
    program.load(Size::Word, R9, R1, LOCAL_PORT).value(And, R9, 0xffff);
    program.with(Move, R1, R9).value(ShiftLeft, R1, 16).with(Or, R1, R7);
    program.store(Size::Word, R10, stack::KEY, R1);
}

/// Looks whether the socket's own port, in R9, may be bound; loses R7.
fn local_port_in_first_set(program: &mut Assembler, maps: Maps, yes: Label, no: Label) {
    program.with(Move, R7, R9).value(Move, R9, UDP_BITS).store_value(R10, stack::INDEX, 0);
    // Port 0 is the first set's too, and stands for a socket that has none yet.
    program.jump_if(R7, Equal, 0, no);
    look_into_set(program, maps, yes, no);
}

/// Writes a denial to the ring, or counts it if the ring is full. `flags` go with the protocol.
fn tell(program: &mut Assembler, maps: Maps, flags: u32) {
    let told = program.label();
    program.call(Helper::CurrentProcess).store(Size::Double, R10, stack::DENIAL, R0);
    for word in 0..4 {
        program.load(Size::Word, R1, R10, stack::ADDRESS + 4 * word);
        program.store(Size::Word, R10, stack::DENIAL + 8 + 4 * word, R1);
    }
    program.value(Or, R8, flags.cast_signed());
    program.store(Size::Word, R10, stack::DENIAL + 24, R7).store(Size::Word, R10, stack::DENIAL + 28, R8);
    program.with(Move, R1, R10).value(Add, R1, (stack::DENIAL + 32).into()).value(Move, R2, 16);
    program.call(Helper::CurrentCommand);
    let own = stack::DENIAL + 48;
    match maps.processes {
        Some(ProcessNamespace { device, inode }) => {
            program.wide(R1, device).wide(R2, inode).with(Move, R3, R10).value(Add, R3, own.into());
            // It fills with zeroes where the process is in another namespace still.
            program.value(Move, R4, 8).call(Helper::CurrentProcessIn);
        }
        None => {
            program.store_value(R10, own, 0).store_value(R10, own + 4, 0);
        }
    }
    program.map(R1, maps.denials).with(Move, R2, R10).value(Add, R2, stack::DENIAL.into());
    program.value(Move, R3, DENIAL as i32).value(Move, R4, 0).call(Helper::RingOutput);
    program.jump_if(R0, Equal, 0, told).store_value(R10, stack::INDEX, 0);
    look_up(program, maps.lost, stack::INDEX);
    program.jump_if(R0, Equal, 0, told).value(Move, R1, 1).add_atomically(R0, 0, R1).place(told);
}

/// Remembers who wrote to a declared UDP port. These hooks cannot refuse.
fn receive(hook: Hook, maps: Maps) -> Result<Vec<Instruction>, BadJump> {
    let mut program = Assembler::default();
    let (declared, done) = (program.label(), program.label());
    begin(&mut program);
    if let Some(peers) = maps.peers {
        store_address(&mut program, hook);
        peer_key(&mut program, done);
        local_port_in_first_set(&mut program, maps, declared, done);
        program.place(declared);
        look_up(&mut program, peers, stack::KEY);
        program.jump_if(R0, NotEqual, 0, done).store_value(R10, stack::INDEX, 1);
        program.map(R1, peers).with(Move, R2, R10).value(Add, R2, stack::KEY.into());
        program.with(Move, R3, R10).value(Add, R3, stack::INDEX.into()).value(Move, R4, 0);
        program.call(Helper::MapUpdate);
    }
    program.place(done).exit(1);
    program.finish()
}

/// Packets are TCP's or UDP's, whatever a socket without hooks of its own (UDP-Lite) would send, and go to their address by
/// no other way: IPv4 options and IPv6 routing headers, which name stations on it, are dropped. Before TCP, IPv6 may have the
/// header of jumbograms.
fn egress() -> Result<Vec<Instruction>, BadJump> {
    /// Version 4, a header of five words.
    const IPV4_PLAIN: i32 = 0x45;
    const IPV4_PROTOCOL: i16 = 9;
    const IPV6_NEXT: i16 = 6;
    const IPV6_HEADER: i16 = 40;
    let mut program = Assembler::default();
    let (six, protocol, yes, no) = (program.label(), program.label(), program.label(), program.label());
    program.load(Size::Word, R2, R1, packet::DATA).load(Size::Word, R3, R1, packet::DATA_END);
    program.with(Move, R4, R2).value(Add, R4, 20).jump_if_than(R4, Greater, R3, no);
    program.load(Size::Byte, R5, R2, 0).jump_if(R5, NotEqual, IPV4_PLAIN, six);
    program.load(Size::Byte, R5, R2, IPV4_PROTOCOL).jump(protocol);
    program.place(six).value(ShiftRight, R5, 4).jump_if(R5, NotEqual, 6, no);
    program.load(Size::Byte, R5, R2, IPV6_NEXT).jump_if(R5, NotEqual, libc::IPPROTO_HOPOPTS, protocol);
    program.with(Move, R4, R2).value(Add, R4, (IPV6_HEADER + 8).into()).jump_if_than(R4, Greater, R3, no);
    program.load(Size::Byte, R5, R2, IPV6_HEADER).jump_if(R5, Equal, TCP, yes).jump(no);
    program.place(protocol).jump_if(R5, Equal, TCP, yes).jump_if(R5, Equal, UDP, yes);
    program.place(no).exit(0).place(yes).exit(1);
    program.finish()
}
