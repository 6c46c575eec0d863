//! An archive, unpacked into an empty directory in overlayfs form.
//!
//! Files are made with `O_EXCL` in a parent that is held by a handle, and everything that is set on them
//! is set through their own handle, or by name without following: there is no path here that a link could
//! bend (CVE-2014-9357, CVE-2021-32760, RUSTSEC-2026-0113). Directories get their times last, since what
//! is made in them changes those.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::archive::{Archive, ArchiveError, Kind, Member};
use super::attributes::{Marks, Target, is_carried, is_whiteout, make_whiteout, times};
use super::fill::{Facts, Filling, Occupant, occupant, refuse};
use super::hashing::{BackgroundHash, HashingReader};
use super::path::{PathError, clean, escape, show, split};
use super::walk::{Visit, walk};
use crate::digest::DiffId;

/// How an archive is unpacked.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub marks: Marks,
    pub ids: Ids,
    pub devices: Devices,
    pub limits: Limits,
}

/// Whose the files become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ids {
    /// The archive's owners.
    Keep,
    /// All root's, because this user namespace maps no other id. [`Applied::remapped`] counts them.
    Single,
}

/// What becomes of block and character devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Devices {
    Create,
    /// Left out, because a user namespace may not make them. [`Applied::skipped`] counts them.
    Skip,
}

/// Ceilings for one archive.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The most members.
    pub entries: u64,
    /// The most bytes of all files together, holes included.
    pub size: u64,
}

impl Options {
    /// For a real root.
    pub const ROOT: Self =
        Self { marks: Marks::Trusted, ids: Ids::Keep, devices: Devices::Create, limits: Limits::GENEROUS };
    /// For root in a user namespace with a range of ids.
    pub const USER: Self =
        Self { marks: Marks::User, ids: Ids::Keep, devices: Devices::Skip, limits: Limits::GENEROUS };
}

impl Limits {
    /// More than any image has that is known to us.
    pub const GENEROUS: Self = Self { entries: 16 << 20, size: 256 << 30 };
}

/// What an archive was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Of all its bytes: those behind its end too.
    pub diff_id: DiffId,
    /// How many bytes its files have.
    pub unpacked_size: u64,
    /// How many members it has.
    pub entries: u64,
    /// Directories that it implies and never states, sorted; `/` among them if it says nothing of the
    /// root. A path begins with `/`; a backslash is doubled, a byte that is not UTF-8 is `\xNN`.
    pub implied: Vec<String>,
    /// Devices that were left out; those numbered 0:0 always are, since to overlayfs they say that a
    /// name is gone.
    pub skipped: u64,
    /// Members whose owner is not the archive's.
    pub remapped: u64,
    /// Extended attributes that the file system or our rights do not allow.
    pub lost_attributes: u64,
}

/// Why an archive was not unpacked. The directory is left half full.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Path(#[from] PathError),
    #[error("`{path}` is a hard link to `{target}`, which the layer does not have")]
    HardLink { path: String, target: String },
    #[error("the root of the layer is stated as something other than a directory")]
    Root,
    #[error("`{0}` is a whiteout of nothing")]
    Whiteout(String),
    #[error("`{path}` belongs to `{id}`, which is no user or group id")]
    Owner { path: String, id: u64 },
    #[error("the layer has more than {0} members")]
    TooMany(u64),
    #[error("the files of the layer are larger than {0} bytes together")]
    TooLarge(u64),
}

/// Unpacks the tar stream `tar` into the empty directory `fs`, and reads it to its end.
///
/// Whiteouts and opaque markers become overlayfs' (OCI image specification, layer.md). A whiteout and a
/// directory of one name in one archive make an opaque directory: a whiteout only speaks of what lies
/// below. Of members with one name the last counts.
///
/// # Errors
/// [`ApplyError`], which names the member.
pub fn apply(tar: impl Read, fs: BorrowedFd<'_>, options: &Options) -> Result<Applied, ApplyError> {
    let mut archive = Archive::new(HashingReader { inner: tar, hash: BackgroundHash::new() });
    let mut unpacking = Unpacking {
        filling: Filling::new(fs, options.marks)?,
        options: *options,
        size: 0,
        skipped: 0,
        remapped: 0,
        lost_attributes: 0,
        hiding: false,
        buffer: vec![0; 128 << 10],
    };
    let mut entries = 0;
    while let Some(member) = archive.next()? {
        entries += 1;
        if entries > options.limits.entries {
            return Err(ApplyError::TooMany(options.limits.entries));
        }
        unpacking.member(&mut archive, member)?;
    }
    // What is behind the end belongs to the bytes that were signed, and to nothing else.
    let mut reader = archive.into_inner();
    io::copy(&mut reader, &mut io::sink()).map_err(ArchiveError::Read)?;
    if unpacking.hiding {
        remove_hidden_whiteouts(fs, options.marks)?;
    }
    let implied = finish(fs, &unpacking.filling.directories, options.marks)?;
    Ok(Applied {
        diff_id: DiffId(reader.hash.finish()),
        unpacked_size: unpacking.size,
        entries,
        implied,
        skipped: unpacking.skipped,
        remapped: unpacking.remapped,
        lost_attributes: unpacking.lost_attributes,
    })
}

