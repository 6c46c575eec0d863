//! Networks as people know them: created, listed, removed; and what a container has of them.
//!
//! Three are always there: `bridge`, `host` and `none`. The others are rows of the store; their bridges are made when
//! the first container needs them, so a network survives a restart of the machine.

mod create;
mod join;
mod running;
mod user;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::runtime::network::{self as machine, Bridge, DEFAULT_NETWORK, Machine, Member};
use crate::store::networks::{NamedNetwork, StoredNetwork};
use crate::store::{Store, StoreError};

pub use create::{CreateNetwork, create};
pub use join::{Host, Joining, Prepared, prepare};
pub use running::{connect, disconnect, named_by_containers, namespace_of, see_networks};
pub use user::UserNetworkError;

/// A network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    pub id: String,
    pub name: String,
    /// Nanoseconds since the epoch; 0 for those that are always there.
    pub created: i64,
    pub spec: Spec,
}

/// What a network was told to be: the JSON in its row.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Spec {
    pub driver: Driver,
    /// None for `host` and `none`, and for `bridge` until it is first used.
    pub bridge: Option<Bridge>,
    pub labels: BTreeMap<String, String>,
    /// As typed.
    pub options: BTreeMap<String, String>,
    /// Docker's, for swarms; shown as it was given.
    pub attachable: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    #[default]
    Bridge,
    Host,
    /// Docker calls it `null`.
    Null,
}

impl Driver {
    /// As Docker calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Host => "host",
            Self::Null => "null",
        }
    }
}

impl Network {
    /// Nothing leads out of it.
    pub fn is_internal(&self) -> bool {
        self.spec.bridge.as_ref().is_some_and(|bridge| bridge.internal)
    }

    pub fn has_ipv6(&self) -> bool {
        self.spec.bridge.as_ref().is_some_and(|bridge| bridge.ipv6.is_some())
    }

    /// Whether it is always there.
    pub fn is_predefined(&self) -> bool {
        PREDEFINED.iter().any(|(name, _)| *name == self.name)
    }

    /// The first twelve digits of its id.
    pub fn short_id(&self) -> &str {
        self.id.get(..12).unwrap_or(&self.id)
    }
}

/// Why something could not be done to a network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Machine(#[from] machine::NetworkError),
    #[error(transparent)]
    User(#[from] user::UserNetworkError),
    #[error("network `{0}` not found")]
    NotFound(String),
    #[error("`{0}` is the beginning of the ids of {1} networks")]
    Several(String, usize),
    #[error("the row of network `{0}` cannot be read")]
    Row(String, #[source] serde_json::Error),
    #[error("`{0}` is a pre-defined network and cannot be removed")]
    Predefined(String),
    #[error("operation is not permitted on predefined `{0}` network")]
    PredefinedName(String),
    #[error(
        "invalid network name `{0}`: letters, digits, `_`, `.` and `-`, beginning with a letter or a digit"
    )]
    Name(String),
    #[error("unknown network option `{0}`")]
    Option(String),
    #[error("invalid value of the network option `{0}`: `{1}`")]
    OptionValue(String, String),
    #[error("a network has one subnet of each family: `{0}` is one too many")]
    Subnets(ipnet::IpNet),
    #[error("`{0}` is no subnet: its address has bits beyond the prefix")]
    NoSubnet(ipnet::IpNet),
    #[error("the subnet `{0}` is of IPv6: pass `--ipv6` too")]
    NeedsIpv6(ipnet::IpNet),
    #[error("no matching subnet for {0} `{1}`")]
    NoMatch(&'static str, String),
    #[error("the subnet `{0}` overlaps with another network, or with a route of this machine")]
    Overlap(ipnet::IpNet),
    #[error("`{0}` cannot be combined with other networks")]
    Alone(String),
    #[error("user specified IP address is supported on user defined networks only")]
    AddressOnDefault,
    #[error("network-scoped aliases are supported on user defined networks only")]
    AliasOnDefault,
    #[error("container `{0}` has {1} network, and cannot be connected to others or disconnected")]
    OtherMode(String, &'static str),
    #[error("container `{0}` is not running: its network cannot be shared")]
    NotRunning(String),
    #[error("cannot open the network of container `{0}`")]
    Namespace(String, #[source] std::io::Error),
}

impl NetworkError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Machine(error) => error.hint(),
            Self::NotFound(_) => {
                Some("`stave network ls` lists the networks, `stave network create` makes one")
            }
            _ => None,
        }
    }
}

