//! Blobs on their way in: `partial/sha256/<hex>` holds the beginning of one, and outlives its process.
//!
//! Whoever fetches a blob holds its lock, writes behind what an earlier process left, and renames the
//! file into `blobs/` once the digest of all of it was found right; so a transfer that was killed goes on
//! where it ended, and one that another process has under way is waited for. What was left is hashed again
//! and believed no further than that: if the whole is wrong, it begins anew.
//!
//! A layer is unpacked from the same file while it grows ([`Growing`]), so the unpacker may lag behind
//! the network for as long as it likes without holding bytes in memory. It reaches the file's end only
//! after the digest was found right, and until then nobody sees what it makes.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::blobs::WriteBehind;
use super::layers::Unpacked;
use super::lease::Lease;
use super::lock::NameLock;
use super::prune::entries;
use super::{Store, StoreError, compress};
use crate::digest::{BlobDigest, DiffId, Digest, Hasher};

/// Where they are, below the store's root.
pub(super) const FOLDER: &str = "partial/sha256";
/// Less than this costs no more to fetch again than to keep.
const WORTH_KEEPING: u64 = 128 << 10;
/// How many nanoseconds after its last byte one is still expected to be gone on with: a week.
const PATIENCE: i64 = 7 * 24 * 3600 * 1_000_000_000;
/// The most bytes that transfers which nobody goes on with may take together.
const CEILING: u64 = 16 << 30;

/// A blob that is being fetched. Dropped before [`Incoming::commit`], what is there of it stays for the
/// next try, unless it is all there and was of no use.
#[derive(Debug)]
pub struct Incoming<'a> {
    store: &'a Store,
    digest: BlobDigest,
    size: u64,
    path: PathBuf,
    file: File,
    /// What an earlier process left and nobody asked for yet.
    left: u64,
    /// How much was written and hashed.
    length: u64,
    hasher: Hasher,
    behind: WriteBehind,
    shared: Arc<Shared>,
    committed: bool,
    // Last, so that the file is in its place, or gone, when the next one gets the lock.
    _lock: NameLock,
}

