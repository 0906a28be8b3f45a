//! bpf(2): maps, programs, and attaching them to a cgroup.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::descriptors::from_syscall;
use crate::network::assembler::Instruction;

/// Commands. Source of these and all numbers below: include/uapi/linux/bpf.h.
const MAP_CREATE: libc::c_long = 0;
const MAP_LOOKUP_ELEM: libc::c_long = 1;
const MAP_UPDATE_ELEM: libc::c_long = 2;
const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;

/// `BPF_F_ALLOW_MULTI`: runs beside the programs of the cgroups above, and lets those beneath add theirs; each may refuse.
const ALLOW_MULTI: u32 = 2;

/// Longest account of the verifier that is asked for, in bytes.
const LONGEST_LOG: usize = 1 << 16;

/// Kinds of maps that are used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum MapType {
    Array = 2,
    LruHash = 9,
    LpmTrie = 11,
    RingBuffer = 27,
}

/// Where a program is attached to; says its type too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Hook {
    Egress = 1,
    Bind4 = 8,
    Bind6 = 9,
    Connect4 = 10,
    Connect6 = 11,
    Send4 = 14,
    Send6 = 15,
    Receive4 = 19,
    Receive6 = 20,
}

impl Hook {
    /// `BPF_PROG_TYPE_CGROUP_SKB` or `BPF_PROG_TYPE_CGROUP_SOCK_ADDR`.
    fn program_type(self) -> u32 {
        if self == Self::Egress { 8 } else { 18 }
    }
}

/// A map's shape.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) kind: MapType,
    pub(crate) key: u32,
    pub(crate) value: u32,
    pub(crate) entries: u32,
}

#[repr(C)]
#[derive(Default)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map: u32,
    numa_node: u32,
    name: [u8; 16],
}

#[repr(C)]
#[derive(Default)]
struct Element {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct ProgramLoad {
    program_type: u32,
    length: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    expected_attach_type: u32,
}

#[repr(C)]
#[derive(Default)]
struct Attach {
    target: u32,
    program: u32,
    hook: u32,
    flags: u32,
}

/// # Safety
/// `attributes` is what `command` reads, and every address in it is of memory of the length that goes with it, readable or
/// writable as the command needs, until this returns.
unsafe fn bpf<T>(command: libc::c_long, attributes: &mut T) -> libc::c_long {
    // SAFETY: the kernel reads and writes no more than the size that it is given; the caller vouches for the rest.
    unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) }
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// At most 15 characters of letters, digits and `_`, which is what the kernel takes for a name.
fn name(text: &str) -> [u8; 16] {
    let mut name = [0; 16];
    for (to, from) in name.iter_mut().take(15).zip(text.bytes()) {
        *to = from;
    }
    name
}

/// Makes a map.
pub(crate) fn make_map(text: &str, shape: Shape) -> io::Result<OwnedFd> {
    /// `BPF_F_NO_PREALLOC`, which a trie demands.
    const NO_PREALLOC: u32 = 1;
    let mut attributes = MapCreate {
        map_type: shape.kind as u32,
        key_size: shape.key,
        value_size: shape.value,
        max_entries: shape.entries,
        map_flags: if shape.kind == MapType::LpmTrie { NO_PREALLOC } else { 0 },
        name: name(text),
        ..MapCreate::default()
    };
    // SAFETY: MAP_CREATE reads this structure, which holds no address, and returns a new descriptor or -1.
    unsafe { from_syscall(bpf(MAP_CREATE, &mut attributes)) }
}

/// Writes one element. Key and value must be as long as the map's shape says, which the caller's arrays are.
pub(crate) fn update<const K: usize>(
    map: BorrowedFd<'_>,
    shape: Shape,
    key: &[u8; K],
    value: &[u8],
) -> io::Result<()> {
    if K as u64 != u64::from(shape.key) || value.len() as u64 != u64::from(shape.value) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut attributes = Element {
        map: number(map),
        key: key.as_ptr() as u64,
        value: value.as_ptr() as u64,
        ..Element::default()
    };
    // SAFETY: the kernel reads a key and a value of the map's sizes, which are those of the two slices: looked at above.
    match unsafe { bpf(MAP_UPDATE_ELEM, &mut attributes) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Reads the number at `index` of an array of 64-bit numbers. `map` must be such an array.
pub(crate) fn read_counter(map: BorrowedFd<'_>, index: u32) -> io::Result<u64> {
    let mut value = [0u64; 1];
    let mut attributes = Element {
        map: number(map),
        key: std::ptr::from_ref(&index) as u64,
        value: value.as_mut_ptr() as u64,
        ..Element::default()
    };
    // SAFETY: an array's key is four bytes, and this array's value eight: the sizes of the two that are pointed to.
    match unsafe { bpf(MAP_LOOKUP_ELEM, &mut attributes) } {
        0 => Ok(value[0]),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has the verifier check a program and takes it in. The error says what the verifier said last.
pub(crate) fn load(text: &str, hook: Hook, program: &[Instruction]) -> io::Result<OwnedFd> {
    match load_with(text, hook, program, &mut []) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EACCES)) => {
            let mut log = vec![0; LONGEST_LOG];
            load_with(text, hook, program, &mut log).map_err(|_| explained(&error, &log))
        }
        loaded => loaded,
    }
}

fn load_with(text: &str, hook: Hook, program: &[Instruction], log: &mut [u8]) -> io::Result<OwnedFd> {
    /// Nothing that these programs call asks for more.
    const LICENSE: &CStr = c"Apache-2.0";
    let mut attributes = ProgramLoad {
        program_type: hook.program_type(),
        length: program.len().try_into().map_err(io::Error::other)?,
        instructions: program.as_ptr() as u64,
        license: LICENSE.as_ptr() as u64,
        log_level: u32::from(!log.is_empty()),
        log_size: log.len().try_into().map_err(io::Error::other)?,
        log: if log.is_empty() { 0 } else { log.as_mut_ptr() as u64 },
        name: name(text),
        expected_attach_type: hook as u32,
        ..ProgramLoad::default()
    };
    // SAFETY: `length` instructions of the kernel's layout are read, a string that ends in NUL is read, and at most
    // `log_size` bytes of `log` are written; a new descriptor or -1 is returned.
    unsafe { from_syscall(bpf(PROG_LOAD, &mut attributes)) }
}

fn explained(error: &io::Error, log: &[u8]) -> io::Error {
    let text = String::from_utf8_lossy(log.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned();
    let said: Vec<&str> = text.lines().rev().filter(|line| !line.starts_with("processed")).take(3).collect();
    io::Error::new(error.kind(), format!("{error}; the verifier said: {}", said.join(" | ")))
}

/// Attaches a program to a cgroup: for the cgroup's life, whatever becomes of this process.
pub(crate) fn attach(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>, hook: Hook) -> io::Result<()> {
    let mut attributes =
        Attach { target: number(cgroup), program: number(program), hook: hook as u32, flags: ALLOW_MULTI };
    // SAFETY: PROG_ATTACH reads this structure, which holds no address.
    match unsafe { bpf(PROG_ATTACH, &mut attributes) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
