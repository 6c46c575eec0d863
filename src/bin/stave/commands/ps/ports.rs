//! Ports as `ps` shows them: `0.0.0.0:8080->80/tcp, 90-92/tcp`.

use std::net::IpAddr;

use stave::engine::container::{Seen, protocol_word};

/// A port inside, and the one outside that leads to it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Port {
    inside: u16,
    outside: Option<(IpAddr, u16)>,
    protocol: String,
}

/// What a container that runs has published and exposed.
pub fn shown(seen: &Seen) -> String {
    if !seen.is_up() {
        return String::new();
    }
    let mut ports: Vec<Port> = seen
        .state
        .ports
        .iter()
        .map(|port| Port {
            inside: port.container_port,
            outside: Some((port.host_ip, port.host_port)),
            protocol: port.protocol.clone(),
        })
        .collect();
    for (port, protocol) in &seen.config.network.exposed {
        let protocol = protocol_word(*protocol);
        if !ports.iter().any(|known| known.inside == *port && known.protocol == protocol) {
            ports.push(Port { inside: *port, outside: None, protocol: protocol.to_owned() });
        }
    }
    joined(ports)
}

/// Neighbours become ranges where inside and outside are the same, or there is no outside; what is mapped to another
/// number comes last.
///
/// Source: `DisplayablePorts` of docker/cli.
fn joined(mut ports: Vec<Port>) -> String {
    ports.sort();
    let mut ranges: Vec<(Option<IpAddr>, String, u16, u16)> = Vec::new();
    let mut mapped = Vec::new();
    for Port { inside, outside, protocol } in ports {
        let ip = match outside {
            Some((ip, number)) if number != inside => {
                mapped.push(format!("{}:{number}->{inside}/{protocol}", bracketed(ip)));
                continue;
            }
            outside => outside.map(|(ip, _)| ip),
        };
        let open = ranges.iter_mut().rev().find(|(of, kind, _, _)| *of == ip && *kind == protocol);
        match open {
            Some((_, _, _, last)) if last.checked_add(1) == Some(inside) => *last = inside,
            _ => ranges.push((ip, protocol, inside, inside)),
        }
    }
    let range = |(ip, protocol, first, last): &(Option<IpAddr>, String, u16, u16)| {
        let numbers = if first == last { first.to_string() } else { format!("{first}-{last}") };
        match ip {
            Some(ip) => format!("{}:{numbers}->{numbers}/{protocol}", bracketed(*ip)),
            None => format!("{numbers}/{protocol}"),
        }
    };
    ranges.iter().map(range).chain(mapped).collect::<Vec<_>>().join(", ")
}

fn bracketed(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_joined_as_docker_joins_them() {
        let port = |inside, outside: Option<(&str, u16)>, protocol: &str| Port {
            inside,
            outside: outside.map(|(ip, number)| (ip.parse().unwrap(), number)),
            protocol: protocol.to_owned(),
        };
        for (ports, expected) in [
            (vec![], ""),
            (vec![port(80, None, "tcp")], "80/tcp"),
            (vec![port(81, None, "tcp"), port(80, None, "tcp")], "80-81/tcp"),
            (vec![port(80, None, "tcp"), port(82, None, "tcp")], "80/tcp, 82/tcp"),
            (vec![port(80, None, "tcp"), port(81, None, "udp")], "80/tcp, 81/udp"),
            (vec![port(80, Some(("0.0.0.0", 8080)), "tcp")], "0.0.0.0:8080->80/tcp"),
            (
                vec![port(80, Some(("0.0.0.0", 8080)), "tcp"), port(80, Some(("::", 8080)), "tcp")],
                "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp",
            ),
            (
                vec![
                    port(80, Some(("0.0.0.0", 80)), "tcp"),
                    port(81, Some(("0.0.0.0", 81)), "tcp"),
                    port(80, Some(("::", 80)), "tcp"),
                    port(81, Some(("::", 81)), "tcp"),
                    port(90, None, "udp"),
                    port(100, Some(("127.0.0.1", 1)), "tcp"),
                ],
                "0.0.0.0:80-81->80-81/tcp, [::]:80-81->80-81/tcp, 90/udp, 127.0.0.1:1->100/tcp",
            ),
            (vec![port(65535, None, "tcp"), port(0, None, "tcp")], "0/tcp, 65535/tcp"),
        ] {
            assert_eq!(joined(ports), expected);
        }
    }
}
