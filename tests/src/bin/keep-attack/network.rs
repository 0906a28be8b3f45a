//! Reaching, or being reached by, what was not declared.

use std::io::{self, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt as _;
use std::time::Duration;

use crate::probe::Wall::{Bpf, Capabilities, Landlock, Observer, Seccomp};
use crate::probe::{Failure, Probe, Try, Wall, allowed, probe, unless_absent};
use crate::raw;
use crate::tools::{CROSSED, open, race, sys, words};

/// Port that the labels let the probes connect to.
const DECLARED: u16 = 9100;
/// Port that nothing declares, where the node listens.
const UNDECLARED: u16 = 9000;
/// Port that nothing declares, where nobody listens.
const FREE: u16 = 9999;
/// Name of the abstract socket outside the container.
const ABSTRACT: &str = "keep-attack";

const ANY_V4: i32 = libc::AF_INET;
const STREAM: i32 = libc::SOCK_STREAM;
const DATAGRAM: i32 = libc::SOCK_DGRAM;
const RAW: i32 = libc::SOCK_RAW;

pub(crate) const PROBES: &[Probe] = &[
    probe("connect", "TCP to a port that was not declared", Bpf, || connect(v4(UNDECLARED))),
    probe("connect-v6", "the same by IPv6", Bpf, || connect((Ipv6Addr::LOCALHOST, UNDECLARED).into())),
    probe("connect-mapped", "the same by an IPv4 address mapped into IPv6", Bpf, || {
        connect((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), UNDECLARED).into())
    }),
    probe("connect-again", "a connected socket dissolved, and connected elsewhere", Bpf, || {
        let socket = dissolved()?;
        sys!(libc::SYS_connect, socket.as_raw_fd(), v4_bytes(UNDECLARED).as_slice(), 16)?;
        Ok(())
    }),
    probe("connect-rewritten", "an address rewritten between look and use", Bpf, rewritten),
    probe("bind", "binding a port that was not declared", Landlock, || {
        TcpListener::bind(v4(FREE))?;
        Ok(())
    }),
    probe("bind-v6", "the same by IPv6", Landlock, || {
        TcpListener::bind((Ipv6Addr::LOCALHOST, FREE))?;
        Ok(())
    }),
    probe("listen-unbound", "listening without having bound", Observer, || {
        let socket = allowed(tcp())?;
        sys!(libc::SYS_listen, socket.as_raw_fd(), 1)?;
        Ok(())
    }),
    probe("listen-port-0", "listening on a port of the kernel's choice", Observer, || {
        TcpListener::bind(v4(0))?;
        Ok(())
    }),
    probe("listen-dissolved", "listening on what is left of a dissolved connection", Observer, || {
        let socket = dissolved()?;
        sys!(libc::SYS_listen, socket.as_raw_fd(), 1)?;
        Ok(())
    }),
    probe("fastopen-sendto", "MSG_FASTOPEN by sendto", Seccomp, || {
        let (socket, to) = (allowed(tcp())?, v4_bytes(UNDECLARED));
        let bytes = b"x".as_slice();
        sys!(libc::SYS_sendto, socket.as_raw_fd(), bytes, 1, libc::MSG_FASTOPEN, to.as_slice(), 16)?;
        Ok(())
    }),
    probe("fastopen-sendmsg", "MSG_FASTOPEN by sendmsg", Seccomp, || fastopen_message(libc::SYS_sendmsg)),
    probe("fastopen-sendmmsg", "MSG_FASTOPEN by sendmmsg", Seccomp, || fastopen_message(libc::SYS_sendmmsg)),
    probe("fastopen-connect", "TCP_FASTOPEN_CONNECT, then connect and write", Bpf, || {
        let socket = allowed(tcp())?;
        option(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, 1)?;
        sys!(libc::SYS_connect, socket.as_raw_fd(), v4_bytes(UNDECLARED).as_slice(), 16)?;
        TcpStream::from(socket).write_all(b"x")?;
        Ok(())
    }),
    probe("udp", "a UDP datagram", Bpf, || {
        let socket = socket(ANY_V4, DATAGRAM, 0)?;
        let bytes = b"x".as_slice();
        sys!(libc::SYS_sendto, socket.as_raw_fd(), bytes, 1, 0, v4_bytes(FREE).as_slice(), 16)?;
        Ok(())
    }),
    probe("udp-v6", "a UDP datagram by IPv6", Bpf, || {
        UdpSocket::bind((Ipv6Addr::LOCALHOST, 0))?.send_to(b"x", (Ipv6Addr::LOCALHOST, FREE))?;
        Ok(())
    }),
    probe("udp-connected", "a UDP datagram on a connected socket", Bpf, || {
        let socket = socket(ANY_V4, DATAGRAM, 0)?;
        sys!(libc::SYS_connect, socket.as_raw_fd(), v4_bytes(FREE).as_slice(), 16)?;
        sys!(libc::SYS_sendto, socket.as_raw_fd(), b"x".as_slice(), 1, 0, 0, 0)?;
        Ok(())
    }),
    probe("udp-bind", "binding a UDP port that was not declared", Bpf, || {
        UdpSocket::bind(v4(FREE))?;
        Ok(())
    }),
    kind("udp-lite", "a UDP-Lite socket", || opens(ANY_V4, DATAGRAM, 136)),
    kind("mptcp", "a Multipath TCP socket, which passes Landlock's ports", || {
        opens(ANY_V4, STREAM, libc::IPPROTO_MPTCP)
    }),
    kind("sctp", "an SCTP socket", || opens(ANY_V4, STREAM, libc::IPPROTO_SCTP)),
    kind("raw-icmp", "a raw socket", || opens(ANY_V4, RAW, libc::IPPROTO_ICMP)).root(),
    kind("raw-v6", "a raw socket of IPv6", || opens(libc::AF_INET6, RAW, libc::IPPROTO_ICMPV6)).root(),
    kind("raw-header", "a raw socket that writes its own headers", || opens(ANY_V4, RAW, libc::IPPROTO_RAW))
        .root(),
    kind("ping", "a ping socket", || opens(ANY_V4, DATAGRAM, libc::IPPROTO_ICMP)).root(),
    kind("packet", "a packet socket", || opens(libc::AF_PACKET, RAW, 0)).root(),
    kind("packet-datagram", "a packet socket without link headers", || opens(libc::AF_PACKET, DATAGRAM, 0))
        .root(),
    kind("vsock", "a socket to the hypervisor", || opens(libc::AF_VSOCK, STREAM, 0)),
    kind("alg", "the kernel's cryptography", || opens(libc::AF_ALG, libc::SOCK_SEQPACKET, 0)),
    kind("xdp", "an AF_XDP socket", || opens(libc::AF_XDP, RAW, 0)).root(),
    kind("key", "IPsec's keys: AF_KEY", || opens(libc::AF_KEY, RAW, 2)).root(),
    kind("bluetooth", "a Bluetooth socket", || opens(libc::AF_BLUETOOTH, RAW, 1)).root(),
    kind("can", "a CAN socket", || opens(libc::AF_CAN, RAW, 1)),
    kind("tipc", "a TIPC socket", || opens(libc::AF_TIPC, DATAGRAM, 0)),
    kind("tipc-pair", "a pair of TIPC sockets", || {
        let mut pair = [0; 8];
        let made = sys!(libc::SYS_socketpair, libc::AF_TIPC, STREAM, 0, pair.as_mut_slice());
        unless_absent(made, NO_SUCH_SOCKET, "TIPC")?;
        Ok(())
    }),
    kind("rds", "an RDS socket", || opens(libc::AF_RDS, libc::SOCK_SEQPACKET, 0)),
    kind("smc", "an SMC socket", || opens(43, STREAM, 0)),
    kind("kcm", "a KCM socket", || opens(41, DATAGRAM, 0)),
    kind("netlink-audit", "the audit system", || opens(libc::AF_NETLINK, RAW, 9)),
    kind("netlink-generic", "generic netlink", || opens(libc::AF_NETLINK, RAW, 16)),
    kind("netlink-netfilter", "nf_tables", || opens(libc::AF_NETLINK, RAW, 12)),
    kind("netlink-diag", "everybody's sockets: NETLINK_SOCK_DIAG", || opens(libc::AF_NETLINK, RAW, 4)),
    kind("netlink-uevent", "the kernel's device events", || opens(libc::AF_NETLINK, RAW, 15)),
    kind("netlink-xfrm", "IPsec's policies", || opens(libc::AF_NETLINK, RAW, 6)),
    kind("netlink-connector", "process events", || opens(libc::AF_NETLINK, RAW, 11)),
    probe("interface-netlink", "an interface changed by route netlink", Capabilities, set_link).root(),
    probe("interface-flags", "an interface changed by ioctl", Seccomp, || {
        let socket = allowed(tcp())?;
        let mut request = [0; 40];
        request.iter_mut().zip(b"lo").for_each(|(to, from)| *to = *from);
        sys!(libc::SYS_ioctl, socket.as_raw_fd(), 0x8913, request.as_mut_slice())?;
        sys!(libc::SYS_ioctl, socket.as_raw_fd(), 0x8914, request.as_slice())?;
        Ok(())
    })
    .root(),
    probe("ip-transparent", "sending with somebody else's address: IP_TRANSPARENT", Capabilities, || {
        option(allowed(tcp())?.as_raw_fd(), libc::SOL_IP, libc::IP_TRANSPARENT, 1)
    })
    .root(),
    probe("so-mark", "marking packets past rules of the node: SO_MARK", Capabilities, || {
        option(allowed(tcp())?.as_raw_fd(), libc::SOL_SOCKET, libc::SO_MARK, 1)
    })
    .root(),
    probe("tcp-repair", "a connection made up: TCP_REPAIR", Capabilities, || {
        option(allowed(tcp())?.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_REPAIR, 1)
    })
    .root(),
    probe("tun", "a network device of one's own: /dev/net/tun", Wall::Capabilities, || {
        let number = libc::makedev(10, 200);
        sys!(libc::SYS_mknodat, -1, c"/data/tun", libc::S_IFCHR | 0o600, number)?;
        let opened = std::fs::File::open("/data/tun");
        unless_absent(opened, &[libc::ENODEV, libc::ENXIO], "tun (CONFIG_TUN)")?;
        Ok(())
    })
    .root(),
    probe("abstract", "an abstract unix socket outside the container", Landlock, || {
        let name = std::os::unix::net::SocketAddr::from_abstract_name(ABSTRACT)?;
        std::os::unix::net::UnixStream::connect_addr(&name)?;
        Ok(())
    }),
    probe("abstract-datagram", "a datagram to one", Landlock, || {
        let name = std::os::unix::net::SocketAddr::from_abstract_name(format!("{ABSTRACT}-datagram"))?;
        std::os::unix::net::UnixDatagram::unbound()?.send_to_addr(b"x", &name)?;
        Ok(())
    }),
];

