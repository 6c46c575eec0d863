//! Where a copy lands: the destination's links, its missing parents, and the name a file gets.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{CopyError, NewDirectory, Place, write};
use crate::root;

/// How many links the last name may lead through, as in the kernel.
const LINKS: usize = 40;

/// The directory at `path`, made with its parents where it is missing, and whether it was made.
pub(super) fn directory(
    target: BorrowedFd<'_>,
    path: &str,
    new: NewDirectory,
) -> Result<(OwnedFd, bool), CopyError> {
    make(target, OsStr::new(path), path, new)
}

fn make(
    target: BorrowedFd<'_>,
    path: &OsStr,
    shown: &str,
    new: NewDirectory,
) -> Result<(OwnedFd, bool), CopyError> {
    let (fd, made) = root::create_dirs(target, path, Mode::from_raw_mode(new.mode)).map_err(|source| {
        if source.kind() == io::ErrorKind::NotADirectory {
            CopyError::NotADirectory { path: shown.to_owned() }
        } else {
            CopyError::Write { path: shown.to_owned(), source }
        }
    })?;
    if let Some((uid, gid)) = new.owner {
        for made in &made {
            write::give(&made.fd, &made.path.to_string_lossy(), uid, gid)?;
        }
    }
    Ok((fd, !made.is_empty()))
}

/// Whether there is anything at `path`.
pub(super) fn is_there(target: BorrowedFd<'_>, path: &str) -> bool {
    root::open(target, path.trim_end_matches('/'), OFlags::PATH, Mode::empty()).is_ok()
}

/// Where a file of this name goes: inside `path` if that ends in a slash or is a directory, and
/// otherwise to `path` itself or to where its links lead.
pub(super) fn of_file(
    target: BorrowedFd<'_>,
    path: &str,
    name: &OsStr,
    new: NewDirectory,
) -> Result<Place, CopyError> {
    let inside = |directory: OwnedFd| Place {
        directory,
        name: name.to_owned(),
        path: format!("{}/{}", path.trim_end_matches('/'), name.to_string_lossy()),
    };
    if path.ends_with('/') {
        return Ok(inside(directory(target, path, new)?.0));
    }
    if let Ok(there) = root::open_dir(target, path) {
        return Ok(inside(there));
    }
    let failed = |source: io::Error| CopyError::Write { path: path.to_owned(), source };
    let mut at: OsString = path.into();
    for _ in 0..LINKS {
        let bytes = at.as_bytes();
        let cut = bytes.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
        let (parent, last) = (OsStr::from_bytes(&bytes[..cut]), OsStr::from_bytes(&bytes[cut..]));
        if matches!(last.as_bytes(), b"" | b"." | b"..") {
            // A link to a directory that is not there, by a name that says it is one.
            return Ok(inside(make(target, &at, path, new)?.0));
        }
        let directory = make(target, parent, path, new)?.0;
        let is_link = match rustix::fs::statat(&directory, last, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => FileType::from_raw_mode(stat.st_mode) == FileType::Symlink,
            Err(Errno::NOENT) => false,
            Err(error) => return Err(failed(error.into())),
        };
        if !is_link {
            return Ok(Place { directory, name: last.to_owned(), path: path.to_owned() });
        }
        let link = rustix::fs::readlinkat(&directory, last, Vec::new())
            .map_err(|error| failed(error.into()))?
            .into_bytes();
        // The directory's own path may lead through links: it is kept as it is, and the link's text
        // appended, so that `..` in it is relative to where that path leads.
        at = if link.starts_with(b"/") {
            OsString::from_vec(link)
        } else {
            OsString::from_vec([parent.as_bytes(), &link].concat())
        };
    }
    Err(failed(Errno::LOOP.into()))
}
