//! What a step wrote, as a layer: brought into normal form, hashed and measured in one pass.
//!
//! An upper directory tells more than the difference: overlayfs keeps notes in attributes, marks renamed
//! directories opaque that hide nothing, and leaves whiteouts of what the same step made and removed. Left
//! in, they would make the digest depend on how a tree was made. So they are removed first, in place,
//! and from then on [`write_tar`] gives the same bytes without looking at what lies below.
//!
//! **Times** are whole seconds, rounded down, in the archive. Nanoseconds would cost a PAX header of
//! 1 KiB for nearly every file; Docker's and BuildKit's layers have none; and rounding down keeps the
//! order of any two files that `make` could compare, and the seconds that Python's caches record.
//!
//! **The content digest** is of the same facts but the times. It is part of records that are exported and
//! shared between machines, so it must never change: sha256 over length-prefixed fields, with blake3 of
//! each file's bytes (the archive's sha256 runs over the same bytes at a quarter of the speed). Whoever
//! must change it changes the words in [`Content::new`].

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, Mode, OFlags};

use super::attributes::{Marks, Target, Xattrs, alike, is_carried, is_private, is_whiteout, permissions};
use super::hashing::BackgroundHash;
use super::lower::{Below, Lower};
use super::path::{PathError, show, split};
use super::tar_writer::{Header, write_end, write_header, write_padding};
use super::walk::{Entry, Visit, walk};
use crate::digest::{ContentDigest, DiffId, Hasher};

/// A layer that a step made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Of all facts but the times.
    pub content: ContentDigest,
    /// Of the archive that [`write_tar`] writes.
    pub diff_id: DiffId,
    /// That archive's length.
    pub tar_size: u64,
    /// How many bytes the layer's files have; hard links count once.
    pub unpacked_size: u64,
    /// How many members the archive has.
    pub entries: u64,
    /// The step changed nothing: the layer can be left out.
    pub empty: bool,
    /// As in [`super::Applied::implied`]: `/` if the root's mode and owner are those of the tree below.
    pub implied: Vec<String>,
}

