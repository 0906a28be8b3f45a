//! What the cgroup-BPF programs of a container let through.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::HostFacts;
use crate::intent::{Endpoint, PortRange, Protocol};
use crate::profile::{Entries, Profile};

/// What the programs on a container's cgroup let its sockets do, TCP and UDP, IPv4 and IPv6 alike. All else is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketPlan {
    /// Ports that may be bound; port 0 where the kernel's choice may be. A UDP socket that was bound to one of them may
    /// also answer who wrote to it.
    pub bind: Vec<Ports>,
    /// Where to connect and send to.
    pub reach: Vec<Reach>,
    /// Whether port 53 of the container's name servers may be reached besides.
    pub dns: bool,
    /// Whether raw and ping sockets, which have no ports, are let through.
    pub raw: bool,
}

/// Ports `first..=last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ports {
    /// Protocol.
    pub protocol: Protocol,
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

/// Ports of the addresses of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Reach {
    /// Network address, host bits zero.
    pub address: IpAddr,
    /// Length of the prefix in bits.
    pub prefix: u8,
    /// Ports.
    pub ports: Ports,
}

impl From<PortRange> for Ports {
    fn from(range: PortRange) -> Self {
        Self { protocol: range.protocol, first: range.first, last: range.last }
    }
}

/// The programs' part of the wall; none on a host that has none, or where no internet socket can be opened.
pub(super) fn of(profile: &Profile, entries: &Entries, host: &HostFacts) -> Option<SocketPlan> {
    let granted = |name| profile.needs.iter().any(|need| need.as_str() == name);
    // io_uring opens sockets past the filter, and raw sockets come with their own connect.
    if !host.cgroup_bpf || !(entries.has_inet() || granted("io-uring") || granted("raw-sockets")) {
        return None;
    }
    let mut bind: Vec<Ports> = entries.listen.iter().copied().map(Ports::from).collect();
    // Resolvers bind UDP sockets to port 0, clients TCP sockets, and so do servers that ask which families there are
    // (every Go program does). Who then listens, the observer sees.
    let any = |protocol| Ports { protocol, first: 0, last: 0 };
    bind.push(any(Protocol::Udp));
    let listens = entries.listen.iter().any(|ports| ports.protocol == Protocol::Tcp);
    if listens || entries.connect.iter().any(|endpoint| !matches!(endpoint, Endpoint::Unix(_))) {
        bind.push(any(Protocol::Tcp));
    }
    Some(SocketPlan {
        bind,
        reach: entries.connect.iter().flat_map(reached).collect(),
        dns: entries.connect.contains(&Endpoint::Dns),
        raw: granted("raw-sockets"),
    })
}

fn reached(endpoint: &Endpoint) -> Vec<Reach> {
    match endpoint {
        Endpoint::Ports { network: Some(network), ports } => {
            vec![Reach { address: network.address, prefix: network.prefix, ports: (*ports).into() }]
        }
        Endpoint::Ports { network: None, ports } => {
            let everywhere = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
            everywhere.map(|address| Reach { address, prefix: 0, ports: (*ports).into() }).to_vec()
        }
        Endpoint::Dns | Endpoint::Unix(_) => Vec::new(),
    }
}
