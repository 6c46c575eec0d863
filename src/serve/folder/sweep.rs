//! What no manifest names any more, and what pushes left that never ended.
//!
//! While it is looked for nothing is added, so what is named is all there is to know; but a push names
//! its blobs in the end, so one that nothing names stays for a day after it was last asked for.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::{Folder, KEPT, is_older};
use crate::digest::{BlobDigest, Digest};
use crate::image::Descriptor;
use crate::serve::name::Repository;
use crate::serve::storage::StorageError;

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    pub manifests: usize,
    pub blobs: usize,
    pub bytes: u64,
}

impl Folder {
    /// Removes what nothing names; with `untagged`, manifests too that no tag leads to, by an index or by
    /// being about one that is kept.
    ///
    /// # Errors
    /// What the disk gives. What was removed before stays removed.
    pub fn collect(&self, untagged: bool) -> Result<Collected, StorageError> {
        let now = (self.now)();
        self.uploads.sweep(now)?;
        let _lock = self.removing()?;
        self.sweep_folder(&self.root.join("tmp"), now, |_| false)?;
        let mut collected = Collected::default();
        let mut held: HashSet<Digest> = HashSet::new();
        for name in self.having(&["_manifests", "_blobs"])?.iter().filter_map(|name| Repository::parse(name))
        {
            if untagged {
                collected.manifests += self.drop_untagged(&name, now)?;
            }
            let folder = self.repository(&name);
            let mut named = HashSet::new();
            for manifest in self.digests(&folder.join("_manifests"))? {
                held.insert(manifest);
                named.extend(self.named_by(manifest)?);
            }
            self.sweep_folder(&folder.join("_blobs"), now, |digest| named.contains(&digest))?;
            held.extend(self.digests(&folder.join("_blobs"))?);
            held.extend(named);
        }
        let swept =
            self.sweep_folder(&self.root.join("blobs/sha256"), now, |digest| held.contains(&digest))?;
        Ok(Collected { blobs: swept.0, bytes: swept.1, ..collected })
    }

    /// Removes the files of a folder that are old and not held; gives how many, and their bytes.
    fn sweep_folder(
        &self,
        folder: &Path,
        now: i64,
        is_held: impl Fn(Digest) -> bool,
    ) -> Result<(usize, u64), StorageError> {
        let mut swept = (0, 0);
        for name in self.names(folder)? {
            let path = folder.join(&name);
            if Digest::from_hex(&name).is_some_and(&is_held) {
                continue;
            }
            let Ok(metadata) = path.symlink_metadata() else { continue };
            if metadata.is_file() && is_older(&metadata, now, KEPT) && self.remove(&path)? {
                swept = (swept.0 + 1, swept.1 + metadata.len());
            }
        }
        Ok(swept)
    }

    fn drop_untagged(&self, name: &Repository, now: i64) -> Result<usize, StorageError> {
        let folder = self.repository(name);
        let manifests = self.digests(&folder.join("_manifests"))?;
        let mut about: HashMap<Digest, Vec<Digest>> = HashMap::new();
        for subject in self.digests(&folder.join("_referrers"))? {
            about.insert(subject, self.digests(&folder.join("_referrers").join(subject.hex()))?);
        }
        let mut todo = Vec::new();
        for tag in self.names(&folder.join("_tags"))? {
            todo.extend(self.tagged(name, &tag)?);
        }
        for manifest in &manifests {
            // The manifests of an index come before it.
            let metadata = folder.join("_manifests").join(manifest.hex()).symlink_metadata();
            todo.extend(metadata.is_ok_and(|metadata| !is_older(&metadata, now, KEPT)).then_some(*manifest));
        }
        let mut reached = HashSet::new();
        while let Some(digest) = todo.pop() {
            if reached.insert(digest) {
                todo.extend(self.named_by(digest)?);
                todo.extend(about.get(&digest).into_iter().flatten());
            }
        }
        let mut dropped = 0;
        for manifest in manifests.into_iter().filter(|manifest| !reached.contains(manifest)) {
            dropped += usize::from(self.forget_manifest(name, BlobDigest(manifest))?);
        }
        Ok(dropped)
    }

    /// Takes a manifest away, its tags before it, so that none leads nowhere.
    pub(super) fn forget_manifest(
        &self,
        name: &Repository,
        digest: BlobDigest,
    ) -> Result<bool, StorageError> {
        let folder = self.repository(name);
        let place = folder.join("_manifests").join(digest.0.hex());
        if !place.is_file() {
            return Ok(false);
        }
        for tag in self.names(&folder.join("_tags"))? {
            if self.tagged(name, &tag)? == Some(digest.0) {
                self.remove(&folder.join("_tags").join(tag))?;
            }
        }
        let subject = self.manifest_bytes(digest.0)?.and_then(|bytes| {
            #[derive(serde::Deserialize)]
            struct About {
                subject: Option<Descriptor>,
            }
            serde_json::from_slice::<About>(&bytes).ok()?.subject
        });
        self.remove(&place)?;
        if let Some(subject) = subject {
            self.remove(&folder.join("_referrers").join(subject.digest.hex()).join(digest.0.hex()))?;
        }
        Ok(true)
    }
}
