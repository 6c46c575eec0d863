//! Flags of what a container sees of networks, and how it is called there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use stave::engine::container::Config;
use stave::engine::container::config::{Endpoint, NetworkMode, PortMapping, Protocol, Shared};
use stave::runtime::network::{DEFAULT_NETWORK, Mac};
use stave::store::Store;

use crate::commands::context::find_container;
use crate::failure::Failure;

#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub struct Flags {
    /// The network: `bridge`, `host`, `none`, `container:NAME`, or a network's name, also as
    /// `name=NAME,alias=ALIAS,ip=IP`
    #[arg(long, visible_alias = "net", value_name = "NETWORK")]
    network: Vec<String>,
    /// The container's IPv4 address
    #[arg(long, value_name = "IP")]
    ip: Option<Ipv4Addr>,
    /// The container's IPv6 address
    #[arg(long, value_name = "IP")]
    ip6: Option<Ipv6Addr>,
    /// The container's hardware address
    #[arg(long, value_name = "MAC", value_parser = mac)]
    mac_address: Option<Mac>,
    /// Another name for it on its network
    #[arg(long, alias = "net-alias", value_name = "NAME")]
    network_alias: Vec<String>,
    /// Docker's, of old; networks have names and aliases
    #[arg(long, hide = true)]
    link: Vec<String>,
    /// Publish a port: `[[IP:][HOST]:]CONTAINER[/tcp|udp|sctp]`, also ranges
    #[arg(short, long, value_name = "PORTS")]
    publish: Vec<String>,
    /// Publish all exposed ports to ports that are free
    #[arg(short = 'P', long)]
    publish_all: bool,
    /// Say that it listens there
    #[arg(long, value_name = "PORT")]
    expose: Vec<String>,
    /// A name server
    #[arg(long, value_name = "IP")]
    dns: Vec<IpAddr>,
    /// A domain to look up short names in; `.` for none
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// An option of /etc/resolv.conf
    #[arg(long, alias = "dns-opt", value_name = "OPTION")]
    dns_option: Vec<String>,
    /// Add a line to /etc/hosts: `NAME:IP`, or `NAME:host-gateway` for the host
    #[arg(long, value_name = "NAME:IP")]
    add_host: Vec<String>,
    /// The container's host name
    #[arg(short = 'h', long)]
    hostname: Option<String>,
    /// The container's domain name
    #[arg(long, value_name = "DOMAIN")]
    domainname: Option<String>,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
}

impl Flags {
    pub fn fill(&self, store: &Store, config: &mut Config) -> Result<(), Failure> {
        if !self.link.is_empty() {
            return Err(Failure::usage("links are not supported: they are Docker's predecessor of networks")
                .hint(
                    "create a network with `stave network create`; its containers find each other by name",
                ));
        }
        let network = &mut config.network;
        network.endpoints = self.endpoints()?;
        network.mode = self.mode(store, &mut network.endpoints)?;
        let shared = match &network.mode {
            NetworkMode::Networks | NetworkMode::None => None,
            NetworkMode::Host => Some("host"),
            NetworkMode::Container(_) => Some("container"),
        };
        if shared == Some("container") {
            for (given, what) in [
                (self.hostname.is_some() || self.domainname.is_some(), "a host name"),
                (!self.publish.is_empty() || self.publish_all || !self.expose.is_empty(), "published ports"),
                (
                    !self.dns.is_empty() || !self.dns_search.is_empty() || !self.dns_option.is_empty(),
                    "name servers",
                ),
                (!self.add_host.is_empty(), "lines of /etc/hosts"),
            ] {
                if given {
                    return Err(Failure::usage(format!(
                        "conflicting options: {what} and `--network=container:…`, whose network has its own"
                    )));
                }
            }
        }
        for text in &self.publish {
            network.ports.extend(published(text).map_err(|what| refuse("-p", text, &what))?);
        }
        if network.mode != NetworkMode::Networks && (!network.ports.is_empty() || self.publish_all) {
            if network.mode == NetworkMode::Host {
                tell_line!("WARNING: Published ports are discarded when using host network mode");
            } else {
                tell_line!("WARNING: Published ports are discarded when there is no network");
            }
            network.ports.clear();
        }
        network.publish_all = self.publish_all && network.mode == NetworkMode::Networks;
        network.exposed.extend(network.ports.iter().map(|port| (port.container_port, port.protocol)));
        for text in &self.expose {
            network.exposed.extend(exposed(text).map_err(|what| refuse("--expose", text, &what))?);
        }
        network.exposed.sort_unstable();
        network.exposed.dedup();
        network.dns.clone_from(&self.dns);
        network.dns_search.clone_from(&self.dns_search);
        network.dns_options.clone_from(&self.dns_option);
        for text in &self.add_host {
            network.extra_hosts.push(extra_host(text)?);
        }
        for name in [&self.hostname, &self.domainname].into_iter().flatten() {
            check_hostname(name)?;
            if config.namespaces.uts == Shared::Host {
                return Err(Failure::usage("--hostname and --domainname have no effect with --uts=host"));
            }
        }
        network.hostname.clone_from(&self.hostname);
        network.domainname.clone_from(&self.domainname);
        Ok(())
    }

