//! What the programs refused, as observations.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use profiles::Observation;
use profiles::plan::Wall;
use profiles::record::Verdict;
use serde::{Deserialize, Serialize};

use super::RING;
use super::programs::{CONNECTS, DENIAL};
use crate::observe::listening::{leave, left_open};
use crate::sys::bpf;
use crate::sys::ring::Ring;

/// Inode of the first process namespace. Source: `PROC_PID_INIT_INO`, include/linux/proc_ns.h.
const FIRST_NAMESPACE: &str = "pid:[4026531836]";

/// Longest command name, which the kernel cut.
const COMMAND: usize = 15;

/// The reader of one wall's denials.
#[derive(Debug)]
pub struct Denials {
    ring: Ring,
    lost: OwnedFd,
    /// Denials that found the ring full, and were told of already.
    told_lost: u64,
    cgroup: PathBuf,
    /// Whether process ids as the kernel counts them are this process's too.
    same_namespace: bool,
    /// Who was refused last: floods come from one process.
    last: Option<(Who, Identity)>,
}

/// Something that the programs refused, and who tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// What was refused. Of a process that was gone when it was looked for the program is the command name, cut by the kernel,
    /// and the id is known from Linux 6.10 on.
    pub observation: Observation,
    /// Id of the process in this one's process namespace, if it still ran when it was looked for.
    pub process: Option<u32>,
}

/// A process in the words of records.
#[derive(Debug, Clone, Default)]
struct Identity {
    process: Option<u32>,
    inner_pid: u32,
    program: String,
}

/// A process as the programs know it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Who {
    /// As the kernel counts, and as the container does; 0 where that is not known.
    process: u32,
    inner_pid: u32,
    command: String,
}

/// A reader, as it is left to another program of this process.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LeftDenials {
    ring: RawFd,
    lost: RawFd,
    told_lost: u64,
    cgroup: PathBuf,
}

impl Denials {
    pub(crate) fn leave(&self) -> io::Result<LeftDenials> {
        let (ring, lost) = (leave(self.ring.as_fd())?, leave(self.lost.as_fd())?);
        Ok(LeftDenials { ring, lost, told_lost: self.told_lost, cgroup: self.cgroup.clone() })
    }

    pub(crate) fn of_left(left: LeftDenials) -> io::Result<Self> {
        let ring = Ring::new(left_open(left.ring)?, RING as usize)?;
        let denials = Self::new(ring, left_open(left.lost)?, &left.cgroup);
        Ok(Self { told_lost: left.told_lost, ..denials })
    }

    pub(super) fn new(ring: Ring, lost: OwnedFd, cgroup: &Path) -> Self {
        let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        let same_namespace = namespace.as_os_str() == FIRST_NAMESPACE;
        Self { ring, lost, told_lost: 0, cgroup: cgroup.to_owned(), same_namespace, last: None }
    }

    /// The next denial, if there is one.
    pub(crate) fn take(&mut self) -> Option<Denial> {
        let bytes = self.ring.take::<DENIAL>()?;
        self.denial(&bytes)
    }

    /// How many more were refused than could be told of, since the last time this was asked.
    pub(crate) fn newly_lost(&mut self) -> u64 {
        let all = bpf::read_counter(self.lost.as_fd(), 0).unwrap_or(self.told_lost);
        let new = all.saturating_sub(self.told_lost);
        self.told_lost = all;
        new
    }

    fn denial(&mut self, bytes: &[u8; DENIAL]) -> Option<Denial> {
        let process = word(bytes, 0)?;
        // The upper half of the 64 bits is the process, the lower one the thread.
        let process = if cfg!(target_endian = "little") { word(bytes, 4)? } else { process };
        let address: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
        let port = u16::try_from(word(bytes, 24)?).ok()?;
        let kind = word(bytes, 28)?;
        let operation = if kind & CONNECTS == 0 { "sendmsg" } else { "connect" };
        let protocol = if kind & !CONNECTS == libc::IPPROTO_TCP.cast_unsigned() { "tcp" } else { "udp" };
        let command = bytes.get(32..48)?.split(|byte| *byte == 0).next()?;
        let command = String::from_utf8_lossy(command).into_owned();
        let who = Who { process, inner_pid: word(bytes, 52)?, command };
        let who = self.identity(who);
        let address = SocketAddr::new(IpAddr::from(Ipv6Addr::from(address)).to_canonical(), port);
        let observation = Observation {
            wall: Wall::Network,
            operation: operation.to_owned(),
            object: format!("{address}/{protocol}"),
            verdict: Verdict::Denied,
            errno: Some("EPERM".to_owned()),
            pid: who.inner_pid,
            program: who.program,
        };
        Some(Denial { observation, process: who.process })
    }

    fn identity(&mut self, who: Who) -> Identity {
        match &self.last {
            Some((last, identity)) if *last == who => identity.clone(),
            _ => {
                let gone =
                    || Identity { process: None, inner_pid: who.inner_pid, program: who.command.clone() };
                let identity = self.find(&who).unwrap_or_else(gone);
                self.last = Some((who, identity.clone()));
                identity
            }
        }
    }

    /// Who was refused, if it still runs. In a process namespace beneath the first one the kernel's number says nothing: there it
    /// is the process of the cgroup that has the container's number, or else the command name, if only one program has it.
    fn find(&self, who: &Who) -> Option<Identity> {
        use crate::observe::caller::Caller;
        let identity = |pid: u32| {
            let caller = Caller::new(pid);
            let (inner_pid, program) = (caller.inner_pid(), caller.program());
            (!program.is_empty()).then_some(Identity { process: Some(pid), inner_pid, program })
        };
        if self.same_namespace {
            return identity(who.process);
        }
        let all = fs::read_to_string(self.cgroup.join("cgroup.procs")).ok()?;
        let mut pids = all.lines().filter_map(|line| line.parse::<u32>().ok());
        if who.inner_pid != 0 {
            return pids.find(|pid| Caller::new(*pid).inner_pid() == who.inner_pid).and_then(identity);
        }
        let named = pids.filter(|pid| {
            let command = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            command.trim_end_matches('\n').bytes().take(COMMAND).eq(who.command.bytes())
        });
        let found: Vec<Identity> = named.filter_map(identity).collect();
        match &found[..] {
            [one] => Some(one.clone()),
            [one, others @ ..] => others
                .iter()
                .all(|other| other.program == one.program)
                .then(|| Identity { program: one.program.clone(), ..Identity::default() }),
            [] => None,
        }
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

impl AsFd for Denials {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}
