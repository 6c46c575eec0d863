//! The mounts of a bundle, by handle, in the first process's own mount namespace.
//!
//! What comes from the host is cloned before anything is entered ([`Sources`]); from there on every path is one of the
//! root file system, resolved below its handle, and every mount is moved onto a handle (CVE-2021-30465).

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, UnmountFlags};

use super::mount::{Change, MountPlan, Propagation, What};
use super::plan::CreatePlan;
use crate::root;
use crate::runtime::child::point::{Points, Shape};
use crate::runtime::spec::Device;
use crate::runtime::sys;
use crate::runtime::wire::{During, Failure, FailureKind};

const RDONLY: u64 = 0x1;
/// No nosuid, nodev and noexec on what only covers.
const INERT: u64 = 0x2 | 0x4 | 0x8;

/// Files of `/proc` that may be covered with others: what lxcfs has.
const COVERED_IN_PROC: [&str; 9] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/sys/kernel/ns_last_pid",
];

/// Detached copies of what the container gets from the host.
pub(super) struct Sources {
    rootfs: OwnedFd,
    /// One for each mount; none for those that are no binds.
    binds: Vec<Option<OwnedFd>>,
    /// Names below `/sys/fs/cgroup` and the groups there.
    groups: Vec<(String, OwnedFd)>,
    /// Second names of hierarchies.
    links: Vec<(String, String)>,
}

impl Sources {
    /// Clones them as this process sees them.
    pub(super) fn open(plan: &CreatePlan) -> Result<Self, Failure> {
        let clone = |path: &str, recursive: bool| -> io::Result<OwnedFd> {
            let handle = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
            let tree = match sys::clone_tree(&handle, c"", recursive) {
                // In a user namespace what is mounted below may not be left out.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) && !recursive => {
                    sys::clone_tree(&handle, c"", true)?
                }
                other => other?,
            };
            propagate(&tree, plan.base)?;
            Ok(tree)
        };
        let rootfs =
            clone(&plan.rootfs, true).during(|| format!("opening the root file system `{}`", plan.rootfs))?;
        if !is_directory(&rootfs).during(|| "opening the root file system".to_owned())? {
            let what = format!("the root file system `{}`", plan.rootfs);
            return Err(Failure::new(FailureKind::Setup, what, libc::ENOTDIR));
        }
        let mut binds = Vec::new();
        for mount in &plan.mounts {
            binds.push(match &mount.what {
                What::Bind { source, recursive } => {
                    Some(clone(source, *recursive).during(|| format!("opening `{source}` to mount it"))?)
                }
                What::FileSystem { .. } | What::Cgroup => None,
            });
        }
        let mut groups = Vec::new();
        let mut links = Vec::new();
        if !plan.unified && plan.mounts.iter().any(|mount| mount.what == What::Cgroup) {
            for (name, path) in &plan.groups {
                let group = clone(&format!("/sys/fs/cgroup/{name}{path}"), false)
                    .during(|| format!("opening the cgroup of `{name}`"))?;
                groups.push((name.clone(), group));
            }
            for entry in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
                let target = std::fs::read_link(entry.path()).ok();
                if let Some(target) = target.and_then(|target| target.to_str().map(str::to_owned)) {
                    links.push((entry.file_name().to_string_lossy().into_owned(), target));
                }
            }
        }
        Ok(Self { rootfs, binds, groups, links })
    }
}

fn propagate(mount: &OwnedFd, propagation: Propagation) -> io::Result<()> {
    sys::mount_change(mount.as_fd(), (0, 0), propagation.kind, propagation.recursive)
}

fn change(mount: &OwnedFd, change: Change, recursive: bool) -> io::Result<()> {
    if change.is_empty() {
        return Ok(());
    }
    match sys::mount_change(mount.as_fd(), (change.set, change.clear), 0, recursive) {
        // What the host locked for this user namespace stays.
        Err(error) if error.raw_os_error() == Some(libc::EPERM) && change.set != 0 => {
            sys::mount_change(mount.as_fd(), (change.set & !0x70, 0), 0, recursive)
        }
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(()),
        other => other,
    }
}

fn is_directory(handle: &OwnedFd) -> io::Result<bool> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(handle)?.st_mode).is_dir())
}

