//! A cgroup of the sandbox's own: v1, v1 beside an empty v2 (hybrid), or v2.
//!
//! Everything here is done by handle below `/sys/fs/cgroup`, in `stave/<id>` of each hierarchy. The
//! first process joins by itself through handles opened here, so nobody has to wait for it.
//!
//! A launcher that is killed cannot remove its groups. It holds a lock on each of their directories,
//! so whoever comes next can tell: a group that nobody locks is nobody's. The group in the first hierarchy is made
//! first and removed last, so who looks for what is left looks there alone.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{Access, AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::device_filter;
use super::limits::{self, Setting};
use super::tree::new_mount;
use crate::root;
use crate::runtime::plan::Cgroup;
use crate::runtime::spec::Resources;
use crate::runtime::sys::{self, ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY};
use crate::runtime::wire::{During, Failure};

const PARENT: &str = "stave";
/// Where containers of other runtimes are.
const FOREIGN_PARENT: &str = "stave-oci";
const CGROUP_V1_MAGIC: rustix::fs::FsWord = 0x0027_e0eb;
const CGROUP_V2_MAGIC: rustix::fs::FsWord = 0x6367_7270;
const INERT: u64 = ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC;

/// The freezer first: what is stopped cannot be killed.
const CONTROLLERS_V1: [&str; 8] =
    ["freezer", "devices", "memory", "pids", "cpu", "cpuset", "cpuacct", "blkio"];

/// Docker's devices: those of its `/dev`, terminals, and making any node (which opens nothing).
pub(in crate::runtime) const DEVICES: [&str; 11] = [
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
    /// Whether somebody named the group that all is below.
    borrowed_parent: bool,
    directories: Vec<Directory>,
    /// Limits that cannot be had here, by Docker's names of them.
    pub unmet: Vec<String>,
}

/// A group that was made before anybody said what it shall be: the directories alone. If nobody does, it goes.
pub(super) struct Begun(Option<Group>);

impl Begun {
    /// Begins the group of a sandbox below the usual parent.
    pub(super) fn new(id: String) -> Result<Self, Failure> {
        let plan = Cgroup {
            id,
            parent: Vec::new(),
            resources: Resources::default(),
            limit_devices: false,
            accounted: true,
            devices: Vec::new(),
            has_rules: false,
        };
        Group::create(&plan).map(|group| Self(Some(group)))
    }

    /// Makes it what the plan says, if it is that plan's.
    pub(super) fn become_group(mut self, plan: &Cgroup) -> Result<Group, Failure> {
        match self.0.take_if(|begun| begun.id == plan.id && plan.parent.is_empty()) {
            Some(begun) => begun.fit(plan),
            None => Group::create(plan),
        }
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if let Some(group) = &self.0 {
            group.remove();
        }
    }
}

/// A handle for one who cannot see the hierarchies any more.
pub(in crate::runtime) struct Freezer {
    group: OwnedFd,
    unified: bool,
}

impl Freezer {
    pub(in crate::runtime) fn thaw(&self) -> io::Result<()> {
        let (file, value) = if self.unified { ("cgroup.freeze", "0") } else { ("freezer.state", "THAWED") };
        write(&self.group, file, value)
    }
}

struct Directory {
    controller: &'static str,
    parent: OwnedFd,
    group: OwnedFd,
}

impl Group {
    /// Makes the group; without directories where no hierarchy can be written, which is how it is
    /// for an ordinary user.
    pub(super) fn create(plan: &Cgroup) -> Result<Self, Failure> {
        let group = Self {
            id: plan.id.clone(),
            unified: false,
            borrowed_parent: !plan.parent.is_empty(),
            directories: Vec::new(),
            unmet: Vec::new(),
        };
        group.fit(plan)
    }

