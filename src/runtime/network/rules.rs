//! The firewall's part: one table of ours, always written whole.
//!
//! What it says is a function of the bridges and the members that there are, so there is no rule to forget: whoever
//! changes something replaces the table in one transaction, and what dead containers left is gone with the old one.
//! Connections that are under way are in the kernel's tracking and not in the rules. Tables of others are not touched,
//! and theirs count too: a firewall that drops what is forwarded drops it here as well.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use super::NetworkError;
use super::model::{Bridge, Member};
use super::netlink::{Message, Socket};

/// Its name, in the family `inet`.
const TABLE: &str = "stave";

/// The whole table. Devices' names were checked; the rest are addresses and numbers.
pub(super) fn table(bridges: &[Bridge], members: &[Member]) -> String {
    let mut same = Vec::new();
    let mut all = Vec::new();
    let mut internal = Vec::new();
    let (mut masked4, mut masked6) = (Vec::new(), Vec::new());
    for bridge in bridges {
        let device = format!("\"{}\"", bridge.device);
        same.push(format!("{device} . {device}"));
        if bridge.internal {
            internal.push(device.clone());
        } else {
            masked4.extend(bridge.ipv4.iter().map(|pool| pool.subnet.trunc().to_string()));
            masked6.extend(bridge.ipv6.iter().map(|pool| pool.subnet.trunc().to_string()));
        }
        all.push(device);
    }
    let mut maps = [const { Vec::new() }; 4];
    for (member, port) in
        members.iter().flat_map(|member| member.ports.iter().map(move |port| (member, port)))
    {
        let Some(entrance) = member.entrance() else { continue };
        let (host, protocol) = (port.host_port, &port.protocol);
        let to = entrance.addresses().find(|address| address.is_ipv4() == port.host_ip.is_ipv4());
        let Some(to) = to else { continue };
        if port.host_ip.is_loopback() || !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
            continue;
        }
        let family = if to.is_ipv4() { 0 } else { 2 };
        let to = format!("{to} . {}", port.container_port);
        match port.host_ip.is_unspecified() {
            true => maps[family].push(format!("{protocol} . {host} : {to}")),
            false => maps[family + 1].push(format!("{} . {protocol} . {host} : {to}", port.host_ip)),
        }
    }
    let [any4, one4, any6, one6] = maps;
    let mut text = format!("table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n");
    for (head, elements) in [
        ("set bridges { type ifname;", all),
        ("set same { type ifname . ifname;", same),
        ("set internal { type ifname;", internal),
        ("set masked4 { type ipv4_addr; flags interval; auto-merge;", masked4),
        ("set masked6 { type ipv6_addr; flags interval; auto-merge;", masked6),
        ("map any4 { type inet_proto . inet_service : ipv4_addr . inet_service;", any4),
        ("map one4 { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service;", one4),
        ("map any6 { type inet_proto . inet_service : ipv6_addr . inet_service;", any6),
        ("map one6 { type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service;", one6),
    ] {
        let elements = match elements.is_empty() {
            true => String::new(),
            false => format!(" elements = {{ {} }};", elements.join(", ")),
        };
        let _ = writeln!(text, "{head}{elements} }}");
    }
    text.push_str(CHAINS);
    text.push_str("}\n");
    text
}

/// Published ports lead in from elsewhere and from the host's own addresses. What comes from a container, or is for
/// loopback, is left to the monitor's sockets: so it reaches ports of its own network and of others alike, and
/// nothing is ever routed to 127.0.0.1. What is forwarded to a bridge was either asked for by it or published.
const CHAINS: &str = "\
chain published {
dnat ip to ip daddr . meta l4proto . th dport map @one4
dnat ip to meta l4proto . th dport map @any4
dnat ip6 to ip6 daddr . meta l4proto . th dport map @one6
dnat ip6 to meta l4proto . th dport map @any6
}
chain prerouting {
type nat hook prerouting priority dstnat; policy accept;
iifname != @bridges fib daddr type local jump published
}
chain output {
type nat hook output priority -100; policy accept;
ip daddr 127.0.0.0/8 return
ip6 daddr ::1 return
fib daddr type local jump published
}
chain postrouting {
type nat hook postrouting priority srcnat; policy accept;
oifname @bridges return
ip saddr @masked4 masquerade
ip6 saddr @masked6 masquerade
}
chain forward {
type filter hook forward priority filter; policy accept;
iifname . oifname @same accept
iifname @internal drop
oifname @internal drop
iifname @bridges oifname @bridges drop
ct state established,related accept
ct status dnat accept
oifname @bridges drop
}
";

