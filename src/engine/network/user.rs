//! The network of an ordinary user's container where there are no bridges, for want of `nft`: its own, connected by a
//! program.
//!
//! So there is one network for each container, without others in it; what is published is published by the program that
//! connects it.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};

use crate::engine::container::config::{NetworkConfig, PortMapping, Protocol};
use crate::runtime::monitor::Published;
use crate::runtime::network::user::{Forward, UserNetwork};

/// The network that a container is in if nothing else is said.
const DEFAULT: &str = "bridge";

/// Why a container of an ordinary user has no network.
#[derive(Debug, thiserror::Error)]
pub enum UserNetworkError {
    #[error(
        "an ordinary user's container has no network here: {0}; without that there are `--network host` and `--network none`"
    )]
    Unusable(String),
    #[error(
        "the network `{0}` needs the program `nft`, which is not there: install the package `nftables`; without `--network` a container has a network of its own, and `--network container:NAME` shares another's"
    )]
    Bridge(String),
    #[error(
        "addresses, aliases and MAC addresses are for bridges, which need the program `nft`: install the package `nftables`"
    )]
    Address,
    #[error("cannot publish port {port}/sctp: an ordinary user's ports are tcp and udp")]
    Sctp { port: u16 },
    #[error("cannot publish a port: slirp4netns does not do that; install pasta")]
    NoForwarding,
    #[error("cannot publish port {port} at {address}{}", privileged(*port, source))]
    Taken { address: IpAddr, port: u16, source: io::Error },
}

fn privileged(port: u16, error: &io::Error) -> &'static str {
    if port < 1024 && error.kind() == io::ErrorKind::PermissionDenied {
        " (ports below 1024 are root's, unless `sysctl net.ipv4.ip_unprivileged_port_start` says otherwise)"
    } else {
        ""
    }
}

/// How the container is connected, and where its ports are.
pub(super) fn prepare(
    config: &NetworkConfig,
    found: &Result<UserNetwork, String>,
) -> Result<(UserNetwork, Vec<Published>), UserNetworkError> {
    for endpoint in &config.endpoints {
        if endpoint.network != DEFAULT {
            return Err(UserNetworkError::Bridge(endpoint.network.clone()));
        }
        let plain = endpoint.ipv4.is_none() && endpoint.ipv6.is_none() && endpoint.mac.is_none();
        if !plain || !endpoint.aliases.is_empty() {
            return Err(UserNetworkError::Address);
        }
    }
    let mut network = found.clone().map_err(UserNetworkError::Unusable)?;
    let mut ports = config.ports.clone();
    if config.publish_all {
        let published: BTreeSet<(u16, Protocol)> =
            ports.iter().map(|port| (port.container_port, port.protocol)).collect();
        let exposed = config.exposed.iter().filter(|exposed| !published.contains(exposed));
        ports.extend(exposed.map(|(container_port, protocol)| PortMapping {
            container_port: *container_port,
            protocol: *protocol,
            host_ip: None,
            host_ports: None,
        }));
    }
    if !ports.is_empty() && !network.programs.iter().any(|program| program.name() == "pasta") {
        return Err(UserNetworkError::NoForwarding);
    }
    let mut published = Vec::new();
    // Bound until all are chosen, so that no two get one; then the program binds them itself.
    let mut held = Vec::new();
    for port in ports {
        let (host_port, socket) = choose(&port)?;
        held.push(socket);
        network.forwards.push(Forward {
            udp: port.protocol == Protocol::Udp,
            host_ip: port.host_ip,
            host_port,
            port: port.container_port,
        });
        published.push(Published {
            container_port: port.container_port,
            protocol: if port.protocol == Protocol::Udp { "udp" } else { "tcp" }.to_owned(),
            host_ip: port.host_ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            host_port,
        });
    }
    Ok((network, published))
}

