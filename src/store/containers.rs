//! Containers: their rows, their folders, and how a person names one.
//!
//! A container that runs, or that somebody is just starting or changing, has its lock `container-<id>` held; one whose
//! lock is free does not run, whether its process could say so or not. The folder has what it wrote (`fs`, `work`), its
//! state and its log; the row has what it was told to be, as JSON that the store does not read.

use std::fmt;
use std::path::PathBuf;

use rusqlite::{OptionalExtension, Row, params};

use super::lock::NameLock;
use super::{Store, StoreError};
use crate::digest::ImageId;
use crate::event::Kind;
use crate::root;

/// A container's id: 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerId(String);

impl ContainerId {
    /// An id from 32 bytes that nobody else has.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Reads all 64 digits.
    pub fn parse(text: &str) -> Option<Self> {
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (text.len() == 64 && text.bytes().all(digit)).then(|| Self(text.to_owned()))
    }

    /// All digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first twelve, as they are shown.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// A container's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredContainer {
    pub id: ContainerId,
    /// Without a slash in front.
    pub name: String,
    pub image: ImageId,
    /// Nanoseconds since the epoch.
    pub created: i64,
    /// JSON.
    pub config: String,
}

/// What a container needs besides its own image, and nobody may take from it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Uses {
    /// Names of volumes.
    pub volumes: Vec<String>,
    /// Images that it mounts.
    pub images: Vec<ImageId>,
}

/// How long a container is to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stay {
    /// Until somebody removes it.
    Lasting,
    /// No longer than it runs (`--rm`). After a power cut it does not, so nobody misses its row then, and nobody waits
    /// for the disk because of it.
    Passing,
}

/// What a text names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    One(Box<StoredContainer>),
    None,
    /// The beginning of several ids.
    Several(Vec<ContainerId>),
}

const COLUMNS: &str = "SELECT id, name, image, created, config FROM container";

fn stored(row: &Row<'_>) -> rusqlite::Result<StoredContainer> {
    let id: String = row.get(0)?;
    Ok(StoredContainer {
        id: ContainerId::parse(&id).ok_or(rusqlite::Error::InvalidQuery)?,
        name: row.get(1)?,
        image: row.get(2)?,
        created: row.get(3)?,
        config: row.get(4)?,
    })
}

impl Store {
    /// Registers a container. Its folder is made first, so that a folder without a row is what a crash left; the
    /// container's lock, held meanwhile, tells a sweep that this is none. The lock is given: as long as it is held,
    /// nobody takes the new container for one that has ended.
    ///
    /// # Errors
    /// [`StoreError::NameTaken`] if another container has the name.
    pub fn create_container(
        &self,
        id: &ContainerId,
        name: &str,
        image: ImageId,
        config: &str,
    ) -> Result<NameLock, StoreError> {
        self.create_container_with(id, name, image, config, &Uses::default(), Stay::Lasting)
    }