/// What the writer and the unpacker tell one another.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// How many bytes of the file may be read.
    readable: u64,
    /// How often the bytes began anew.
    beginnings: u64,
    end: End,
    /// There was no room for what the unpacker makes.
    no_room: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum End {
    /// More is coming.
    #[default]
    Open,
    /// These are all, and they are the right ones.
    Verified,
    /// Nobody writes any more.
    Abandoned,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }

    fn wait_while(&self, mut condition: impl FnMut(&State) -> bool) -> MutexGuard<'_, State> {
        let waited = self.changed.wait_while(self.state(), |state| condition(state));
        waited.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// Begins to take in a blob of `size` bytes, or goes on with it; nothing if another process, or
    /// another thread, is at it. Whoever gets it looks once more whether the blob is here by now.
    ///
    /// # Errors
    /// What the file system gives.
    pub fn try_incoming(&self, digest: BlobDigest, size: u64) -> Result<Option<Incoming<'_>>, StoreError> {
        let Some(_lock) = self.try_lock_name(&lock_name(&digest.0.hex()))? else { return Ok(None) };
        let path = self.path().join(FOLDER).join(digest.0.hex());
        let fail = || StoreError::io("open", &path);
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(false).open(&path).map_err(fail())?;
        let mut left = file.metadata().map_err(fail())?.len();
        if left > size {
            file.set_len(0).map_err(fail())?;
            left = 0;
        }
        if left == 0 {
            self.sweep_incoming(Some(self.now().saturating_sub(PATIENCE)))?;
        }
        let (hasher, shared) = (Hasher::new(), Arc::default());
        Ok(Some(Incoming {
            store: self,
            digest,
            size,
            path,
            file,
            left,
            length: 0,
            hasher,
            behind: WriteBehind::default(),
            shared,
            committed: false,
            _lock,
        }))
    }

    /// Removes what transfers left that nobody goes on with; with `before`, only what was last written to
    /// before that time, and the oldest of what takes too much. Gives how many bytes that was.
    pub(super) fn sweep_incoming(&self, before: Option<i64>) -> Result<u64, StoreError> {
        let mut found = Vec::new();
        for (path, name) in entries(&self.path().join(FOLDER))? {
            // One that was just renamed has gone.
            let Ok(metadata) = path.symlink_metadata() else { continue };
            let written =
                metadata.modified().ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
            let written = written.and_then(|age| i64::try_from(age.as_nanos()).ok()).unwrap_or(0);
            found.push((written, path, name, metadata.len()));
        }
        found.sort_by_key(|other| std::cmp::Reverse(other.0));
        let (mut kept, mut removed) = (0, 0);
        for (written, path, name, size) in found {
            kept += size;
            if before.is_some_and(|before| written >= before) && kept <= CEILING {
                continue;
            }
            // One that grows is somebody's.
            if let Some(_lock) = self.try_lock_name(&lock_name(&name))? {
                self.remove_tree(&path)?;
                kept -= size;
                removed += size;
            }
        }
        Ok(removed)
    }

    /// Unpacks a layer from its blob while that arrives, anew whenever its bytes begin anew. Gives the
    /// layer, which nobody sees yet, once the bytes are all there and were found right.
    ///
    /// # Errors
    /// As [`Store::unpack`], and whatever a transfer that was given up leads to.
    pub fn unpack_growing(
        &self,
        growing: &Growing,
        diff_id: DiffId,
        lease: &Lease<'_>,
    ) -> Result<Unpacked, StoreError> {
        self.follow(growing, |reader| self.unpack_aside(reader, diff_id, lease))
    }

    /// Checks while a layer's blob arrives that the layer in it is that one. Gives it once the bytes are
    /// all there and were found right.
    ///
    /// # Errors
    /// [`StoreError::Mismatch`] if it is another, and what decompressing gives.
    pub fn check_growing(&self, growing: &Growing, diff_id: DiffId) -> Result<(), StoreError> {
        self.follow(growing, |reader| self.check(reader, diff_id))
    }

    /// As [`Store::check_growing`], for a blob that is here.
    ///
    /// # Errors
    /// [`StoreError::MissingBlob`] too.
    pub fn check_blob(&self, blob: BlobDigest, diff_id: DiffId) -> Result<(), StoreError> {
        let checked = self.check(self.open_blob(blob)?.0, diff_id);
        if checked.is_err() && self.drop_damaged_blob(blob)? {
            return Err(StoreError::MissingBlob(blob));
        }
        checked
    }

    fn check(&self, stream: impl Read + Send, diff_id: DiffId) -> Result<(), StoreError> {
        let limit = self.environment.layers.limits.size;
        let mut plain = compress::Limited::new(compress::decompress(stream)?, limit);
        let mut hasher = Hasher::new();
        io::copy(&mut plain, &mut hasher)?;
        let found = hasher.finish();
        match found == diff_id.0 {
            true => Ok(()),
            false => Err(StoreError::Mismatch { wanted: diff_id.0, found }),
        }
    }

    /// Reads a blob while it arrives, anew whenever its bytes begin anew.
    fn follow<T>(
        &self,
        growing: &Growing,
        read: impl Fn(Reader) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        loop {
            let beginnings = growing.shared.state().beginnings;
            let reader =
                growing.reader(beginnings).map_err(StoreError::io("read", self.path().join(FOLDER)))?;
            let error = match read(reader) {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            if is_no_room(&error) {
                growing.shared.change(|state| state.no_room = true);
                return Err(StoreError::NoSpace);
            }
            // The wrong bytes explain whatever went wrong, and only the end tells whether they were.
            let state =
                growing.shared.wait_while(|state| state.end == End::Open && state.beginnings == beginnings);
            if state.beginnings == beginnings {
                return Err(error);
            }
        }
    }
}

fn lock_name(hex: &str) -> String {
    format!("blob-{hex}")
}

/// Whether an error came of a full disk, or of a quota.
pub(crate) fn is_no_room(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut at = Some(error);
    while let Some(error) = at {
        if matches!(error.downcast_ref::<StoreError>(), Some(StoreError::NoSpace)) {
            return true;
        }
        if let Some(error) = error.downcast_ref::<io::Error>()
            && matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        {
            return true;
        }
        at = error.source();
    }
    false
}

