//! Walking a tree: a level of directories at a time, those of one level side by side.
//!
//! By levels and not by recursion, so that neither a deep tree nor a wide one needs stack or open
//! descriptors in proportion; a directory is opened by its path below the root, once, and its
//! entries are stated relative to it. Each directory is sorted by itself, and the tree's order is
//! made of those: to sort all entries at once would move each of them many times.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rayon::prelude::*;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Statx, StatxFlags};
use rustix::io::Errno;

use super::{ContentError, Entry, Kind, Owners, Tree, join, shown};
use crate::pattern::{Patterns, Trail};
use crate::root;

/// A directory still to be read.
struct Directory {
    path: OsString,
    /// What `.dockerignore` said about it.
    ignored: Trail,
    /// What `--exclude` said about it.
    excluded: Trail,
}

/// An entry, and whether it stands only if something below it does.
struct Found {
    entry: Entry,
    tentative: bool,
}

/// All that is at `path` of the tree and below, itself first, but what `excludes` matches. These see
/// an entry's path with `prefix` before it. Empty if the tree's own patterns leave all of it out.
pub(super) fn walk(
    tree: &Tree,
    path: &OsStr,
    excludes: &Patterns,
    prefix: &OsStr,
) -> Result<Vec<Entry>, ContentError> {
    let (hidden, ignored) = verdict(&tree.excludes, path);
    let top = stat(tree, path)?;
    let is_dir = top.kind == Kind::Directory;
    if hidden && !(is_dir && tree.excludes.may_match_below(path.as_bytes())) {
        return Ok(Vec::new());
    }
    let (excluded_itself, excluded) = verdict(excludes, prefix);
    let top = Found { entry: top, tentative: hidden || excluded_itself };
    let mut level = Vec::new();
    if is_dir {
        level.push(Directory { path: OsString::new(), ignored, excluded });
    }
    // What each directory holds, level by level; the directories of one stand in the next in their order.
    let mut levels = Vec::new();
    while !level.is_empty() {
        let read: Vec<_> = level
            .par_iter()
            .map(|directory| read_directory(tree, path, directory, excludes, prefix))
            .collect::<Result<_, _>>()?;
        level.clear();
        let mut held = Vec::with_capacity(read.len());
        for (entries, directories) in read {
            held.push(entries.into_iter());
            level.extend(directories);
        }
        levels.push(held.into_iter());
    }
    let found = in_order(top, levels);
    match found.iter().any(|found| found.tentative) {
        true => Ok(settle(found)),
        false => Ok(found.into_iter().map(|found| found.entry).collect()),
    }
}

/// Puts what each directory holds right behind the directory.
fn in_order(top: Found, mut levels: Vec<std::vec::IntoIter<std::vec::IntoIter<Found>>>) -> Vec<Found> {
    let count = levels.iter().map(|level| level.as_slice().iter().map(ExactSizeIterator::len).sum::<usize>());
    let mut found = Vec::with_capacity(1 + count.sum::<usize>());
    found.push(top);
    // What is left of the directories that the way down leads through.
    let mut way: Vec<std::vec::IntoIter<Found>> = Vec::new();
    way.extend(levels.first_mut().and_then(Iterator::next));
    while let Some(here) = way.last_mut() {
        let Some(next) = here.next() else {
            way.pop();
            continue;
        };
        let is_dir = next.entry.kind == Kind::Directory;
        found.push(next);
        if is_dir {
            let depth = way.len();
            way.extend(levels.get_mut(depth).and_then(Iterator::next));
        }
    }
    found
}

/// Whether the tree's own patterns leave `path` out, and the trail for what is below.
pub(super) fn verdict(patterns: &Patterns, path: &OsStr) -> (bool, Trail) {
    let mut trail = Trail::default();
    let mut hidden = false;
    if path.is_empty() || patterns.is_empty() {
        return (hidden, trail);
    }
    let bytes = path.as_bytes();
    for (at, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b'/').chain([(bytes.len(), &0)]) {
        (hidden, trail) = patterns.decide(&trail, &bytes[..at]);
    }
    (hidden, trail)
}

