//! What an upper directory changes in the tree below it, told as Docker's `diff` does; and the mount points in it
//! that are no change at all.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, Stat};
use rustix::io::Errno;

use super::attributes::{Marks, Target, is_whiteout, permissions};
use super::path::{PathError, split};
use super::walk::{Visit, walk_live};

/// How a path differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    Modified,
    Added,
    Deleted,
}

/// A path that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub kind: ChangeKind,
    /// Bytes, `/` in front.
    pub path: Vec<u8>,
}

/// Tells what `upper` changes in the merged tree `lower`, in the order of paths. Of what is `without` nothing is told.
///
/// A directory is modified if something was added or removed in it, or its own mode, owner or time differ; below an
/// added directory everything is added; of a removed one only itself is told.
///
/// # Errors
/// [`PathError`].
pub fn changes(
    upper: BorrowedFd<'_>,
    lower: BorrowedFd<'_>,
    marks: Marks,
    without: &BTreeSet<Vec<u8>>,
) -> Result<Vec<Change>, PathError> {
    let mut found: Vec<(Vec<u8>, ChangeKind)> = Vec::new();
    let mut opaque: Vec<Vec<u8>> = Vec::new();
    walk_live(upper, |entry| -> Result<Visit, PathError> {
        if entry.path.is_empty() {
            return Ok(Visit::Kept);
        }
        if without.contains(entry.path) {
            return Ok(Visit::Passed);
        }
        let failed = |error: io::Error| PathError::new("compare", entry.path, error);
        let below = stat_below(lower, entry.path).map_err(failed)?;
        if is_whiteout(entry.stat) {
            // Of what the container itself had made there is nothing to tell.
            if below.is_some() {
                found.push((entry.path.to_vec(), ChangeKind::Deleted));
            }
            return Ok(Visit::Kept);
        }
        let Some(below) = below else {
            found.push((entry.path.to_vec(), ChangeKind::Added));
            return Ok(Visit::Kept);
        };
        let is_directory = |stat: &Stat| stat.st_mode & libc::S_IFMT == libc::S_IFDIR;
        let facts =
            |stat: &Stat| (permissions(stat), stat.st_uid, stat.st_gid, stat.st_mtime, stat.st_mtime_nsec);
        let same = is_directory(entry.stat) && is_directory(&below) && facts(entry.stat) == facts(&below);
        if !same {
            found.push((entry.path.to_vec(), ChangeKind::Modified));
        }
        if let Some(handle) = entry.handle {
            let mark = Target::Handle(handle).get(marks.opaque().as_bytes()).map_err(failed)?;
            let inside = opaque.iter().any(|above| is_below(entry.path, above));
            if mark.as_deref() == Some(b"y") && !inside {
                opaque.push(entry.path.to_vec());
            }
            if (inside || mark.as_deref() == Some(b"y")) && is_directory(&below) {
                for name in missing(handle, lower, entry.path).map_err(failed)? {
                    found.push(([entry.path, b"/", &name].concat(), ChangeKind::Deleted));
                }
            }
        }
        Ok(Visit::Kept)
    })?;
    // What holds something that came or went is changed itself, though its time may say otherwise.
    let told: BTreeSet<Vec<u8>> = found.iter().map(|(path, _)| path.clone()).collect();
    let parents: BTreeSet<Vec<u8>> = found
        .iter()
        .filter(|(_, kind)| *kind != ChangeKind::Modified)
        .map(|(path, _)| split(path).0.to_vec())
        .filter(|parent| !parent.is_empty() && !told.contains(parent))
        .collect();
    found.extend(parents.into_iter().map(|path| (path, ChangeKind::Modified)));
    found.sort_by(|(a, _), (b, _)| a.split(|byte| *byte == b'/').cmp(b.split(|byte| *byte == b'/')));
    Ok(found.into_iter().map(|(path, kind)| Change { kind, path: [b"/", &path[..]].concat() }).collect())
}

/// Which of these paths are there only because something is, or was, mounted on them: they are in `upper` and not in
/// `lower`, and hold nothing but others of them. Parents that were made for them count as well.
///
/// # Errors
/// [`PathError`].
pub fn mount_points<'p>(
    upper: BorrowedFd<'_>,
    lower: BorrowedFd<'_>,
    targets: impl IntoIterator<Item = &'p [u8]>,
) -> Result<BTreeSet<Vec<u8>>, PathError> {
    let mut candidates: BTreeSet<Vec<u8>> = BTreeSet::new();
    for target in targets {
        let mut path = super::path::clean(target);
        while !path.is_empty() && candidates.insert(path.clone()) {
            path = split(&path).0.to_vec();
        }
    }
    let mut found: BTreeSet<Vec<u8>> = BTreeSet::new();
    // What lies below another comes after it in the order of bytes.
    for path in candidates.iter().rev() {
        let failed = |error: io::Error| PathError::new("compare", path, error);
        let Some(stat) = stat_below(upper, path).map_err(failed)? else { continue };
        if stat_below(lower, path).map_err(failed)?.is_some() {
            continue;
        }
        let empty = match stat.st_mode & libc::S_IFMT {
            libc::S_IFREG => stat.st_size == 0,
            libc::S_IFDIR => match directory(upper, path).map_err(failed)? {
                Some(handle) => names(handle.as_fd())
                    .map_err(failed)?
                    .iter()
                    .all(|name| found.contains(&[path, &b"/"[..], name].concat())),
                None => false,
            },
            _ => false,
        };
        if empty {
            found.insert(path.clone());
        }
    }
    Ok(found)
}

