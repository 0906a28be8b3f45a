//! Where a container connects, as a set: for each port of each protocol, the addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::paths::{narrowed, overlapping, topmost};
use super::ranges::Ranges;
use crate::intent::{AbsPath, Cidr, Endpoint, PortRange, Protocol, canonical_listen};

/// Highest IPv4 address as a number.
const V4_MAX: u128 = u32::MAX as u128;

/// Addresses of both families.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Addresses {
    v4: Ranges,
    v6: Ranges,
}

/// Addresses by port: disjoint port ranges in order, neighbours different, none empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct ByPort(Vec<(u16, u16, Addresses)>);

/// Everything that `dev.keep.connect` can grant. Equal exactly when the same is granted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reach {
    tcp: ByPort,
    udp: ByPort,
    dns: bool,
    unix: BTreeSet<AbsPath>,
}

impl Addresses {
    fn all() -> Self {
        Self { v4: [(0, V4_MAX)].into_iter().collect(), v6: [(0, u128::MAX)].into_iter().collect() }
    }

    fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    fn of<'a>(networks: impl Iterator<Item = &'a Option<Cidr>>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for network in networks {
            match network {
                None => return Self::all(),
                Some(cidr) => match cidr.address {
                    IpAddr::V4(first) => {
                        v4.push(block(u128::from(first.to_bits()), 32 - cidr.prefix.min(32)))
                    }
                    IpAddr::V6(first) => v6.push(block(first.to_bits(), 128 - cidr.prefix.min(128))),
                },
            }
        }
        Self { v4: v4.into_iter().collect(), v6: v6.into_iter().collect() }
    }

    fn merge(&self, other: &Self, with: impl Fn(&Ranges, &Ranges) -> Ranges) -> Self {
        Self { v4: with(&self.v4, &other.v4), v6: with(&self.v6, &other.v6) }
    }

    /// The fewest networks that make up the set; `None` stands for every address.
    fn networks(&self) -> Vec<Option<Cidr>> {
        if *self == Self::all() {
            return vec![None];
        }
        let v4 = self.v4.iter().flat_map(|range| blocks(range, 32)).map(|(first, prefix)| Cidr {
            // Within 32 bits, as V4_MAX bounds every range of the family.
            address: Ipv4Addr::from_bits(u32::try_from(first).unwrap_or(u32::MAX)).into(),
            prefix,
        });
        let v6 = self.v6.iter().flat_map(|range| blocks(range, 128));
        let v6 = v6.map(|(first, prefix)| Cidr { address: Ipv6Addr::from_bits(first).into(), prefix });
        v4.chain(v6).map(Some).collect()
    }
}

/// First and last number of the aligned block of `2^free` numbers at `first`.
fn block(first: u128, free: u8) -> (u128, u128) {
    (first, first | 1u128.checked_shl(free.into()).map_or(u128::MAX, |size| size - 1))
}

/// A range of addresses of `bits` bits as the fewest aligned blocks: first address and length of the prefix.
fn blocks((mut first, last): (u128, u128), bits: u8) -> Vec<(u128, u8)> {
    let mut blocks = Vec::new();
    loop {
        // The largest block that is aligned here and ends by `last`.
        let mut free = u8::try_from(first.trailing_zeros()).unwrap_or(bits).min(bits);
        while block(first, free).1 > last {
            free -= 1;
        }
        blocks.push((first, bits - free));
        match block(first, free).1.checked_add(1) {
            Some(next) if next <= last => first = next,
            _ => return blocks,
        }
    }
}

impl ByPort {
    fn of(entries: &BTreeMap<Option<Cidr>, Vec<(u16, u16)>>) -> Self {
        let ranges = || entries.values().flatten();
        let ends = ranges().flat_map(|(first, last)| [u32::from(*first), u32::from(*last) + 1]);
        let active = |port: u16| {
            let here = |ranges: &[(u16, u16)]| ranges.iter().any(|(from, to)| (*from..=*to).contains(&port));
            Addresses::of(entries.iter().filter(|(_, ranges)| here(ranges)).map(|(network, _)| network))
        };
        Self::pieces(ends, active)
    }

    /// The normal form of a function of the port that changes at `ends` alone.
    fn pieces(ends: impl Iterator<Item = u32>, at: impl Fn(u16) -> Addresses) -> Self {
        let ends: Vec<u32> = ends.collect::<BTreeSet<_>>().into_iter().collect();
        let mut pieces: Vec<(u16, u16, Addresses)> = Vec::new();
        for pair in ends.windows(2) {
            let [Ok(first), Ok(last)] = [u16::try_from(pair[0]), u16::try_from(pair[1] - 1)] else {
                continue;
            };
            let addresses = at(first);
            match pieces.last_mut() {
                _ if addresses.is_empty() => {}
                Some(before) if before.1.checked_add(1) == Some(first) && before.2 == addresses => {
                    before.1 = last
                }
                _ => pieces.push((first, last, addresses)),
            }
        }
        Self(pieces)
    }

