//! Devices, addresses and routes, by one request each.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::netlink::{CREATE, Message, Socket, attributes};

/// Of `linux/rtnetlink.h`, `linux/if_link.h`, `linux/if_addr.h` and `linux/veth.h`.
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_F_NODAD: u8 = 0x02;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
/// Routes of loopback, broadcast and the machine's own addresses are kept apart from the others.
const RT_TABLE_LOCAL: u8 = 255;

/// A hardware address.
pub type Mac = [u8; 6];

/// `struct ifinfomsg`.
fn link_header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

const UP: u32 = libc::IFF_UP as u32;

/// The number of a device, or nothing if there is none of that name.
pub(super) fn find(socket: &mut Socket, name: &str) -> io::Result<Option<u32>> {
    let mut found = None;
    let message = Message::new(RTM_GETLINK, 0, &link_header(0, 0, 0)).text(IFLA_IFNAME, name);
    let asked = socket.get(message, |_, body| {
        found = body.get(4..8).map(|index| u32::from_ne_bytes(index.try_into().expect("four bytes")));
    });
    match asked {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        asked => asked.map(|()| found),
    }
}

/// Makes a bridge, not up yet. With a hardware address of its own it does not take that of its first port.
pub(super) fn add_bridge(socket: &mut Socket, name: &str, mac: Mac, mtu: Option<u32>) -> io::Result<u32> {
    let mut message = Message::new(RTM_NEWLINK, CREATE, &link_header(0, 0, 0))
        .text(IFLA_IFNAME, name)
        .attribute(IFLA_ADDRESS, &mac);
    if let Some(mtu) = mtu {
        message = message.number(IFLA_MTU, mtu);
    }
    socket.request(message.nested(IFLA_LINKINFO, &[], |info| info.text(IFLA_INFO_KIND, "bridge")))?;
    find(socket, name)?.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
}

/// The inner end of a pair.
#[derive(Debug)]
pub(super) struct Peer<'a> {
    pub name: &'a str,
    pub namespace: BorrowedFd<'a>,
    pub mac: Mac,
}

/// Makes a pair of devices, one end here and one in another namespace, neither up. When the namespace ends the
/// kernel takes both away.
pub(super) fn add_pair(
    socket: &mut Socket,
    name: &str,
    bridge: u32,
    mtu: Option<u32>,
    peer: &Peer<'_>,
) -> io::Result<()> {
    let namespace = u32::try_from(peer.namespace.as_raw_fd()).expect("descriptors are not negative");
    let sized = |message: Message| match mtu {
        Some(mtu) => message.number(IFLA_MTU, mtu),
        None => message,
    };
    let message = Message::new(RTM_NEWLINK, CREATE, &link_header(0, 0, 0))
        .text(IFLA_IFNAME, name)
        .number(IFLA_MASTER, bridge);
    socket.request(sized(message).nested(IFLA_LINKINFO, &[], |info| {
        info.text(IFLA_INFO_KIND, "veth").nested(IFLA_INFO_DATA, &[], |data| {
            data.nested(VETH_INFO_PEER, &link_header(0, 0, 0), |end| {
                sized(
                    end.text(IFLA_IFNAME, peer.name)
                        .attribute(IFLA_ADDRESS, &peer.mac)
                        .number(IFLA_NET_NS_FD, namespace),
                )
            })
        })
    }))
}

/// Brings a device up.
pub(super) fn set_up(socket: &mut Socket, index: u32) -> io::Result<()> {
    socket.request(Message::new(RTM_NEWLINK, 0, &link_header(index, UP, UP)))
}

/// Takes a device away. One that is gone is no error.
pub(super) fn delete(socket: &mut Socket, name: &str) -> io::Result<()> {
    match socket.request(Message::new(RTM_DELLINK, 0, &link_header(0, 0, 0)).text(IFLA_IFNAME, name)) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        deleted => deleted,
    }
}

/// Gives a device an address. One that it has is no error.
pub(super) fn add_address(socket: &mut Socket, index: u32, address: IpNet) -> io::Result<()> {
    let family = if address.addr().is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // Nobody else has it, so IPv6 need not ask around first, which takes a second.
    let flags = if address.addr().is_ipv6() { IFA_F_NODAD } else { 0 };
    let mut header = [family as u8, address.prefix_len(), flags, 0, 0, 0, 0, 0];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    let bytes = octets(address.addr());
    let mut message = Message::new(RTM_NEWADDR, CREATE, &header)
        .attribute(IFA_LOCAL, &bytes)
        .attribute(IFA_ADDRESS, &bytes);
    if let IpNet::V4(net) = address
        && net.prefix_len() < 31
    {
        message = message.attribute(IFA_BROADCAST, &net.broadcast().octets());
    }
    match socket.request(message) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        added => added,
    }
}

/// The addresses of a device, with the lengths of their networks.
pub(super) fn addresses(socket: &mut Socket, index: u32) -> io::Result<Vec<IpNet>> {
    let mut found = Vec::new();
    socket.dump(Message::new(RTM_GETADDR, 0, &[0; 8]), |_, body| {
        let Some(header) = body.get(..8) else { return };
        if header[4..8] != index.to_ne_bytes() {
            return;
        }
        let list: Vec<(u16, &[u8])> = attributes(body, 8).collect();
        let of = |wanted| list.iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| *value);
        found.extend(of(IFA_LOCAL).or(of(IFA_ADDRESS)).and_then(|bytes| network(bytes, header[1])));
    })?;
    Ok(found)
}

/// Sends all that has no other way to a gateway. A default route that is there stays.
pub(super) fn add_default_route(socket: &mut Socket, gateway: IpAddr, index: u32) -> io::Result<()> {
    let family = if gateway.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // `struct rtmsg`: family, lengths of both addresses, tos, table main, protocol boot, scope universe, unicast.
    let mut header = [family as u8, 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];
    header[8..12].copy_from_slice(&0u32.to_ne_bytes());
    let message = Message::new(RTM_NEWROUTE, CREATE, &header)
        .attribute(RTA_GATEWAY, &octets(gateway))
        .number(RTA_OIF, index);
    match socket.request(message) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        added => added,
    }
}

/// Where this machine's routes lead, without the default ones.
pub(super) fn routes(socket: &mut Socket) -> io::Result<Vec<IpNet>> {
    let mut found = Vec::new();
    socket.dump(Message::new(RTM_GETROUTE, 0, &[0; 12]), |_, body| {
        let Some(header) = body.get(..12) else { return };
        if header[4] == RT_TABLE_LOCAL {
            return;
        }
        let to = attributes(body, 12).find(|(kind, _)| *kind == RTA_DST);
        found.extend(to.and_then(|(_, bytes)| network(bytes, header[1])).filter(|net| net.prefix_len() > 0));
    })?;
    Ok(found)
}

fn network(bytes: &[u8], length: u8) -> Option<IpNet> {
    match bytes.len() {
        4 => {
            let octets: [u8; 4] = bytes.try_into().ok()?;
            Some(Ipv4Net::new(Ipv4Addr::from(octets), length).ok()?.into())
        }
        16 => {
            let octets: [u8; 16] = bytes.try_into().ok()?;
            Some(Ipv6Net::new(Ipv6Addr::from(octets), length).ok()?.into())
        }
        _ => None,
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