const fn kind(name: &'static str, words: &'static str, go: fn() -> Try) -> Probe {
    probe(name, words, Wall::Seccomp, go)
}

/// How a kernel says that it was built without a family, type or protocol.
const NO_SUCH_SOCKET: &[i32] = &[libc::EAFNOSUPPORT, libc::EPROTONOSUPPORT, libc::ESOCKTNOSUPPORT];

/// Waits on everything that the probes want to reach.
pub(crate) fn listen() -> io::Result<()> {
    let ports = [v4(DECLARED), v4(UNDECLARED), (Ipv6Addr::LOCALHOST, UNDECLARED).into()];
    let ports: Vec<TcpListener> = ports.into_iter().map(TcpListener::bind).collect::<io::Result<_>>()?;
    let name = std::os::unix::net::SocketAddr::from_abstract_name(ABSTRACT)?;
    let stream = std::os::unix::net::UnixListener::bind_addr(&name)?;
    let name = std::os::unix::net::SocketAddr::from_abstract_name(format!("{ABSTRACT}-datagram"))?;
    let datagram = std::os::unix::net::UnixDatagram::bind_addr(&name)?;
    std::thread::spawn(move || while stream.accept().is_ok() {});
    std::thread::spawn(move || while datagram.recv(&mut [0]).is_ok() {});
    let serve = |port: TcpListener| std::thread::spawn(move || while port.accept().is_ok() {});
    for thread in ports.into_iter().map(serve).collect::<Vec<_>>() {
        thread.join().map_err(|_| io::Error::other("a listener ended"))?;
    }
    Ok(())
}