/// Removes whiteouts below opaque directories, which say nothing: the kernel does not merge such a directory,
/// and would list them.
fn remove_hidden_whiteouts(fs: BorrowedFd<'_>, marks: Marks) -> Result<(), PathError> {
    let mut opaque: Option<Vec<u8>> = None;
    walk(fs, |entry| -> Result<Visit, PathError> {
        let inside = opaque.as_ref().is_some_and(|above| {
            above.is_empty() || entry.path.strip_prefix(&above[..]).is_some_and(|rest| rest.starts_with(b"/"))
        });
        let failed = |error: io::Error| PathError::new("drop whiteouts at", entry.path, error);
        if let Some(handle) = entry.handle {
            let mark = Target::Handle(handle).get(marks.opaque().as_bytes()).map_err(failed)?;
            if !inside && mark.is_some() {
                opaque = Some(entry.path.to_vec());
            }
        } else if inside && is_whiteout(entry.stat) {
            rustix::fs::unlinkat(entry.parent, entry.name, AtFlags::empty())
                .map_err(|error| failed(error.into()))?;
            return Ok(Visit::Removed);
        }
        Ok(Visit::Kept)
    })
}

/// Sets the directories' times, marks those that are only implied and lists them.
pub(super) fn finish(
    fs: BorrowedFd<'_>,
    directories: &HashMap<u64, Facts>,
    marks: Marks,
) -> Result<Vec<String>, PathError> {
    let mut implied = Vec::new();
    walk(fs, |entry| -> Result<Visit, PathError> {
        let Some(handle) = entry.handle else { return Ok(Visit::Kept) };
        if let Some(facts) = directories.get(&entry.stat.st_ino) {
            let failed =
                |error: Errno| PathError::new("set the attributes of the directory", entry.path, error);
            if !facts.stated {
                Target::Handle(handle).set(marks.implied().as_bytes(), b"y").map_err(failed)?;
                implied.push(escape(entry.path));
            }
            rustix::fs::futimens(handle, &times(facts.mtime.0, facts.mtime.1)).map_err(failed)?;
        }
        Ok(Visit::Kept)
    })?;
    implied.sort();
    Ok(implied)
}

struct Unpacking {
    filling: Filling,
    options: Options,
    size: u64,
    skipped: u64,
    remapped: u64,
    lost_attributes: u64,
    /// Whether it has any whiteout.
    hiding: bool,
    buffer: Vec<u8>,
}

impl Unpacking {
    fn member<R: Read>(&mut self, archive: &mut Archive<R>, member: Member) -> Result<(), ApplyError> {
        let path = &clean(&member.path)[..];
        if path.is_empty() {
            if member.kind != Kind::Directory {
                return Err(ApplyError::Root);
            }
            let root = self.filling.directory(b"", false)?;
            return self.directory_attributes(root.as_fd(), &member, path);
        }
        let (parent_path, name) = split(path);
        // `.wh..wh.plnk` and its kind are AUFS' own.
        if path.split(|byte| *byte == b'/').any(|part| part.starts_with(b".wh..wh.") && part != OPAQUE) {
            return Ok(());
        }
        if parent_path.split(|byte| *byte == b'/').any(|part| part.starts_with(b".wh.")) {
            return Err(ApplyError::Whiteout(show(path)));
        }
        if name == OPAQUE {
            let directory = self.filling.directory(parent_path, true)?;
            self.filling
                .mark_opaque(directory.as_fd())
                .map_err(|error| PathError::new("make opaque", parent_path, error))?;
            return Ok(());
        }
        if let Some(hidden) = name.strip_prefix(b".wh.") {
            return self.whiteout(parent_path, hidden, path);
        }
        let parent = self.filling.directory(parent_path, true)?;
        let parent = parent.as_fd();
        let failed = |doing| move |error: io::Error| PathError::new(doing, path, error);
        match member.kind {
            Kind::Directory => {
                let fd = self.filling.make(parent, name, path, true)?;
                self.directory_attributes(fd.as_fd(), &member, path)?;
            }
            Kind::File => {
                let left = self.options.limits.size.saturating_sub(self.size);
                if member.size > left {
                    return Err(ApplyError::TooLarge(self.options.limits.size));
                }
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mode = Mode::RUSR | Mode::WUSR;
                let fd = self
                    .filling
                    .replace(parent, name, || rustix::fs::openat(parent, name, flags, mode))
                    .map_err(failed("make the file"))?;
                self.size += member.size;
                let file = self.write(fd, archive, &member).map_err(failed("write"))?;
                self.attributes(&Target::Handle(file.as_fd()), &member, path)?;
            }
            Kind::SymbolicLink => {
                let target = &member.link[..];
                self.filling
                    .replace(parent, name, || rustix::fs::symlinkat(target, parent, name))
                    .map_err(failed("make the symbolic link"))?;
                self.attributes(&Target::Name(parent, name_of(name)), &member, path)?;
            }
            Kind::HardLink => self.hard_link(parent, name, &member, path)?,
            Kind::Fifo => {
                let mode = Mode::RUSR | Mode::WUSR;
                self.filling
                    .replace(parent, name, || rustix::fs::mknodat(parent, name, FileType::Fifo, mode, 0))
                    .map_err(failed("make the FIFO"))?;
                self.attributes(&Target::Name(parent, name_of(name)), &member, path)?;
            }
            Kind::CharacterDevice | Kind::BlockDevice => self.device(parent, name, &member, path)?,
        }
        Ok(())
    }

