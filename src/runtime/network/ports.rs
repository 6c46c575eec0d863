//! Published ports: sockets of the host, bound before the container starts.
//!
//! A bound socket is what reserves a port, for other containers as for all other programs, and it is gone with
//! whoever holds it. The firewall leads most packets past it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};
use serde::{Deserialize, Serialize};

use super::NetworkError;
use super::model::Member;
use crate::runtime::monitor::Published;

/// A port to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    pub container_port: u16,
    pub protocol: Protocol,
    /// None for all addresses of both families.
    pub host_ip: Option<IpAddr>,
    /// The first and the last of which one is taken; none for any that is free.
    pub host_ports: Option<(u16, u16)>,
}

/// What ports belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// As `/etc/protocols` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// A socket of the host, and where in the container what comes to it goes.
#[derive(Debug)]
pub struct Listener {
    pub socket: OwnedFd,
    pub protocol: Protocol,
    pub target: SocketAddr,
}

/// Sockets for all mappings, of the calling thread's network.
pub(super) fn publish(
    mappings: &[Mapping],
    member: &Member,
    others: &[Member],
) -> Result<(Vec<Listener>, Vec<Published>), NetworkError> {
    let mut listeners = Vec::new();
    let mut published = Vec::new();
    let addresses: Vec<IpAddr> = match member.entrance() {
        Some(entrance) => entrance.addresses().collect(),
        None if mappings.is_empty() => Vec::new(),
        None => return Err(NetworkError::Internal),
    };
    for mapping in mappings {
        let taken = |port: &Published| port.protocol == "sctp" && mapping.protocol == Protocol::Sctp;
        let taken: Vec<u16> = others
            .iter()
            .flat_map(|member| &member.ports)
            .chain(&published)
            .filter(|port| taken(port))
            .map(|port| port.host_port)
            .collect();
        for (host, socket) in bind(mapping, &taken)? {
            let target = addresses
                .iter()
                .find(|address| address.is_ipv4() == host.is_ipv4())
                .or(addresses.first())
                .expect("an endpoint has an address");
            published.push(Published {
                container_port: mapping.container_port,
                protocol: mapping.protocol.name().to_owned(),
                host_ip: host.ip(),
                host_port: host.port(),
            });
            listeners.extend(socket.map(|socket| Listener {
                socket,
                protocol: mapping.protocol,
                target: SocketAddr::new(*target, mapping.container_port),
            }));
        }
    }
    Ok((listeners, published))
}

type Bound = Vec<(SocketAddr, Option<OwnedFd>)>;

fn bind(mapping: &Mapping, taken: &[u16]) -> Result<Bound, NetworkError> {
    /// How often the system's choice for one family may be taken in the other.
    const TRIES: u32 = 16;
    if mapping.protocol == Protocol::Sctp {
        return bind_sctp(mapping, taken);
    }
    let Some((first, last)) = mapping.host_ports else {
        let mut outcome = bind_port(mapping, 0);
        for _ in 0..TRIES {
            match outcome {
                Err(NetworkError::PortTaken(_)) => outcome = bind_port(mapping, 0),
                outcome => return outcome,
            }
        }
        return outcome;
    };
    if first == last {
        return bind_port(mapping, first);
    }
    for port in first..=last {
        match bind_port(mapping, port) {
            Err(NetworkError::PortTaken(_)) => {}
            outcome => return outcome,
        }
    }
    Err(NetworkError::NoPort(first, last))
}

