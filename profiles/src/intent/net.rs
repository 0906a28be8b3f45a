//! Ports, networks and endpoints: their text form and the canonical form of a set of them.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::AbsPath;

/// A transport protocol that a port can be declared for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Stream sockets (`IPPROTO_TCP`).
    Tcp,
    /// Datagram sockets (`IPPROTO_UDP`).
    Udp,
}

/// Ports `first..=last` of one protocol, as in `8000-8010/tcp`. Never empty, never port 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortRange {
    /// Protocol.
    pub protocol: Protocol,
    /// First port, at least 1.
    pub first: u16,
    /// Last port, at least `first`.
    pub last: u16,
}

/// An IPv4 or IPv6 network in CIDR form, host bits zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    /// Network address, host bits zero.
    pub address: IpAddr,
    /// Length of the prefix in bits: at most 32 for IPv4, 128 for IPv6.
    pub prefix: u8,
}

/// One entry of `dev.keep.connect`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Endpoint {
    /// `[address or CIDR:]port/proto`; `network` is `None` where any address is meant.
    Ports {
        /// Where to; anywhere if `None`.
        network: Option<Cidr>,
        /// Which ports.
        ports: PortRange,
    },
    /// `dns`: the nameservers in the container's resolv.conf, port 53, UDP and TCP.
    Dns,
    /// `unix:/path`: a socket on a volume.
    Unix(AbsPath),
}

/// Why a word is no valid entry of a label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct EntryError {
    /// Where in the word, in characters from 0.
    pub at: usize,
    /// What is wrong and what was meant.
    pub problem: String,
}

impl EntryError {
    /// A problem `at` characters into the word.
    pub fn new(at: usize, problem: impl Into<String>) -> Self {
        Self { at, problem: problem.into() }
    }

    fn shifted(self, by: usize) -> Self {
        Self { at: self.at + by, ..self }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl PortRange {
    /// Whether every port of `other` is one of these.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.protocol == other.protocol && self.first <= other.first && other.last <= self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}/{}", self.first, self.protocol)
        } else {
            write!(f, "{}-{}/{}", self.first, self.last, self.protocol)
        }
    }
}

impl TryFrom<String> for PortRange {
    type Error = EntryError;
    fn try_from(text: String) -> Result<Self, EntryError> {
        text.parse()
    }
}

impl From<PortRange> for String {
    fn from(ports: PortRange) -> Self {
        ports.to_string()
    }
}

impl TryFrom<String> for Endpoint {
    type Error = EntryError;
    fn try_from(text: String) -> Result<Self, EntryError> {
        text.parse()
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.to_string()
    }
}

fn port(text: &str) -> Result<u16, EntryError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(EntryError::new(
            0,
            format!("{text:?} is not a port; a port is a number from 1 to 65535"),
        ));
    }
    match text.parse::<u16>() {
        Ok(0) => Err(EntryError::new(0, "port 0 means any port; name the ports, from 1 to 65535")),
        Ok(port) => Ok(port),
        Err(_) => Err(EntryError::new(0, format!("port {text} is too high; the highest is 65535"))),
    }
}

impl FromStr for PortRange {
    type Err = EntryError;
    fn from_str(word: &str) -> Result<Self, EntryError> {
        let Some((ports, protocol)) = word.rsplit_once('/') else {
            let problem = match port(word) {
                Ok(_) => format!("no protocol; write {word}/tcp or {word}/udp"),
                Err(_) => format!("{word:?} is not a port; write it as 8080/tcp or 8000-8010/tcp"),
            };
            return Err(EntryError::new(0, problem));
        };
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            other => return Err(unknown_protocol(ports, other)),
        };
        let (low, high) = ports.split_once('-').unwrap_or((ports, ports));
        let first = port(low)?;
        let last = port(high).map_err(|error| error.shifted(ports.chars().count() - high.chars().count()))?;
        if last < first {
            let problem = format!("the range runs backwards; write {last}-{first}/{protocol}");
            return Err(EntryError::new(0, problem));
        }
        Ok(Self { protocol, first, last })
    }
}

fn unknown_protocol(ports: &str, protocol: &str) -> EntryError {
    if matches!(ports, "tcp" | "udp") {
        return EntryError::new(0, format!("the port comes first; write {protocol}/{ports}"));
    }
    let lower = protocol.to_ascii_lowercase();
    let meant = match lower.as_str() {
        "tcp" | "udp" => format!("; write {ports}/{lower}"),
        "" => format!("; write {ports}/tcp or {ports}/udp"),
        _ => "; there are tcp and udp".to_owned(),
    };
    EntryError::new(ports.chars().count() + 1, format!("unknown protocol {protocol:?}{meant}"))
}

impl Cidr {
    fn bits(address: IpAddr) -> u8 {
        if address.is_ipv4() { 32 } else { 128 }
    }

    fn masked(address: IpAddr, prefix: u8) -> IpAddr {
        match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
                Ipv4Addr::from_bits(v4.to_bits() & mask).into()
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
                Ipv6Addr::from_bits(v6.to_bits() & mask).into()
            }
        }
    }

    /// Whether `address` lies in this network.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && Self::masked(address, self.prefix) == self.address
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.prefix == Self::bits(self.address) {
            write!(f, "{}", self.address)
        } else {
            write!(f, "{}/{}", self.address, self.prefix)
        }
    }
}

