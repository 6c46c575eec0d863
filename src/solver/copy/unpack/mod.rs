//! ADD of an archive: what is a tar, plain or compressed, is unpacked into the destination.
//!
//! The destination is the archive's root: no name and no link in it, of the archive or of what is
//! there already, leads out of it. Members are made by handles and never through a link at their own
//! name. A member replaces what has its name, unless both are directories.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::write::{self, Attributes};
use super::{CopyError, NewDirectory, Spec, destination};
use crate::cache::content::{Root, Tree, blocks, join, shown};
use crate::root;

mod archive;

use archive::{Archive, Form, Member};

/// What is wrong with an archive.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("{0}")]
    Read(io::Error),
    #[error("the header at byte {0} is damaged")]
    Header(u64),
    #[error("the member `{0}` leads out of the archive")]
    Escapes(String),
    #[error("the name of a member is longer than a path may be")]
    LongName,
    #[error("an extended header is longer than {0} bytes")]
    LongExtension(u64),
    #[error("the extended header before `{0}` is malformed")]
    Extension(String),
    #[error("the member `{0}` has an owner that is no user id")]
    Owner(String),
    #[error("the member `{0}` is sparse in a form that is not supported")]
    Sparse(String),
    #[error("the link `{name}` names `{target}`, which is not in the archive")]
    LinkTarget { name: String, target: String },
    #[error("it holds more than {0} bytes")]
    TooLarge(u64),
}

impl From<io::Error> for UnpackError {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

/// The longest path that Linux resolves.
const LONGEST_PATH: usize = 4095;
/// Memory that an xz archive may ask for: the largest preset needs 65 MiB.
const XZ_MEMORY: u64 = 256 << 20;
/// The largest zstd window, as a power of two: what `zstd -d` takes unless told otherwise.
const ZSTD_WINDOW_LOG: u32 = 27;

/// Unpacks `root` if it is a tar archive; otherwise does nothing and says so.
pub(super) fn try_unpack(
    tree: &Tree,
    root: &Root,
    target: BorrowedFd<'_>,
    spec: &Spec,
) -> Result<bool, CopyError> {
    let Some(entry) = root.entries.first().filter(|entry| super::has_bytes(&entry.kind)) else {
        return Ok(false);
    };
    let path = shown(&root.path);
    let read = |source| CopyError::Read { path: path.clone(), source };
    let file = tree.open(&root.path, &entry.kind).map_err(read)?;
    if !file.metadata().map_err(read)?.is_file() {
        return Err(CopyError::Changed { path });
    }
    if !is_archive(&file) {
        return Ok(false);
    }
    let (directory, _) = destination::directory(
        target,
        &spec.destination,
        NewDirectory { mode: 0o755, ..spec.new_directory() },
    )?;
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0)).map_err(|error| read(error.into()))?;
    let stream = decompressed(&file).map_err(read)?;
    let mut archive = Archive::new(BufReader::with_capacity(blocks::BLOCK, stream), spec.unpack_limit);
    let mut extraction = Extraction { root: directory, spec, parent: None, directories: Vec::new() };
    let extracted = extraction.run(&mut archive);
    // A file that changed under our hands may well be damaged: that is what should be said then.
    if let Some(known) = entry.fingerprint
        && blocks::fingerprint(&file, entry.size).ok() != Some(known.content)
    {
        return Err(CopyError::Changed { path });
    }
    match extracted {
        Ok(()) => Ok(true),
        Err(Failure::Archive(reason)) => Err(CopyError::Unpack { path, reason }),
        Err(Failure::Target(error)) => Err(error),
    }
}

/// Gives a file what the entry of its second name says of it: the last word on it, as in BuildKit.
/// Whatever else may have second names keeps what its first entry said.
fn restate(directory: &OwnedFd, name: &OsStr, path: &str, attributes: &Attributes) -> Result<(), CopyError> {
    let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW);
    if !stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_file()) {
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = root::open_no_links(directory, name, flags, Mode::empty())
        .map_err(|source| CopyError::Write { path: path.to_owned(), source })?;
    write::finish(&File::from(file), path, attributes)
}

/// Whether it begins, decompressed, with a tar header.
fn is_archive(file: &File) -> bool {
    let mut block = [0; archive::BLOCK];
    rustix::fs::seek(file, rustix::fs::SeekFrom::Start(0)).is_ok()
        && decompressed(file).is_ok_and(|mut stream| stream.read_exact(&mut block).is_ok())
        && archive::is_header(&block)
}