    /// As [`Store::create_container`], of one that needs more than its image: from the row's first moment on nobody
    /// takes that away. Gives its lock: until that is dropped nobody removes the container either, so who starts it
    /// right away finds it.
    ///
    /// # Errors
    /// As [`Store::create_container`]; what is gone already is an error of the database.
    pub fn create_container_with(
        &self,
        id: &ContainerId,
        name: &str,
        image: ImageId,
        config: &str,
        uses: &Uses,
        stay: Stay,
    ) -> Result<NameLock, StoreError> {
        let lock = self.lock_container(id)?;
        let folder = self.container_folder(id);
        for part in ["", "fs", "work"] {
            let path = folder.join(part);
            std::fs::create_dir(&path).map_err(StoreError::io("create", &path))?;
        }
        let upper = folder.join("fs");
        std::fs::set_permissions(&upper, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .map_err(StoreError::io("create", &upper))?;
        let added = self.write_for(stay, |tx| {
            refuse_taken(tx, name)?;
            tx.execute(
                "INSERT INTO container (id, name, image, created, config) VALUES (?, ?, ?, ?, ?)",
                params![id.as_str(), name, image, self.now(), config],
            )?;
            Self::use_volumes(tx, id, &uses.volumes)?;
            for image in &uses.images {
                tx.execute(
                    "INSERT OR IGNORE INTO container_image (container, image) VALUES (?, ?)",
                    params![id.as_str(), image],
                )?;
            }
            Ok(())
        });
        if added.is_err() {
            let _ = self.remove_tree(&folder);
        }
        added.map(|()| lock)
    }

    /// All containers, the newest first.
    ///
    /// # Errors
    /// What the database gives.
    pub fn containers(&self) -> Result<Vec<StoredContainer>, StoreError> {
        self.read(|db| {
            db.prepare(&format!("{COLUMNS} WHERE config <> '' ORDER BY created DESC"))?
                .query_map([], stored)?
                .collect()
        })
    }

    /// The container that a person means: by its whole id, its name, or the beginning of its id, in that order.
    ///
    /// # Errors
    /// What the database gives.
    pub fn container(&self, text: &str) -> Result<Named, StoreError> {
        let text = text.strip_prefix('/').unwrap_or(text);
        self.read(|db| {
            let exact = db
                .query_row(
                    &format!("{COLUMNS} WHERE config <> '' AND (id = ?1 OR name = ?1) ORDER BY id = ?1 DESC LIMIT 1"),
                    [text],
                    stored,
                )
                .optional()?;
            if let Some(exact) = exact {
                return Ok(Named::One(Box::new(exact)));
            }
            if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Ok(Named::None);
            }
            let mut found: Vec<StoredContainer> = db
                .prepare(&format!("{COLUMNS} WHERE config <> '' AND substr(id, 1, ?2) = ?1"))?
                .query_map(params![text, text.len() as i64], stored)?
                .collect::<Result<_, _>>()?;
            Ok(match found.len() {
                0 => Named::None,
                1 => Named::One(Box::new(found.remove(0))),
                _ => Named::Several(found.into_iter().map(|container| container.id).collect()),
            })
        })
    }

    /// Whether a container has this name.
    ///
    /// # Errors
    /// What the database gives.
    pub fn container_name_is_taken(&self, name: &str) -> Result<bool, StoreError> {
        self.read(|db| {
            db.query_row("SELECT EXISTS (SELECT 1 FROM container WHERE name = ?)", [name], |row| row.get(0))
        })
    }

    /// Gives a container another name.
    ///
    /// # Errors
    /// [`StoreError::NameTaken`].
    pub fn rename_container(&self, id: &ContainerId, name: &str) -> Result<(), StoreError> {
        self.write(|tx| {
            refuse_taken(tx, name)?;
            tx.execute("UPDATE container SET name = ? WHERE id = ?", params![name, id.as_str()])?;
            Ok(())
        })
    }

    /// Replaces what a container is told to be by what `change` makes of it. Nobody else changes it in between; one
    /// that is gone stays so.
    ///
    /// # Errors
    /// What the database and `change` give.
    pub fn change_container_config<E: From<StoreError>>(
        &self,
        id: &ContainerId,
        change: impl FnOnce(&str) -> Result<String, E>,
    ) -> Result<(), E> {
        self.write(|tx| {
            let database = |error: rusqlite::Error| E::from(StoreError::from(error));
            let query = "SELECT config FROM container WHERE id = ?";
            let before: Option<String> =
                tx.query_row(query, [id.as_str()], |row| row.get(0)).optional().map_err(database)?;
            let Some(before) = before else { return Ok(()) };
            let after = change(&before)?;
            let update = "UPDATE container SET config = ? WHERE id = ?";
            tx.execute(update, params![after, id.as_str()]).map_err(database)?;
            Ok(())
        })
    }

    /// Where a container's files, state and log are.
    pub fn container_folder(&self, id: &ContainerId) -> PathBuf {
        self.path().join("containers").join(id.as_str())
    }

    /// The lock of a container, or nothing if it runs or is being changed.
    ///
    /// # Errors
    /// What the file system gives.
    pub fn try_lock_container(&self, id: &ContainerId) -> Result<Option<NameLock>, StoreError> {
        self.try_lock_name(&lock_of(id.as_str()))
    }