impl FromStr for Cidr {
    type Err = EntryError;
    fn from_str(text: &str) -> Result<Self, EntryError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let Ok(address_parsed) = address.parse::<IpAddr>() else {
            return Err(EntryError::new(0, not_an_address(address)));
        };
        if let IpAddr::V6(v6) = address_parsed
            && let Some(v4) = v6.to_ipv4_mapped()
        {
            return Err(EntryError::new(
                0,
                format!("{address} is an IPv4 address in IPv6 clothes; write {v4}"),
            ));
        }
        let bits = Self::bits(address_parsed);
        let prefix = match prefix {
            None => bits,
            Some(prefix) => prefix.parse().ok().filter(|length| *length <= bits).ok_or_else(|| {
                let problem = format!("{prefix:?} is not a prefix length; it is a number from 0 to {bits}");
                EntryError::new(address.chars().count() + 1, problem)
            })?,
        };
        let network = Self { address: Self::masked(address_parsed, prefix), prefix };
        if network.address != address_parsed {
            let problem = format!(
                "{text} has host bits set; write {network} for the network or {address} for the host"
            );
            return Err(EntryError::new(0, problem));
        }
        Ok(network)
    }
}

fn not_an_address(text: &str) -> String {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return format!("{text:?} is not an IPv4 address");
    }
    format!(
        "{text:?} is a host name; names cannot be enforced yet: write its address or network, or the port alone"
    )
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ports { network: None, ports } => write!(f, "{ports}"),
            Self::Ports { network: Some(network), ports } if network.address.is_ipv4() => {
                write!(f, "{network}:{ports}")
            }
            Self::Ports { network: Some(network), ports } => write!(f, "[{network}]:{ports}"),
            Self::Dns => f.write_str("dns"),
            Self::Unix(path) => write!(f, "unix:{}", path.to_label()),
        }
    }
}

impl FromStr for Endpoint {
    type Err = EntryError;
    fn from_str(word: &str) -> Result<Self, EntryError> {
        if word == "dns" {
            return Ok(Self::Dns);
        }
        if word.eq_ignore_ascii_case("dns") {
            return Err(EntryError::new(0, format!("unknown entry {word:?}; did you mean \"dns\"?")));
        }
        if let Some(path) = word.strip_prefix("unix:") {
            return AbsPath::from_label(path).map(Self::Unix).map_err(|error| error.shifted(5));
        }
        if let Some((scheme, rest)) = word.split_once("://") {
            let problem = format!(
                "{word:?} is a URL; write address and port, without {scheme}://, as 10.0.0.0/8:443/tcp"
            );
            return Err(EntryError::new(
                0,
                if rest.is_empty() { "an address is missing".to_owned() } else { problem },
            ));
        }
        if let Some(rest) = word.strip_prefix('[') {
            let Some((address, rest)) = rest.split_once(']') else {
                return Err(EntryError::new(0, "the bracket is not closed; write [2001:db8::/32]:443/tcp"));
            };
            let network = address.parse::<Cidr>().map_err(|error| error.shifted(1))?;
            if network.address.is_ipv4() {
                return Err(EntryError::new(0, format!("brackets are for IPv6; write {address}{rest}")));
            }
            let shift = address.chars().count() + 3;
            let Some(ports) = rest.strip_prefix(':') else {
                return Err(EntryError::new(shift - 1, format!("no port; write [{address}]:443/tcp")));
            };
            let ports = ports.parse::<PortRange>().map_err(|error| error.shifted(shift))?;
            return Ok(Self::Ports { network: Some(network), ports });
        }
        plain_endpoint(word)
    }
}

/// An endpoint without brackets: `443/tcp`, `10.0.0.0/8:443/tcp`.
fn plain_endpoint(word: &str) -> Result<Endpoint, EntryError> {
    if let Ok(network) = word.parse::<Cidr>() {
        let meant = if network.address.is_ipv4() { network.to_string() } else { format!("[{network}]") };
        return Err(EntryError::new(0, format!("no port; write {meant}:443/tcp")));
    }
    let Some((address, ports)) = word.rsplit_once(':') else {
        return match word.parse() {
            Ok(ports) => Ok(Endpoint::Ports { network: None, ports }),
            Err(_) if word.contains('.') && !word.contains('/') => {
                Err(EntryError::new(0, not_an_address(word)))
            }
            Err(error) => Err(error),
        };
    };
    if address.contains(':') {
        return Err(EntryError::new(
            0,
            format!("an IPv6 address stands in brackets; write [{address}]:{ports}"),
        ));
    }
    let network = Some(address.parse()?);
    let ports = ports.parse::<PortRange>().map_err(|error| error.shifted(address.chars().count() + 1))?;
    Ok(Endpoint::Ports { network, ports })
}

/// Overlapping and adjacent ranges become one, so that spelling does not matter.
pub(crate) fn canonical_listen(ports: &BTreeSet<PortRange>) -> Vec<PortRange> {
    let mut merged: Vec<PortRange> = Vec::new();
    for range in ports {
        match merged.last_mut() {
            Some(last)
                if last.protocol == range.protocol && u32::from(range.first) <= u32::from(last.last) + 1 =>
            {
                last.last = last.last.max(range.last);
            }
            _ => merged.push(*range),
        }
    }
    merged
}

#[cfg(test)]
mod tests;
