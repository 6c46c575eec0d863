//! A layer's directory in its one order, without recursion and with few handles.
//!
//! Bytewise per directory, a directory before what it holds, whiteouts before their siblings (OCI image
//! specification, layer.md: "whiteout files SHOULD appear before"). However deep the tree is, at most
//! [`HELD`] handles are open: those further up are dropped and found again through `..`, and since
//! someone could have moved things meanwhile, it must be the very directory that was left.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use super::attributes::is_whiteout;
use super::path::PathError;

/// How many directories on the way down keep their handle.
const HELD: usize = 48;

/// One thing in the tree.
pub(super) struct Entry<'a> {
    /// Its path below the root; empty for the root.
    pub(super) path: &'a [u8],
    /// The directory it lies in (the root itself for the root).
    pub(super) parent: BorrowedFd<'a>,
    /// Its name there.
    pub(super) name: &'a OsStr,
    pub(super) stat: &'a Stat,
    /// Its own handle, if it is a directory.
    pub(super) handle: Option<BorrowedFd<'a>>,
}

/// What the visitor did with an entry.
#[derive(PartialEq, Eq)]
pub(super) enum Visit {
    /// Nothing to the tree.
    Kept,
    /// It was removed: the parent's times are put back when it is left.
    Removed,
    /// Nothing, and what it holds is of no interest.
    Passed,
}

struct Frame {
    /// Always there for the last frame.
    fd: Option<OwnedFd>,
    identity: (u64, u64),
    times: Timestamps,
    restore: bool,
    names: std::vec::IntoIter<(bool, OsString)>,
    path: usize,
}

/// Calls `visit` for the root and everything below it.
pub(super) fn walk<E: From<PathError>>(
    root: BorrowedFd<'_>,
    visit: impl FnMut(&Entry<'_>) -> Result<Visit, E>,
) -> Result<(), E> {
    walk_through(root, false, visit)
}

/// As [`walk`], of a tree that others change meanwhile: what is gone when its turn comes is left out.
pub(super) fn walk_live<E: From<PathError>>(
    root: BorrowedFd<'_>,
    visit: impl FnMut(&Entry<'_>) -> Result<Visit, E>,
) -> Result<(), E> {
    walk_through(root, true, visit)
}

fn walk_through<E: From<PathError>>(
    root: BorrowedFd<'_>,
    live: bool,
    mut visit: impl FnMut(&Entry<'_>) -> Result<Visit, E>,
) -> Result<(), E> {
    let is_gone = |error: Errno| live && matches!(error, Errno::NOENT | Errno::NOTDIR | Errno::LOOP);
    let mut path: Vec<u8> = Vec::new();
    let fd = reopen(root, ".").map_err(|error| PathError::new("open", b"/", error))?;
    let stat = rustix::fs::fstat(&fd).map_err(|error| PathError::new("look at", b"/", error))?;
    let entry =
        Entry { path: &path, parent: root, name: OsStr::new("."), stat: &stat, handle: Some(fd.as_fd()) };
    visit(&entry)?;
    let mut stack = vec![Frame::new(fd, &stat, 0).map_err(|error| PathError::new("list", b"/", error))?];
    while let Some(frame) = stack.last_mut() {
        path.truncate(frame.path);
        let fd = frame.fd.as_ref().expect("the last frame keeps its handle");
        let Some((_, name)) = frame.names.next() else {
            if frame.restore {
                rustix::fs::futimens(fd, &frame.times)
                    .map_err(|error| PathError::new("put back the times of", &path, error))?;
            }
            let left = stack.pop().expect("the loop runs on a last frame");
            if let Some(parent) = stack.last_mut() {
                parent.find_again(&left).map_err(|error| PathError::new("go back up from", &path, error))?;
            }
            continue;
        };
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name.as_bytes());
        let stat = match rustix::fs::statat(fd, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(error) if is_gone(error) => continue,
            stat => stat.map_err(|error| PathError::new("look at", &path, error))?,
        };
        let directory = stat.st_mode & libc::S_IFMT == libc::S_IFDIR;
        let child = match directory.then(|| reopen(fd, &name)).transpose() {
            Err(error) if is_gone(error) => continue,
            child => child.map_err(|error| PathError::new("open", &path, error))?,
        };
        // Another directory by that name, if somebody was quick: the one that was opened counts.
        let stat = match &child {
            Some(child) if live => {
                rustix::fs::fstat(child).map_err(|error| PathError::new("look at", &path, error))?
            }
            _ => stat,
        };
        let handle = child.as_ref().map(AsFd::as_fd);
        let entry = Entry { path: &path, parent: fd.as_fd(), name: &name, stat: &stat, handle };
        let visited = visit(&entry)?;
        if visited == Visit::Removed {
            frame.restore = true;
        } else if let (Some(child), Visit::Kept) = (child, visited) {
            let next =
                Frame::new(child, &stat, path.len()).map_err(|error| PathError::new("list", &path, error))?;
            stack.push(next);
            if let Some(distant) = stack.len().checked_sub(HELD) {
                stack[distant].fd = None;
            }
        }
    }
    Ok(())
}

impl Frame {
    fn new(fd: OwnedFd, stat: &Stat, path: usize) -> io::Result<Self> {
        let names = names(fd.as_fd())?.into_iter();
        let times = Timestamps {
            last_access: Timespec { tv_sec: stat.st_atime, tv_nsec: stat.st_atime_nsec as _ },
            last_modification: Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ },
        };
        let identity = (stat.st_dev, stat.st_ino);
        Ok(Self { fd: Some(fd), identity, times, restore: false, names, path })
    }

    fn find_again(&mut self, child: &Self) -> io::Result<()> {
        if self.fd.is_some() {
            return Ok(());
        }
        let fd = reopen(child.fd.as_ref().expect("the last frame keeps its handle"), "..")?;
        let stat = rustix::fs::fstat(&fd)?;
        if (stat.st_dev, stat.st_ino) != self.identity {
            return Err(io::Error::other("the directory was moved meanwhile"));
        }
        self.fd = Some(fd);
        Ok(())
    }
}

fn reopen(fd: impl AsFd, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(fd, name, flags, Mode::empty())
}

/// The names in a directory, whiteouts first, each part sorted. The flag says that it is none.
fn names(fd: BorrowedFd<'_>) -> io::Result<Vec<(bool, OsString)>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(fd)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        // Only what could be a whiteout is looked at: a wide directory costs its names and no more.
        let whiteout = match entry.file_type() {
            FileType::CharacterDevice | FileType::Socket | FileType::Unknown => {
                match rustix::fs::statat(fd, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => is_whiteout(&stat),
                    // A merged view lists whiteouts in directories that only one layer has, and then
                    // does not find them.
                    Err(Errno::NOENT) => continue,
                    Err(error) => return Err(error.into()),
                }
            }
            _ => false,
        };
        names.push((!whiteout, OsString::from_vec(name.to_vec())));
    }
    names.sort_unstable();
    Ok(names)
}
