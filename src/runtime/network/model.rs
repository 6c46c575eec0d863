//! What is known of networks and of who is in them: plain data, kept as JSON in the runtime folder.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::links::Mac;
use crate::runtime::monitor::{Joined, Published};

/// The name of the network that every container is in unless it says otherwise.
pub const DEFAULT_NETWORK: &str = "bridge";

/// Its device, which all stores of a machine share.
pub const DEFAULT_DEVICE: &str = "stave0";

/// A bridge network, as the machine has to make it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bridge {
    /// The bridge's device.
    pub device: String,
    /// The network's name and id.
    pub network: String,
    pub network_id: String,
    pub ipv4: Option<Pool>,
    pub ipv6: Option<Pool>,
    /// Nothing leads out of it, and nothing in.
    pub internal: bool,
    /// Whether its containers find each other by name: all networks but the default one.
    pub names: bool,
    pub mtu: Option<u32>,
}

/// Addresses of one family.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    #[serde(with = "text")]
    pub subnet: IpNet,
    /// The bridge's own address.
    pub gateway: IpAddr,
    /// The part that containers get theirs of; none for all.
    #[serde(with = "optional_text", default)]
    pub range: Option<IpNet>,
}

/// A container, or a step of a build, that has a network of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The container's id.
    pub id: String,
    pub name: String,
    /// The first has the default route.
    pub endpoints: Vec<MemberEndpoint>,
    pub ports: Vec<Published>,
}

/// A member's place in a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberEndpoint {
    /// The bridge's device, and the outer end of the pair.
    pub bridge: String,
    pub outside: String,
    pub internal: bool,
    pub joined: Joined,
    /// What others of the network call it, in small letters; none where names are not served.
    pub names: Vec<String>,
}

impl MemberEndpoint {
    /// Its addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let four = self.joined.ipv4.map(|(address, _)| IpAddr::V4(address));
        four.into_iter().chain(self.joined.ipv6.map(|(address, _)| IpAddr::V6(address)))
    }
}

impl Member {
    /// Where published ports lead: the first network that is not cut off.
    pub fn entrance(&self) -> Option<&MemberEndpoint> {
        self.endpoints.iter().find(|endpoint| !endpoint.internal)
    }
}

/// The hardware address that goes with an address, as Docker makes it: whoever has the address later has the same
/// one, so nobody's table of neighbours goes stale.
pub fn mac_of(address: IpAddr) -> Mac {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            [0x02, 0x42, a, b, c, d]
        }
        IpAddr::V6(address) => {
            let bytes = address.octets();
            [0x02, 0x42, bytes[12], bytes[13], bytes[14], bytes[15]]
        }
    }
}

/// Whether the kernel, the firewall and a shell all take this as the name of a device.
pub fn is_device_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=15).contains(&name.len())
        && name.bytes().all(plain)
        && name.as_bytes()[0].is_ascii_alphanumeric()
        && !matches!(name, "lo" | "all" | "default")
}

mod text {
    use super::{Deserialize, IpNet};

    pub(super) fn serialize<S: serde::Serializer>(net: &IpNet, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(net)
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(from: D) -> Result<IpNet, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

mod optional_text {
    use super::{Deserialize, IpNet};

    pub(super) fn serialize<S: serde::Serializer>(net: &Option<IpNet>, to: S) -> Result<S::Ok, S::Error> {
        match net {
            Some(net) => to.collect_str(net),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<IpNet>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_are_kept_as_text() {
        let pool = Pool {
            subnet: "172.18.0.0/16".parse().unwrap(),
            gateway: "172.18.0.1".parse().unwrap(),
            range: Some("172.18.5.0/24".parse().unwrap()),
        };
        let json = serde_json::to_string(&pool).unwrap();
        assert_eq!(json, r#"{"subnet":"172.18.0.0/16","gateway":"172.18.0.1","range":"172.18.5.0/24"}"#);
        assert_eq!(serde_json::from_str::<Pool>(&json).unwrap(), pool);
        assert!(serde_json::from_str::<Pool>(r#"{"subnet":"172.18/16","gateway":"172.18.0.1"}"#).is_err());
    }

    #[test]
    fn names_of_devices() {
        for good in ["stave0", "st-0123456789ab", "br.1", "b"] {
            assert!(is_device_name(good), "{good}");
        }
        for bad in ["", "st-0123456789abc", "a b", "a/b", "-a", ".", "a\"b", "lo", "a;b", "ü"] {
            assert!(!is_device_name(bad), "{bad}");
        }
    }

    #[test]
    fn hardware_addresses_follow_addresses() {
        assert_eq!(mac_of("172.17.0.2".parse().unwrap()), [0x02, 0x42, 172, 17, 0, 2]);
        assert_eq!(mac_of("fd00::1:2".parse().unwrap()), [0x02, 0x42, 0, 1, 0, 2]);
    }
}
