//! Directories that archives imply but never state, and what a merged view must show of them.
//!
//! Unpacked on its own, `srv/x` makes a `srv` with attributes that nobody chose, and as the topmost `srv`
//! it would hide the true one of a layer below: `/tmp` without its sticky bit, say. So a chain with any such
//! directory gets one extra lower directory on top, which holds just those, with the attributes of
//! the topmost layer that states them.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;

use super::attributes::{Marks, Target, alike, copy_directory};
use super::fill::{Filling, open};
use super::path::{PathError, split};
use crate::root;

/// A layer of a chain.
pub(super) struct Layer<'a> {
    pub(super) fs: &'a Path,
    pub(super) implied: HashSet<Vec<u8>>,
}

/// Where a merged view takes a directory's attributes from, and where it should.
#[derive(Default)]
struct Sources {
    /// The topmost layer that has it.
    shown: Option<(usize, OwnedFd)>,
    /// The topmost layer that states it, as far as layers above let it through.
    stated: Option<(usize, OwnedFd)>,
}

impl Sources {
    /// The directory with the right attributes.
    fn right(&self) -> Option<BorrowedFd<'_>> {
        self.stated.as_ref().or(self.shown.as_ref()).map(|(_, fd)| fd.as_fd())
    }
}

/// Gives `target`, the root directory of a merged view, the attributes that the root of the chain has
/// (topmost layer first). The time is left alone.
pub(super) fn set_root(chain: &[Layer<'_>], marks: Marks, target: BorrowedFd<'_>) -> Result<(), PathError> {
    let failed = |error: io::Error| PathError::new("set the attributes of", b"/", error);
    match sources(chain, marks, b"").map_err(failed)?.right() {
        Some(right) => copy_directory(right, target, false).map_err(failed),
        None => Ok(()),
    }
}

/// Fills the empty directory that `top` makes with whatever the chain (topmost layer first) would show wrongly,
/// given that its layer `topmost` is the first one mounted. Gives whether there is anything; if not, nothing is made.
pub(super) fn fill_top(
    chain: &[Layer<'_>],
    topmost: Option<usize>,
    with_root: bool,
    marks: Marks,
    top: impl FnOnce() -> Result<OwnedFd, PathError>,
) -> Result<bool, PathError> {
    let failed = |path: &[u8], error: io::Error| PathError::new("merge the directory", path, error);
    let mut wrong: BTreeSet<Vec<u8>> = BTreeSet::new();
    let implied: BTreeSet<&Vec<u8>> = chain.iter().flat_map(|layer| &layer.implied).collect();
    for path in implied.into_iter().filter(|path| !path.is_empty()) {
        let sources = sources(chain, marks, path).map_err(|error| failed(path, error))?;
        let (Some((shown, shows)), Some((stated, states))) = (&sources.shown, &sources.stated) else {
            continue;
        };
        if shown != stated && differs(shows.as_fd(), states.as_fd()).map_err(|error| failed(path, error))? {
            wrong.insert(path.clone());
        }
    }
    let root = sources(chain, marks, b"").map_err(|error| failed(b"/", error))?;
    let root_wrong = match (root.right(), topmost) {
        (Some(right), Some(topmost)) if with_root => {
            let shown = root::open_ambient_dir(chain[topmost].fs).map_err(|error| failed(b"/", error))?;
            !alike(right, shown.as_fd()).map_err(|error| failed(b"/", error))?
        }
        (Some(_), None) => with_root,
        _ => false,
    };
    if wrong.is_empty() && !root_wrong {
        return Ok(false);
    }
    // What is above a wrong one is shown from here as well, and so must be right.
    let mut needed = wrong.clone();
    for path in &wrong {
        let mut parent = split(path).0;
        while !parent.is_empty() && needed.insert(parent.to_vec()) {
            parent = split(parent).0;
        }
    }
    let top = top()?;
    let top = top.as_fd();
    let mut filling = Filling::new(top, marks)?;
    for path in &needed {
        filling.directory(path, true)?;
    }
    // Deepest first, since making a directory changes the time of the one it is made in.
    for path in needed.iter().rev() {
        let target = filling.directory(path, false)?;
        if let Some(right) = sources(chain, marks, path).map_err(|error| failed(path, error))?.right() {
            copy_directory(right, target.as_fd(), true).map_err(|error| failed(path, error))?;
        }
    }
    if let Some(right) = root.right() {
        copy_directory(right, top, true).map_err(|error| failed(b"/", error))?;
    }
    Ok(true)
}

fn differs(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> io::Result<bool> {
    let (first, second) = (rustix::fs::fstat(a)?, rustix::fs::fstat(b)?);
    let time = |stat: &rustix::fs::Stat| (stat.st_mtime, stat.st_mtime_nsec as i64);
    Ok(time(&first) != time(&second) || !alike(a, b)?)
}

fn sources(chain: &[Layer<'_>], marks: Marks, path: &[u8]) -> io::Result<Sources> {
    let mut found = Sources::default();
    for (at, layer) in chain.iter().enumerate() {
        let root = root::open_ambient_dir(layer.fs)?;
        let (directory, last) = match find(root, marks, path)? {
            Found::Directory { fd, opaque } => (Some(fd), opaque),
            Found::Absent { opaque } => (None, opaque),
            Found::Blocked => (None, true),
        };
        if let Some(fd) = directory {
            if !layer.implied.contains(path) {
                let shown = fd.try_clone()?;
                found.shown.get_or_insert((at, shown));
                found.stated = Some((at, fd));
                break;
            }
            found.shown.get_or_insert((at, fd));
        }
        if last {
            break;
        }
    }
    Ok(found)
}

/// What a layer has at a path. `opaque` says that nothing below the layer is seen there.
enum Found {
    Directory {
        fd: OwnedFd,
        opaque: bool,
    },
    Absent {
        opaque: bool,
    },
    /// A file, a link or a whiteout, there or on the way.
    Blocked,
}

fn find(root: OwnedFd, marks: Marks, path: &[u8]) -> io::Result<Found> {
    let is_opaque = |fd: &OwnedFd| -> io::Result<bool> {
        let mark = Target::Handle(fd.as_fd()).get(marks.opaque().as_bytes())?;
        Ok(mark.as_deref() == Some(&b"y"[..]))
    };
    let mut opaque = is_opaque(&root)?;
    let mut here = root;
    for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
        match open(here.as_fd(), name) {
            Ok(fd) => here = fd,
            Err(Errno::NOENT) => return Ok(Found::Absent { opaque }),
            Err(Errno::NOTDIR | Errno::LOOP) => return Ok(Found::Blocked),
            Err(error) => return Err(error.into()),
        }
        opaque = opaque || is_opaque(&here)?;
    }
    Ok(Found::Directory { fd: here, opaque })
}
