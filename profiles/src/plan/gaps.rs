//! What a wall should stop and cannot on one host.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::{Gap, HostFacts, NETWORK_ABI, Wall};
use crate::intent::{Cidr, Endpoint, Need, PortRange, Protocol};
use crate::policy::Mode;
use crate::profile::Entries;

/// First Landlock ABI that scopes abstract unix sockets (Linux 6.12).
const SCOPE_ABI: u32 = 6;

/// The gaps of a declared image, those of one wall together. Audit mode has no walls, so that it can only lack
/// its records.
pub(super) fn of(mode: Mode, entries: &Entries, needs: &BTreeSet<Need>, host: &HostFacts) -> Vec<Gap> {
    let mut gaps = Vec::new();
    let mut add = |wall, sentence: &str| gaps.push(Gap { wall, sentence: sentence.to_owned() });
    if mode == Mode::Enforce {
        if host.landlock_abi == 0 {
            add(
                Wall::Exec,
                "this kernel has no Landlock, so only noexec mounts stop programs that were not declared",
            );
            add(
                Wall::File,
                "this kernel has no Landlock, so only read-only mounts stop writes that were not declared",
            );
        }
        for sentence in network(entries, needs, host) {
            add(Wall::Network, sentence);
        }
    }
    if !host.listener {
        add(Wall::Policy, "this kernel has no seccomp listener, so what is refused is not recorded");
    }
    gaps
}

/// What some declaration would lack here: every gap that is the host's alone, whatever an image declares.
pub(super) fn of_host(host: &HostFacts) -> Vec<Gap> {
    let ports = |protocol| PortRange { protocol, first: 1, last: 1 };
    let network = Some(Cidr { address: Ipv4Addr::LOCALHOST.into(), prefix: 32 });
    let everything = Entries {
        listen: vec![ports(Protocol::Tcp), ports(Protocol::Udp)],
        connect: vec![Endpoint::Ports { network, ports: ports(Protocol::Tcp) }, Endpoint::Dns],
    };
    of(Mode::Enforce, &everything, &BTreeSet::new(), host)
}

fn network(entries: &Entries, needs: &BTreeSet<Need>, host: &HostFacts) -> Vec<&'static str> {
    let mut sentences = Vec::new();
    if host.landlock_abi < NETWORK_ABI && entries.has_inet() && !host.cgroup_bpf {
        sentences
            .push("this kernel's Landlock knows no ports, so TCP ports that were not declared can be used");
    }
    if host.landlock_abi < SCOPE_ABI {
        sentences.push("this kernel's Landlock does not scope abstract unix sockets, so those of the pod's other containers can be reached");
    }
    if !host.cgroup_bpf {
        sentences.extend(without_programs(entries));
    }
    if needs.iter().any(|need| need.as_str() == "io-uring") {
        sentences.push(
            "io_uring was granted, and through it sockets of every family can be opened past the filter",
        );
    }
    if needs.iter().any(|need| need.as_str() == "raw-sockets") {
        sentences.push("raw sockets were granted, and they know neither ports nor addresses");
    }
    if !host.listener && entries.has_inet() {
        sentences.push("this kernel has no seccomp listener, so a socket that was never bound can listen on a port that was not declared");
    }
    sentences
}

/// What ports of TCP, all that Landlock knows, leave open.
fn without_programs(entries: &Entries) -> Vec<&'static str> {
    let udp = |ports: &PortRange| ports.protocol == Protocol::Udp;
    let mut sentences = Vec::new();
    if entries.listen.iter().any(udp) {
        sentences.push(
            "no cgroup-BPF programs can be loaded here, so UDP ports that were not declared can be bound",
        );
    }
    let reaches_udp = |endpoint: &Endpoint| match endpoint {
        Endpoint::Ports { ports, .. } => udp(ports),
        Endpoint::Dns => true,
        Endpoint::Unix(_) => false,
    };
    if entries.listen.iter().any(udp) || entries.connect.iter().any(reaches_udp) {
        sentences.push(
            "no cgroup-BPF programs can be loaded here, so every address and port can be sent to by UDP",
        );
    }
    let narrowed = |endpoint: &Endpoint| match endpoint {
        Endpoint::Ports { network, ports } => network.is_some() && !udp(ports),
        Endpoint::Dns => true,
        Endpoint::Unix(_) => false,
    };
    if entries.connect.iter().any(narrowed) {
        sentences.push("no cgroup-BPF programs can be loaded here, so declared TCP ports can be connected to on every address");
    }
    sentences
}
