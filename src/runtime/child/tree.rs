//! The mounts of a sandbox, in its own mount namespace, before its first process exists.
//!
//! Everything is mounted by handle (`move_mount` of a detached mount onto an open mount point), so
//! no path is looked up twice and nobody can put a link in between (CVE-2021-30465).

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, UnmountFlags};

use super::point::{Points, Shape};
use crate::root;
use crate::runtime::plan::{self, Kind, Plan, Step};
use crate::runtime::spec::{Device, Propagation};
use crate::runtime::sys::{self, ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY};
use crate::runtime::wire::{During, Failure, FailureKind, slice, take};

/// What was mounted, for those who go on with it.
pub(super) struct Tree {
    /// Where `/proc` goes.
    pub proc_point: OwnedFd,
    pub mask: Mask,
    /// The root of the sandbox's `devpts` and of its `/dev`.
    pub pts: OwnedFd,
    pub dev: OwnedFd,
}

/// What hidden paths are covered with.
pub(super) struct Mask {
    /// A handle that is known to be the null device. `/dev/null` of the sandbox could be anything
    /// (CVE-2025-31133).
    null: OwnedFd,
    /// An empty, read-only directory, as a mount.
    empty: OwnedFd,
}

/// What lies on top of the host's `/dev` in this mount namespace. What is cloned must be attached in it, for kernels
/// before 6.15 clone nothing else; there it is in nobody's way, and goes when the host's tree does.
struct Shelf {
    /// Where the files that cover the image's live.
    private: OwnedFd,
    files: usize,
    mask: Mask,
}

/// A new file system, detached.
pub(super) fn new_mount(kind: &str, options: &[(&str, &str)], attributes: u64) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (name, value) in options {
        rustix::mount::fsconfig_set_string(&context, *name, *value)?;
    }
    rustix::mount::fsconfig_create(&context)?;
    let attributes = MountAttrFlags::from_bits_retain(attributes as u32);
    Ok(rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// What there is before a tree is built: the host's `/dev`, which devices and masks come from and which will be covered,
/// and what was made of what all trees have.
pub(super) struct Ready {
    host_dev: OwnedFd,
    /// `/dev` with its devices and links, and with directories for what is mounted in it.
    dev: Option<OwnedFd>,
    pts: Option<OwnedFd>,
    mqueue: Option<OwnedFd>,
}

impl Ready {
    /// Parts this mount namespace from the one that it was copied from, where nothing shall show of what is mounted from
    /// here on.
    fn begin() -> Result<Self, Failure> {
        let private =
            rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).during(|| "making mounts private".to_owned())?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let host_dev =
            rustix::fs::open("/dev", flags, Mode::empty()).during(|| "opening `/dev`".to_owned())?;
        Ok(Self { host_dev, dev: None, pts: None, mqueue: None })
    }

    /// Makes what it can before anybody knows of the tree, in this mount namespace, where all that the host has can still
    /// be found: nothing where devices cannot be made, for then they are the host's, and queues only if they will be the
    /// sandbox's own.
    pub(super) fn make(own_queues: bool) -> Result<Self, Failure> {
        let begun = Self::begin()?;
        let (mut dev, mut pts, mut mqueue) = (None, None, None);
        for step in plan::standard_steps(None) {
            let during = || "making `/dev`".to_owned();
            match (step, &dev) {
                (Step::Mount { kind: Kind::Dev, attributes, .. }, _) => {
                    dev = Some(new_dev(attributes).during(during)?);
                }
                (Step::Device { name, major, minor }, Some(dev)) => {
                    match make_device(dev, &name, major, minor) {
                        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(begun),
                        made => made.during(during)?,
                    }
                }
                (Step::Link { name, to }, Some(dev)) => {
                    rustix::fs::symlinkat(to.as_str(), dev, name.as_str()).during(during)?;
                }
                (Step::Mount { kind: Kind::Pts, attributes, .. }, _) => {
                    pts = Some(devpts(attributes).during(during)?);
                }
                (Step::Mount { kind: Kind::Mqueue, attributes, .. }, _) if own_queues => {
                    mqueue = Some(new_mount("mqueue", &[], attributes).during(during)?);
                }
                _ => {}
            }
        }
        for (dev, name) in dev.iter().flat_map(|dev| ["pts", "shm", "mqueue"].map(|name| (dev, name))) {
            rustix::fs::mkdirat(dev, name, Mode::from_raw_mode(0o755))
                .during(|| format!("making `/dev/{name}`"))?;
        }
        Ok(Self { dev, pts, mqueue, ..begun })
    }
}

