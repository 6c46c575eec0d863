//! A part of a tree as an archive: what `cp`, `export`, `commit` and the filling of volumes read.
//!
//! Unlike `commit.rs`, the tree may be a running container's: its processes rename, remove and replace what is being
//! read. So everything is opened once, without following, looked at by that handle, and read by that handle; what is
//! gone by then is left out. A device or a FIFO is never opened but as `O_PATH`: to open `/dev/watchdog` for reading
//! does something, and who may put which device where is up to whoever runs in the container.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, Stat};
use rustix::io::Errno;

use super::attributes::{Target, Xattrs, is_carried, is_private, is_whiteout, permissions};
use super::path::{PathError, show};
use super::tar_writer::{Header, write_end, write_header, write_padding};
use super::walk::{Visit, walk_live};

/// What an archive of a part of a tree is like.
#[derive(Clone, Copy)]
pub struct Packing<'a> {
    /// What the top is called. Empty: only what it holds is written, by names of its own.
    pub top: &'a [u8],
    /// Whose everything is; none for the owners that things have.
    pub owner: Option<(u32, u32)>,
    /// Whether overlayfs' marks and whiteouts are written as they are, for a copy that is a layer's directory again.
    pub marks: bool,
    /// Whether times have their nanoseconds. They cost a header more for nearly every file.
    pub precise: bool,
    /// What is left out, with all that it holds: its path below the top, and what it is.
    pub without: &'a dyn Fn(&[u8], &Stat) -> bool,
}

impl Packing<'_> {
    /// All that there is, as it is.
    pub const ALL: Self = Self { top: b"", owner: None, marks: false, precise: true, without: &|_, _| false };
}

