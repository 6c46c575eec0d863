//! Paths below a directory handle. Every path that mixes a root we trust with names we do not (of an
//! image, an archive, a build context) is resolved here, by the kernel, and nowhere else.
//!
//! `openat2` with `RESOLVE_IN_ROOT` treats the handle as `/`: absolute links and `..` stay inside,
//! whoever renames what meanwhile; magic links are refused. What comes back is a handle, and the
//! handle, not the path, is what callers read, write, mount or change. (TRUST: CVE-2019-14271,
//! CVE-2021-30465, CVE-2024-21626 and their kin all went through a path instead.)

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Opens `path` as if `root` were `/`: links are followed inside it. `O_CLOEXEC` is always set.
///
/// # Errors
/// What `openat2` gives: `NotFound`, `NotADirectory`, `ELOOP` for loops and magic links.
pub fn open(root: impl AsFd, path: impl AsRef<Path>, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    open_with(root.as_fd(), path.as_ref(), flags, mode, ResolveFlags::IN_ROOT)
}

/// Opens `path` below `root` and follows no link at all, not even in its middle.
///
/// # Errors
/// `ELOOP` at a link, `EXDEV` for a path that climbs out, and whatever `openat2` gives.
pub fn open_no_links(
    root: impl AsFd,
    path: impl AsRef<Path>,
    flags: OFlags,
    mode: Mode,
) -> io::Result<OwnedFd> {
    open_with(root.as_fd(), path.as_ref(), flags, mode, ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
}

fn open_with(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    mode: Mode,
    resolve: ResolveFlags,
) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    // A path with `..` gives EAGAIN whenever any process renames anything: 9% of calls under load.
    let mut tries = 0;
    loop {
        let opened = rustix::fs::openat2(
            root,
            path,
            flags | OFlags::CLOEXEC,
            mode,
            resolve | ResolveFlags::NO_MAGICLINKS,
        );
        match opened {
            Err(Errno::AGAIN | Errno::INTR) if tries < 10_000 => {
                tries += 1;
                if tries % 16 == 0 {
                    std::thread::yield_now();
                }
            }
            other => return Ok(other?),
        }
    }
}

/// Opens a directory below `root`, links followed inside it.
///
/// # Errors
/// As [`open`]; `NotADirectory` if it is something else.
pub fn open_dir(root: impl AsFd, path: impl AsRef<Path>) -> io::Result<OwnedFd> {
    open(root, path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
}

/// A directory of the file system at large, as a root of its own. For paths that we or the person
/// chose.
///
/// # Errors
/// What `open` gives.
pub fn open_ambient_dir(path: impl AsRef<Path>) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path.as_ref(), flags, Mode::empty())?)
}

/// Reads a regular file below `root`, links followed inside it, at most `limit` bytes of it.
///
/// # Errors
/// `InvalidData` for what is no regular file (opening a FIFO would wait for ever) or is longer.
pub fn read(root: impl AsFd, path: impl AsRef<Path>, limit: u64) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = std::fs::File::from(open(root, path, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a regular file"));
    }
    let mut bytes = Vec::with_capacity(metadata.len().min(limit) as usize);
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("the file is longer than {limit} bytes"),
        ));
    }
    Ok(bytes)
}

/// A directory that [`create_dirs`] made.
#[derive(Debug)]
pub struct Created {
    /// Its path below the root, links resolved as far as they were followed.
    pub path: PathBuf,
    /// A handle on it.
    pub fd: OwnedFd,
}

