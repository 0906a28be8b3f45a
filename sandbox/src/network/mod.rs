//! The network wall by cgroup-BPF programs: TCP and UDP, IPv4 and IPv6, whichever call a process takes.
//!
//! Sockets belong for their life to the cgroup in which they were made, and programs that are attached to it stay for as
//! long as it is there: neither needs a process of ours.

pub(crate) mod assembler;
mod denials;
mod programs;
mod tables;

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, connect, socket};
use profiles::intent::Protocol;
use profiles::plan::SocketPlan;

pub use assembler::BadJump;
pub(crate) use denials::LeftDenials;
pub use denials::{Denial, Denials};
pub use programs::ProcessNamespace;
pub use tables::TooMuch;

use crate::paths::Root;
use crate::sys::bpf::{self, Hook, MapType, Shape};
use crate::sys::ring::Ring;
use programs::Maps;
use tables::{SET, Tables};

/// Size of the ring of denials, in bytes: some 1,100 of them, which the observer reads as they come. Kernels with pages of 64 KiB
/// take it too.
const RING: u32 = 1 << 16;

/// Most peers of a UDP server that are remembered; those longest unheard of are forgotten first.
const MAX_PEERS: u32 = 8192;

/// More of a resolv.conf is not read; resolvers use the first three servers.
const LONGEST_RESOLV_CONF: u64 = 1 << 16;

/// Programs that are loaded and not yet attached to anything.
#[derive(Debug)]
#[must_use = "nothing is enforced yet"]
pub struct NetworkWall {
    programs: Vec<(Hook, OwnedFd)>,
    denials: Ring,
    lost: OwnedFd,
}

/// Why the network wall cannot be raised, or does not hold.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// It does not fit.
    #[error(transparent)]
    TooMuch(#[from] TooMuch),
    /// A program was put together wrongly.
    #[error(transparent)]
    BadJump(#[from] BadJump),
    /// The kernel does not take a map or program.
    #[error("cannot {operation} for the network wall")]
    Kernel {
        /// What was tried.
        operation: &'static str,
        /// Cause.
        source: io::Error,
    },
    /// The programs cannot be attached.
    #[error("cannot attach the network wall to the cgroup {cgroup}")]
    Attach {
        /// The cgroup's folder.
        cgroup: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// A connection that no wall lets through went through.
    #[error(
        "the network wall does not hold: a connection to port 0 was not refused ({0}); on kernels before 5.15 a net_cls or net_prio cgroup switches it off"
    )]
    DoesNotHold(String),
}

impl NetworkWall {
    /// Loads the programs of a plan; `servers` are the container's name servers, `processes` is its process namespace, by
    /// which denials name who was refused from Linux 6.10 on. Raises this process's soft limit of locked memory, so that it is
    /// not for one that becomes a container's.
    ///
    /// # Errors
    /// When the plan does not fit, or the kernel refuses.
    pub fn load(
        plan: &SocketPlan,
        servers: &[IpAddr],
        processes: ProcessNamespace,
    ) -> Result<Self, NetworkError> {
        let tables = Tables::of(plan, servers)?;
        raise_locked_memory().map_err(|errno| kernel("raise the limit of locked memory")(errno.into()))?;
        let answers = plan.bind.iter().any(|ports| ports.protocol == Protocol::Udp && ports.last > 0);
        let maps = OwnedMaps::filled(&tables, answers)?;
        let load = |(name, hook), processes| {
            let program = programs::program(hook, Maps { processes, ..maps.descriptors() }, plan.raw)?;
            Ok((hook, bpf::load(name, hook, &program).map_err(kernel("load a program"))?))
        };
        let load = |processes| hooks(answers, plan.raw).map(|hook| load(hook, processes)).collect();
        let programs: Result<_, NetworkError> = load(Some(processes));
        // Kernels before 6.10 do not let these programs ask for it: `EINVAL`.
        let programs = programs.or_else(|_| load(None))?;
        let denials = Ring::new(maps.denials, RING as usize).map_err(kernel("read the ring of denials"))?;
        Ok(Self { programs, denials, lost: maps.lost })
    }

