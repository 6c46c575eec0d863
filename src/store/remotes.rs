//! What was fetched by URL: `remotes/http/<key>/` holds a file and what its server said of it,
//! `remotes/git/<key>/` a bare repository that later fetches add to.
//!
//! The key is a digest of the URL, so no credential in one becomes a name. Both only save fetching
//! again: nothing but this folder refers to them, whoever uses one holds its lock, and a prune of the
//! build cache takes those that nobody uses.

use std::path::{Path, PathBuf};

use super::lock::NameLock;
use super::prune::{entries, tree_size};
use super::{Store, StoreError};
use crate::digest::{Digest, Hasher};

/// What is kept of a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemoteKind {
    /// A file.
    Http,
    /// A repository.
    Git,
}

const KINDS: [RemoteKind; 2] = [RemoteKind::Http, RemoteKind::Git];

impl RemoteKind {
    fn folder(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Git => "git",
        }
    }

    fn lock(self, key: &str) -> String {
        format!("remote-{}-{key}", self.folder())
    }
}

/// The folder of a URL, which nobody else uses for as long as this lives.
#[derive(Debug)]
pub struct RemotePlace {
    path: PathBuf,
    _lock: NameLock,
}

impl RemotePlace {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Store {
    /// The folder of a URL, made if it is missing. Waits for whoever uses it.
    ///
    /// # Errors
    /// What the file system gives.
    pub fn remote(&self, kind: RemoteKind, url: &str) -> Result<RemotePlace, StoreError> {
        let mut hasher = Hasher::new();
        hasher.field(url.as_bytes());
        let key: Digest = hasher.finish();
        let _lock = self.lock_name(&kind.lock(&key.hex()))?;
        let path = self.remotes().join(kind.folder()).join(key.hex());
        std::fs::create_dir_all(&path).map_err(StoreError::io("create", &path))?;
        Ok(RemotePlace { path, _lock })
    }

    /// The folder of all of them.
    pub fn remotes(&self) -> PathBuf {
        self.path().join("remotes")
    }

    /// Removes what nobody uses, and gives how many bytes that was.
    pub(super) fn prune_remotes(&self) -> Result<u64, StoreError> {
        let mut bytes = 0;
        for kind in KINDS {
            let folder = self.remotes().join(kind.folder());
            if !folder.exists() {
                continue;
            }
            for (path, key) in entries(&folder)? {
                if let Some(_lock) = self.try_lock_name(&kind.lock(&key))? {
                    bytes += tree_size(&path);
                    self.remove_tree(&path)?;
                }
            }
        }
        Ok(bytes)
    }

    /// How many bytes they take.
    pub(super) fn remotes_size(&self) -> u64 {
        tree_size(&self.remotes())
    }
}