/// Whether this namespace has the table. Somebody who resets the whole firewall takes it away.
pub(super) fn is_there() -> bool {
    /// `NFNL_SUBSYS_NFTABLES`, `NFT_MSG_GETTABLE`, `NFTA_TABLE_NAME` and `NFPROTO_INET`.
    const GET_TABLE: u16 = 10 << 8 | 1;
    const TABLE_NAME: u16 = 1;
    const INET: u8 = 1;
    let ask = || -> io::Result<()> {
        let mut socket = Socket::open(libc::NETLINK_NETFILTER)?;
        socket.request(Message::new(GET_TABLE, 0, &[INET, 0, 0, 0]).text(TABLE_NAME, TABLE))
    };
    ask().is_ok()
}

/// Has the kernel replace the table.
pub(super) fn apply(nft: Option<&Path>, text: &str) -> Result<(), NetworkError> {
    let nft = nft.ok_or(NetworkError::NoNft)?;
    let failed = |source| NetworkError::Io("run `nft`".to_owned(), source);
    let mut child = Command::new(nft)
        .args(["-f", "-"])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let mut input = child.stdin.take().expect("it was piped");
    // It reads all before it writes; an early end is told by its status.
    let _ = input.write_all(text.as_bytes());
    drop(input);
    let output = child.wait_with_output().map_err(failed)?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            let line = said.lines().next().unwrap_or("it said nothing").chars().take(300).collect();
            Err(NetworkError::Nft(line))
        }
    }
}

/// Whether published traffic of this kind passes the firewall at all, or only the monitor.
pub(super) fn concerns_rules(host: IpAddr) -> bool {
    !host.is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::monitor::{Joined, Published};
    use crate::runtime::network::{MemberEndpoint, Pool};

    fn bridge(device: &str, subnet: &str, internal: bool) -> Bridge {
        let subnet: ipnet::IpNet = subnet.parse().unwrap();
        let pool = Pool { subnet, gateway: super::super::first_host(&subnet), range: None };
        Bridge {
            device: device.to_owned(),
            network: device.to_owned(),
            network_id: String::new(),
            ipv4: Some(pool),
            ipv6: None,
            internal,
            names: true,
            mtu: None,
        }
    }

    fn member(internal: bool, ports: &[(&str, u16, u16)]) -> Member {
        let joined = Joined {
            network: "n".to_owned(),
            network_id: String::new(),
            device: "eth0".to_owned(),
            ipv4: Some(("172.17.0.2".parse().unwrap(), 16)),
            gateway: None,
            ipv6: None,
            gateway6: None,
            mac: [0; 6],
        };
        let port = |(host, host_port, container_port): &(&str, u16, u16)| Published {
            container_port: *container_port,
            protocol: "tcp".to_owned(),
            host_ip: host.parse().unwrap(),
            host_port: *host_port,
        };
        Member {
            id: "c".to_owned(),
            name: "c".to_owned(),
            endpoints: vec![MemberEndpoint {
                bridge: "stave0".to_owned(),
                outside: "v".to_owned(),
                internal,
                joined,
                names: Vec::new(),
            }],
            ports: ports.iter().map(port).collect(),
        }
    }

    fn line<'a>(text: &'a str, beginning: &str) -> &'a str {
        text.lines().find(|line| line.starts_with(beginning)).unwrap()
    }

    #[test]
    fn bridges_are_masked_and_apart() {
        let text =
            table(&[bridge("stave0", "172.17.0.1/16", false), bridge("st-1", "172.18.0.0/16", true)], &[]);
        assert!(text.starts_with("table inet stave\ndelete table inet stave\ntable inet stave {\n"));
        assert!(line(&text, "set bridges").contains(r#"{ "stave0", "st-1" }"#));
        assert!(line(&text, "set same").contains(r#""stave0" . "stave0", "st-1" . "st-1""#));
        assert!(line(&text, "set internal").contains(r#"{ "st-1" }"#));
        assert!(line(&text, "set masked4").contains("{ 172.17.0.0/16 }"));
        assert!(!line(&text, "set masked6").contains("elements"));
    }

    #[test]
    fn ports_of_loopback_and_of_internal_networks_are_no_rules() {
        let ports = [("0.0.0.0", 8080, 80), ("10.1.1.1", 81, 80), ("127.0.0.1", 82, 80), ("::", 8080, 80)];
        let text = table(&[], &[member(false, &ports)]);
        assert!(line(&text, "map any4").contains("{ tcp . 8080 : 172.17.0.2 . 80 }"));
        assert!(line(&text, "map one4").contains("{ 10.1.1.1 . tcp . 81 : 172.17.0.2 . 80 }"));
        assert!(!line(&text, "map any6").contains("elements"));
        assert!(!text.contains("82"));
        let text = table(&[], &[member(true, &ports)]);
        assert!(!line(&text, "map any4").contains("elements"));
    }
}