/// A bound socket, held while others are chosen.
enum Held {
    Tcp(#[allow(dead_code, reason = "it is held, not used")] TcpListener),
    Udp(#[allow(dead_code, reason = "it is held, not used")] UdpSocket),
}

/// A port of the machine that is free.
fn choose(port: &PortMapping) -> Result<(u16, Held), UserNetworkError> {
    let address = port.host_ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let (first, last) = port.host_ports.unwrap_or((0, 0));
    let mut refused = io::Error::from(io::ErrorKind::AddrInUse);
    for candidate in first..=last {
        let bound = match port.protocol {
            Protocol::Tcp => TcpListener::bind((address, candidate))
                .and_then(|socket| Ok((socket.local_addr()?.port(), Held::Tcp(socket)))),
            Protocol::Udp => UdpSocket::bind((address, candidate))
                .and_then(|socket| Ok((socket.local_addr()?.port(), Held::Udp(socket)))),
            Protocol::Sctp => return Err(UserNetworkError::Sctp { port: port.container_port }),
        };
        match bound {
            Ok(bound) => return Ok(bound),
            Err(error) => refused = error,
        }
    }
    Err(UserNetworkError::Taken { address, port: first, source: refused })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::container::config::Endpoint;
    use crate::runtime::network::user::Program;

    fn pasta() -> Result<UserNetwork, String> {
        Ok(UserNetwork { programs: vec![Program::Pasta("/usr/bin/pasta".into())], forwards: Vec::new() })
    }

    fn mapping(host_ports: Option<(u16, u16)>, protocol: Protocol) -> PortMapping {
        PortMapping { container_port: 80, protocol, host_ip: Some("127.0.0.1".parse().unwrap()), host_ports }
    }

    #[test]
    fn free_ports_are_chosen_and_taken_ones_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let number = taken.local_addr().unwrap().port();
        let mut config = NetworkConfig { ports: vec![mapping(None, Protocol::Tcp); 3], ..Default::default() };
        let (network, published) = prepare(&config, &pasta()).unwrap();
        let chosen: BTreeSet<u16> = published.iter().map(|port| port.host_port).collect();
        assert_eq!((chosen.len(), network.forwards.len()), (3, 3));
        assert!(!chosen.contains(&0) && !chosen.contains(&number));
        config.ports = vec![mapping(Some((number, number)), Protocol::Tcp)];
        let error = prepare(&config, &pasta()).unwrap_err().to_string();
        assert!(error.contains(&number.to_string()), "{error}");
        // The same number of the other protocol is another port.
        config.ports = vec![mapping(Some((number, number)), Protocol::Udp)];
        assert_eq!(prepare(&config, &pasta()).unwrap().1[0].protocol, "udp");
    }

    #[test]
    fn exposed_ports_are_published_once() {
        let config = NetworkConfig {
            ports: vec![mapping(None, Protocol::Tcp)],
            publish_all: true,
            exposed: vec![(80, Protocol::Tcp), (53, Protocol::Udp)],
            ..Default::default()
        };
        let (_, published) = prepare(&config, &pasta()).unwrap();
        assert_eq!(published.iter().map(|port| port.container_port).collect::<Vec<_>>(), [80, 53]);
    }

    #[test]
    fn what_takes_bridges_is_refused() {
        let with = |endpoint: Endpoint| NetworkConfig { endpoints: vec![endpoint], ..Default::default() };
        let named = with(Endpoint { network: "front".into(), ..Default::default() });
        assert!(matches!(prepare(&named, &pasta()), Err(UserNetworkError::Bridge(name)) if name == "front"));
        let ipv4 = Some(Ipv4Addr::new(10, 0, 0, 9));
        let fixed = with(Endpoint { network: "bridge".into(), ipv4, ..Default::default() });
        assert!(matches!(prepare(&fixed, &pasta()), Err(UserNetworkError::Address)));
        let sctp = NetworkConfig { ports: vec![mapping(None, Protocol::Sctp)], ..Default::default() };
        assert!(matches!(prepare(&sctp, &pasta()), Err(UserNetworkError::Sctp { port: 80 })));
        let none = Err("neither pasta nor slirp4netns is installed".to_owned());
        let error = prepare(&NetworkConfig::default(), &none).unwrap_err().to_string();
        assert!(error.contains("--network host"), "{error}");
    }
}
