//! Layouts and archives as files by name: a folder, or a tar of which nothing is unpacked.
//!
//! An archive is read once for the places of its members, and its members where they are wanted. One
//! that is compressed, or that comes through a pipe, is written to a file first.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

use crate::root;
use crate::store::Store;
use crate::store::compress::{self, Format};

use super::TransferError;
use super::content::Content;

/// The most members of an archive.
const MEMBER_LIMIT: usize = 200_000;
/// How many links lead from a name to a file.
const LINK_LIMIT: usize = 8;

pub(super) enum Bundle {
    Folder(OwnedFd),
    Archive { file: Arc<File>, members: HashMap<String, Member> },
}

pub(super) enum Member {
    File { from: u64, size: u64 },
    Link(String),
}

impl Bundle {
    pub(super) fn folder(path: &Path) -> Result<Self, TransferError> {
        root::open_ambient_dir(path).map(Self::Folder).map_err(TransferError::reading(path))
    }

    /// An archive; `store` gives room where it must be unpacked.
    pub(super) fn archive(path: &Path, store: &Store) -> Result<Self, TransferError> {
        let fail = || TransferError::reading(path);
        let mut file = File::open(path).map_err(fail())?;
        let metadata = file.metadata().map_err(fail())?;
        if metadata.is_dir() {
            return Err(fail()(io::Error::new(
                io::ErrorKind::IsADirectory,
                "it is a folder; write oci: for one",
            )));
        }
        let mut start = Vec::new();
        if metadata.is_file() {
            file.by_ref().take(6).read_to_end(&mut start).map_err(fail())?;
            file.rewind().map_err(fail())?;
        }
        if !metadata.is_file() || Format::of(&start) != Format::Plain {
            let mut plain = tempfile::tempfile_in(store.path().join("tmp")).map_err(fail())?;
            let mut reader = compress::decompress(file).map_err(fail())?;
            io::copy(&mut reader, &mut plain).map_err(fail())?;
            drop(reader);
            file = plain;
        }
        Self::index(file).map_err(fail())
    }

    fn index(mut file: File) -> io::Result<Self> {
        let end = file.seek(SeekFrom::End(0))?;
        file.rewind()?;
        let mut members = HashMap::new();
        let mut archive = tar::Archive::new(BufReader::new(&file));
        for (number, entry) in archive.entries_with_seek()?.enumerate() {
            if number >= MEMBER_LIMIT {
                return Err(io::Error::other(format!("the archive has more than {MEMBER_LIMIT} members")));
            }
            let entry = entry?;
            let name = normal(&String::from_utf8_lossy(&entry.path_bytes()));
            let member = match entry.header().entry_type() {
                tar::EntryType::Regular | tar::EntryType::Continuous => {
                    let (from, size) = (entry.raw_file_position(), entry.size());
                    if from.checked_add(size).is_none_or(|after| after > end) {
                        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive is cut short"));
                    }
                    Member::File { from, size }
                }
                tar::EntryType::Symlink | tar::EntryType::Link => {
                    let target = entry.link_name_bytes().unwrap_or_default();
                    let target = String::from_utf8_lossy(&target).into_owned();
                    let hard = entry.header().entry_type() == tar::EntryType::Link;
                    let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
                    Member::Link(if hard { normal(&target) } else { normal(&format!("{folder}/{target}")) })
                }
                _ => continue,
            };
            members.insert(name, member);
        }
        drop(archive);
        Ok(Self::Archive { file: Arc::new(file), members })
    }

    /// The file of this name, if there is one. Links of a folder lead nowhere outside of it, those of an
    /// archive to other members.
    pub(super) fn find(&self, name: &str) -> io::Result<Option<Content>> {
        match self {
            Self::Folder(folder) => {
                // Without waiting for the other end, if it is a pipe.
                let flags = OFlags::RDONLY | OFlags::NONBLOCK;
                match root::open(folder, name, flags, Mode::empty()) {
                    Ok(file) => Content::file(File::from(file)).map(Some),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(error),
                }
            }
            Self::Archive { file, members } => {
                let mut name = normal(name);
                for _ in 0..LINK_LIMIT {
                    match members.get(&name) {
                        Some(Member::File { from, size }) => {
                            let (file, from, size) = (Arc::clone(file), *from, *size);
                            return Ok(Some(Content::Section { file, from, size }));
                        }
                        Some(Member::Link(target)) => name.clone_from(target),
                        None => return Ok(None),
                    }
                }
                Ok(None)
            }
        }
    }
}

/// A member's name without `./`, `..` and doubled slashes.
fn normal(name: &str) -> String {
    root::clean(name).trim_start_matches('/').to_owned()
}
