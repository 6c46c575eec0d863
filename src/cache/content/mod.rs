//! Content: what COPY, ADD and bind mounts depend on.
//!
//! A step that copies does not depend on the tree it copies from but on what it takes of it: modes,
//! owners, sizes, link targets, extended attributes and bytes of the chosen paths, and no times. A
//! [`Selector`] says what is chosen, [`list()`] finds it (one `statx` an entry, directories side by
//! side), [`digest`] reads what is not known yet and gives the [`ContentDigest`].
//!
//! The same [`Listing`] is what the copier copies from. Each file in it bears the [`Fingerprint`]
//! that went into the digest, so the copier can tell a file that changed in between.
//!
//! A tree is either a directory of the person's machine without what `.dockerignore` leaves out, or
//! a mounted snapshot. Both are reached through a directory handle only; no name in them is followed
//! out of it. What a FIFO, a socket or a device would give is never asked: they are not opened.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rayon::prelude::*;

use crate::digest::{ContentDigest, Hasher};
use crate::pattern::{PatternError, Patterns};

pub mod blocks;
mod select;
pub mod stat_cache;
#[cfg(test)]
mod tests;
mod walk;
pub mod xattrs;

pub use select::list;
pub use stat_cache::StatCache;

/// A tree to take from.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    excludes: Patterns,
    owners: Owners,
}

/// Whose the files of a tree are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// Who owns them.
    Kept,
    /// Root's, whoever owns them on this machine.
    Root,
}

impl Tree {
    /// A directory of the person's machine: what `excludes` matches is not in it, and all of it is
    /// root's.
    pub fn local(root: OwnedFd, excludes: Patterns) -> Self {
        Self { root, excludes, owners: Owners::Root }
    }

    /// A mounted snapshot.
    pub fn snapshot(root: OwnedFd) -> Self {
        Self { root, excludes: Patterns::default(), owners: Owners::Kept }
    }

    /// The handle on its root.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Opens a file or directory of the tree to read it. `path` is as a [`Root`] and its entries say
    /// it; no link on it is followed, and nothing that could block is waited for.
    ///
    /// # Errors
    /// What the kernel gives; `ELOOP` where a link took something's place.
    pub fn open(&self, path: &OsStr, kind: &Kind) -> io::Result<std::fs::File> {
        walk::open(self, path, kind)
    }

    /// Whose its files are.
    pub fn owners(&self) -> Owners {
        self.owners
    }
}

/// What is chosen of a tree.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Selector {
    /// A path below the root; `.`, `..` and doubled slashes are resolved by the letters and stay
    /// inside.
    pub path: String,
    /// Whether `*`, `?`, `[…]` and `**` in the path are patterns.
    pub wildcards: bool,
    /// Whether a pattern may match nothing.
    pub optional: bool,
    /// moby patterns of what is left out, relative to what was chosen.
    pub excludes: Vec<String>,
    /// Keep the directories above what was chosen; `/./` in the path marks where they begin.
    pub parents: bool,
}

impl Selector {
    /// The file or the whole directory at a plain path.
    pub fn path(path: impl Into<String>) -> Self {
        Self { path: path.into(), wildcards: false, optional: false, excludes: Vec::new(), parents: false }
    }
}

/// What a [`Selector`] chose, found on disk.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// Each source that the path named, by its name.
    pub roots: Vec<Root>,
}

/// One source that was chosen.
#[derive(Debug, Clone)]
pub struct Root {
    /// Where it is, relative to the tree's root, links followed; empty for the root itself.
    pub path: OsString,
    /// Its name as it was chosen: that of the link where it was reached through one.
    pub name: OsString,
    /// With `parents`, the path, relative to where the kept directories begin.
    pub below: Option<OsString>,
    /// With `parents`, the directories above, outermost first, relative to where they begin.
    pub parents: Vec<Entry>,
    /// What it holds, itself first (its path is empty), a directory before what is in it.
    pub entries: Vec<Entry>,
}

impl Root {
    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.entries.first().is_some_and(|entry| entry.kind == Kind::Directory)
    }
}

/// A file, directory or whatever has a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the source that was chosen.
    pub path: OsString,
    pub kind: Kind,
    /// The twelve permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// A file's size; zero for the rest.
    pub size: u64,
    /// Seconds and nanoseconds.
    pub modified: (i64, u32),
    /// When the inode changed last.
    pub changed: (i64, u32),
    /// Device and inode: two files with the same are one.
    pub inode: (u64, u64),
    /// How many names the inode has.
    pub links: u32,
    /// For a device, what it is.
    pub device: (u32, u32),
    /// What its bytes and extended attributes are, once [`digest`] found out.
    pub fingerprint: Option<Fingerprint>,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Directory,
    File,
    /// A symbolic link and what it says.
    Link(OsString),
    Fifo,
    /// Only in a local tree, where BuildKit takes one for an empty file. The sockets of a stage are
    /// no entries, as no layer can hold them.
    Socket,
    CharDevice,
    BlockDevice,
}

/// What a file's bytes are, and the extended attributes of a file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    /// See [`blocks::fingerprint`]; zeros for a directory.
    pub content: [u8; 32],
    /// See [`xattrs::fingerprint`]; zeros where there are none.
    pub xattrs: [u8; 32],
}

