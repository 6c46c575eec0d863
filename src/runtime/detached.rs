//! Mounts that are attached nowhere, made by callers for a sandbox or to look into: binds, memory, and the root of a
//! container that runs.
//!
//! What a mount shall be like is set here, before anybody sees it; the sandbox only attaches it.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags};

use super::child::{Points, Shape};
use super::sys::{self, ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY};
use crate::root;

/// A file system in memory.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    /// Bytes; none for the kernel's limit.
    pub size: Option<u64>,
    /// How many files; none for the kernel's limit.
    pub inodes: Option<u64>,
    /// Of its root directory.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub exec: bool,
    pub suid: bool,
    pub dev: bool,
}

/// A bind mount of what `handle` is open on, with or without what is mounted below it.
///
/// # Errors
/// `InvalidInput` in a user namespace for a directory with mounts in it, if they shall not come along.
pub fn bind(handle: impl AsFd, recursive: bool) -> io::Result<OwnedFd> {
    sys::clone_tree(handle, CString::default().as_c_str(), recursive)
}

/// A bind mount of `path` of a tree that is attached nowhere, resolved as if that were `/`. The tree is attached at
/// `place`, an empty directory of the caller's, for as long as it takes: kernels before 6.15 clone no others.
///
/// # Errors
/// What resolving and mounting give.
pub fn bind_part(tree: OwnedFd, path: &str, place: &Path) -> io::Result<OwnedFd> {
    if path.split('/').all(|part| matches!(part, "" | ".")) {
        return Ok(tree);
    }
    attach(&tree, place)?;
    let bound = root::open(&tree, path, OFlags::PATH, Mode::empty()).and_then(|part| bind(part, false));
    let detached = rustix::mount::unmount(place, UnmountFlags::DETACH);
    let bound = bound?;
    detached?;
    Ok(bound)
}

/// Makes a mount read-only, but not what is mounted below it.
///
/// # Errors
/// What `mount_setattr` gives.
pub fn make_read_only(mount: &OwnedFd) -> io::Result<()> {
    sys::mount_setattr(mount.as_fd(), ATTR_RDONLY, false)
}

/// A new file system in memory.
///
/// # Errors
/// What `fsopen` and its kin give.
pub fn memory(memory: &Memory) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let set = |name: &str, value: String| rustix::mount::fsconfig_set_string(&context, name, value);
    set("mode", format!("{:o}", memory.mode & 0o7777))?;
    for (name, value) in [("size", memory.size), ("nr_inodes", memory.inodes)] {
        if let Some(value) = value {
            set(name, value.to_string())?;
        }
    }
    for (name, id) in [("uid", memory.uid), ("gid", memory.gid)] {
        if id != 0 {
            set(name, id.to_string())?;
        }
    }
    rustix::mount::fsconfig_create(&context)?;
    let flags = [(memory.exec, ATTR_NOEXEC), (memory.suid, ATTR_NOSUID), (memory.dev, ATTR_NODEV)];
    let attributes = flags.iter().filter(|(allowed, _)| !allowed).fold(0, |all, (_, flag)| all | flag);
    let attributes = MountAttrFlags::from_bits_retain(attributes as u32);
    Ok(rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// A handle on the root that a process sees, with all that is mounted there. `alive` is asked after it was opened:
/// the number may be another process's by then.
///
/// # Errors
/// `NotFound` if the process is gone.
pub fn root_of_process(pid: i32, alive: impl Fn() -> bool) -> io::Result<OwnedFd> {
    let gone = || io::Error::new(io::ErrorKind::NotFound, "the process has ended");
    let path = format!("/proc/{pid}/root");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(path, flags, Mode::empty());
    if !alive() {
        return Err(gone());
    }
    Ok(root?)
}

/// What a process has at `path`, resolved inside its root, without what else is mounted in it: a mount of its own. Made
/// by a thread that enters the process's mount namespace for it and ends there.
///
/// # Errors
/// `NotFound` if the process is gone, and what entering a mount namespace gives.
pub fn part_of_process(pid: i32, path: &str, alive: impl Fn() -> bool) -> io::Result<OwnedFd> {
    let namespace = File::open(format!("/proc/{pid}/ns/mnt"))?;
    if !alive() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the process has ended"));
    }
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| -> io::Result<OwnedFd> {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)?;
            nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNS)?;
            bind(
                root::open(root::open_ambient_dir(Path::new("/"))?, path, OFlags::PATH, Mode::empty())?,
                false,
            )
        });
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
    })
}

/// A tree with mounts in it, attached in this process's mount namespace for as long as this lives. What was made to
/// mount something on is taken away again.
#[derive(Debug)]
pub struct Assembled {
    root: OwnedFd,
    points: Points,
    /// Where it is attached. Removed after the mounts.
    place: tempfile::TempDir,
}

impl Assembled {
    /// Attaches `root` at `place`, an empty directory of the caller's, and each mount at its target below it, in
    /// this order; links on the way are followed inside the root. With `read_only` the root itself cannot be written.
    ///
    /// # Errors
    /// What mounting gives, with the target that it was for.
    pub fn new(
        root: OwnedFd,
        place: tempfile::TempDir,
        mounts: Vec<(String, OwnedFd)>,
        read_only: bool,
    ) -> Result<Self, (String, io::Error)> {
        let at = |target: &str| {
            let target = target.to_owned();
            move |error: io::Error| (target, error)
        };
        attach(&root, place.path()).map_err(at("/"))?;
        let points = Points::new(root.try_clone().map_err(at("/"))?, read_only);
        let mut assembled = Self { root, points, place };
        for (target, mount) in mounts {
            assembled.mount(&target, &mount).map_err(at(&target))?;
        }
        if read_only {
            make_read_only(&assembled.root).map_err(at("/"))?;
        }
        Ok(assembled)
    }

    fn mount(&mut self, target: &str, mount: &OwnedFd) -> io::Result<()> {
        let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(mount)?.st_mode);
        let shape = if kind == rustix::fs::FileType::Directory { Shape::Directory } else { Shape::File };
        let point = self.points.point(target, shape, false)?;
        sys::attach(mount, point)
    }
}

impl AsFd for Assembled {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

impl Drop for Assembled {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.place.path(), UnmountFlags::DETACH);
        let _ = self.points.clean_up();
    }
}

fn attach(mount: &OwnedFd, place: &Path) -> io::Result<()> {
    let point = root::open_ambient_dir(place)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(mount, c"", point, c"", flags)?)
}