/// Drops the tentative directories that nothing is left in.
fn settle(found: Vec<Found>) -> Vec<Entry> {
    let mut kept: Vec<Entry> = Vec::with_capacity(found.len());
    for Found { entry, tentative } in found.into_iter().rev() {
        let holds = |below: &Entry| {
            let (path, below) = (entry.path.as_bytes(), below.path.as_bytes());
            path.is_empty() || (below.starts_with(path) && below.get(path.len()) == Some(&b'/'))
        };
        if !tentative || kept.last().is_some_and(holds) {
            kept.push(entry);
        }
    }
    kept.reverse();
    kept
}

fn read_directory(
    tree: &Tree,
    base: &OsStr,
    directory: &Directory,
    excludes: &Patterns,
    prefix: &OsStr,
) -> Result<(Vec<Found>, Vec<Directory>), ContentError> {
    let full = join(base, &directory.path);
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            ContentError::Changed { path: shown(&full) }
        }
        _ => ContentError::read(&full, source),
    };
    let fd = root::open_no_links(&tree.root, &full, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
        .map_err(failed)?;
    let mut entries = Vec::new();
    let mut directories = Vec::new();
    let mut names = names(&fd).map_err(failed)?;
    names.sort_unstable();
    for name in names {
        let path = join(&directory.path, &name);
        let in_tree = join(base, &path);
        let (ignored, ignored_below) = tree.excludes.decide(&directory.ignored, in_tree.as_bytes());
        let as_chosen = join(prefix, &path);
        let (excluded, excluded_below) = excludes.decide(&directory.excluded, as_chosen.as_bytes());
        if ignored && !tree.excludes.may_match_below(in_tree.as_bytes())
            || excluded && !excludes.may_match_below(as_chosen.as_bytes())
        {
            continue;
        }
        let tentative = ignored || excluded;
        let statx = match statx(&fd, &name) {
            // Removed since its name was read: as well never there.
            Err(Errno::NOENT) => continue,
            other => other.map_err(|error| ContentError::read(&in_tree, error))?,
        };
        let Some(kind) =
            kind(&fd, &name, &statx, tree.owners).map_err(|error| ContentError::read(&in_tree, error))?
        else {
            continue;
        };
        let is_dir = kind == Kind::Directory;
        if tentative && !is_dir {
            continue;
        }
        if is_dir {
            directories.push(Directory {
                path: path.clone(),
                ignored: ignored_below,
                excluded: excluded_below,
            });
        }
        entries.push(Found { entry: entry(path, kind, &statx, tree.owners), tentative });
    }
    Ok((entries, directories))
}

/// The names in an open directory, in no order.
pub(super) fn names(fd: &std::os::fd::OwnedFd) -> io::Result<Vec<OsString>> {
    let mut buffer = [MaybeUninit::<u8>::uninit(); 16 << 10];
    let mut raw = RawDir::new(fd, &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = raw.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(names)
}

fn statx(fd: &std::os::fd::OwnedFd, name: &OsStr) -> rustix::io::Result<Statx> {
    rustix::fs::statx(fd, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)
}

/// What the thing is; nothing for what cannot be copied.
fn kind(fd: &std::os::fd::OwnedFd, name: &OsStr, statx: &Statx, owners: Owners) -> io::Result<Option<Kind>> {
    Ok(Some(match FileType::from_raw_mode(statx.stx_mode.into()) {
        FileType::Directory => Kind::Directory,
        FileType::RegularFile => Kind::File,
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(fd, name, Vec::new())?;
            Kind::Link(OsString::from_vec(target.into_bytes()))
        }
        FileType::Fifo => Kind::Fifo,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::Socket if owners == Owners::Root => Kind::Socket,
        FileType::Socket | FileType::Unknown => return Ok(None),
    }))
}

