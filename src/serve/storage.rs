//! What the protocol needs of a disk. Calls may block; the server makes them on threads that may.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::name::{Repository, Tag, Target};
use super::upload_files::UploadFiles;
use crate::digest::{BlobDigest, Digest};
use crate::image::{Descriptor, Document, is_foreign};

/// Why a disk does not do as it is told.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error("cannot {doing} `{}`", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("`{}` holds something else than a registry: choose a folder that is empty or new", path.display())]
    Occupied { path: PathBuf },
    #[error("`{}` was written by a newer stave; use that one", path.display())]
    Newer { path: PathBuf },
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    #[error(transparent)]
    Export(#[from] crate::exporter::ExportError),
    #[error("`{name}` is an image of the store's owner: it goes with `stave rmi`, not through the registry")]
    Foreign { name: String },
    #[error("the blob is part of the manifest {manifest}: delete that first")]
    InUse { manifest: BlobDigest },
    #[error("`{name}` has layers that are not in the store; its owner can `stave pull` it")]
    Unavailable { name: String },
}

impl StorageError {
    pub(super) fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { doing, path, source }
    }

    /// Whether there is no room.
    pub fn is_full_disk(&self) -> bool {
        use crate::exporter::ExportError;
        use crate::store::StoreError;
        let full = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        };
        match self {
            Self::Io { source, .. }
            | Self::Store(StoreError::Io { source, .. })
            | Self::Export(ExportError::Write { source, .. }) => full(source),
            Self::Store(StoreError::NoSpace) | Self::Export(ExportError::Store(StoreError::NoSpace)) => true,
            Self::Export(ExportError::Store(StoreError::Io { source, .. })) => full(source),
            _ => false,
        }
    }
}

/// A manifest as it is given out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub digest: BlobDigest,
    pub media_type: String,
    pub bytes: Vec<u8>,
}

/// A manifest that was pushed: what it names is there.
#[derive(Debug, Clone)]
pub struct Pushed {
    pub digest: BlobDigest,
    pub media_type: String,
    pub bytes: Vec<u8>,
    pub document: Document,
    /// What it is about, if it is about another manifest.
    pub subject: Option<Digest>,
    /// Itself, as the list of its subject's referrers states it.
    pub descriptor: Descriptor,
}

impl Pushed {
    /// What it names and must be there: a config and layers, or manifests. Layers that are to be had
    /// elsewhere only are left out.
    pub fn parts(&self) -> Vec<&Descriptor> {
        parts(&self.document)
    }
}

pub(super) fn parts(document: &Document) -> Vec<&Descriptor> {
    match document {
        Document::Manifest(manifest) => {
            let here = |layer: &&Descriptor| !is_foreign(layer.media_type.as_ref());
            [&manifest.config].into_iter().chain(manifest.layers.iter().filter(here)).collect()
        }
        Document::Index(index) => index.manifests.iter().collect(),
    }
}

/// A place where a registry keeps what it serves.
///
/// Whatever is acknowledged is on the disk: files and the folders that name them are synced. Several
/// processes may work on one place.
pub trait Storage: Send + Sync + 'static {
    /// Uploads that are not finished.
    fn uploads(&self) -> &UploadFiles;

    /// All repositories that have something.
    ///
    /// # Errors
    /// What the disk gives, as with all of these.
    fn repositories(&self) -> Result<BTreeSet<String>, StorageError>;

    /// The tags of a repository; nothing if there is no such repository.
    fn tags(&self, repository: &Repository) -> Result<Option<BTreeSet<String>>, StorageError>;

    /// A manifest.
    fn manifest(&self, repository: &Repository, target: &Target) -> Result<Option<Stored>, StorageError>;

    /// Takes a manifest whose parts are there, and points the tag at it.
    fn put_manifest(
        &self,
        repository: &Repository,
        tag: Option<&Tag>,
        manifest: &Pushed,
    ) -> Result<(), StorageError>;

    /// Takes a tag away, and nothing else; whether it was there.
    fn delete_tag(&self, repository: &Repository, tag: &Tag) -> Result<bool, StorageError>;

    /// Takes a manifest out of a repository, and the tags that point at it; whether it was there.
    fn delete_manifest(&self, repository: &Repository, digest: BlobDigest) -> Result<bool, StorageError>;

    /// A blob to be read, and its size, if the repository has it.
    fn blob(&self, repository: &Repository, digest: BlobDigest) -> Result<Option<(File, u64)>, StorageError>;

    /// Keeps a blob that the repository has for as long as a push may take, since the client is told that
    /// it need not send it; whether it is still there, for a sweep may have been faster.
    fn keep_blob(&self, repository: &Repository, digest: BlobDigest) -> Result<bool, StorageError>;

    /// Takes a file whose bytes have this digest, and gives it to the repository. The file is gone then.
    fn adopt_blob(
        &self,
        repository: &Repository,
        digest: BlobDigest,
        file: &Path,
    ) -> Result<(), StorageError>;

    /// Gives a repository a blob that another one has; whether that one has it.
    fn mount_blob(
        &self,
        from: &Repository,
        to: &Repository,
        digest: BlobDigest,
    ) -> Result<bool, StorageError>;

    /// Takes a blob out of a repository; whether it was there.
    fn delete_blob(&self, repository: &Repository, digest: BlobDigest) -> Result<bool, StorageError>;

    /// Looks at a blob whose bytes were found not to have its digest, and removes it if that is so: it
    /// can be pushed again then.
    fn drop_damaged_blob(&self, digest: BlobDigest) -> Result<(), StorageError>;

    /// The manifests of a repository that are about this one, by digest.
    fn referrers(
        &self,
        repository: &Repository,
        subject: BlobDigest,
    ) -> Result<Vec<Descriptor>, StorageError>;

    /// Removes what was begun and never ended, long ago. Called from time to time.
    fn tidy(&self) -> Result<(), StorageError>;
}
