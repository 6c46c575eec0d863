//! A registry in a folder of its own.
//!
//! ```text
//! DIR/
//!   stave-registry                   the format's number
//!   lock                             flock: shared to write, exclusive to remove
//!   blobs/sha256/<hex>               blobs and manifests
//!   repositories/<name>/
//!     _blobs/<hex>                   empty: the repository has the blob
//!     _manifests/<hex>               the manifest's media type
//!     _tags/<tag>                    a digest
//!     _referrers/<subject>/<hex>     a manifest about another one, as a descriptor
//!   uploads/<id>                     not finished
//!   tmp/                             in the making
//! ```
//!
//! Files appear whole: written in `tmp/`, synced, renamed, and the folder synced. Names of repositories
//! have no part that begins with `_`. What nothing names goes in `sweep.rs`, a day after it was last
//! wanted: a push names its blobs only in the end.

mod sweep;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::FlockOperation;

use super::name::{Repository, Tag, Target};
use super::storage::{Pushed, Storage, StorageError, Stored, parts};
use super::upload_files::{UploadFiles, is_older};
use crate::digest::{BlobDigest, Digest, Hasher};
use crate::image::{Descriptor, Document, MANIFEST_LIMIT};

pub use sweep::Collected;

const FORMAT: &str = "1\n";
/// How long a blob is kept that no manifest names: as long as a push may take.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// How old the note may be that somebody wants a blob before it is written anew.
const NOTED: Duration = Duration::from_secs(3600);

/// A registry's folder.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    uploads: UploadFiles,
    now: fn() -> i64,
}

impl Folder {
    /// Opens a folder, made if it is missing. `now` gives nanoseconds since the epoch.
    ///
    /// # Errors
    /// [`StorageError::Occupied`] if something else is there already.
    pub fn open(root: &Path, now: fn() -> i64) -> Result<Self, StorageError> {
        let fail = |doing| StorageError::io(doing, root);
        std::fs::create_dir_all(root).map_err(fail("create"))?;
        let root = root.canonicalize().map_err(fail("open"))?;
        let marker = root.join("stave-registry");
        match std::fs::read_to_string(&marker) {
            Ok(text) if text == FORMAT => {}
            Ok(_) => return Err(StorageError::Newer { path: root }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut entries = std::fs::read_dir(&root).map_err(StorageError::io("list", &root))?;
                if entries.next().is_some() {
                    return Err(StorageError::Occupied { path: root });
                }
                // Whoever may read images is for the server to say.
                let private = std::fs::Permissions::from_mode(0o700);
                std::fs::set_permissions(&root, private).map_err(StorageError::io("make private", &root))?;
                std::fs::write(&marker, FORMAT).map_err(StorageError::io("write", &marker))?;
            }
            Err(error) => return Err(StorageError::io("read", marker)(error)),
        }
        for folder in ["blobs/sha256", "repositories", "uploads", "tmp"] {
            let folder = root.join(folder);
            std::fs::create_dir_all(&folder).map_err(StorageError::io("create", &folder))?;
        }
        let folder = Self { uploads: UploadFiles::new(root.join("uploads")), root, now };
        folder.sync_folder(&folder.root)?;
        Ok(folder)
    }

    fn blob_path(&self, digest: Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    fn repository(&self, name: &Repository) -> PathBuf {
        self.root.join("repositories").join(name.as_str())
    }

    fn link(&self, name: &Repository, digest: BlobDigest) -> PathBuf {
        self.repository(name).join("_blobs").join(digest.0.hex())
    }

    /// Held by whoever adds something.
    fn adding(&self) -> Result<File, StorageError> {
        self.locked(FlockOperation::LockShared)
    }

    /// Held by whoever takes something away.
    fn removing(&self) -> Result<File, StorageError> {
        self.locked(FlockOperation::LockExclusive)
    }

    fn locked(&self, how: FlockOperation) -> Result<File, StorageError> {
        let path = self.root.join("lock");
        let fail = || StorageError::io("lock", &path);
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(fail())?;
        loop {
            match rustix::fs::flock(file.as_fd(), how) {
                Ok(()) => return Ok(file),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(fail()(error.into())),
            }
        }
    }

    fn sync_folder(&self, path: &Path) -> Result<(), StorageError> {
        File::open(path).and_then(|folder| folder.sync_all()).map_err(StorageError::io("sync", path))
    }

    /// Makes the folders down to this one, each of them there for good.
    fn make_folder(&self, path: &Path) -> Result<(), StorageError> {
        let missing: Vec<&Path> = path.ancestors().take_while(|folder| !folder.is_dir()).collect();
        for folder in missing.into_iter().rev() {
            match std::fs::create_dir(folder) {
                Ok(()) => self.sync_folder(folder.parent().unwrap_or(&self.root))?,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(StorageError::io("create", folder)(error)),
            }
        }
        Ok(())
    }

    /// Writes a file, whole or not at all.
    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), StorageError> {
        let fail = || StorageError::io("write", path);
        let folder = path.parent().unwrap_or(&self.root);
        self.make_folder(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(self.root.join("tmp")).map_err(fail())?;
        file.write_all(bytes).map_err(fail())?;
        file.as_file().sync_all().map_err(fail())?;
        file.persist(path).map_err(|error| fail()(error.error))?;
        self.sync_folder(folder)
    }

    fn remove(&self, path: &Path) -> Result<bool, StorageError> {
        match std::fs::remove_file(path) {
            Ok(()) => self.sync_folder(path.parent().unwrap_or(&self.root)).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(StorageError::io("remove", path)(error)),
        }
    }

    /// A small file; nothing if it is not there.
    fn read(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>, StorageError> {
        let fail = || StorageError::io("read", path);
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fail()(error)),
        };
        let mut bytes = Vec::new();
        file.take(limit).read_to_end(&mut bytes).map_err(fail())?;
        Ok(Some(bytes))
    }

