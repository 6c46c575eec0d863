//! What a container has of networks when it starts: a namespace, and the files that tell of it.

use std::net::IpAddr;
use std::os::fd::OwnedFd;

use super::{Driver, NetworkError, find, user};
use crate::engine::container::config::{Endpoint, NetworkConfig, NetworkMode, Protocol};
use crate::runtime;
use crate::runtime::monitor::{Joined, Published};
use crate::runtime::network::user::UserNetwork;
use crate::runtime::network::{
    self as machine, DEFAULT_NETWORK, Dns, Machine, Mapping, Place, Reach, ResolvConf, Wanted,
};
use crate::store::Store;

/// What the machine must be known by.
#[derive(Debug, Clone)]
pub struct Host {
    /// Its `/etc/resolv.conf`.
    pub resolv_conf: Vec<u8>,
    /// Its name, which a container on its network shares.
    pub name: String,
    /// Where its networks are.
    pub machine: Machine,
    /// For an ordinary user without bridges: what connects each container by itself, or why nothing can.
    pub user_network: Option<Result<UserNetwork, String>>,
    /// Its kernel, which rules of seccomp profiles may depend on.
    pub kernel: crate::runtime::seccomp::Kernel,
}

/// Who is to have a network.
#[derive(Debug, Clone, Copy)]
pub struct Joining<'a> {
    /// 64 digits.
    pub id: &'a str,
    pub name: &'a str,
    pub config: &'a NetworkConfig,
}

/// What came of it.
#[derive(Debug)]
pub struct Prepared {
    pub network: runtime::Network,
    /// The container's own name.
    pub hostname: String,
    pub hosts: Vec<u8>,
    pub resolv_conf: Vec<u8>,
    pub joined: Vec<Joined>,
    pub published: Vec<Published>,
    /// Why it reaches nothing outside, where that is not as it should be.
    pub unconnected: Option<String>,
}

/// Makes the network of a container that is being started. `namespace_of` gives that of another one that runs.
///
/// # Errors
/// [`NetworkError`]; then nothing is left of it but bridges.
pub fn prepare(
    store: &Store,
    host: &Host,
    joining: Joining<'_>,
    namespace_of: impl FnOnce(&str) -> Result<OwnedFd, NetworkError>,
) -> Result<Prepared, NetworkError> {
    let Joining { id, config, .. } = joining;
    let short = &id[..id.len().min(12)];
    let asked = Dns {
        servers: config.dns.clone(),
        search: config.dns_search.clone(),
        options: config.dns_options.clone(),
    };
    let hostname = match (&config.hostname, &config.mode) {
        (Some(name), _) => name.clone(),
        (None, NetworkMode::Host) => host.name.clone(),
        (None, _) => short.to_owned(),
    };
    let network = match &config.mode {
        NetworkMode::Host => runtime::Network::Host,
        NetworkMode::None => runtime::Network::None,
        NetworkMode::Container(other) => runtime::Network::Namespace(namespace_of(other)?),
        NetworkMode::Networks => {
            return match &host.user_network {
                None => bridged(store, host, joining, &asked, hostname),
                Some(found) => of_user(host, config, found, &asked, hostname),
            };
        }
    };
    let loopback = IpAddr::from([127, 0, 0, 1]);
    let names = names_of(&hostname, config, None);
    Ok(Prepared {
        network,
        hosts: hosts(&[loopback], &names, &config.extra_hosts, Some(loopback)),
        resolv_conf: ResolvConf::new(&host.resolv_conf, &asked, Reach::Host).text,
        hostname,
        joined: Vec::new(),
        published: Vec::new(),
        unconnected: None,
    })
}

/// An ordinary user's container has a network of its own, without others in it.
fn of_user(
    host: &Host,
    config: &NetworkConfig,
    found: &Result<UserNetwork, String>,
    asked: &Dns,
    hostname: String,
) -> Result<Prepared, NetworkError> {
    let (network, published) = user::prepare(config, found)?;
    let loopback = IpAddr::from([127, 0, 0, 1]);
    let names = names_of(&hostname, config, None);
    let resolv_conf = match asked.servers.is_empty() {
        true => network.resolv_conf(&host.resolv_conf),
        false => host.resolv_conf.clone(),
    };
    Ok(Prepared {
        hosts: hosts(&[loopback], &names, &config.extra_hosts, None),
        resolv_conf: ResolvConf::new(&resolv_conf, asked, Reach::Host).text,
        hostname,
        joined: Vec::new(),
        published,
        unconnected: None,
        network: runtime::Network::User(network),
    })
}