    /// Makes what the plan has beyond what is made already. If that fails, all is gone.
    fn fit(mut self, plan: &Cgroup) -> Result<Self, Failure> {
        let made = match root::open_ambient_dir("/sys/fs/cgroup") {
            Ok(base) if has_magic(&base, CGROUP_V2_MAGIC) => {
                self.unified = true;
                self.create_v2(plan, given(base))
            }
            Ok(base) => self.create_v1(plan, &base),
            Err(_) => {
                self.miss(&limits::v1(&plan.resources));
                Ok(())
            }
        };
        if let Err(failure) = made {
            self.remove();
            return Err(failure);
        }
        if !plan.parent.is_empty() && self.directories.is_empty() {
            self.unmet.push("cgroup-parent".to_owned());
        }
        if plan.has_rules && self.directories.is_empty() {
            self.unmet.push("device-cgroup-rule".to_owned());
        }
        Ok(self)
    }

    /// Whether there is no hierarchy that could be written.
    pub(super) fn is_empty(&self) -> bool {
        self.directories.is_empty()
    }

    fn miss<'a>(&mut self, settings: impl IntoIterator<Item = &'a Setting>) {
        for setting in settings {
            if !self.unmet.iter().any(|name| name == setting.name) {
                self.unmet.push(setting.name.to_owned());
            }
        }
    }

    fn create_v2(&mut self, plan: &Cgroup, base: OwnedFd) -> Result<(), Failure> {
        let settings = limits::v2(&plan.resources);
        if self.directories.is_empty() {
            let Some(directory) = self.directory_v2(plan, base)? else {
                self.miss(&settings);
                return Ok(());
            };
            self.directories.push(directory);
        }
        if plan.limit_devices {
            limit_devices_v2(&self.directories[0].group, &plan.devices)
                .during(|| "limiting devices by cgroup".to_owned())?;
        }
        self.set(0, &settings)
    }

    fn directory_v2(&self, plan: &Cgroup, base: OwnedFd) -> Result<Option<Directory>, Failure> {
        let mut above = base;
        for name in plan.parent.iter().map(String::as_str).chain([PARENT]) {
            share_controllers(&above);
            let Some(next) = writable_dir(&above, name)? else { return Ok(None) };
            if name == PARENT {
                self.sweep_borrowed(&above);
            }
            above = next;
        }
        share_controllers(&above);
        let group = locked_dir(&above, &self.id)?;
        Ok(group.map(|group| Directory { controller: "", parent: above, group }))
    }

    fn create_v1(&mut self, plan: &Cgroup, base: &OwnedFd) -> Result<(), Failure> {
        let settings = limits::v1(&plan.resources);
        for controller in CONTROLLERS_V1 {
            let wanted: Vec<&Setting> =
                settings.iter().filter(|setting| setting.controller == controller).collect();
            // Few machines give every group all processors, so that one is joined on demand only.
            let on_demand = match controller {
                "cpuset" => true,
                "cpuacct" | "blkio" => !plan.accounted,
                _ => false,
            };
            if on_demand && wanted.is_empty() {
                continue;
            }
            let there = self.directories.iter().position(|directory| directory.controller == controller);
            let at = match there {
                Some(at) => at,
                None => {
                    let Some(directory) = self.directory_v1(plan, base, controller)? else {
                        self.miss(wanted);
                        continue;
                    };
                    self.directories.push(directory);
                    self.directories.len() - 1
                }
            };
            if controller == "devices" && plan.limit_devices {
                limit_devices(&self.directories[at].group, &plan.devices)
                    .during(|| "limiting devices by cgroup".to_owned())?;
            }
            self.set(at, wanted)?;
        }
        Ok(())
    }

    fn directory_v1(
        &self,
        plan: &Cgroup,
        base: &OwnedFd,
        controller: &'static str,
    ) -> Result<Option<Directory>, Failure> {
        let cpuset = |above: &OwnedFd, made: &OwnedFd| match controller {
            "cpuset" => inherit_cpuset(above, made).during(|| "making a cpuset".to_owned()),
            _ => Ok(()),
        };
        // Where several controllers share a hierarchy their names are links to it.
        let hierarchy = root::open_dir(base, controller).ok();
        let Some(mut above) = hierarchy.filter(|hierarchy| has_magic(hierarchy, CGROUP_V1_MAGIC)) else {
            return Ok(None);
        };
        for name in plan.parent.iter().map(String::as_str).chain([PARENT]) {
            let Some(next) = writable_dir(&above, name)? else { return Ok(None) };
            cpuset(&above, &next)?;
            if name == PARENT {
                self.sweep_borrowed(&above);
            }
            above = next;
        }
        let Some(group) = locked_dir(&above, &plan.id)? else { return Ok(None) };
        cpuset(&above, &group)?;
        Ok(Some(Directory { controller, parent: above, group }))
    }

    /// Writes the settings of a directory. A file that is not there is a limit that this kernel
    /// does not have.
    fn set<'a>(
        &mut self,
        directory: usize,
        settings: impl IntoIterator<Item = &'a Setting>,
    ) -> Result<(), Failure> {
        for setting in settings {
            match apply(&self.directories[directory].group, setting) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.miss([setting]),
                written => written.during(|| {
                    let Setting { name, file, value, .. } = setting;
                    format!("setting the limit `{name}`: writing `{value}` to `{file}` of the cgroup")
                })?,
            }
        }
        Ok(())
    }

    /// Kills whatever is left in it: where the sandbox shares its process namespace the end of its first process ends
    /// no other.
    pub(super) fn kill(&self) {
        for Directory { group, .. } in self.directories.iter().take(1) {
            kill_all(group);
        }
    }

    /// What lets its processes go on where somebody stopped them.
    pub(super) fn freezer(&self) -> Option<Freezer> {
        let directory = self.directories.iter().find(|one| matches!(one.controller, "" | "freezer"))?;
        Some(Freezer { group: directory.group.try_clone().ok()?, unified: self.unified })
    }

    /// How often the kernel killed one of its processes for want of memory.
    pub(super) fn oom_kills(&self) -> u64 {
        self.directories.iter().map(|directory| oom_kills(&directory.group)).max().unwrap_or(0)
    }

    /// Removes what killed launchers left below a parent that is not ours: nothing else looks there.
    fn sweep_borrowed(&self, above: &OwnedFd) {
        if self.borrowed_parent {
            sweep_hierarchy(above);
        }
    }

    /// Handles whose first written line moves the writer, which has one thread, into the group. On v1 by `tasks`:
    /// a thread that moves itself alone spares the kernel a lock on all forks of the machine, which takes 10 ms to get.
    pub(super) fn entrances(&self) -> Result<Vec<OwnedFd>, Failure> {
        let file = if self.unified { "cgroup.procs" } else { "tasks" };
        let open = |directory: &Directory| {
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::openat(&directory.group, file, flags, Mode::empty())
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
        let name = CString::new(self.id.as_str()).expect("the plan admits plain ids only");
        for Directory { parent, .. } in self.directories.iter().rev() {
            let mut tries = 0;
            loop {
                match remove_group(parent, &name, DEEPEST) {
                    Err(Errno::BUSY) if tries < 200 => {
                        tries += 1;
                        std::thread::sleep(std::time::Duration::from_millis(1));
                    }
                    Ok(()) => break,
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

/// How many groups may be one in another below a sandbox's, to be removed with it.
const DEEPEST: u32 = 64;

/// Removes a group, and those that its processes made in it. One that is not there is no error.
fn remove_group(parent: &OwnedFd, name: &CStr, deepest: u32) -> Result<(), Errno> {
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        // Groups below it are as good a reason as processes in it.
        Err(Errno::BUSY) if deepest > 0 => {}
        Err(Errno::NOENT) => return Ok(()),
        outcome => return outcome,
    }
    let group = open_group(parent, name)?;
    let mut any = false;
    for entry in rustix::fs::Dir::read_from(&group)?.flatten() {
        if is_group(&entry) {
            any = true;
            remove_group(&group, entry.file_name(), deepest - 1)?;
        }
    }
    if any { rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) } else { Err(Errno::BUSY) }
}

fn open_group(parent: &OwnedFd, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

fn is_group(entry: &rustix::fs::DirEntry) -> bool {
    entry.file_type() == rustix::fs::FileType::Directory && !entry.file_name().to_bytes().starts_with(b".")
}

/// Leaves a v1 group Docker's devices. A user namespace may not, and need not: nothing mounted in one
/// opens devices but the few that are bound from the host.
fn limit_devices(group: &OwnedFd, more: &[String]) -> io::Result<()> {
    match write(group, "devices.deny", "a") {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => return Ok(()),
        other => other?,
    }
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let allow = rustix::fs::openat(group, "devices.allow", flags, Mode::empty())?;
    for rule in DEVICES.into_iter().chain(more.iter().map(String::as_str)) {
        rustix::io::write(&allow, rule.as_bytes())?;
    }
    Ok(())
}

/// As [`limit_devices`], by an eBPF program.
fn limit_devices_v2(group: &OwnedFd, more: &[String]) -> io::Result<()> {
    let rules: Option<Vec<device_filter::Rule>> =
        DEVICES.into_iter().chain(more.iter().map(String::as_str)).map(device_filter::Rule::parse).collect();
    let rules = rules.ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
    match device_filter::attach(group.as_fd(), &device_filter::assemble(&rules)) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(()),
        attached => attached,
    }
}

/// Writes one setting, to the file that this kernel has for it.
pub(in crate::runtime) fn apply(group: &OwnedFd, setting: &Setting) -> io::Result<()> {
    match (write(group, setting.file, &setting.value), &setting.or) {
        (Err(error), Some((file, value))) if error.kind() == io::ErrorKind::NotFound => {
            write(group, file, value.as_deref().unwrap_or(&setting.value))
        }
        (written, _) => written,
    }
}

/// Kills the processes of a group, those too that are born meanwhile.
pub(in crate::runtime) fn kill_all(group: &OwnedFd) {
    if write(group, "cgroup.kill", "1").is_ok() {
        return;
    }
    for _ in 0..100 {
        let Ok(text) = read(group, "cgroup.procs") else { return };
        let mut any = false;
        for pid in text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0) {
            any = true;
            // SAFETY: the call takes numbers; the process was in the group a moment ago.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        if !any {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// How often the kernel killed a process of a group for want of memory.
pub(in crate::runtime) fn oom_kills(group: &OwnedFd) -> u64 {
    ["memory.oom_control", "memory.events"]
        .iter()
        .find_map(|file| {
            let text = read(group, file).ok()?;
            text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
        })
        .unwrap_or(0)
}

/// The directory of a hierarchy, by the names of its controllers as `/proc/<pid>/cgroup` has them: none for version 2.
pub(in crate::runtime) fn hierarchy(controllers: &str) -> Option<OwnedFd> {
    let base = root::open_ambient_dir("/sys/fs/cgroup").ok()?;
    if controllers.is_empty() {
        if has_magic(&base, CGROUP_V2_MAGIC) {
            return Some(base);
        }
        return root::open_dir(&base, "unified").ok().filter(|found| has_magic(found, CGROUP_V2_MAGIC));
    }
    let name = controllers.split(',').next()?;
    let name = name.strip_prefix("name=").unwrap_or(name);
    root::open_dir(&base, name).ok().filter(|found| has_magic(found, CGROUP_V1_MAGIC))
}

/// Where the groups of sandboxes are in each hierarchy that there is: nothing is made. The controller is empty for
/// version 2.
pub(in crate::runtime) fn find(parent: &[&str], foreign: bool, id: &str) -> Vec<(&'static str, OwnedFd)> {
    let unified = hierarchy("").filter(|_| hierarchy("memory").is_none());
    let hierarchies: Vec<(&str, OwnedFd)> = match unified {
        Some(base) => vec![("", given(base))],
        None => CONTROLLERS_V1.into_iter().filter_map(|name| Some((name, hierarchy(name)?))).collect(),
    };
    let below = |base: OwnedFd| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let ours = if foreign { FOREIGN_PARENT } else { PARENT };
        let names = parent.iter().copied().chain([ours, id]);
        names.into_iter().try_fold(base, |at, name| root::open_no_links(&at, name, flags, Mode::empty()).ok())
    };
    hierarchies.into_iter().filter_map(|(name, base)| Some((name, below(base)?))).collect()
}

/// Where our groups begin in version 2: at the top, or, for whoever may not write there, at the highest group on the way
/// to our own that was given away, as systemd gives each user one. Only between groups below it may processes move.
fn given(base: OwnedFd) -> OwnedFd {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default();
    let may_write = |group: &OwnedFd| {
        rustix::fs::accessat(group, "cgroup.procs", Access::WRITE_OK, AtFlags::EACCESS).is_ok()
    };
    highest_given(&base, own, may_write).unwrap_or(base)
}

/// The highest group on a way from the top that may be written; nothing if that is the top itself, or there is none.
fn highest_given(base: &OwnedFd, way: &str, may_write: impl Fn(&OwnedFd) -> bool) -> Option<OwnedFd> {
    if may_write(base) {
        return None;
    }
    let mut at = base.try_clone().ok()?;
    // What is outside of a cgroup namespace is named with `..`, and out of reach.
    for name in way.split('/').filter(|name| !name.is_empty()) {
        at = root::open_no_links(&at, name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).ok()?;
        if may_write(&at) {
            return Some(at);
        }
    }
    None
}

/// Lets the groups below `group` have controllers of their own. One that cannot be had is noticed
/// when its limit is set.
fn share_controllers(group: &OwnedFd) {
    for controller in ["memory", "pids", "cpu", "cpuset", "io"] {
        let _ = write(group, "cgroup.subtree_control", &format!("+{controller}"));
    }
}

/// A new v1 cpuset is empty, and nothing can run in an empty one.
fn inherit_cpuset(parent: &OwnedFd, group: &OwnedFd) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if read(group, file)?.is_empty() {
            write(group, file, &read(parent, file)?)?;
        }
    }
    Ok(())
}

pub(in crate::runtime) fn read(directory: &OwnedFd, file: &str) -> io::Result<String> {
    let file = rustix::fs::openat(directory, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = String::new();
    io::Read::read_to_string(&mut std::fs::File::from(file), &mut text)?;
    Ok(text.trim().to_owned())
}

fn has_magic(directory: &OwnedFd, magic: rustix::fs::FsWord) -> bool {
    rustix::fs::fstatfs(directory).is_ok_and(|stat| stat.f_type == magic)
}

/// A directory of a hierarchy, made if missing; nothing where the hierarchy is not ours to change.
fn writable_dir(parent: &OwnedFd, name: &str) -> Result<Option<OwnedFd>, Failure> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let mut tries = 0;
    if name == PARENT
        && let Ok(there) = root::open_no_links(parent, name, flags, Mode::empty())
    {
        return Ok(Some(there));
    }
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
        let base = given(base);
        sweep_hierarchy(&base);
        return;
    }
    let mut hierarchies = CONTROLLERS_V1.iter().filter_map(|controller| {
        let hierarchy = root::open_dir(&base, *controller).ok()?;
        has_magic(&hierarchy, CGROUP_V1_MAGIC).then_some(hierarchy)
    });
    let left = hierarchies.next().and_then(|first| abandoned(&first));
    if let Some((parent, groups)) = left.filter(|(_, groups)| !groups.is_empty()) {
        remove_abandoned(&parent, groups, &hierarchies.collect::<Vec<_>>());
    }
}

/// As [`sweep`], of containers of other runtimes.
pub(in crate::runtime) fn sweep_all_foreign() {
    foreign_hierarchies().iter().for_each(sweep_foreign);
}

/// Where containers of other runtimes have groups: they join all hierarchies, the one of version 2 beside those of
/// version 1 too.
fn foreign_hierarchies() -> Vec<OwnedFd> {
    let Ok(base) = root::open_ambient_dir("/sys/fs/cgroup") else { return Vec::new() };
    if has_magic(&base, CGROUP_V2_MAGIC) {
        return vec![given(base)];
    }
    let Ok(entries) = rustix::fs::Dir::read_from(&base) else { return Vec::new() };
    let hierarchies = entries
        .flatten()
        .filter_map(|entry| root::open_dir(&base, OsStr::from_bytes(entry.file_name().to_bytes())).ok());
    let is_one = |found: &OwnedFd| has_magic(found, CGROUP_V1_MAGIC) || has_magic(found, CGROUP_V2_MAGIC);
    hierarchies.filter(is_one).collect()
}

/// Removes the group of a container of another runtime that nobody runs any more, nor is about to run.
pub(in crate::runtime) fn remove_foreign(parent: &[&str], id: &str) {
    let Ok(id) = CString::new(id) else { return };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    for hierarchy in foreign_hierarchies() {
        let mut names = parent.iter().copied().chain([FOREIGN_PARENT]);
        let above =
            names.try_fold(hierarchy, |at, name| root::open_no_links(&at, name, flags, Mode::empty()).ok());
        let Some(above) = above else { continue };
        // What was killed is in it for a moment longer. What is in use after that goes with a later sweep.
        for _ in 0..500 {
            if remove_group(&above, &id, DEEPEST) != Err(Errno::BUSY) {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Removes the groups of containers of other runtimes whose monitors were killed. The runtimes made them, so they are
/// locked by nobody: what is empty and was made long ago is nobody's, and the kernel keeps what is not empty.
fn sweep_foreign(hierarchy: &OwnedFd) {
    const LONG_AGO: Duration = Duration::from_secs(60);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let Ok(parent) = root::open_no_links(hierarchy, FOREIGN_PARENT, flags, Mode::empty()) else { return };
    let Ok(entries) = rustix::fs::Dir::read_from(&parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if entry.file_type() != rustix::fs::FileType::Directory || name.to_bytes().starts_with(b".") {
            continue;
        }
        let Ok(stat) = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        let made = UNIX_EPOCH + Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0));
        if made.elapsed().is_ok_and(|age| age > LONG_AGO) {
            let _ = rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR);
        }
    }
}

/// Our common parent in a hierarchy, and the groups below it that nobody has locked, with the lock on each.
fn abandoned(hierarchy: &OwnedFd) -> Option<(OwnedFd, Vec<(CString, OwnedFd)>)> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let parent = root::open_no_links(hierarchy, PARENT, flags, Mode::empty()).ok()?;
    let entries = rustix::fs::Dir::read_from(&parent).ok()?;
    let groups = entries.flatten().filter(is_group).filter_map(|entry| {
        let group = open_group(&parent, entry.file_name()).ok()?;
        rustix::fs::flock(&group, FlockOperation::NonBlockingLockExclusive).ok()?;
        Some((entry.file_name().to_owned(), group))
    });
    let groups = groups.collect();
    Some((parent, groups))
}

fn sweep_hierarchy(hierarchy: &OwnedFd) {
    if let Some((parent, groups)) = abandoned(hierarchy) {
        remove_abandoned(&parent, groups, &[]);
    }
}

/// What cannot be removed, because a process is in it or because it is not ours, stays. `others` are hierarchies that
/// have the same groups.
fn remove_abandoned(parent: &OwnedFd, groups: Vec<(CString, OwnedFd)>, others: &[OwnedFd]) {
    for (name, group) in groups {
        // Its launcher was killed, and its first process with that; others may have been stopped, or share their
        // process namespace with somebody who lives on.
        let _ = write(&group, "freezer.state", "THAWED");
        kill_all(&group);
        for other in others {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            if let Ok(parent) = root::open_no_links(other, PARENT, flags, Mode::empty()) {
                let _ = remove_group(&parent, &name, DEEPEST);
            }
        }
        let _ = remove_group(parent, &name, DEEPEST);
    }
}

pub(in crate::runtime) fn write(directory: &OwnedFd, file: &str, value: &str) -> io::Result<()> {
    let file = rustix::fs::openat(directory, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, value.as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    /// Makes a group with two more in it in each of two hierarchies, or in the one of version 2; nothing where none
    /// can be made.
    fn nested(id: &str) -> Option<Vec<(OwnedFd, OwnedFd)>> {
        let base = root::open_ambient_dir("/sys/fs/cgroup").ok()?;
        let hierarchies = match has_magic(&base, CGROUP_V2_MAGIC) {
            true => vec![base],
            false => {
                ["freezer", "pids"].iter().filter_map(|name| root::open_dir(&base, *name).ok()).collect()
            }
        };
        hierarchies
            .iter()
            .map(|hierarchy| {
                let parent = writable_dir(hierarchy, PARENT).ok()??;
                let group = locked_dir(&parent, id).ok()??;
                let inner = writable_dir(&group, "a").ok()??;
                writable_dir(&inner, "b").ok()??;
                Some((parent, group))
            })
            .collect()
    }

    fn is_there(parent: &OwnedFd, id: &str) -> bool {
        rustix::fs::accessat(parent, id, rustix::fs::Access::EXISTS, AtFlags::empty()).is_ok()
    }

    #[test]
    fn what_killed_launchers_left_goes_with_all_that_is_in_it() {
        let id = format!("left-{}", std::process::id());
        let Some(made) = nested(&id) else { return };
        sweep();
        assert!(made.iter().all(|(parent, _)| is_there(parent, &id)), "somebody has them locked");
        let parents: Vec<OwnedFd> = made.into_iter().map(|(parent, _)| parent).collect();
        sweep();
        // Another test's sweep may be at it at this moment.
        for _ in 0..60_000 {
            if !parents.iter().any(|parent| is_there(parent, &id)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("the groups are still there");
    }

    #[test]
    fn groups_are_removed_to_a_depth_and_missing_ones_are_no_error() {
        let id = format!("deep-{}", std::process::id());
        let Some(made) = nested(&id) else { return };
        let name = CString::new(id.as_str()).unwrap();
        for (parent, _lock) in &made {
            assert_eq!(remove_group(parent, &name, 1), Err(Errno::BUSY));
            assert_eq!(remove_group(parent, &name, 2), Ok(()));
            assert_eq!(remove_group(parent, &name, 2), Ok(()));
            assert!(!is_there(parent, &id));
        }
    }

    /// A tree of version 2 in which the groups of these names are the user's.
    fn found(groups: &str, mine: &[&str], way: &str) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join(groups)).unwrap();
        let name = |group: &OwnedFd| {
            let path = std::fs::read_link(format!("/proc/self/fd/{}", group.as_raw_fd())).unwrap();
            path.strip_prefix(folder.path().canonicalize().unwrap()).unwrap().display().to_string()
        };
        let base = root::open_ambient_dir(folder.path()).unwrap();
        let may_write = |group: &OwnedFd| mine.iter().any(|one| name(group) == *one);
        highest_given(&base, way, may_write).map(|group| name(&group))
    }

    #[test]
    fn groups_begin_where_the_user_was_given_one() {
        let groups = "user.slice/user-7.slice/user@7.service/app.slice/a.scope";
        let (given, own) = ("user.slice/user-7.slice/user@7.service", format!("/{groups}"));
        let below = format!("{given}/app.slice");
        assert_eq!(found(groups, &[given, &below, groups], &own).as_deref(), Some(given));
        assert_eq!(found(groups, &[groups], &own).as_deref(), Some(groups));
    }

    #[test]
    fn without_one_they_begin_at_the_top() {
        assert_eq!(found("a/b", &["", "a", "a/b"], "/a/b"), None, "root's");
        assert_eq!(found("a/b", &[], "/a/b"), None, "a login session's own");
        assert_eq!(found("a/b", &["a"], "/../a"), None, "outside of the namespace");
        assert_eq!(found("a", &["a/gone"], "/a/gone"), None);
        assert_eq!(found("a", &["a"], ""), None, "version 1");
    }
}
