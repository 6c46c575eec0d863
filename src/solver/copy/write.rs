//! Writing single things: files, links, nodes, and their attributes.
//!
//! The order matters: a change of owner clears set-id bits and capabilities, so it comes first, then
//! the mode, then extended attributes, then times.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::{CopyError, Place};
use crate::cache::content::xattrs::{self, Xattrs};
use crate::root;

/// What a thing gets besides its bytes.
pub(super) struct Attributes {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mode: u32,
    /// None for now.
    pub(super) modified: Option<(i64, u32)>,
    pub(super) xattrs: Xattrs,
}

fn failed(path: &str, source: impl Into<io::Error>) -> CopyError {
    CopyError::Write { path: path.to_owned(), source: source.into() }
}

fn owned(path: &str, uid: u32, gid: u32, result: rustix::io::Result<()>) -> Result<(), CopyError> {
    match result {
        Ok(()) => Ok(()),
        Err(Errno::INVAL | Errno::OVERFLOW) => {
            Err(CopyError::UnmappedOwner { path: path.to_owned(), uid, gid })
        }
        Err(error) => Err(failed(path, error)),
    }
}

/// Gives an open file or directory to an owner.
pub(super) fn give(fd: impl AsFd, path: &str, uid: u32, gid: u32) -> Result<(), CopyError> {
    owned(path, uid, gid, rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))))
}

/// A new file under the name; whatever had it must be gone.
pub(super) fn create(directory: BorrowedFd<'_>, name: &OsStr, path: &str) -> Result<File, CopyError> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW;
    let file = root::open_no_links(directory, name, flags, Mode::RUSR | Mode::WUSR);
    Ok(file.map_err(|source| failed(path, source))?.into())
}

/// Removes what is no directory and has the name.
pub(super) fn clear(directory: BorrowedFd<'_>, name: &OsStr, path: &str) -> Result<(), CopyError> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => Err(CopyError::OntoDirectory { path: path.to_owned() }),
        Err(error) => Err(failed(path, error)),
    }
}

/// Gives an open file or directory its attributes.
pub(super) fn finish(file: &File, path: &str, attributes: &Attributes) -> Result<(), CopyError> {
    give(file, path, attributes.uid, attributes.gid)?;
    rustix::fs::fchmod(file, Mode::from_raw_mode(attributes.mode)).map_err(|error| failed(path, error))?;
    for (name, value) in &attributes.xattrs {
        xattrs::set(file, name, value).map_err(|error| failed(path, error))?;
    }
    match attributes.modified {
        Some(modified) => set_times(file, path, modified),
        None => Ok(()),
    }
}

/// Sets when an open file or directory was modified.
pub(super) fn set_times(file: &File, path: &str, modified: (i64, u32)) -> Result<(), CopyError> {
    rustix::fs::futimens(file, &times(modified)).map_err(|error| failed(path, error))
}

fn times((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.min(999_999_999).into() };
    Timestamps { last_access: time, last_modification: time }
}

/// Makes a symbolic link with its owner and time.
pub(super) fn link(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    path: &str,
    target: &OsString,
    attributes: &Attributes,
) -> Result<(), CopyError> {
    rustix::fs::symlinkat(target, directory, name).map_err(|error| failed(path, error))?;
    finish_unopened(directory, name, path, attributes, false)
}

/// Makes a FIFO or a device. One that is not permitted is [`CopyError::Device`].
pub(super) fn node(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    path: &str,
    kind: FileType,
    device: (u32, u32),
    attributes: &Attributes,
) -> Result<(), CopyError> {
    let device = rustix::fs::makedev(device.0, device.1);
    // In a layer it would say that something is gone.
    if kind == FileType::CharacterDevice && device == 0 {
        return Err(CopyError::Device { path: path.to_owned() });
    }
    match rustix::fs::mknodat(directory, name, kind, Mode::RUSR | Mode::WUSR, device) {
        Ok(()) => {}
        Err(Errno::PERM) => return Err(CopyError::Device { path: path.to_owned() }),
        Err(error) => return Err(failed(path, error)),
    }
    finish_unopened(directory, name, path, attributes, true)
}

/// Attributes of what must not be opened. It was just made here, so its name still means it.
fn finish_unopened(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    path: &str,
    attributes: &Attributes,
    has_mode: bool,
) -> Result<(), CopyError> {
    let (uid, gid) = (attributes.uid, attributes.gid);
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    let given =
        rustix::fs::chownat(directory, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), flags);
    owned(path, uid, gid, given)?;
    if has_mode {
        let mode = Mode::from_raw_mode(attributes.mode);
        rustix::fs::chmodat(directory, name, mode, AtFlags::empty()).map_err(|error| failed(path, error))?;
    }
    if let Some(modified) = attributes.modified {
        rustix::fs::utimensat(directory, name, &times(modified), flags)
            .map_err(|error| failed(path, error))?;
    }
    Ok(())
}

/// Writes a file with these bytes.
pub(super) fn inline(place: &Place, data: &[u8], attributes: &Attributes) -> Result<(), CopyError> {
    clear(place.fd(), &place.name, &place.path)?;
    let file = create(place.fd(), &place.name, &place.path)?;
    file.write_all_at(data, 0).map_err(|source| failed(&place.path, source))?;
    finish(&file, &place.path, attributes)
}
