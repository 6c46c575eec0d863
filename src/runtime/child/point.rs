//! Mount points: found, or made and taken away again.
//!
//! What is made to mount something on must be in no layer, so each such stub is remembered by a
//! handle on its parent, and removed through that handle: a path could lead elsewhere by then
//! (CVE-2024-23652: BuildKit's cleaner removed files of the host). Only what is still the very stub,
//! and empty, is removed. The parent's times are put back both times, so nothing shows.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

use crate::root;

/// As many as the kernel follows.
const MAX_LINKS: usize = 40;

/// What is going to be mounted, and so what its mount point is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::runtime) enum Shape {
    Directory,
    File,
}

/// Something that was made to be mounted on.
#[derive(Debug)]
struct Stub {
    parent: OwnedFd,
    name: OsString,
    shape: Shape,
    /// On the stub itself: while it is open the inode's number is no other's.
    handle: OwnedFd,
}

/// The mount points below one root, and the stubs among them.
#[derive(Debug)]
pub(in crate::runtime) struct Points {
    root: OwnedFd,
    stubs: Vec<Stub>,
    /// Whether handles for the removal go through a mount of their own, since the root's becomes
    /// read-only.
    apart: bool,
    /// File systems, by their devices, that end with the sandbox: what is made there goes with them.
    passing: Vec<u64>,
}

impl Points {
    pub(in crate::runtime) fn new(root: OwnedFd, apart: bool) -> Self {
        Self { root, stubs: Vec::new(), apart, passing: Vec::new() }
    }

    /// Leaves what is made on this file system there, which nobody sees after the sandbox.
    pub(in crate::runtime) fn leave_on(&mut self, file_system: impl AsFd) -> io::Result<()> {
        self.passing.push(rustix::fs::fstat(file_system)?.st_dev);
        Ok(())
    }

    pub(in crate::runtime) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// The mode of the directory at `target`, if there is one.
    pub(in crate::runtime) fn mode(&self, target: &str) -> Option<u32> {
        let found = root::open(&self.root, target, OFlags::PATH, Mode::empty()).ok()?;
        let mode = rustix::fs::fstat(found).ok()?.st_mode;
        FileType::from_raw_mode(mode).is_dir().then_some(mode & 0o7777)
    }

    /// A handle on `target`, which is made if it is missing. With `strict` a link on the way is an
    /// error.
    pub(in crate::runtime) fn point(
        &mut self,
        target: &str,
        shape: Shape,
        strict: bool,
    ) -> io::Result<OwnedFd> {
        let found = if strict {
            let relative = target.trim_start_matches('/');
            root::open_no_links(&self.root, relative, OFlags::PATH, Mode::empty())
        } else {
            root::open(&self.root, target, OFlags::PATH, Mode::empty())
        };
        match found {
            Ok(handle) => check_shape(handle, shape),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.make(target, shape, strict),
            Err(error) => Err(error),
        }
    }

    /// Walks to `target`, following links inside the root, and makes what is missing.
    fn make(&mut self, target: &str, shape: Shape, strict: bool) -> io::Result<OwnedFd> {
        let directory = OFlags::RDONLY | OFlags::DIRECTORY;
        let mut links = 0;
        let mut here = PathBuf::from("/");
        let mut todo = components(Path::new(target));
        let mut fd = root::open_dir(&self.root, "/")?;
        while let Some(name) = todo.pop() {
            if name == ".." {
                here.pop();
                fd = root::open_dir(&self.root, &here)?;
                continue;
            }
            let last = todo.is_empty();
            let found = rustix::fs::openat(
                &fd,
                &name,
                OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            );
            let handle = match found {
                Ok(handle) => handle,
                Err(Errno::NOENT) => {
                    let shape = if last { shape } else { Shape::Directory };
                    self.stub(&fd, &name, shape)?;
                    root::open_no_links(&fd, &name, OFlags::PATH, Mode::empty())?
                }
                Err(error) => return Err(error.into()),
            };
            let kind = FileType::from_raw_mode(rustix::fs::fstat(&handle)?.st_mode);
            if kind == FileType::Symlink {
                links += 1;
                if strict || links > MAX_LINKS {
                    return Err(Errno::LOOP.into());
                }
                let to = rustix::fs::readlinkat(&handle, c"", Vec::new())?;
                let to = PathBuf::from(OsString::from_vec(to.into_bytes()));
                if to.is_absolute() {
                    here = PathBuf::from("/");
                    fd = root::open_dir(&self.root, "/")?;
                }
                todo.extend(components(&to));
                continue;
            }
            here.push(&name);
            if last {
                // Crosses a mount that may be on top of what was found.
                let handle = root::open(&self.root, &here, OFlags::PATH, Mode::empty())?;
                return check_shape(handle, shape);
            }
            fd = root::open(&self.root, &here, directory, Mode::empty())?;
        }
        check_shape(root::open(&self.root, &here, OFlags::PATH, Mode::empty())?, shape)
    }

