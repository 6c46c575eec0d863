//! A cgroup of the sandbox's own: v1, v1 beside an empty v2 (hybrid), or v2.
//!
//! Everything here is done by handle below `/sys/fs/cgroup`, in `stave/<id>` of each hierarchy. The
//! first process joins by itself through handles opened here, so nobody has to wait for it.
//!
//! A launcher that is killed cannot remove its groups. It holds a lock on each of their directories,
//! so whoever comes next can tell: a group that nobody locks is nobody's.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::tree::new_mount;
use crate::root;
use crate::runtime::plan::Cgroup;
use crate::runtime::sys::{self, ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY};
use crate::runtime::wire::{During, Failure};

const PARENT: &str = "stave";
const CGROUP_V1_MAGIC: rustix::fs::FsWord = 0x0027_e0eb;
const CGROUP_V2_MAGIC: rustix::fs::FsWord = 0x6367_7270;
const INERT: u64 = ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC;

const CONTROLLERS_V1: [&str; 5] = ["devices", "memory", "pids", "cpu", "freezer"];

/// Docker's devices: those of its `/dev`, terminals, and making any node (which opens nothing).
const DEVICES: [&str; 11] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];

/// The sandbox's directory in each hierarchy.
pub(super) struct Group {
    id: String,
    pub unified: bool,
    directories: Vec<Directory>,
}

struct Directory {
    controller: &'static str,
    parent: OwnedFd,
    group: OwnedFd,
}

impl Group {
    /// Makes the group; nothing where no hierarchy can be written, which is how it is for an
    /// ordinary user.
    pub(super) fn create(plan: &Cgroup) -> Result<Option<Self>, Failure> {
        let Ok(base) = root::open_ambient_dir("/sys/fs/cgroup") else { return Ok(None) };
        let unified = has_magic(&base, CGROUP_V2_MAGIC);
        let mut group = Self { id: plan.id.clone(), unified, directories: Vec::new() };
        let made = if unified { group.create_v2(plan, &base) } else { group.create_v1(plan, &base) };
        if let Err(failure) = made {
            group.remove();
            return Err(failure);
        }
        Ok(if group.directories.is_empty() { None } else { Some(group) })
    }

    fn create_v2(&mut self, plan: &Cgroup, base: &OwnedFd) -> Result<(), Failure> {
        let wanted = [
            ("memory", "memory.max", plan.memory.map(|bytes| bytes.to_string())),
            ("pids", "pids.max", plan.pids.map(|count| count.to_string())),
            ("cpu", "cpu.max", plan.millicpus.map(|share| format!("{} 100000", share * 100))),
        ];
        let controllers = wanted.each_ref().map(|(controller, ..)| *controller);
        // A controller that cannot be had is noticed when its limit is set.
        for controller in controllers {
            let _ = write(base, "cgroup.subtree_control", &format!("+{controller}"));
        }
        let Some(parent) = writable_dir(base, PARENT)? else { return Ok(()) };
        for controller in controllers {
            let _ = write(&parent, "cgroup.subtree_control", &format!("+{controller}"));
        }
        let Some(group) = locked_dir(&parent, &self.id)? else { return Ok(()) };
        self.directories.push(Directory { controller: "", parent, group });
        let group = &self.directories[0].group;
        for (controller, file, value) in &wanted {
            if let Some(value) = value {
                write(group, file, value).during(|| format!("limiting {controller} by cgroup"))?;
            }
        }
        Ok(())
    }

    fn create_v1(&mut self, plan: &Cgroup, base: &OwnedFd) -> Result<(), Failure> {
        let wanted = [
            ("devices", "", None),
            ("memory", "memory.limit_in_bytes", plan.memory.map(|bytes| bytes.to_string())),
            ("pids", "pids.max", plan.pids.map(|count| count.to_string())),
            ("cpu", "cpu.cfs_quota_us", plan.millicpus.map(|share| (share * 100).to_string())),
            ("freezer", "", None),
        ];
        for (controller, file, value) in wanted {
            // Where several controllers share a hierarchy their names are links to it.
            let Ok(hierarchy) = root::open_dir(base, controller) else { continue };
            if !has_magic(&hierarchy, CGROUP_V1_MAGIC) {
                continue;
            }
            let Some(parent) = writable_dir(&hierarchy, PARENT)? else { continue };
            let Some(group) = locked_dir(&parent, &self.id)? else { continue };
            if let Some(value) = value {
                write(&group, file, &value).during(|| format!("limiting {controller} by cgroup"))?;
            }
            if controller == "devices" && plan.limit_devices {
                limit_devices(&group).during(|| "limiting devices by cgroup".to_owned())?;
            }
            self.directories.push(Directory { controller, parent, group });
        }
        Ok(())
    }

    /// Handles whose first written line moves the writer into the group.
    pub(super) fn entrances(&self) -> Result<Vec<OwnedFd>, Failure> {
        let open = |directory: &Directory| {
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::openat(&directory.group, "cgroup.procs", flags, Mode::empty())
                .during(|| "opening the cgroup".to_owned())
        };
        self.directories.iter().map(open).collect()
    }