    fn at(&self, port: u16) -> Option<&Addresses> {
        let place = self.0.partition_point(|(_, last, _)| *last < port);
        self.0.get(place).filter(|(first, ..)| *first <= port).map(|(.., addresses)| addresses)
    }

    fn merge(&self, other: &Self, with: impl Fn(&Ranges, &Ranges) -> Ranges) -> Self {
        let both = self.0.iter().chain(&other.0);
        let ends = both.flat_map(|(first, last, _)| [u32::from(*first), u32::from(*last) + 1]);
        let none = Addresses::default();
        let at = |port| self.at(port).unwrap_or(&none).merge(other.at(port).unwrap_or(&none), &with);
        Self::pieces(ends, at)
    }

    fn endpoints(&self, protocol: Protocol) -> impl Iterator<Item = Endpoint> {
        let mut networks: BTreeMap<Option<Cidr>, BTreeSet<PortRange>> = BTreeMap::new();
        for (first, last, addresses) in &self.0 {
            let ports = PortRange { protocol, first: *first, last: *last };
            for network in addresses.networks() {
                networks.entry(network).or_default().insert(ports);
            }
        }
        networks.into_iter().flat_map(|(network, ports)| {
            canonical_listen(&ports).into_iter().map(move |ports| Endpoint::Ports { network, ports })
        })
    }
}

impl Reach {
    /// The set that endpoints make up.
    pub(crate) fn new<'a>(endpoints: impl IntoIterator<Item = &'a Endpoint>) -> Self {
        let mut reach = Self::default();
        let (mut tcp, mut udp) = (BTreeMap::new(), BTreeMap::new());
        let mut unix = BTreeSet::new();
        for endpoint in endpoints {
            match endpoint {
                Endpoint::Ports { network, ports } => {
                    let entries: &mut BTreeMap<_, Vec<_>> = match ports.protocol {
                        Protocol::Tcp => &mut tcp,
                        Protocol::Udp => &mut udp,
                    };
                    entries.entry(*network).or_default().push((ports.first, ports.last));
                }
                Endpoint::Dns => reach.dns = true,
                Endpoint::Unix(path) => {
                    unix.insert(path.clone());
                }
            }
        }
        Self { tcp: ByPort::of(&tcp), udp: ByPort::of(&udp), unix: topmost(&unix), ..reach }
    }

    /// What both reach.
    pub(crate) fn intersection(&self, other: &Self) -> Self {
        let unix = self.unix.iter().flat_map(|path| narrowed(path, &other.unix)).collect();
        Self {
            tcp: self.tcp.merge(&other.tcp, Ranges::intersection),
            udp: self.udp.merge(&other.udp, Ranges::intersection),
            dns: self.dns && other.dns,
            unix: topmost(&unix),
        }
    }

    /// What this one reaches and `other` does not. Of sockets, a folder that holds one of `other` goes whole: no
    /// entry says "all but one".
    pub(crate) fn difference(&self, other: &Self) -> Self {
        let apart = |path: &&AbsPath| !other.unix.iter().any(|denied| overlapping(path, denied));
        Self {
            tcp: self.tcp.merge(&other.tcp, Ranges::difference),
            udp: self.udp.merge(&other.udp, Ranges::difference),
            dns: self.dns && !other.dns,
            unix: self.unix.iter().filter(apart).cloned().collect(),
        }
    }

    /// Endpoints that grant what `narrow` does not. Unlike [`Self::difference`], a folder of sockets is told whole where
    /// `narrow` has but a part of it.
    pub(crate) fn beyond(&self, narrow: &Self) -> Vec<Endpoint> {
        let covered = |path: &AbsPath| narrow.unix.iter().any(|top| path.is_beneath(top));
        let unix = self.unix.iter().filter(|path| !covered(path)).cloned().collect();
        Self { unix, ..self.difference(narrow) }.endpoints()
    }

    /// The fewest endpoints that make up the set, sorted.
    pub(crate) fn endpoints(&self) -> Vec<Endpoint> {
        let ports = self.tcp.endpoints(Protocol::Tcp).chain(self.udp.endpoints(Protocol::Udp));
        let dns = self.dns.then_some(Endpoint::Dns);
        let unix = self.unix.iter().cloned().map(Endpoint::Unix);
        ports.chain(dns).chain(unix).collect::<BTreeSet<_>>().into_iter().collect()
    }
}

#[cfg(test)]
mod tests;