/// Why a tree could not be listed or read. Paths are relative to its root.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    #[error("`{path}` not found")]
    NotFound {
        path: String,
        /// What is there by a name much like it.
        near: Option<String>,
    },
    #[error("`{path}` not found: the ignore pattern `{pattern}` leaves it out")]
    Ignored { path: String, pattern: String },
    #[error("`{path}` not found: the pattern matches nothing")]
    NoMatch { path: String },
    #[error(transparent)]
    Pattern(#[from] PatternError),
    #[error("cannot read `{path}`")]
    Read { path: String, source: io::Error },
    #[error("`{path}` changed while it was being read")]
    Changed { path: String },
}

impl ContentError {
    fn read(path: &OsStr, source: impl Into<io::Error>) -> Self {
        Self::Read { path: shown(path), source: source.into() }
    }
}

/// A path for a message.
pub(crate) fn shown(path: &OsStr) -> String {
    if path.is_empty() { "/".to_owned() } else { path.to_string_lossy().into_owned() }
}

/// `base/path`, where either may be empty.
pub(crate) fn join(base: &OsStr, path: &OsStr) -> OsString {
    let mut joined = base.to_owned();
    if !base.is_empty() && !path.is_empty() {
        joined.push("/");
    }
    joined.push(path);
    joined
}

/// Reads what of the listing `cache` does not know, and gives the digest of all of it: names, kinds,
/// modes, owners, sizes, link targets, extended attributes, device numbers and bytes. Times and the
/// question which files are one do not count.
///
/// # Errors
/// [`ContentError::Changed`] for a file that would not hold still, [`ContentError::Read`] for one
/// that cannot be read.
pub fn digest(tree: &Tree, listing: &mut Listing, cache: &StatCache) -> Result<ContentDigest, ContentError> {
    for Root { path, entries, .. } in &mut listing.roots {
        let look = |entry: &mut Entry| {
            if entry.fingerprint.is_none() && matches!(entry.kind, Kind::File | Kind::Directory) {
                let full = join(path, &entry.path);
                entry.fingerprint = Some(fingerprint(tree, &full, entry, cache)?);
            }
            Ok::<_, ContentError>(())
        };
        // To wake others takes longer than to look at one file that is known.
        match entries.len() {
            0..=1 => entries.iter_mut().try_for_each(look)?,
            _ => entries.par_iter_mut().try_for_each(look)?,
        }
    }
    Ok(digest_of(listing))
}

fn fingerprint(
    tree: &Tree,
    path: &OsStr,
    entry: &mut Entry,
    cache: &StatCache,
) -> Result<Fingerprint, ContentError> {
    if let Some(known) = cache.get(entry) {
        return Ok(known);
    }
    // An editor that is just saving gets a second and a third chance.
    for _ in 0..3 {
        let file = walk::open(tree, path, &entry.kind).map_err(|source| ContentError::read(path, source))?;
        let now = walk::stat_of(&file).map_err(|source| ContentError::read(path, source))?;
        if !now.same_file(entry, tree.owners()) {
            // What was listed is gone. Only the same kind of thing under the name may stand in.
            if !now.refresh(entry, tree.owners()) {
                break;
            }
        }
        let content = match entry.kind {
            Kind::File => match blocks::fingerprint(&file, entry.size) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => continue,
                other => other.map_err(|source| ContentError::read(path, source))?,
            },
            _ => [0; 32],
        };
        let xattrs = xattrs::read(&file).map_err(|source| ContentError::read(path, source))?;
        let found = Fingerprint { content, xattrs: xattrs::fingerprint(&xattrs) };
        let after = walk::stat_of(&file).map_err(|source| ContentError::read(path, source))?;
        if after.same_file(entry, tree.owners()) {
            cache.put(entry, found);
            return Ok(found);
        }
    }
    Err(ContentError::Changed { path: shown(path) })
}

fn digest_of(listing: &Listing) -> ContentDigest {
    let mut hasher = Hasher::new();
    hasher.field(b"stave content 1");
    hasher.update(&(listing.roots.len() as u64).to_le_bytes());
    for root in &listing.roots {
        hasher.field(root.name.as_bytes());
        hasher.field(root.below.as_deref().unwrap_or_default().as_bytes());
        hasher.update(&[u8::from(root.below.is_some())]);
        for entries in [&root.parents, &root.entries] {
            hasher.update(&(entries.len() as u64).to_le_bytes());
            for entry in entries {
                entry.digest_into(&mut hasher);
            }
        }
    }
    ContentDigest(hasher.finish())
}

impl Entry {
    fn digest_into(&self, hasher: &mut Hasher) {
        hasher.field(self.path.as_bytes());
        let (kind, target) = match &self.kind {
            Kind::Directory => (b'd', OsStr::new("")),
            Kind::File => (b'f', OsStr::new("")),
            Kind::Link(target) => (b'l', target.as_os_str()),
            Kind::Fifo => (b'p', OsStr::new("")),
            Kind::Socket => (b's', OsStr::new("")),
            Kind::CharDevice => (b'c', OsStr::new("")),
            Kind::BlockDevice => (b'b', OsStr::new("")),
        };
        hasher.update(&[kind]);
        hasher.field(target.as_bytes());
        // A link's permissions mean nothing and differ between file systems.
        let mode = if kind == b'l' { 0o777 } else { self.mode };
        for number in [mode, self.uid, self.gid, self.device.0, self.device.1] {
            hasher.update(&number.to_le_bytes());
        }
        hasher.update(&self.size.to_le_bytes());
        let fingerprint = self.fingerprint.unwrap_or(Fingerprint { content: [0; 32], xattrs: [0; 32] });
        hasher.update(&fingerprint.content);
        hasher.update(&fingerprint.xattrs);
    }
}