/// Makes `path` and its missing parents below `root`, with exactly `mode`, and opens it. Links on
/// the way are followed inside the root, dangling ones too: what they name is made. Gives the
/// directory and, topmost first, what was made.
///
/// # Errors
/// `NotADirectory` if something on the way is a file; `ELOOP` for more than 40 links.
pub fn create_dirs(
    root: impl AsFd,
    path: impl AsRef<Path>,
    mode: Mode,
) -> io::Result<(OwnedFd, Vec<Created>)> {
    let root = root.as_fd();
    let mut made = Vec::new();
    let mut links = 0;
    let mut here = PathBuf::from("/");
    let mut todo: Vec<PathBuf> = components(path.as_ref());
    let mut fd = open_dir(root, "/")?;
    while let Some(name) = todo.pop() {
        if name.as_os_str() == ".." {
            here.pop();
            fd = open_dir(root, &here)?;
            continue;
        }
        let next = here.join(&name);
        match rustix::fs::mkdirat(&fd, &name, mode) {
            Ok(()) => {
                fd = open_no_links(&fd, &name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
                rustix::fs::fchmod(&fd, mode)?;
                made.push(Created { path: next.clone(), fd: fd.try_clone()? });
                here = next;
            }
            Err(Errno::EXIST) => {
                match open_no_links(&fd, &name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()) {
                    Ok(child) => {
                        fd = child;
                        here = next;
                    }
                    Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
                        links += 1;
                        if links > 40 {
                            return Err(Errno::LOOP.into());
                        }
                        let target = rustix::fs::readlinkat(&fd, &name, Vec::new())?;
                        let target = Path::new(OsStr::from_bytes(target.as_bytes())).to_owned();
                        if target.is_absolute() {
                            here = PathBuf::from("/");
                            fd = open_dir(root, "/")?;
                        }
                        todo.extend(components(&target));
                    }
                    Err(error) => return Err(error),
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok((fd, made))
}

/// The path's names and `..`s, the first last.
fn components(path: &Path) -> Vec<PathBuf> {
    let mut parts: Vec<PathBuf> = path
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(PathBuf::from(name)),
            Component::ParentDir => Some(PathBuf::from("..")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect();
    parts.reverse();
    parts
}

/// `path` made absolute, `.`, `..` and doubled slashes resolved by its letters alone, as Go's
/// `path.Join("/", path)` does. A slash at its end is dropped.
pub fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    format!("/{}", parts.join("/"))
}

/// Removes what `name` is in `directory`, a whole tree if it is one. Follows no link; mounts and
/// other users' renames cannot lead it elsewhere, since it works on handles only. However deep the tree
/// is, it holds three handles and no stack of them: it goes up through `..`, and checks that this is the
/// directory it came from.
///
/// # Errors
/// The first failure other than that something is gone already.
pub fn remove_all(directory: impl AsFd, name: &OsStr) -> io::Result<()> {
    let directory = directory.as_fd();
    match unlink(directory, name)? {
        Unlinked::Gone => return Ok(()),
        Unlinked::IsDirectory => {}
    }
    // The way down. Only the last directory on it is open.
    let mut here = enter(directory, name)?;
    let mut way = vec![Level { name: name.to_owned(), identity: identity(&here)?, listed: Vec::new() }];
    while let Some(level) = way.last_mut() {
        if let Some((name, child)) = descend(here.as_fd(), &mut level.listed)? {
            way.push(Level { name, identity: identity(&child)?, listed: Vec::new() });
            here = child;
            continue;
        }
        let emptied = way.pop().expect("the loop runs on a last level");
        let Some(above) = way.last() else {
            return remove_dir(directory, &emptied.name);
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = rustix::fs::openat(&here, "..", flags, Mode::empty())?;
        if identity(&parent)? != above.identity {
            return Err(io::Error::other("the directory was moved while it was removed"));
        }
        remove_dir(parent.as_fd(), &emptied.name)?;
        here = parent;
    }
    Ok(())
}

/// A directory that is being removed.
struct Level {
    name: OsString,
    identity: (u64, u64),
    /// Names in it that were read and not looked at yet.
    listed: Vec<OsString>,
}

/// Removes everything in `directory` that is no directory, up to the first directory: that is opened and
/// given. `None` says that nothing is left.
fn descend(directory: BorrowedFd<'_>, listed: &mut Vec<OsString>) -> io::Result<Option<(OsString, OwnedFd)>> {
    loop {
        if listed.is_empty() {
            // So many at a time: a directory of millions takes no more memory than others.
            for entry in rustix::fs::Dir::read_from(directory)? {
                let entry = entry?;
                let name = entry.file_name().to_bytes();
                if name != b"." && name != b".." {
                    listed.push(OsStr::from_bytes(name).to_owned());
                }
                if listed.len() == 1024 {
                    break;
                }
            }
        }
        if listed.is_empty() {
            return Ok(None);
        }
        while let Some(name) = listed.pop() {
            let unlinked = match unlink(directory, &name) {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    rustix::fs::fchmod(directory, Mode::RWXU)?;
                    unlink(directory, &name)?
                }
                other => other?,
            };
            if let Unlinked::IsDirectory = unlinked {
                match enter(directory, &name) {
                    Ok(child) => return Ok(Some((name, child))),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }
}

enum Unlinked {
    Gone,
    IsDirectory,
}

fn unlink(directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<Unlinked> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(Unlinked::Gone),
        Err(Errno::ISDIR) => Ok(Unlinked::IsDirectory),
        Err(error @ (Errno::PERM | Errno::ACCESS)) => {
            // What some systems say of a directory, and Linux of one that may not be searched.
            match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if stat.st_mode & libc::S_IFMT == libc::S_IFDIR => Ok(Unlinked::IsDirectory),
                _ => Err(error.into()),
            }
        }
        Err(error) => Err(error.into()),
    }
}

fn enter(directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    match open_no_links(directory, name, flags, Mode::empty()) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            // An ordinary user's own directory without its permission bits.
            rustix::fs::chmodat(directory, name, Mode::RWXU, AtFlags::empty())?;
            open_no_links(directory, name, flags, Mode::empty())
        }
        other => other,
    }
}

fn remove_dir(directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ACCESS) => {
            rustix::fs::fchmod(directory, Mode::RWXU)?;
            Ok(rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR)?)
        }
        Err(error) => Err(error.into()),
    }
}

