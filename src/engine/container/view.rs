//! A container as it is: its row, what it was told to be, and its state, which is mended if nobody is left who could.

use std::collections::BTreeMap;

use super::Config;
use crate::event::Actor;
use crate::runtime::monitor::{State, Status};
use crate::store::containers::{Named, StoredContainer};
use crate::store::{Store, StoreError};

/// All of a container.
#[derive(Debug, Clone)]
pub struct Seen {
    pub row: StoredContainer,
    pub config: Config,
    pub state: State,
}

impl Seen {
    /// Whether a process of it is there.
    pub fn is_up(&self) -> bool {
        matches!(self.state.status, Status::Running | Status::Paused | Status::Restarting)
    }
}

/// What events tell of a container: its name, its image and its labels.
pub fn attributes(seen: &Seen) -> BTreeMap<String, String> {
    let mut attributes = seen.config.labels.clone();
    attributes.insert("image".to_owned(), seen.config.image.clone());
    attributes.insert("name".to_owned(), seen.row.name.clone());
    attributes
}

/// Writes down who the container is, for the events that its monitor tells. Where that cannot be, it tells none.
pub fn introduce(store: &Store, seen: &Seen) {
    let actor = Actor { id: seen.row.id.to_string(), attributes: attributes(seen) };
    if let Ok(folder) = super::folder(store, &seen.row.id) {
        let _ = crate::event::write_actor(folder, &actor);
    }
}

/// Reads a container's row and state. A state that says it runs, of a container whose lock is free, was left by a
/// monitor that was killed: it has ended, and the file is made to say so.
///
/// # Errors
/// What the file system gives, and for documents that are none.
pub fn see(store: &Store, row: StoredContainer) -> Result<Seen, StoreError> {
    let config = super::config(&row)?;
    let mut state = super::read_state(store, &row.id)?;
    if state.status.is_live() && !store.container_is_held(&row.id)? {
        state = match store.try_lock_container(&row.id)? {
            Some(held) => super::settle(store, &row.id, &held)?,
            // Somebody just begins to do something with it.
            None => super::state(store, &row.id)?,
        };
    }
    Ok(Seen { row, config, state })
}

/// All containers, the newest first. One that goes away meanwhile is left out.
///
/// # Errors
/// As [`see`].
pub fn see_all(store: &Store) -> Result<Vec<Seen>, StoreError> {
    let mut all = Vec::new();
    for row in store.containers()? {
        let id = row.id.clone();
        match see(store, row) {
            Ok(seen) => all.push(seen),
            Err(_) if store.container(id.as_str())? == Named::None => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::{Digest, ImageId};
    use crate::store::containers::ContainerId;
    use crate::store::tests::store;

    fn container(store: &Store, state: &State) -> StoredContainer {
        let id = ContainerId::from_bytes([7; 32]);
        store.create_container(&id, "web", ImageId(Digest::of(b"i")), "{}").unwrap();
        super::super::write_state(store, &id, state).unwrap();
        store.containers().unwrap().remove(0)
    }

    #[test]
    fn a_container_whose_monitor_was_killed_has_ended() {
        for status in [Status::Running, Status::Paused, Status::Restarting] {
            let (_folder, store) = store();
            let row = container(&store, &State { status, pid: 42, started_at: 1, ..State::default() });
            let held = store.try_lock_container(&row.id).unwrap().unwrap();
            assert_eq!(see(&store, row.clone()).unwrap().state.status, status, "its monitor lives");
            drop(held);
            let seen = see(&store, row.clone()).unwrap();
            assert_eq!((seen.state.status, seen.state.pid), (Status::Exited, 0));
            // One that waited for its next start had ended by itself.
            assert_eq!(seen.state.exit_code, if status == Status::Restarting { 0 } else { 137 });
            assert!(seen.state.finished_at > 0 && !seen.is_up());
            assert_eq!(
                super::super::read_state(&store, &row.id).unwrap(),
                seen.state,
                "it is mended on disk"
            );
            assert_eq!(see(&store, row).unwrap().state, seen.state, "and only once");
        }
    }

    #[test]
    fn what_has_no_state_was_created_and_what_ended_stays() {
        let (_folder, store) = store();
        let ended = State { status: Status::Exited, exit_code: 3, finished_at: 5, ..State::default() };
        let row = container(&store, &ended);
        assert_eq!(see(&store, row.clone()).unwrap().state, ended);
        std::fs::remove_file(store.container_folder(&row.id).join("state.json")).unwrap();
        assert_eq!(see(&store, row.clone()).unwrap().state.status, Status::Created);
        std::fs::write(store.container_folder(&row.id).join("state.json"), "{\"status\":7}").unwrap();
        // One that cannot be read is no reason to see nothing at all.
        let lost = see(&store, row).unwrap().state;
        assert_eq!((lost.status, lost.exit_code), (Status::Exited, 255));
    }
}
