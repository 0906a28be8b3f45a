//! A plan's ports and networks as the programs look them up: an address gives a set of ports, a port one bit of it. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use profiles::intent::Protocol;
use profiles::plan::{Ports, SocketPlan};

/// Bytes of one protocol's ports, one bit each.
const BITS: usize = (u16::MAX as usize + 1) / 8;

/// Bytes of a set of ports: TCP's, then UDP's.
pub(super) const SET: usize = 2 * BITS;

/// Where UDP's bits begin within a set.
pub(super) const UDP_BITS: i32 = BITS as i32;

/// Most different sets of ports. More would be megabytes of kernel memory for one container.
pub(super) const MAX_SETS: usize = 256;

/// Most networks; all labels of an image together cannot name as many.
pub(super) const MAX_NETWORKS: usize = 1 << 14;

/// Prefix of IPv4 addresses in IPv6 form, `::ffff:0:0/96`: all addresses are looked up in that form.
const MAPPED: u8 = 96;

/// Port of name servers.
const DNS: u16 = 53;

/// Ports in canonical form: sorted, neither overlapping nor adjacent.
pub(super) type PortSet = Vec<Ports>;

/// What the programs look up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tables {
    /// Sets of ports; the first is that of ports that may be bound.
    pub(super) sets: Vec<PortSet>,
    /// Networks and which set may be reached there; the longest prefix counts.
    pub(super) networks: Vec<Network>,
}

/// A network in IPv6 form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Network {
    pub(super) address: [u8; 16],
    pub(super) prefix: u8,
    pub(super) set: u32,
}

/// A profile that asks for more than the programs' tables hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooMuch {
    /// Too many networks.
    #[error("dev.keep.connect names {0} networks, the network wall holds {MAX_NETWORKS}; name wider ones")]
    Networks(usize),
    /// Too many different sets of ports.
    #[error(
        "dev.keep.connect gives its networks {0} different sets of ports, the network wall holds {MAX_SETS}; give more networks the same ports"
    )]
    Sets(usize),
}

impl Tables {
    /// The tables of a plan; `servers` are the container's name servers.
    pub(super) fn of(plan: &SocketPlan, servers: &[IpAddr]) -> Result<Self, TooMuch> {
        // The whole of either family stands always, so that one never falls back to what the other's was granted.
        let everywhere = [(Ipv4Addr::UNSPECIFIED.into(), 0), (Ipv6Addr::UNSPECIFIED.into(), 0)];
        let mut own: BTreeMap<(IpAddr, u8), Vec<Ports>> =
            everywhere.map(|network| (network, Vec::new())).into();
        for reach in &plan.reach {
            own.entry((reach.address, reach.prefix)).or_default().push(reach.ports);
        }
        for server in servers.iter().filter(|_| plan.dns) {
            let both = [Protocol::Tcp, Protocol::Udp];
            let ports = both.map(|protocol| Ports { protocol, first: DNS, last: DNS });
            own.entry((*server, bits(*server))).or_default().extend(ports);
        }
        if own.len() > MAX_NETWORKS {
            return Err(TooMuch::Networks(own.len()));
        }
        Self::inherited(canonical(plan.bind.clone()), own)
    }

    /// Gives each network the ports of those around it too, since only the longest prefix is found. In the map's order a
    /// network follows those that it lies in: they are a stack.
    fn inherited(bind: PortSet, own: BTreeMap<(IpAddr, u8), Vec<Ports>>) -> Result<Self, TooMuch> {
        let mut numbers = BTreeMap::from([(bind.clone(), 0)]);
        let mut sets = vec![bind];
        let mut networks = Vec::with_capacity(own.len());
        let mut around: Vec<(IpAddr, u8, PortSet)> = Vec::new();
        for ((address, prefix), ports) in own {
            while around.last().is_some_and(|(outer, length, _)| !covers(*outer, *length, address)) {
                around.pop();
            }
            let outer = around.last().map_or(&[][..], |(_, _, ports)| ports);
            let ports = canonical(outer.iter().copied().chain(ports).collect());
            let set = *numbers.entry(ports.clone()).or_insert_with(|| {
                sets.push(ports.clone());
                sets.len() - 1
            });
            let (address_bytes, mapped) = mapped(address);
            let set = u32::try_from(set).map_err(|_| TooMuch::Sets(set))?;
            networks.push(Network { address: address_bytes, prefix: prefix + mapped, set });
            around.push((address, prefix, ports));
        }
        if sets.len() > MAX_SETS {
            return Err(TooMuch::Sets(sets.len()));
        }
        Ok(Self { sets, networks })
    }
}