    /// Attaches the programs to a cgroup of the v2 hierarchy, for its life: every socket that is made in it from now on
    /// is behind the wall.
    ///
    /// # Errors
    /// When the kernel refuses; the cgroup may then have some of the programs, and must not be used.
    pub fn attach(self, cgroup: &Path) -> Result<Denials, NetworkError> {
        let failed = |source| NetworkError::Attach { cgroup: cgroup.to_owned(), source };
        let folder = File::open(cgroup).map_err(failed)?;
        for (hook, program) in &self.programs {
            bpf::attach(folder.as_fd(), program.as_fd(), *hook).map_err(failed)?;
        }
        Ok(Denials::new(self.denials, self.lost, cgroup))
    }
}

fn kernel(operation: &'static str) -> impl FnOnce(io::Error) -> NetworkError + Copy {
    move |source| NetworkError::Kernel { operation, source }
}

/// The maps; loaded programs hold them open for themselves.
struct OwnedMaps {
    networks: OwnedFd,
    sets: OwnedFd,
    denials: OwnedFd,
    lost: OwnedFd,
    peers: Option<OwnedFd>,
}

impl OwnedMaps {
    /// `answers`: whether there is a UDP server, whose peers are to be remembered.
    fn filled(tables: &Tables, answers: bool) -> Result<Self, NetworkError> {
        let make = |name, shape| bpf::make_map(name, shape).map_err(kernel("make a map"));
        let array = |value, entries| Shape { kind: MapType::Array, key: 4, value, entries };
        let keyed = |kind, entries| Shape { kind, key: programs::KEY, value: 4, entries };
        let networks = keyed(MapType::LpmTrie, count(&tables.networks));
        let sets = array(SET as u32, count(&tables.sets));
        let ring = Shape { kind: MapType::RingBuffer, key: 0, value: 0, entries: RING };
        let peers = keyed(MapType::LruHash, MAX_PEERS);
        let maps = Self {
            networks: make("keep_networks", networks)?,
            sets: make("keep_ports", sets)?,
            denials: make("keep_denials", ring)?,
            lost: make("keep_lost", array(8, 1))?,
            peers: answers.then(|| make("keep_peers", peers)).transpose()?,
        };
        for (index, ports) in (0_u32..).zip(&tables.sets) {
            bpf::update(maps.sets.as_fd(), sets, &index.to_ne_bytes(), &tables::bitmap(ports))
                .map_err(kernel("fill the ports"))?;
        }
        for network in &tables.networks {
            let mut key = [0; programs::KEY as usize];
            key[..4].copy_from_slice(&u32::from(network.prefix).to_ne_bytes());
            key[4..].copy_from_slice(&network.address);
            bpf::update(maps.networks.as_fd(), networks, &key, &network.set.to_ne_bytes())
                .map_err(kernel("fill the networks"))?;
        }
        Ok(maps)
    }

    fn descriptors(&self) -> Maps {
        Maps {
            networks: self.networks.as_raw_fd(),
            sets: self.sets.as_raw_fd(),
            denials: self.denials.as_raw_fd(),
            lost: self.lost.as_raw_fd(),
            peers: self.peers.as_ref().map(AsRawFd::as_raw_fd),
            processes: None,
        }
    }
}

/// What a plan needs: those that watch receiving only where a server is to answer; raw sockets may send what they like.
fn hooks(answers: bool, raw: bool) -> impl Iterator<Item = (&'static str, Hook)> {
    let all = [
        ("keep_bind4", Hook::Bind4),
        ("keep_bind6", Hook::Bind6),
        ("keep_connect4", Hook::Connect4),
        ("keep_connect6", Hook::Connect6),
        ("keep_send4", Hook::Send4),
        ("keep_send6", Hook::Send6),
        ("keep_receive4", Hook::Receive4),
        ("keep_receive6", Hook::Receive6),
        ("keep_egress", Hook::Egress),
    ];
    all.into_iter().filter(move |(_, hook)| match hook {
        Hook::Receive4 | Hook::Receive6 => answers,
        Hook::Egress => !raw,
        _ => true,
    })
}

