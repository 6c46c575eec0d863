//! What a monitor becomes when its container has ended and the store is needed: it is removed, or started again.

use super::start::{StartError, StartRequest, start};
use super::{Config, config, mounts, read_state, settle, state};
use crate::engine::network::NetworkError;
use crate::runtime::monitor::{Joined, Published, Status};
use crate::runtime::network::Machine;
use crate::store::containers::{ContainerId, Named, Stay, StoredContainer};
use crate::store::lock::NameLock;
use crate::store::{Store, StoreError};

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
    lock: NameLock,
    machine: &Machine,
    restart: Option<StartRequest>,
) -> Result<(), StartError> {
    let Named::One(container) = store.container(id.as_str())? else { return Ok(()) };
    if let Some(request) = restart {
        return start(store, id, Some(lock), request).map(drop);
    }
    finish(store, &container, &lock, machine, Store::remove_container)
}

/// As [`after`], by who started it and stayed: the container is gone then, but for its files, which its monitor
/// removes when it is told so.
///
/// # Errors
/// As [`after`].
pub fn after_attached(
    store: &Store,
    id: &ContainerId,
    lock: NameLock,
    machine: &Machine,
) -> Result<(), StartError> {
    let Named::One(container) = store.container(id.as_str())? else { return Ok(()) };
    finish(store, &container, &lock, machine, Store::set_container_aside)
}

fn finish(
    store: &Store,
    container: &StoredContainer,
    lock: &NameLock,
    machine: &Machine,
    remove: fn(&Store, &ContainerId, Stay, &NameLock) -> Result<(), StoreError>,
) -> Result<(), StartError> {
    let id = &container.id;
    let config = config(container)?;
    let ended = if config.life.remove {
        // What it says need not be put right any more.
        let ended = read_state(store, id)?;
        if ended.status.is_live() {
            super::forget_group(&config, id);
        }
        remove(store, id, super::create::stay(&config), lock)?;
        store.remove_unused_volumes(&mounts::anonymous_volumes(&config))?;
        ended
    } else {
        settle(store, id, lock)?
    };
    if is_in_firewall(&ended.networks, &ended.ports) {
        machine.tidy().map_err(NetworkError::from)?;
    }
    Ok(())
}

/// Where a container's monitor was killed, writes that down, and has the machine's firewall forget its ports.
///
/// # Errors
/// What the store and the firewall give.
pub fn settle_killed(
    store: &Store,
    machine: &Machine,
    container: &StoredContainer,
) -> Result<(), StartError> {
    let id = &container.id;
    if !read_state(store, id)?.status.is_live() || store.container_is_held(id)? {
        return Ok(());
    }
    if let Some(lock) = store.try_lock_container(id)? {
        let before = read_state(store, id)?;
        if !before.status.is_live() {
            return Ok(());
        }
        if is_in_firewall(&before.networks, &before.ports) {
            let living = machine.all_members().map_err(NetworkError::from)?;
            // The kernel takes a dead process's locks one after the other: then the next who comes sees to it.
            if living.iter().any(|member| member.id == id.as_str()) {
                return Ok(());
            }
        }
        settle(store, id, &lock)?;
    }
    Ok(())
}

/// Removes a container of which a power cut left no more than its row, if it was to remove itself. While somebody
/// has its lock, it is being created or removed.
fn forget_lost(store: &Store, container: &StoredContainer, config: &Config) -> Result<(), StartError> {
    let id = &container.id;
    let lock = store.try_lock_container(id)?;
    let Some(lock) = lock.filter(|lock| store.container_is_lost(id, lock)) else { return Ok(()) };
    store.remove_container(id, super::create::stay(config), &lock)?;
    store.remove_unused_volumes(&mounts::anonymous_volumes(config))?;
    Ok(())
}

/// Removes containers that were to remove themselves and could not: their monitor, or who did it in its place, was
/// killed.
///
/// # Errors
/// As [`after`].
pub fn settle_abandoned(store: &Store, machine: &Machine) -> Result<(), StartError> {
    for container in store.containers()? {
        let config = config(&container)?;
        if !store.container_folder(&container.id).exists() {
            if needs_after(&config) {
                forget_lost(store, &container, &config)?;
            }
            continue;
        }
        settle_killed(store, machine, &container)?;
        // Who claims it is about to start it again.
        if store.container_is_claimed(&container.id)? {
            continue;
        }
        if !needs_after(&config) || state(store, &container.id)?.status != Status::Exited {
            continue;
        }
        // Whoever is about to do it has the lock.
        if let Some(lock) = store.try_lock_container(&container.id)? {
            after(store, &container.id, lock, machine, None)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::{Digest, ImageId};
    use crate::store::containers::Uses;
    use crate::store::tests::store;

    #[test]
    fn a_row_whose_folder_is_gone_goes_when_its_container_was_to_remove_itself() {
        let (folder, store) = store();
        let machine = Machine { runtime: folder.path().join("run"), nft: None, yard: None };
        let create = |byte: u8, remove: bool| {
            let id = ContainerId::from_bytes([byte; 32]);
            let mut config = Config::default();
            config.life.remove = remove;
            let json = serde_json::to_string(&config).unwrap();
            let (name, image) = (format!("c{byte}"), ImageId(Digest::of(b"i")));
            let stay = super::super::create::stay(&config);
            assert_eq!(stay, if remove { Stay::Passing } else { Stay::Lasting });
            let lock = store.create_container_with(&id, &name, image, &json, &Uses::default(), stay).unwrap();
            (id, lock)
        };
        let names = || -> Vec<String> {
            let mut names: Vec<String> =
                store.containers().unwrap().into_iter().map(|row| row.name).collect();
            names.sort();
            names
        };
        let (lost, lock) = create(1, true);
        drop(create(2, true));
        drop(create(3, false));
        std::fs::remove_dir_all(store.container_folder(&lost)).unwrap();
        settle_abandoned(&store, &machine).unwrap();
        assert_eq!(names(), ["c1", "c2", "c3"], "somebody is at it, as who removes it is for a moment");
        drop(lock);
        settle_abandoned(&store, &machine).unwrap();
        assert_eq!(names(), ["c2", "c3"], "what was created and did not run yet stays");
    }
}