fn v4(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// `struct sockaddr_in` of a port of this host.
fn v4_bytes(port: u16) -> [u8; 16] {
    let [high, low] = port.to_be_bytes();
    [libc::AF_INET as u8, 0, high, low, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]
}

fn connect(to: SocketAddr) -> Try {
    TcpStream::connect_timeout(&to, Duration::from_secs(3))?;
    Ok(())
}

fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    open!(libc::SYS_socket, family, kind | libc::SOCK_CLOEXEC, protocol)
}

fn tcp() -> io::Result<OwnedFd> {
    socket(ANY_V4, STREAM, 0)
}

fn opens(family: i32, kind: i32, protocol: i32) -> Try {
    unless_absent(socket(family, kind, protocol), NO_SUCH_SOCKET, "this kind of socket").map(drop)
}

fn option(socket: RawFd, level: i32, name: i32, value: i32) -> Try {
    sys!(libc::SYS_setsockopt, socket, level, name, value.to_ne_bytes().as_slice(), 4)?;
    Ok(())
}

/// A message that opens a connection as it is sent.
fn fastopen_message(number: libc::c_long) -> Try {
    let (socket, to, bytes) = (allowed(tcp())?, v4_bytes(UNDECLARED), [b'x'; 1]);
    let part = words(&[raw::address(&bytes), 1]);
    // struct msghdr: name, its length, parts, how many, no control data, no flags; struct mmsghdr adds a length.
    let mut message = words(&[raw::address(&to), 16, raw::address(&part), 1, 0, 0, 0, 0]);
    if number == libc::SYS_sendmsg {
        sys!(number, socket.as_raw_fd(), message.as_mut_slice(), libc::MSG_FASTOPEN)?;
    } else {
        sys!(number, socket.as_raw_fd(), message.as_mut_slice(), 1, libc::MSG_FASTOPEN)?;
    }
    Ok(())
}

