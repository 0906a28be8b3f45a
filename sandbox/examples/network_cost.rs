//! What the network wall costs: loading and attaching it for a usual profile and for the largest, and each datagram. As root.
#![allow(clippy::unwrap_used, missing_docs)]

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use nix::unistd::getpid;
use profiles::intent::Protocol;
use profiles::plan::{Ports, Reach, SocketPlan};
use sandbox::cgroup::{OwnCgroup, Unified};
use sandbox::network::{NetworkWall, ProcessNamespace};

const ROUNDS: usize = 21;
const SENDS: u32 = 200_000;

fn ports(protocol: Protocol, first: u16) -> Ports {
    Ports { protocol, first, last: first }
}

fn reach(network: u32, prefix: u8, first: u16) -> Reach {
    Reach { address: Ipv4Addr::from_bits(network).into(), prefix, ports: ports(Protocol::Tcp, first) }
}

/// `8080/tcp`; `5432/tcp 10.0.0.0/8:443/tcp dns`; with `udp` a declared UDP port besides.
fn usual(udp: bool) -> SocketPlan {
    let mut bind = vec![ports(Protocol::Tcp, 8080), ports(Protocol::Tcp, 0), ports(Protocol::Udp, 0)];
    bind.extend(udp.then_some(ports(Protocol::Udp, 53)));
    SocketPlan { bind, reach: vec![reach(0, 0, 5432), reach(10 << 24, 8, 443)], dns: true, raw: false }
}

fn cgroup() -> OwnCgroup {
    let hierarchy = Unified::find().unwrap();
    let cgroup = hierarchy.own(&format!("keep-bench-{}", std::process::id()));
    cgroup.make().unwrap();
    cgroup
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Loading, attaching.
fn raise(plan: &SocketPlan) -> (Duration, Duration) {
    let processes = ProcessNamespace::of(getpid()).unwrap();
    let servers = ["10.96.0.10".parse().unwrap()];
    let (mut loads, mut attaches) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let cgroup = cgroup();
        let begin = Instant::now();
        let wall = NetworkWall::load(plan, &servers, processes).unwrap();
        loads.push(begin.elapsed());
        let begin = Instant::now();
        let denials = wall.attach(cgroup.path()).unwrap();
        attaches.push(begin.elapsed());
        drop(denials);
        cgroup.remove().unwrap();
    }
    (median(loads), median(attaches))
}

/// Nanoseconds of a datagram to a socket that is full, and so of the way out alone.
fn send() -> u32 {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    let mut rounds = Vec::new();
    for _ in 0..5 {
        let begin = Instant::now();
        for _ in 0..SENDS {
            socket.send_to(b"x", address).unwrap();
        }
        rounds.push(begin.elapsed() / SENDS);
    }
    median(rounds).subsec_nanos()
}

fn main() {
    // A process moves into the cgroup for the last measurement and must leave it, to remove it: a child of ours does.
    if std::env::args().nth(1).is_some() {
        cgroup_of_parent().take(nix::unistd::getpid()).unwrap();
        return println!("{}", send());
    }
    for (name, plan) in [("TCP server and client", usual(false)), ("UDP server too", usual(true))] {
        let (load, attach) = raise(&plan);
        println!("{name}: load {load:?}, attach {attach:?}, together {:?}", load + attach);
    }
    let odd = (0..5000).map(|n| ports(Protocol::Udp, 2 * n + 1)).collect();
    let (load, attach) = raise(&SocketPlan { bind: odd, ..usual(false) });
    println!("5,000 port ranges: load {load:?}, attach {attach:?}");
    let networks = (0..4000).map(|n| reach(n << 12, 20, 443)).collect();
    let (load, attach) = raise(&SocketPlan { reach: networks, ..usual(false) });
    println!("4,000 networks: load {load:?}, attach {attach:?}");
    let different = (1..250).map(|n| reach(u32::from(n) << 12, 20, n)).collect();
    let (load, attach) = raise(&SocketPlan { reach: different, ..usual(false) });
    println!("249 networks with a set of ports each: load {load:?}, attach {attach:?}");
    let cgroup = cgroup();
    let every = Ports { protocol: Protocol::Udp, first: 1, last: u16::MAX };
    let everywhere = Reach { ports: every, ..reach(0, 0, 1) };
    let plan =
        SocketPlan { bind: vec![ports(Protocol::Udp, 0)], reach: vec![everywhere], dns: false, raw: false };
    let plain = child("without");
    drop(
        NetworkWall::load(&plan, &[], ProcessNamespace::of(getpid()).unwrap())
            .unwrap()
            .attach(cgroup.path())
            .unwrap(),
    );
    let watched = child("with");
    println!("a datagram: {plain} ns, watched {watched} ns");
    cgroup.remove().unwrap();
}

fn cgroup_of_parent() -> OwnCgroup {
    let hierarchy = Unified::find().unwrap();
    hierarchy.own(&format!("keep-bench-{}", std::os::unix::process::parent_id()))
}

fn child(word: &str) -> u32 {
    let output = std::process::Command::new(std::env::current_exe().unwrap()).arg(word).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().parse().unwrap()
}
