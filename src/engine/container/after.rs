//! What a monitor becomes when its container has ended and the store is needed: it is removed, or started again.

use super::start::{StartError, StartRequest, start};
use super::{Config, config, mounts, settle, state};
use crate::engine::network::NetworkError;
use crate::runtime::monitor::{Joined, Published, Status};
use crate::runtime::network::Machine;
use crate::store::Store;
use crate::store::containers::{ContainerId, Named};
use crate::store::lease::FileLock;

/// Whether there is anything to be done after a container's end besides starting it again.
pub fn needs_after(config: &Config) -> bool {
    config.life.remove
}

/// Whether the machine's firewall leads to a container, and has to be told of its end.
pub(super) fn is_in_firewall(networks: &[Joined], ports: &[Published]) -> bool {
    !networks.is_empty() && ports.iter().any(|port| !port.host_ip.is_loopback())
}

/// Does what comes after the end. `lock` is the container's own, which its monitor had.
///
/// # Errors
/// As starting it gives; then it stays as it is.
pub fn after(
    store: &Store,
    id: &ContainerId,
    lock: FileLock,
    machine: &Machine,
    restart: Option<StartRequest>,
) -> Result<(), StartError> {
    let Named::One(container) = store.container(id.as_str())? else { return Ok(()) };
    if let Some(request) = restart {
        return start(store, id, Some(lock), request).map(drop);
    }
    let ended = settle(store, id, &lock)?;
    let config = config(&container)?;
    if config.life.remove {
        store.remove_container(id, &lock)?;
        store.remove_unused_volumes(&mounts::anonymous_volumes(&config))?;
    }
    if is_in_firewall(&ended.networks, &ended.ports) {
        machine.tidy().map_err(NetworkError::from)?;
    }
    Ok(())
}

/// Removes containers that were to remove themselves and could not: their monitor, or who did it in its place, was
/// killed.
///
/// # Errors
/// As [`after`].
pub fn settle_abandoned(store: &Store, machine: &Machine) -> Result<(), StartError> {
    for container in store.containers()? {
        if !needs_after(&config(&container)?) || state(store, &container.id)?.status != Status::Exited {
            continue;
        }
        // Whoever is about to do it has the lock.
        if let Some(lock) = store.try_lock_container(&container.id)? {
            after(store, &container.id, lock, machine, None)?;
        }
    }
    Ok(())
}