fn entry(path: OsString, kind: Kind, statx: &Statx, owners: Owners) -> Entry {
    let (uid, gid) = match owners {
        Owners::Kept => (statx.stx_uid, statx.stx_gid),
        Owners::Root => (0, 0),
    };
    let device = match kind {
        Kind::CharDevice | Kind::BlockDevice => (statx.stx_rdev_major, statx.stx_rdev_minor),
        _ => (0, 0),
    };
    Entry {
        path,
        mode: u32::from(statx.stx_mode) & 0o7777,
        uid,
        gid,
        size: if kind == Kind::File { statx.stx_size } else { 0 },
        modified: (statx.stx_mtime.tv_sec, statx.stx_mtime.tv_nsec),
        changed: (statx.stx_ctime.tv_sec, statx.stx_ctime.tv_nsec),
        inode: (rustix::fs::makedev(statx.stx_dev_major, statx.stx_dev_minor), statx.stx_ino),
        links: statx.stx_nlink,
        device,
        kind,
        fingerprint: None,
    }
}

/// The one entry at `path` of the tree, which is its own root. No link is followed.
pub(super) fn stat(tree: &Tree, path: &OsStr) -> Result<Entry, ContentError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            ContentError::NotFound { path: shown(path), near: None }
        }
        _ => ContentError::read(path, source),
    };
    let fd = root::open_no_links(&tree.root, path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())
        .map_err(failed)?;
    let empty = OsStr::new("");
    let statx = rustix::fs::statx(
        &fd,
        empty,
        AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW,
        StatxFlags::BASIC_STATS,
    )
    .map_err(|error| failed(error.into()))?;
    match kind(&fd, empty, &statx, tree.owners).map_err(failed)? {
        Some(kind) => Ok(entry(OsString::new(), kind, &statx, tree.owners)),
        None => Err(ContentError::read(path, io::Error::other("it is a socket"))),
    }
}

/// Opens a file or directory of the tree to read it; no link is followed, and a FIFO that took its
/// place is not waited for.
pub(super) fn open(tree: &Tree, path: &OsStr, kind: &Kind) -> io::Result<File> {
    let mut flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    if *kind == Kind::Directory {
        flags |= OFlags::DIRECTORY;
    }
    Ok(root::open_no_links(&tree.root, path, flags, Mode::empty())?.into())
}

/// What an open file is now.
pub(super) struct Now(Statx);

pub(super) fn stat_of(file: &File) -> io::Result<Now> {
    let flags = AtFlags::EMPTY_PATH;
    Ok(Now(rustix::fs::statx(file, "", flags, StatxFlags::BASIC_STATS)?))
}

impl Now {
    /// Whether this is the entry, unchanged. A file of a layer may get a second name meanwhile, which changes
    /// nothing but the inode's time.
    pub(super) fn same_file(&self, entry: &Entry, owners: Owners) -> bool {
        let now = self.entry(entry, Owners::Kept);
        now.inode == entry.inode
            && now.size == entry.size
            && now.modified == entry.modified
            && (owners == Owners::Kept || now.changed == entry.changed)
            && now.mode == entry.mode
            && self.is(entry)
    }

    /// Takes what changed over into the entry, if it is still a thing of that kind.
    pub(super) fn refresh(&self, entry: &mut Entry, owners: Owners) -> bool {
        if self.is(entry) {
            *entry = self.entry(entry, owners);
        }
        self.is(entry)
    }

    fn is(&self, entry: &Entry) -> bool {
        match FileType::from_raw_mode(self.0.stx_mode.into()) {
            FileType::RegularFile => entry.kind == Kind::File,
            FileType::Directory => entry.kind == Kind::Directory,
            _ => false,
        }
    }

    fn entry(&self, like: &Entry, owners: Owners) -> Entry {
        entry(like.path.clone(), like.kind.clone(), &self.0, owners)
    }
}
