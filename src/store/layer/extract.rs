//! An archive's members put into a tree that is there already, and in use perhaps: `cp`, the filling of volumes.
//!
//! Unlike `apply.rs`, which fills an empty directory that nobody else knows, the tree may be a running container's,
//! whose processes rename things meanwhile, or a person's own folder, into which an archive of a container's making
//! goes. So:
//!
//! - each member's parent is opened anew beneath the root, by the kernel (`root`), and all that happens to the member
//!   happens to a name in that handle, and then to a handle of its own;
//! - files are made with `O_EXCL`, and what is made is set through its handle. Someone who was quick enough to put
//!   something else there gets the attributes of a file in their own tree set;
//! - what stands in the way is removed if it is no directory; a directory never gives way to something else, nor the
//!   other way round, as in Docker;
//! - whose files they become, and whether devices and set-id bits come along, is the caller's to say.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::apply::{Devices, Ids, Limits};
use super::archive::{Archive, ArchiveError, Kind, Member};
use super::attributes::{Target, is_carried, is_private, times};
use super::pack::{PackError, Packing, pack, reopen};
use super::path::{PathError, clean, show, split};
use crate::root;

/// How often a name is tried that somebody else makes at the same moment.
const TRIES: usize = 64;

/// How an archive goes into a tree.
#[derive(Debug, Clone, Copy)]
pub struct Extracting {
    pub owner: Owner,
    pub ids: Ids,
    pub devices: Devices,
    /// Whether overlayfs' marks and whiteouts of [`super::Packing::marks`] are made again.
    pub marks: bool,
    /// Whether links on the way to a member are followed, inside the root. If not, one is an error.
    pub follow: bool,
    pub limits: Limits,
}

/// Whose the files become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The archive's owners.
    Keep,
    /// This user and group. Set-id bits are dropped with the owner that they spoke of, and all attributes but
    /// `user.*`: a capability is worth what its owner is trusted with.
    Is(u32, u32),
}

/// What came of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extracted {
    pub entries: u64,
    /// Bytes of files.
    pub bytes: u64,
    /// Devices that were left out.
    pub skipped: u64,
}

/// Why an archive was not put into a tree. What was put there before stays.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Path(#[from] PathError),
    #[error("cannot overwrite non-directory `{0}` with a directory")]
    OverFile(String),
    #[error("cannot overwrite directory `{0}` with a non-directory")]
    OverDirectory(String),
    #[error("`{path}` is a hard link to `{target}`, which is not there")]
    HardLink { path: String, target: String },
    #[error("`{0}` belongs to an id that is none")]
    Owner(String),
    #[error("the archive has more than {0} members")]
    TooMany(u64),
    #[error("the files of the archive are larger than {0} bytes together")]
    TooLarge(u64),
}

/// Puts the members of `tar` below the directory `into` of the tree `root`, which is resolved inside it and must be
/// there.
///
/// # Errors
/// [`ExtractError`].
pub fn extract(
    tar: impl Read,
    root: BorrowedFd<'_>,
    into: &Path,
    extracting: &Extracting,
) -> Result<Extracted, ExtractError> {
    let failed = |error: io::Error| PathError::new("open", into.as_os_str().as_bytes(), error);
    let top = root::open_dir(root, into).map_err(failed)?;
    let mut extract = Extract {
        root,
        into,
        top,
        last: None,
        extracting,
        directories: Vec::new(),
        done: Extracted::default(),
        buffer: vec![0; 128 << 10],
    };
    let mut archive = Archive::new(tar);
    while let Some(member) = archive.next()? {
        extract.done.entries += 1;
        if extract.done.entries > extracting.limits.entries {
            return Err(ExtractError::TooMany(extracting.limits.entries));
        }
        extract.member(&mut archive, &member)?;
    }
    // A pipe's other end shall not find it closed.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(ArchiveError::Read)?;
    extract.finish()?;
    Ok(extract.done)
}

/// A path, the device and inode, and seconds and nanoseconds.
type Directory = (Vec<u8>, (u64, u64), (i64, u32));