const PREDEFINED: [(&str, Driver); 3] =
    [(DEFAULT_NETWORK, Driver::Bridge), ("host", Driver::Host), ("none", Driver::Null)];

/// One that is always there.
fn predefined(machine: &Machine, name: &str, driver: Driver) -> Network {
    let bridge = match driver {
        // A machine that cannot have it has a network without a subnet.
        Driver::Bridge => machine.default_bridge().ok(),
        Driver::Host | Driver::Null => None,
    };
    let id = bridge.as_ref().map(|bridge| bridge.network_id.clone());
    let id = id.unwrap_or_else(|| Digest::of(format!("stave network {name}").as_bytes()).hex());
    Network { id, name: name.to_owned(), created: 0, spec: Spec { driver, bridge, ..Spec::default() } }
}

fn of_row(row: StoredNetwork) -> Result<Network, NetworkError> {
    let spec =
        serde_json::from_str(&row.config).map_err(|error| NetworkError::Row(row.name.clone(), error))?;
    Ok(Network { id: row.id, name: row.name, created: row.created, spec })
}

/// All networks, by name.
///
/// # Errors
/// [`NetworkError`].
pub fn list(store: &Store, machine: &Machine) -> Result<Vec<Network>, NetworkError> {
    let mut all: Vec<Network> =
        PREDEFINED.iter().map(|(name, driver)| predefined(machine, name, *driver)).collect();
    for row in store.networks()? {
        all.push(of_row(row)?);
    }
    all.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(all)
}

/// The network that a person means: by name, id, or the beginning of an id.
///
/// # Errors
/// [`NetworkError::NotFound`].
pub fn find(store: &Store, machine: &Machine, text: &str) -> Result<Network, NetworkError> {
    if let Some((name, driver)) = PREDEFINED.iter().find(|(name, _)| *name == text) {
        return Ok(predefined(machine, name, *driver));
    }
    match store.network(text)? {
        NamedNetwork::One(row) => of_row(*row),
        NamedNetwork::Several(count) => Err(NetworkError::Several(text.to_owned(), count)),
        NamedNetwork::None => {
            let digits = text.len() >= 4 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            let known = PREDEFINED.iter().map(|(name, driver)| predefined(machine, name, *driver));
            known
                .filter(|_| digits)
                .find(|network| network.id.starts_with(text))
                .ok_or_else(|| NetworkError::NotFound(text.to_owned()))
        }
    }
}

/// Removes a network and its bridge.
///
/// # Errors
/// [`NetworkError`]; also while a container is in it.
pub fn remove(store: &Store, machine: &Machine, network: &Network) -> Result<(), NetworkError> {
    if network.is_predefined() {
        return Err(NetworkError::Predefined(network.name.clone()));
    }
    if let Some(bridge) = &network.spec.bridge {
        machine.remove(bridge)?;
    }
    Ok(store.remove_network(&network.id)?)
}

/// Who is in a network at the moment.
///
/// # Errors
/// [`NetworkError`].
pub fn members(machine: &Machine, network: &Network) -> Result<Vec<Member>, NetworkError> {
    if network.spec.driver != Driver::Bridge {
        return Ok(Vec::new());
    }
    let inside = |member: &Member| member.endpoints.iter().any(|one| one.joined.network_id == network.id);
    Ok(machine.all_members()?.into_iter().filter(inside).collect())
}
