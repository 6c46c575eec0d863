//! Trees without overlayfs: a chain of layers as one directory, and what was changed in it as a layer.
//!
//! Where the kernel refuses an overlay, a step gets a copy of the whole tree. What it changed is told by the inodes'
//! change time, which no program can set: all that is later than the copy's end was touched. The result is put into
//! the form that an overlay's upper directory would have, so that a layer is the same however it was made.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::attributes::{
    Marks, Target, alike, copy_directory, is_carried, is_whiteout, make_whiteout, permissions,
};
use super::fill::{Filling, open};
use super::flatten::{Way, merge};
use super::overlay::LayerRef;
use super::path::{PathError, split};
use super::walk::{Visit, walk};
use crate::root;

/// Beside the copy: younger than all that was copied, older than all that is changed.
const READY: &str = "ready";
/// The copy itself.
const TREE: &str = "tree";

/// The chain (the lowest first) as a directory below `work` that may be written to, made unless it is there. Gives its
/// handle.
///
/// # Errors
/// [`PathError`] for whatever could not be copied.
pub fn copied(layers: &[LayerRef<'_>], work: &Path, marks: Marks) -> Result<OwnedFd, PathError> {
    let failed = |error: io::Error| PathError::new("copy the layers to", work.as_os_str().as_bytes(), error);
    let folder = root::open_ambient_dir(work).map_err(failed)?;
    if change_time(&folder, READY).map_err(failed)?.is_none() {
        // A copy that was not finished.
        root::remove_all(&folder, OsStr::new(TREE))
            .or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
            .map_err(failed)?;
        let mode = Mode::from_raw_mode(0o755);
        rustix::fs::mkdirat(&folder, TREE, mode).map_err(|error| failed(error.into()))?;
        let tree = root::open_dir(&folder, TREE).map_err(failed)?;
        rustix::fs::fchmod(&tree, mode).map_err(|error| failed(error.into()))?;
        merge(layers, tree.as_fd(), marks, Way::Copy)?;
        walk(tree.as_fd(), |entry| -> Result<Visit, PathError> {
            if let Some(handle) = entry.handle {
                let at = |error: Errno| PathError::new("mark", entry.path, error);
                Target::Handle(handle).set(marks.origin().as_bytes(), &origin(entry.path)).map_err(at)?;
            }
            Ok(Visit::Kept)
        })?;
        draw_the_line(&folder).map_err(failed)?;
    }
    root::open_dir(&folder, TREE).map_err(failed)
}

/// As [`copied`], in the empty directory `into`, by links: never to be written to.
///
/// # Errors
/// [`PathError`] for whatever could not be linked.
pub fn linked(layers: &[LayerRef<'_>], into: &Path, marks: Marks) -> Result<OwnedFd, PathError> {
    let failed = |error: io::Error| PathError::new("open", into.as_os_str().as_bytes(), error);
    let tree = root::open_ambient_dir(into).map_err(failed)?;
    rustix::fs::fchmod(&tree, Mode::from_raw_mode(0o755)).map_err(|error| failed(error.into()))?;
    merge(layers, tree.as_fd(), marks, Way::Link)?;
    Ok(tree)
}

/// Makes the file that separates what was copied from what is changed, and waits until the clock of inodes, which
/// ticks, gives later times than it has.
fn draw_the_line(folder: &OwnedFd) -> io::Result<()> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let new = |name: &str| rustix::fs::openat(folder, name, flags, Mode::from_raw_mode(0o600));
    // A crash before the rename leaves a copy that is not ready.
    let line = new("line")?;
    let drawn = time_of(&rustix::fs::fstat(&line)?);
    rustix::fs::renameat(folder, "line", folder, READY)?;
    let drawn = change_time(folder, READY)?.unwrap_or(drawn).max(drawn);
    for _ in 0..1000 {
        let probe = new("probe")?;
        let now = time_of(&rustix::fs::fstat(&probe)?);
        rustix::fs::unlinkat(folder, "probe", AtFlags::empty())?;
        if now > drawn {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    Err(io::Error::other("the clock of this file system stands still"))
}

fn time_of(stat: &Stat) -> (i64, i64) {
    (stat.st_ctime, stat.st_ctime_nsec as i64)
}

fn change_time(folder: &OwnedFd, name: &str) -> io::Result<Option<(i64, i64)>> {
    match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(time_of(&stat))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Fixed, so that it fits wherever attributes do.
fn origin(path: &[u8]) -> Vec<u8> {
    blake3::hash(path).as_bytes()[..16].to_vec()
}

/// Whether there is a copy below `work`, so that [`difference`] is to be asked.
pub fn is_copied(work: &Path) -> bool {
    work.join(READY).exists()
}

/// Fills the empty directory `upper` with what was changed in the copy below `work`, in overlayfs form. `lower` is the
/// merged view that was copied. With [`Way::Link`] the two share files: the copy must not be used any more then.
///
/// # Errors
/// [`PathError`] for whatever could not be read or made.
pub fn difference(
    work: &Path,
    lower: Option<BorrowedFd<'_>>,
    upper: BorrowedFd<'_>,
    marks: Marks,
    way: Way,
) -> Result<(), PathError> {
    let failed = |error: io::Error| PathError::new("compare", work.as_os_str().as_bytes(), error);
    let folder = root::open_ambient_dir(work).map_err(failed)?;
    let line = change_time(&folder, READY).map_err(failed)?;
    let Some(line) = line else { return Err(failed(io::Error::other("the copy was never finished"))) };
    let tree = root::open_dir(&folder, TREE).map_err(failed)?;
    let mut filling = Filling::new(upper, marks)?;
    let mut made: HashMap<Vec<u8>, Stat> = HashMap::new();
    let mut links: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
    // The directory last found to be another than the lower tree has there; all below it is new.
    let mut fresh: Option<Vec<u8>> = None;
    walk(tree.as_fd(), |entry| -> Result<Visit, PathError> {
        let failed = |error: io::Error| PathError::new("compare", entry.path, error);
        if entry.path.is_empty() {
            made.insert(Vec::new(), *entry.stat);
            if time_of(entry.stat) > line {
                whiteouts(&mut filling, lower, entry.handle, b"").map_err(failed)?;
            }
            return Ok(Visit::Kept);
        }
        let is_new = fresh.as_ref().is_some_and(|fresh| {
            entry.path.strip_prefix(&fresh[..]).is_some_and(|rest| rest.starts_with(b"/"))
        });
        let below = match lower {
            Some(lower) if !is_new => look(lower, entry.path).map_err(failed)?,
            _ => None,
        };
        let touched = time_of(entry.stat) > line;
        let Some(handle) = entry.handle else {
            // Nobody listens on a socket in an image.
            let is_socket = entry.stat.st_mode & libc::S_IFMT == libc::S_IFSOCK;
            if is_socket || !touched && below.as_ref().is_some_and(|below| same(below, entry.stat)) {
                return Ok(Visit::Kept);
            }
            let parent = directory(&mut filling, &mut made, tree.as_fd(), split(entry.path).0)?;
            let identity = (entry.stat.st_dev, entry.stat.st_ino);
            match (way, links.get(&identity)) {
                (Way::Copy, Some(first)) => {
                    let (above, name) = split(first);
                    let from = filling.directory(above, false)?;
                    rustix::fs::linkat(&from, name, &parent, entry.name, AtFlags::empty())
                        .map_err(|error| failed(error.into()))?;
                }
                _ => way
                    .place(entry.parent, entry.name, entry.stat, parent.as_fd())
                    .map_err(|error| failed(error.into()))?,
            }
            links.entry(identity).or_insert_with(|| entry.path.to_vec());
            return Ok(Visit::Kept);
        };
        let was_directory = below.as_ref().is_some_and(|below| below.st_mode & libc::S_IFMT == libc::S_IFDIR);
        let found = Target::Handle(handle).get(marks.origin().as_bytes()).map_err(failed)?;
        if !was_directory {
            directory(&mut filling, &mut made, tree.as_fd(), entry.path)?;
            if !is_new {
                fresh = Some(entry.path.to_vec());
            }
        } else if found.as_deref() != Some(&origin(entry.path)[..]) {
            // It was removed and made again, or another came in its place.
            let new = directory(&mut filling, &mut made, tree.as_fd(), entry.path)?;
            filling.mark_opaque(new.as_fd()).map_err(failed)?;
            fresh = Some(entry.path.to_vec());
        } else if touched {
            directory(&mut filling, &mut made, tree.as_fd(), entry.path)?;
            whiteouts(&mut filling, lower, entry.handle, entry.path).map_err(failed)?;
        }
        Ok(Visit::Kept)
    })?;
    // The deepest first, for making things changes the times of what they are made in.
    let mut paths: Vec<(&Vec<u8>, &Stat)> = made.iter().collect();
    paths.sort_by(|a, b| b.0.cmp(a.0));
    for (path, stat) in paths {
        let at = |error: io::Error| PathError::new("set the attributes of", path, error);
        let target = filling.directory(path, false)?;
        let source = enter(tree.as_fd(), path).map_err(at)?;
        if !alike(source.as_fd(), target.as_fd()).map_err(at)? {
            copy_directory(source.as_fd(), target.as_fd(), false).map_err(at)?;
        }
        rustix::fs::futimens(&target, &times_of(stat)).map_err(|error| at(error.into()))?;
    }
    Ok(())
}

/// What a path is in the tree below.
fn look(lower: BorrowedFd<'_>, path: &[u8]) -> io::Result<Option<Stat>> {
    match rustix::fs::statat(lower, path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether two files are the same as far as one can tell without reading them.
fn same(a: &Stat, b: &Stat) -> bool {
    let facts = |stat: &Stat| {
        (
            stat.st_mode,
            stat.st_uid,
            stat.st_gid,
            stat.st_size,
            stat.st_mtime,
            stat.st_mtime_nsec as i64,
            stat.st_rdev,
        )
    };
    facts(a) == facts(b)
}

/// Walks down one name at a time: a path may be longer than the kernel takes.
fn enter(tree: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    let mut here = root::open_dir(tree, ".")?;
    for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
        here = open(here.as_fd(), name)?;
    }
    Ok(here)
}

/// The directory at `path` of the upper directory, made with those above it. Their attributes come later.
fn directory(
    filling: &mut Filling,
    made: &mut HashMap<Vec<u8>, Stat>,
    tree: BorrowedFd<'_>,
    path: &[u8],
) -> Result<std::rc::Rc<OwnedFd>, PathError> {
    let mut above = path;
    while !above.is_empty() && !made.contains_key(above) {
        let failed = |error: io::Error| PathError::new("look at", above, error);
        let source = enter(tree, above).map_err(failed)?;
        let stat = rustix::fs::fstat(&source).map_err(|error| failed(error.into()))?;
        made.insert(above.to_vec(), stat);
        above = split(above).0;
    }
    filling.directory(path, true)
}

/// Says in the upper directory which names of the lower tree's directory at `path` are gone.
fn whiteouts(
    filling: &mut Filling,
    lower: Option<BorrowedFd<'_>>,
    now: Option<BorrowedFd<'_>>,
    path: &[u8],
) -> io::Result<()> {
    let (Some(lower), Some(now)) = (lower, now) else { return Ok(()) };
    let before = match enter(lower, path) {
        Ok(before) => before,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in rustix::fs::Dir::read_from(&before)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if let Err(Errno::NOENT) = rustix::fs::statat(now, name, AtFlags::SYMLINK_NOFOLLOW) {
            let parent = filling.directory(path, true).map_err(io::Error::other)?;
            make_whiteout(parent.as_fd(), name.to_bytes())?;
        }
    }
    Ok(())
}

pub(in crate::store) fn times_of(stat: &Stat) -> Timestamps {
    let time = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ };
    Timestamps { last_access: time, last_modification: time }
}

/// Copies what is no directory, with all that a layer says of it; by reflink where the file system can.
pub(super) fn copy_file(
    from: BorrowedFd<'_>,
    name: &OsStr,
    stat: &Stat,
    to: BorrowedFd<'_>,
) -> Result<(), Errno> {
    let owner = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
    let mode = Mode::from_raw_mode(permissions(stat));
    let errno = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let kind = stat.st_mode & libc::S_IFMT;
    if kind == libc::S_IFREG {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut source = File::from(rustix::fs::openat(from, name, flags, Mode::empty())?);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut target = File::from(rustix::fs::openat(to, name, flags, Mode::from_raw_mode(0o600))?);
        if rustix::fs::ioctl_ficlone(&target, &source).is_err() {
            io::copy(&mut source, &mut target).map_err(errno)?;
        }
        rustix::fs::fchown(&target, owner.0, owner.1)?;
        rustix::fs::fchmod(&target, mode)?;
        for (name, value) in Target::Handle(source.as_fd()).read(is_carried).map_err(errno)? {
            Target::Handle(target.as_fd()).set(&name, &value)?;
        }
        return rustix::fs::futimens(&target, &times_of(stat));
    }
    if kind == libc::S_IFLNK {
        let target = rustix::fs::readlinkat(from, name, Vec::new())?;
        rustix::fs::symlinkat(target.as_c_str(), to, name)?;
    } else {
        rustix::fs::mknodat(to, name, FileType::from_raw_mode(stat.st_mode), mode, stat.st_rdev)?;
    }
    rustix::fs::chownat(to, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
    if kind != libc::S_IFLNK {
        // Nobody else knows the directory, so the name is what was just made.
        rustix::fs::chmodat(to, name, mode, AtFlags::empty())?;
    }
    for (attribute, value) in Target::Name(from, name).read(is_carried).map_err(errno)? {
        Target::Name(to, name).set(&attribute, &value)?;
    }
    rustix::fs::utimensat(to, name, &times_of(stat), AtFlags::SYMLINK_NOFOLLOW)
}

/// Makes of what fuse-overlayfs left in `upper` what the kernel's overlay would have: it has files of its own for
/// whiteouts that it could not make and for opaque directories, and an attribute besides.
///
/// # Errors
/// [`PathError`] for whatever could not be read or made.
pub fn translate(upper: BorrowedFd<'_>, marks: Marks) -> Result<(), PathError> {
    walk(upper, |entry| -> Result<Visit, PathError> {
        let failed = |error: io::Error| PathError::new("read the marks of", entry.path, error);
        let gone = |error: Errno| failed(error.into());
        if let Some(handle) = entry.handle {
            let target = Target::Handle(handle);
            let theirs = target.get(b"user.fuseoverlayfs.opaque").map_err(failed)?;
            let file = rustix::fs::unlinkat(handle, ".wh..wh..opq", AtFlags::empty()).is_ok();
            if (theirs.as_deref() == Some(b"y") || file) && !entry.path.is_empty() {
                target.set(marks.opaque().as_bytes(), b"y").map_err(gone)?;
            }
            if file {
                rustix::fs::futimens(handle, &times_of(entry.stat)).map_err(gone)?;
            }
            return Ok(Visit::Kept);
        }
        if let Some(hidden) = entry.name.as_bytes().strip_prefix(b".wh.") {
            rustix::fs::unlinkat(entry.parent, entry.name, AtFlags::empty()).map_err(gone)?;
            let there = rustix::fs::statat(entry.parent, hidden, AtFlags::SYMLINK_NOFOLLOW);
            // A whiteout of that name stands beside the file of an opaque directory, and hides nothing.
            if !is_whiteout(entry.stat) && matches!(there, Err(Errno::NOENT)) {
                make_whiteout(entry.parent, hidden).map_err(failed)?;
            }
            return Ok(Visit::Removed);
        }
        Ok(Visit::Kept)
    })
}

/// A detached bind mount of a directory.
pub fn bind(tree: &OwnedFd, read_only: bool) -> io::Result<OwnedFd> {
    use rustix::mount::OpenTreeFlags;
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let mount = rustix::mount::open_tree(tree, c"", flags)?;
    if read_only {
        // `struct mount_attr` of `linux/mount.h`: attributes set, cleared, propagation, user namespace.
        let attributes: [u64; 4] = [1, 0, 0, 0];
        // SAFETY: the path is a C string, and the structure is as long as the call is told.
        let done = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                mount.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH,
                attributes.as_ptr(),
                size_of_val(&attributes),
            )
        };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(mount)
}