/// connect(2) again and again, while another process changes the port in the address that it reads.
fn rewritten() -> Try {
    race(&v4_bytes(DECLARED), &v4_bytes(UNDECLARED), |address| {
        let Ok(socket) = tcp() else { return 1 };
        if sys!(libc::SYS_connect, socket.as_raw_fd(), address.address(), 16).is_err() {
            return 1;
        }
        match TcpStream::from(socket).peer_addr() {
            Ok(peer) if peer.port() == UNDECLARED => CROSSED,
            _ => 0,
        }
    })
}

/// A socket that was connected where the labels allow it, and is connected no more.
fn dissolved() -> Result<OwnedFd, Failure> {
    let socket = allowed(tcp())?;
    allowed(sys!(libc::SYS_connect, socket.as_raw_fd(), v4_bytes(DECLARED).as_slice(), 16))?;
    allowed(sys!(libc::SYS_connect, socket.as_raw_fd(), [0u8; 16].as_slice(), 16))?;
    Ok(socket)
}

/// RTM_NEWLINK of the loopback, changing nothing.
fn set_link() -> Try {
    let netlink = socket(libc::AF_NETLINK, RAW, 0)?;
    let mut message = Vec::new();
    message.extend(32u32.to_ne_bytes()); // length of everything
    message.extend(16u16.to_ne_bytes()); // RTM_NEWLINK
    message.extend(5u16.to_ne_bytes()); // NLM_F_REQUEST | NLM_F_ACK
    message.extend([0; 8]); // sequence, port
    message.extend([0; 4]); // AF_UNSPEC, kind of device
    message.extend(1u32.to_ne_bytes()); // the loopback's index
    message.extend([0; 8]); // flags, and which of them to change
    sys!(libc::SYS_sendto, netlink.as_raw_fd(), message.as_slice(), 32, 0, 0, 0)?;
    let mut answer = [0; 512];
    sys!(libc::SYS_recvfrom, netlink.as_raw_fd(), answer.as_mut_slice(), 512, 0, 0, 0)?;
    let number = answer.get(16..20).and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_ne_bytes);
    if number == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-number).into()) }
}