    /// The lock of a container, once it has ended and nobody changes it.
    ///
    /// # Errors
    /// What the file system gives.
    pub fn lock_container(&self, id: &ContainerId) -> Result<NameLock, StoreError> {
        self.lock_name(&lock_of(id.as_str()))
    }

    /// Says that a container which is ending is about to run again: until the lock ends, nobody prunes it.
    ///
    /// # Errors
    /// What the file system gives.
    pub fn claim_container(&self, id: &ContainerId) -> Result<NameLock, StoreError> {
        self.lock_name(&claim_of(id.as_str()))
    }

    /// Whether somebody has claimed a container.
    ///
    /// # Errors
    /// What the file system gives.
    pub fn container_is_claimed(&self, id: &ContainerId) -> Result<bool, StoreError> {
        self.is_locked(&claim_of(id.as_str()))
    }

    /// Whether a container runs or is being changed.
    ///
    /// # Errors
    /// What the file system gives.
    pub fn container_is_held(&self, id: &ContainerId) -> Result<bool, StoreError> {
        self.is_locked(&lock_of(id.as_str()))
    }
}

fn refuse_taken(tx: &rusqlite::Transaction<'_>, name: &str) -> Result<(), StoreError> {
    let taken: bool =
        tx.query_row("SELECT EXISTS (SELECT 1 FROM container WHERE name = ?)", [name], |row| row.get(0))?;
    if taken { Err(StoreError::NameTaken(name.to_owned())) } else { Ok(()) }
}

impl Store {
    /// Removes containers that have ended, with what they wrote; gives their ids.
    ///
    /// # Errors
    /// What the database and the file system give.
    pub fn prune_containers(&self) -> Result<Vec<String>, StoreError> {
        let ids: Vec<String> = self
            .read(|db| db.prepare("SELECT id FROM container")?.query_map([], |row| row.get(0))?.collect())?;
        let mut removed = Vec::new();
        for id in ids {
            if let Some(_ended) = self.try_lock_name(&lock_of(&id))?
                && let Some(_unclaimed) = self.try_lock_name(&claim_of(&id))?
            {
                self.forget(&id, Stay::Lasting)?;
                self.remove_folder(&id)?;
                removed.push(id);
            }
        }
        Ok(removed)
    }

    /// Removes a container and all that it wrote. Whoever does this holds its lock.
    ///
    /// # Errors
    /// What the database and the file system give. Without its row the rest is a stray, which a sweep takes.
    pub fn remove_container(&self, id: &ContainerId, stay: Stay, _held: &NameLock) -> Result<(), StoreError> {
        self.forget(id.as_str(), stay)?;
        self.remove_folder(id.as_str())
    }

    /// As [`Store::remove_container`], but its folder is only set aside, for its monitor to remove, or a sweep.
    ///
    /// # Errors
    /// As [`Store::remove_container`].
    pub fn set_container_aside(
        &self,
        id: &ContainerId,
        stay: Stay,
        _held: &NameLock,
    ) -> Result<(), StoreError> {
        self.forget(id.as_str(), stay)?;
        let aside = self.path().join("tmp").join(id.as_str());
        std::fs::rename(self.container_folder(id), &aside).map_err(StoreError::io("set aside", &aside))
    }

    /// A row that comes back after a power cut has no folder: see [`Store::container_is_lost`].
    fn forget(&self, id: &str, stay: Stay) -> Result<(), StoreError> {
        let folder = self.path().join("containers").join(id);
        let actor = root::open_ambient_dir(folder).ok().and_then(crate::event::read_actor);
        self.write_for(stay, |tx| -> Result<_, StoreError> {
            Ok(tx.execute("DELETE FROM container WHERE id = ?", [id])?)
        })?;
        if let Some(actor) = actor {
            self.event(Kind::Container, "destroy", actor.id, actor.attributes);
        }
        Ok(())
    }

    fn remove_folder(&self, id: &str) -> Result<(), StoreError> {
        let folder = self.path().join("containers").join(id);
        if folder.exists() { self.remove_tree(&folder) } else { Ok(()) }
    }

    /// Whether a power cut took a container's folder and left its row. Whoever asks holds its lock: one that is being
    /// created, or removed, looks like this for a moment.
    pub fn container_is_lost(&self, id: &ContainerId, _held: &NameLock) -> bool {
        !self.container_folder(id).exists()
    }

