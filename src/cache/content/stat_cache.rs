//! What the files of a local tree were when they were last read, so that a tree that did not change
//! costs one `statx` a file.
//!
//! One file for each context, loaded whole and written back whole beside itself and renamed. It is a
//! memory and no more: one that is missing, torn, of another version or of another machine is an
//! empty one.
//!
//! ```text
//! magic (16 bytes), number of records (8), records (136 each), blake3 of all before it (32)
//! ```
//!
//! Records stand in the order of devices and inodes and are searched where they lie: a table of them would
//! take longer to make than all the answers, and as much memory again.
//!
//! A file is known by device, inode, size, mode, modification and change time. The clock by which
//! files are stamped ticks slowly, so a file that changed within two seconds of the scan may change
//! again without it showing: such files are not remembered (git calls them racily clean). Network and
//! FUSE file systems keep other clocks and make up inode numbers: nothing of them is remembered.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Entry, Fingerprint};

const MAGIC: &[u8; 16] = b"stave statcach 2";
/// What is before the records.
const HEAD: usize = 24;
const RECORD: usize = 136;
/// A record that was of no use for as many builds is dropped.
const GENERATIONS: u32 = 16;
/// No context has more files; a file that says so is not read.
const MOST: u64 = 16 << 20;
const MARGIN: Duration = Duration::from_secs(2);

/// File systems whose numbers and times cannot be relied on (linux/magic.h, statfs(2)).
const UNRELIABLE: &[u32] = &[
    0x6969,      // NFS
    0x517b,      // SMB
    0xff53_4d42, // CIFS
    0xfe53_4d42, // SMB2
    0x6573_5546, // FUSE
    0x0102_1997, // 9p
    0x0bd0_0bd0, // Lustre
    0x00c3_6400, // Ceph
    0x5346_414f, // AFS
    0x6b41_4653, // kAFS
    0x7375_7245, // Coda
    0x786f_4256, // VirtualBox shared folder
    0xbacb_acbc, // VMware shared folder
];

/// The memory of one local tree.
#[derive(Debug)]
pub struct StatCache {
    /// None if nothing is remembered.
    file: Option<PathBuf>,
    /// The device of the tree's root: other file systems mounted below are not remembered.
    device: u64,
    /// What changed at or after this is not remembered.
    settled: (i64, u32),
    known: Known,
    fresh: Mutex<HashMap<(u64, u64), Record>>,
}

/// A file that was loaded.
#[derive(Debug, Default)]
struct Known {
    bytes: Vec<u8>,
    /// Which records were of use, each by its place.
    used: Vec<AtomicBool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record {
    size: u64,
    mode: u32,
    modified: (i64, u32),
    changed: (i64, u32),
    fingerprint: Fingerprint,
    /// How many saves ago it was of use.
    age: u32,
}

impl StatCache {
    /// A memory that knows nothing and keeps nothing: for snapshots.
    pub fn off() -> Self {
        let settled = (i64::MIN, 0);
        Self { file: None, device: 0, settled, known: Known::default(), fresh: Mutex::default() }
    }

    /// Loads what `file` remembers of the tree below `root`; `now` is the time, before the scan
    /// begins. A file that cannot be used is as good as none.
    pub fn load(file: &Path, root: BorrowedFd<'_>, now: SystemTime) -> Self {
        let Ok(stat) = rustix::fs::fstat(root.as_fd()) else { return Self::off() };
        match rustix::fs::fstatfs(root) {
            Ok(fs) if !UNRELIABLE.contains(&(fs.f_type as u32)) => {}
            _ => return Self::off(),
        }
        let settled = now.checked_sub(MARGIN).and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let settled = settled
            .map_or((i64::MIN, 0), |at| (i64::try_from(at.as_secs()).unwrap_or(i64::MAX), at.subsec_nanos()));
        let known = fs::read(file).ok().and_then(decode).unwrap_or_default();
        Self { file: Some(file.to_owned()), device: stat.st_dev, settled, known, fresh: Mutex::default() }
    }

    /// What the entry was when it was last read, if it did not change since.
    pub(super) fn get(&self, entry: &Entry) -> Option<Fingerprint> {
        let (place, record) = self.known.find(entry.inode)?;
        let fingerprint = (record == Record { age: record.age, ..Record::of(entry, record.fingerprint) })
            .then_some(record.fingerprint)?;
        self.known.used[place].store(true, Ordering::Relaxed);
        Some(fingerprint)
    }

    /// Remembers what the entry is.
    pub(super) fn put(&self, entry: &Entry, fingerprint: Fingerprint) {
        let settled = entry.modified < self.settled && entry.changed < self.settled;
        if self.file.is_none() || entry.inode.0 != self.device || !settled {
            return;
        }
        if let Ok(mut fresh) = self.fresh.lock() {
            fresh.insert(entry.inode, Record::of(entry, fingerprint));
        }
    }