/// Why a directory could not become a layer.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    #[error(transparent)]
    Path(#[from] PathError),
    #[error("cannot store `{path}` in an image layer: {reason}")]
    Unstorable { path: String, reason: &'static str },
    #[error("`{0}` changed while it was read")]
    Changed(String),
    #[error("cannot write the layer's archive")]
    Write(#[source] io::Error),
}

/// Turns the upper directory `upper` of an overlay mount, which is unmounted, into a layer: normalises it
/// in place and measures it. `lower` is the tree that it was written over.
///
/// # Errors
/// [`CommitError`]: a name that begins with `.wh.` or an attribute with `=` in its name cannot be stored.
pub fn commit(upper: BorrowedFd<'_>, lower: Lower<'_>, marks: Marks) -> Result<Committed, CommitError> {
    super::untouched::remove(upper, lower, marks)?;
    commit_clean(upper, lower, marks)
}

/// As [`commit`], of a directory that has no overlay's notes and leavings: one that was written as a
/// [`super::ground::Ground`].
///
/// # Errors
/// As [`commit`].
pub fn commit_clean(upper: BorrowedFd<'_>, lower: Lower<'_>, marks: Marks) -> Result<Committed, CommitError> {
    let below = Below::new(lower);
    let hash = Measured { hash: BackgroundHash::new(), inner: io::sink() };
    let mut stream = Stream::new(hash, marks, Some(below), Some(Content::new()));
    stream.run(upper)?;
    let content = stream.content.take().expect("it was given to the stream").finish();
    Ok(Committed {
        content,
        tar_size: stream.out.hash.size(),
        diff_id: DiffId(stream.out.hash.finish()),
        unpacked_size: stream.unpacked_size,
        entries: stream.entries,
        empty: stream.entries == 0,
        implied: if stream.root_stated { Vec::new() } else { vec!["/".to_owned()] },
    })
}

/// Writes the layer directory `fs` as an archive, canonically, and gives the archive's digest: that of the
/// layer if [`commit`] made it or [`super::apply`] unpacked what this wrote.
///
/// # Errors
/// As [`commit`].
pub fn write_tar(fs: BorrowedFd<'_>, marks: Marks, out: &mut dyn Write) -> Result<DiffId, CommitError> {
    let hash = Measured { hash: BackgroundHash::new(), inner: out };
    let mut stream = Stream::new(hash, marks, None, None);
    stream.run(fs)?;
    stream.out.inner.flush().map_err(CommitError::Write)?;
    Ok(DiffId(stream.out.hash.finish()))
}

/// Digests the layer directory `fs` again, which [`commit`] made or [`super::apply`] unpacked: what it
/// holds, and the archive that [`write_tar`] would write of it.
///
/// # Errors
/// As [`commit`].
pub fn measure(fs: BorrowedFd<'_>, marks: Marks) -> Result<(ContentDigest, DiffId), CommitError> {
    let hash = Measured { hash: BackgroundHash::new(), inner: io::sink() };
    let mut stream = Stream::new(hash, marks, None, Some(Content::new()));
    stream.run(fs)?;
    let content = stream.content.take().expect("it was given to the stream").finish();
    Ok((content, DiffId(stream.out.hash.finish())))
}

struct Measured<W> {
    hash: BackgroundHash,
    inner: W,
}

impl<W: Write> Write for Measured<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner.write_all(bytes)?;
        self.hash.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

struct Stream<'a, W> {
    out: Measured<W>,
    marks: Marks,
    /// There while the directory is yet to be normalised.
    below: Option<Below<'a>>,
    content: Option<Content>,
    /// The first path of each file that has several.
    links: HashMap<(u64, u64), Vec<u8>>,
    unpacked_size: u64,
    entries: u64,
    root_stated: bool,
    buffer: Vec<u8>,
}

impl<'a, W: Write> Stream<'a, W> {
    fn new(out: Measured<W>, marks: Marks, below: Option<Below<'a>>, content: Option<Content>) -> Self {
        Self {
            out,
            marks,
            below,
            content,
            links: HashMap::new(),
            unpacked_size: 0,
            entries: 0,
            root_stated: false,
            buffer: vec![0; 128 << 10],
        }
    }

    fn run(&mut self, fs: BorrowedFd<'_>) -> Result<(), CommitError> {
        walk(fs, |entry| self.entry(entry))?;
        write_end(&mut self.out).map_err(CommitError::Write)
    }

    fn entry(&mut self, entry: &Entry<'_>) -> Result<Visit, CommitError> {
        if entry.name.as_bytes().starts_with(b".wh.") {
            let reason = "names that begin with `.wh.` mean that something was removed";
            return Err(CommitError::Unstorable { path: show(entry.path), reason });
        }
        if let Some(handle) = entry.handle {
            return self.directory(entry, handle);
        }
        let kind = entry.stat.st_mode & libc::S_IFMT;
        if is_whiteout(entry.stat) {
            if let Some(below) = &mut self.below
                && below.kind(entry.path)?.is_none()
            {
                return remove(entry);
            }
            self.marker(entry.path, b"whiteout")?;
            return Ok(Visit::Kept);
        }
        // Nobody listens on a socket in an image, and tar has no word for one.
        if kind == libc::S_IFSOCK {
            return if self.below.is_some() { remove(entry) } else { Ok(Visit::Kept) };
        }
        if entry.stat.st_nlink > 1 {
            let identity = (entry.stat.st_dev, entry.stat.st_ino);
            if let Some(first) = self.links.get(&identity).cloned() {
                self.emit(entry, b'1', &first, (0, 0), &[])?;
                return Ok(Visit::Kept);
            }
            self.links.insert(identity, entry.path.to_vec());
        }
        let target = Target::Name(entry.parent, entry.name);
        let device = (rustix::fs::major(entry.stat.st_rdev), rustix::fs::minor(entry.stat.st_rdev));
        match kind {
            libc::S_IFREG => self.file(entry)?,
            libc::S_IFLNK => {
                let link = rustix::fs::readlinkat(entry.parent, entry.name, Vec::new())
                    .map_err(|error| PathError::new("read the link", entry.path, error))?;
                let xattrs = self.xattrs(&target, entry.path, false)?;
                self.emit(entry, b'2', link.as_bytes(), (0, 0), &xattrs)?;
            }
            libc::S_IFCHR | libc::S_IFBLK | libc::S_IFIFO => {
                let xattrs = self.xattrs(&target, entry.path, false)?;
                let (flag, device) = match kind {
                    libc::S_IFCHR => (b'3', device),
                    libc::S_IFBLK => (b'4', device),
                    _ => (b'6', (0, 0)),
                };
                self.emit(entry, flag, b"", device, &xattrs)?;
            }
            _ => {
                let reason = "it is of an unknown type";
                return Err(CommitError::Unstorable { path: show(entry.path), reason });
            }
        }
        Ok(Visit::Kept)
    }

    fn directory(&mut self, entry: &Entry<'_>, handle: BorrowedFd<'_>) -> Result<Visit, CommitError> {
        let failed = |error: io::Error| PathError::new("read the marks of", entry.path, error);
        let target = Target::Handle(handle);
        let root = entry.path.is_empty();
        let mut opaque =
            target.get(self.marks.opaque().as_bytes()).map_err(failed)?.as_deref() == Some(&b"y"[..]);
        let stated;
        if let Some(below) = &mut self.below {
            opaque = opaque && !root && below.kind(entry.path)? == Some(libc::S_IFDIR);
            if opaque {
                below.hide(entry.path);
            }
            stated = !root || root_differs(handle, entry.stat, below.lower()).map_err(failed)?;
        } else {
            stated = target.get(self.marks.implied().as_bytes()).map_err(failed)?.is_none();
        }
        let xattrs = self.xattrs(&target, entry.path, opaque)?;
        if root {
            self.root_stated = stated;
            if self.below.is_some() && !stated {
                target
                    .set(self.marks.implied().as_bytes(), b"y")
                    .map_err(|error| PathError::new("mark", entry.path, error))?;
            }
        }
        if stated {
            self.emit(entry, b'5', b"", (0, 0), &xattrs)?;
        }
        if opaque {
            self.marker(entry.path, b"opaque")?;
        }
        Ok(Visit::Kept)
    }

    fn file(&mut self, entry: &Entry<'_>) -> Result<(), CommitError> {
        let failed = |error: io::Error| PathError::new("read", entry.path, error);
        // Not blocking: it is a file by its stat, but who knows by now.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(entry.parent, entry.name, flags, Mode::empty())
            .map_err(|error| failed(error.into()))?;
        let mut file = File::from(fd);
        let xattrs = self.xattrs(&Target::Handle(file.as_fd()), entry.path, false)?;
        let size = entry.stat.st_size as u64;
        self.emit(entry, b'0', b"", (0, 0), &xattrs)?;
        let mut bytes = blake3::Hasher::new();
        let mut left = size;
        while left > 0 {
            let want = self.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let read = match file.read(&mut self.buffer[..want]) {
                Ok(0) => return Err(CommitError::Changed(show(entry.path))),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed(error).into()),
            };
            let chunk = &self.buffer[..read];
            if self.content.is_some() {
                bytes.update(chunk);
            }
            self.out.write_all(chunk).map_err(CommitError::Write)?;
            left -= read as u64;
        }
        write_padding(&mut self.out, size).map_err(CommitError::Write)?;
        self.unpacked_size += size;
        if let Some(content) = &mut self.content {
            content.0.update(bytes.finalize().as_bytes());
        }
        Ok(())
    }

    /// The attributes that belong to the layer; overlayfs' own are removed while normalising.
    fn xattrs(&self, target: &Target<'_>, path: &[u8], opaque: bool) -> Result<Xattrs, CommitError> {
        let failed = |error: io::Error| PathError::new("read the extended attributes of", path, error);
        if self.below.is_some() {
            for (name, _) in target.read(is_private).map_err(failed)? {
                if !(opaque && name == self.marks.opaque().as_bytes()) {
                    target.remove(&name).map_err(failed)?;
                }
            }
        }
        let xattrs = target.read(is_carried).map_err(failed)?;
        if xattrs.iter().any(|(name, _)| name.contains(&b'=')) {
            let reason = "one of its extended attributes has `=` in its name";
            return Err(CommitError::Unstorable { path: show(path), reason });
        }
        Ok(xattrs)
    }

    /// Writes one member's header, and its facts into the content digest.
    fn emit(
        &mut self,
        entry: &Entry<'_>,
        kind: u8,
        link: &[u8],
        device: (u32, u32),
        xattrs: &[(Vec<u8>, Vec<u8>)],
    ) -> Result<(), CommitError> {
        let mut path = if entry.path.is_empty() { b".".to_vec() } else { entry.path.to_vec() };
        if kind == b'5' {
            path.push(b'/');
        }
        let header = Header {
            path: &path,
            link,
            kind,
            mode: if kind == b'2' { 0o777 } else { permissions(entry.stat) },
            uid: entry.stat.st_uid,
            gid: entry.stat.st_gid,
            size: if kind == b'0' { entry.stat.st_size as u64 } else { 0 },
            mtime: entry.stat.st_mtime,
            nanoseconds: 0,
            device,
            xattrs,
        };
        if let Some(content) = &mut self.content {
            content.member(&header);
        }
        self.entries += 1;
        write_header(&mut self.out, &header).map_err(CommitError::Write)
    }

    /// Writes the empty file that says that something below is gone.
    fn marker(&mut self, path: &[u8], what: &[u8]) -> Result<(), CommitError> {
        let marker = match what {
            b"opaque" if path.is_empty() => b".wh..wh..opq".to_vec(),
            b"opaque" => [path, b"/.wh..wh..opq"].concat(),
            _ => {
                let (parent, name) = split(path);
                let slash: &[u8] = if parent.is_empty() { b"" } else { b"/" };
                [parent, slash, b".wh.", name].concat()
            }
        };
        if let Some(content) = &mut self.content {
            content.0.field(what);
            content.0.field(path);
        }
        self.entries += 1;
        let header = Header {
            path: &marker,
            link: b"",
            kind: b'0',
            mode: 0,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: 0,
            nanoseconds: 0,
            device: (0, 0),
            xattrs: &[],
        };
        write_header(&mut self.out, &header).map_err(CommitError::Write)
    }
}