impl Incoming<'_> {
    /// What an unpacker reads from.
    ///
    /// # Errors
    /// What the file system gives.
    pub fn growing(&self) -> io::Result<Growing> {
        Ok(Growing { file: self.file.try_clone()?, shared: Arc::clone(&self.shared) })
    }

    /// How many bytes of the blob are here already. What is written from now on comes behind them; if this
    /// is never asked, it begins anew.
    ///
    /// # Errors
    /// What reading them gives.
    pub fn resume(&mut self) -> io::Result<u64> {
        let left = std::mem::take(&mut self.left);
        if left == 0 {
            return Ok(self.length);
        }
        // The unpacker need not wait until they are hashed.
        self.shared.change(|state| state.readable = left);
        self.file.rewind()?;
        let mut buffer = vec![0; 256 << 10];
        while self.length < left {
            let most = buffer.len().min(usize::try_from(left - self.length).unwrap_or(usize::MAX));
            let read = self.file.read(&mut buffer[..most])?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.hasher.update(&buffer[..read]);
            self.length += read as u64;
        }
        Ok(self.length)
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// What writing gives, `StorageFull` too if the unpacker found the disk full.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.left > 0 {
            self.restart()?;
        }
        if self.shared.state().no_room {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.write_all(bytes).inspect_err(|error| {
            if is_no_room(error) {
                self.shared.change(|state| state.no_room = true);
            }
        })?;
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        self.shared.change(|state| state.readable = self.length);
        self.behind.grown(&self.file, self.length);
        Ok(())
    }

    /// Forgets all bytes so far.
    ///
    /// # Errors
    /// What the file system gives.
    pub fn restart(&mut self) -> io::Result<()> {
        // First of all the unpacker is told, so that it believes nothing it reads from now on.
        self.shared.change(|state| {
            state.readable = 0;
            state.beginnings += 1;
        });
        (self.left, self.length, self.behind) = (0, 0, WriteBehind::default());
        self.hasher = Hasher::new();
        self.file.set_len(0)?;
        self.file.rewind()
    }

    /// The digest of all bytes so far.
    pub fn digest(&self) -> Digest {
        self.hasher.clone().finish()
    }

    /// Checks that all bytes are here and the right ones, and makes them outlive a power cut. The
    /// unpacker comes to the end of its stream meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Mismatch`], and what the file system gives.
    pub fn verify(&mut self) -> Result<(), StoreError> {
        let found = self.digest();
        if found != self.digest.0 {
            return Err(StoreError::Mismatch { wanted: self.digest.0, found });
        }
        self.shared.change(|state| state.end = End::Verified);
        self.file.sync_data().map_err(StoreError::io("write", &self.path))
    }

    /// Makes the blob visible, which was [verified](Incoming::verify).
    ///
    /// # Errors
    /// What the file system gives.
    pub fn commit(mut self) -> Result<(), StoreError> {
        if self.shared.state().end != End::Verified {
            self.verify()?;
        }
        self.store.claim_blob(self.digest)?;
        let place = self.store.blob_path(self.digest);
        std::fs::rename(&self.path, &place).map_err(StoreError::io("write", &place))?;
        self.committed = true;
        let folder = place.parent().expect("a blob's path has a folder");
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(StoreError::io("write", folder))
    }
}

impl Drop for Incoming<'_> {
    fn drop(&mut self) {
        let mut no_room = false;
        self.shared.change(|state| {
            no_room = state.no_room;
            if state.end == End::Open {
                state.end = End::Abandoned;
            }
        });
        let here = self.length.max(self.left);
        // Whole, it is wrong, or the layer in it is. On a full disk, others need the room more.
        let of_use = (WORTH_KEEPING..self.size).contains(&here) && !no_room;
        if !self.committed && !of_use {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The bytes of a blob that is being fetched, for its unpacker.
#[derive(Debug)]
pub struct Growing {
    file: File,
    shared: Arc<Shared>,
}

impl Growing {
    fn reader(&self, beginnings: u64) -> io::Result<Reader> {
        Ok(Reader { file: self.file.try_clone()?, shared: Arc::clone(&self.shared), beginnings, at: 0 })
    }
}

/// Reads what is there, waits for more, and ends when the bytes were found right.
struct Reader {
    file: File,
    shared: Arc<Shared>,
    /// Of which beginning it reads.
    beginnings: u64,
    at: u64,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let stale = || io::Error::other("the transfer begins anew");
        let (at, beginnings) = (self.at, self.beginnings);
        let state = self.shared.wait_while(|state| {
            state.readable <= at && state.end == End::Open && state.beginnings == beginnings
        });
        if state.beginnings != beginnings {
            return Err(stale());
        }
        let there = state.readable.saturating_sub(at);
        let end = state.end;
        drop(state);
        match end {
            End::Abandoned => return Err(io::Error::other("the transfer was given up")),
            End::Verified if there == 0 => return Ok(0),
            End::Open | End::Verified => {}
        }
        let most = buffer.len().min(usize::try_from(there).unwrap_or(usize::MAX));
        let read = self.file.read_at(&mut buffer[..most], at)?;
        if self.shared.state().beginnings != beginnings {
            return Err(stale());
        }
        if read == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests;