struct Extract<'a> {
    root: BorrowedFd<'a>,
    into: &'a Path,
    top: OwnedFd,
    /// The parent that was opened last.
    last: Option<(Vec<u8>, OwnedFd)>,
    extracting: &'a Extracting,
    /// Directories with their identity, and the time that each shall have in the end.
    directories: Vec<Directory>,
    done: Extracted,
    buffer: Vec<u8>,
}

impl Extract<'_> {
    fn member<R: Read>(&mut self, archive: &mut Archive<R>, member: &Member) -> Result<(), ExtractError> {
        let path = &clean(&member.path)[..];
        if path.is_empty() {
            // The directory that all goes into: it is there, and stays as it is.
            return Ok(());
        }
        let (parent_path, name) = split(path);
        let parent = self.parent(parent_path)?;
        let (parent, name) = (parent.as_fd(), OsStr::from_bytes(name));
        match member.kind {
            Kind::Directory => self.directory(parent, name, member, path),
            Kind::File => self.file(parent, name, archive, member, path),
            Kind::SymbolicLink => {
                let made = self.make(parent, name, path, |parent, name| {
                    rustix::fs::symlinkat(&member.link[..], parent, name)
                })?;
                self.attributes(made.as_fd(), member, path)
            }
            Kind::HardLink => self.hard_link(parent, name, member, path),
            Kind::Fifo => {
                let made = self.make(parent, name, path, |parent, name| {
                    rustix::fs::mknodat(parent, name, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
                })?;
                self.attributes(made.as_fd(), member, path)
            }
            Kind::CharacterDevice | Kind::BlockDevice => self.device(parent, name, member, path),
        }
    }

    /// The directory at a cleaned path, made with its parents where it is missing.
    fn parent(&mut self, path: &[u8]) -> Result<OwnedFd, ExtractError> {
        let failed = |error: io::Error| PathError::new("enter the directory", path, error);
        // A handle that was opened for the member before is as good as a new one: it is where that member went.
        if let Some((last, fd)) = &self.last
            && last == path
        {
            return Ok(fd.try_clone().map_err(failed)?);
        }
        let fd = match self.extracting.follow {
            true => {
                let whole = self.into.join(OsStr::from_bytes(path));
                root::create_dirs(self.root, whole, Mode::from_raw_mode(0o755)).map_err(failed)?.0
            }
            false => beneath(self.top.as_fd(), path).map_err(failed)?,
        };
        self.last = Some((path.to_vec(), fd.try_clone().map_err(failed)?));
        Ok(fd)
    }

    fn directory(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        member: &Member,
        path: &[u8],
    ) -> Result<(), ExtractError> {
        let failed = |error: Errno| PathError::new("make the directory", path, error);
        match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(failed(error).into()),
        }
        let fd = match open_directory(parent, name) {
            Ok(fd) => fd,
            Err(Errno::NOTDIR | Errno::LOOP) => return Err(ExtractError::OverFile(show(path))),
            Err(error) => return Err(failed(error).into()),
        };
        self.last = None;
        self.attributes(fd.as_fd(), member, path)?;
        let stat = rustix::fs::fstat(&fd).map_err(failed)?;
        self.directories.push((path.to_vec(), (stat.st_dev, stat.st_ino), member.mtime));
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        archive: &mut Archive<R>,
        member: &Member,
        path: &[u8],
    ) -> Result<(), ExtractError> {
        let limit = self.extracting.limits.size;
        if member.size > limit.saturating_sub(self.done.bytes) {
            return Err(ExtractError::TooLarge(limit));
        }
        let failed = |error: io::Error| PathError::new("write", path, error);
        let mut file = match self.new_file(parent, name, path)? {
            Some(file) => file,
            None => self.mounted_file(parent, name, path)?,
        };
        self.done.bytes += member.size;
        let mut data = archive.data(member);
        let (mut left, mut hole) = (member.size, false);
        while left > 0 {
            let want = self.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let chunk = &mut self.buffer[..want];
            data.read_exact(chunk).map_err(ArchiveError::Read)?;
            // Long runs of zeros become holes, or a sparse file of 1 TiB would fill the disk.
            hole = chunk.len() >= 4096 && chunk.iter().all(|byte| *byte == 0);
            match hole {
                true => file.seek(SeekFrom::Current(want as i64)).map(drop).map_err(failed)?,
                false => file.write_all(chunk).map_err(failed)?,
            }
            left -= want as u64;
        }
        drop(data);
        if hole {
            file.set_len(member.size).map_err(failed)?;
        }
        self.attributes(file.as_fd(), member, path)
    }

    /// A new file in place of what the name was; nothing if that is mounted there.
    fn new_file(
        &self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        path: &[u8],
    ) -> Result<Option<File>, ExtractError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for _ in 0..TRIES {
            match rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR) {
                Ok(fd) => return Ok(Some(File::from(fd))),
                Err(Errno::EXIST) => match self.clear(parent, name, path) {
                    Err(ExtractError::Path(error)) if error.source.kind() == io::ErrorKind::ResourceBusy => {
                        return Ok(None);
                    }
                    cleared => cleared?,
                },
                Err(error) => return Err(PathError::new("make", path, error).into()),
            }
        }
        Err(PathError::new("make", path, Errno::EXIST).into())
    }

    /// A file that something is mounted on, as `/etc/hosts` is: it cannot be replaced, only written.
    fn mounted_file(&self, parent: BorrowedFd<'_>, name: &OsStr, path: &[u8]) -> Result<File, ExtractError> {
        let failed = |error: io::Error| PathError::new("write", path, error);
        let opened = open_path(parent, name).map_err(|error| failed(error.into()))?;
        let stat = rustix::fs::fstat(&opened).map_err(|error| failed(error.into()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(failed(Errno::BUSY.into()).into());
        }
        Ok(reopen(opened.as_fd(), OFlags::WRONLY | OFlags::TRUNC).map_err(failed)?)
    }

    /// Makes something that is no directory and no file, in place of what the name was, and opens it.
    fn make(
        &self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        path: &[u8],
        make: impl Fn(BorrowedFd<'_>, &OsStr) -> Result<(), Errno>,
    ) -> Result<OwnedFd, ExtractError> {
        for _ in 0..TRIES {
            match make(parent, name) {
                Ok(()) => {
                    return Ok(open_path(parent, name).map_err(|error| PathError::new("open", path, error))?);
                }
                Err(Errno::EXIST) => self.clear(parent, name, path)?,
                Err(error) => return Err(PathError::new("make", path, error).into()),
            }
        }
        Err(PathError::new("make", path, Errno::EXIST).into())
    }

    /// Removes what a name is, unless that is a directory.
    fn clear(&self, parent: BorrowedFd<'_>, name: &OsStr, path: &[u8]) -> Result<(), ExtractError> {
        match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR) => Err(ExtractError::OverDirectory(show(path))),
            Err(error) => {
                let directory = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
                    .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
                match directory {
                    true => Err(ExtractError::OverDirectory(show(path))),
                    false => Err(PathError::new("replace", path, error).into()),
                }
            }
        }
    }

    fn hard_link(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        member: &Member,
        path: &[u8],
    ) -> Result<(), ExtractError> {
        let missing = || ExtractError::HardLink { path: show(path), target: show(&member.link) };
        let target = clean(&member.link);
        let (target_parent, target_name) = split(&target);
        if target_name.is_empty() {
            return Err(missing());
        }
        let from = match self.extracting.follow {
            true => root::open_dir(self.root, self.into.join(OsStr::from_bytes(target_parent))),
            false => root::open_no_links(
                &self.top,
                OsStr::from_bytes(target_parent),
                OFlags::PATH | OFlags::DIRECTORY,
                Mode::empty(),
            ),
        };
        let from = from.map_err(|_| missing())?;
        let target_name = OsStr::from_bytes(target_name);
        for _ in 0..TRIES {
            match rustix::fs::linkat(&from, target_name, parent, name, AtFlags::empty()) {
                Ok(()) => return Ok(()),
                Err(Errno::EXIST) => {
                    let stat = |at: BorrowedFd<'_>, name: &OsStr| {
                        rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW)
                            .map(|stat| (stat.st_dev, stat.st_ino))
                    };
                    if stat(from.as_fd(), target_name) == stat(parent, name) {
                        return Ok(());
                    }
                    self.clear(parent, name, path)?;
                }
                Err(Errno::NOENT) => return Err(missing()),
                Err(error) => return Err(PathError::new("make the hard link", path, error).into()),
            }
        }
        Err(PathError::new("make the hard link", path, Errno::EXIST).into())
    }

    fn device(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        member: &Member,
        path: &[u8],
    ) -> Result<(), ExtractError> {
        let (major, minor) = member.device;
        let whiteout = member.kind == Kind::CharacterDevice && (major, minor) == (0, 0);
        let wanted =
            if whiteout { self.extracting.marks } else { self.extracting.devices == Devices::Create };
        if !wanted || major >= 1 << 12 || minor >= 1 << 20 {
            self.done.skipped += 1;
            return Ok(());
        }
        let kind = match member.kind {
            Kind::CharacterDevice => FileType::CharacterDevice,
            _ => FileType::BlockDevice,
        };
        let mode = if whiteout { Mode::empty() } else { Mode::RUSR | Mode::WUSR };
        let number = rustix::fs::makedev(major, minor);
        let made = self
            .make(parent, name, path, |parent, name| rustix::fs::mknodat(parent, name, kind, mode, number))?;
        if whiteout { Ok(()) } else { self.attributes(made.as_fd(), member, path) }
    }

    /// Owner, mode, extended attributes and time, by a handle, which may be an `O_PATH` one; in the only order that
    /// keeps them all: changing the owner clears set-id bits and capabilities.
    fn attributes(&self, fd: BorrowedFd<'_>, member: &Member, path: &[u8]) -> Result<(), ExtractError> {
        let failed = |doing| move |error: Errno| PathError::new(doing, path, error);
        let (uid, gid, foreign) = match (self.extracting.owner, self.extracting.ids) {
            (Owner::Is(uid, gid), _) => (uid, gid, true),
            (Owner::Keep, Ids::Single) => (0, 0, false),
            (Owner::Keep, Ids::Keep) => {
                let id = |id: u64| {
                    u32::try_from(id)
                        .ok()
                        .filter(|id| *id != u32::MAX)
                        .ok_or_else(|| ExtractError::Owner(show(path)))
                };
                (id(member.uid)?, id(member.gid)?, false)
            }
        };
        let (user, group) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        rustix::fs::chownat(fd, c"", user, group, AtFlags::EMPTY_PATH)
            .map_err(failed("change the owner of"))?;
        if member.kind != Kind::SymbolicLink {
            let mode = if foreign { member.mode & 0o1777 } else { member.mode };
            let through = format!("/proc/self/fd/{}", fd.as_raw_fd());
            rustix::fs::chmod(through, Mode::from_raw_mode(mode)).map_err(failed("change the mode of"))?;
        }
        let marks = self.extracting.marks;
        let wanted = |name: &[u8]| match foreign {
            true => name.starts_with(b"user.") && is_carried(name),
            false => is_carried(name) || marks && is_private(name),
        };
        let target = Target::Opened(fd);
        for (name, value) in member.xattrs.iter().filter(|xattr| wanted(&xattr.0)) {
            match target.set(name, value) {
                Ok(()) => {}
                // Some file systems have no such attributes, links may not have `user.*`, a user namespace may set
                // neither `trusted.*` nor what names ids that it lacks.
                Err(Errno::NOTSUP) => {}
                Err(Errno::PERM | Errno::INVAL) if !is_private(name) && name != b"security.capability" => {}
                Err(Errno::PERM) if self.extracting.ids == Ids::Single && !is_private(name) => {}
                Err(error) => return Err(failed("set an extended attribute of")(error).into()),
            }
        }
        let time = times(member.mtime.0, member.mtime.1);
        rustix::fs::utimensat(fd, c"", &time, AtFlags::EMPTY_PATH).map_err(failed("set the times of"))?;
        Ok(())
    }

    /// Gives the directories their times, the deepest first. One that is another by now keeps its own.
    fn finish(&mut self) -> Result<(), ExtractError> {
        for (path, identity, mtime) in self.directories.drain(..).rev() {
            let opened = match self.extracting.follow {
                true => root::open_dir(self.root, self.into.join(OsStr::from_bytes(&path))),
                false => existing(self.top.as_fd(), &path),
            };
            let Ok(opened) = opened else { continue };
            let stat = rustix::fs::fstat(&opened).map_err(|error| PathError::new("look at", &path, error))?;
            if (stat.st_dev, stat.st_ino) == identity {
                rustix::fs::futimens(&opened, &times(mtime.0, mtime.1))
                    .map_err(|error| PathError::new("set the times of", &path, error))?;
            }
        }
        Ok(())
    }
}