/// The file's bytes, decompressed as its first bytes say.
fn decompressed<'a>(file: &'a File) -> io::Result<Box<dyn Read + 'a>> {
    let mut magic = [0; 6];
    let mut length = 0;
    while length < magic.len() {
        match file.read_at(&mut magic[length..], length as u64)? {
            0 => break,
            read => length += read,
        }
    }
    Ok(match &magic[..length] {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(BufReader::new(file))),
        [b'B', b'Z', b'h', ..] => Box::new(bzip2::read::MultiBzDecoder::new(file)),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => {
            let flags = liblzma::stream::CONCATENATED;
            let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, flags)?;
            Box::new(liblzma::read::XzDecoder::new_stream(file, stream))
        }
        // A frame, or one to be skipped before it.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            let mut decoder = zstd::stream::read::Decoder::new(file)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
        _ => Box::new(file),
    })
}

/// Whose fault it is.
enum Failure {
    Archive(UnpackError),
    Target(CopyError),
}

impl From<UnpackError> for Failure {
    fn from(error: UnpackError) -> Self {
        Self::Archive(error)
    }
}

impl From<CopyError> for Failure {
    fn from(error: CopyError) -> Self {
        Self::Target(error)
    }
}

struct Extraction<'a> {
    root: OwnedFd,
    spec: &'a Spec,
    /// The directory of the last member: most members share it. Forgotten whenever something that
    /// may be on its path is replaced.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// Directories and their times, which are set last: filling a directory changes its time.
    directories: Vec<(OsString, (i64, u32))>,
}

