//! Uploads that are not finished: a file each, which outlives the server.
//!
//! An id is random, so that nobody finds another's, and ends with a hash of its repository, so that
//! it is worth nothing in another one. No list is kept: the file is all there is of an upload. Who
//! writes holds flock(2) on it, and looks then whether it is still the file of that name: one that was
//! finished meanwhile is a blob by now, and nobody may write to that.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::name::Repository;
use super::storage::StorageError;
use crate::digest::Digest;

/// How long an upload that nobody goes on with is kept.
pub const UPLOAD_KEPT: Duration = Duration::from_secs(24 * 3600);

/// The name of an upload.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct UploadId(String);

impl UploadId {
    /// The one that this much randomness makes, in a repository.
    pub fn new(random: Digest, repository: &Repository) -> Self {
        Self(format!("{}{}", &random.hex()[..32], seal(repository)))
    }

    /// Parses one that was given out for this repository.
    pub fn parse(text: &str, repository: &Repository) -> Option<Self> {
        let random = text.strip_suffix(seal(repository).as_str())?;
        let hex = random.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c));
        (random.len() == 32 && hex).then(|| Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn seal(repository: &Repository) -> String {
    Digest::of(repository.as_str().as_bytes()).hex()[..16].to_owned()
}

/// The folder of the uploads that are not finished.
#[derive(Debug)]
pub struct UploadFiles {
    folder: PathBuf,
}

impl UploadFiles {
    /// Those in this folder, which is there.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    pub(super) fn path(&self, id: &UploadId) -> PathBuf {
        self.folder.join(id.as_str())
    }

    pub(super) fn create(&self, id: &UploadId) -> Result<(), StorageError> {
        let path = self.path(id);
        File::create_new(&path).map(drop).map_err(StorageError::io("begin an upload in", path))
    }

    /// How many bytes there are, if there is such an upload.
    pub(super) fn size(&self, id: &UploadId) -> Result<Option<u64>, StorageError> {
        let path = self.path(id);
        match path.symlink_metadata() {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StorageError::io("look at", path)(error)),
        }
    }

    /// Opens an upload to be written at its end.
    pub(super) fn open(&self, id: &UploadId) -> Result<Opened, StorageError> {
        let path = self.path(id);
        let fail = || StorageError::io("open the upload", &path);
        let file = match File::options().read(true).append(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Opened::Gone),
            Err(error) => return Err(fail()(error)),
        };
        match rustix::fs::flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(Opened::Busy),
            Err(error) => return Err(fail()(error.into())),
        }
        let ours = file.metadata().map_err(fail())?;
        match path.symlink_metadata() {
            Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => {
                Ok(Opened::Here(file, ours.len()))
            }
            Ok(_) => Ok(Opened::Gone),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Opened::Gone),
            Err(error) => Err(fail()(error)),
        }
    }

    /// Takes an upload away; whether it was there.
    pub(super) fn remove(&self, id: &UploadId) -> Result<bool, StorageError> {
        remove(&self.path(id))
    }

    /// Takes away what nobody went on with for [`UPLOAD_KEPT`] before `now`, in nanoseconds since the
    /// epoch.
    pub(super) fn sweep(&self, now: i64) -> Result<(), StorageError> {
        let fail = || StorageError::io("list", &self.folder);
        for entry in std::fs::read_dir(&self.folder).map_err(fail())? {
            let entry = entry.map_err(fail())?;
            // One that is gone by now needs no removing.
            let Ok(metadata) = entry.metadata() else { continue };
            if is_older(&metadata, now, UPLOAD_KEPT) {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }
}

/// Whether a file was last written, or touched, so long ago.
pub(super) fn is_older(metadata: &std::fs::Metadata, now: i64, age: Duration) -> bool {
    let seconds = i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
    metadata.mtime().saturating_add(seconds) < now / 1_000_000_000
}

fn remove(path: &Path) -> Result<bool, StorageError> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(StorageError::io("remove", path)(error)),
    }
}

/// What came of opening an upload.
#[derive(Debug)]
pub(super) enum Opened {
    /// Its file, locked, and how many bytes there are.
    Here(File, u64),
    /// Another process is writing.
    Busy,
    /// There is none of that name.
    Gone,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn ids_are_worth_nothing_elsewhere() {
        let (a, b) = (Repository::parse("a").unwrap(), Repository::parse("b").unwrap());
        let id = UploadId::new(Digest::of(b"random"), &a);
        assert_eq!(UploadId::parse(id.as_str(), &a), Some(id.clone()));
        assert_eq!(UploadId::parse(id.as_str(), &b), None);
        for text in [
            "",
            "..",
            &id.as_str()[1..],
            &format!("../../{}", &id.as_str()[6..]),
            &id.as_str().to_uppercase(),
        ] {
            assert_eq!(UploadId::parse(text, &a), None, "{text}");
        }
    }

    #[test]
    fn one_writes_at_a_time_and_old_ones_go() {
        let folder = tempfile::tempdir().unwrap();
        let files = UploadFiles::new(folder.path().to_owned());
        let id = UploadId::new(Digest::of(b"random"), &Repository::parse("a").unwrap());
        assert!(matches!(files.open(&id).unwrap(), Opened::Gone));
        files.create(&id).unwrap();
        let Opened::Here(mut file, 0) = files.open(&id).unwrap() else { panic!("it was just made") };
        assert!(matches!(files.open(&id).unwrap(), Opened::Busy));
        file.write_all(b"abc").unwrap();
        drop(file);
        assert_eq!(files.size(&id).unwrap(), Some(3));
        let modified = files.path(&id).metadata().unwrap().mtime() * 1_000_000_000;
        files.sweep(modified + 1_000_000_000).unwrap();
        assert_eq!(files.size(&id).unwrap(), Some(3));
        files.sweep(modified + 25 * 3600 * 1_000_000_000).unwrap();
        assert_eq!(files.size(&id).unwrap(), None);
        assert!(!files.remove(&id).unwrap());
    }
}