    /// The names in a folder; none where there is no folder.
    fn names(&self, path: &Path) -> Result<Vec<String>, StorageError> {
        let fail = || StorageError::io("list", path);
        match std::fs::read_dir(path) {
            Ok(entries) => entries
                .map(|entry| Ok(entry.map_err(fail())?.file_name().to_string_lossy().into_owned()))
                .collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(fail()(error)),
        }
    }

    /// The digests that the files in a folder are named by.
    fn digests(&self, path: &Path) -> Result<Vec<Digest>, StorageError> {
        Ok(self.names(path)?.iter().filter_map(|name| Digest::from_hex(name)).collect())
    }

    fn tagged(&self, name: &Repository, tag: &str) -> Result<Option<Digest>, StorageError> {
        let text = self.read(&self.repository(name).join("_tags").join(tag), 128)?;
        Ok(text.and_then(|text| Digest::parse(std::str::from_utf8(&text).ok()?.trim()).ok()))
    }

    /// A manifest's bytes, if they are what they are named by.
    fn manifest_bytes(&self, digest: Digest) -> Result<Option<Vec<u8>>, StorageError> {
        let bytes = self.read(&self.blob_path(digest), MANIFEST_LIMIT + 1)?;
        Ok(bytes.filter(|bytes| Digest::of(bytes) == digest))
    }

    /// What a manifest names; nothing if it cannot be read.
    fn named_by(&self, manifest: Digest) -> Result<Vec<Digest>, StorageError> {
        let document = self.manifest_bytes(manifest)?.and_then(|bytes| Document::parse(&bytes, None).ok());
        Ok(document.iter().flat_map(parts).map(|part| part.digest).collect())
    }

    /// The repositories that have a folder of one of these names.
    fn having(&self, folders: &[&str]) -> Result<BTreeSet<String>, StorageError> {
        let mut found = BTreeSet::new();
        let mut todo = vec![String::new()];
        while let Some(name) = todo.pop() {
            for part in self.names(&self.root.join("repositories").join(&name))? {
                if folders.contains(&part.as_str()) {
                    found.insert(name.clone());
                } else if !part.starts_with('_') {
                    todo.push(if name.is_empty() { part } else { format!("{name}/{part}") });
                }
            }
        }
        Ok(found)
    }

    /// Notes that somebody wants a file to stay.
    fn touch(&self, path: &Path) -> Result<(), StorageError> {
        let fail = || StorageError::io("touch", path);
        let Ok(metadata) = path.symlink_metadata() else { return Ok(()) };
        let now = (self.now)();
        if is_older(&metadata, now, NOTED) {
            let time = UNIX_EPOCH + Duration::from_nanos(now.unsigned_abs());
            File::open(path).and_then(|file| file.set_modified(time)).map_err(fail())?;
        }
        Ok(())
    }
}

impl Storage for Folder {
    fn uploads(&self) -> &UploadFiles {
        &self.uploads
    }

    fn repositories(&self) -> Result<BTreeSet<String>, StorageError> {
        self.having(&["_manifests"])
    }

    fn tags(&self, repository: &Repository) -> Result<Option<BTreeSet<String>>, StorageError> {
        let folder = self.repository(repository);
        if !folder.join("_manifests").is_dir() {
            return Ok(None);
        }
        let tags = self.names(&folder.join("_tags"))?;
        Ok(Some(tags.into_iter().filter(|tag| Tag::parse(tag).is_some()).collect()))
    }

    fn manifest(&self, repository: &Repository, target: &Target) -> Result<Option<Stored>, StorageError> {
        let digest = match target {
            Target::Digest(digest) => digest.0,
            Target::Tag(tag) => match self.tagged(repository, tag.as_str())? {
                Some(digest) => digest,
                None => return Ok(None),
            },
        };
        let kind = self.read(&self.repository(repository).join("_manifests").join(digest.hex()), 1024)?;
        let (Some(kind), Some(bytes)) = (kind, self.manifest_bytes(digest)?) else { return Ok(None) };
        let media_type = String::from_utf8_lossy(&kind).into_owned();
        Ok(Some(Stored { digest: BlobDigest(digest), media_type, bytes }))
    }