/// The bits of a set.
pub(super) fn bitmap(ports: &PortSet) -> Vec<u8> {
    let mut bytes = vec![0; SET];
    for range in ports {
        let base = match range.protocol {
            Protocol::Tcp => 0,
            Protocol::Udp => BITS,
        };
        for port in range.first..=range.last {
            if let Some(byte) = bytes.get_mut(base + usize::from(port >> 3)) {
                *byte |= 1 << (port & 7);
            }
        }
    }
    bytes
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// An address in IPv6 form, and how much longer its prefixes are there.
fn mapped(address: IpAddr) -> ([u8; 16], u8) {
    match address {
        IpAddr::V4(address) => (address.to_ipv6_mapped().octets(), MAPPED),
        IpAddr::V6(address) => (address.octets(), 0),
    }
}

fn covers(outer: IpAddr, prefix: u8, address: IpAddr) -> bool {
    profiles::intent::Cidr { address: outer, prefix }.contains(address)
}

fn canonical(mut ports: Vec<Ports>) -> PortSet {
    ports.sort_unstable();
    let mut merged: PortSet = Vec::with_capacity(ports.len());
    for range in ports {
        match merged.last_mut() {
            Some(last)
                if last.protocol == range.protocol && u32::from(range.first) <= u32::from(last.last) + 1 =>
            {
                last.last = last.last.max(range.last);
            }
            _ => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use profiles::plan::Reach;

    use super::*;

    fn ports(protocol: Protocol, first: u16, last: u16) -> Ports {
        Ports { protocol, first, last }
    }

    fn reach(network: &str, ports: Ports) -> Reach {
        let (address, prefix) = network.split_once('/').unwrap();
        Reach { address: address.parse().unwrap(), prefix: prefix.parse().unwrap(), ports }
    }

    fn plan(reach: Vec<Reach>) -> SocketPlan {
        SocketPlan { bind: vec![ports(Protocol::Udp, 0, 0)], reach, dns: true, raw: false }
    }

    /// What the programs find: the longest prefix's set.
    fn may(tables: &Tables, address: &str, protocol: Protocol, port: u16) -> bool {
        let (address, _) = mapped(address.parse().unwrap());
        let within = |network: &&Network| {
            let (a, n) = (u128::from_be_bytes(address), u128::from_be_bytes(network.address));
            let mask = u128::MAX.checked_shl(128 - u32::from(network.prefix)).unwrap_or(0);
            a & mask == n & mask
        };
        let found = tables.networks.iter().filter(within).max_by_key(|network| network.prefix).unwrap();
        let bytes = bitmap(&tables.sets[found.set as usize]);
        let base = if protocol == Protocol::Tcp { 0 } else { UDP_BITS as usize };
        bytes[base + usize::from(port >> 3)] >> (port & 7) & 1 == 1
    }

    #[test]
    fn a_network_has_the_ports_of_those_around_it_and_no_other() {
        let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
        let server = "10.1.2.3".parse().unwrap();
        let tables = Tables::of(
            &plan(vec![
                reach("0.0.0.0/0", ports(tcp, 5432, 5432)),
                reach("10.0.0.0/8", ports(tcp, 443, 444)),
                reach("10.1.0.0/16", ports(udp, 9, 9)),
                reach("2001:db8::/32", ports(tcp, 65535, 65535)),
            ]),
            &[server],
        )
        .unwrap();
        for (address, protocol, port, expected) in [
            ("10.1.9.9", tcp, 443, true),
            ("10.1.9.9", tcp, 444, true),
            ("10.1.9.9", tcp, 445, false),
            ("10.1.9.9", udp, 9, true),
            ("10.1.9.9", tcp, 9, false),
            ("10.2.9.9", udp, 9, false),
            ("10.2.9.9", tcp, 5432, true),
            ("11.0.0.1", tcp, 443, false),
            ("11.0.0.1", tcp, 5432, true),
            ("10.1.2.3", udp, 53, true),
            ("10.1.2.3", tcp, 53, true),
            ("10.1.2.3", udp, 9, true),
            ("10.1.2.4", udp, 53, false),
            ("2001:db8::1", tcp, 65535, true),
            ("2001:db8::1", tcp, 5432, false),
            ("2001:db9::1", tcp, 65535, false),
            ("::ffff:10.0.0.1", tcp, 443, true),
        ] {
            assert_eq!(may(&tables, address, protocol, port), expected, "{address} {protocol} {port}");
        }
    }

    #[test]
    fn every_ipv6_network_leaves_ipv4_alone() {
        let tables = Tables::of(&plan(vec![reach("::/0", ports(Protocol::Tcp, 1, 1))]), &[]).unwrap();
        assert!(may(&tables, "::1", Protocol::Tcp, 1) && !may(&tables, "127.0.0.1", Protocol::Tcp, 1));
    }

    #[test]
    fn what_labels_can_hold_fits_and_what_does_not_is_refused_in_a_sentence() {
        let four = |n: u32| IpAddr::from(Ipv4Addr::from_bits(n << 8)).to_string() + "/24";
        let same: Vec<_> = (0..4000).map(|n| reach(&four(n), ports(Protocol::Tcp, 443, 443))).collect();
        let tables = Tables::of(&plan(same), &[]).unwrap();
        assert_eq!((tables.networks.len(), tables.sets.len()), (4002, 3));
        let every_other = (0..5000).map(|n| reach("0.0.0.0/0", ports(Protocol::Udp, 2 * n + 1, 2 * n + 1)));
        assert_eq!(Tables::of(&plan(every_other.collect()), &[]).unwrap().sets[1].len(), 5000);
        let different = (1..400).map(|n| reach(&four(n.into()), ports(Protocol::Tcp, n, n)));
        let error = Tables::of(&plan(different.collect()), &[]).unwrap_err().to_string();
        assert!(error.contains("401 different sets of ports, the network wall holds 256"), "{error}");
        let many = (0..17_000).map(|n| reach(&four(n), ports(Protocol::Tcp, 1, 1)));
        assert!(matches!(Tables::of(&plan(many.collect()), &[]), Err(TooMuch::Networks(17_002))));
    }
}