fn bridged(
    store: &Store,
    host: &Host,
    Joining { id, name, config }: Joining<'_>,
    asked: &Dns,
    hostname: String,
) -> Result<Prepared, NetworkError> {
    let default = [Endpoint { network: DEFAULT_NETWORK.to_owned(), ..Endpoint::default() }];
    let endpoints = if config.endpoints.is_empty() { &default[..] } else { &config.endpoints };
    let mut places = Vec::new();
    for endpoint in endpoints {
        places.push(place_of(store, &host.machine, endpoint, id, name)?);
    }
    let bridges = || places.iter().filter_map(|place| place.bridge.as_ref());
    // From a user's own network not all that the machine asks is reached, such as itself; the monitor asks in its place.
    let reach = match host.machine.is_apart() || bridges().any(|bridge| bridge.names) {
        true => Reach::Names,
        false => Reach::Bridge { ipv6: bridges().any(|bridge| bridge.ipv6.is_some()) },
    };
    let ResolvConf { text, resolver } = ResolvConf::new(&host.resolv_conf, asked, reach);
    let ports = config.ports.iter().map(|port| Mapping {
        container_port: port.container_port,
        protocol: protocol(port.protocol),
        host_ip: port.host_ip,
        host_ports: port.host_ports,
    });
    let mut ports: Vec<Mapping> = ports.collect();
    if config.publish_all {
        for (container_port, kind) in &config.exposed {
            let protocol = protocol(*kind);
            let named = |port: &Mapping| port.container_port == *container_port && port.protocol == protocol;
            if !ports.iter().any(named) {
                let container_port = *container_port;
                ports.push(Mapping { container_port, protocol, host_ip: None, host_ports: None });
            }
        }
    }
    // That goes through the machine's firewall alone, which is not the user's.
    let sctp = ports.iter().find(|port| port.protocol == machine::Protocol::Sctp);
    if let (true, Some(port)) = (host.machine.is_apart(), sctp) {
        return Err(user::UserNetworkError::Sctp { port: port.container_port }.into());
    }
    let wanted = Wanted { id: id.to_owned(), name: name.to_owned(), places, ports, resolver };
    let attached = host.machine.attach(wanted)?;
    let own: Vec<IpAddr> =
        attached.member.endpoints.iter().flat_map(|endpoint| endpoint.addresses()).collect();
    let aliases = endpoints.iter().flat_map(|endpoint| &endpoint.aliases).map(String::as_str);
    let mut names = names_of(&hostname, config, Some(name));
    for alias in aliases {
        if !names.iter().any(|known| known == alias) {
            names.push(alias.to_owned());
        }
    }
    let gateway = attached.member.endpoints.iter().find_map(|endpoint| endpoint.joined.gateway);
    let gateway = gateway.map(IpAddr::V4);
    Ok(Prepared {
        hosts: hosts(&own, &names, &config.extra_hosts, gateway),
        resolv_conf: text,
        hostname,
        joined: attached.member.endpoints.iter().map(|endpoint| endpoint.joined.clone()).collect(),
        published: attached.member.ports.clone(),
        unconnected: attached.unconnected,
        network: runtime::Network::Served {
            namespace: attached.namespace,
            services: Box::new(attached.services),
        },
    })
}

/// A container's place in a network.
///
/// # Errors
/// [`NetworkError`]: also where what it asks for is for networks that somebody created.
pub fn place_of(
    store: &Store,
    machine: &Machine,
    endpoint: &Endpoint,
    id: &str,
    name: &str,
) -> Result<Place, NetworkError> {
    let network = find(store, machine, &endpoint.network)?;
    if network.spec.driver != Driver::Bridge {
        return Err(NetworkError::Alone(network.name));
    }
    let bridge = match network.is_predefined() {
        true if endpoint.ipv4.is_some() || endpoint.ipv6.is_some() => {
            return Err(NetworkError::AddressOnDefault);
        }
        true if !endpoint.aliases.is_empty() => return Err(NetworkError::AliasOnDefault),
        // It is made as it is then found, by whoever is first.
        true => None,
        false => network.spec.bridge,
    };
    let mut names = vec![name.to_owned()];
    names.extend(endpoint.aliases.iter().cloned());
    names.push(id[..id.len().min(12)].to_owned());
    Ok(Place { bridge, ipv4: endpoint.ipv4, ipv6: endpoint.ipv6, mac: endpoint.mac, names })
}

fn protocol(protocol: Protocol) -> machine::Protocol {
    match protocol {
        Protocol::Tcp => machine::Protocol::Tcp,
        Protocol::Udp => machine::Protocol::Udp,
        Protocol::Sctp => machine::Protocol::Sctp,
    }
}

/// What a container is called in its own `/etc/hosts`: the full name first, as resolvers want it.
fn names_of(hostname: &str, config: &NetworkConfig, name: Option<&str>) -> Vec<String> {
    let mut names = Vec::new();
    if let Some(domain) = config.domainname.as_deref().filter(|domain| !domain.is_empty()) {
        names.push(format!("{hostname}.{domain}"));
    }
    for one in [Some(hostname), name].into_iter().flatten() {
        if !names.iter().any(|known| known == one) {
            names.push(one.to_owned());
        }
    }
    names
}

/// `/etc/hosts`. A line without an address is for the host itself.
fn hosts(
    own: &[IpAddr],
    names: &[String],
    extra: &[(String, Option<IpAddr>)],
    gateway: Option<IpAddr>,
) -> Vec<u8> {
    let mut text = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n".to_owned();
    for (name, address) in extra {
        if let Some(address) = address.or(gateway) {
            text.push_str(&format!("{address}\t{name}\n"));
        }
    }
    for address in own {
        text.push_str(&format!("{address}\t{}\n", names.join(" ")));
    }
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_the_containers_own_lines() {
        let config = NetworkConfig { domainname: Some("example.org".to_owned()), ..NetworkConfig::default() };
        let names = names_of("box", &config, Some("web"));
        let extra =
            [("db".to_owned(), Some("10.0.0.9".parse().unwrap())), ("host.docker.internal".to_owned(), None)];
        let own = ["172.18.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        let text = String::from_utf8(hosts(&own, &names, &extra, "172.18.0.1".parse().ok())).unwrap();
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with(
            "10.0.0.9\tdb\n172.18.0.1\thost.docker.internal\n172.18.0.2\tbox.example.org box web\nfd00::2\tbox.example.org box web\n"
        ));
    }

    #[test]
    fn one_name_is_written_once() {
        assert_eq!(names_of("web", &NetworkConfig::default(), Some("web")), ["web"]);
        assert_eq!(names_of("box", &NetworkConfig::default(), None), ["box"]);
    }
}