fn identity(directory: &OwnedFd) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::fstat(directory)?;
    Ok((stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_stay_inside() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("canary"), "secret").unwrap();
        let inside = tempfile::tempdir().unwrap();
        symlink(outside.path(), inside.path().join("abs")).unwrap();
        symlink("../../../../../../etc", inside.path().join("up")).unwrap();
        symlink("/etc/new", inside.path().join("dangling")).unwrap();
        let root = open_ambient_dir(inside.path()).unwrap();
        assert!(read(&root, "abs/canary", 100).is_err());
        assert!(read(&root, "up/passwd", 1 << 20).is_err());
        let (_, made) = create_dirs(&root, "/dangling/a/../b", Mode::from_raw_mode(0o750)).unwrap();
        let made: Vec<_> = made.iter().map(|made| made.path.to_str().unwrap()).collect();
        assert_eq!(made, ["/etc", "/etc/new", "/etc/new/a", "/etc/new/b"]);
        assert!(inside.path().join("etc/new/b").is_dir());
        symlink("loop", inside.path().join("loop")).unwrap();
        assert!(create_dirs(&root, "/loop/x", Mode::RWXU).is_err());
        std::fs::write(inside.path().join("file"), "x").unwrap();
        let error = create_dirs(&root, "/file/x", Mode::RWXU).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
    }

    #[test]
    fn reading_is_bounded_and_never_waits() {
        let dir = tempfile::tempdir().unwrap();
        let root = open_ambient_dir(dir.path()).unwrap();
        nix::unistd::mkfifo(&dir.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(read(&root, "fifo", 10).unwrap_err().kind(), io::ErrorKind::InvalidData);
        std::fs::write(dir.path().join("long"), [0; 11]).unwrap();
        assert_eq!(read(&root, "long", 10).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(read(&root, "long", 11).unwrap().len(), 11);
    }

    #[test]
    fn removing_a_tree_follows_no_link() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("canary"), "kept").unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("tree/a/b")).unwrap();
        symlink(outside.path(), dir.path().join("tree/a/link")).unwrap();
        remove_all(open_ambient_dir(dir.path()).unwrap(), OsStr::new("tree")).unwrap();
        assert!(!dir.path().join("tree").exists());
        assert!(outside.path().join("canary").exists());
    }

    #[test]
    fn a_deep_and_a_wide_tree_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let root = open_ambient_dir(dir.path()).unwrap();
        let mut here = root.try_clone().unwrap();
        for _ in 0..5000 {
            rustix::fs::mkdirat(&here, "d", Mode::RWXU).unwrap();
            here = open_dir(&here, "d").unwrap();
        }
        for at in 0..5000 {
            let flags = OFlags::CREATE | OFlags::WRONLY;
            rustix::fs::openat(&here, format!("f{at}"), flags, Mode::RUSR).unwrap();
        }
        rustix::fs::fchmod(&here, Mode::empty()).unwrap();
        remove_all(&root, OsStr::new("d")).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        remove_all(&root, OsStr::new("d")).unwrap();
    }

    #[test]
    fn cleaning_is_lexical() {
        for (path, want) in
            [("", "/"), ("a/b", "/a/b"), ("/a//b/./../c/", "/a/c"), ("../../x", "/x"), ("/..", "/")]
        {
            assert_eq!(clean(path), want);
        }
    }
}
