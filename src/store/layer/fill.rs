//! A directory being filled by names that are not ours: resolved one component at a time, below it.
//!
//! A link on the way is read and its target walked from here, so that an absolute one begins at this
//! root, and what it dangles at is made inside (as containerd and a chrooted tar do). The kernel never
//! gets more than one component, so neither a path's length nor a link can lead it anywhere, and one
//! handle is enough for any depth. Nobody else changes the directory meanwhile: it is a temporary one
//! of the store's, and `..` from a directory below the root is again below the root.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::attributes::{Marks, Target, is_whiteout};
use super::path::{PathError, show};
use crate::root;

/// As many links as the kernel follows in one path.
const LINKS: usize = 40;

/// What is known of a directory that was made here, by its inode.
#[derive(Clone, Copy)]
pub(super) struct Facts {
    /// The time it shall have in the end.
    pub(super) mtime: (i64, u32),
    /// Whether it was stated, rather than made because something lies below it.
    pub(super) stated: bool,
}

/// The directory and what is known of those below it.
pub(super) struct Filling {
    root: Rc<OwnedFd>,
    root_identity: (u64, u64),
    marks: Marks,
    /// By inode number, which takes less room than paths do. A number that was freed and used again is
    /// entered again with its new directory.
    pub(super) directories: HashMap<u64, Facts>,
    /// The directory that was opened last, by the path it was asked for: archives are sorted.
    last: Option<(Vec<u8>, Rc<OwnedFd>)>,
}

/// What stands where something shall be made.
pub(super) enum Occupant {
    Nothing,
    Directory,
    Whiteout,
    Other,
}

impl Filling {
    pub(super) fn new(root: BorrowedFd<'_>, marks: Marks) -> Result<Self, PathError> {
        let failed = |error: io::Error| PathError::new("open", b"/", error);
        let root = root::open_dir(root, ".").map_err(failed)?;
        let stat = rustix::fs::fstat(&root).map_err(|error| failed(error.into()))?;
        let root_identity = (stat.st_dev, stat.st_ino);
        let directories = HashMap::from([(stat.st_ino, Facts { mtime: (0, 0), stated: false })]);
        Ok(Self { root: Rc::new(root), root_identity, marks, directories, last: None })
    }

