//! Port 53 for who asks, without listening on it: what a container sends to its resolver's address goes to ports that
//! nobody wants, and what comes back comes from port 53 again.
//!
//! A name server in the container listens on port 53 of all addresses, as is usual, and would find it taken. Docker
//! translates addresses; four rules of the container's own firewall that write a number into a packet do as well, and
//! have no connections to remember.

use std::io;

use super::RESOLVER;
use crate::runtime::network::netlink::{Message, Socket};

/// Its table, which whoever may see the container's firewall sees.
const TABLE: &str = "stave-names";
const CHAIN: &str = "out";
/// `NFNL_SUBSYS_NFTABLES` and its messages.
const NFTABLES: u16 = 10;
const NEW_TABLE: u16 = NFTABLES << 8;
const NEW_CHAIN: u16 = NFTABLES << 8 | 3;
const NEW_RULE: u16 = NFTABLES << 8 | 6;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
/// `struct nfgenmsg` for IPv4.
const IPV4: [u8; 4] = [2, 0, 0, 0];
const HOOK_OUTPUT: u32 = 3;
/// Before connections are tracked, should anybody do that.
const PRIORITY: i32 = -300;
const REGISTER: u32 = 1;
const PORT: u16 = 53;

/// Where a field is: what its place is counted from, the place, and its length.
type Field = (u32, u32, u32);
const SOURCE: Field = (1, 12, 4);
const DESTINATION: Field = (1, 16, 4);
const SOURCE_PORT: Field = (2, 0, 2);
const DESTINATION_PORT: Field = (2, 2, 2);

/// Leads questions to these ports of the resolver's address; in the calling thread's network namespace.
pub(super) fn lead(datagrams: u16, streams: u16) -> io::Result<()> {
    let table = |kind, flags| Message::new(kind, flags, &IPV4).text(1, TABLE);
    let number = |message: Message, kind, value: u32| message.attribute(kind, &value.to_be_bytes());
    let hook = |nested| number(number(nested, 1, HOOK_OUTPUT), 2, PRIORITY as u32);
    let mut messages = vec![
        table(NEW_TABLE, CREATE),
        table(NEW_CHAIN, CREATE).text(3, CHAIN).nested(4, &[], hook).text(7, "filter"),
    ];
    // Each protocol with its number and where its checksum is.
    for (protocol, checksum, port) in [(17, 6, datagrams), (6, 16, streams)] {
        for (address, field, from, to) in
            [(DESTINATION, DESTINATION_PORT, PORT, port), (SOURCE, SOURCE_PORT, port, PORT)]
        {
            let rule = |list: Message| {
                let list = equals(load(list, address), &RESOLVER.octets());
                let list = equals(load_protocol(list), &[protocol]);
                let list = equals(load(list, field), &from.to_be_bytes());
                write(list, field, to, checksum)
            };
            messages.push(table(NEW_RULE, CREATE | APPEND).text(2, CHAIN).nested(4, &[], rule));
        }
    }
    Socket::open(libc::NETLINK_NETFILTER)?.transaction(NFTABLES, messages)
}

/// An expression, with numbers as attributes.
fn expression(list: Message, name: &str, numbers: &[(u16, u32)], data: Option<(u16, &[u8])>) -> Message {
    list.nested(1, &[], |element| {
        element.text(1, name).nested(2, &[], |mut inner| {
            for (kind, value) in numbers {
                inner = inner.attribute(*kind, &value.to_be_bytes());
            }
            match data {
                Some((kind, bytes)) => inner.nested(kind, &[], |value| value.attribute(1, bytes)),
                None => inner,
            }
        })
    })
}

fn load(list: Message, (base, place, length): Field) -> Message {
    expression(list, "payload", &[(1, REGISTER), (2, base), (3, place), (4, length)], None)
}

fn load_protocol(list: Message) -> Message {
    const PROTOCOL: u32 = 16;
    expression(list, "meta", &[(1, REGISTER), (2, PROTOCOL)], None)
}

fn equals(list: Message, value: &[u8]) -> Message {
    expression(list, "cmp", &[(1, REGISTER), (2, 0)], Some((3, value)))
}

/// Writes a port, and puts the checksum right.
fn write(list: Message, (base, place, length): Field, port: u16, checksum: u32) -> Message {
    let list = expression(list, "immediate", &[(1, REGISTER)], Some((2, &port.to_be_bytes())));
    let field = [(5, REGISTER), (2, base), (3, place), (4, length), (6, 1), (7, checksum)];
    expression(list, "payload", &field, None)
}