/// Builds the sandbox's tree on top of this mount namespace's root. `points` is of the root file
/// system, still detached; what is made for mount points is its to remember. `sys` is a `/sys` that was
/// mounted where its network is.
pub(super) fn build(
    plan: &Plan,
    points: &mut Points,
    (sys, ready): (Option<OwnedFd>, Option<Ready>),
    fds: &mut [Option<OwnedFd>],
    bytes: &[u8],
) -> Result<Tree, Failure> {
    let ready = ready.map_or_else(Ready::begin, Ok)?;
    let has_memory = |step: &Step| matches!(step, Step::Mount { target, .. } if target == "/dev/shm");
    if let (Some(dev), false) = (&ready.dev, plan.steps.iter().any(has_memory)) {
        rustix::fs::unlinkat(dev, "shm", AtFlags::REMOVEDIR).during(|| "removing `/dev/shm`".to_owned())?;
    }
    let slash = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .during(|| "opening `/`".to_owned())?;
    sys::attach(points.root(), &slash).during(|| "mounting the root file system".to_owned())?;
    let mut build = Build {
        points,
        plan,
        fds,
        bytes,
        sys,
        shelf: None,
        dev_is_filled: ready.dev.is_some(),
        ready,
        proc_point: None,
        dev: None,
        pts: None,
    };
    for step in &plan.steps {
        build.step(step)?;
    }
    let missing = |what: &str| Failure::new(FailureKind::Setup, format!("the plan lacks `{what}`"), 0);
    let tree = Tree {
        proc_point: build.proc_point.take().ok_or_else(|| missing("/proc"))?,
        pts: build.pts.take().ok_or_else(|| missing("/dev/pts"))?,
        dev: build.dev.take().ok_or_else(|| missing("/dev"))?,
        mask: build.into_mask()?,
    };
    for path in &plan.masks.others {
        tree.mask.hide(points.root(), path)?;
    }
    if plan.read_only {
        sys::mount_setattr(points.root().as_fd(), ATTR_RDONLY, false)
            .during(|| "making the root file system read-only".to_owned())?;
    }
    Ok(tree)
}

/// How mounts made on one side of a bind mount are seen on the other.
fn propagate(mount: &OwnedFd, propagation: Propagation) -> io::Result<()> {
    let (kind, recursive) = match propagation {
        Propagation::RecursivelyPrivate => (libc::MS_PRIVATE, true),
        Propagation::Private => (libc::MS_PRIVATE, false),
        Propagation::RecursivelySlave => (libc::MS_SLAVE, true),
        Propagation::Slave => (libc::MS_SLAVE, false),
        // A clone of a shared mount is shared with it already; to make another shared would share it with nobody.
        Propagation::Shared | Propagation::RecursivelyShared => return Ok(()),
    };
    sys::set_propagation(mount.as_fd(), kind, recursive)
}

/// A handle on a device of the host: by what it is, and not only by what it is called.
fn device_of(dev: &OwnedFd, path: &str, kind: FileType, major: u32, minor: u32) -> io::Result<OwnedFd> {
    let device = rustix::fs::openat(dev, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let stat = rustix::fs::fstat(&device)?;
    let is_device = FileType::from_raw_mode(stat.st_mode) == kind;
    if !is_device || stat.st_rdev != rustix::fs::makedev(major, minor) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is another device"));
    }
    Ok(device)
}

