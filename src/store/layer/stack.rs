//! A chain of layers, looked at without mounting it.
//!
//! To mount and unmount a chain costs some tens of microseconds a layer, and to unmount also waits for all
//! processors; a step that copies a file looks at a handful of names. So they are looked for here, from the
//! topmost layer down, by the rules of overlayfs: a whiteout or whatever is no directory hides what is below
//! it, an opaque directory what is below that, and other directories of one name are one. A directory's
//! attributes are those of the topmost layer that states it (`implied.rs`).
//!
//! One handle is enough for a chain of hundreds: that on the directory that holds all layers.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::attributes::{Marks, Target, is_whiteout};
use super::lower::Lower;
use super::path::{split, unescape};
use crate::root;

/// The layers of a tree.
#[derive(Debug)]
pub struct Stack {
    /// What the layers' directories are named below.
    base: OwnedFd,
    /// The topmost first. Nothing is seen of what is below the last.
    layers: Vec<Plane>,
    marks: Marks,
}

/// A layer of a [`Stack`].
#[derive(Debug)]
pub struct Plane {
    fs: PathBuf,
    implied: HashSet<Vec<u8>>,
}

impl Plane {
    /// The layer whose directory is `fs`, and the directories that it implies, as `apply` and `commit` gave them.
    pub fn new(fs: PathBuf, implied: &[String]) -> Self {
        Self { fs, implied: implied.iter().map(|path| unescape(path)).collect() }
    }
}

/// A directory of the tree.
#[derive(Debug, Clone)]
pub struct Directory {
    path: Vec<u8>,
    /// The layers that it is made of, the topmost first; none if there is no such directory.
    layers: Vec<usize>,
}

/// What a name in a directory of the tree is.
#[derive(Debug)]
pub enum Seen {
    Directory(Directory),
    /// Something else, as the directory that holds it, open, says.
    Other {
        stat: Stat,
        holder: OwnedFd,
    },
}

impl Directory {
    /// A directory that the tree does not have.
    pub fn absent(path: Vec<u8>) -> Self {
        Self { path, layers: Vec::new() }
    }

    /// Its path, without slashes at its ends.
    pub fn path(&self) -> &[u8] {
        &self.path
    }

    /// Whether the tree has it.
    pub fn is_there(&self) -> bool {
        !self.layers.is_empty()
    }

    fn below(&self, name: &OsStr) -> Vec<u8> {
        match self.path.is_empty() {
            true => name.as_bytes().to_vec(),
            false => [&self.path, &b"/"[..], name.as_bytes()].concat(),
        }
    }
}

impl Stack {
    /// The tree that these layers below `base` make, the topmost first, none of them below one whose root is
    /// opaque ([`is_opaque`]).
    pub fn new(base: OwnedFd, layers: Vec<Plane>, marks: Marks) -> Self {
        Self { base, layers, marks }
    }

    /// The tree, as what a step wrote over.
    pub fn lower(&self) -> Lower<'_> {
        if self.layers.is_empty() { Lower::Nothing } else { Lower::Stack(self) }
    }

    /// The root of the tree.
    pub fn root(&self) -> Directory {
        Directory { path: Vec::new(), layers: (0..self.layers.len()).collect() }
    }

    /// What `name` is in `directory`, if it is there.
    ///
    /// # Errors
    /// What the file system gives.
    pub fn look(&self, directory: &Directory, name: &OsStr) -> io::Result<Option<Seen>> {
        let path = directory.below(name);
        let mut layers = Vec::new();
        for &at in &directory.layers {
            match self.open(at, &path) {
                Ok(fd) => {
                    layers.push(at);
                    if is_opaque(&fd, self.marks)? {
                        break;
                    }
                }
                Err(Errno::NOENT) => {}
                Err(Errno::NOTDIR | Errno::LOOP) if layers.is_empty() => {
                    let holder = self.open(at, &directory.path)?;
                    let stat = rustix::fs::statat(&holder, name, AtFlags::SYMLINK_NOFOLLOW)?;
                    return Ok((!is_whiteout(&stat)).then_some(Seen::Other { stat, holder }));
                }
                Err(Errno::NOTDIR | Errno::LOOP) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok((!layers.is_empty()).then_some(Seen::Directory(Directory { path, layers })))
    }

    /// A handle on the directory of a layer that has the attributes, the time too, of `directory`.
    ///
    /// # Errors
    /// `NotFound` if the tree has no such directory, and what the file system gives.
    pub fn attributes(&self, directory: &Directory) -> io::Result<OwnedFd> {
        let stated = directory.layers.iter().find(|at| !self.layers[**at].implied.contains(&directory.path));
        let Some(&at) = stated.or(directory.layers.first()) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        Ok(self.open(at, &directory.path)?)
    }

    /// The directory at `path`, on which no link is followed, if the tree has it.
    ///
    /// # Errors
    /// What the file system gives.
    pub fn find(&self, path: &[u8]) -> io::Result<Option<Directory>> {
        let mut here = self.root();
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            match self.look(&here, OsStr::from_bytes(name))? {
                Some(Seen::Directory(next)) => here = next,
                Some(Seen::Other { .. }) | None => return Ok(None),
            }
        }
        Ok(Some(here))
    }

    /// The type of what is at `path`, on which no link is followed.
    ///
    /// # Errors
    /// What the file system gives.
    pub fn kind(&self, path: &[u8]) -> io::Result<Option<u32>> {
        let (parent, name) = split(path);
        let Some(parent) = self.find(parent)? else { return Ok(None) };
        Ok(self.look(&parent, OsStr::from_bytes(name))?.map(|seen| match seen {
            Seen::Directory(_) => libc::S_IFDIR,
            Seen::Other { stat, .. } => stat.st_mode & libc::S_IFMT,
        }))
    }

    /// Opens a directory of one layer.
    fn open(&self, at: usize, path: &[u8]) -> Result<OwnedFd, Errno> {
        open(&self.base, &self.layers[at].fs, path)
    }
}

/// By steps where the path is longer than the kernel takes.
fn open(base: &OwnedFd, fs: &Path, path: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let errno = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let whole = fs.join(OsStr::from_bytes(path));
    if whole.as_os_str().len() < libc::PATH_MAX as usize {
        return root::open_no_links(base, whole, flags, Mode::empty()).map_err(errno);
    }
    let (parent, name) = split(path);
    let parent = open(base, fs, parent)?;
    root::open_no_links(parent, OsString::from_vec(name.to_vec()), flags, Mode::empty()).map_err(errno)
}

/// Whether nothing of the layers below is seen in a layer's directory.
///
/// # Errors
/// What the file system gives.
pub fn is_opaque(directory: &OwnedFd, marks: Marks) -> io::Result<bool> {
    let mark = Target::Handle(directory.as_fd()).get(marks.opaque().as_bytes())?;
    Ok(mark.as_deref() == Some(&b"y"[..]))
}