fn open_path(parent: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

fn open_directory(parent: BorrowedFd<'_>, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// The directory at a cleaned path of any length below `top`, no link on the way; what is missing is made.
fn beneath(top: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    let mut here = open_directory(top, c".")?;
    for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
        here = match open_directory(here.as_fd(), name) {
            Err(Errno::NOENT) => {
                match rustix::fs::mkdirat(&here, name, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                open_directory(here.as_fd(), name)?
            }
            opened => opened?,
        };
    }
    Ok(here)
}

/// As [`beneath`], but makes nothing.
pub(super) fn existing(top: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    let mut here = open_directory(top, c".")?;
    for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
        here = open_directory(here.as_fd(), name)?;
    }
    Ok(here)
}

/// Copies the tree `from` into the directory `to`, archive and all: what `from` holds, not itself. Two threads and a
/// pipe, so that reading and writing go side by side.
///
/// # Errors
/// What either of them could not do; the reading half's error where both failed.
pub fn copy_tree(
    from: BorrowedFd<'_>,
    packing: &Packing<'_>,
    to: BorrowedFd<'_>,
    extracting: &Extracting,
) -> Result<Extracted, CopyError> {
    transfer(|out| pack(from, packing, out), |tar| extract(tar, to, Path::new("."), extracting))
}

/// Why a copy failed.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error(transparent)]
    Read(PackError),
    #[error(transparent)]
    Write(ExtractError),
    #[error("cannot make a pipe")]
    Pipe(#[source] io::Error),
}

/// Runs what writes an archive beside what reads it.
///
/// # Errors
/// Of two failures the one that caused the other: a reader that gives up breaks the writer's pipe, and a writer that
/// does leaves the reader half an archive.
pub fn transfer<T: Send>(
    write: impl FnOnce(&mut dyn Write) -> Result<(), PackError>,
    read: impl FnOnce(&mut dyn Read) -> Result<T, ExtractError> + Send,
) -> Result<T, CopyError> {
    let (mut reader, writer) = io::pipe().map_err(CopyError::Pipe)?;
    std::thread::scope(|scope| {
        let reading = scope.spawn(move || read(&mut reader));
        let mut out = io::BufWriter::with_capacity(256 << 10, writer);
        let written = write(&mut out).and_then(|()| out.flush().map_err(PackError::Write));
        // Without another try to write what is left: its end tells the reader that there is no more.
        drop(out.into_parts());
        let read = reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match (written, read) {
            (Ok(()), read) => read.map_err(CopyError::Write),
            (Err(PackError::Write(error)), Err(read)) if error.kind() == io::ErrorKind::BrokenPipe => {
                Err(CopyError::Write(read))
            }
            (Err(error), _) => Err(CopyError::Read(error)),
        }
    })
}