    /// What `--network` says, each as an endpoint; the flags for one network are the first's.
    fn endpoints(&self) -> Result<Vec<Endpoint>, Failure> {
        let mut endpoints: Vec<Endpoint> =
            self.network.iter().map(|text| endpoint(text)).collect::<Result<_, _>>()?;
        let given = self.ip.is_some()
            || self.ip6.is_some()
            || self.mac_address.is_some()
            || !self.network_alias.is_empty();
        if endpoints.is_empty() && given {
            endpoints.push(Endpoint { network: DEFAULT_NETWORK.to_owned(), ..Endpoint::default() });
        }
        if let Some(first) = endpoints.first_mut() {
            let twice = |flag: &str| {
                Failure::usage(format!("conflicting options: `{flag}` and the same within `--network`"))
            };
            if (self.ip.is_some() && first.ipv4.is_some()) || (self.ip6.is_some() && first.ipv6.is_some()) {
                return Err(twice("--ip"));
            }
            if self.mac_address.is_some() && first.mac.is_some() {
                return Err(twice("--mac-address"));
            }
            first.ipv4 = first.ipv4.or(self.ip);
            first.ipv6 = first.ipv6.or(self.ip6);
            first.mac = first.mac.or(self.mac_address);
            first.aliases.extend(self.network_alias.iter().cloned());
        }
        for (place, endpoint) in endpoints.iter().enumerate() {
            if endpoints[..place].iter().any(|other| other.network == endpoint.network) {
                return Err(Failure::usage(format!(
                    "network `{}` is specified multiple times",
                    endpoint.network
                )));
            }
        }
        Ok(endpoints)
    }

    /// `host` or `none`, if it is one of these.
    pub fn stands_alone(&self) -> Option<&str> {
        match &self.network[..] {
            [only] if matches!(only.as_str(), "host" | "none") => Some(only),
            _ => None,
        }
    }

    fn mode(&self, store: &Store, endpoints: &mut Vec<Endpoint>) -> Result<NetworkMode, Failure> {
        let special = |endpoint: &Endpoint| {
            matches!(endpoint.network.as_str(), "host" | "none") || endpoint.network.starts_with("container:")
        };
        if !endpoints.iter().any(special) {
            return Ok(NetworkMode::Networks);
        }
        let [Endpoint { network, ipv4: None, ipv6: None, mac: None, aliases }] = &endpoints[..] else {
            return Err(Failure::usage(
                "conflicting options: `host`, `none` and `container:NAME` stand alone, without addresses",
            ));
        };
        if !aliases.is_empty() {
            return Err(Failure::usage(format!("conflicting options: aliases and `--network={network}`")));
        }
        let mode = match network.strip_prefix("container:") {
            Some(name) => NetworkMode::Container(find_container(store, name)?.id.as_str().to_owned()),
            None if network == "host" => NetworkMode::Host,
            None => NetworkMode::None,
        };
        endpoints.clear();
        Ok(mode)
    }
}

fn refuse(flag: &str, text: &str, what: &str) -> Failure {
    Failure::usage(format!("{flag} `{text}`: {what}"))
}

