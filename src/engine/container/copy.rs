//! `cp`: files between a container and elsewhere, by Docker's rules for names.
//!
//! Both sides are a directory handle and a path that is resolved beneath it: for a container its root, for the host
//! `/`. What lies between is an archive, whose top has the name that the copy shall have; so the half that reads and
//! the half that writes trust each other with nothing but names, and each resolves its own.
//!
//! Source: docker/cli `command/container/cp.go`, moby `pkg/archive/copy.go`.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::root;
use crate::store::layer::{self, CopyError, Extracted, Extracting, PackError, Packing};

/// As many links as the kernel follows.
const LINKS: usize = 40;

/// A path of a tree.
#[derive(Debug, Clone, Copy)]
pub struct At<'a> {
    /// The tree's root.
    pub root: BorrowedFd<'a>,
    /// Resolved inside it; its end says more: `/` that it is a directory, `/.` that what it holds is meant.
    pub path: &'a str,
}

/// Why something was not copied.
#[derive(Debug, thiserror::Error)]
pub enum CpError {
    #[error("cannot find `{path}`")]
    Missing { path: String, source: io::Error },
    #[error("`{0}` is not a directory")]
    NotADirectory(String),
    #[error("cannot copy a directory over `{0}`, which is none")]
    OverFile(String),
    #[error("no such directory: `{0}`")]
    NoDirectory(String),
    #[error("an archive is extracted into a directory, and `{0}` is none")]
    StreamTarget(String),
    #[error(transparent)]
    Copy(#[from] CopyError),
}

impl From<PackError> for CpError {
    fn from(error: PackError) -> Self {
        Self::Copy(CopyError::Read(error))
    }
}

/// What is copied.
struct Source {
    handle: OwnedFd,
    directory: bool,
    /// What it holds is meant, not itself.
    contents: bool,
    /// By which name it was asked for.
    name: Vec<u8>,
}

/// Where it goes.
struct Destination {
    /// The directory that it is put into.
    into: PathBuf,
    /// What it is called there; none for its own name.
    name: Option<Vec<u8>>,
}

/// Copies what is at `from` to `to`. With `follow` the source may be a link, whose target is meant.
///
/// # Errors
/// [`CpError`]; what was copied before stays.
pub fn copy(from: At<'_>, to: At<'_>, follow: bool, extracting: &Extracting) -> Result<Extracted, CpError> {
    let source = source(from, follow)?;
    let destination = destination(to, &source)?;
    let top = match &destination.name {
        Some(name) => &name[..],
        None if source.contents => b"",
        None => &source.name[..],
    };
    let packing = Packing { top, ..Packing::ALL };
    Ok(layer::transfer(
        |out| layer::pack(source.handle.as_fd(), &packing, out),
        |tar| layer::extract(tar, to.root, &destination.into, extracting),
    )?)
}

/// Writes what is at `from` as an archive.
///
/// # Errors
/// [`CpError`].
pub fn copy_out(from: At<'_>, follow: bool, out: &mut dyn Write) -> Result<(), CpError> {
    let source = source(from, follow)?;
    let top: &[u8] = if source.contents { b"" } else { &source.name };
    Ok(layer::pack(source.handle.as_fd(), &Packing { top, precise: false, ..Packing::ALL }, out)?)
}

/// Extracts an archive into the directory `to`. Links that are there on the way to a member are followed inside the
/// tree.
///
/// # Errors
/// [`CpError`]; what was extracted before stays.
pub fn copy_in(archive: impl Read, to: At<'_>, extracting: &Extracting) -> Result<Extracted, CpError> {
    let path = root::clean(to.path);
    match root::open_dir(to.root, &path) {
        Ok(_) => {}
        Err(error) if error.raw_os_error() == Some(libc::ENOTDIR) => {
            return Err(CpError::StreamTarget(to.path.to_owned()));
        }
        Err(source) => return Err(CpError::Missing { path: to.path.to_owned(), source }),
    }
    let extracting = Extracting { follow: true, ..*extracting };
    let extracted = layer::extract(archive, to.root, Path::new(&path), &extracting);
    extracted.map_err(|error| CpError::Copy(CopyError::Write(error)))
}

fn source(from: At<'_>, follow: bool) -> Result<Source, CpError> {
    let end = End::of(from.path);
    let path = root::clean(from.path);
    let missing = |source: io::Error| CpError::Missing { path: from.path.to_owned(), source };
    let handle = if follow || end != End::Plain {
        root::open(from.root, &path, OFlags::PATH, Mode::empty()).map_err(missing)?
    } else {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let parent =
            root::open_dir(from.root, if parent.is_empty() { "/" } else { parent }).map_err(missing)?;
        match name {
            "" => parent,
            _ => root::open_no_links(&parent, name, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())
                .or_else(|error| match error.raw_os_error() {
                    // A link itself: what the flag above says is asked of the last name too.
                    Some(libc::ELOOP) => {
                        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                        Ok(rustix::fs::openat(&parent, name, flags, Mode::empty())?)
                    }
                    _ => Err(error),
                })
                .map_err(missing)?,
        }
    };
    let directory = super::mounts::is_directory(&handle);
    if !directory && end != End::Plain {
        return Err(CpError::NotADirectory(from.path.to_owned()));
    }
    let name = path.rsplit('/').next().unwrap_or_default().as_bytes().to_vec();
    Ok(Source { handle, directory, contents: directory && (end == End::Contents || name.is_empty()), name })
}

fn destination(to: At<'_>, source: &Source) -> Result<Destination, CpError> {
    let shown = || to.path.to_owned();
    let path = resolved(to)?;
    let found = root::open(to.root, &path, OFlags::PATH, Mode::empty());
    match found {
        Ok(there) if super::mounts::is_directory(&there) => Ok(Destination { into: path, name: None }),
        Ok(_) if End::of(to.path) != End::Plain => Err(CpError::NotADirectory(shown())),
        Ok(_) if source.directory => Err(CpError::OverFile(shown())),
        Ok(_) => named(to, &path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if !source.directory && End::of(to.path) != End::Plain {
                return Err(CpError::NoDirectory(shown()));
            }
            named(to, &path)
        }
        Err(source) => Err(CpError::Missing { path: shown(), source }),
    }
}

/// A name in a directory that must be there.
fn named(to: At<'_>, path: &Path) -> Result<Destination, CpError> {
    let (Some(into), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(CpError::NoDirectory(to.path.to_owned()));
    };
    match root::open_dir(to.root, into) {
        Ok(_) => Ok(Destination { into: into.to_owned(), name: Some(name.as_bytes().to_vec()) }),
        Err(source) => Err(CpError::Missing { path: into.display().to_string(), source }),
    }
}

/// The destination's path with the links of its last name followed, a dangling one too: what it names is made.
fn resolved(to: At<'_>) -> Result<PathBuf, CpError> {
    let mut path = PathBuf::from(root::clean(to.path));
    let failed = |source: io::Error| CpError::Missing { path: to.path.to_owned(), source };
    for _ in 0..LINKS {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(path) };
        let Ok(directory) = root::open_dir(to.root, parent) else { return Ok(path) };
        match rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => {
                let link = match rustix::fs::readlinkat(&directory, name, Vec::new()) {
                    Ok(link) => link,
                    // It is something else by now.
                    Err(Errno::INVAL | Errno::NOENT) => return Ok(path),
                    Err(error) => return Err(failed(error.into())),
                };
                // An absolute one takes the place of all, and begins at the tree's root.
                path = parent.join(OsStr::from_bytes(link.as_bytes()));
            }
            Ok(_) | Err(Errno::NOENT) => return Ok(path),
            Err(error) => return Err(failed(error.into())),
        }
    }
    Err(failed(Errno::LOOP.into()))
}