    /// The directory at a cleaned path, made with its parents where it is missing if `make` says so.
    pub(super) fn directory(&mut self, path: &[u8], make: bool) -> Result<Rc<OwnedFd>, PathError> {
        let (mut here, rest) = match &self.last {
            Some((last, fd)) if last == path => return Ok(fd.clone()),
            Some((last, fd)) if !last.is_empty() && path.len() > last.len() && path.starts_with(last) => {
                match path[last.len()] {
                    b'/' => (fd.clone(), &path[last.len() + 1..]),
                    _ => (self.root.clone(), path),
                }
            }
            _ => (self.root.clone(), path),
        };
        let mut links = 0;
        // The last name comes first.
        let mut todo: Vec<Vec<u8>> = Vec::new();
        push_components(&mut todo, rest);
        while let Some(name) = todo.pop() {
            let failed = |error: Errno| PathError::new("enter the directory", path, error);
            if name == b".." {
                here = self.above(here).map_err(failed)?;
                continue;
            }
            match open(here.as_fd(), &name) {
                Ok(fd) => here = Rc::new(fd),
                Err(Errno::NOENT) if make => here = Rc::new(self.make(here.as_fd(), &name, path, false)?),
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    match rustix::fs::readlinkat(&here, &name[..], Vec::new()) {
                        Ok(target) => {
                            links += 1;
                            if links > LINKS {
                                return Err(failed(Errno::LOOP));
                            }
                            if target.as_bytes().first() == Some(&b'/') {
                                here = self.root.clone();
                            }
                            push_components(&mut todo, target.as_bytes());
                        }
                        // No link: a file, or a whiteout, of which the layer below has what was there.
                        Err(Errno::INVAL) => match occupant(here.as_fd(), &name) {
                            Ok(Occupant::Whiteout) if make => {
                                let fd = self.make(here.as_fd(), &name, path, false)?;
                                here = Rc::new(fd);
                            }
                            _ => return Err(failed(Errno::NOTDIR)),
                        },
                        Err(error) => return Err(failed(error)),
                    }
                }
                Err(error) => return Err(failed(error)),
            }
        }
        self.last = Some((path.to_vec(), here.clone()));
        Ok(here)
    }

    /// Makes the directory `name` in `parent` (which lies at `path`, for messages), or takes the one
    /// that is there. In place of a whiteout it becomes opaque: both were said of it.
    pub(super) fn make(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        stated: bool,
    ) -> Result<OwnedFd, PathError> {
        let failed = |error: io::Error| PathError::new("make the directory", path, error);
        let mut opaque = false;
        let mut new = true;
        let mode = Mode::from_raw_mode(0o755);
        if let Err(error) = rustix::fs::mkdirat(parent, name, mode) {
            if error != Errno::EXIST {
                return Err(failed(error.into()));
            }
            match occupant(parent, name).map_err(|error| failed(error.into()))? {
                Occupant::Directory => new = false,
                there => {
                    opaque = matches!(there, Occupant::Whiteout);
                    self.clear(parent, name).map_err(failed)?;
                    rustix::fs::mkdirat(parent, name, mode).map_err(|error| failed(error.into()))?;
                }
            }
        }
        let fd = open(parent, name).map_err(|error| failed(error.into()))?;
        let stat = rustix::fs::fstat(&fd).map_err(|error| failed(error.into()))?;
        if new {
            // The umask and a set-group-id parent have no say.
            rustix::fs::fchmod(&fd, mode).map_err(|error| failed(error.into()))?;
            self.directories.insert(stat.st_ino, Facts { mtime: (0, 0), stated });
        } else {
            self.directories.entry(stat.st_ino).or_insert(Facts { mtime: (0, 0), stated });
        }
        if opaque {
            self.mark_opaque(fd.as_fd()).map_err(failed)?;
        }
        Ok(fd)
    }

    pub(super) fn mark_opaque(&self, directory: BorrowedFd<'_>) -> io::Result<()> {
        Ok(Target::Handle(directory).set(self.marks.opaque().as_bytes(), b"y")?)
    }

    /// Removes what `name` is, with everything below.
    pub(super) fn clear(&mut self, parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
        // It may be a directory, or a link, on the way to the last one.
        self.last = None;
        root::remove_all(parent, OsStr::from_bytes(name))
    }

    /// Runs `make` for a name; if something is there, removes that and runs it once more.
    pub(super) fn replace<T>(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        mut make: impl FnMut() -> Result<T, Errno>,
    ) -> io::Result<T> {
        match make() {
            Err(Errno::EXIST) => {
                self.clear(parent, name)?;
                Ok(make()?)
            }
            other => Ok(other?),
        }
    }

    fn above(&self, fd: Rc<OwnedFd>) -> Result<Rc<OwnedFd>, Errno> {
        let stat = rustix::fs::fstat(&fd)?;
        if (stat.st_dev, stat.st_ino) == self.root_identity {
            return Ok(fd);
        }
        Ok(Rc::new(open(fd.as_fd(), b"..")?))
    }
}

/// What `name` is in `parent`; not followed.
pub(super) fn occupant(parent: BorrowedFd<'_>, name: &[u8]) -> Result<Occupant, Errno> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(Occupant::Nothing),
        Err(error) => Err(error),
        Ok(stat) if is_whiteout(&stat) => Ok(Occupant::Whiteout),
        Ok(stat) if stat.st_mode & libc::S_IFMT == libc::S_IFDIR => Ok(Occupant::Directory),
        Ok(_) => Ok(Occupant::Other),
    }
}

/// Opens a directory by one name, which must be no link.
pub(super) fn open(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

fn push_components(todo: &mut Vec<Vec<u8>>, path: &[u8]) {
    let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    todo.extend(parts.rev().map(<[u8]>::to_vec));
}

/// A message for what has no error number.
pub(super) fn refuse(doing: &'static str, path: &[u8], reason: &'static str) -> PathError {
    PathError { doing, path: show(path), source: io::Error::new(io::ErrorKind::InvalidData, reason) }
}