    fn put_manifest(
        &self,
        repository: &Repository,
        tag: Option<&Tag>,
        manifest: &Pushed,
    ) -> Result<(), StorageError> {
        let _lock = self.adding()?;
        let (folder, hex) = (self.repository(repository), manifest.digest.0.hex());
        self.write(&self.blob_path(manifest.digest.0), &manifest.bytes)?;
        if let Some(subject) = manifest.subject {
            let place = folder.join("_referrers").join(subject.hex()).join(&hex);
            let text = serde_json::to_vec(&manifest.descriptor).expect("a descriptor's keys are strings");
            self.write(&place, &text)?;
        }
        self.write(&folder.join("_manifests").join(&hex), manifest.media_type.as_bytes())?;
        match tag {
            Some(tag) => {
                self.write(&folder.join("_tags").join(tag.as_str()), manifest.digest.to_string().as_bytes())
            }
            None => Ok(()),
        }
    }

    fn delete_tag(&self, repository: &Repository, tag: &Tag) -> Result<bool, StorageError> {
        let _lock = self.removing()?;
        self.remove(&self.repository(repository).join("_tags").join(tag.as_str()))
    }

    fn delete_manifest(&self, repository: &Repository, digest: BlobDigest) -> Result<bool, StorageError> {
        let _lock = self.removing()?;
        self.forget_manifest(repository, digest)
    }

    fn blob(&self, repository: &Repository, digest: BlobDigest) -> Result<Option<(File, u64)>, StorageError> {
        if !self.link(repository, digest).is_file() {
            return Ok(None);
        }
        let path = self.blob_path(digest.0);
        match File::open(&path).and_then(|file| Ok((file.metadata()?.len(), file))) {
            Ok((size, file)) => Ok(Some((file, size))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StorageError::io("open", path)(error)),
        }
    }

    fn keep_blob(&self, repository: &Repository, digest: BlobDigest) -> Result<bool, StorageError> {
        let _lock = self.adding()?;
        self.touch(&self.link(repository, digest))?;
        Ok(self.blob(repository, digest)?.is_some())
    }

    fn adopt_blob(
        &self,
        repository: &Repository,
        digest: BlobDigest,
        file: &Path,
    ) -> Result<(), StorageError> {
        let _lock = self.adding()?;
        let path = self.blob_path(digest.0);
        // Over one that may be there: that one may be damaged.
        std::fs::rename(file, &path).map_err(StorageError::io("name the blob", &path))?;
        self.sync_folder(&self.root.join("blobs/sha256"))?;
        self.write(&self.link(repository, digest), b"")
    }

    fn mount_blob(
        &self,
        from: &Repository,
        to: &Repository,
        digest: BlobDigest,
    ) -> Result<bool, StorageError> {
        let _lock = self.adding()?;
        let here = self.blob(from, digest)?.is_some();
        if here {
            self.write(&self.link(to, digest), b"")?;
        }
        Ok(here)
    }

    fn delete_blob(&self, repository: &Repository, digest: BlobDigest) -> Result<bool, StorageError> {
        let _lock = self.removing()?;
        if self.blob(repository, digest)?.is_none() {
            return Ok(false);
        }
        for manifest in self.digests(&self.repository(repository).join("_manifests"))? {
            if self.named_by(manifest)?.contains(&digest.0) {
                return Err(StorageError::InUse { manifest: BlobDigest(manifest) });
            }
        }
        self.remove(&self.link(repository, digest))
    }

    fn drop_damaged_blob(&self, digest: BlobDigest) -> Result<(), StorageError> {
        let _lock = self.removing()?;
        let path = self.blob_path(digest.0);
        let mut hasher = Hasher::new();
        let Ok(mut file) = File::open(&path) else { return Ok(()) };
        io::copy(&mut file, &mut hasher).map_err(StorageError::io("read", &path))?;
        if hasher.finish() != digest.0 {
            self.remove(&path)?;
        }
        Ok(())
    }

    fn referrers(
        &self,
        repository: &Repository,
        subject: BlobDigest,
    ) -> Result<Vec<Descriptor>, StorageError> {
        let folder = self.repository(repository).join("_referrers").join(subject.0.hex());
        let mut found = Vec::new();
        for digest in self.digests(&folder)? {
            // What a crash left without its manifest is none.
            if !self.repository(repository).join("_manifests").join(digest.hex()).is_file() {
                continue;
            }
            let text = self.read(&folder.join(digest.hex()), MANIFEST_LIMIT)?;
            found.extend(text.and_then(|text| serde_json::from_slice::<Descriptor>(&text).ok()));
        }
        Ok(found)
    }

    fn tidy(&self) -> Result<(), StorageError> {
        self.collect(false).map(drop)
    }
}
