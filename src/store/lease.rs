//! Leases: what a running process uses, nobody else removes.
//!
//! A lease lives exactly as long as its process, by the lock of its name ([`super::lock`]). Recorded leases whose lock
//! nobody holds are dead and are swept.

use rusqlite::params;

use super::lock::{Hold, NameLock};
use super::{Store, StoreError};

/// Who may use a cache mount at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountSharing {
    /// Anybody.
    Shared,
    /// One at a time; others wait.
    Locked,
    /// One at a time; others get one of their own.
    Private,
}

/// Keeps layers from being removed for as long as it lives.
#[derive(Debug)]
pub struct Lease<'a> {
    store: &'a Store,
    id: String,
    _lock: NameLock,
}

impl Store {
    /// A lease that holds nothing yet.
    ///
    /// # Errors
    /// What the file system gives.
    pub fn lease(&self) -> Result<Lease<'_>, StoreError> {
        let (id, lock) = self.new_lock("lease")?;
        Ok(Lease { store: self, id, _lock: lock })
    }

    /// Takes the lock of a cache mount, waiting if its sharing says so. Gives the name of the mount
    /// that it is for: with [`MountSharing::Private`] the first that nobody uses.
    ///
    /// # Errors
    /// What the file system gives.
    pub fn lock_mount(&self, name: &str, sharing: MountSharing) -> Result<(String, NameLock), StoreError> {
        let lock_of = |name: &str| format!("mount-{name}");
        match sharing {
            MountSharing::Shared => Ok((name.to_owned(), self.take_lock(&lock_of(name), Hold::Shared)?)),
            MountSharing::Locked => Ok((name.to_owned(), self.take_lock(&lock_of(name), Hold::Exclusive)?)),
            MountSharing::Private => {
                let mut candidate = name.to_owned();
                let mut number = 0;
                loop {
                    if let Some(lock) = self.try_lock_name(&lock_of(&candidate))? {
                        return Ok((candidate, lock));
                    }
                    number += 1;
                    candidate = format!("{name}-{number}");
                }
            }
        }
    }

    /// As [`Store::lock_mount`] with [`MountSharing::Locked`], but gives nothing if it is in use.
    pub(super) fn try_lock_mount(&self, name: &str) -> Result<Option<NameLock>, StoreError> {
        self.try_lock_name(&format!("mount-{name}"))
    }

    /// Records whose cache mount a directory below `mounts/` is.
    ///
    /// # Errors
    /// What the database gives.
    pub fn remember_cache_mount(&self, name: &str, id: &str) -> Result<(), StoreError> {
        self.write(|tx| {
            tx.execute(
                "INSERT OR REPLACE INTO cache_mount (id, name, used) VALUES (?, ?, ?)",
                params![name, id, self.now()],
            )?;
            Ok(())
        })
    }

    /// Removes what dead leases recorded.
    pub(super) fn sweep_leases(&self) -> Result<(), StoreError> {
        let ids: Vec<String> = self.read(|db| {
            db.prepare(
                "SELECT lease FROM lease UNION SELECT lease FROM lease_blob
                 UNION SELECT lease FROM lease_image",
            )?
            .query_map([], |row| row.get(0))?
            .collect()
        })?;
        for id in ids {
            if let Some(_dead) = self.try_lock_name(&id)? {
                self.forget_lease(&id)?;
            }
        }
        Ok(())
    }

    pub(super) fn forget_lease(&self, id: &str) -> Result<(), StoreError> {
        self.write_lightly(|tx| {
            for table in ["lease", "lease_blob", "lease_image"] {
                tx.execute(&format!("DELETE FROM {table} WHERE lease = ?"), [id])?;
            }
            Ok(())
        })
    }
}

impl Lease<'_> {
    /// Adds a layer, in the transaction that found it.
    pub(super) fn add(&self, tx: &rusqlite::Transaction<'_>, layer: i64) -> rusqlite::Result<()> {
        tx.prepare_cached("INSERT OR IGNORE INTO lease (lease, layer) VALUES (?, ?)")?
            .execute(params![self.id, layer])?;
        Ok(())
    }

    /// Adds a blob, in the transaction that found what names it.
    pub(super) fn add_blob(
        &self,
        tx: &rusqlite::Transaction<'_>,
        blob: crate::digest::BlobDigest,
    ) -> rusqlite::Result<()> {
        tx.execute("INSERT OR IGNORE INTO lease_blob (lease, blob) VALUES (?, ?)", params![self.id, blob])?;
        Ok(())
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let _ = self.store.forget_lease(&self.id);
    }
}
