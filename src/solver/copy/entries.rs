//! Copying what a listing holds: directories first, then files side by side, then the second names
//! of files, and the attributes of directories last, innermost first, since filling a directory
//! changes its time.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;

use rayon::prelude::*;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::write::{self, Attributes};
use super::{CopyError, Earlier, Spec, has_bytes};
use crate::cache::content::xattrs::{self, Xattrs};
use crate::cache::content::{Entry, Kind, Root, Tree, blocks, join, shown};
use crate::root;

/// Copies `entries` of `root` below `base`; the path of each has `prefix` before it.
pub(super) fn copy(
    base: &OwnedFd,
    prefix: &OsStr,
    tree: &Tree,
    root: &Root,
    entries: &[Entry],
    spec: &Spec,
) -> Result<(), CopyError> {
    let copier = Copier { base, prefix, tree, root, spec };
    let mut first_names: HashMap<(u64, u64), &Entry> = HashMap::new();
    let mut second_names = Vec::new();
    let mut directories = Vec::new();
    // Entries of one directory, which is opened once for all of them.
    let mut groups: Vec<(&OsStr, Vec<&Entry>)> = Vec::new();
    let mut group_of: HashMap<&OsStr, usize> = HashMap::new();
    for entry in entries {
        if entry.kind == Kind::Directory {
            copier.make_directory(entry)?;
            directories.push(entry);
            continue;
        }
        if has_bytes(&entry.kind) && entry.links > 1 {
            if let Some(first) = first_names.get(&entry.inode) {
                second_names.push((*first, entry));
                continue;
            }
            first_names.insert(entry.inode, entry);
        }
        let parent = parent(&entry.path);
        let group = *group_of.entry(parent).or_insert_with(|| {
            groups.push((parent, Vec::new()));
            groups.len() - 1
        });
        groups[group].1.push(entry);
    }
    // A directory of many files is worked on from several sides.
    let parts: Vec<_> = groups
        .iter()
        .flat_map(|(parent, entries)| entries.chunks(256).map(move |part| (*parent, part)))
        .collect();
    parts.par_iter().try_for_each(|(parent, part)| copier.copy_part(parent, part))?;
    for (first, second) in second_names {
        copier.link(first, second)?;
    }
    directories.iter().rev().try_for_each(|entry| copier.finish_directory(entry))
}

/// With `--parents`: makes the directories above the source, and says which were missing.
pub(super) fn make_parents(
    base: &OwnedFd,
    tree: &Tree,
    root: &Root,
    spec: &Spec,
) -> Result<Vec<bool>, CopyError> {
    let copier = Copier { base, prefix: OsStr::new(""), tree, root, spec };
    root.parents.iter().map(|entry| copier.make_directory(entry)).collect()
}

/// Gives those that were made the attributes of their originals, and those that were there the mode, as
/// BuildKit does.
pub(super) fn finish_parents(
    base: &OwnedFd,
    tree: &Tree,
    root: &Root,
    made: &[bool],
    spec: &Spec,
) -> Result<(), CopyError> {
    let copier = Copier { base, prefix: OsStr::new(""), tree, root, spec };
    for (entry, made) in root.parents.iter().zip(made).rev() {
        let path = copier.target(entry);
        let file = File::from(copier.open_directory(&path)?);
        if *made {
            write::finish(&file, &shown(&path), &copier.attributes(entry, Xattrs::new()))?;
        } else {
            rustix::fs::fchmod(&file, Mode::from_raw_mode(entry.mode))
                .map_err(|error| CopyError::Write { path: shown(&path), source: error.into() })?;
        }
    }
    Ok(())
}

struct Copier<'a> {
    base: &'a OwnedFd,
    prefix: &'a OsStr,
    tree: &'a Tree,
    root: &'a Root,
    spec: &'a Spec,
}

