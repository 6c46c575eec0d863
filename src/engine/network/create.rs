//! `network create`: subnets are chosen and checked once, here; the machine then makes what the row says.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Driver, Network, NetworkError, PREDEFINED, Spec, of_row};
use crate::runtime::network::{
    Bridge, Machine, Pool, first_host, free_subnet, is_device_name, is_host, local_subnet6, overlap,
};
use crate::store::Store;
use crate::store::networks::StoredNetwork;

/// What was typed.
#[derive(Debug, Clone, Default)]
pub struct CreateNetwork {
    /// 32 bytes that nobody else has.
    pub unique: [u8; 32],
    pub name: String,
    pub subnets: Vec<IpNet>,
    pub gateways: Vec<IpAddr>,
    pub ranges: Vec<IpNet>,
    pub ipv6: bool,
    pub internal: bool,
    pub attachable: bool,
    pub labels: BTreeMap<String, String>,
    pub options: BTreeMap<String, String>,
}

/// Creates a bridge network.
///
/// # Errors
/// [`NetworkError`].
pub fn create(store: &Store, machine: &Machine, request: CreateNetwork) -> Result<Network, NetworkError> {
    let name = request.name.clone();
    if PREDEFINED.iter().any(|(known, _)| *known == name) || name == "default" {
        return Err(NetworkError::PredefinedName(name));
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    let beginning = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if !beginning || name.len() > 128 || !name.bytes().all(plain) {
        return Err(NetworkError::Name(name));
    }
    let id: String = request.unique.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut in_use = machine.subnets_in_use()?;
    // The default network may not have been made yet; its subnet is kept free for it.
    in_use.extend(machine.default_bridge()?.ipv4.map(|pool| pool.subnet));
    let row = store.create_network(&id, &name, |others| {
        let spec = spec(&id, &request, in_use, others)?;
        serde_json::to_string(&spec).map_err(|error| NetworkError::Row(name.clone(), error))
    })?;
    of_row(row)
}

fn spec(
    id: &str,
    request: &CreateNetwork,
    mut taken: Vec<IpNet>,
    others: &[StoredNetwork],
) -> Result<Spec, NetworkError> {
    for other in others {
        let bridge = of_row(other.clone())?.spec.bridge;
        let pools = bridge.map(|bridge| [bridge.ipv4, bridge.ipv6]).unwrap_or_default();
        taken.extend(pools.into_iter().flatten().map(|pool| pool.subnet));
    }
    let mut device = format!("st-{}", &id[..12]);
    let mut mtu = None;
    for (name, value) in &request.options {
        let wrong = || NetworkError::OptionValue(name.clone(), value.clone());
        match name.as_str() {
            "com.docker.network.bridge.name" if is_device_name(value) => device.clone_from(value),
            "com.docker.network.bridge.name" => return Err(wrong()),
            "com.docker.network.driver.mtu" | "com.docker.network.bridge.mtu" | "mtu" => {
                let number: u32 = value.parse().map_err(|_| wrong())?;
                // The least that IPv4 and IPv6 pass, and the most that a device of this kind takes.
                let least = if request.ipv6 { 1280 } else { 68 };
                mtu =
                    Some(Some(number).filter(|number| (least..=65_535).contains(number)).ok_or_else(wrong)?);
            }
            _ => return Err(NetworkError::Option(name.clone())),
        }
    }
    let given = |is_ipv4: bool| {
        let mut of = request.subnets.iter().filter(|subnet| subnet.addr().is_ipv4() == is_ipv4);
        match (of.next(), of.next()) {
            (_, Some(second)) => Err(NetworkError::Subnets(*second)),
            (first, None) => Ok(first.copied()),
        }
    };
    let four = match given(true)? {
        Some(subnet) => subnet,
        None => free_subnet(&taken).ok_or(crate::runtime::network::NetworkError::NoSubnet)?.into(),
    };
    let six = match (given(false)?, request.ipv6) {
        (Some(subnet), false) => return Err(NetworkError::NeedsIpv6(subnet)),
        (Some(subnet), true) => Some(subnet),
        (None, true) => {
            let unique = request.unique.first_chunk().expect("five of 32 bytes");
            Some(local_subnet6(*unique).into())
        }
        (None, false) => None,
    };
    let subnets: Vec<IpNet> = [Some(four), six].into_iter().flatten().collect();
    for subnet in &subnets {
        if subnet.trunc() != *subnet {
            return Err(NetworkError::NoSubnet(*subnet));
        }
        if taken.iter().any(|other| overlap(subnet, other)) {
            return Err(NetworkError::Overlap(*subnet));
        }
    }
    for gateway in &request.gateways {
        if !subnets.iter().any(|subnet| is_host(subnet, *gateway)) {
            return Err(NetworkError::NoMatch("gateway", gateway.to_string()));
        }
    }
    for range in &request.ranges {
        if !subnets.iter().any(|subnet| subnet.contains(range)) {
            return Err(NetworkError::NoMatch("range", range.to_string()));
        }
    }
    let pool = |subnet: IpNet| Pool {
        subnet,
        gateway: request
            .gateways
            .iter()
            .find(|gateway| subnet.contains(*gateway))
            .copied()
            .unwrap_or_else(|| first_host(&subnet)),
        range: request.ranges.iter().find(|range| subnet.contains(*range)).map(IpNet::trunc),
    };
    Ok(Spec {
        driver: Driver::Bridge,
        bridge: Some(Bridge {
            device,
            network: request.name.clone(),
            network_id: id.to_owned(),
            ipv4: Some(pool(four)),
            ipv6: six.map(pool),
            internal: request.internal,
            names: true,
            mtu,
        }),
        labels: request.labels.clone(),
        options: request.options.clone(),
        attachable: request.attachable,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef";

    fn made(request: &CreateNetwork, taken: &[&str]) -> Result<Bridge, String> {
        let taken = taken.iter().map(|text| text.parse().unwrap()).collect();
        let request = CreateNetwork { name: "n".to_owned(), ..request.clone() };
        spec(ID, &request, taken, &[]).map(|spec| spec.bridge.unwrap()).map_err(|error| error.to_string())
    }

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_network_has_a_subnet_and_a_gateway() {
        let bridge = made(&CreateNetwork::default(), &["172.17.0.0/16"]).unwrap();
        assert_eq!(bridge.device, "st-0123456789ab");
        let pool = bridge.ipv4.unwrap();
        assert_eq!(
            (pool.subnet.to_string(), pool.gateway.to_string()),
            ("172.18.0.0/16".into(), "172.18.0.1".into())
        );
        assert_eq!(bridge.ipv6, None);
        let bridge =
            made(&CreateNetwork { ipv6: true, unique: [7; 32], ..CreateNetwork::default() }, &[]).unwrap();
        assert_eq!(bridge.ipv6.unwrap().subnet.to_string(), "fd07:707:707::/64");
    }

    #[test]
    fn what_was_typed_is_checked() {
        let of = |subnets: &[&str], gateway: &str, range: &str, ipv6: bool| {
            let gateways = [gateway].iter().filter_map(|text| text.parse().ok()).collect();
            let ranges = [range].iter().filter_map(|text| text.parse().ok()).collect();
            made(
                &CreateNetwork { subnets: nets(subnets), gateways, ranges, ipv6, ..CreateNetwork::default() },
                &["10.9.0.0/16"],
            )
        };
        let bridge = of(&["10.1.0.0/16"], "10.1.0.254", "10.1.5.0/24", false).unwrap();
        let pool = bridge.ipv4.unwrap();
        assert_eq!(
            (pool.gateway.to_string(), pool.range.unwrap().to_string()),
            ("10.1.0.254".into(), "10.1.5.0/24".into())
        );
        assert!(of(&["10.1.0.1/16"], "", "", false).unwrap_err().contains("no subnet"));
        assert!(of(&["10.9.8.0/24"], "", "", false).unwrap_err().contains("overlaps"));
        assert!(of(&["10.0.0.0/8"], "", "", false).unwrap_err().contains("overlaps"));
        assert!(of(&["10.1.0.0/16"], "10.2.0.1", "", false).unwrap_err().contains("no matching subnet"));
        assert!(of(&["10.1.0.0/16"], "10.1.255.255", "", false).unwrap_err().contains("no matching subnet"));
        assert!(of(&["10.1.0.0/16"], "", "10.2.0.0/24", false).unwrap_err().contains("no matching subnet"));
        assert!(of(&["10.1.0.0/16", "10.2.0.0/16"], "", "", false).unwrap_err().contains("one too many"));
        assert!(of(&["fd00::/64"], "", "", false).unwrap_err().contains("--ipv6"));
        assert_eq!(of(&["fd00::/64"], "", "", true).unwrap().ipv6.unwrap().gateway.to_string(), "fd00::1");
    }

    #[test]
    fn options_are_known_or_refused() {
        let of = |name: &str, value: &str| {
            let options = BTreeMap::from([(name.to_owned(), value.to_owned())]);
            made(&CreateNetwork { options, ..CreateNetwork::default() }, &[])
        };
        assert_eq!(of("com.docker.network.bridge.name", "br7").unwrap().device, "br7");
        assert_eq!(of("com.docker.network.driver.mtu", "1400").unwrap().mtu, Some(1400));
        assert!(of("com.docker.network.bridge.name", "a b").unwrap_err().contains("invalid value"));
        assert!(of("com.docker.network.driver.mtu", "9").unwrap_err().contains("invalid value"));
        assert!(
            of("com.docker.network.bridge.enable_icc", "false")
                .unwrap_err()
                .contains("unknown network option")
        );
    }
}