/// What the end of a path says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Plain,
    /// It is a directory.
    Directory,
    /// It is one, and what it holds is meant.
    Contents,
}

impl End {
    fn of(path: &str) -> Self {
        match path {
            "." | "/." => Self::Contents,
            path if path.ends_with("/.") => Self::Contents,
            path if path.ends_with('/') => Self::Directory,
            _ => Self::Plain,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;
    use crate::store::layer::{Devices, Ids, Limits, Owner};

    fn extracting() -> Extracting {
        let euid = rustix::process::geteuid();
        Extracting {
            owner: Owner::Is(euid.as_raw(), rustix::process::getegid().as_raw()),
            ids: Ids::Keep,
            devices: Devices::Skip,
            marks: false,
            follow: false,
            limits: Limits::GENEROUS,
        }
    }

    struct Trees {
        from: tempfile::TempDir,
        to: tempfile::TempDir,
    }

    impl Trees {
        fn new() -> Self {
            let trees = Self { from: tempfile::tempdir().unwrap(), to: tempfile::tempdir().unwrap() };
            let from = trees.from.path();
            std::fs::create_dir_all(from.join("d/sub")).unwrap();
            std::fs::write(from.join("d/sub/x"), "x").unwrap();
            std::fs::write(from.join("f"), "file").unwrap();
            symlink("f", from.join("link")).unwrap();
            symlink("d", from.join("dlink")).unwrap();
            std::fs::create_dir(trees.to.path().join("there")).unwrap();
            std::fs::write(trees.to.path().join("old"), "old").unwrap();
            trees
        }

        fn copy(&self, from: &str, to: &str, follow: bool) -> Result<Extracted, CpError> {
            let source = root::open_ambient_dir(self.from.path()).unwrap();
            let target = root::open_ambient_dir(self.to.path()).unwrap();
            let (from, to) = (At { root: source.as_fd(), path: from }, At { root: target.as_fd(), path: to });
            copy(from, to, follow, &extracting())
        }

        fn read(&self, path: &str) -> String {
            std::fs::read_to_string(self.to.path().join(path)).unwrap()
        }
    }

    #[test]
    fn names_follow_dockers_table() {
        let trees = Trees::new();
        for (from, to, made) in [
            ("/f", "/new", "new"),
            ("/f", "/there", "there/f"),
            ("/f", "/there/", "there/f"),
            ("/f", "/old", "old"),
            ("/d", "/there", "there/d/sub/x"),
            ("/d/.", "/there", "there/sub/x"),
            ("/d/", "/fresh", "fresh/sub/x"),
            ("/d/.", "/fresh2", "fresh2/sub/x"),
            ("/dlink/.", "/fresh3", "fresh3/sub/x"),
            ("d/sub/../sub/x", "there/../y", "y"),
            ("/../../f", "/../z", "z"),
        ] {
            trees.copy(from, to, false).unwrap();
            let want = if made.ends_with("/x") || made == "y" { "x" } else { "file" };
            assert_eq!(trees.read(made), want, "{from} {to}");
        }
        for (from, to) in [
            ("/missing", "/a"),
            ("/f/", "/a"),
            ("/f/.", "/a"),
            ("/link/", "/a"),
            ("/f", "/missing/"),
            ("/f", "/missing/a"),
            ("/d", "/missing/a"),
            ("/d", "/old"),
            ("/f", "/old/"),
            ("/f", "/old/x"),
        ] {
            assert!(trees.copy(from, to, false).is_err(), "{from} {to}");
        }
    }

    #[test]
    fn kinds_do_not_replace_each_other() {
        let trees = Trees::new();
        std::fs::create_dir_all(trees.to.path().join("there/f/kept")).unwrap();
        assert!(trees.copy("/f", "/there", false).is_err());
        std::fs::write(trees.to.path().join("there/d"), "kept").unwrap();
        assert!(trees.copy("/d", "/there", false).is_err());
        assert_eq!(trees.read("there/d"), "kept");
        // Nor does a link to a directory count as one: the copy would go where it leads.
        std::fs::remove_file(trees.to.path().join("there/d")).unwrap();
        symlink("f", trees.to.path().join("there/d")).unwrap();
        assert!(trees.copy("/d", "/there", false).is_err());
        assert_eq!(std::fs::read_dir(trees.to.path().join("there/f")).unwrap().count(), 1);
    }

    #[test]
    fn links_are_copied_or_followed_and_never_lead_out() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("canary"), "secret").unwrap();
        let trees = Trees::new();
        trees.copy("/link", "/there", false).unwrap();
        assert_eq!(std::fs::read_link(trees.to.path().join("there/link")).unwrap(), Path::new("f"));
        trees.copy("/link", "/there/followed", true).unwrap();
        assert_eq!(trees.read("there/followed"), "file");
        let canary = outside.path().join("canary");
        symlink(&canary, trees.from.path().join("out")).unwrap();
        symlink(outside.path(), trees.from.path().join("outdir")).unwrap();
        for from in ["/out", "/outdir/canary", "/outdir/"] {
            assert!(trees.copy(from, "/there/stolen", true).is_err(), "{from}");
        }
        symlink(outside.path(), trees.to.path().join("wayout")).unwrap();
        symlink(&canary, trees.to.path().join("over")).unwrap();
        assert!(trees.copy("/f", "/wayout/canary", false).is_err());
        assert!(trees.copy("/f", "/over", false).is_err());
        assert_eq!(std::fs::read_to_string(canary).unwrap(), "secret");
        // A dangling link is followed to what it names, inside.
        symlink("/there/made", trees.to.path().join("dangling")).unwrap();
        trees.copy("/f", "/dangling", false).unwrap();
        assert_eq!(trees.read("there/made"), "file");
    }