    /// Shows the sandbox its own group as `/sys/fs/cgroup`. On v2 that takes a cgroup namespace, so
    /// the first process does it.
    pub(super) fn mount(&self, root: &OwnedFd, read_only: bool) -> Result<(), Failure> {
        let during = || "mounting `/sys/fs/cgroup`".to_owned();
        let attributes = INERT | if read_only { ATTR_RDONLY } else { 0 };
        let Ok(point) = root::open(root, "sys/fs/cgroup", OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
        else {
            return Ok(());
        };
        if self.unified {
            let mount = new_mount("cgroup2", &[], attributes).during(during)?;
            return sys::attach(&mount, &point).during(during);
        }
        let mount = new_mount("tmpfs", &[("mode", "755"), ("size", "64k")], INERT).during(during)?;
        sys::attach(&mount, &point).during(during)?;
        for Directory { controller, group, .. } in &self.directories {
            rustix::fs::mkdirat(&mount, *controller, Mode::from_raw_mode(0o755)).during(during)?;
            let bind = sys::clone_tree(group, c"", false).during(during)?;
            sys::mount_setattr(bind.as_fd(), attributes, false).during(during)?;
            let point = root::open_no_links(&mount, controller, OFlags::PATH, Mode::empty());
            sys::attach(&bind, &point.during(during)?).during(during)?;
        }
        if read_only {
            sys::mount_setattr(mount.as_fd(), ATTR_RDONLY, false).during(during)?;
        }
        Ok(())
    }

    /// Removes the group, whose processes are gone. The kernel may need a moment to see that.
    pub(super) fn remove(&self) -> Option<String> {
        let mut failed = None;
        for Directory { parent, .. } in &self.directories {
            let name = CString::new(self.id.as_str()).expect("the plan admits plain ids only");
            let mut tries = 0;
            loop {
                match rustix::fs::unlinkat(parent, &name, AtFlags::REMOVEDIR) {
                    Ok(()) | Err(Errno::NOENT) => break,
                    Err(Errno::BUSY) if tries < 200 => {
                        tries += 1;
                        std::thread::sleep(std::time::Duration::from_millis(1));
                    }
                    Err(error) => {
                        let error = io::Error::from(error);
                        failed = Some(format!("cgroup `{PARENT}/{}`: {error}", self.id));
                        break;
                    }
                }
            }
        }
        failed
    }
}

/// Leaves a v1 group Docker's devices. A user namespace may not, and need not: nothing mounted in one
/// opens devices but the few that are bound from the host.
fn limit_devices(group: &OwnedFd) -> io::Result<()> {
    match write(group, "devices.deny", "a") {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => return Ok(()),
        other => other?,
    }
    DEVICES.iter().try_for_each(|rule| write(group, "devices.allow", rule))
}

fn has_magic(directory: &OwnedFd, magic: rustix::fs::FsWord) -> bool {
    rustix::fs::fstatfs(directory).is_ok_and(|stat| stat.f_type == magic)
}

/// A directory of a hierarchy, made if missing; nothing where the hierarchy is not ours to change.
fn writable_dir(parent: &OwnedFd, name: &str) -> Result<Option<OwnedFd>, Failure> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let mut tries = 0;
    loop {
        match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(Errno::ACCESS | Errno::PERM | Errno::ROFS) => return Ok(None),
            Err(error) => return Err(error).during(|| format!("making cgroup `{name}`")),
        }
        match root::open_no_links(parent, name, flags, Mode::empty()) {
            // Nobody can lock what is not open yet: a sweep may take it in between.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) && tries < 100 => tries += 1,
            opened => return opened.during(|| format!("opening cgroup `{name}`")).map(Some),
        }
    }
}

/// As [`writable_dir`], with the lock that tells a sweep that it is in use.
fn locked_dir(parent: &OwnedFd, name: &str) -> Result<Option<OwnedFd>, Failure> {
    loop {
        let Some(group) = writable_dir(parent, name)? else { return Ok(None) };
        rustix::fs::flock(&group, FlockOperation::LockShared)
            .during(|| format!("locking cgroup `{name}`"))?;
        // A sweep may have been quicker and removed it.
        let there = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
        let ours = rustix::fs::fstat(&group);
        if let (Ok(there), Ok(ours)) = (there, ours)
            && there.st_ino == ours.st_ino
        {
            return Ok(Some(group));
        }
    }
}

/// Removes the groups of launchers that were killed.
pub(in crate::runtime) fn sweep() {
    let Ok(base) = root::open_ambient_dir("/sys/fs/cgroup") else { return };
    if has_magic(&base, CGROUP_V2_MAGIC) {
        sweep_hierarchy(&base);
        return;
    }
    for controller in CONTROLLERS_V1 {
        if let Ok(hierarchy) = root::open_dir(&base, controller)
            && has_magic(&hierarchy, CGROUP_V1_MAGIC)
        {
            sweep_hierarchy(&hierarchy);
        }
    }
}

/// What cannot be removed, because a process is in it or because it is not ours, stays.
fn sweep_hierarchy(hierarchy: &OwnedFd) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let Ok(parent) = root::open_no_links(hierarchy, PARENT, flags, Mode::empty()) else { return };
    let Ok(entries) = rustix::fs::Dir::read_from(&parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if entry.file_type() != rustix::fs::FileType::Directory || name.to_bytes().starts_with(b".") {
            continue;
        }
        let Ok(group) = rustix::fs::openat(&parent, name, flags | OFlags::CLOEXEC, Mode::empty()) else {
            continue;
        };
        if rustix::fs::flock(&group, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR);
        }
    }
}

fn write(directory: &OwnedFd, file: &str, value: &str) -> io::Result<()> {
    let file = rustix::fs::openat(directory, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, value.as_bytes())?;
    Ok(())
}