    fn write_for<T>(
        &self,
        stay: Stay,
        change: impl FnOnce(&rusqlite::Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match stay {
            Stay::Lasting => self.write(change),
            Stay::Passing => self.write_lightly(change),
        }
    }

    /// Removes the folders of containers that have no row: of creations and removals that were killed. One that is
    /// just being created has its lock held.
    pub(super) fn sweep_containers(&self) -> Result<(), StoreError> {
        for (path, name) in super::prune::entries(&self.path().join("containers"))? {
            let Some(_nobody) = self.try_lock_name(&lock_of(&name))? else { continue };
            let known: bool = self.read(|db| {
                db.query_row("SELECT EXISTS (SELECT 1 FROM container WHERE id = ?)", [&name], |row| {
                    row.get(0)
                })
            })?;
            if !known {
                self.remove_tree(&path)?;
            }
        }
        Ok(())
    }
}

/// The name of a container's lock.
fn lock_of(id: &str) -> String {
    format!("container-{id}")
}

/// The name of the lock of who is about to start it again.
fn claim_of(id: &str) -> String {
    format!("claim-{id}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::store::tests::store;

    fn id(byte: u8) -> ContainerId {
        ContainerId::from_bytes([byte; 32])
    }

    #[test]
    fn a_sweep_spares_what_is_being_created() {
        let (_folder, store) = store();
        let being_created = store.lock_container(&id(1)).unwrap();
        for byte in [1, 2] {
            std::fs::create_dir(store.container_folder(&id(byte))).unwrap();
        }
        store.sweep_containers().unwrap();
        assert!(store.container_folder(&id(1)).exists());
        assert!(!store.container_folder(&id(2)).exists(), "nobody knows it or works on it");
        drop(being_created);
        store.sweep_containers().unwrap();
        assert!(!store.container_folder(&id(1)).exists());
    }

    #[test]
    fn a_prune_spares_what_was_just_created_and_what_is_about_to_run_again() {
        let (_folder, store) = store();
        let create = |byte: u8| {
            store.create_container(&id(byte), &format!("c{byte}"), ImageId(Digest::of(b"i")), "{}").unwrap()
        };
        let created = create(1);
        drop(create(2));
        let claim = store.claim_container(&id(2)).unwrap();
        drop(create(3));
        assert_eq!(store.prune_containers().unwrap(), [id(3).as_str()]);
        drop((created, claim));
        assert_eq!(store.prune_containers().unwrap().len(), 2);
    }

    #[test]
    fn a_config_is_changed_from_what_it_is_by_then() {
        let (_folder, store) = store();
        drop(store.create_container(&id(1), "one", ImageId(Digest::of(b"i")), "a").unwrap());
        for letter in ["b", "c"] {
            store
                .change_container_config(&id(1), |before| Ok::<_, StoreError>(format!("{before}{letter}")))
                .unwrap();
        }
        assert_eq!(store.containers().unwrap()[0].config, "abc");
        let refused = store
            .change_container_config(&id(1), |_| Err::<String, _>(StoreError::NameTaken("x".to_owned())));
        assert!(refused.is_err());
        assert_eq!(store.containers().unwrap()[0].config, "abc");
        store.change_container_config(&id(2), |_| -> Result<_, StoreError> { panic!("nobody") }).unwrap();
    }

    #[test]
    fn a_lock_that_was_handed_over_is_held_until_its_last_copy_closes() {
        let (_folder, store) = store();
        assert!(!store.container_is_held(&id(1)).unwrap());
        let lock = store.lock_container(&id(1)).unwrap();
        let copy = lock.duplicate().unwrap();
        let original = lock.hand_over().unwrap();
        drop(original);
        assert!(store.container_is_held(&id(1)).unwrap());
        assert!(store.try_lock_container(&id(1)).unwrap().is_none());
        let taken_back = NameLock::adopt(copy);
        assert!(store.container_is_held(&id(1)).unwrap());
        drop(taken_back);
        assert!(!store.container_is_held(&id(1)).unwrap());
        assert!(store.try_lock_container(&id(1)).unwrap().is_some());
    }
}