impl Copier<'_> {
    fn source(&self, entry: &Entry) -> OsString {
        join(&self.root.path, &entry.path)
    }

    fn target(&self, entry: &Entry) -> OsString {
        join(self.prefix, &entry.path)
    }

    /// A path of the target for messages.
    fn said(&self, path: &OsStr) -> String {
        format!("{}/{}", self.spec.destination.trim_end_matches('/'), path.to_string_lossy())
    }

    fn attributes(&self, entry: &Entry, xattrs: Xattrs) -> Attributes {
        let (uid, gid) = self.spec.owner.unwrap_or((entry.uid, entry.gid));
        let is_dir = entry.kind == Kind::Directory;
        let mode = self.spec.mode.as_ref().map_or(entry.mode, |mode| mode.apply(entry.mode, is_dir));
        Attributes { uid, gid, mode, modified: Some(entry.modified), xattrs }
    }

    fn open_directory(&self, path: &OsStr) -> Result<OwnedFd, CopyError> {
        root::open_no_links(self.base, path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
            .map_err(|source| CopyError::Write { path: shown(path), source })
    }

    /// Whether it was missing.
    fn make_directory(&self, entry: &Entry) -> Result<bool, CopyError> {
        let path = self.target(entry);
        let parent_fd = self.open_directory(parent(&path))?;
        let name = name(&path);
        match rustix::fs::mkdirat(&parent_fd, name, Mode::RWXU) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => {
                let stat = rustix::fs::statat(&parent_fd, name, AtFlags::SYMLINK_NOFOLLOW);
                let is_dir = stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_dir());
                if is_dir {
                    Ok(false)
                } else {
                    Err(CopyError::OntoFile { name: shown(&self.source(entry)), path: self.said(&path) })
                }
            }
            Err(error) => Err(CopyError::Write { path: self.said(&path), source: error.into() }),
        }
    }

    fn finish_directory(&self, entry: &Entry) -> Result<(), CopyError> {
        let path = self.target(entry);
        let file = File::from(self.open_directory(&path)?);
        let carried = match entry.fingerprint {
            Some(known) if known.xattrs == [0; 32] => Xattrs::new(),
            _ => self.read_xattrs(entry, &self.open_source(entry)?)?,
        };
        write::finish(&file, &shown(&path), &self.attributes(entry, carried))
    }

    fn copy_part(&self, parent_path: &OsStr, entries: &[&Entry]) -> Result<(), CopyError> {
        // A single file has no parent of its own: it is at `prefix`, whose parent is meant.
        let directory = match entries.first() {
            Some(entry) if entry.path.is_empty() => self.open_directory(parent(self.prefix))?,
            _ => self.open_directory(&join(self.prefix, parent_path))?,
        };
        let earlier = self.spec.earlier.as_ref().and_then(|earlier| {
            let destination = OsString::from(root::clean(&self.spec.destination).trim_start_matches('/'));
            let directory = join(&join(&destination, self.prefix), parent_path);
            earlier.directory(&directory).map(|directory| (earlier, directory))
        });
        entries.iter().try_for_each(|entry| self.copy_entry(&directory, earlier.as_ref(), entry))
    }

    fn copy_entry(
        &self,
        directory: &OwnedFd,
        earlier: Option<&(&Earlier, OwnedFd)>,
        entry: &Entry,
    ) -> Result<(), CopyError> {
        let path = self.target(entry);
        let name = name(&path);
        let directory = directory.as_fd();
        let path = &self.said(&path);
        write::clear(directory, name, path)?;
        let node = |kind| {
            let attributes = self.attributes(entry, Xattrs::new());
            write::node(directory, name, path, kind, entry.device, &attributes)
        };
        match &entry.kind {
            Kind::File => {
                if let Some((earlier, from)) = earlier
                    && earlier.link(from, directory, name, entry, &self.attributes(entry, Xattrs::new()))
                {
                    return Ok(());
                }
                let source = self.open_source(entry)?;
                let file = write::create(directory, name, path)?;
                self.copy_bytes(entry, &source, &file, path)?;
                let carried = self.read_xattrs(entry, &source)?;
                write::finish(&file, path, &self.attributes(entry, carried))
            }
            Kind::Link(target) => {
                write::link(directory, name, path, target, &self.attributes(entry, Xattrs::new()))
            }
            Kind::Fifo => node(FileType::Fifo),
            Kind::Socket => {
                let file = write::create(directory, name, path)?;
                write::finish(&file, path, &self.attributes(entry, Xattrs::new()))
            }
            Kind::CharDevice => node(FileType::CharacterDevice),
            Kind::BlockDevice => node(FileType::BlockDevice),
            // Directories are made before.
            Kind::Directory => Ok(()),
        }
    }

    fn open_source(&self, entry: &Entry) -> Result<File, CopyError> {
        let path = self.source(entry);
        self.tree.open(&path, &entry.kind).map_err(|source| match source.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP) => CopyError::Changed { path: shown(&path) },
            _ => CopyError::Read { path: shown(&path), source },
        })
    }

    /// Copies the bytes and makes sure that they are those that were hashed.
    fn copy_bytes(&self, entry: &Entry, source: &File, file: &File, path: &str) -> Result<(), CopyError> {
        let from = shown(&self.source(entry));
        let size = source.metadata().map_err(|source| CopyError::Read { path: from.clone(), source })?;
        if !size.is_file() || size.len() != entry.size {
            return Err(CopyError::Changed { path: from });
        }
        let mut fingerprinter = blocks::Fingerprinter::default();
        let mut written = 0;
        let mut write_error = None;
        let copied = blocks::each(source, entry.size, |offset, bytes| {
            fingerprinter.block(offset, bytes);
            written = offset + bytes.len() as u64;
            file.write_all_at(bytes, offset).map_err(|error| {
                write_error = Some(error);
                io::Error::other("the target cannot be written")
            })
        });
        let failed = |source| CopyError::Write { path: path.to_owned(), source };
        if let Some(error) = write_error {
            return Err(failed(error));
        }
        match copied {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(CopyError::Changed { path: from });
            }
            Err(source) => return Err(CopyError::Read { path: from, source }),
            Ok(()) => {}
        }
        if written < entry.size {
            file.set_len(entry.size).map_err(failed)?;
        }
        match entry.fingerprint {
            Some(known) if known.content != fingerprinter.finish(entry.size) => {
                Err(CopyError::Changed { path: from })
            }
            _ => Ok(()),
        }
    }

    fn read_xattrs(&self, entry: &Entry, source: &File) -> Result<Xattrs, CopyError> {
        if entry.fingerprint.is_some_and(|known| known.xattrs == [0; 32]) {
            return Ok(Xattrs::new());
        }
        let from = || shown(&self.source(entry));
        let carried = xattrs::read(source).map_err(|source| CopyError::Read { path: from(), source })?;
        match entry.fingerprint {
            Some(known) if known.xattrs != xattrs::fingerprint(&carried) => {
                Err(CopyError::Changed { path: from() })
            }
            _ => Ok(carried),
        }
    }

    /// Gives a file that was copied a second name.
    fn link(&self, first: &Entry, second: &Entry) -> Result<(), CopyError> {
        let (first, second) = (self.target(first), self.target(second));
        let from = self.open_directory(parent(&first))?;
        let to = self.open_directory(parent(&second))?;
        write::clear(to.as_fd(), name(&second), &self.said(&second))?;
        rustix::fs::linkat(&from, name(&first), &to, name(&second), AtFlags::empty())
            .map_err(|error| CopyError::Write { path: self.said(&second), source: error.into() })
    }
}

pub(super) fn parent(path: &OsStr) -> &OsStr {
    let bytes = path.as_bytes();
    OsStr::from_bytes(&bytes[..bytes.iter().rposition(|byte| *byte == b'/').unwrap_or(0)])
}

pub(super) fn name(path: &OsStr) -> &OsStr {
    let bytes = path.as_bytes();
    OsStr::from_bytes(&bytes[bytes.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1)..])
}
