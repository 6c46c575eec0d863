//! Many layers as one directory, for chains longer than overlayfs takes.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, Stat};
use rustix::io::Errno;

use super::apply::finish;
use super::attributes::{Marks, Target, copy_directory, is_whiteout};
use super::fill::{Facts, Filling};
use super::overlay::LayerRef;
use super::path::{PathError, split};
use super::trees::copy_file;
use super::walk::{Visit, walk};
use crate::root;

/// Merges `layers`, the lowest first, into the empty directory `into` by hard links: it takes no room for
/// files, and must be on the layers' file system and never be written to. Nothing lies below the result,
/// so it has no whiteouts and no opaque marks. Gives the directories that no layer states, as
/// [`super::Applied::implied`] does.
///
/// # Errors
/// [`PathError`] for whatever could not be linked or made.
pub fn flatten(
    layers: &[LayerRef<'_>],
    into: BorrowedFd<'_>,
    marks: Marks,
) -> Result<Vec<String>, PathError> {
    merge(layers, into, marks, Way::Link)
}

/// How files come into a merged tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// As links: the tree must not be written to.
    Link,
    Copy,
}

impl Way {
    /// Puts what `name` is in `from`, which is no directory, into `to`.
    pub(super) fn place(
        self,
        from: BorrowedFd<'_>,
        name: &OsStr,
        stat: &Stat,
        to: BorrowedFd<'_>,
    ) -> Result<(), Errno> {
        match self {
            Self::Link => rustix::fs::linkat(from, name, to, name, AtFlags::empty()),
            Self::Copy => copy_file(from, name, stat, to),
        }
    }
}

/// As [`flatten`], in either way.
pub(super) fn merge(
    layers: &[LayerRef<'_>],
    into: BorrowedFd<'_>,
    marks: Marks,
    way: Way,
) -> Result<Vec<String>, PathError> {
    let mut filling = Filling::new(into, marks)?;
    for layer in layers {
        // What has several names in a layer has them in the tree.
        let mut links: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
        let fs = root::open_ambient_dir(layer.fs)
            .map_err(|error| PathError::new("open", layer.fs.as_os_str().as_bytes(), error))?;
        walk(fs.as_fd(), |entry| -> Result<Visit, PathError> {
            let failed = |error: std::io::Error| PathError::new("merge", entry.path, error);
            let name = entry.name.as_bytes();
            let parent = filling.directory(split(entry.path).0, true)?;
            if let Some(handle) = entry.handle {
                let source = Target::Handle(handle);
                let opaque = source.get(marks.opaque().as_bytes()).map_err(failed)?.as_deref() == Some(b"y");
                let stated = source.get(marks.implied().as_bytes()).map_err(failed)?.is_none();
                let target = if entry.path.is_empty() {
                    if opaque {
                        empty(&mut filling, into).map_err(failed)?;
                    }
                    root::open_dir(into, ".").map_err(failed)?
                } else {
                    if opaque {
                        filling.clear(parent.as_fd(), name).map_err(failed)?;
                    }
                    filling.make(parent.as_fd(), name, entry.path, false)?
                };
                let stat = rustix::fs::fstat(&target).map_err(|error| failed(error.into()))?;
                let known = filling.directories.get(&stat.st_ino);
                let fresh = known.is_none_or(|facts| !facts.stated && facts.mtime == (0, 0));
                if stated || fresh {
                    copy_directory(handle, target.as_fd(), false).map_err(failed)?;
                    let mtime = (entry.stat.st_mtime, entry.stat.st_mtime_nsec as u32);
                    filling.directories.insert(stat.st_ino, Facts { mtime, stated });
                }
            } else if is_whiteout(entry.stat) {
                filling.clear(parent.as_fd(), name).map_err(failed)?;
            } else {
                let identity = (entry.stat.st_dev, entry.stat.st_ino);
                let first = match links.get(&identity).filter(|_| way == Way::Copy) {
                    Some(first) => Some((filling.directory(split(first).0, false)?, split(first).1)),
                    None => None,
                };
                filling
                    .replace(parent.as_fd(), name, || match &first {
                        Some((above, first)) => {
                            rustix::fs::linkat(above, *first, &parent, name, AtFlags::empty())
                        }
                        None => way.place(entry.parent, entry.name, entry.stat, parent.as_fd()),
                    })
                    .map_err(failed)?;
                if entry.stat.st_nlink > 1 {
                    links.entry(identity).or_insert_with(|| entry.path.to_vec());
                }
            }
            Ok(Visit::Kept)
        })?;
    }
    finish(into, &filling.directories, marks)
}

fn empty(filling: &mut Filling, into: BorrowedFd<'_>) -> std::io::Result<()> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(into)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    names.iter().try_for_each(|name| filling.clear(into, name))
}
