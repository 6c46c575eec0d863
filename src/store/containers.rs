//! Containers that were kept: their row, and what they wrote.
//!
//! A container in use holds the lock `container-<id>`; one that nobody holds has ended, whether its
//! process could say so or not.

use std::path::PathBuf;

use rusqlite::params;

use super::lease::FileLock;
use super::views::Scratch;
use super::{Store, StoreError};
use crate::digest::ImageId;

/// A container's place in the store. Dropped before [`Container::keep`], it is taken away again.
#[derive(Debug)]
pub struct Container<'a> {
    store: &'a Store,
    id: String,
    kept: bool,
    _lock: FileLock,
}

impl Store {
    /// Registers a container under a name of its own: `name`, or the first digits of its id.
    ///
    /// # Errors
    /// [`StoreError::NameTaken`] if another container has the name.
    pub fn add_container(
        &self,
        id: &str,
        name: Option<&str>,
        image: ImageId,
    ) -> Result<Container<'_>, StoreError> {
        let lock = self.lock_name(&format!("container-{id}"))?;
        let name = name.unwrap_or(&id[..12]);
        self.write(|tx| {
            let taken: bool =
                tx.query_row("SELECT EXISTS (SELECT 1 FROM container WHERE name = ?)", [name], |row| {
                    row.get(0)
                })?;
            if taken {
                return Err(StoreError::NameTaken(name.to_owned()));
            }
            tx.execute(
                "INSERT INTO container (id, name, image, created) VALUES (?, ?, ?, ?)",
                params![id, name, image, self.now()],
            )?;
            Ok(())
        })?;
        Ok(Container { store: self, id: id.to_owned(), kept: false, _lock: lock })
    }

    /// Removes containers that have ended, with what they wrote; gives their ids.
    ///
    /// # Errors
    /// What the database and the file system give.
    pub fn prune_containers(&self) -> Result<Vec<String>, StoreError> {
        let ids: Vec<String> = self
            .read(|db| db.prepare("SELECT id FROM container")?.query_map([], |row| row.get(0))?.collect())?;
        let mut removed = Vec::new();
        for id in ids {
            if let Some(_ended) = self.try_lock_name(&format!("container-{id}"))? {
                self.forget_container(&id)?;
                removed.push(id);
            }
        }
        Ok(removed)
    }

    fn forget_container(&self, id: &str) -> Result<(), StoreError> {
        self.write(|tx| -> Result<_, StoreError> {
            Ok(tx.execute("DELETE FROM container WHERE id = ?", [id])?)
        })?;
        let folder = self.container_folder(id);
        if folder.exists() { self.remove_tree(&folder) } else { Ok(()) }
    }

    fn container_folder(&self, id: &str) -> PathBuf {
        self.path().join("containers").join(id)
    }
}

impl Container<'_> {
    /// Where it writes.
    ///
    /// # Errors
    /// What the file system gives.
    pub fn scratch(&self) -> Result<Scratch, StoreError> {
        Scratch::at(&self.store.path().join("containers"), &self.id)
    }

    /// It has ended; what it wrote stays.
    pub fn keep(mut self, scratch: Scratch) {
        scratch.keep();
        self.kept = true;
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        if !self.kept {
            let _ = self.store.forget_container(&self.id);
        }
    }
}