impl Extraction<'_> {
    fn run<R: Read>(&mut self, archive: &mut Archive<R>) -> Result<(), Failure> {
        while let Some(member) = archive.next()? {
            let path = inside(&member.path)?;
            if path.is_empty() {
                // The archive's own root: the destination keeps what it is.
                if matches!(member.form, Form::Directory) {
                    continue;
                }
                return Err(UnpackError::Escapes(member.shown()).into());
            }
            self.extract(archive, &member, &path)?;
        }
        for (path, modified) in self.directories.iter() {
            // Replaced since by something else: that has a time of its own.
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let Ok(fd) = root::open_no_links(&self.root, path, flags, Mode::empty()) else { continue };
            write::set_times(&File::from(fd), &shown(path), *modified)?;
        }
        Ok(())
    }

    fn extract<R: Read>(
        &mut self,
        archive: &mut Archive<R>,
        member: &Member,
        path: &[u8],
    ) -> Result<(), Failure> {
        let cut = path.iter().rposition(|byte| *byte == b'/');
        let name = OsStr::from_bytes(&path[cut.map_or(0, |at| at + 1)..]).to_owned();
        let full = &shown(OsStr::from_bytes(path));
        let directory = self.parent_of(&path[..cut.unwrap_or(0)], full)?;
        let attributes = self.attributes(member)?;
        if let Form::Directory = member.form {
            return self.extract_directory(&directory, &name, path, attributes);
        }
        // Found before anything is removed: a link may name the thing it replaces.
        let linked = match &member.form {
            Form::HardLink(target) => Some(self.linked(member, target, &directory, &name)?),
            _ => None,
        };
        if let Some(None) = linked {
            return Ok(());
        }
        self.remove(&directory, &name, full)?;
        let node = |kind, device| write::node(directory.as_fd(), &name, full, kind, device, &attributes);
        match &member.form {
            Form::File => {
                let file = write::create(directory.as_fd(), &name, full)?;
                archive.copy_data(member, |offset, bytes| {
                    file.write_all_at(bytes, offset)
                        .map_err(|source| Failure::Target(CopyError::Write { path: full.clone(), source }))
                })?;
                file.set_len(member.size)
                    .map_err(|source| CopyError::Write { path: full.clone(), source })?;
                write::finish(&file, full, &attributes)?;
            }
            Form::Link(target) => {
                write::link(directory.as_fd(), &name, full, target, &attributes)?;
            }
            Form::HardLink(_) => {
                if let Some(Some((from, from_name))) = linked {
                    rustix::fs::linkat(&from, &from_name, &directory, &name, AtFlags::empty())
                        .map_err(|error| CopyError::Write { path: full.clone(), source: error.into() })?;
                    restate(&directory, &name, full, &attributes)?;
                }
            }
            Form::Fifo => node(FileType::Fifo, (0, 0))?,
            // A user namespace makes no devices, and archives hold some that nobody needs: BuildKit
            // leaves them out there.
            Form::CharDevice(device) => skip_device(node(FileType::CharacterDevice, *device))?,
            Form::BlockDevice(device) => skip_device(node(FileType::BlockDevice, *device))?,
            Form::Directory => {}
        }
        Ok(())
    }

    fn extract_directory(
        &mut self,
        directory: &OwnedFd,
        name: &OsStr,
        path: &[u8],
        mut attributes: Attributes,
    ) -> Result<(), Failure> {
        let path = OsStr::from_bytes(path);
        let full = &shown(path);
        let failed = |source| CopyError::Write { path: full.clone(), source };
        if !is_directory(directory, name) {
            self.remove(directory, name, full)?;
            rustix::fs::mkdirat(directory, name, Mode::RWXU).map_err(|error| failed(error.into()))?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let fd = root::open_no_links(directory, name, flags, Mode::empty()).map_err(failed)?;
        let modified = attributes.modified.take();
        write::finish(&File::from(fd), full, &attributes)?;
        if let Some(modified) = modified {
            self.directories.push((path.to_owned(), modified));
        }
        Ok(())
    }

    /// The directory at `path`, made if it is missing.
    fn parent_of(&mut self, path: &[u8], member: &str) -> Result<OwnedFd, Failure> {
        let failed = |source| CopyError::Write { path: member.to_owned(), source };
        if let Some((known, fd)) = &self.parent
            && known == path
        {
            return Ok(fd.try_clone().map_err(failed)?);
        }
        let (fd, made) = root::create_dirs(&self.root, OsStr::from_bytes(path), Mode::from_raw_mode(0o755))
            .map_err(|source| match source.kind() {
            io::ErrorKind::NotADirectory => CopyError::NotADirectory { path: member.to_owned() },
            _ => failed(source),
        })?;
        // What the archive only implies is root's whoever gets its members: so it is in BuildKit.
        for made in made {
            write::give(&made.fd, &made.path.to_string_lossy(), 0, 0)?;
        }
        self.parent = Some((path.to_owned(), fd.try_clone().map_err(failed)?));
        Ok(fd)
    }

    /// Removes what has the name, a whole directory if it is one.
    fn remove(&mut self, directory: &OwnedFd, name: &OsStr, path: &str) -> Result<(), Failure> {
        match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(()),
            Ok(stat) => {
                let kind = FileType::from_raw_mode(stat.st_mode);
                if matches!(kind, FileType::Directory | FileType::Symlink) {
                    self.parent = None;
                }
            }
            Err(_) => {}
        }
        root::remove_all(directory, name)
            .map_err(|source| CopyError::Write { path: path.to_owned(), source }.into())
    }

    fn attributes(&self, member: &Member) -> Result<Attributes, UnpackError> {
        let id = |id: u64| u32::try_from(id).map_err(|_| UnpackError::Owner(member.shown()));
        let archived = (id(member.uid)?, id(member.gid)?);
        let (uid, gid) = self.spec.owner.unwrap_or(archived);
        Ok(Attributes {
            uid,
            gid,
            mode: member.mode & 0o7777,
            modified: Some(member.modified),
            xattrs: member.xattrs.clone(),
        })
    }

    /// What a hard link names: nothing if it names itself.
    fn linked(
        &self,
        member: &Member,
        target: &OsStr,
        directory: &OwnedFd,
        name: &OsStr,
    ) -> Result<Option<(OwnedFd, OsString)>, Failure> {
        let missing = || UnpackError::LinkTarget {
            name: member.shown(),
            target: target.to_string_lossy().into_owned(),
        };
        let path = inside(target.as_bytes())?;
        let cut = path.iter().rposition(|byte| *byte == b'/');
        let parent = OsStr::from_bytes(&path[..cut.unwrap_or(0)]);
        let target_name = OsStr::from_bytes(&path[cut.map_or(0, |at| at + 1)..]).to_owned();
        let from = root::open_dir(&self.root, parent).map_err(|_| missing())?;
        let stat = |fd: &OwnedFd, name: &OsStr| {
            rustix::fs::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW)
                .ok()
                .map(|stat| (stat.st_dev, stat.st_ino))
        };
        let inode = stat(&from, &target_name).ok_or_else(missing)?;
        if is_directory(&from, &target_name) {
            return Err(missing().into());
        }
        Ok((stat(directory, name) != Some(inode)).then_some((from, target_name)))
    }
}

fn is_directory(directory: &OwnedFd, name: &OsStr) -> bool {
    rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_dir())
}

fn skip_device(made: Result<(), CopyError>) -> Result<(), CopyError> {
    match made {
        Err(CopyError::Device { .. }) => Ok(()),
        other => other,
    }
}

/// A member's path, cleaned by its letters.
fn inside(path: &[u8]) -> Result<Vec<u8>, UnpackError> {
    if path.len() > LONGEST_PATH {
        return Err(UnpackError::LongName);
    }
    let escapes = || UnpackError::Escapes(String::from_utf8_lossy(path).into_owned());
    if path.contains(&0) {
        return Err(escapes());
    }
    let mut parts: Vec<&OsStr> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                // The destination is the archive's root, and above a root is the root.
                parts.pop();
            }
            part => parts.push(OsStr::from_bytes(part)),
        }
    }
    let mut clean = OsString::new();
    for part in parts {
        clean = join(&clean, part);
    }
    Ok(clean.as_bytes().to_vec())
}