    fn whiteout(&mut self, parent: &[u8], hidden: &[u8], path: &[u8]) -> Result<(), ApplyError> {
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(ApplyError::Whiteout(show(path)));
        }
        let parent = self.filling.directory(parent, true)?;
        let failed = |error: io::Error| PathError::new("make the whiteout", path, error);
        match occupant(parent.as_fd(), hidden).map_err(|error| failed(error.into()))? {
            Occupant::Nothing => {
                self.hiding = true;
                make_whiteout(parent.as_fd(), hidden).map_err(failed)?;
            }
            // It hides what lies below already.
            Occupant::Whiteout | Occupant::Other => {}
            Occupant::Directory => {
                let directory =
                    super::fill::open(parent.as_fd(), hidden).map_err(|error| failed(error.into()))?;
                self.filling.mark_opaque(directory.as_fd()).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Writes a file's bytes; long runs of zeros become holes, or a sparse file of 1 TiB would fill
    /// the disk.
    fn write<R: Read>(&mut self, fd: OwnedFd, archive: &mut Archive<R>, member: &Member) -> io::Result<File> {
        let mut file = File::from(fd);
        let mut data = archive.data(member);
        let (mut left, mut hole) = (member.size, false);
        while left > 0 {
            let want = self.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let chunk = &mut self.buffer[..want];
            data.read_exact(chunk)?;
            hole = chunk.len() >= 4096 && chunk.iter().all(|byte| *byte == 0);
            match hole {
                true => file.seek(SeekFrom::Current(want as i64)).map(drop)?,
                false => file.write_all(chunk)?,
            }
            left -= want as u64;
        }
        if hole {
            file.set_len(member.size)?;
        }
        Ok(file)
    }

    fn hard_link(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        member: &Member,
        path: &[u8],
    ) -> Result<(), ApplyError> {
        let missing = || ApplyError::HardLink { path: show(path), target: show(&member.link) };
        let target = clean(&member.link);
        let (target_parent, target_name) = split(&target);
        if target_name.is_empty() {
            return Err(missing());
        }
        let from = self.filling.directory(target_parent, false).map_err(|_| missing())?;
        let stat =
            rustix::fs::statat(&from, target_name, AtFlags::SYMLINK_NOFOLLOW).map_err(|_| missing())?;
        if is_whiteout(&stat) || stat.st_mode & libc::S_IFMT == libc::S_IFDIR {
            return Err(missing());
        }
        if let Ok(there) = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
            && (there.st_dev, there.st_ino) == (stat.st_dev, stat.st_ino)
        {
            return Ok(());
        }
        self.filling
            .replace(parent, name, || rustix::fs::linkat(&from, target_name, parent, name, AtFlags::empty()))
            .map_err(|error| match error.kind() {
                // What stood in its place was its target, or above it.
                io::ErrorKind::NotFound => missing(),
                _ => PathError::new("make the hard link", path, error).into(),
            })
    }

    fn device(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        member: &Member,
        path: &[u8],
    ) -> Result<(), ApplyError> {
        let (major, minor) = member.device;
        if major >= 1 << 12 || minor >= 1 << 20 {
            return Err(refuse("make the device", path, "there is no such number").into());
        }
        let kind = match member.kind {
            Kind::CharacterDevice => FileType::CharacterDevice,
            _ => FileType::BlockDevice,
        };
        let whiteout = kind == FileType::CharacterDevice && (major, minor) == (0, 0);
        if whiteout || self.options.devices == Devices::Skip {
            self.skipped += 1;
            // It still takes the place of an earlier member of this name.
            return match occupant(parent, name) {
                Ok(Occupant::Whiteout) => Ok(()),
                _ => Ok(self
                    .filling
                    .clear(parent, name)
                    .map_err(|error| PathError::new("replace", path, error))?),
            };
        }
        let number = rustix::fs::makedev(major, minor);
        let mode = Mode::RUSR | Mode::WUSR;
        self.filling
            .replace(parent, name, || rustix::fs::mknodat(parent, name, kind, mode, number))
            .map_err(|error| PathError::new("make the device", path, error))?;
        self.attributes(&Target::Name(parent, name_of(name)), member, path)
    }

    fn directory_attributes(
        &mut self,
        fd: BorrowedFd<'_>,
        member: &Member,
        path: &[u8],
    ) -> Result<(), ApplyError> {
        let failed = |error: io::Error| PathError::new("set the attributes of", path, error);
        // It may have been stated before, with attributes that it shall not keep.
        for (name, _) in Target::Handle(fd).read(is_carried).map_err(failed)? {
            Target::Handle(fd).remove(&name).map_err(failed)?;
        }
        self.attributes(&Target::Handle(fd), member, path)?;
        let stat = rustix::fs::fstat(fd).map_err(|error| failed(error.into()))?;
        self.filling.directories.insert(stat.st_ino, Facts { mtime: member.mtime, stated: true });
        Ok(())
    }

    /// Owner, mode, extended attributes and time, in the only order that keeps them all: changing the
    /// owner clears set-id bits and capabilities.
    fn attributes(&mut self, target: &Target<'_>, member: &Member, path: &[u8]) -> Result<(), ApplyError> {
        let failed = |doing| move |error: Errno| PathError::new(doing, path, error);
        let (uid, gid) = match self.options.ids {
            Ids::Keep => (id(member.uid, path)?, id(member.gid, path)?),
            Ids::Single => {
                self.remapped += u64::from((member.uid, member.gid) != (0, 0));
                (0, 0)
            }
        };
        let (user, group) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        let mode = Mode::from_raw_mode(member.mode);
        let time = times(member.mtime.0, member.mtime.1);
        match target {
            Target::Handle(fd) | Target::Opened(fd) => {
                rustix::fs::fchown(fd, user, group).map_err(failed("change the owner of"))?;
                rustix::fs::fchmod(fd, mode).map_err(failed("change the mode of"))?;
            }
            Target::Name(parent, name) => {
                rustix::fs::chownat(parent, *name, user, group, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(failed("change the owner of"))?;
                if member.kind != Kind::SymbolicLink {
                    // Not followed by nature: it was made just now, and is no link.
                    rustix::fs::chmodat(parent, *name, mode, AtFlags::empty())
                        .map_err(failed("change the mode of"))?;
                }
            }
        }
        for (name, value) in member.xattrs.iter().filter(|xattr| is_carried(&xattr.0)) {
            match target.set(name, value) {
                Ok(()) => {}
                Err(error) if self.may_lose(name, error) => self.lost_attributes += 1,
                Err(error) => return Err(failed("set an extended attribute of")(error).into()),
            }
        }
        match target {
            Target::Handle(fd) | Target::Opened(fd) => rustix::fs::futimens(fd, &time),
            Target::Name(parent, name) => {
                rustix::fs::utimensat(parent, *name, &time, AtFlags::SYMLINK_NOFOLLOW)
            }
        }
        .map_err(failed("set the times of"))?;
        Ok(())
    }

    /// Some file systems have no such attributes, links may not have `user.*`, and a user namespace may
    /// not set `trusted.*`. Capabilities are another matter: a `ping` without them is broken.
    fn may_lose(&self, name: &[u8], error: Errno) -> bool {
        match error {
            Errno::NOTSUP => true,
            Errno::PERM => name != b"security.capability" || self.options.ids == Ids::Single,
            // An access list that names ids which the user namespace lacks.
            Errno::INVAL => name.starts_with(b"system.posix_acl_") && self.options.marks == Marks::User,
            _ => false,
        }
    }
}

const OPAQUE: &[u8] = b".wh..wh..opq";

fn name_of(name: &[u8]) -> &std::ffi::OsStr {
    std::ffi::OsStr::from_bytes(name)
}

/// The highest number means "leave it" to `chown`, and would make root the owner.
fn id(id: u64, path: &[u8]) -> Result<u32, ApplyError> {
    match u32::try_from(id) {
        Ok(id) if id != u32::MAX => Ok(id),
        _ => Err(ApplyError::Owner { path: show(path), id }),
    }
}