    #[test]
    fn modes_and_times_come_along_and_set_id_bits_do_not() {
        let trees = Trees::new();
        let file = trees.from.path().join("f");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o6751)).unwrap();
        let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_600_000_000, 42);
        std::fs::File::open(&file).unwrap().set_modified(time).unwrap();
        trees.copy("/f", "/there", false).unwrap();
        let metadata = std::fs::metadata(trees.to.path().join("there/f")).unwrap();
        assert_eq!(metadata.mode() & 0o7777, 0o751);
        assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (1_600_000_000, 42));
    }

    #[test]
    fn archives_go_in_and_out() {
        let trees = Trees::new();
        let source = root::open_ambient_dir(trees.from.path()).unwrap();
        let mut tar = Vec::new();
        copy_out(At { root: source.as_fd(), path: "/d" }, false, &mut tar).unwrap();
        let target = root::open_ambient_dir(trees.to.path()).unwrap();
        let to = |path| At { root: target.as_fd(), path };
        symlink("/there", trees.to.path().join("d")).unwrap();
        let refused = copy_in(&tar[..], to("/"), &extracting());
        assert!(refused.is_err(), "a directory over a link");
        std::fs::remove_file(trees.to.path().join("d")).unwrap();
        copy_in(&tar[..], to("/"), &extracting()).unwrap();
        assert_eq!(trees.read("d/sub/x"), "x");
        assert!(matches!(copy_in(&tar[..], to("/old"), &extracting()), Err(CpError::StreamTarget(_))));
        assert!(matches!(copy_in(&tar[..], to("/none"), &extracting()), Err(CpError::Missing { .. })));
        assert!(copy_in(&tar[..700], to("/"), &extracting()).is_err());
    }

    #[test]
    fn hostile_archives_stay_inside() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("canary"), "secret").unwrap();
        let trees = Trees::new();
        let canary = outside.path().join("canary");
        symlink(outside.path(), trees.to.path().join("out")).unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(4);
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        let raw = |header: &mut tar::Header, name: &str| {
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
        };
        let mut up = header.clone();
        raw(&mut up, "../../../up");
        tar.append(&up, &b"evil"[..]).unwrap();
        let mut through = header.clone();
        raw(&mut through, "out/canary");
        tar.append(&through, &b"evil"[..]).unwrap();
        let mut link = header.clone();
        link.set_size(0);
        link.set_entry_type(tar::EntryType::Link);
        link.set_link_name(&canary).unwrap();
        raw(&mut link, "hard");
        let target = root::open_ambient_dir(trees.to.path()).unwrap();
        let to = At { root: target.as_fd(), path: "/" };
        copy_in(&tar.into_inner().unwrap()[..], to, &extracting()).unwrap();
        assert_eq!(trees.read("up"), "evil");
        assert!(trees.to.path().join(canary.strip_prefix("/").unwrap()).exists(), "the link's path, inside");
        let mut tar = tar::Builder::new(Vec::new());
        tar.append(&link, &b""[..]).unwrap();
        std::fs::remove_file(trees.to.path().join(canary.strip_prefix("/").unwrap())).unwrap();
        assert!(copy_in(&tar.into_inner().unwrap()[..], to, &extracting()).is_err());
        assert_eq!(std::fs::read_to_string(canary).unwrap(), "secret");
    }
}
