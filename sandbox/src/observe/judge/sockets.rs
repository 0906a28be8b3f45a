//! Sockets: where they are bound, connected, listened on.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{
    Backlog, SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt, listen, sockopt,
};
use profiles::intent::Protocol;
use profiles::plan::Wall;
use profiles::policy::Mode;

use super::{Forbidden, Judge};
use crate::network::servers_in;
use crate::observe::caller::{self, Caller};
use crate::observe::network::{Address, LONGEST_ADDRESS, Network, Place};
use crate::observe::still_waits;
use crate::sys::seccomp::{Answer, Notification};

/// Before the path of a unix socket, in labels and records.
const UNIX: &str = "unix:";

impl Judge<'_> {
    pub(super) fn bind(&self, arguments: &[u64; 6], caller: Caller<'_>) -> Option<Forbidden> {
        match address(arguments, caller)? {
            Address::Inet(address) => {
                let network = self.network.as_ref()?;
                let place = Place(address, protocol(&caller.take(arguments[0] as RawFd)));
                (!network.may_bind(place)).then(|| network_record(place, network.stops_bind(place)))
            }
            Address::Unix(path) => {
                let cwd = caller.directory(libc::AT_FDCWD)?;
                self.make(&caller::join(&cwd, caller::bytes(&path)), caller)
            }
            Address::Other => None,
        }
    }

    pub(super) fn connect(&self, arguments: &[u64; 6], caller: Caller<'_>) -> (Answer, Option<Forbidden>) {
        let forbidden = self.network.as_ref().zip(address(arguments, caller));
        let forbidden = forbidden.and_then(|(network, address)| match address {
            // The programs of the network wall tell what they refuse.
            Address::Inet(_) if network.has_programs() => None,
            Address::Inet(address) => {
                let place = Place(address, protocol(&caller.take(arguments[0] as RawFd)));
                let allowed = network.may_connect(place, || self.name_servers(caller).to_vec());
                (!allowed).then(|| network_record(place, network.stops_connect(place)))
            }
            Address::Unix(path) => self.connect_unix(network, &path, caller),
            Address::Other => None,
        });
        let is_unix = |forbidden: &Forbidden| forbidden.object.starts_with(UNIX);
        match (&forbidden, self.plan.mode) {
            // No wall of the kernel's stops it: the answer does.
            (Some(unix), Mode::Enforce) if is_unix(unix) => (Answer::Errno(libc::EACCES), forbidden),
            _ => (Answer::Continue, forbidden),
        }
    }

    /// A socket outside the container's own write folders. Who rewrites the path between this look and the kernel's gets by:
    /// docs/escapes.md.
    fn connect_unix(&self, network: &Network, path: &Path, caller: Caller<'_>) -> Option<Forbidden> {
        let cwd = caller.directory(libc::AT_FDCWD)?;
        let root = caller.root().ok()?;
        let found = root.look(caller::join(&cwd, caller::bytes(path))).ok()?;
        let real = root.path_of(&found.fd)?;
        let is_beneath = |folder: &str| crate::paths::is_beneath(Path::new(real.as_str()), Path::new(folder));
        let mut declared = self.plan.write.iter().flatten();
        let own = declared.any(|folder| is_beneath(folder.as_str()))
            || self.floor.iter().any(|folder| is_beneath(folder));
        if own || network.may_connect_unix(Path::new(real.as_str())) {
            return None;
        }
        Some(Forbidden { wall: Wall::Network, object: format!("{UNIX}{real}"), errno: Some(Errno::EACCES) })
    }

    /// Only on declared ports. A socket that was never bound gets a port of the kernel's choice from listen(2), past
    /// every wall: so the observer listens in the caller's stead, on the very socket whose port it saw.
    pub(super) fn listen(
        &self,
        call: &Notification,
        caller: Caller<'_>,
        listener: BorrowedFd<'_>,
    ) -> (Answer, Option<Forbidden>) {
        let Some(network) = &self.network else { return (Answer::Continue, None) };
        let socket = match caller.take(call.data.args[0] as RawFd) {
            Ok(socket) if still_waits(listener, call) => socket,
            // Not a descriptor: the kernel says so best. Nor can anything of ours be at stake.
            Err(error) if error.raw_os_error() == Some(libc::EBADF) => {
                return (Answer::Errno(libc::EBADF), None);
            }
            _ => return (Answer::Errno(libc::EACCES), None),
        };
        let Some(address) = inet_address(&socket) else { return (Answer::Continue, None) };
        let place = Place(address, Protocol::Tcp);
        let declared = network.may_listen(address.port(), Protocol::Tcp);
        let forbidden = (!declared).then(|| match address.port() {
            0 => Forbidden {
                wall: Wall::Network,
                object: "autobind/tcp".to_owned(),
                errno: Some(Errno::EACCES),
            },
            _ => network_record(place, Some(Errno::EACCES)),
        });
        match (forbidden, self.plan.mode) {
            (forbidden, Mode::Audit) => (Answer::Continue, forbidden),
            (Some(forbidden), Mode::Enforce) => (Answer::Errno(libc::EACCES), Some(forbidden)),
            (None, Mode::Enforce) => (listen_for(&socket, call.data.args[1]), None),
        }
    }

    fn name_servers(&self, caller: Caller<'_>) -> &[IpAddr] {
        // One that cannot be read grants nothing.
        let read = || caller.root().and_then(|root| servers_in(&root)).unwrap_or_default();
        self.name_servers.get_or_init(read)
    }
}

fn network_record(place: Place, errno: Option<Errno>) -> Forbidden {
    Forbidden { wall: Wall::Network, object: place.to_string(), errno }
}

fn listen_for(socket: &OwnedFd, backlog: u64) -> Answer {
    // The kernel cuts a backlog that is too long; so does this.
    let backlog = Backlog::new(backlog as u32 as i32).unwrap_or(Backlog::MAXCONN);
    match listen(socket, backlog) {
        Ok(()) => Answer::Value(0),
        Err(errno) => Answer::Errno(errno as i32),
    }
}

/// The own address of a socket of either internet family.
fn inet_address(socket: &OwnedFd) -> Option<SocketAddr> {
    let address: SockaddrStorage = getsockname(socket.as_raw_fd()).ok()?;
    match i32::from(address.family()? as u16) {
        libc::AF_INET => address.as_sockaddr_in().map(|a| SocketAddr::from((a.ip(), a.port()))),
        libc::AF_INET6 => {
            address.as_sockaddr_in6().map(|a| SocketAddr::from((a.ip().to_canonical(), a.port())))
        }
        _ => None,
    }
}

fn address(arguments: &[u64; 6], caller: Caller<'_>) -> Option<Address> {
    let length = usize::try_from(arguments[2]).ok()?.min(LONGEST_ADDRESS);
    Some(Address::parse(&caller.bytes(arguments[1], length)?))
}

/// Datagrams are UDP's, all else counts as TCP.
fn protocol(socket: &io::Result<OwnedFd>) -> Protocol {
    let kind = socket.as_ref().ok().and_then(|socket| getsockopt(socket, sockopt::SockType).ok());
    if kind == Some(SockType::Datagram) { Protocol::Udp } else { Protocol::Tcp }
}
