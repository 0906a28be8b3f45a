//! Addresses that callers give, and what a plan says of them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use nix::errno::Errno;
use profiles::Plan;
use profiles::intent::{Endpoint, PortRange, Protocol};

/// Longest address of the families that are looked at, `struct sockaddr_un`; the kernel takes at most 128 bytes.
pub(super) const LONGEST_ADDRESS: usize = 110;

/// Port of name servers.
const DNS: u16 = 53;

/// An address that a caller gave to bind(2) or connect(2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    Inet(SocketAddr),
    /// A unix socket with a path; abstract ones are the scope's matter.
    Unix(PathBuf),
    /// Of no interest here: abstract, netlink, to disconnect.
    Other,
}

impl Address {
    /// Parses a `struct sockaddr`; what is cut short is of no interest: the kernel refuses it.
    pub(super) fn parse(bytes: &[u8]) -> Self {
        Self::parsed(bytes).unwrap_or(Self::Other)
    }

    fn parsed(bytes: &[u8]) -> Option<Self> {
        let family = i32::from(u16::from_ne_bytes(array(bytes, 0)?));
        let port = || array(bytes, 2).map(u16::from_be_bytes);
        match family {
            libc::AF_INET => {
                let ip = Ipv4Addr::from(array::<4>(bytes, 4)?);
                Some(Self::Inet(SocketAddr::new(ip.into(), port()?)))
            }
            libc::AF_INET6 => {
                let ip = Ipv6Addr::from(array::<16>(bytes, 8)?);
                Some(Self::Inet(SocketAddr::new(ip.to_canonical(), port()?)))
            }
            libc::AF_UNIX => {
                let path = bytes.get(2..)?.split(|byte| *byte == 0).next()?;
                (!path.is_empty()).then(|| Self::Unix(OsString::from_vec(path.to_vec()).into()))
            }
            _ => None,
        }
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// The network part of a plan, parsed.
#[derive(Debug)]
pub(super) struct Network {
    listen: Vec<PortRange>,
    connect: Vec<Endpoint>,
    /// TCP ports that Landlock lets be bound and connected to; `None` where it does not restrict them.
    bind_tcp: Option<Vec<(u16, u16)>>,
    connect_tcp: Option<Vec<(u16, u16)>>,
    /// Whether cgroup-BPF programs stop what Landlock does not know.
    programs: bool,
}

/// A port of an address, in the words of records: `10.0.0.1:443/tcp`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place(pub(super) SocketAddr, pub(super) Protocol);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.0, self.1)
    }
}

impl Network {
    /// The plan's network wall, if it has one. Entries that do not parse, which `profiles` never writes, grant nothing.
    pub(super) fn of(plan: &Plan) -> Option<Self> {
        let network = plan.network.as_ref()?;
        let landlock = plan.landlock.as_ref();
        Some(Self {
            listen: network.listen.iter().filter_map(|entry| entry.parse().ok()).collect(),
            connect: network.connect.iter().filter_map(|entry| entry.parse().ok()).collect(),
            bind_tcp: landlock.and_then(|landlock| landlock.bind_tcp.clone()),
            connect_tcp: landlock.and_then(|landlock| landlock.connect_tcp.clone()),
            programs: plan.sockets.is_some(),
        })
    }

    /// Whether a port was declared to be listened on.
    pub(super) fn may_listen(&self, port: u16, protocol: Protocol) -> bool {
        let port = PortRange { protocol, first: port, last: port };
        self.listen.iter().any(|range| range.covers(&port))
    }

    /// Whether binding is declared: a port to listen on, or any of the kernel's choice for who has declared a TCP port or
    /// to connect. To listen on that one is another matter.
    pub(super) fn may_bind(&self, Place(address, protocol): Place) -> bool {
        let port = address.port();
        let listens = || self.listen.iter().any(|range| range.protocol == Protocol::Tcp);
        let chosen = || protocol == Protocol::Udp || !self.connect.is_empty() || listens();
        self.may_listen(port, protocol) || (port == 0 && chosen())
    }

    /// Whether connecting is declared; `servers` are the container's name servers, asked for where needed.
    pub(super) fn may_connect(
        &self,
        Place(address, protocol): Place,
        servers: impl Fn() -> Vec<IpAddr>,
    ) -> bool {
        let port = PortRange { protocol, first: address.port(), last: address.port() };
        self.connect.iter().any(|endpoint| match endpoint {
            Endpoint::Ports { network, ports } => {
                ports.covers(&port) && network.is_none_or(|network| network.contains(address.ip()))
            }
            Endpoint::Dns => address.port() == DNS && servers().contains(&address.ip()),
            Endpoint::Unix(_) => false,
        })
    }

    /// Whether a unix socket on a volume was declared.
    pub(super) fn may_connect_unix(&self, path: &Path) -> bool {
        self.connect.iter().any(|endpoint| match endpoint {
            Endpoint::Unix(declared) => Path::new(declared.as_str()) == path,
            Endpoint::Ports { .. } | Endpoint::Dns => false,
        })
    }

    /// Whether cgroup-BPF programs watch connections.
    pub(super) fn has_programs(&self) -> bool {
        self.programs
    }