/// A network, by name or in the long form.
fn endpoint(text: &str) -> Result<Endpoint, Failure> {
    let mut endpoint = Endpoint::default();
    if !text.contains('=') {
        endpoint.network = text.to_owned();
    } else {
        for field in text.split(',') {
            let (name, value) =
                field.split_once('=').ok_or_else(|| refuse("--network", text, "fields are `NAME=VALUE`"))?;
            let wrong = || refuse("--network", text, &format!("invalid `{name}`"));
            match name {
                "name" => endpoint.network = value.to_owned(),
                "alias" => endpoint.aliases.push(value.to_owned()),
                "ip" => endpoint.ipv4 = Some(value.parse().map_err(|_| wrong())?),
                "ip6" => endpoint.ipv6 = Some(value.parse().map_err(|_| wrong())?),
                "mac-address" => endpoint.mac = Some(mac(value).map_err(|_| wrong())?),
                _ => {
                    let hint = "there are `name`, `alias`, `ip`, `ip6` and `mac-address`";
                    return Err(refuse("--network", text, &format!("unknown field `{name}`")).hint(hint));
                }
            }
        }
    }
    // Docker's word for what is there without any.
    if endpoint.network == "default" {
        endpoint.network = DEFAULT_NETWORK.to_owned();
    }
    match endpoint.network.is_empty() {
        true => Err(refuse("--network", text, "the network's name is missing")),
        false => Ok(endpoint),
    }
}

/// A line of `/etc/hosts`; no address for the host's.
fn extra_host(text: &str) -> Result<(String, Option<IpAddr>), Failure> {
    let separated = text.split_once('=').or_else(|| text.split_once(':'));
    match separated {
        Some((name, "host-gateway")) if !name.is_empty() => Ok((name.to_owned(), None)),
        _ => crate::commands::build::extra_host(text).map(|(name, address)| (name, Some(address))),
    }
}

fn check_hostname(name: &str) -> Result<(), Failure> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    match (1..=64).contains(&name.len()) && name.bytes().all(plain) {
        true => Ok(()),
        false => Err(Failure::usage(format!("invalid host name `{name}`"))
            .hint("letters, digits, `-`, `_` and `.`, 64 at most")),
    }
}

/// `02:42:ac:11:00:02`, also with `-`.
pub fn mac(text: &str) -> Result<Mac, String> {
    let bytes: Vec<u8> = text
        .split([':', '-'])
        .map(|part| match part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            true => u8::from_str_radix(part, 16).ok(),
            false => None,
        })
        .collect::<Option<_>>()
        .ok_or("six pairs of hexadecimal digits")?;
    let mac: Mac = bytes.try_into().map_err(|_| "six pairs of hexadecimal digits")?;
    match mac[0] & 1 {
        0 => Ok(mac),
        _ => Err("that is an address of many".to_owned()),
    }
}

/// `8000-8010/tcp`.
fn exposed(text: &str) -> Result<Vec<(u16, Protocol)>, String> {
    let (ports, protocol) = protocol(text)?;
    let (first, last) = range(ports)?;
    Ok((first..=last).map(|port| (port, protocol)).collect())
}

fn protocol(text: &str) -> Result<(&str, Protocol), String> {
    match text.split_once('/') {
        None => Ok((text, Protocol::Tcp)),
        Some((ports, name)) => match name.to_ascii_lowercase().as_str() {
            "tcp" => Ok((ports, Protocol::Tcp)),
            "udp" => Ok((ports, Protocol::Udp)),
            "sctp" => Ok((ports, Protocol::Sctp)),
            _ => Err(format!("unknown protocol `{name}`")),
        },
    }
}