/// Settings of the container's own namespaces, through the host's `/proc`, which nobody inside has touched.
pub(super) fn set_sysctls(settings: &[(String, String)]) -> Result<(), Failure> {
    if settings.is_empty() {
        return Ok(());
    }
    let proc = root::open_ambient_dir("/proc/sys").during(|| "opening `/proc/sys`".to_owned())?;
    if !is_procfs(&proc).during(|| "looking at `/proc/sys`".to_owned())? {
        return Err(Failure::new(FailureKind::Setup, "`/proc/sys` is no procfs", 0));
    }
    for (path, value) in settings {
        root::open_no_links(&proc, path, OFlags::WRONLY, Mode::empty())
            .and_then(|file| Ok(rustix::io::write(&file, value.as_bytes())?))
            .during(|| format!("setting `{path}` to `{value}`"))?;
    }
    Ok(())
}

fn is_procfs(handle: &OwnedFd) -> io::Result<bool> {
    Ok(rustix::fs::fstatfs(handle)?.f_type == rustix::fs::PROC_SUPER_MAGIC)
}

/// A tree that stands beside the host's, and is entered next.
pub(super) struct Tree {
    points: Points,
    null: OwnedFd,
    /// Whether the groups are attached somewhere: they are moved once, and cloned from there.
    groups_attached: bool,
}

/// Mounts everything.
pub(super) fn build(plan: &CreatePlan, mut sources: Sources) -> Result<Tree, Failure> {
    let during = || "detaching the host's mounts".to_owned();
    let flags = MountPropagationFlags::from_bits_retain(plan.base.kind as u32);
    let flags = if plan.base.recursive { flags | MountPropagationFlags::REC } else { flags };
    rustix::mount::mount_change("/", flags).during(during)?;
    // The tree is attached here; that shall show nowhere else, and must not be shared to be entered.
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE).during(during)?;
    let null = null_device().during(|| "opening `/dev/null`".to_owned())?;
    let slash = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .during(|| "opening `/`".to_owned())?;
    sys::attach(&sources.rootfs, &slash).during(|| "mounting the root file system".to_owned())?;
    let rootfs = sources.rootfs.try_clone().during(|| "keeping the root file system".to_owned())?;
    let mut tree = Tree { points: Points::new(rootfs, false), null, groups_attached: false };
    for (place, mount) in plan.mounts.iter().enumerate() {
        let source = sources.binds[place].take();
        tree.mount(plan, mount, source, &sources)?;
    }
    if plan.own_dev {
        for device in &plan.devices {
            tree.device(device).during(|| format!("making the device `{}`", device.path))?;
        }
        tree.links();
    }
    // One that is missing is made, as other runtimes do.
    let _ = root::create_dirs(tree.root(), &plan.process.cwd, Mode::from_raw_mode(0o755));
    Ok(tree)
}

/// `/dev/null`, by what it is and not by what it is called.
fn null_device() -> io::Result<OwnedFd> {
    host_device("/dev/null", FileType::CharacterDevice, 1, 3)
}

fn host_device(path: &str, kind: FileType, major: u32, minor: u32) -> io::Result<OwnedFd> {
    let device = sys::clone_tree(CWD, &CString::new(path)?, false)?;
    let stat = rustix::fs::fstat(&device)?;
    if FileType::from_raw_mode(stat.st_mode) != kind || stat.st_rdev != rustix::fs::makedev(major, minor) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the host has another device there"));
    }
    Ok(device)
}