/// Why a tree could not be read or an archive not be written.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    #[error(transparent)]
    Path(#[from] PathError),
    #[error("`{0}` became shorter while it was read")]
    Changed(String),
    #[error("cannot write the archive")]
    Write(#[source] io::Error),
}

/// Writes what `source` is, with all that it holds, as an archive. `source` may be an `O_PATH` handle on anything.
///
/// # Errors
/// [`PackError`].
pub fn pack(source: BorrowedFd<'_>, packing: &Packing<'_>, out: &mut dyn Write) -> Result<(), PackError> {
    let mut pack = Pack { out, packing, links: HashMap::new(), buffer: vec![0; 128 << 10] };
    let failed = |error: Errno| PathError::new("look at", packing.top, error);
    let stat = rustix::fs::fstat(source).map_err(failed)?;
    if stat.st_mode & libc::S_IFMT != libc::S_IFDIR {
        if !(packing.without)(b"", &stat) {
            pack.member(source, &stat, packing.top)?;
        }
        return write_end(pack.out).map_err(PackError::Write);
    }
    walk_live(source, |entry| -> Result<Visit, PackError> {
        if (packing.without)(entry.path, entry.stat) {
            return Ok(Visit::Passed);
        }
        let path = match (packing.top, entry.path) {
            (top, b"") => top.to_vec(),
            (b"", path) => path.to_vec(),
            (top, path) => [top, b"/", path].concat(),
        };
        if path.is_empty() {
            return Ok(Visit::Kept);
        }
        if let Some(handle) = entry.handle {
            pack.member(handle, entry.stat, &path)?;
            // What the kernel makes up on the way is no file of anybody's, and has no end.
            let foreign = entry.stat.st_dev != stat.st_dev
                && is_made_up(handle).map_err(|error| PathError::new("look at", &path, error))?;
            return Ok(if foreign { Visit::Passed } else { Visit::Kept });
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(entry.parent, entry.name, flags, Mode::empty()) {
            Ok(opened) => {
                let stat =
                    rustix::fs::fstat(&opened).map_err(|error| PathError::new("look at", &path, error))?;
                // A directory by now: its turn is over.
                if stat.st_mode & libc::S_IFMT != libc::S_IFDIR {
                    pack.member(opened.as_fd(), &stat, &path)?;
                }
            }
            Err(Errno::NOENT) => {}
            Err(error) => return Err(PathError::new("open", &path, error).into()),
        }
        Ok(Visit::Kept)
    })?;
    write_end(pack.out).map_err(PackError::Write)
}

/// How many bytes the files below a directory have; those with several names count once for each.
///
/// # Errors
/// [`PathError`].
pub fn size_of(directory: BorrowedFd<'_>) -> Result<u64, PathError> {
    let mut size = 0;
    walk_live(directory, |entry| -> Result<_, PathError> {
        if entry.stat.st_mode & libc::S_IFMT == libc::S_IFREG {
            size += entry.stat.st_size.unsigned_abs();
        }
        Ok(Visit::Kept)
    })?;
    Ok(size)
}

/// Whether a directory is of a file system without files of its own, such as `/proc`.
fn is_made_up(directory: BorrowedFd<'_>) -> Result<bool, Errno> {
    /// `CGROUP_SUPER_MAGIC`, `CGROUP2_SUPER_MAGIC`, `SYSFS_MAGIC`, `DEVPTS_SUPER_MAGIC` and `MQUEUE_MAGIC` of
    /// `linux/magic.h`.
    const MAGICS: [u64; 5] = [0x27_e0eb, 0x6367_7270, 0x6265_6572, 0x1cd1, 0x1980_0202];
    let kind = rustix::fs::fstatfs(directory)?.f_type;
    Ok(kind == rustix::fs::PROC_SUPER_MAGIC || MAGICS.contains(&(kind as u64)))
}

/// A regular file for reading, by an `O_PATH` handle on it.
pub(super) fn reopen(opened: BorrowedFd<'_>, flags: OFlags) -> io::Result<File> {
    let path = format!("/proc/self/fd/{}", opened.as_raw_fd());
    let fd: OwnedFd = rustix::fs::open(path, flags | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(File::from(fd))
}

struct Pack<'a> {
    out: &'a mut dyn Write,
    packing: &'a Packing<'a>,
    /// The first path of each file that has several.
    links: HashMap<(u64, u64), Vec<u8>>,
    buffer: Vec<u8>,
}

impl Pack<'_> {
    /// One member, by a handle on it.
    fn member(&mut self, handle: BorrowedFd<'_>, stat: &Stat, path: &[u8]) -> Result<(), PackError> {
        let target = Target::Opened(handle);
        let kind = stat.st_mode & libc::S_IFMT;
        if is_whiteout(stat) && !self.packing.marks {
            return Ok(());
        }
        if kind != libc::S_IFDIR && stat.st_nlink > 1 && !is_whiteout(stat) {
            let identity = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&identity).cloned() {
                return self.header(stat, path, b'1', &first, (0, 0), &[]);
            }
            if kind != libc::S_IFSOCK {
                self.links.insert(identity, path.to_vec());
            }
        }
        let device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        match kind {
            libc::S_IFDIR => {
                let xattrs = self.xattrs(&target, path)?;
                self.header(stat, &[path, b"/"].concat(), b'5', b"", (0, 0), &xattrs)
            }
            libc::S_IFREG => self.file(handle, path),
            libc::S_IFLNK => {
                let link = rustix::fs::readlinkat(handle, c"", Vec::new())
                    .map_err(|error| PathError::new("read the link", path, error))?;
                let xattrs = self.xattrs(&target, path)?;
                self.header(stat, path, b'2', link.as_bytes(), (0, 0), &xattrs)
            }
            libc::S_IFCHR | libc::S_IFBLK | libc::S_IFIFO => {
                let xattrs = self.xattrs(&target, path)?;
                let (kind, device) = match kind {
                    libc::S_IFCHR => (b'3', device),
                    libc::S_IFBLK => (b'4', device),
                    _ => (b'6', (0, 0)),
                };
                self.header(stat, path, kind, b"", device, &xattrs)
            }
            // A socket is nothing without who listens on it, and tar has no word for one.
            _ => Ok(()),
        }
    }

    fn file(&mut self, handle: BorrowedFd<'_>, path: &[u8]) -> Result<(), PackError> {
        let failed = |error: io::Error| PathError::new("read", path, error);
        let mut file = reopen(handle, OFlags::RDONLY | OFlags::NONBLOCK).map_err(failed)?;
        // What is written to it from now on comes too late.
        let stat = rustix::fs::fstat(&file).map_err(|error| failed(error.into()))?;
        let size = stat.st_size.unsigned_abs();
        let xattrs = self.xattrs(&Target::Handle(file.as_fd()), path)?;
        self.header(&stat, path, b'0', b"", (0, 0), &xattrs)?;
        let mut left = size;
        while left > 0 {
            let want = self.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            match file.read(&mut self.buffer[..want]) {
                Ok(0) => return Err(PackError::Changed(show(path))),
                Ok(read) => {
                    self.out.write_all(&self.buffer[..read]).map_err(PackError::Write)?;
                    left -= read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error).into()),
            }
        }
        write_padding(self.out, size).map_err(PackError::Write)
    }

    fn xattrs(&self, target: &Target<'_>, path: &[u8]) -> Result<Xattrs, PackError> {
        let marks = self.packing.marks;
        let mut xattrs = target
            .read(|name| is_carried(name) || marks && is_private(name))
            .map_err(|error| PathError::new("read the extended attributes of", path, error))?;
        // An archive has no way to write such a name.
        xattrs.retain(|(name, _)| !name.contains(&b'='));
        Ok(xattrs)
    }

    fn header(
        &mut self,
        stat: &Stat,
        path: &[u8],
        kind: u8,
        link: &[u8],
        device: (u32, u32),
        xattrs: &[(Vec<u8>, Vec<u8>)],
    ) -> Result<(), PackError> {
        let (uid, gid) = self.packing.owner.unwrap_or((stat.st_uid, stat.st_gid));
        let header = Header {
            path,
            link,
            kind,
            mode: if kind == b'2' { 0o777 } else { permissions(stat) },
            uid,
            gid,
            size: if kind == b'0' { stat.st_size.unsigned_abs() } else { 0 },
            mtime: stat.st_mtime,
            nanoseconds: if self.packing.precise { stat.st_mtime_nsec as u32 } else { 0 },
            device,
            xattrs,
        };
        write_header(self.out, &header).map_err(PackError::Write)
    }
}
