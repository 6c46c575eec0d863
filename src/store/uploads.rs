//! Uploads that were begun and not ended, so that another process can go on with them.
//!
//! The URL of an upload is a secret: registries put a signed state into it, and whoever has it can
//! write there. So each is in a file of its own that only its owner reads, and not in the database,
//! whose pages keep what was deleted. A process has an upload for itself while it holds its lock; a
//! second one that pushes the same blob begins another.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;

use super::lock::NameLock;
use super::prune::entries;
use super::{Store, StoreError};
use crate::digest::{BlobDigest, DiffId, Digest};
use crate::reference::Reference;

/// Registries drop uploads after a day or a week; nothing is kept for longer.
const LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
/// The longest URL that is kept.
const LONGEST: u64 = 16 << 10;

/// The upload of one blob to one repository.
#[derive(Debug)]
pub struct PendingUpload<'a> {
    store: &'a Store,
    path: PathBuf,
    _lock: NameLock,
}

impl Store {
    /// What is remembered of the upload of a blob to a repository; nothing while another process, or
    /// another part of this one, is at it.
    ///
    /// # Errors
    /// What the file system gives.
    pub fn pending_upload(
        &self,
        to: &Reference,
        blob: BlobDigest,
    ) -> Result<Option<PendingUpload<'_>>, StoreError> {
        self.pending(to, &blob.to_string())
    }

    /// The same for a layer that is sent while it is being compressed, whose blob is not known yet but
    /// will be the same each time.
    ///
    /// # Errors
    /// What the file system gives.
    pub fn pending_layer(
        &self,
        to: &Reference,
        layer: DiffId,
        compression: &str,
    ) -> Result<Option<PendingUpload<'_>>, StoreError> {
        self.pending(to, &format!("{layer} {compression}"))
    }

    fn pending(&self, to: &Reference, what: &str) -> Result<Option<PendingUpload<'_>>, StoreError> {
        let key = Digest::of(format!("{} {} {what}", to.registry(), to.repository()).as_bytes()).hex();
        let Some(lock) = self.try_lock_name(&format!("upload-{key}"))? else { return Ok(None) };
        Ok(Some(PendingUpload { store: self, path: self.path().join("uploads").join(key), _lock: lock }))
    }

    /// Removes what is too old, or all of it.
    pub(super) fn sweep_uploads(&self, all: bool) -> Result<(), StoreError> {
        let folder = self.path().join("uploads");
        if !folder.is_dir() {
            return Ok(());
        }
        for (path, name) in entries(&folder)? {
            // One that is in use is newer than anything that goes, unless everything does.
            let Some(_lock) = self.try_lock_name(&format!("upload-{name}"))? else { continue };
            if all || self.is_old(&path) {
                self.remove_tree(&path)?;
            }
        }
        Ok(())
    }

    fn is_old(&self, path: &std::path::Path) -> bool {
        let written = path.metadata().and_then(|metadata| metadata.modified()).ok();
        let written = written.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        let now = Duration::from_nanos(self.now().unsigned_abs());
        written.is_none_or(|written| now.saturating_sub(written) > LIFETIME)
    }
}

impl PendingUpload<'_> {
    /// Where it goes on, if it was begun.
    pub fn recall(&self) -> Option<String> {
        if self.path.metadata().ok()?.len() > LONGEST || self.store.is_old(&self.path) {
            return None;
        }
        std::fs::read_to_string(&self.path).ok()
    }

    /// Keeps where it goes on. A disk that is full costs the memory, not the upload.
    pub fn remember(&self, location: &str) {
        if location.len() as u64 <= LONGEST {
            let _ = self.write(location);
        }
    }

    fn write(&self, location: &str) -> std::io::Result<()> {
        let folder = self.path.parent().expect("the file is in a folder");
        std::fs::create_dir_all(folder)?;
        // Written beside it and renamed: a process that dies here leaves the one before.
        let make = |path: &std::path::Path| {
            std::fs::File::options().write(true).create_new(true).mode(0o600).open(path)
        };
        let session = self.store.session_id().map_err(std::io::Error::other)?;
        let temporary = self.store.path().join("tmp");
        let mut file = tempfile::Builder::new().prefix(&format!("{session}.")).make_in(temporary, make)?;
        file.write_all(location.as_bytes())?;
        file.persist(&self.path).map_err(|error| error.error)?;
        Ok(())
    }

    /// Goes on with what is remembered of another one, the same layer's before its blob was known.
    pub fn take_over(&self, other: &Self) {
        // There is nothing to move if nothing was remembered.
        let _ = std::fs::rename(&other.path, &self.path);
    }

    /// It is over.
    pub fn forget(&self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::store::tests::store;

    #[test]
    fn an_upload_is_one_processes_and_its_file_private() {
        let (_folder, store) = store();
        let (to, other) =
            (Reference::parse("r.example/a").unwrap(), Reference::parse("r.example/b").unwrap());
        let blob = BlobDigest(Digest::of(b"x"));
        let pending = store.pending_upload(&to, blob).unwrap().unwrap();
        assert!(store.pending_upload(&to, blob).unwrap().is_none());
        assert_eq!(pending.recall(), None);
        pending.remember("https://r.example/upload?_state=1");
        pending.remember("https://r.example/upload?_state=2");
        drop(pending);
        assert_eq!(store.pending_upload(&other, blob).unwrap().unwrap().recall(), None);
        let pending = store.pending_upload(&to, blob).unwrap().unwrap();
        assert_eq!(pending.recall().as_deref(), Some("https://r.example/upload?_state=2"));
        let mode = pending.path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // One in use stays; then all of them can go.
        store.sweep_uploads(true).unwrap();
        assert!(pending.recall().is_some());
        drop(pending);
        store.sweep_uploads(false).unwrap();
        assert!(store.pending_upload(&to, blob).unwrap().unwrap().recall().is_some());
        store.sweep_uploads(true).unwrap();
        assert!(store.pending_upload(&to, blob).unwrap().unwrap().recall().is_none());
    }

    #[test]
    fn a_blob_goes_on_with_what_its_layer_began() {
        let (_folder, store) = store();
        let to = Reference::parse("r.example/a").unwrap();
        let (layer, blob) = (DiffId(Digest::of(b"layer")), BlobDigest(Digest::of(b"blob")));
        let begun = store.pending_layer(&to, layer, "gzip-6").unwrap().unwrap();
        let own = store.pending_upload(&to, blob).unwrap().unwrap();
        own.take_over(&begun);
        assert_eq!(own.recall(), None);
        begun.remember("https://r.example/upload");
        assert_eq!(store.pending_layer(&to, layer, "zstd-3").unwrap().unwrap().recall(), None);
        own.take_over(&begun);
        assert_eq!(own.recall().as_deref(), Some("https://r.example/upload"));
        assert_eq!(begun.recall(), None);
    }

    #[test]
    fn an_old_one_goes_and_one_that_is_too_long_is_not_kept() {
        let (_folder, store) = store();
        let to = Reference::parse("r.example/a").unwrap();
        let pending = store.pending_upload(&to, BlobDigest(Digest::of(b"x"))).unwrap().unwrap();
        pending.remember(&"x".repeat(LONGEST as usize + 1));
        assert_eq!(pending.recall(), None);
        pending.remember("https://r.example/upload");
        let long_ago = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        std::fs::File::options().write(true).open(&pending.path).unwrap().set_modified(long_ago).unwrap();
        assert_eq!(pending.recall(), None);
        drop(pending);
        store.sweep_uploads(false).unwrap();
        assert!(entries(&store.path().join("uploads")).unwrap().is_empty());
    }
}
