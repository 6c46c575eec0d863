//! Blobs: bytes by their digest, in `blobs/sha256/<hex>`.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::PathBuf;

use super::{Store, StoreError};
use crate::digest::{BlobDigest, Hasher};

impl Store {
    pub(super) fn blob_path(&self, digest: BlobDigest) -> PathBuf {
        self.path().join("blobs/sha256").join(digest.0.hex())
    }

    /// Whether the blob is here at this moment; [`Store::claim_blob`] tells whether it stays.
    pub fn has_blob(&self, digest: BlobDigest) -> bool {
        self.blob_path(digest).is_file()
    }

    /// Opens a blob to be read; gives its size too.
    ///
    /// # Errors
    /// [`StoreError::MissingBlob`].
    pub fn open_blob(&self, digest: BlobDigest) -> Result<(File, u64), StoreError> {
        let path = self.blob_path(digest);
        match File::open(&path).and_then(|file| Ok((file.metadata()?.len(), file))) {
            Ok((size, file)) => Ok((file, size)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StoreError::MissingBlob(digest)),
            Err(error) => Err(StoreError::io("open", path)(error)),
        }
    }

    /// Reads a blob of at most `limit` bytes and checks its digest.
    ///
    /// # Errors
    /// [`StoreError::MissingBlob`], [`StoreError::Corrupt`].
    pub fn read_blob(&self, digest: BlobDigest, limit: u64) -> Result<Vec<u8>, StoreError> {
        let (file, _) = self.open_blob(digest)?;
        let mut bytes = Vec::new();
        file.take(limit).read_to_end(&mut bytes).map_err(StoreError::io("read", self.blob_path(digest)))?;
        let found = BlobDigest(crate::digest::Digest::of(&bytes));
        if found == digest { Ok(bytes) } else { Err(StoreError::Corrupt { wanted: digest, found }) }
    }

    /// Removes a blob whose bytes are not what its name says; gives whether that was so.
    ///
    /// # Errors
    /// [`StoreError::MissingBlob`], and what the file system gives.
    pub fn drop_damaged_blob(&self, digest: BlobDigest) -> Result<bool, StoreError> {
        let (mut file, _) = self.open_blob(digest)?;
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; 256 << 10];
        loop {
            match file.read(&mut buffer).map_err(StoreError::io("read", self.blob_path(digest)))? {
                0 => break,
                length => hasher.update(&buffer[..length]),
            }
        }
        let damaged = BlobDigest(hasher.finish()) != digest;
        if damaged {
            let path = self.blob_path(digest);
            std::fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
        }
        Ok(damaged)
    }

    /// Stores bytes; nothing happens if they are here already.
    ///
    /// # Errors
    /// What the file system gives.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<BlobDigest, StoreError> {
        let digest = BlobDigest(crate::digest::Digest::of(bytes));
        // Documents are small: one that was damaged is written anew.
        if !self.claim_blob(digest)? || self.drop_damaged_blob(digest)? {
            let mut writer = self.blob_writer()?;
            writer.write_all(bytes).map_err(StoreError::io("write", self.blob_path(digest)))?;
            writer.commit(None)?;
        }
        Ok(digest)
    }

    /// Something to write a blob into whose digest is known only in the end.
    ///
    /// # Errors
    /// What the file system gives.
    pub fn blob_writer(&self) -> Result<BlobWriter<'_>, StoreError> {
        let folder = self.path().join("tmp");
        let file = tempfile::Builder::new()
            .prefix(&format!("{}.", self.session_id()?))
            .tempfile_in(&folder)
            .map_err(StoreError::io("create a temporary file in", folder))?;
        Ok(BlobWriter { store: self, file, hasher: Hasher::new(), size: 0, behind: WriteBehind::default() })
    }
}

/// A blob that is being written. Dropped without [`BlobWriter::commit`], it is gone.
#[derive(Debug)]
pub struct BlobWriter<'a> {
    store: &'a Store,
    file: tempfile::NamedTempFile,
    hasher: Hasher,
    size: u64,
    behind: WriteBehind,
}

/// Has the disk begin to write a file while more of it comes, so that the sync in the end finds little left to do.
#[derive(Debug, Default)]
pub(super) struct WriteBehind {
    /// How much of it the disk was asked to write.
    asked: u64,
}

impl WriteBehind {
    /// After how many bytes it is asked.
    const STEP: u64 = 8 << 20;

    /// So many bytes of the file are there now.
    pub(super) fn grown(&mut self, file: &File, size: u64) {
        if size - self.asked >= Self::STEP {
            // What is not written yet is not dropped from memory by this, and whoever reads it finds it there.
            // A file system that takes no advice does it all in the end.
            let range = std::num::NonZero::new(size - self.asked);
            let _ = rustix::fs::fadvise(file, self.asked, range, rustix::fs::Advice::DontNeed);
            self.asked = size;
        }
    }
}

impl BlobWriter<'_> {
    /// Makes the blob visible, synced, under its digest, which must be `expected` if that is given.
    ///
    /// # Errors
    /// [`StoreError::Mismatch`] if it is another; then nothing was stored.
    pub fn commit(mut self, expected: Option<BlobDigest>) -> Result<(BlobDigest, u64), StoreError> {
        let digest = BlobDigest(self.hasher.finish());
        if let Some(wanted) = expected.filter(|wanted| *wanted != digest) {
            return Err(StoreError::Mismatch { wanted: wanted.0, found: digest.0 });
        }
        let path = self.store.blob_path(digest);
        // Over one that may be there: whoever gives us all the bytes again has a right to have a damaged
        // blob repaired, and to read it in order to know costs as much.
        self.store.claim_blob(digest)?;
        let fail = || StoreError::io("write", &path);
        self.file.flush().map_err(fail())?;
        self.file.as_file().sync_data().map_err(fail())?;
        self.file.persist(&path).map_err(|error| fail()(error.error))?;
        let folder = path.parent().expect("a blob's path has a folder");
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(fail())?;
        Ok((digest, self.size))
    }

    /// Forgets all bytes so far.
    ///
    /// # Errors
    /// What the file system gives.
    pub fn restart(&mut self) -> io::Result<()> {
        self.file.as_file().set_len(0)?;
        self.file.rewind()?;
        self.hasher = Hasher::new();
        self.size = 0;
        self.behind = WriteBehind::default();
        Ok(())
    }

    /// The file that is written to, to read from it meanwhile. It holds the blob still when that is
    /// visible.
    ///
    /// # Errors
    /// What the file system gives.
    pub fn reader(&self) -> io::Result<File> {
        self.file.reopen()
    }

    /// The digest of what was written.
    pub fn digest(&self) -> BlobDigest {
        BlobDigest(self.hasher.clone().finish())
    }

    /// How many bytes were written.
    pub fn size(&self) -> u64 {
        self.size
    }
}

impl Write for BlobWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        self.behind.grown(self.file.as_file(), self.size);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
