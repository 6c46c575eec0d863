//! What this process has a hand on: blobs it wrote or counts on, images it has just registered.
//!
//! A blob becomes visible before anything in the database names it, and so does an image before it
//! has its name. What is new must not look like what a crash left, so the process says first, in a
//! transaction of its own, that it is going to use a blob, and looks for it on disk after that. A
//! sweep removes files inside a transaction that has seen all such rows: whichever of the two comes
//! first, the other one knows. Nothing depends on how old a file is.
//!
//! The rows count as long as the session's lock is held, which the kernel sees to.

use std::collections::HashSet;
use std::sync::PoisonError;

use rusqlite::{Transaction, params};

use super::lock::NameLock;
use super::{Store, StoreError};
use crate::digest::{BlobDigest, ImageId};

/// The session of one open store. It begins when something is written.
#[derive(Debug)]
pub(super) struct Session {
    id: String,
    /// What is in the database already, so that saying it again costs nothing.
    blobs: HashSet<BlobDigest>,
    _lock: NameLock,
}

impl Store {
    /// The session's name, which begins now if it had not.
    pub(super) fn session_id(&self) -> Result<String, StoreError> {
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = &*session {
            return Ok(session.id.clone());
        }
        let (id, lock) = self.new_lock("session")?;
        let begun = session.insert(Session { id, blobs: HashSet::new(), _lock: lock });
        Ok(begun.id.clone())
    }

    /// Keeps a blob from being swept for as long as this store is open, and tells whether it is here.
    ///
    /// # Errors
    /// What the file system and the database give.
    pub fn claim_blob(&self, digest: BlobDigest) -> Result<bool, StoreError> {
        let id = self.session_id()?;
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = &mut *session
            && !session.blobs.contains(&digest)
        {
            self.write_lightly(|tx| -> Result<_, StoreError> {
                Ok(tx.execute(
                    "INSERT OR IGNORE INTO lease_blob (lease, blob) VALUES (?, ?)",
                    params![id, digest],
                )?)
            })?;
            session.blobs.insert(digest);
        }
        drop(session);
        Ok(self.has_blob(digest))
    }

    /// Keeps an image that has no name yet.
    pub(super) fn claim_image(tx: &Transaction<'_>, session: &str, image: ImageId) -> rusqlite::Result<()> {
        tx.execute(
            "INSERT OR IGNORE INTO lease_image (lease, image) VALUES (?, ?)",
            params![session, image],
        )?;
        Ok(())
    }

    /// Whether the session of this name has ended. Its name will not come again.
    pub(super) fn session_is_over(&self, id: &str) -> Result<bool, StoreError> {
        let session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        if session.as_ref().is_some_and(|session| session.id == id) {
            return Ok(false);
        }
        drop(session);
        Ok(self.try_lock_name(id)?.is_some())
    }

    fn end_session(&mut self) -> Result<(), StoreError> {
        let session = self.session.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        // Held until the rows are gone.
        let Some(Session { id, _lock, .. }) = session else { return Ok(()) };
        let any = self.read(|db| {
            db.query_row(
                "SELECT EXISTS (SELECT 1 FROM lease_blob WHERE lease = ?1)
                     OR EXISTS (SELECT 1 FROM lease_image WHERE lease = ?1)",
                [&id],
                |row| row.get::<_, bool>(0),
            )
        })?;
        if any { self.forget_lease(&id) } else { Ok(()) }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // What cannot be said now is found out by the next sweep.
        let _ = self.end_session();
        super::database::leave(&self.lock(), &self.path.join(super::DATABASE));
    }
}
