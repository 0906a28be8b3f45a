//! What the programs refused, as observations.

use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use profiles::Observation;
use profiles::plan::Wall;
use profiles::record::Verdict;

use super::programs::{CONNECTS, DENIAL};
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
    last: Option<(Who, (u32, String))>,
}

/// A process as the programs know it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Who {
    process: u32,
    command: String,
}

impl Denials {
    pub(super) fn new(ring: Ring, lost: OwnedFd, cgroup: &Path) -> Self {
        let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        let same_namespace = namespace.as_os_str() == FIRST_NAMESPACE;
        Self { ring, lost, told_lost: 0, cgroup: cgroup.to_owned(), same_namespace, last: None }
    }

    /// The next denial, if there is one.
    pub(crate) fn take(&mut self) -> Option<Observation> {
        match self.ring.take::<DENIAL>() {
            Some(bytes) => self.observation(&bytes),
            None => None,
        }
    }

    /// How many more were refused than could be told of, since the last time this was asked.
    pub(crate) fn newly_lost(&mut self) -> u64 {
        let all = bpf::read_counter(self.lost.as_fd(), 0).unwrap_or(self.told_lost);
        let new = all.saturating_sub(self.told_lost);
        self.told_lost = all;
        new
    }

    fn observation(&mut self, bytes: &[u8; DENIAL]) -> Option<Observation> {
        let process = word(bytes, 0)?;
        // The upper half of the 64 bits is the process, the lower one the thread.
        let process = if cfg!(target_endian = "little") { word(bytes, 4)? } else { process };
        let address: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
        let port = u16::try_from(word(bytes, 24)?).ok()?;
        let kind = word(bytes, 28)?;
        let operation = if kind & CONNECTS == 0 { "sendmsg" } else { "connect" };
        let protocol = if kind & !CONNECTS == libc::IPPROTO_TCP.cast_unsigned() { "tcp" } else { "udp" };
        let command = bytes.get(32..)?.split(|byte| *byte == 0).next()?;
        let who = Who { process, command: String::from_utf8_lossy(command).into_owned() };
        let (pid, program) = self.identity(who);
        let address = SocketAddr::new(IpAddr::from(Ipv6Addr::from(address)).to_canonical(), port);
        Some(Observation {
            wall: Wall::Network,
            operation: operation.to_owned(),
            object: format!("{address}/{protocol}"),
            verdict: Verdict::Denied,
            errno: Some("EPERM".to_owned()),
            pid,
            program,
        })
    }

    fn identity(&mut self, who: Who) -> (u32, String) {
        match &self.last {
            Some((last, identity)) if *last == who => identity.clone(),
            _ => {
                let identity = self.find(&who).unwrap_or_else(|| (0, who.command.clone()));
                self.last = Some((who, identity.clone()));
                identity
            }
        }
    }

    /// Process id in the container and program of who was refused, if it still runs. In a process namespace beneath the first
    /// one the kernel's number says nothing: there it is the process of the cgroup that has the command name, if only one
    /// program has it.
    fn find(&self, who: &Who) -> Option<(u32, String)> {
        use crate::observe::caller::Caller;
        if self.same_namespace {
            let caller = Caller::new(who.process);
            return Some((caller.inner_pid(), caller.program())).filter(|(_, program)| !program.is_empty());
        }
        let all = fs::read_to_string(self.cgroup.join("cgroup.procs")).ok()?;
        let pids = all.lines().filter_map(|line| line.parse::<u32>().ok());
        let named = pids.filter(|pid| {
            let command = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            command.trim_end_matches('\n').bytes().take(COMMAND).eq(who.command.bytes())
        });
        let found: Vec<Caller> = named.map(Caller::new).collect();
        let program = found.first()?.program();
        match &found[..] {
            [one] => Some((one.inner_pid(), program)),
            [_, others @ ..] => others.iter().all(|other| other.program() == program).then_some((0, program)),
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
