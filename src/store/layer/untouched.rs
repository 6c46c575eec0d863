//! Directories that a step wrote nothing to, taken out of its layer.
//!
//! overlayfs copies a directory up as soon as anything below it is opened for writing, made or
//! renamed; when that thing is gone again (the mount point of `/etc/hosts`, a lock file), an empty
//! copy of the directory stays. It says nothing that the tree below does not say, but the layer's
//! identity would depend on it. BuildKit leaves such directories out of its diffs as well.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use super::attributes::{Marks, Target, is_carried};
use super::lower::Lower;
use super::path::PathError;
use super::walk::{Visit, walk};
use crate::root;

/// Removes the directories of `upper` that are empty and equal to those of `lower`: mode, owner,
/// time and extended attributes. A directory that holds nothing else goes with them.
pub(super) fn remove(upper: BorrowedFd<'_>, lower: Lower<'_>, marks: Marks) -> Result<(), PathError> {
    if let Lower::Nothing = lower {
        return Ok(());
    }
    let mut directories: Vec<(Vec<u8>, Stat)> = Vec::new();
    walk(upper, |entry| -> Result<Visit, PathError> {
        if entry.handle.is_some() && !entry.path.is_empty() {
            directories.push((entry.path.to_vec(), *entry.stat));
        }
        Ok(Visit::Kept)
    })?;
    // The deepest first: what held only untouched directories is then empty itself. All times were
    // read before anything was removed.
    for (path, stat) in directories.iter().rev() {
        let failed = |error: std::io::Error| PathError::new("look at", path, error);
        let name = Path::new(std::ffi::OsStr::from_bytes(path));
        let (Some(ours), Some(theirs)) =
            (open(upper, name).map_err(failed)?, lower.directory(path).map_err(failed)?)
        else {
            continue;
        };
        if !equal(&ours, stat, &theirs, marks).map_err(failed)? {
            continue;
        }
        let parent = name.parent().unwrap_or(Path::new("."));
        let (Some(parent), Some(last)) = (open(upper, parent).map_err(failed)?, name.file_name()) else {
            continue;
        };
        let before = rustix::fs::fstat(&parent).map_err(|error| failed(error.into()))?;
        let removed = match rustix::fs::unlinkat(&parent, last, AtFlags::REMOVEDIR) {
            Ok(()) => rustix::fs::futimens(&parent, &times(&before)),
            Err(Errno::NOTEMPTY) => Ok(()),
            Err(error) => Err(error),
        };
        removed.map_err(|error| PathError::new("remove", path, error))?;
    }
    Ok(())
}

/// None for what is no directory there, and for a path that is too long for one call: then the
/// directory is kept, which harms nothing.
fn open(root: BorrowedFd<'_>, path: &Path) -> std::io::Result<Option<OwnedFd>> {
    match root::open_no_links(root, path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::ENAMETOOLONG)
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn equal(ours: &OwnedFd, stat: &Stat, theirs: &OwnedFd, marks: Marks) -> std::io::Result<bool> {
    let below = rustix::fs::fstat(theirs)?;
    let facts = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_mtime, stat.st_mtime_nsec);
    if facts(stat) != facts(&below) {
        return Ok(false);
    }
    let (ours, theirs) = (Target::Handle(ours.as_fd()), Target::Handle(theirs.as_fd()));
    let opaque = ours.get(marks.opaque().as_bytes())?.as_deref() == Some(&b"y"[..]);
    Ok(!opaque && ours.read(is_carried)? == theirs.read(is_carried)?)
}

fn times(stat: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: stat.st_atime, tv_nsec: stat.st_atime_nsec as _ },
        last_modification: Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ },
    }
}
