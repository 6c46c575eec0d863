//! The tree below a step, asked for what the step's own directory does not say.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::path::{PathError, split};
use super::stack::{Directory, Seen, Stack};
use crate::root;

/// A tree that a step wrote over.
#[derive(Debug, Clone, Copy)]
pub enum Lower<'a> {
    /// There is none.
    Nothing,
    /// As a mounted view.
    Mounted(BorrowedFd<'a>),
    /// As its layers.
    Stack(&'a Stack),
}

impl<'a> From<Option<BorrowedFd<'a>>> for Lower<'a> {
    fn from(mounted: Option<BorrowedFd<'a>>) -> Self {
        mounted.map_or(Self::Nothing, Self::Mounted)
    }
}

impl Lower<'_> {
    /// A handle on the directory at `path`, or on one with its attributes and its time, if there is one and no
    /// link is on the way.
    pub(super) fn directory(&self, path: &[u8]) -> io::Result<Option<OwnedFd>> {
        match self {
            Self::Nothing => Ok(None),
            Self::Mounted(root) => find(*root, path, OFlags::RDONLY | OFlags::DIRECTORY),
            Self::Stack(stack) => match stack.find(path)? {
                Some(directory) if directory.is_there() => stack.attributes(&directory).map(Some),
                _ => Ok(None),
            },
        }
    }
}

/// The same, asked only where the step left a mark, and so for many names of one directory in a row.
pub(super) struct Below<'a> {
    lower: Lower<'a>,
    /// An opaque directory whose mark stays: nothing below it counts.
    hidden: Option<Vec<u8>>,
    /// The directory that was asked for last.
    last: Option<(Vec<u8>, Parent)>,
}

enum Parent {
    Missing,
    Mounted(OwnedFd),
    Stacked(Directory),
}

impl<'a> Below<'a> {
    pub(super) fn new(lower: Lower<'a>) -> Self {
        Self { lower, hidden: None, last: None }
    }

    pub(super) fn lower(&self) -> Lower<'a> {
        self.lower
    }

    pub(super) fn hide(&mut self, path: &[u8]) {
        self.hidden = Some([path, b"/"].concat());
    }

    /// The type of what lies at `path`, if anything does.
    pub(super) fn kind(&mut self, path: &[u8]) -> Result<Option<u32>, PathError> {
        if self.hidden.as_ref().is_some_and(|hidden| path.starts_with(hidden)) {
            return Ok(None);
        }
        let failed = |error: io::Error| PathError::new("look below the step at", path, error);
        let (parent, name) = split(path);
        if self.last.as_ref().is_none_or(|last| last.0 != parent) {
            let found = self.parent(parent).map_err(failed)?;
            self.last = Some((parent.to_vec(), found));
        }
        let name = OsStr::from_bytes(name);
        match (&self.last, self.lower) {
            (Some((_, Parent::Mounted(parent))), _) => {
                match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => Ok(Some(stat.st_mode & libc::S_IFMT)),
                    Err(Errno::NOENT) => Ok(None),
                    Err(error) => Err(failed(error.into())),
                }
            }
            (Some((_, Parent::Stacked(parent))), Lower::Stack(stack)) => {
                Ok(stack.look(parent, name).map_err(failed)?.map(|seen| match seen {
                    Seen::Directory(_) => libc::S_IFDIR,
                    Seen::Other { stat, .. } => stat.st_mode & libc::S_IFMT,
                }))
            }
            _ => Ok(None),
        }
    }

    fn parent(&self, path: &[u8]) -> io::Result<Parent> {
        Ok(match self.lower {
            Lower::Nothing => Parent::Missing,
            Lower::Mounted(root) => {
                find(root, path, OFlags::PATH | OFlags::DIRECTORY)?.map_or(Parent::Missing, Parent::Mounted)
            }
            Lower::Stack(stack) => stack.find(path)?.map_or(Parent::Missing, Parent::Stacked),
        })
    }
}

/// The directory at `path`, which may be longer than the kernel takes at once, if there is one and no link
/// is on the way.
fn find(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> io::Result<Option<OwnedFd>> {
    // A mount's own handle cannot be asked for attributes.
    let mut here = root::open_no_links(root, ".", flags, Mode::empty())?;
    let mut rest = path;
    while !rest.is_empty() {
        let now = match rest.len() {
            0..4000 => rest,
            _ => split(&rest[..4000]).0,
        };
        match root::open_no_links(&here, OsStr::from_bytes(now), flags, Mode::empty()) {
            Ok(fd) => here = fd,
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
                _ => return Err(error),
            },
        }
        rest = rest[now.len()..].strip_prefix(b"/").unwrap_or(b"");
    }
    Ok(Some(here))
}
