//! Owners, modes and extended attributes, by handle; and which attributes belong to a layer at all.
//!
//! Files and directories are changed through their own handles. Links and special files have none that
//! could be used (`O_PATH` handles refuse attribute calls, and `setxattrat` needs kernel 6.13), so they
//! are reached as `/proc/self/fd/<parent>/<name>` with calls that do not follow the last name.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Gid, Stat, Uid, XattrFlags};
use rustix::io::Errno;

/// Under which names overlayfs keeps its marks: only a real root may write `trusted.*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Marks {
    /// `trusted.overlay.*`, for root.
    Trusted,
    /// `user.overlay.*`, for a user namespace (mount option `userxattr`, kernel 5.11).
    User,
}

impl Marks {
    /// Marks a directory that hides whatever lies below it.
    pub(super) const fn opaque(self) -> &'static str {
        match self {
            Self::Trusted => "trusted.overlay.opaque",
            Self::User => "user.overlay.opaque",
        }
    }

    /// Marks a directory that the archive implies but never states. Ours; in overlayfs' name space
    /// because that is hidden in merged views and dropped from archives.
    pub(super) const fn implied(self) -> &'static str {
        match self {
            Self::Trusted => "trusted.overlay.stave.implied",
            Self::User => "user.overlay.stave.implied",
        }
    }

    /// Marks the directories of a copied tree with where they were copied to.
    pub(super) const fn origin(self) -> &'static str {
        match self {
            Self::Trusted => "trusted.overlay.stave.origin",
            Self::User => "user.overlay.stave.origin",
        }
    }
}

