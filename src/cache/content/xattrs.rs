//! Extended attributes: which of them a copy carries, and reading and writing those.
//!
//! Carried are `user.*`, `trusted.*` and `security.capability`. Not carried are overlayfs's own
//! marks, which would change how a tree is merged, and what belongs to the machine and not to the
//! file: SELinux labels, IMA, access control lists of a file system.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;

use rustix::io::Errno;

/// Attributes by name, sorted.
pub type Xattrs = Vec<(CString, Vec<u8>)>;

/// How often a list that grows while it is read is asked for again.
const TRIES: usize = 8;

/// Whether copies carry the attribute of this name.
pub fn is_carried(name: &[u8]) -> bool {
    if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
        return false;
    }
    name == b"security.capability" || name.starts_with(b"user.") || name.starts_with(b"trusted.")
}

/// The attributes of an open file or directory that a copy carries. None where the file system has
/// no such thing.
///
/// # Errors
/// What the kernel gives.
pub fn read(file: &File) -> io::Result<Xattrs> {
    let mut found = Xattrs::new();
    for name in names(file)? {
        if !is_carried(name.as_bytes()) {
            continue;
        }
        match value(file, &name) {
            Ok(value) => found.push((name, value)),
            // Gone since, or `trusted.*` in a user namespace.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENODATA | libc::EPERM)) => {}
            Err(error) => return Err(error),
        }
    }
    found.sort();
    Ok(found)
}

fn names(file: &File) -> io::Result<Vec<CString>> {
    for _ in 0..TRIES {
        let size = match rustix::fs::flistxattr_query(file) {
            Ok(0) | Err(Errno::NOTSUP) => return Ok(Vec::new()),
            Ok(size) => size,
            Err(error) => return Err(error.into()),
        };
        let mut list = vec![0_u8; size];
        match rustix::fs::flistxattr(file, &mut list) {
            Ok(size) => {
                list.truncate(size);
                return Ok(list
                    .split_inclusive(|byte| *byte == 0)
                    .filter_map(|name| CStr::from_bytes_with_nul(name).ok().map(CStr::to_owned))
                    .collect());
            }
            Err(Errno::RANGE) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Errno::RANGE.into())
}

fn value(file: &File, name: &CStr) -> io::Result<Vec<u8>> {
    for _ in 0..TRIES {
        let size = rustix::fs::fgetxattr_query(file, name)?;
        let mut value = vec![0_u8; size];
        match rustix::fs::fgetxattr(file, name, &mut value) {
            Ok(size) => {
                value.truncate(size);
                return Ok(value);
            }
            Err(Errno::RANGE) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Errno::RANGE.into())
}

/// Sets one attribute. A file system or a user namespace that cannot hold it is no error: BuildKit
/// leaves such attributes out too.
///
/// # Errors
/// Any other failure.
pub fn set(file: &File, name: &CStr, value: &[u8]) -> io::Result<()> {
    match rustix::fs::fsetxattr(file, name, value, rustix::fs::XattrFlags::empty()) {
        Ok(()) | Err(Errno::NOTSUP | Errno::PERM) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// What the attributes are; zeros if there are none.
pub fn fingerprint(xattrs: &Xattrs) -> [u8; 32] {
    if xattrs.is_empty() {
        return [0; 32];
    }
    let mut hasher = blake3::Hasher::new();
    for (name, value) in xattrs {
        for field in [name.as_bytes(), value] {
            hasher.update(&(field.len() as u64).to_le_bytes());
            hasher.update(field);
        }
    }
    *hasher.finalize().as_bytes()
}
