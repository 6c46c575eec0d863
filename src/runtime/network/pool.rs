//! Which subnets and addresses are free. Pure.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::model::Pool;

/// Docker's pools for networks that name no subnet: 172.17 to 172.31, then sixteenths of 192.168.
fn pools() -> impl Iterator<Item = Ipv4Net> {
    let wide = (17..=31).map(|second| (Ipv4Addr::new(172, second, 0, 0), 16));
    let narrow = (0..16).map(|part| (Ipv4Addr::new(192, 168, part * 16, 0), 20));
    wide.chain(narrow).map(|(address, length)| Ipv4Net::new(address, length).expect("lengths below 33"))
}

/// The first subnet that no other overlaps.
pub fn free_subnet(taken: &[IpNet]) -> Option<Ipv4Net> {
    pools().find(|pool| !taken.iter().any(|other| overlap(&IpNet::V4(*pool), other)))
}

/// A unique local subnet (RFC 4193) made of bytes that nobody else has.
pub fn local_subnet6(unique: [u8; 5]) -> Ipv6Net {
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[1..6].copy_from_slice(&unique);
    Ipv6Net::new(Ipv6Addr::from(octets), 64).expect("lengths below 129")
}

/// Whether two subnets share an address.
pub fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}

/// The first address of a subnet that a device may have.
pub fn first_host(subnet: &IpNet) -> IpAddr {
    address(subnet, bits(subnet.network()).saturating_add(u128::from(has_edges(subnet))))
}

/// Whether a device may have this address in that subnet.
pub fn is_host(subnet: &IpNet, wanted: IpAddr) -> bool {
    let edge = has_edges(subnet) && (wanted == subnet.network() || wanted == last(subnet));
    subnet.contains(&wanted) && !edge
}

/// The lowest address that nobody has.
pub fn free_address(pool: &Pool, used: &HashSet<IpAddr>) -> Option<IpAddr> {
    let range = pool.range.as_ref().unwrap_or(&pool.subnet);
    let (first, last) = (bits(range.network()), bits(last(range)));
    let free = |candidate: &IpAddr| {
        *candidate != pool.gateway && !used.contains(candidate) && is_host(&pool.subnet, *candidate)
    };
    // Each that is passed over is an edge, the gateway or somebody's, so the search ends soon in any subnet.
    (first..=last).take(used.len() + 4).map(|at| address(&pool.subnet, at)).find(free)
}

fn has_edges(subnet: &IpNet) -> bool {
    // Point-to-point subnets have no address of their own and no broadcast (RFC 3021, RFC 6164).
    subnet.prefix_len() < subnet.max_prefix_len() - 1
}

fn last(subnet: &IpNet) -> IpAddr {
    subnet.broadcast()
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn address(like: &IpNet, bits: u128) -> IpAddr {
    match like {
        IpNet::V4(_) => Ipv4Addr::from_bits(u32::try_from(bits).unwrap_or(u32::MAX)).into(),
        IpNet::V6(_) => Ipv6Addr::from_bits(bits).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn pool(subnet: &str, range: Option<&str>) -> Pool {
        Pool { subnet: net(subnet), gateway: first_host(&net(subnet)), range: range.map(net) }
    }

    #[test]
    fn subnets_avoid_what_is_routed() {
        let free = |taken: &[&str]| {
            let taken: Vec<IpNet> = taken.iter().map(|text| net(text)).collect();
            free_subnet(&taken).map(|subnet| subnet.to_string())
        };
        assert_eq!(free(&[]).unwrap(), "172.17.0.0/16");
        assert_eq!(free(&["172.17.0.0/16", "10.0.0.0/8"]).unwrap(), "172.18.0.0/16");
        // A route within a pool counts, and one around it.
        assert_eq!(free(&["172.17.200.0/24", "172.18.0.1/32"]).unwrap(), "172.19.0.0/16");
        assert_eq!(free(&["172.16.0.0/12"]).unwrap(), "192.168.0.0/20");
        assert_eq!(free(&["172.16.0.0/12", "192.168.1.0/24"]).unwrap(), "192.168.16.0/20");
        assert_eq!(free(&["172.16.0.0/12", "192.168.0.0/16"]), None);
    }

    #[test]
    fn addresses_are_the_lowest_free() {
        let mut used = HashSet::new();
        let mut next = |pool: &Pool| {
            let found = free_address(pool, &used)?;
            used.insert(found);
            Some(found.to_string())
        };
        let small = pool("10.1.0.0/29", None);
        let all: Vec<String> = std::iter::from_fn(|| next(&small)).collect();
        assert_eq!(all, ["10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.6"]);
        let ranged = pool("10.2.0.0/16", Some("10.2.5.0/30"));
        let all: Vec<String> = std::iter::from_fn(|| next(&ranged)).collect();
        assert_eq!(all, ["10.2.5.0", "10.2.5.1", "10.2.5.2", "10.2.5.3"]);
        assert_eq!(next(&pool("fd00:1::/64", None)).unwrap(), "fd00:1::2");
        assert_eq!(next(&pool("10.3.0.0/31", None)).unwrap(), "10.3.0.1");
        assert_eq!(next(&pool("10.4.0.0/32", None)), None);
        // The last of all addresses is no reason to count on.
        let edge = pool("255.255.255.254/31", None);
        assert_eq!(next(&edge).unwrap(), "255.255.255.255");
        assert_eq!(next(&edge), None);
    }

    #[test]
    fn edges_are_nobodys() {
        assert!(!is_host(&net("10.0.0.0/24"), "10.0.0.0".parse().unwrap()));
        assert!(!is_host(&net("10.0.0.0/24"), "10.0.0.255".parse().unwrap()));
        assert!(!is_host(&net("10.0.0.0/24"), "10.0.1.1".parse().unwrap()));
        assert!(is_host(&net("10.0.0.0/24"), "10.0.0.254".parse().unwrap()));
        assert!(is_host(&net("10.0.0.0/31"), "10.0.0.0".parse().unwrap()));
    }
}