/// One port, of both families where no address is given. A host without IPv6 has one family.
fn bind_port(mapping: &Mapping, port: u16) -> Result<Bound, NetworkError> {
    let one = |address, port| {
        let address = SocketAddr::new(address, port);
        bind_one(mapping.protocol, address).map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => NetworkError::PortTaken(address),
            _ => NetworkError::Port(address, source),
        })
    };
    if let Some(address) = mapping.host_ip {
        let (address, socket) = one(address, port)?;
        return Ok(vec![(address, Some(socket))]);
    }
    let (four, socket) = one(Ipv4Addr::UNSPECIFIED.into(), port)?;
    let mut bound = vec![(four, Some(socket))];
    match one(Ipv6Addr::UNSPECIFIED.into(), four.port()) {
        Ok((six, socket)) => bound.push((six, Some(socket))),
        Err(NetworkError::Port(..)) => {}
        Err(error) => return Err(error),
    }
    Ok(bound)
}

/// Those go through the firewall alone, and are counted among ourselves alone.
fn bind_sctp(mapping: &Mapping, taken: &[u16]) -> Result<Bound, NetworkError> {
    let address = mapping.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    let (first, last) = mapping.host_ports.unwrap_or((49_153, 65_535));
    let port = (first..=last).find(|port| !taken.contains(port)).ok_or(match first == last {
        true => NetworkError::PortTaken(SocketAddr::new(address, first)),
        false => NetworkError::NoPort(first, last),
    })?;
    Ok(vec![(SocketAddr::new(address, port), None)])
}

fn bind_one(protocol: Protocol, address: SocketAddr) -> io::Result<(SocketAddr, OwnedFd)> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let (kind, number) = match protocol {
        Protocol::Udp => (SocketType::DGRAM, ipproto::UDP),
        Protocol::Tcp | Protocol::Sctp => (SocketType::STREAM, ipproto::TCP),
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, kind, flags, Some(number))?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if protocol == Protocol::Tcp {
        // Connections of an earlier container that are still being forgotten are not in the way.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    match rustix::net::bind(&socket, &address) {
        // IPv6 is off on this host.
        Err(Errno::ADDRNOTAVAIL) => return Err(Errno::ADDRNOTAVAIL.into()),
        bound => bound?,
    }
    if protocol == Protocol::Tcp {
        rustix::net::listen(&socket, 1024)?;
    }
    let bound = SocketAddr::try_from(rustix::net::getsockname(&socket)?)?;
    Ok((bound, socket))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(host_ip: &str, host_ports: Option<(u16, u16)>) -> Mapping {
        Mapping {
            container_port: 80,
            protocol: Protocol::Tcp,
            host_ip: Some(host_ip.parse().unwrap()),
            host_ports,
        }
    }

    #[test]
    fn a_bound_port_is_reserved() {
        let first = bind(&mapping("127.0.0.1", None), &[]).unwrap();
        let port = first[0].0.port();
        let error = bind(&mapping("127.0.0.1", Some((port, port))), &[]).unwrap_err();
        assert_eq!(error.to_string(), format!("bind for 127.0.0.1:{port} failed: port is already allocated"));
        // A range passes over it, and says so when nothing is left.
        match bind(&mapping("127.0.0.1", Some((port, port.saturating_add(5)))), &[]) {
            Ok(bound) => assert!(bound[0].0.port() > port),
            Err(error) => assert!(matches!(error, NetworkError::NoPort(..)), "{error}"),
        }
        drop(first);
        assert!(bind(&mapping("127.0.0.1", Some((port, port))), &[]).is_ok());
    }

    #[test]
    fn both_families_get_one_number() {
        let any = Mapping { host_ip: None, ..mapping("::", None) };
        let bound = bind(&any, &[]).unwrap();
        assert!(bound[0].0.is_ipv4());
        assert!(bound.iter().all(|(address, _)| address.port() == bound[0].0.port()));
    }

    #[test]
    fn sctp_is_counted_among_ourselves() {
        let sctp = Mapping { protocol: Protocol::Sctp, ..mapping("0.0.0.0", Some((7, 8))) };
        assert_eq!(bind(&sctp, &[7]).unwrap()[0].0.port(), 8);
        assert!(matches!(bind(&sctp, &[7, 8]), Err(NetworkError::NoPort(7, 8))));
    }
}