/// Mounts what `from` is a handle of on `point` too.
fn bind(from: &OwnedFd, point: &OwnedFd) -> io::Result<()> {
    sys::attach(&sys::clone_tree(from, c"", false)?, point)
}

impl Shelf {
    fn new(host_dev: &OwnedFd) -> io::Result<Self> {
        let null = device_of(host_dev, "null", FileType::CharacterDevice, 1, 3)?;
        let private = new_mount("tmpfs", &[("mode", "700")], ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC)?;
        rustix::fs::mkdirat(&private, "empty", Mode::from_raw_mode(0o755))?;
        sys::attach(&private, host_dev)?;
        let empty = sys::clone_tree(&private, c"empty", false)?;
        sys::mount_setattr(empty.as_fd(), ATTR_RDONLY, false)?;
        sys::attach(&empty, host_dev)?;
        Ok(Self { private, files: 0, mask: Mask { null, empty } })
    }

    /// A file in memory, as a detached mount.
    fn file(&mut self, contents: &[u8], mode: u32, uid: u32, gid: u32) -> io::Result<OwnedFd> {
        let name = CString::new(self.files.to_string())?;
        self.files += 1;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let created = rustix::fs::openat(&self.private, &name, flags, Mode::from_raw_mode(0o600))?;
        let mut file = File::from(created);
        file.write_all(contents)?;
        if (uid, gid) != (0, 0) {
            rustix::fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        file.set_permissions(std::fs::Permissions::from_mode(mode & 0o7777))?;
        sys::clone_tree(&self.private, &name, false)
    }
}

struct Build<'a> {
    points: &'a mut Points,
    plan: &'a Plan,
    fds: &'a mut [Option<OwnedFd>],
    bytes: &'a [u8],
    sys: Option<OwnedFd>,
    ready: Ready,
    /// Made when it is first needed, which the plan has after the last device of the host.
    shelf: Option<Shelf>,
    /// Whether `/dev` came with the devices and links that all have.
    dev_is_filled: bool,
    proc_point: Option<OwnedFd>,
    dev: Option<OwnedFd>,
    pts: Option<OwnedFd>,
}