    /// With what the kernel stops a binding that is not declared, if it does: Landlock is asked first, and knows TCP ports
    /// alone.
    pub(super) fn stops_bind(&self, place: Place) -> Option<Errno> {
        self.stops(self.bind_tcp.as_deref(), place)
    }

    /// The same for connecting.
    pub(super) fn stops_connect(&self, place: Place) -> Option<Errno> {
        self.stops(self.connect_tcp.as_deref(), place)
    }

    fn stops(&self, ports: Option<&[(u16, u16)]>, Place(address, protocol): Place) -> Option<Errno> {
        let port = address.port();
        let listed =
            |ports: &[(u16, u16)]| ports.iter().any(|(first, last)| (*first..=*last).contains(&port));
        let landlock = protocol == Protocol::Tcp && ports.is_some_and(|ports| !listed(ports));
        landlock.then_some(Errno::EACCES).or(self.programs.then_some(Errno::EPERM))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use profiles::plan::{LandlockPlan, NetworkPlan};

    fn network(connect: &[&str], ports: &[(u16, u16)]) -> Network {
        listening(&["8080-8090/tcp", "53/udp"], connect, ports)
    }

    fn listening(listen: &[&str], connect: &[&str], ports: &[(u16, u16)]) -> Network {
        let listen = listen.iter().map(ToString::to_string).collect();
        let connect = connect.iter().map(ToString::to_string).collect();
        Network::of(&Plan {
            network: Some(NetworkPlan { listen, connect }),
            landlock: Some(LandlockPlan {
                abi: 4,
                bind_tcp: Some(vec![(0, 0)]),
                connect_tcp: Some(ports.to_vec()),
            }),
            ..crate::testing::bare_plan()
        })
        .unwrap()
    }

    fn tcp(address: &str) -> Place {
        Place(address.parse().unwrap(), Protocol::Tcp)
    }

    #[test]
    fn addresses_are_read_as_the_kernel_reads_them() {
        let parse = |bytes: &[u8]| Address::parse(bytes);
        let inet = |text: &str| Address::Inet(text.parse().unwrap());
        assert_eq!(parse(&[2, 0, 0x1f, 0x90, 10, 0, 0, 1, 0, 0]), inet("10.0.0.1:8080"));
        let mut six = vec![10, 0, 0, 80, 0, 0, 0, 0];
        six.extend("::ffff:1.2.3.4".parse::<Ipv6Addr>().unwrap().octets());
        assert_eq!(parse(&six), inet("1.2.3.4:80"));
        assert_eq!(parse(b"\x01\0/run/x\0junk"), Address::Unix("/run/x".into()));
        for other in
            [&b""[..], b"\x02", b"\x02\0\0\x50\x0a", b"\x01\0", b"\x01\0\0abstract", b"\0\0", b"\x10\0"]
        {
            assert_eq!(parse(other), Address::Other, "{other:?}");
        }
    }

    #[test]
    fn what_was_declared_may_be_connected_to_and_nothing_else() {
        let network = network(
            &["10.0.0.0/8:443/tcp", "5432/tcp", "dns", "unix:/run/db.sock"],
            &[(443, 443), (5432, 5432)],
        );
        let servers = || vec!["10.96.0.10".parse().unwrap()];
        let may = |place| network.may_connect(place, servers);
        assert!(may(tcp("10.1.2.3:443")) && may(tcp("[2001:db8::1]:5432")) && may(tcp("10.96.0.10:53")));
        assert!(!may(tcp("11.0.0.1:443")) && !may(tcp("10.0.0.1:80")) && !may(tcp("8.8.8.8:53")));
        assert!(
            network.may_connect_unix(Path::new("/run/db.sock"))
                && !network.may_connect_unix(Path::new("/run/x"))
        );
        let udp = Place("1.1.1.1:80".parse().unwrap(), Protocol::Udp);
        assert_eq!(network.stops_connect(tcp("10.0.0.1:80")), Some(Errno::EACCES), "Landlock knows the port");
        assert_eq!(network.stops_connect(tcp("11.0.0.1:443")), None, "and no address");
        assert_eq!(network.stops_connect(udp), None);
        let programs = Network { programs: true, ..network };
        assert_eq!(programs.stops_bind(tcp("10.0.0.1:80")), Some(Errno::EACCES), "Landlock comes first");
        assert_eq!(programs.stops_bind(udp), Some(Errno::EPERM));
    }

    #[test]
    fn a_port_of_the_kernel_s_choice_is_for_who_declared_tcp_and_never_to_listen_on() {
        assert!(listening(&[], &["80/tcp"], &[]).may_bind(tcp("0.0.0.0:0")));
        assert!(listening(&["80/tcp"], &[], &[]).may_bind(tcp("[::1]:0")));
        assert!(!listening(&["53/udp"], &[], &[]).may_bind(tcp("0.0.0.0:0")));
        assert!(!listening(&[], &[], &[]).may_bind(tcp("0.0.0.0:0")));
        assert!(
            network(&[], &[]).may_bind(tcp("127.0.0.1:8085"))
                && !network(&[], &[]).may_bind(tcp("127.0.0.1:8091"))
        );
        assert!(!network(&["80/tcp"], &[]).may_listen(0, Protocol::Tcp));
    }
}