/// A new file system, detached.
fn new_filesystem(
    kind: &str,
    source: &str,
    options: &[(String, Option<String>)],
    set: u64,
) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(&context, "source", source)?;
    for (name, value) in options {
        match value {
            Some(value) => rustix::mount::fsconfig_set_string(&context, name.as_str(), value.as_str())?,
            None => rustix::mount::fsconfig_set_flag(&context, name.as_str())?,
        }
    }
    rustix::mount::fsconfig_create(&context)?;
    let attributes = MountAttrFlags::from_bits_retain(set as u32);
    Ok(rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

impl Tree {
    pub(super) fn root(&self) -> &OwnedFd {
        self.points.root()
    }

    fn mount(
        &mut self,
        plan: &CreatePlan,
        mount: &MountPlan,
        source: Option<OwnedFd>,
        sources: &Sources,
    ) -> Result<(), Failure> {
        let MountPlan { target, what, top, all, propagation } = mount;
        let during = || format!("mounting `{target}`");
        let (mounted, shape) = match (what, source) {
            (What::Bind { .. }, Some(tree)) => {
                let shape = if is_directory(&tree).during(during)? { Shape::Directory } else { Shape::File };
                let point = self.point(target, shape, false, Some(&tree))?;
                change(&tree, *all, true).during(during)?;
                change(&tree, *top, false).during(during)?;
                (tree, point)
            }
            (What::Bind { .. }, None) => {
                return Err(Failure::new(FailureKind::Setup, during(), libc::EINVAL));
            }
            (What::FileSystem { kind, source, options, copy_up }, _) => {
                let point =
                    self.point(target, Shape::Directory, matches!(kind.as_str(), "proc" | "sysfs"), None)?;
                let mut options = options.clone();
                if kind == "tmpfs" && !options.iter().any(|(name, _)| name == "mode") {
                    // It looks as the directory that it covers.
                    if let Some(mode) = self.points.mode(target) {
                        options.push(("mode".to_owned(), Some(format!("{mode:o}"))));
                    }
                }
                let set = if *copy_up { 0 } else { top.set };
                let tree = self.filesystem(kind, source, &options, set).during(during)?;
                if *copy_up {
                    copy_up::copy(self.root(), target, &tree)
                        .during(|| format!("copying what is in `{target}`"))?;
                    change(&tree, *top, false).during(during)?;
                }
                change(&tree, *all, true).during(during)?;
                (tree, point)
            }
            (What::Cgroup, _) => {
                let point = self.point(target, Shape::Directory, false, None)?;
                let tree = cgroup_tree(plan, sources, *top, self.groups_attached).during(during)?;
                self.groups_attached = true;
                (tree, point)
            }
        };
        sys::attach(&mounted, &shape).during(during)?;
        propagation.iter().try_for_each(|kind| propagate(&mounted, *kind)).during(during)
    }

    /// Where something is mounted. `/proc` is covered only by itself, and in it nothing but a few known files.
    fn point(
        &mut self,
        target: &str,
        shape: Shape,
        strict: bool,
        source: Option<&OwnedFd>,
    ) -> Result<OwnedFd, Failure> {
        let point = self.points.point(target, shape, strict).map_err(|error| {
            let errno = error.raw_os_error().unwrap_or(0);
            let what = if strict && matches!(errno, libc::ELOOP | libc::ENOTDIR) {
                format!("`{target}` of the root file system must be a directory, and no link")
            } else {
                format!("making the mount point `{target}`")
            };
            Failure::new(FailureKind::Setup, what, errno)
        })?;
        let during = || format!("looking at `{target}`");
        let is_proc = source.map(is_procfs).transpose().during(during)?.unwrap_or(false);
        if is_procfs(&point).during(during)?
            && target != "/proc"
            && !COVERED_IN_PROC.contains(&target)
            && !is_proc
        {
            let what = format!("`{target}` cannot be mounted because it is inside `/proc`");
            return Err(Failure::new(FailureKind::Setup, what, libc::EPERM));
        }
        Ok(point)
    }

    /// A new file system. Where the kernel refuses `/proc`, `/sys` and message queues, since their namespaces are not
    /// ours, those of the host are shown, as what they are.
    fn filesystem(
        &self,
        kind: &str,
        source: &str,
        options: &[(String, Option<String>)],
        set: u64,
    ) -> io::Result<OwnedFd> {
        let refused = match new_filesystem(kind, source, options, set) {
            Err(error) => error,
            made => return made,
        };
        let host = match (kind, refused.raw_os_error()) {
            ("proc", Some(libc::EPERM)) => c"/proc",
            ("sysfs", Some(libc::EPERM)) => c"/sys",
            // Group 5 is `tty` everywhere; a user namespace may not have it.
            ("devpts", Some(libc::EINVAL)) => {
                let without: Vec<_> = options.iter().filter(|(name, _)| name != "gid").cloned().collect();
                return new_filesystem(kind, source, &without, set);
            }
            _ => return Err(refused),
        };
        let tree = sys::clone_tree(CWD, host, true)?;
        sys::mount_change(tree.as_fd(), (set & !0x70, 0), 0, true)?;
        Ok(tree)
    }

    fn device(&mut self, device: &Device) -> io::Result<()> {
        let (folder, name) = device.path.rsplit_once('/').expect("the plan admits absolute paths only");
        let folder = if folder.is_empty() { "/" } else { folder };
        let parent = self.points.point(folder, Shape::Directory, false)?;
        let kind = if device.block { FileType::BlockDevice } else { FileType::CharacterDevice };
        let number = rustix::fs::makedev(device.major, device.minor);
        let mode = Mode::from_raw_mode(device.mode);
        match rustix::fs::mknodat(&parent, name, kind, mode, number) {
            Ok(()) => {
                let ids = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                return Ok(rustix::fs::chownat(&parent, name, Some(ids.0), Some(ids.1), flags)?);
            }
            Err(Errno::EXIST) => return Ok(()),
            Err(Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
        let host = host_device(&device.path, kind, device.major, device.minor)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDONLY | OFlags::CLOEXEC;
        let made = rustix::fs::openat(&parent, name, flags, mode)?;
        sys::attach(&host, &made)
    }

    /// Links that programs expect in `/dev`. What is there already stays, but for `ptmx`, which must be of the
    /// container's own terminals.
    fn links(&self) {
        let Ok(dev) = root::open_dir(self.root(), "/dev") else { return };
        let _ = rustix::fs::unlinkat(&dev, "ptmx", AtFlags::empty());
        for (to, name) in [
            ("/proc/self/fd", "fd"),
            ("/proc/self/fd/0", "stdin"),
            ("/proc/self/fd/1", "stdout"),
            ("/proc/self/fd/2", "stderr"),
            ("pts/ptmx", "ptmx"),
        ] {
            let _ = rustix::fs::symlinkat(to, &dev, name);
        }
        if std::path::Path::new("/proc/kcore").exists() {
            let _ = rustix::fs::symlinkat("/proc/kcore", &dev, "core");
        }
    }

    /// Makes the tree the root of this process, and lets go of the host's.
    pub(super) fn enter(self, plan: &CreatePlan) -> Result<(), Failure> {
        let Self { points, null, groups_attached: _ } = self;
        let root = points.root().try_clone().during(|| "keeping the root file system".to_owned())?;
        drop(points);
        let during = || "entering the root file system".to_owned();
        rustix::process::fchdir(&root).during(during)?;
        if plan.no_pivot {
            let flags = rustix::mount::MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            rustix::mount::move_mount(&root, c"", CWD, c"/", flags).during(during)?;
            rustix::process::chroot(".").during(during)?;
        } else {
            // Both names mean the new root; the old one ends up on top of it, and is taken off.
            rustix::process::pivot_root(".", ".").during(during)?;
            rustix::mount::unmount(".", UnmountFlags::DETACH).during(during)?;
        }
        rustix::process::chdir("/").during(during)?;
        if plan.read_only {
            sys::mount_change(root.as_fd(), (RDONLY, 0), 0, false)
                .during(|| "making the root file system read-only".to_owned())?;
        }
        for path in &plan.protected {
            protect(&root, path).during(|| format!("protecting `{path}`"))?;
        }
        let mut covers = Covers { null: Cover::Detached(null), empty: None };
        for path in &plan.masked {
            covers.cover(&root, path).during(|| format!("hiding `{path}`"))?;
        }
        if let Some(propagation) = plan.propagation {
            propagate(&root, propagation).during(|| "setting `rootfsPropagation`".to_owned())?;
        }
        Ok(())
    }
}

/// A path that is not there needs no protection.
fn found(root: &OwnedFd, path: &str) -> io::Result<Option<OwnedFd>> {
    match root::open(root, path, OFlags::PATH, Mode::empty()) {
        Ok(point) => Ok(Some(point)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::EACCES)) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn protect(root: &OwnedFd, path: &str) -> io::Result<()> {
    let Some(point) = found(root, path)? else { return Ok(()) };
    let tree = sys::clone_tree(&point, c"", true)?;
    sys::mount_change(tree.as_fd(), (RDONLY, 0), 0, true)?;
    sys::attach(&tree, &point)
}

/// What hidden paths are covered with: the null device, and an empty directory.
struct Covers {
    null: Cover,
    empty: Option<Cover>,
}

/// A mount that is used again and again. Kernels before 6.15 clone no detached ones, so it is moved to where it is
/// needed first, and cloned from there.
enum Cover {
    Detached(OwnedFd),
    Attached(OwnedFd),
}

impl Cover {
    fn put(&mut self, point: &OwnedFd) -> io::Result<()> {
        match self {
            Self::Attached(mount) => sys::attach(&sys::clone_tree(mount, c"", false)?, point),
            Self::Detached(mount) => {
                sys::attach(&mount, point)?;
                *self = Self::Attached(mount.try_clone()?);
                Ok(())
            }
        }
    }
}

impl Covers {
    fn cover(&mut self, root: &OwnedFd, path: &str) -> io::Result<()> {
        let Some(point) = found(root, path)? else { return Ok(()) };
        if !is_directory(&point)? {
            return self.null.put(&point);
        }
        if let Some(empty) = &mut self.empty {
            return empty.put(&point);
        }
        let options = [("size", "4k"), ("mode", "755")].map(|(k, v)| (k.to_owned(), Some(v.to_owned())));
        let empty = Cover::Detached(new_filesystem("tmpfs", "tmpfs", &options, INERT | RDONLY)?);
        self.empty.insert(empty).put(&point)
    }
}

/// What the container sees as its cgroups: its own alone.
fn cgroup_tree(plan: &CreatePlan, sources: &Sources, top: Change, attached: bool) -> io::Result<OwnedFd> {
    if plan.unified {
        let made = new_filesystem("cgroup2", "cgroup", &[], top.set);
        if plan.namespaces.new & libc::CLONE_NEWCGROUP != 0
            && let Ok(made) = made
        {
            return Ok(made);
        }
        let group = plan.groups.first().map(|(_, path)| format!("/sys/fs/cgroup{path}"));
        let path = CString::new(group.unwrap_or_else(|| "/sys/fs/cgroup".to_owned()))?;
        let tree = sys::clone_tree(CWD, &path, true)?;
        change(&tree, top, true)?;
        return Ok(tree);
    }
    let options = [("mode".to_owned(), Some("755".to_owned()))];
    let base = new_filesystem("tmpfs", "tmpfs", &options, top.set & !RDONLY)?;
    for (name, group) in &sources.groups {
        rustix::fs::mkdirat(&base, name.as_str(), Mode::from_raw_mode(0o755))?;
        // A detached mount of another namespace cannot be cloned, but moved.
        let tree = if attached { sys::clone_tree(group, c"", false)? } else { group.try_clone()? };
        change(&tree, top, false)?;
        let point = root::open_no_links(&base, name, OFlags::PATH, Mode::empty())?;
        sys::attach(&tree, &point)?;
    }
    for (name, target) in &sources.links {
        let _ = rustix::fs::symlinkat(target.as_str(), &base, name.as_str());
    }
    change(&base, top, false)?;
    Ok(base)
}

/// What a directory has, in the memory that is mounted over it: `tmpcopyup`.
mod copy_up {
    use super::*;

    /// Deeper trees are no directory of an image.
    const MAX_DEPTH: usize = 128;

    pub(super) fn copy(root: &OwnedFd, target: &str, to: &OwnedFd) -> io::Result<()> {
        let from = root::open_dir(root, target)?;
        let to = root::open_dir(to, ".")?;
        directory(&from, &to, 0)
    }

    fn directory(from: &OwnedFd, to: &OwnedFd, depth: usize) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(Errno::NAMETOOLONG.into());
        }
        for entry in rustix::fs::Dir::read_from(from)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
            let nofollow = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    rustix::fs::mkdirat(to, name, mode)?;
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY | nofollow;
                    let below = rustix::fs::openat(from, name, flags, Mode::empty())?;
                    let copy = rustix::fs::openat(to, name, flags, Mode::empty())?;
                    directory(&below, &copy, depth + 1)?;
                }
                FileType::Symlink => {
                    let target = rustix::fs::readlinkat(from, name, Vec::new())?;
                    rustix::fs::symlinkat(target.as_c_str(), to, name)?;
                }
                FileType::RegularFile => {
                    let source = rustix::fs::openat(from, name, OFlags::RDONLY | nofollow, Mode::empty())?;
                    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | nofollow;
                    let copy = rustix::fs::openat(to, name, flags, Mode::from_raw_mode(0o600))?;
                    io::copy(&mut std::fs::File::from(source), &mut std::fs::File::from(copy))?;
                }
                kind => rustix::fs::mknodat(to, name, kind, mode, stat.st_rdev)?,
            }
            let ids = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
            rustix::fs::chownat(to, name, Some(ids.0), Some(ids.1), AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
                // After the owner, who would take the set-user-id bit away.
                rustix::fs::chmodat(to, name, mode, AtFlags::empty())?;
            }
        }
        Ok(())
    }
}