/// As far as it may be: kernels before 5.11 count by it what programs and maps take.
fn raise_locked_memory() -> nix::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
    setrlimit(Resource::RLIMIT_MEMLOCK, hard, hard)
}

fn count<T>(list: &[T]) -> u32 {
    u32::try_from(list.len()).unwrap_or(u32::MAX)
}

/// Whether this kernel has what the wall is made of (Linux 5.8), and lets this process use it.
pub(crate) fn can_load() -> bool {
    let ring = Shape { kind: MapType::RingBuffer, key: 0, value: 0, entries: RING };
    let mut program = assembler::Assembler::default();
    program.exit(1);
    bpf::make_map("keep_probe", ring).is_ok()
        && program.finish().is_ok_and(|program| bpf::load("keep_probe", Hook::Receive6, &program).is_ok())
}

/// Makes sure that the wall stands around this process: tries what no plan lets through.
///
/// # Errors
/// When it was not refused, or could not be tried.
pub(crate) fn prove() -> Result<(), NetworkError> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .map_err(|errno| kernel("open a socket to prove it")(errno.into()))?;
    match connect(socket.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, 0)) {
        Err(Errno::EPERM) => Ok(()),
        Ok(()) => Err(NetworkError::DoesNotHold("it succeeded".to_owned())),
        Err(errno) => Err(NetworkError::DoesNotHold(errno.desc().to_owned())),
    }
}

/// The name servers of the container whose root is `root`: those of its resolv.conf, else, as resolvers do, the loopback's.
///
/// # Errors
/// When the file is there and cannot be read.
pub fn name_servers(root: &Path) -> io::Result<Vec<IpAddr>> {
    servers_in(&Root::open(root)?)
}

/// As [`name_servers`], in a root that is open already.
pub(crate) fn servers_in(root: &Root) -> io::Result<Vec<IpAddr>> {
    use std::io::Read;
    let mut text = Vec::new();
    match root.open_path("/etc/resolv.conf", OFlag::O_RDONLY | OFlag::O_NONBLOCK) {
        Ok(file) => {
            File::from(file).take(LONGEST_RESOLV_CONF).read_to_end(&mut text)?;
        }
        Err(Errno::ENOENT | Errno::ENOTDIR) => {}
        Err(errno) => return Err(errno.into()),
    }
    Ok(parse_servers(&String::from_utf8_lossy(&text)))
}

/// The name servers that a resolv.conf names; an interface's scope (`fe80::1%eth0`) is left out.
fn parse_servers(text: &str) -> Vec<IpAddr> {
    let lines = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let address =
        |line: &str| line.trim().split('%').next().and_then(|address| address.parse::<IpAddr>().ok());
    let servers: Vec<IpAddr> = lines.filter_map(address).map(|address| address.to_canonical()).collect();
    if servers.is_empty() { vec![std::net::Ipv4Addr::LOCALHOST.into()] } else { servers }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_those_of_resolv_conf_and_without_any_the_loopback() {
        let text = "# x\nsearch a b\nnameserver 10.0.0.2\n nameserver\t::1 \nnameserver fe80::1%eth0\nnameserver bad\n";
        let addresses = |list: &[&str]| list.iter().map(|a| a.parse().unwrap()).collect::<Vec<IpAddr>>();
        assert_eq!(parse_servers(text), addresses(&["10.0.0.2", "::1", "fe80::1"]));
        assert_eq!(parse_servers("search x\n"), addresses(&["127.0.0.1"]));
    }
}