    /// Writes all that is worth remembering, and nothing if nothing is new.
    ///
    /// # Errors
    /// What writing gives. The build is none the worse for it.
    pub fn save(&self) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let fresh = self.fresh.lock().map_err(|_| io::Error::other("another thread panicked"))?;
        if fresh.is_empty() {
            return Ok(());
        }
        let mut records: Vec<((u64, u64), Record)> = Vec::with_capacity(self.known.used.len() + fresh.len());
        for (place, used) in self.known.used.iter().enumerate() {
            let (inode, record) = self.known.at(place);
            let age = if used.load(Ordering::Relaxed) { 0 } else { record.age.saturating_add(1) };
            if age < GENERATIONS && !fresh.contains_key(&inode) {
                records.push((inode, Record { age, ..record }));
            }
        }
        records.extend(fresh.iter().map(|(inode, record)| (*inode, *record)));
        records.sort_unstable_by_key(|(inode, _)| *inode);
        let directory = file.parent().ok_or_else(|| io::Error::other("the cache's file has no directory"))?;
        let mut temporary = tempfile::NamedTempFile::new_in(directory)?;
        temporary.write_all(&encode(&records))?;
        temporary.persist(file)?;
        Ok(())
    }
}

impl Record {
    fn of(entry: &Entry, fingerprint: Fingerprint) -> Self {
        Self {
            size: entry.size,
            mode: entry.mode,
            modified: entry.modified,
            changed: entry.changed,
            fingerprint,
            age: 0,
        }
    }
}

impl Known {
    fn at(&self, place: usize) -> ((u64, u64), Record) {
        decode_record(&self.bytes[HEAD + place * RECORD..][..RECORD])
    }

    fn inode(&self, place: usize) -> (u64, u64) {
        let at = HEAD + place * RECORD;
        let number = |at: usize| {
            u64::from_le_bytes(self.bytes[at..at + 8].try_into().expect("a record is as long as its fields"))
        };
        (number(at), number(at + 8))
    }

    /// The record of this inode, and its place.
    fn find(&self, inode: (u64, u64)) -> Option<(usize, Record)> {
        let (mut low, mut high) = (0, self.used.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.inode(middle).cmp(&inode) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Some((middle, self.at(middle).1)),
            }
        }
        None
    }
}

/// The records must be in the order of their inodes.
fn encode(records: &[((u64, u64), Record)]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + records.len() * RECORD + 32);
    bytes.extend(MAGIC);
    bytes.extend((records.len() as u64).to_le_bytes());
    for ((device, inode), record) in records {
        bytes.extend(device.to_le_bytes());
        bytes.extend(inode.to_le_bytes());
        bytes.extend(record.size.to_le_bytes());
        bytes.extend(record.modified.0.to_le_bytes());
        bytes.extend(record.changed.0.to_le_bytes());
        for number in [record.modified.1, record.changed.1, record.mode, record.age] {
            bytes.extend(number.to_le_bytes());
        }
        // Room for what a later field may need, so that records stay aligned.
        bytes.extend([0; 16]);
        bytes.extend(record.fingerprint.content);
        bytes.extend(record.fingerprint.xattrs);
    }
    let sum = blake3::hash(&bytes);
    bytes.extend(sum.as_bytes());
    bytes
}

/// Nothing for what is not whole.
fn decode(bytes: Vec<u8>) -> Option<Known> {
    let (body, sum) = bytes.split_last_chunk::<32>()?;
    let rest = body.strip_prefix(MAGIC)?;
    let (count, rest) = rest.split_first_chunk::<8>()?;
    let count = u64::from_le_bytes(*count);
    if count > MOST || rest.len() as u64 != count * RECORD as u64 || blake3::hash(body) != *sum {
        return None;
    }
    let used = (0..count).map(|_| AtomicBool::new(false)).collect();
    let known = Known { bytes, used };
    let in_order = (1..known.used.len()).all(|place| known.inode(place - 1) < known.inode(place));
    in_order.then_some(known)
}

fn decode_record(bytes: &[u8]) -> ((u64, u64), Record) {
    fn take<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
        let (taken, rest) = bytes.split_first_chunk().expect("a record is as long as its fields");
        *bytes = rest;
        *taken
    }
    let bytes = &mut &*bytes;
    let inode = (u64::from_le_bytes(take(bytes)), u64::from_le_bytes(take(bytes)));
    let size = u64::from_le_bytes(take(bytes));
    let seconds = (i64::from_le_bytes(take(bytes)), i64::from_le_bytes(take(bytes)));
    let [modified, changed, mode, age] = [(); 4].map(|()| u32::from_le_bytes(take(bytes)));
    let _room: [u8; 16] = take(bytes);
    let fingerprint = Fingerprint { content: take(bytes), xattrs: take(bytes) };
    let record = Record {
        size,
        mode,
        modified: (seconds.0, modified),
        changed: (seconds.1, changed),
        fingerprint,
        age,
    };
    (inode, record)
}