fn range(text: &str) -> Result<(u16, u16), String> {
    let port = |text: &str| match text.parse() {
        Ok(port @ 1..) if text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(port),
        _ => Err(format!("invalid port `{text}`")),
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    match first <= last {
        true => Ok((first, last)),
        false => Err(format!("invalid range `{text}`")),
    }
}

/// All of Docker's forms of `-p`.
fn published(text: &str) -> Result<Vec<PortMapping>, String> {
    let (ports, protocol) = protocol(text)?;
    let (before, container) = match ports.rsplit_once(':') {
        Some((before, container)) => (Some(before), container),
        None => (None, ports),
    };
    let (host_ip, host) = match before {
        None => (None, ""),
        Some(before) => match before.rsplit_once(':') {
            None => (None, before),
            Some((address, host)) => {
                let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
                let parsed: Option<IpAddr> = match bare {
                    Some(six) => six.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
                    None => address.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
                };
                match (address, parsed) {
                    ("", _) => (None, host),
                    (_, Some(parsed)) => (Some(parsed), host),
                    (_, None) => {
                        return Err(format!("invalid address `{address}`; one of IPv6 stands in brackets"));
                    }
                }
            }
        },
    };
    let (first, last) = range(container)?;
    let host = match host {
        "" | "0" => None,
        host => Some(range(host)?),
    };
    let mapping = |container_port, host_ports| PortMapping { container_port, protocol, host_ip, host_ports };
    match host {
        None => Ok((first..=last).map(|port| mapping(port, None)).collect()),
        Some(range) if first == last => Ok(vec![mapping(first, Some(range))]),
        Some((low, high)) if high - low == last - first => {
            Ok((first..=last).zip(low..=high).map(|(port, host)| mapping(port, Some((host, host)))).collect())
        }
        Some(_) => Err("the ranges of the container and of the host differ in length".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Result<Vec<String>, String> {
        let one = |port: PortMapping| {
            let host = port.host_ip.map_or("*".to_owned(), |ip| ip.to_string());
            let ports = port.host_ports.map_or("any".to_owned(), |(first, last)| format!("{first}-{last}"));
            format!("{host} {ports} {}/{:?}", port.container_port, port.protocol)
        };
        Ok(published(text)?.into_iter().map(one).collect())
    }

    #[test]
    fn published_ports_in_all_forms() {
        for (text, expected) in [
            ("80", &["* any 80/Tcp"][..]),
            ("8080:80", &["* 8080-8080 80/Tcp"]),
            ("127.0.0.1:8080:80/udp", &["127.0.0.1 8080-8080 80/Udp"]),
            ("127.0.0.1::80", &["127.0.0.1 any 80/Tcp"]),
            ("[::1]:8080:80/TCP", &["::1 8080-8080 80/Tcp"]),
            ("0.0.0.0:0:53/sctp", &["0.0.0.0 any 53/Sctp"]),
            ("8000-8001:80-81", &["* 8000-8000 80/Tcp", "* 8001-8001 81/Tcp"]),
            ("8000-8010:80", &["* 8000-8010 80/Tcp"]),
            ("80-81", &["* any 80/Tcp", "* any 81/Tcp"]),
            (":80", &["* any 80/Tcp"]),
        ] {
            assert_eq!(shown(text).unwrap(), expected, "{text}");
        }
        for text in [
            "",
            "a",
            "0",
            "65536",
            "80/icmp",
            "8080:",
            "::1:80:80",
            "1.2.3:80:80",
            "8000-8002:80-81",
            "81-80",
            "+80",
            "[1.2.3.4]:80:80",
            "-1",
            "8080:80:tcp",
        ] {
            assert!(shown(text).is_err(), "{text}");
        }
    }

    #[test]
    fn exposed_ports() {
        assert_eq!(exposed("80").unwrap(), [(80, Protocol::Tcp)]);
        assert_eq!(exposed("7-8/udp").unwrap(), [(7, Protocol::Udp), (8, Protocol::Udp)]);
        assert!(exposed("8-7").is_err() && exposed("x/tcp").is_err());
    }

    #[test]
    fn networks_in_both_forms() {
        assert_eq!(endpoint("web").unwrap().network, "web");
        assert_eq!(endpoint("default").unwrap().network, "bridge");
        let long = endpoint("name=web,alias=a,alias=b,ip=10.0.0.2,ip6=fd00::2,mac-address=02:00:00:00:00:01")
            .unwrap();
        assert_eq!((long.network.as_str(), long.aliases.len()), ("web", 2));
        assert_eq!(long.mac, Some([2, 0, 0, 0, 0, 1]));
        for wrong in ["alias=a", "name=", "name=a,colour=red", "name=a,ip=x", "name=a,b"] {
            assert!(endpoint(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn hardware_addresses() {
        assert_eq!(mac("02-42-AC-11-00-02").unwrap(), [0x02, 0x42, 0xac, 0x11, 0, 2]);
        for wrong in [
            "",
            "02:42",
            "01:00:5e:00:00:01",
            "02:42:ac:11:00:2",
            "02:42:ac:11:00:02:03",
            "+2:42:ac:11:00:02",
        ] {
            assert!(mac(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn lines_of_hosts() {
        assert_eq!(extra_host("db:10.0.0.1").unwrap(), ("db".to_owned(), Some("10.0.0.1".parse().unwrap())));
        assert_eq!(extra_host("gw:host-gateway").unwrap(), ("gw".to_owned(), None));
        assert_eq!(extra_host("gw=host-gateway").unwrap(), ("gw".to_owned(), None));
        assert!(extra_host(":host-gateway").is_err());
    }
}