/// Whether an attribute is overlayfs' (or fuse-overlayfs') own bookkeeping. In an archive it is an
/// attacker's try at changing the merge; in an upper directory it tells how a tree was made.
pub(super) fn is_private(name: &[u8]) -> bool {
    [&b"trusted.overlay."[..], b"user.overlay.", b"user.fuseoverlayfs."]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// Whether a layer carries this attribute. What a security module of this machine thinks of a file
/// (`security.selinux`, `security.ima`) is no fact about the image.
pub(super) fn is_carried(name: &[u8]) -> bool {
    !is_private(name)
        && (name.starts_with(b"user.")
            || name.starts_with(b"trusted.")
            || matches!(
                name,
                b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default"
            ))
}

/// Extended attributes, sorted by name.
pub(super) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Something whose extended attributes are read or written.
pub(super) enum Target<'a> {
    /// A file or directory, by its handle.
    Handle(BorrowedFd<'a>),
    /// Anything, by its name in a directory; not followed.
    Name(BorrowedFd<'a>, &'a OsStr),
    /// Anything, by an `O_PATH` handle. `/proc/self/fd/<it>` leads to that very thing, a link too.
    Opened(BorrowedFd<'a>),
}

impl Target<'_> {
    fn path(&self) -> Vec<u8> {
        match self {
            Self::Handle(fd) | Self::Opened(fd) => format!("/proc/self/fd/{}", fd.as_raw_fd()).into_bytes(),
            Self::Name(fd, name) => {
                let mut path = format!("/proc/self/fd/{}/", fd.as_raw_fd()).into_bytes();
                path.extend_from_slice(name.as_bytes());
                path
            }
        }
    }

    /// All attributes for which `wanted` holds.
    pub(super) fn read(&self, wanted: impl Fn(&[u8]) -> bool) -> io::Result<Xattrs> {
        let mut found = Vec::new();
        for name in self.names()? {
            if wanted(&name)
                && let Some(value) = self.get(&name)?
            {
                found.push((name, value));
            }
        }
        found.sort();
        Ok(found)
    }

    fn names(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut list = vec![0; 1024];
        loop {
            let got = match self {
                Self::Handle(fd) => rustix::fs::flistxattr(fd, &mut list[..]),
                Self::Name(..) => rustix::fs::llistxattr(self.path(), &mut list[..]),
                Self::Opened(_) => rustix::fs::listxattr(self.path(), &mut list[..]),
            };
            match got {
                Ok(length) => {
                    let names = list[..length].split(|byte| *byte == 0);
                    return Ok(names.filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect());
                }
                // The kernel's own limit is 64 KiB.
                Err(Errno::RANGE) if list.len() < 1 << 16 => list.resize(1 << 16, 0),
                Err(Errno::NOTSUP) => return Ok(Vec::new()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// One attribute, or `None` if it is not there.
    pub(super) fn get(&self, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut value = vec![0; 256];
        loop {
            let got = match self {
                Self::Handle(fd) => rustix::fs::fgetxattr(fd, name, &mut value[..]),
                Self::Name(..) => rustix::fs::lgetxattr(self.path(), name, &mut value[..]),
                Self::Opened(_) => rustix::fs::getxattr(self.path(), name, &mut value[..]),
            };
            match got {
                Ok(length) => {
                    value.truncate(length);
                    return Ok(Some(value));
                }
                Err(Errno::RANGE) if value.len() < 1 << 16 => value.resize(1 << 16, 0),
                Err(Errno::NODATA | Errno::NOTSUP) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    pub(super) fn set(&self, name: &[u8], value: &[u8]) -> Result<(), Errno> {
        match self {
            Self::Handle(fd) => rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()),
            Self::Name(..) => rustix::fs::lsetxattr(self.path(), name, value, XattrFlags::empty()),
            Self::Opened(_) => rustix::fs::setxattr(self.path(), name, value, XattrFlags::empty()),
        }
    }

    /// Removes an attribute; that it is not there is fine.
    pub(super) fn remove(&self, name: &[u8]) -> io::Result<()> {
        let removed = match self {
            Self::Handle(fd) => rustix::fs::fremovexattr(fd, name),
            Self::Name(..) => rustix::fs::lremovexattr(self.path(), name),
            Self::Opened(_) => rustix::fs::removexattr(self.path(), name),
        };
        match removed {
            Ok(()) | Err(Errno::NODATA | Errno::NOTSUP) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether this is how overlayfs says that a name is gone; or how we do where such a device cannot be made, which is
/// so on an overlay: a socket of no mode and no time. A layer has no other sockets.
pub(super) fn is_whiteout(stat: &Stat) -> bool {
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFCHR => stat.st_rdev == 0,
        libc::S_IFSOCK => permissions(stat) == 0 && (stat.st_mtime, stat.st_mtime_nsec) == (0, 0),
        _ => false,
    }
}

/// Says that `name` is gone.
pub(super) fn make_whiteout(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    let make = |kind| rustix::fs::mknodat(parent, name, kind, rustix::fs::Mode::empty(), 0);
    match make(rustix::fs::FileType::CharacterDevice) {
        Err(Errno::PERM | Errno::NOTSUP | Errno::INVAL) => {
            make(rustix::fs::FileType::Socket)?;
            let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
            Ok(rustix::fs::utimensat(parent, name, &times(0, 0), flags)?)
        }
        made => Ok(made?),
    }
}

/// The mode's permission bits, set-id bits and sticky bit.
pub(super) fn permissions(stat: &Stat) -> u32 {
    stat.st_mode & 0o7777
}

/// Gives the directory `to` the mode, owner and carried attributes of `from`, and its time if asked.
///
/// # Errors
/// What the file system gives.
pub fn copy_directory(from: BorrowedFd<'_>, to: BorrowedFd<'_>, time: bool) -> io::Result<()> {
    let stat = rustix::fs::fstat(from)?;
    let source = Target::Handle(from);
    let target = Target::Handle(to);
    rustix::fs::fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    rustix::fs::fchmod(to, rustix::fs::Mode::from_raw_mode(permissions(&stat)))?;
    for (name, _) in target.read(is_carried)? {
        target.remove(&name)?;
    }
    for (name, value) in source.read(is_carried)? {
        target.set(&name, &value)?;
    }
    if time {
        rustix::fs::futimens(to, &times(stat.st_mtime, stat.st_mtime_nsec as u32))?;
    }
    Ok(())
}

/// Whether two directories have the same mode, owner and carried attributes.
pub(super) fn alike(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> io::Result<bool> {
    let (first, second) = (rustix::fs::fstat(a)?, rustix::fs::fstat(b)?);
    let facts = |stat: &Stat| (permissions(stat), stat.st_uid, stat.st_gid);
    Ok(facts(&first) == facts(&second)
        && Target::Handle(a).read(is_carried)? == Target::Handle(b).read(is_carried)?)
}

/// Access and modification time set to the same instant.
pub(super) fn times(seconds: i64, nanoseconds: u32) -> rustix::fs::Timestamps {
    let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    rustix::fs::Timestamps { last_access: time, last_modification: time }
}