impl Build<'_> {
    fn step(&mut self, step: &Step) -> Result<(), Failure> {
        match step {
            Step::Mount { target, kind, attributes, strict, propagation } => {
                self.mount(target, kind, *attributes, *strict, *propagation)
            }
            Step::Device { .. } | Step::Link { .. } if self.dev_is_filled => Ok(()),
            Step::Device { name, major, minor } => {
                self.device(name, *major, *minor).during(|| format!("making device `/dev/{name}`"))
            }
            Step::Node(device) => self.node(device).during(|| format!("making device `{}`", device.path)),
            Step::Link { name, to } => {
                let dev = self.dev.as_ref().expect("the plan mounts `/dev` before what is in it");
                rustix::fs::symlinkat(to.as_str(), dev, name.as_str())
                    .during(|| format!("making link `/dev/{name}`"))
            }
        }
    }

    fn mount(
        &mut self,
        target: &str,
        kind: &Kind,
        attributes: u64,
        strict: bool,
        propagation: Propagation,
    ) -> Result<(), Failure> {
        let during = || format!("mounting `{target}`");
        let (mount, shape) = match kind {
            Kind::Proc => (None, Shape::Directory),
            Kind::Handle(index) => {
                let mount = take(self.fds, *index)?;
                if attributes != 0 {
                    sys::mount_setattr(mount.as_fd(), attributes, true).during(during)?;
                }
                propagate(&mount, propagation).during(during)?;
                let shape = shape_of(&mount).during(during)?;
                (Some(mount), shape)
            }
            Kind::File { contents, mode, uid, gid } => {
                let contents = slice(self.bytes, *contents);
                let mount = self.shelf()?.file(contents, *mode, *uid, *gid).during(during)?;
                if attributes != 0 {
                    sys::mount_setattr(mount.as_fd(), attributes, false).during(during)?;
                }
                (Some(mount), Shape::File)
            }
            Kind::Tmpfs { size, mode } => {
                let mode = mode.or_else(|| self.points.mode(target)).unwrap_or(0o1777);
                let mode = format!("{:o}", mode & 0o7777);
                let size = size.map(|size| size.to_string());
                let mut options = vec![("mode", mode.as_str())];
                options.extend(size.as_deref().map(|size| ("size", size)));
                (Some(new_mount("tmpfs", &options, attributes).during(during)?), Shape::Directory)
            }
            Kind::Dev => {
                let made = self.ready.dev.take().map_or_else(|| new_dev(attributes), Ok);
                (Some(made.during(during)?), Shape::Directory)
            }
            Kind::Pts => {
                let made = self.ready.pts.take().map_or_else(|| devpts(attributes), Ok);
                (Some(made.during(during)?), Shape::Directory)
            }
            Kind::Mqueue => {
                let made = self.ready.mqueue.take().map(Some);
                let made = made.map_or_else(|| mqueue(&self.ready.host_dev, attributes), Ok);
                match made.during(during)? {
                    Some(mount) => (Some(mount), Shape::Directory),
                    None => return Ok(()),
                }
            }
            Kind::Sys => (Some(sysfs(self.sys.take(), attributes).during(during)?), Shape::Directory),
        };
        let point = self.points.point(target, shape, strict).map_err(|error| {
            let errno = error.raw_os_error().unwrap_or(0);
            let what = if strict && matches!(errno, libc::ELOOP | libc::ENOTDIR) {
                format!("`{target}` of the root file system must be a directory, and no link")
            } else {
                format!("making mount point `{target}`")
            };
            Failure::new(FailureKind::Setup, what, errno)
        })?;
        // A link may have led to where targets are not allowed.
        if !strict && is_procfs(&point).during(during)? {
            return Err(Failure::new(FailureKind::Setup, format!("`{target}` lies in `/proc`"), libc::EPERM));
        }
        let Some(mount) = mount else {
            self.proc_point = Some(point);
            return Ok(());
        };
        sys::attach(&mount, &point).during(during)?;
        if matches!(kind, Kind::Dev | Kind::Tmpfs { .. }) {
            self.points.leave_on(&mount).during(during)?;
        }
        match kind {
            Kind::Dev => self.dev = Some(mount),
            Kind::Pts => self.pts = Some(mount),
            Kind::Sys => {
                let plan = self.plan;
                let mask = &self.shelf()?.mask;
                for path in &plan.masks.sys_hidden {
                    mask.cover(&mount, path)?;
                }
                let most = if plan.masks.throttle_hidden { 8192 } else { 0 };
                for cpu in 0..most {
                    if !mask.cover(&mount, &format!("devices/system/cpu/cpu{cpu}/thermal_throttle"))? {
                        break;
                    }
                }
            }
            Kind::Proc | Kind::Mqueue | Kind::Tmpfs { .. } | Kind::Handle(_) | Kind::File { .. } => {}
        }
        Ok(())
    }

    fn device(&self, name: &str, major: u32, minor: u32) -> io::Result<()> {
        let dev = self.dev.as_ref().expect("the plan mounts `/dev` before what is in it");
        match make_device(dev, name, major, minor) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            made => return made,
        }
        let mode = Mode::from_raw_mode(0o666);
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDONLY | OFlags::CLOEXEC;
        let point = rustix::fs::openat(dev, name, flags, mode)?;
        bind(&device_of(&self.ready.host_dev, name, FileType::CharacterDevice, major, minor)?, &point)
    }

    /// A device that not every sandbox has. One that need not be there may fail.
    fn node(&self, device: &Device) -> io::Result<()> {
        match self.make_node(device) {
            Err(error) if device.required => Err(error),
            _ => Ok(()),
        }
    }

    fn make_node(&self, device: &Device) -> io::Result<()> {
        let dev = self.dev.as_ref().expect("the plan mounts `/dev` before what is in it");
        let relative = device.path.strip_prefix("/dev/").expect("the plan admits no other paths");
        let (folder, name) = relative.rsplit_once('/').unwrap_or(("", relative));
        let mut parent = dev.try_clone()?;
        for part in folder.split('/').filter(|part| !part.is_empty()) {
            match rustix::fs::mkdirat(&parent, part, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            parent = root::open_no_links(&parent, part, flags, Mode::empty())?;
        }
        let kind = if device.block { FileType::BlockDevice } else { FileType::CharacterDevice };
        let number = rustix::fs::makedev(device.major, device.minor);
        let mode = Mode::from_raw_mode(device.mode & 0o7777);
        match rustix::fs::mknodat(&parent, name, kind, mode, number) {
            Ok(()) => {
                let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
                return Ok(rustix::fs::chownat(
                    &parent,
                    name,
                    Some(uid),
                    Some(gid),
                    AtFlags::SYMLINK_NOFOLLOW,
                )?);
            }
            // Every sandbox has some; those stay as they are.
            Err(Errno::EXIST) => return Ok(()),
            Err(Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
        let at = match &device.host {
            // One that is elsewhere there can only be made, which was refused.
            Some(host) => host.strip_prefix("/dev/").ok_or(Errno::PERM)?,
            None => relative,
        };
        let host = device_of(&self.ready.host_dev, at, kind, device.major, device.minor)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDONLY | OFlags::CLOEXEC;
        let point = rustix::fs::openat(&parent, name, flags, mode)?;
        bind(&host, &point)
    }

    fn shelf(&mut self) -> Result<&mut Shelf, Failure> {
        if self.shelf.is_none() {
            let made =
                Shelf::new(&self.ready.host_dev).during(|| "making what covers the image's files".to_owned());
            self.shelf = Some(made?);
        }
        Ok(self.shelf.as_mut().expect("it was just made"))
    }

    fn into_mask(mut self) -> Result<Mask, Failure> {
        self.shelf()?;
        Ok(self.shelf.expect("it was just made").mask)
    }
}

fn new_dev(attributes: u64) -> io::Result<OwnedFd> {
    new_mount("tmpfs", &[("mode", "755"), ("size", "65536k")], attributes)
}

fn make_device(dev: &OwnedFd, name: &str, major: u32, minor: u32) -> io::Result<()> {
    let number = rustix::fs::makedev(major, minor);
    let mode = Mode::from_raw_mode(0o666);
    Ok(rustix::fs::mknodat(dev, name, FileType::CharacterDevice, mode, number)?)
}

fn shape_of(mount: &OwnedFd) -> io::Result<Shape> {
    let kind = FileType::from_raw_mode(rustix::fs::fstat(mount)?.st_mode);
    Ok(if kind == FileType::Directory { Shape::Directory } else { Shape::File })
}

fn is_procfs(handle: &OwnedFd) -> io::Result<bool> {
    Ok(rustix::fs::fstatfs(handle)?.f_type == rustix::fs::PROC_SUPER_MAGIC)
}

fn devpts(attributes: u64) -> io::Result<OwnedFd> {
    let options = [("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620")];
    // Group 5 is `tty` everywhere; a user namespace may not have it.
    let mount = |group: bool| -> io::Result<OwnedFd> {
        let context = rustix::mount::fsopen("devpts", FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (name, value) in options {
            if value.is_empty() {
                rustix::mount::fsconfig_set_flag(&context, name)?;
            } else {
                rustix::mount::fsconfig_set_string(&context, name, value)?;
            }
        }
        if group {
            rustix::mount::fsconfig_set_string(&context, "gid", "5")?;
        }
        rustix::mount::fsconfig_create(&context)?;
        let attributes = MountAttrFlags::from_bits_retain(attributes as u32);
        Ok(rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
    };
    match mount(true) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => mount(false),
        other => other,
    }
}

/// A new `sysfs`, or where that is refused (it shows a network namespace, and that must be ours) the
/// host's, read-only.
fn sysfs(made: Option<OwnedFd>, attributes: u64) -> io::Result<OwnedFd> {
    if let Some(made) = made {
        sys::mount_setattr(made.as_fd(), attributes, false)?;
        return Ok(made);
    }
    match new_mount("sysfs", &[], attributes) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            let mount = sys::clone_tree(CWD, c"/sys", true)?;
            sys::mount_setattr(mount.as_fd(), attributes | ATTR_RDONLY, true)?;
            Ok(mount)
        }
        other => other,
    }
}

/// The queues of the sandbox's ipc namespace. An ordinary user may not mount the host's; what the host has there is
/// the same, if it has them anywhere.
fn mqueue(host_dev: &OwnedFd, attributes: u64) -> io::Result<Option<OwnedFd>> {
    match new_mount("mqueue", &[], attributes) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            let mount = match sys::clone_tree(host_dev, c"mqueue", true) {
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
                other => other?,
            };
            sys::mount_setattr(mount.as_fd(), attributes, true)?;
            Ok(Some(mount))
        }
        other => other.map(Some),
    }
}