    fn stub(&mut self, parent: &OwnedFd, name: &OsStr, shape: Shape) -> io::Result<()> {
        let before = rustix::fs::fstat(parent)?;
        match shape {
            Shape::Directory => rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))?,
            Shape::File => {
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                drop(rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o644))?);
            }
        }
        set_mtime(parent, before.st_mtime, before.st_mtime_nsec)?;
        if self.passing.contains(&before.st_dev) {
            return Ok(());
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(parent, name, flags, Mode::empty())?;
        let parent = if self.apart {
            let apart = super::super::sys::clone_tree(parent, c"", false)?;
            root::open_dir(apart.as_fd(), ".").map(|opened| (opened, Some(apart)))
        } else {
            parent.try_clone().map(|parent| (parent, None))
        };
        // The clone's own handle must live as long as what was opened through it: its end would
        // unmount it, which a directory handle outlives.
        let (parent, _apart) = parent?;
        self.stubs.push(Stub { parent, name: name.to_owned(), shape, handle });
        Ok(())
    }

    /// Removes the stubs, the last made first. The mounts on them must be gone, or be in another
    /// mount namespace. Gives the first failure, having tried all.
    pub(in crate::runtime) fn clean_up(&mut self) -> Option<String> {
        let mut failed = None;
        for stub in self.stubs.drain(..).rev() {
            if let Err(error) = stub.remove() {
                let name = stub.name.to_string_lossy();
                failed = failed.or_else(|| Some(format!("`{name}`: {error}")));
            }
        }
        failed
    }
}

impl Stub {
    fn remove(&self) -> io::Result<()> {
        let now = match rustix::fs::statat(&self.parent, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(now) => now,
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let made = rustix::fs::fstat(&self.handle)?;
        if (now.st_dev, now.st_ino) != (made.st_dev, made.st_ino) {
            return Ok(());
        }
        let flags = match self.shape {
            Shape::Directory => AtFlags::REMOVEDIR,
            Shape::File if now.st_size == 0 => AtFlags::empty(),
            Shape::File => return Ok(()),
        };
        let before = rustix::fs::fstat(&self.parent)?;
        match rustix::fs::unlinkat(&self.parent, &self.name, flags) {
            Ok(()) => set_mtime(&self.parent, before.st_mtime, before.st_mtime_nsec),
            // The program put something there: then it is the program's.
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn set_mtime(directory: &OwnedFd, seconds: i64, nanoseconds: u64) -> io::Result<()> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds as i64 },
    };
    Ok(rustix::fs::futimens(directory, &times)?)
}

/// A directory cannot be mounted on a file, nor the other way round.
fn check_shape(handle: OwnedFd, shape: Shape) -> io::Result<OwnedFd> {
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&handle)?.st_mode);
    match (shape, kind == FileType::Directory) {
        (Shape::Directory, true) | (Shape::File, false) => Ok(handle),
        (Shape::Directory, false) => Err(Errno::NOTDIR.into()),
        (Shape::File, true) => Err(Errno::ISDIR.into()),
    }
}

