//! Into networks and out of them while a container runs, or before it does.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

use super::{Driver, Network, NetworkError, join};
use crate::engine::container;
use crate::engine::container::config::{Endpoint, NetworkConfig, NetworkMode};
use crate::runtime::monitor::Status;
use crate::runtime::network::{DEFAULT_NETWORK, Machine, NetworkError as MachineError};
use crate::store::Store;
use crate::store::containers::{ContainerId, Named, StoredContainer};

/// The network namespace of a container that runs.
///
/// # Errors
/// [`NetworkError::NotRunning`].
pub fn namespace_of(store: &Store, id: &str) -> Result<OwnedFd, NetworkError> {
    let not_running = || NetworkError::NotRunning(id.to_owned());
    let Named::One(row) = store.container(id)? else { return Err(not_running()) };
    let pid = pid(store, &row.id)?.ok_or_else(not_running)?;
    let path = format!("/proc/{pid}/ns/net");
    let namespace = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| NetworkError::Namespace(row.name.clone(), error.into()))?;
    // Somebody else may have got the number meanwhile; then the container has ended.
    match self::pid(store, &row.id)? == Some(pid) {
        true => Ok(namespace),
        false => Err(not_running()),
    }
}

fn pid(store: &Store, id: &ContainerId) -> Result<Option<i32>, NetworkError> {
    let state = container::state(store, id)?;
    Ok(matches!(state.status, Status::Running | Status::Paused).then_some(state.pid).filter(|pid| *pid > 0))
}

/// Brings a container into a network, at once if it runs.
///
/// # Errors
/// [`NetworkError`].
pub fn connect(
    store: &Store,
    machine: &Machine,
    network: &Network,
    row: &StoredContainer,
    endpoint: Endpoint,
) -> Result<(), NetworkError> {
    if network.spec.driver != Driver::Bridge {
        return Err(NetworkError::Alone(network.name.clone()));
    }
    let running = pid(store, &row.id)?.is_some();
    // It was started with networks, and left them all.
    let left = running && machine.member(row.id.as_str())?.is_some();
    let endpoint = Endpoint { network: network.name.clone(), ..endpoint };
    let place = join::place_of(store, machine, &endpoint, row.id.as_str(), &row.name)?;
    let enter = |network_config: &mut NetworkConfig| {
        match &network_config.mode {
            NetworkMode::Networks => {
                if network_config.endpoints.is_empty() {
                    // The default network, which need not be named, is no longer the only one.
                    network_config.endpoints.push(default_endpoint());
                }
            }
            // What it is then in, its next start makes.
            NetworkMode::None if !running || left => network_config.mode = NetworkMode::Networks,
            mode => return Err(NetworkError::OtherMode(row.name.clone(), word(mode))),
        }
        if network_config.endpoints.iter().any(|other| is_of(other, network)) {
            return Err(MachineError::Connected(network.name.clone()).into());
        }
        network_config.endpoints.push(endpoint);
        Ok(())
    };
    enter.clone()(&mut container::config(row)?.network)?;
    if running {
        let namespace = namespace_of(store, row.id.as_str())?;
        let (id, namespace) = (row.id.as_str(), namespace.as_fd());
        match machine.connect(id, namespace, &place) {
            // Somebody who was killed had come as far as this: it may have been another address.
            Err(MachineError::Connected(_)) => {
                machine.disconnect(id, namespace, &network.name)?;
                machine.connect(id, namespace, &place)?;
            }
            connected => drop(connected?),
        }
    }
    container::change_config(store, &row.id, |config| enter(&mut config.network))
}

/// Takes a container out of a network, at once if it runs.
///
/// # Errors
/// [`NetworkError`].
pub fn disconnect(
    store: &Store,
    machine: &Machine,
    network: &Network,
    row: &StoredContainer,
) -> Result<(), NetworkError> {
    let leave = |network_config: &mut NetworkConfig| {
        match &network_config.mode {
            NetworkMode::Networks => {}
            mode => return Err(NetworkError::OtherMode(row.name.clone(), word(mode))),
        }
        let endpoints = &mut network_config.endpoints;
        if endpoints.is_empty() {
            endpoints.push(default_endpoint());
        }
        let before = endpoints.len();
        endpoints.retain(|other| !is_of(other, network));
        let was_in_it = endpoints.len() < before;
        if endpoints.is_empty() {
            network_config.mode = NetworkMode::None;
        }
        Ok(was_in_it)
    };
    let mut was_in_it = leave(&mut container::config(row)?.network)?;
    if pid(store, &row.id)?.is_some() {
        let namespace = namespace_of(store, row.id.as_str())?;
        // Of somebody who was killed, in here or in `connect`, one half may have been done.
        match machine.disconnect(row.id.as_str(), namespace.as_fd(), &network.name) {
            Err(MachineError::NotConnected(_)) => {}
            left => {
                left?;
                was_in_it = true;
            }
        }
    }
    if !was_in_it {
        return Err(MachineError::NotConnected(network.name.clone()).into());
    }
    container::change_config(store, &row.id, |config| leave(&mut config.network).map(drop))
}

/// The place in the default network that need not be named.
fn default_endpoint() -> Endpoint {
    Endpoint { network: DEFAULT_NETWORK.to_owned(), ..Endpoint::default() }
}

fn is_of(endpoint: &Endpoint, network: &Network) -> bool {
    endpoint.network == network.name || endpoint.network == network.id
}

/// Puts the networks that a container is in at the moment into what was seen of it: its monitor knows those that it
/// was started in, and not what `connect` and `disconnect` did since.
pub fn see_networks(machine: &Machine, seen: &mut container::Seen) {
    if !seen.is_up() || seen.config.network.mode != NetworkMode::Networks {
        return;
    }
    // Who is no member, as a container of an ordinary user's own network, has changed none.
    if let Ok(Some(member)) = machine.member(seen.row.id.as_str()) {
        seen.state.networks = member.endpoints.into_iter().map(|endpoint| endpoint.joined).collect();
    }
}

fn word(mode: &NetworkMode) -> &'static str {
    match mode {
        NetworkMode::Host => "the host's",
        NetworkMode::None => "no",
        NetworkMode::Container(_) => "another container's",
        NetworkMode::Networks => "its own",
    }
}

/// The networks, by name or id, that containers of the store are in when they run.
///
/// # Errors
/// [`NetworkError`].
pub fn named_by_containers(store: &Store) -> Result<Vec<String>, NetworkError> {
    let mut named = Vec::new();
    for row in store.containers()? {
        let config = container::config(&row)?;
        named.extend(config.network.endpoints.into_iter().map(|endpoint| endpoint.network));
    }
    Ok(named)
}
