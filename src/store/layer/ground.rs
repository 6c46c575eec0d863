//! A layer's directory that is written into without an overlay: the ground that a copy stands on.
//!
//! What copies into a tree looks at little of it: the directories and links on its way, and the names that it
//! makes. Those are *lent* to the empty directory that becomes the layer, as copies with the same attributes, so
//! that whoever writes into it sees what an overlay would show. Afterwards [`Ground::give_back`] takes away
//! what was lent and not written to. What stays is what an overlay would have left: a directory that something
//! was made in, with the attributes and, if nothing was made in it itself, the time that it had below.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::attributes::{alike, copy_directory};
use super::path::{PathError, split};
use super::stack::{Directory, Seen, Stack};
use super::trees::{copy_file, times_of};
use crate::root;

/// As many links as the kernel follows in one path.
const LINKS: usize = 40;

/// A directory that becomes a layer over a stack.
#[derive(Debug)]
pub struct Ground {
    upper: OwnedFd,
    stack: Stack,
    /// What was lent, by its path: inode and time of what was made for it.
    lent: HashMap<Vec<u8>, Stat>,
}

/// What is lent for a name that something is about to be made under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// A directory is made or entered.
    Directory,
    /// Something else is put in the place of whatever is there: only a directory would be in the way.
    Other,
    /// A regular file is read.
    File,
}

impl Ground {
    /// The empty directory `upper` over `stack`. Its root gets the attributes of the tree's.
    ///
    /// # Errors
    /// [`PathError`].
    pub fn new(upper: OwnedFd, stack: Stack) -> Result<Self, PathError> {
        let root = stack.root();
        if root.is_there() {
            let failed = |error: io::Error| PathError::new("set the attributes of", b"/", error);
            let below = stack.attributes(&root).map_err(failed)?;
            copy_directory(below.as_fd(), upper.as_fd(), false).map_err(failed)?;
        }
        Ok(Self { upper, stack, lent: HashMap::new() })
    }