fn remove(entry: &Entry<'_>) -> Result<Visit, CommitError> {
    rustix::fs::unlinkat(entry.parent, entry.name, AtFlags::empty())
        .map_err(|error| PathError::new("remove", entry.path, error))?;
    Ok(Visit::Removed)
}

/// Whether a step changed the root itself. Its time changes with every step that makes a file there, and
/// says nothing.
fn root_differs(handle: BorrowedFd<'_>, stat: &rustix::fs::Stat, lower: Lower<'_>) -> io::Result<bool> {
    match lower.directory(b"")? {
        Some(lower) => Ok(!alike(handle, lower.as_fd())?),
        None => {
            let plain = permissions(stat) == 0o755 && (stat.st_uid, stat.st_gid) == (0, 0);
            Ok(!plain || !Target::Handle(handle).read(is_carried)?.is_empty())
        }
    }
}

/// The content digest in the making.
struct Content(Hasher);

impl Content {
    fn new() -> Self {
        let mut hasher = Hasher::new();
        hasher.field(b"stave content 1");
        Self(hasher)
    }

    /// A member's facts; a file's bytes follow as their blake3.
    fn member(&mut self, header: &Header<'_>) {
        let hasher = &mut self.0;
        hasher.field(&[header.kind]);
        hasher.field(header.path);
        hasher.field(header.link);
        for number in [header.mode, header.uid, header.gid, header.device.0, header.device.1] {
            hasher.update(&number.to_le_bytes());
        }
        hasher.update(&header.size.to_le_bytes());
        hasher.update(&(header.xattrs.len() as u64).to_le_bytes());
        for (name, value) in header.xattrs {
            hasher.field(name);
            hasher.field(value);
        }
    }

    fn finish(mut self) -> ContentDigest {
        self.0.field(b"end");
        ContentDigest(self.0.finish())
    }
}
