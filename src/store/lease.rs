//! Locks and leases: what a running process uses, nobody else removes.
//!
//! Both live exactly as long as their process: they hang on flock(2) of CLOEXEC descriptors, which
//! the kernel drops with the last of them, however the process ended. Recorded leases whose lock
//! nobody holds are dead and are swept.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rusqlite::params;
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::{Store, StoreError};

/// An exclusive lock on a file below `locks/`. The file goes with the lock.
#[derive(Debug)]
pub struct FileLock {
    file: File,
    /// What to remove when it ends, if anything.
    path: Option<PathBuf>,
    /// Whether other descriptors go on with it.
    handed_over: bool,
}

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

impl FileLock {
    pub(super) fn exclusive(path: &Path) -> Result<Self, StoreError> {
        loop {
            if let Some(lock) = Self::take(path, FlockOperation::LockExclusive)? {
                return Ok(lock);
            }
        }
    }

    pub(super) fn try_exclusive(path: &Path) -> Result<Option<Self>, StoreError> {
        Self::take(path, FlockOperation::NonBlockingLockExclusive)
    }

    /// The file outlives the lock: one that several may hold cannot be removed by one of them.
    fn leaving_file(mut self) -> Self {
        self.path = None;
        self
    }

    /// Nothing if somebody else has the lock, or removed its file while we waited.
    fn take(path: &Path, how: FlockOperation) -> Result<Option<Self>, StoreError> {
        let fail = || StoreError::io("lock", path);
        let file = File::options().create(true).truncate(false).write(true).open(path).map_err(fail())?;
        loop {
            match rustix::fs::flock(file.as_fd(), how) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(error) => return Err(fail()(error.into())),
            }
        }
        // Whoever had it before us has removed the file by now; then ours guards nothing.
        let ours = rustix::fs::fstat(&file).map_err(|error| fail()(error.into()))?;
        match rustix::fs::stat(path) {
            Ok(there) if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino) => {
                Ok(Some(Self { file, path: Some(path.to_owned()), handed_over: false }))
            }
            Ok(_) | Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(fail()(error.into())),
        }
    }
}

/// For locks that outlive the process which took them.
impl FileLock {
    /// Whether somebody has the lock at this moment.
    pub(super) fn is_held(path: &Path) -> Result<bool, StoreError> {
        let fail = || StoreError::io("look at the lock", path);
        let file = match File::options().write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(fail()(error)),
        };
        loop {
            // Shared, so that two who look do not see each other. Closing the file gives it back.
            match rustix::fs::flock(file.as_fd(), FlockOperation::NonBlockingLockShared) {
                Ok(()) => return Ok(false),
                Err(Errno::WOULDBLOCK) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(error) => return Err(fail()(error.into())),
            }
        }
    }

    /// Another descriptor of the same lock: it is held until the last of them is closed.
    ///
    /// # Errors
    /// What the kernel gives where there are too many descriptors.
    pub fn duplicate(&self) -> std::io::Result<OwnedFd> {
        Ok(self.file.try_clone()?.into())
    }

    /// Gives the lock up without ending it: it goes on as long as the descriptor and its copies are open, in
    /// whichever process.
    ///
    /// # Errors
    /// As [`FileLock::duplicate`]; then the lock has ended.
    pub fn hand_over(mut self) -> std::io::Result<OwnedFd> {
        let copy = self.duplicate()?;
        self.handed_over = true;
        Ok(copy)
    }

    pub(super) fn adopt(held: OwnedFd, path: PathBuf) -> Self {
        Self { file: held.into(), path: Some(path), handed_over: false }
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        if self.handed_over {
            return;
        }
        // Removed while held, so no one can hold a lock on a file that is not there.
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
        let _ = rustix::fs::flock(self.file.as_fd(), FlockOperation::Unlock);
    }
}

/// Keeps layers from being removed for as long as it lives.
#[derive(Debug)]
pub struct Lease<'a> {
    store: &'a Store,
    id: String,
    _lock: FileLock,
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

    /// A lock that nobody had before and nobody will have again, and its name.
    pub(super) fn new_lock(&self, kind: &str) -> Result<(String, FileLock), StoreError> {
        let mut number = 0;
        loop {
            let id = format!("{kind}-{}-{}-{number}", std::process::id(), self.now());
            if let Some(lock) = self.try_lock_name(&id)? {
                return Ok((id, lock));
            }
            number += 1;
        }
    }

    /// Takes the lock of a cache mount, waiting if its sharing says so. Gives the name of the mount
    /// that it is for: with [`MountSharing::Private`] the first that nobody uses.
    ///
    /// # Errors
    /// What the file system gives.
    pub fn lock_mount(&self, name: &str, sharing: MountSharing) -> Result<(String, FileLock), StoreError> {
        let (how, only) = match sharing {
            MountSharing::Shared => (FlockOperation::LockShared, true),
            MountSharing::Locked => (FlockOperation::LockExclusive, true),
            MountSharing::Private => (FlockOperation::NonBlockingLockExclusive, false),
        };
        let mut candidate = name.to_owned();
        let mut number = 0;
        loop {
            if let Some(lock) = FileLock::take(&self.lock_path(&format!("mount-{candidate}")), how)? {
                return Ok((candidate, lock.leaving_file()));
            }
            if !only {
                number += 1;
                candidate = format!("{name}-{number}");
            }
        }
    }

    /// As [`Store::lock_mount`] with [`MountSharing::Locked`], but gives nothing if it is in use.
    pub(super) fn try_lock_mount(&self, name: &str) -> Result<Option<FileLock>, StoreError> {
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