    /// The directory itself.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.upper.as_fd()
    }

    /// The tree below.
    pub fn stack(&self) -> &Stack {
        &self.stack
    }

    /// Lends what is on the way to `path` and at its end, links followed inside the tree, and gives the directory
    /// where it ends, or the one that would be made there.
    ///
    /// # Errors
    /// [`PathError`].
    pub fn lend_way(&mut self, path: &OsStr, want: Want) -> Result<Directory, PathError> {
        let mut way = vec![self.stack.root()];
        let mut todo = parts(path.as_bytes());
        let mut links = 0;
        while let Some(part) = todo.pop() {
            if part == ".." {
                if way.len() > 1 {
                    way.pop();
                }
                continue;
            }
            let here = way.last().expect("the root is never left");
            let wanted = if todo.is_empty() { want } else { Want::Directory };
            let (next, link) = self.lend(&here.clone(), &part, wanted)?;
            match link {
                None => way.push(next),
                Some(target) => {
                    links += 1;
                    if links > LINKS {
                        break;
                    }
                    if target.starts_with(b"/") {
                        way.truncate(1);
                    }
                    todo.extend(parts(&target));
                }
            }
        }
        Ok(way.pop().expect("the root is never left"))
    }

    /// Lends `name` in `directory`. Gives the directory that it is or would be, or what it says if it is a link.
    ///
    /// # Errors
    /// [`PathError`].
    pub fn lend(
        &mut self,
        directory: &Directory,
        name: &OsStr,
        want: Want,
    ) -> Result<(Directory, Option<Vec<u8>>), PathError> {
        let path = match directory.path() {
            b"" => name.as_bytes().to_vec(),
            parent => [parent, &b"/"[..], name.as_bytes()].concat(),
        };
        let failed = |error: io::Error| PathError::new("look at", &path, error);
        let below = match directory.is_there() {
            true => self.stack.look(directory, name).map_err(failed)?,
            false => None,
        };
        // Whatever is made in the place of a file hides it.
        if want == Want::Other && !matches!(below, Some(Seen::Directory(_))) {
            return Ok((Directory::absent(path), None));
        }
        // What was written here hides what is below, and most of what is copied is new.
        if let Some((stat, link)) = self.written(directory.path(), name).map_err(failed)? {
            return Ok(match below {
                Some(Seen::Directory(below)) if stat.st_mode & libc::S_IFMT == libc::S_IFDIR => (below, None),
                _ => (Directory::absent(path), link),
            });
        }
        match below {
            None => Ok((Directory::absent(path), None)),
            Some(Seen::Directory(below)) => {
                self.lend_directory(directory.path(), name, &below).map_err(failed)?;
                self.note(path.clone()).map_err(failed)?;
                Ok((below, None))
            }
            Some(Seen::Other { stat, holder }) => {
                let link = self.lend_other(directory.path(), name, &stat, &holder, want).map_err(failed)?;
                self.note(path.clone()).map_err(failed)?;
                Ok((Directory::absent(path), link))
            }
        }
    }

    /// What was lent or written at a name, and what it says if it is a link.
    fn written(&self, parent: &[u8], name: &OsStr) -> io::Result<Option<(Stat, Option<Vec<u8>>)>> {
        let parent = match open(&self.upper, parent) {
            Ok(parent) => parent,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let stat = match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(None),
            stat => stat?,
        };
        let link = match stat.st_mode & libc::S_IFMT {
            libc::S_IFLNK => Some(rustix::fs::readlinkat(&parent, name, Vec::new())?.into_bytes()),
            _ => None,
        };
        Ok(Some((stat, link)))
    }

    fn lend_directory(&self, parent: &[u8], name: &OsStr, below: &Directory) -> io::Result<()> {
        let below = self.stack.attributes(below)?;
        self.making(parent, |parent| {
            rustix::fs::mkdirat(parent, name, Mode::RWXU)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            let new = root::open_no_links(parent, name, flags, Mode::empty())?;
            copy_directory(below.as_fd(), new.as_fd(), true)
        })
    }

    /// A link as it is, a file that is wanted with its bytes, and for all else something that is neither a
    /// directory nor a file to read.
    fn lend_other(
        &self,
        parent: &[u8],
        name: &OsStr,
        stat: &Stat,
        holder: &OwnedFd,
        want: Want,
    ) -> io::Result<Option<Vec<u8>>> {
        let kind = stat.st_mode & libc::S_IFMT;
        self.making(parent, |parent| match kind {
            libc::S_IFLNK => {
                let target = rustix::fs::readlinkat(holder, name, Vec::new())?;
                rustix::fs::symlinkat(target.as_c_str(), parent, name)?;
                Ok(Some(target.into_bytes()))
            }
            // By a second name: it is read and no more, and can be of any size.
            libc::S_IFREG if want == Want::File => {
                rustix::fs::linkat(holder, name, parent, name, AtFlags::empty())
                    .or_else(|_| copy_file(holder.as_fd(), name, stat, parent.as_fd()))?;
                Ok(None)
            }
            _ => {
                rustix::fs::mknodat(parent, name, FileType::Fifo, Mode::empty(), 0)?;
                Ok(None)
            }
        })
    }

    /// Makes something in a directory, whose time stays.
    fn making<T>(&self, parent: &[u8], make: impl FnOnce(&OwnedFd) -> io::Result<T>) -> io::Result<T> {
        let parent = open(&self.upper, parent)?;
        let before = rustix::fs::fstat(&parent)?;
        let made = make(&parent)?;
        rustix::fs::futimens(&parent, &times_of(&before))?;
        Ok(made)
    }

    fn note(&mut self, path: Vec<u8>) -> io::Result<()> {
        let (parent, name) = split(&path);
        let parent = open(&self.upper, parent)?;
        let stat = rustix::fs::statat(&parent, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW)?;
        self.lent.insert(path, stat);
        Ok(())
    }

    /// Takes away what was lent and is as it was, and gives the tree below.
    ///
    /// # Errors
    /// [`PathError`].
    pub fn give_back(self) -> Result<Stack, PathError> {
        let mut lent: Vec<(&Vec<u8>, &Stat)> = self.lent.iter().collect();
        // The deepest first: what holds only what was lent is then empty itself.
        lent.sort_by(|a, b| b.0.cmp(a.0));
        for (path, stat) in lent {
            self.take_away(path, stat).map_err(|error| PathError::new("take away", path, error))?;
        }
        Ok(self.stack)
    }

    fn take_away(&self, path: &[u8], lent: &Stat) -> io::Result<()> {
        let (above, name) = split(path);
        let name = OsStr::from_bytes(name);
        let parent = match open(&self.upper, above) {
            Ok(parent) => parent,
            // Something was put in its place.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let now = match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(()),
            stat => stat?,
        };
        let before = rustix::fs::fstat(&parent)?;
        let is_dir = now.st_mode & libc::S_IFMT == libc::S_IFDIR;
        let removed = match is_dir {
            true if !self.is_untouched(path, &now)? => return Ok(()),
            true => rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR),
            false if !is_same(&now, lent) => return Ok(()),
            false => rustix::fs::unlinkat(&parent, name, AtFlags::empty()),
        };
        match removed {
            Ok(()) => Ok(rustix::fs::futimens(&parent, &times_of(&before))?),
            Err(Errno::NOTEMPTY) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether a directory has the attributes and the time of the tree's.
    fn is_untouched(&self, path: &[u8], now: &Stat) -> io::Result<bool> {
        let Some(below) = self.stack.find(path)? else { return Ok(false) };
        let below = self.stack.attributes(&below)?;
        let then = rustix::fs::fstat(&below)?;
        let time = |stat: &Stat| (stat.st_mtime, stat.st_mtime_nsec as i64);
        Ok(time(now) == time(&then) && alike(open(&self.upper, path)?.as_fd(), below.as_fd())?)
    }
}

/// Whether nobody put something else in the place of what was lent. An inode's number alone would not tell:
/// some file systems give it out again at once.
fn is_same(now: &Stat, lent: &Stat) -> bool {
    let facts = |stat: &Stat| {
        let time = (stat.st_mtime, stat.st_mtime_nsec as i64);
        (stat.st_ino, stat.st_mode, stat.st_uid, stat.st_gid, stat.st_size, time)
    };
    facts(now) == facts(lent)
}

/// The names in a path and its `..`s, the first last.
fn parts(path: &[u8]) -> Vec<OsString> {
    let parts = path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
    parts.rev().map(|part| OsStr::from_bytes(part).to_owned()).collect()
}

/// A directory below the one that is written, by steps where its path is longer than the kernel takes.
fn open(upper: &OwnedFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let errno = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    if path.len() < libc::PATH_MAX as usize {
        return root::open_no_links(upper, Path::new(OsStr::from_bytes(path)), flags, Mode::empty())
            .map_err(errno);
    }
    let (parent, name) = split(path);
    let name = OsString::from_vec(name.to_vec());
    root::open_no_links(open(upper, parent)?, name, flags, Mode::empty()).map_err(errno)
}