/// The path's names and `..`s, the first last.
fn components(path: &Path) -> Vec<OsString> {
    let mut parts: Vec<OsString> = path
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsStr::from_bytes(b"..").to_owned()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect();
    parts.reverse();
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    /// Every path with its type, mode, size and time: what a layer would hold.
    fn listing(root: &Path) -> Vec<String> {
        let mut lines = Vec::new();
        let mut todo = vec![root.to_owned()];
        while let Some(path) = todo.pop() {
            let metadata = std::fs::symlink_metadata(&path).unwrap();
            lines.push(format!(
                "{} {:o} {} {}.{}",
                path.display(),
                metadata.mode(),
                if metadata.is_dir() { 0 } else { metadata.size() },
                metadata.mtime(),
                metadata.mtime_nsec()
            ));
            if metadata.is_dir() {
                todo.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
        }
        lines.sort();
        lines
    }

    #[test]
    fn what_is_on_a_file_system_that_ends_stays_there() {
        let dir = tempfile::tempdir().unwrap();
        let mut points = points(dir.path());
        points.point("/before/x", Shape::File, false).unwrap();
        points.leave_on(points.root().try_clone().unwrap()).unwrap();
        points.point("/after/x", Shape::File, false).unwrap();
        points.point("/before/y", Shape::Directory, false).unwrap();
        assert_eq!(points.clean_up(), None);
        assert!(dir.path().join("after/x").exists());
        assert!(dir.path().join("before/y").exists() && !dir.path().join("before/x").exists());
    }

    fn points(dir: &Path) -> Points {
        Points::new(root::open_ambient_dir(dir).unwrap(), false)
    }

    #[test]
    fn stubs_leave_no_trace() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("etc/real")).unwrap();
        symlink("/run/resolve/stub.conf", dir.path().join("etc/resolv.conf")).unwrap();
        symlink("real/../../etc/real", dir.path().join("etc/way")).unwrap();
        let before = listing(dir.path());
        let mut points = points(dir.path());
        points.point("/etc/hosts", Shape::File, false).unwrap();
        points.point("/etc/resolv.conf", Shape::File, false).unwrap();
        points.point("/etc/way/deep/er", Shape::Directory, false).unwrap();
        points.point("/etc/way/deep/er", Shape::Directory, false).unwrap();
        points.point("/proc", Shape::Directory, true).unwrap();
        assert!(dir.path().join("run/resolve/stub.conf").is_file());
        assert!(dir.path().join("etc/real/deep/er").is_dir());
        assert_eq!(points.clean_up(), None);
        assert_eq!(listing(dir.path()), before);
    }

    #[test]
    fn what_the_program_made_stays() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::create_dir(outside.path().join("victim")).unwrap();
        let mut points = points(dir.path());
        points.point("/a/b", Shape::Directory, false).unwrap();
        points.point("/a/victim", Shape::Directory, false).unwrap();
        points.point("/c", Shape::File, false).unwrap();
        points.point("/d", Shape::File, false).unwrap();
        std::fs::write(dir.path().join("a/b/kept"), "x").unwrap();
        std::fs::write(dir.path().join("c"), "kept").unwrap();
        std::fs::remove_file(dir.path().join("d")).unwrap();
        std::fs::write(dir.path().join("e"), "").unwrap();
        std::fs::rename(dir.path().join("e"), dir.path().join("d")).unwrap();
        // The parent is replaced by a link to the outside (CVE-2024-23652).
        std::fs::rename(dir.path().join("a"), dir.path().join("moved")).unwrap();
        symlink(outside.path(), dir.path().join("a")).unwrap();
        assert_eq!(points.clean_up(), None);
        assert!(outside.path().join("victim").is_dir());
        assert!(dir.path().join("moved/b/kept").exists());
        assert!(!dir.path().join("moved/victim").exists());
        assert!(dir.path().join("c").exists() && dir.path().join("d").exists());
    }

    #[test]
    fn links_and_shapes() {
        let dir = tempfile::tempdir().unwrap();
        symlink("etc", dir.path().join("dev")).unwrap();
        symlink("loop", dir.path().join("loop")).unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let mut points = points(dir.path());
        assert!(points.point("/dev", Shape::Directory, true).is_err());
        assert!(points.point("/loop", Shape::Directory, false).is_err());
        assert!(points.point("/file", Shape::Directory, false).is_err());
        assert!(points.point("/file/x", Shape::File, false).is_err());
        assert!(points.point("/", Shape::File, false).is_err());
        points.point("/../../up", Shape::Directory, false).unwrap();
        assert!(dir.path().join("up").is_dir());
    }
}
