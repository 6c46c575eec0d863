//! Files of an earlier layer, linked instead of copied where they are what a copy would make.
//!
//! A second name costs a third of a new file. It is only given where nothing could tell the two apart: size, mode,
//! owner, time to the nanosecond, no extended attributes, and bytes with the digest that the source's have, for
//! which the earlier file is read. Layers are never written to, so one file may be in many; two files of one
//! layer never become one.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::write::Attributes;
use crate::cache::content::{Entry, blocks, xattrs};
use crate::root;

/// The directory of a layer that an earlier version of the same copy made, on the target's file system.
#[derive(Debug, Clone)]
pub struct Earlier {
    fs: Arc<OwnedFd>,
    /// The files that have got a second name.
    used: Arc<Mutex<HashSet<(u64, u64)>>>,
}

impl Earlier {
    /// That directory.
    pub fn new(fs: OwnedFd) -> Self {
        Self { fs: Arc::new(fs), used: Arc::default() }
    }

    /// What it has at `path`, if that is a directory and no link is on the way.
    pub(super) fn directory(&self, path: &OsString) -> Option<OwnedFd> {
        root::open_no_links(&*self.fs, path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).ok()
    }

    /// Makes `name` in `target` a second name of the file that `directory` has by it, if that is what copying
    /// `entry` would give. Whatever goes wrong, the file can be copied.
    pub(super) fn link(
        &self,
        directory: &OwnedFd,
        target: BorrowedFd<'_>,
        name: &OsStr,
        entry: &Entry,
        wanted: &Attributes,
    ) -> bool {
        let Some(known) = entry.fingerprint else { return false };
        if entry.links > 1 || known.xattrs != [0; 32] || wanted.modified != Some(entry.modified) {
            return false;
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let Ok(stat) = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) else { return false };
        let time = (stat.st_mtime, stat.st_mtime_nsec as u32);
        if !FileType::from_raw_mode(stat.st_mode).is_file()
            || (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid) != (wanted.mode, wanted.uid, wanted.gid)
            || (stat.st_size as u64, time) != (entry.size, entry.modified)
        {
            return false;
        }
        let Ok(file) = root::open_no_links(directory, name, flags, Mode::empty()).map(File::from) else {
            return false;
        };
        let is_plain = xattrs::read(&file).is_ok_and(|found| found.is_empty());
        if !is_plain || blocks::fingerprint(&file, entry.size).ok() != Some(known.content) {
            return false;
        }
        if !self.used.lock().unwrap_or_else(PoisonError::into_inner).insert((stat.st_dev, stat.st_ino)) {
            return false;
        }
        rustix::fs::linkat(directory, name, target.as_fd(), name, AtFlags::empty()).is_ok()
    }
}
