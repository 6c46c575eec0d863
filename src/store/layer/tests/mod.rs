//! Layers, tested as archives, as directories and as mounts of the real kernel.

mod grounds;
mod hostile;
mod overlays;
mod round_trip;
mod unpacking;

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::attributes::{Marks, Target, is_carried, is_whiteout};
use super::walk::{Visit, walk};
use super::*;
use crate::root;

/// A tar built by hand: nothing keeps it from being wrong.
#[derive(Default, Clone)]
pub(super) struct Tar(pub(super) Vec<u8>);

impl Tar {
    /// A member with everything in its header.
    pub(super) fn raw(mut self, kind: u8, path: &[u8], link: &[u8], mode: u32, data: &[u8]) -> Self {
        let mut block = [0_u8; 512];
        block[..path.len()].copy_from_slice(path);
        block[157..157 + link.len()].copy_from_slice(link);
        let field = |block: &mut [u8; 512], at: usize, width: usize, value: u64| {
            let text = format!("{value:0width$o}", width = width - 1);
            block[at..at + width - 1].copy_from_slice(text.as_bytes());
        };
        field(&mut block, 100, 8, mode.into());
        field(&mut block, 108, 8, 0);
        field(&mut block, 116, 8, 0);
        field(&mut block, 124, 12, data.len() as u64);
        field(&mut block, 136, 12, 1_000_000_000);
        block[156] = kind;
        block[257..265].copy_from_slice(b"ustar\x0000");
        seal(&mut block);
        self.0.extend_from_slice(&block);
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// Changes the last header: for members without data.
    pub(super) fn with(mut self, at: usize, bytes: &[u8]) -> Self {
        let start = self.0.len() - 512;
        let block: &mut [u8] = &mut self.0[start..];
        block[at..at + bytes.len()].copy_from_slice(bytes);
        seal(block);
        self
    }

    pub(super) fn file(self, path: &str, data: &str) -> Self {
        self.raw(b'0', path.as_bytes(), b"", 0o644, data.as_bytes())
    }

    pub(super) fn dir(self, path: &str) -> Self {
        self.raw(b'5', path.as_bytes(), b"", 0o755, b"")
    }

    pub(super) fn link(self, path: &str, to: &str) -> Self {
        self.raw(b'2', path.as_bytes(), to.as_bytes(), 0o777, b"")
    }

    pub(super) fn hard(self, path: &str, to: &str) -> Self {
        self.raw(b'1', path.as_bytes(), to.as_bytes(), 0o644, b"")
    }

    /// A PAX header for the next member.
    pub(super) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut body = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (rest + 1..).find(|length| length.to_string().len() + rest == *length).unwrap();
            body.extend_from_slice(format!("{length} {key}=").as_bytes());
            body.extend_from_slice(value);
            body.push(b'\n');
        }
        self.raw(b'x', b"pax", b"", 0o644, &body)
    }

    pub(super) fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

fn seal(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Whether the tests run as root, or as what looks like it in a user namespace; says so if not.
pub(super) fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

/// Whether `trusted.*` attributes and mounts are allowed: for a root outside of user namespaces.
pub(super) fn is_privileged() -> bool {
    let dir = tempfile::tempdir().unwrap();
    let fd = root::open_ambient_dir(dir.path()).unwrap();
    is_root() && Target::Handle(fd.as_fd()).set(b"trusted.test", b"1").is_ok()
}

/// A directory to unpack into.
pub(super) struct Place {
    pub(super) dir: tempfile::TempDir,
}

impl Place {
    pub(super) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn make(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir(&path).unwrap();
        path
    }
}

pub(super) fn open(path: &Path) -> OwnedFd {
    root::open_ambient_dir(path).unwrap()
}

/// Unpacks into a new directory.
pub(super) fn unpack(tar: &[u8], options: &Options) -> (Place, Result<Applied, ApplyError>) {
    let place = Place::new();
    let fs = place.make("fs");
    let applied = apply(tar, open(&fs).as_fd(), options);
    (place, applied)
}

/// A tree as text, a line each: what a person can compare.
pub(super) fn list(tree: OwnedFd) -> Vec<String> {
    let mut lines = Vec::new();
    let mut inodes: std::collections::HashMap<u64, String> = std::collections::HashMap::new();
    walk(tree.as_fd(), |entry| -> Result<Visit, PathError> {
        let stat = entry.stat;
        let path = String::from_utf8_lossy(entry.path).into_owned();
        let kind = stat.st_mode & libc::S_IFMT;
        let mut line = format!("{path:?} {:o} {}:{}", stat.st_mode, stat.st_uid, stat.st_gid);
        if is_whiteout(stat) {
            lines.push(format!("{path:?} whiteout"));
            return Ok(Visit::Kept);
        }
        match kind {
            libc::S_IFREG => {
                let bytes = root::read(entry.parent, entry.name, 1 << 30).unwrap();
                let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(30)]).into_owned();
                line += &format!(" {} {shown:?} {}", bytes.len(), blake3::hash(&bytes).to_hex().as_str());
            }
            libc::S_IFLNK => {
                line += &format!(" -> {:?}", rustix::fs::readlinkat(entry.parent, entry.name, []).unwrap());
            }
            libc::S_IFBLK | libc::S_IFCHR => line += &format!(" {:x}", stat.st_rdev),
            _ => {}
        }
        if kind != libc::S_IFDIR && stat.st_nlink > 1 {
            let first = inodes.entry(stat.st_ino).or_insert_with(|| path.clone());
            line += &format!(" = {first:?}");
        }
        if !path.is_empty() {
            line += &format!(" @{}", stat.st_mtime);
        }
        let target = match entry.handle {
            Some(handle) => Target::Handle(handle),
            None => Target::Name(entry.parent, entry.name),
        };
        for (name, value) in target.read(is_carried).unwrap() {
            line += &format!(" {}={value:02x?}", String::from_utf8_lossy(&name));
        }
        for marks in [Marks::Trusted, Marks::User] {
            if target.get(marks.opaque().as_bytes()).unwrap().is_some() {
                line += " opaque";
            }
        }
        lines.push(line);
        Ok(Visit::Kept)
    })
    .unwrap();
    lines
}