impl Mask {
    /// Hides a path of the sandbox, wherever its links lead inside, if it is there.
    fn hide(&self, root: &OwnedFd, path: &str) -> Result<(), Failure> {
        let during = || format!("hiding `{path}`");
        let point = match root::open(root, path, OFlags::PATH, Mode::empty()) {
            Ok(point) => point,
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => return Ok(()),
            Err(error) => return Err(error).during(during),
        };
        self.cover_point(&point).during(during)
    }

    fn cover_point(&self, point: &OwnedFd) -> io::Result<()> {
        let cover = match shape_of(point)? {
            Shape::Directory => &self.empty,
            Shape::File => &self.null,
        };
        bind(cover, point)
    }

    /// Hides `path` of a file system that is our own. Gives whether there was anything to hide.
    pub(super) fn cover(&self, mount: &OwnedFd, path: &str) -> Result<bool, Failure> {
        let during = || format!("hiding `{path}`");
        let point = match root::open_no_links(mount, path, OFlags::PATH, Mode::empty()) {
            Ok(point) => point,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            // In the host's own `/sys` an ordinary user may not even look at some.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(true),
            Err(error) => return Err(error).during(during),
        };
        self.cover_point(&point).during(during)?;
        Ok(true)
    }

    /// Makes `path` of a file system that is our own read-only, if it is there.
    pub(super) fn protect(&self, mount: &OwnedFd, path: &str) -> Result<(), Failure> {
        let during = || format!("protecting `{path}`");
        let point = match root::open_no_links(mount, path, OFlags::PATH, Mode::empty()) {
            Ok(point) => point,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error).during(during),
        };
        let cover = sys::clone_tree(&point, c"", false).during(during)?;
        sys::mount_setattr(cover.as_fd(), ATTR_RDONLY, false).during(during)?;
        sys::attach(&cover, &point).during(during)
    }
}

/// Makes `root` the root of this mount namespace and lets go of everything else in it.
pub(super) fn pivot(root: &OwnedFd) -> Result<(), Failure> {
    let during = || "entering the root file system".to_owned();
    rustix::process::fchdir(root).during(during)?;
    // Both names mean the new root; the old one ends up on top of it, and is taken off.
    rustix::process::pivot_root(".", ".").during(during)?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).during(during)?;
    rustix::process::chdir("/").during(during)
}