fn is_below(path: &[u8], above: &[u8]) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.starts_with(b"/"))
}

/// The names of `lower`'s directory at `path` that `upper` does not have.
fn missing(upper: BorrowedFd<'_>, lower: BorrowedFd<'_>, path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let Some(lower) = directory(lower, path)? else { return Ok(Vec::new()) };
    let there: BTreeSet<Vec<u8>> = names(upper)?.into_iter().collect();
    Ok(names(lower.as_fd())?.into_iter().filter(|name| !there.contains(name)).collect())
}

fn names(directory: BorrowedFd<'_>) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}

/// What is at `path`, no link on the way.
fn stat_below(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<Option<Stat>> {
    let (parent, name) = split(path);
    let Some(parent) = directory(root, parent)? else { return Ok(None) };
    match rustix::fs::statat(&parent, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok((!is_whiteout(&stat)).then_some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn directory(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<Option<OwnedFd>> {
    match super::extract::existing(root, path) {
        Ok(fd) => Ok(Some(fd)),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::root;

    fn tree(paths: &[&str]) -> (tempfile::TempDir, OwnedFd) {
        let folder = tempfile::tempdir().unwrap();
        for path in paths {
            let at = folder.path().join(path.trim_end_matches('/'));
            match path.ends_with('/') {
                true => std::fs::create_dir_all(&at).unwrap(),
                false => {
                    std::fs::create_dir_all(at.parent().unwrap()).unwrap();
                    std::fs::write(&at, path).unwrap();
                }
            }
        }
        // Directories of both sides have one time, as those have that overlayfs copied up.
        let mut todo = vec![folder.path().to_owned()];
        while let Some(path) = todo.pop() {
            if path.is_dir() {
                todo.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
            let handle = std::fs::File::open(&path).unwrap();
            handle.set_modified(std::time::UNIX_EPOCH).unwrap();
        }
        let handle = root::open_ambient_dir(folder.path()).unwrap();
        (folder, handle)
    }

    fn whiteout(root: &Path, path: &str) -> bool {
        let done = rustix::fs::mknodat(
            rustix::fs::CWD,
            root.join(path),
            rustix::fs::FileType::CharacterDevice,
            rustix::fs::Mode::empty(),
            0,
        );
        let parent = std::fs::File::open(root.join(path).parent().unwrap()).unwrap();
        parent.set_modified(std::time::UNIX_EPOCH).unwrap();
        done.is_ok()
    }

    #[test]
    fn changes_are_told_as_docker_does() {
        let (_below, lower) =
            tree(&["etc/passwd", "etc/deep/file", "usr/lib/gone", "usr/lib/kept", "old/a", "old/b"]);
        let (above, upper) =
            tree(&["etc/passwd", "etc/deep/new/x", "usr/lib/", "old/a", "srv/data/", "srv/data/x", "proc/"]);
        if !whiteout(above.path(), "usr/lib/gone") || !whiteout(above.path(), "never") {
            return;
        }
        let marks = Marks::User;
        let old = root::open_dir(&upper, "old").unwrap();
        let marked = Target::Handle(old.as_fd()).set(marks.opaque().as_bytes(), b"y").is_ok();
        let without = mount_points(upper.as_fd(), lower.as_fd(), [&b"/proc"[..]]).unwrap();
        assert_eq!(without, BTreeSet::from([b"proc".to_vec()]));
        let told: Vec<String> = changes(upper.as_fd(), lower.as_fd(), marks, &without)
            .unwrap()
            .into_iter()
            .map(|change| {
                let letter = match change.kind {
                    ChangeKind::Modified => 'C',
                    ChangeKind::Added => 'A',
                    ChangeKind::Deleted => 'D',
                };
                format!("{letter} {}", String::from_utf8(change.path).unwrap())
            })
            .collect();
        let mut wanted = vec![
            "C /etc/deep",
            "A /etc/deep/new",
            "A /etc/deep/new/x",
            "C /etc/passwd",
            "C /old",
            "C /old/a",
            "D /old/b",
            "A /srv",
            "A /srv/data",
            "A /srv/data/x",
            "C /usr/lib",
            "D /usr/lib/gone",
        ];
        if !marked {
            wanted.retain(|line| *line != "D /old/b" && *line != "C /old");
        }
        assert_eq!(told, wanted);
    }

    #[test]
    fn mount_points_hold_nothing_else() {
        let (_below, lower) = tree(&["etc/", "there/"]);
        let (_above, upper) = tree(&["a/b/c/", "x/y/", "x/z", "there/", "etc/full"]);
        std::fs::write(_above.path().join("etc/hosts"), "").unwrap();
        let targets = ["/a/b/c", "/x/y", "/there", "/etc/hosts", "/etc/full", "/missing"];
        let found =
            mount_points(upper.as_fd(), lower.as_fd(), targets.iter().map(|target| target.as_bytes()))
                .unwrap();
        let found: Vec<&str> = found.iter().map(|path| std::str::from_utf8(path).unwrap()).collect();
        assert_eq!(found, ["a", "a/b", "a/b/c", "etc/hosts", "x/y"]);
    }
}
