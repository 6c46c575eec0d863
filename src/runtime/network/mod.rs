//! Bridge networks: what `--network` and `-p` do to the machine. Plain data comes in; no store is known here.
//!
//! ```text
//!   host                                     container's namespace, made by the starter
//!   stave0 172.17.0.1 -- veth… ============== eth0 172.17.0.2      lo: 127.0.0.11:53
//!     | table inet stave: masquerade,                                      ^
//!     | isolation, published ports                                         | names
//!   sockets of published ports <---------- the container's monitor --------+
//! ```
//!
//! The starter ([`Machine::attach`]) makes the namespace, takes addresses, binds the ports, and hands all of it over;
//! the monitor (`Serving`) holds it for as long as the container lives. What they made ends with them: the kernel
//! takes devices with the namespace, and locks and ports with the monitor. Bridges stay.
//!
//! An ordinary user's bridges are in a namespace of the user's, the [`Yard`]; all but the sockets of published ports,
//! which are the machine's, is made there as it is here for root.

mod attach;
mod folder;
mod ground;
mod keeper;
mod links;
mod model;
mod namespace;
mod netlink;
mod pool;
mod ports;
mod resolv;
mod rules;
mod services;
pub mod user;
mod yard;

use std::io;
use std::net::{IpAddr, SocketAddr};

pub use attach::{Attached, Machine, Place, Wanted};
pub use links::Mac;
pub use model::{
    Bridge, DEFAULT_DEVICE, DEFAULT_NETWORK, Member, MemberEndpoint, Pool, is_device_name, mac_of,
};
pub use namespace::{own, within};
pub use pool::{first_host, free_subnet, is_host, local_subnet6, overlap};
pub use ports::{Listener, Mapping, Protocol};
pub use resolv::{Dns, Reach, ResolvConf};
pub use services::{RESOLVER, Resolver, Services};
pub use yard::Yard;

pub(super) use keeper::{KEEPER_NAME, keep};
pub(super) use services::{ServicesPlan, Serving};

/// Why a network could not be made or joined.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("cannot {0}")]
    Io(String, #[source] io::Error),
    #[error("bridge networks need the program `nft`, which is not there: install the package `nftables`")]
    NoNft,
    #[error("the firewall's rules were refused: {0}")]
    Nft(String),
    #[error("all predefined address pools overlap with networks that this machine is in: name a `--subnet`")]
    NoSubnet,
    #[error("network `{0}` has no free address")]
    NoAddress(String),
    #[error("the address {0} is in use")]
    AddressInUse(IpAddr),
    #[error("no subnet of network `{network}` contains the address {address}")]
    NotInSubnet { network: String, address: IpAddr },
    #[error("bind for {0} failed: port is already allocated")]
    PortTaken(SocketAddr),
    #[error("cannot bind {0}")]
    Port(SocketAddr, #[source] io::Error),
    #[error("no port from {0} to {1} of the host is free")]
    NoPort(u16, u16),
    #[error("ports cannot be published: all networks of the container are internal")]
    Internal,
    #[error("the container `{0}` has a network already")]
    Running(String),
    #[error("the container is not running, or not on a bridge network")]
    NotAMember,
    #[error("the container is not connected to network `{0}`")]
    NotConnected(String),
    #[error("the container is already connected to network `{0}`")]
    Connected(String),
    #[error("network `{network}` has active endpoints: {}", members.join(", "))]
    Active { network: String, members: Vec<String> },
}

impl NetworkError {
    /// Whether this machine, or this user, cannot have bridges at all.
    pub fn is_inability(&self) -> bool {
        match self {
            Self::NoNft | Self::Nft(_) | Self::NoSubnet => true,
            Self::Io(_, source) => matches!(
                source.raw_os_error(),
                Some(libc::EPERM | libc::EACCES | libc::EROFS | libc::EOPNOTSUPP | libc::ENOSYS)
            ),
            _ => false,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Port(_, source) if source.kind() == io::ErrorKind::PermissionDenied => Some(
                "ports below 1024 are root's: publish another, or see `sysctl net.ipv4.ip_unprivileged_port_start`",
            ),
            error if error.is_inability() => {
                Some("`--network=host` shares the host's network, `--network=none` has none")
            }
            _ => None,
        }
    }
}

/// Says what was being done.
fn doing<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> NetworkError {
    let what = what.into();
    move |error| NetworkError::Io(what, error.into())
}
