//! Cgroups where the configuration says (`cgroupsPath`), with all that the specification can limit.
//!
//! [`super::super::child`]'s groups are stave's own and go with their launcher. These have no process to watch over
//! them: what was made is written down in the container's record first, and `delete` takes it away.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::config::{DeviceRule, LinuxResources, Throttle};
use super::error::BundleError;
use crate::root;
use crate::runtime::child::{DEVICES, device_filter};

const BASE: &str = "/sys/fs/cgroup";
const CGROUP_V1_MAGIC: rustix::fs::FsWord = 0x0027_e0eb;
const CGROUP_V2_MAGIC: rustix::fs::FsWord = 0x6367_7270;
/// Below this are groups whose path the configuration leaves to us.
const PARENT: &str = "/stave-oci";

/// A container's group in each hierarchy that can be written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Groups {
    pub unified: bool,
    /// The name below `/sys/fs/cgroup`, empty on version 2, and the path in that hierarchy.
    pub places: Vec<(String, String)>,
}

/// One file of a group.
#[derive(Debug, PartialEq, Eq)]
struct Setting {
    /// The property of the configuration.
    property: &'static str,
    controller: String,
    file: String,
    value: String,
}

/// A group's path by the configuration; relative ones and none at all are ours to place.
pub(super) fn path(asked: &str, id: &str) -> Result<String, BundleError> {
    let wrong = |why: &str| BundleError::invalid("linux.cgroupsPath", why);
    if asked.contains(['\0', '\n']) || asked.split('/').any(|part| part == "..") {
        return Err(wrong("it is a path of names without `..`"));
    }
    Ok(match asked {
        "" => format!("{PARENT}/{id}"),
        asked if asked.starts_with('/') => root::clean(asked),
        // What systemd would make a scope of: `slice:prefix:name`.
        asked if asked.matches(':').count() == 2 => {
            return Err(BundleError::unsupported(
                "linux.cgroupsPath",
                "groups are made as directories, and not asked of systemd",
            ));
        }
        asked => root::clean(&format!("{PARENT}/{asked}")),
    })
}

impl Groups {
    /// Which groups a container will have; nothing is made yet.
    pub(super) fn plan(path: &str) -> Self {
        let Ok(base) = root::open_ambient_dir(BASE) else { return Self::default() };
        if has_magic(&base, CGROUP_V2_MAGIC) {
            return Self { unified: true, places: vec![(String::new(), path.to_owned())] };
        }
        let mut names: Vec<String> = rustix::fs::Dir::read_from(&base)
            .map(|entries| {
                entries
                    .flatten()
                    // Links are second names.
                    .filter(|entry| entry.file_type() == rustix::fs::FileType::Directory)
                    .filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned))
                    .filter(|name| !name.starts_with('.'))
                    .collect()
            })
            .unwrap_or_default();
        names.retain(|name| root::open_dir(&base, name).is_ok_and(|dir| has_magic(&dir, CGROUP_V1_MAGIC)));
        names.sort();
        Self { unified: false, places: names.into_iter().map(|name| (name, path.to_owned())).collect() }
    }

    /// Makes the groups. A hierarchy that is not ours to change is left out, and is an error only where something is
    /// to be limited in it.
    pub(super) fn create(&mut self) -> Result<(), BundleError> {
        let mut made = Vec::new();
        for (name, path) in std::mem::take(&mut self.places) {
            match create_place(self.unified, &name, &path) {
                Ok(()) => made.push((name, path)),
                Err(error) if is_refusal(&error) => {}
                Err(error) => {
                    self.places = made;
                    return Err(BundleError::io(format!("make the cgroup `{path}` of `{name}`"))(error));
                }
            }
        }
        self.places = made;
        Ok(())
    }

    fn open(&self, controller: &str) -> Option<io::Result<OwnedFd>> {
        let (name, path) = self
            .places
            .iter()
            .find(|(name, _)| self.unified || name.split(',').any(|one| one == controller))?;
        Some(open_place(name, path))
    }

    /// Any hierarchy's group: they have the same processes.
    fn any(&self) -> Option<io::Result<OwnedFd>> {
        ["pids", "freezer", "devices", "memory", "systemd"]
            .iter()
            .find_map(|controller| self.open(controller))
            .or_else(|| self.places.first().map(|(name, path)| open_place(name, path)))
    }

    /// Puts a process in.
    pub(super) fn add(&self, pid: i32) -> Result<(), BundleError> {
        for (name, path) in &self.places {
            let added =
                open_place(name, path).and_then(|group| write(&group, "cgroup.procs", &pid.to_string()));
            added.map_err(BundleError::io(format!("join the cgroup `{path}` of `{name}`")))?;
        }
        Ok(())
    }

    /// Sets limits.
    ///
    /// # Errors
    /// A limit that the kernel refuses, or that cannot be had here.
    pub(super) fn limit(&self, resources: &LinuxResources) -> Result<(), BundleError> {
        let settings = if self.unified { v2(resources)? } else { v1(resources)? };
        let mut late = Vec::new();
        for setting in settings {
            match self.set(&setting) {
                Ok(()) => {}
                // Memory and swap bound each other: what is refused now may be allowed after the other.
                Err(_) if setting.controller == "memory" => late.push(setting),
                Err(error) => return Err(error),
            }
        }
        late.iter().try_for_each(|setting| self.set(setting))
    }

    fn set(&self, setting: &Setting) -> Result<(), BundleError> {
        let Setting { property, controller, file, value } = setting;
        let group = self.open(controller).ok_or_else(|| {
            BundleError::unsupported(
                format!("linux.resources.{property}"),
                "this machine, or this user, has no cgroup that limits it",
            )
        })?;
        group.and_then(|group| write(&group, file, value)).map_err(BundleError::io(format!(
            "set `linux.resources.{property}`: write `{value}` to `{file}`"
        )))
    }

    /// Limits devices to those of the rules, and of every container.
    pub(super) fn limit_devices(&self, rules: &[DeviceRule]) -> Result<(), BundleError> {
        let Some(group) = self.open("devices") else { return Ok(()) };
        let failed = || BundleError::io("limit devices by cgroup");
        let group = group.map_err(failed())?;
        if self.unified {
            return match admitted(rules)? {
                None => Ok(()),
                Some(lines) => match device_filter::admit(group.as_fd(), &lines) {
                    // In a user namespace there is neither the right nor the need.
                    Err(error) if is_refusal(&error) => Ok(()),
                    admitted => admitted.map_err(failed()),
                },
            };
        }
        match write(&group, "devices.deny", "a") {
            Err(error) if is_refusal(&error) => return Ok(()),
            other => other.map_err(failed())?,
        }
        for rule in rules {
            let file = if rule.allow { "devices.allow" } else { "devices.deny" };
            for line in device_lines(rule) {
                write(&group, file, &line).map_err(failed())?;
            }
        }
        DEVICES.iter().try_for_each(|line| write(&group, "devices.allow", line)).map_err(failed())
    }

    /// All processes, also of groups below.
    pub(super) fn pids(&self) -> Vec<i32> {
        let mut pids = Vec::new();
        if let Some(Ok(group)) = self.any() {
            collect_pids(&group, 0, &mut pids);
        }
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Sends a signal to all processes.
    pub(super) fn signal(&self, signal: i32) {
        for pid in self.pids() {
            // SAFETY: the call takes numbers. A number may have become another's only since the group was read.
            unsafe { libc::kill(pid, signal) };
        }
    }

    /// Kills until nobody is left; the kernel may need a moment to see that.
    pub(super) fn kill(&self) {
        for _ in 0..200 {
            if self.pids().is_empty() {
                return;
            }
            self.signal(libc::SIGKILL);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops or continues all processes.
    pub(super) fn freeze(&self, frozen: bool) -> Result<(), BundleError> {
        let failed = || BundleError::io(if frozen { "pause the container" } else { "resume the container" });
        let group = self.open("freezer").ok_or_else(|| {
            BundleError::unsupported("freezing", "this machine, or this user, has no cgroup that does it")
        })?;
        let group = group.map_err(failed())?;
        for _ in 0..500 {
            if self.unified {
                write(&group, "cgroup.freeze", if frozen { "1" } else { "0" }).map_err(failed())?;
            } else {
                write(&group, "freezer.state", if frozen { "FROZEN" } else { "THAWED" }).map_err(failed())?;
            }
            if self.is_frozen() == frozen {
                return Ok(());
            }
            // A process that is just forking holds it up; the kernel wants to be asked again.
            std::thread::sleep(Duration::from_millis(2));
        }
        if frozen {
            let _ = self.freeze(false);
        }
        Err(failed()(io::ErrorKind::TimedOut.into()))
    }

    pub(super) fn is_frozen(&self) -> bool {
        let Some(Ok(group)) = self.open("freezer") else { return false };
        if self.unified {
            return read(&group, "cgroup.events")
                .is_ok_and(|text| text.lines().any(|line| line == "frozen 1"));
        }
        read(&group, "freezer.state").is_ok_and(|text| text.trim() == "FROZEN")
    }

    /// Removes the groups, and those that the container made below them.
    pub(super) fn remove(&self) {
        for (name, path) in &self.places {
            let Some((parent, own)) = path.rsplit_once('/') else { continue };
            if own.is_empty() {
                continue;
            }
            if let Ok(parent) = open_place(name, parent) {
                for _ in 0..100 {
                    match remove_group(&parent, own, 0) {
                        Err(Errno::BUSY) => std::thread::sleep(Duration::from_millis(2)),
                        _ => break,
                    }
                }
            }
        }
    }

    /// What the container used.
    pub(super) fn stats(&self) -> Stats {
        let number = |controller: &str, file: &str| {
            let text = read(&self.open(controller)?.ok()?, file).ok()?;
            text.trim().parse::<u64>().ok()
        };
        let keyed = |controller: &str, file: &str| -> Vec<(String, u64)> {
            let text = self.open(controller).and_then(Result::ok).and_then(|group| read(&group, file).ok());
            let pair = |line: &str| {
                let (name, value) = line.split_once(' ')?;
                Some((name.to_owned(), value.trim().parse().ok()?))
            };
            text.unwrap_or_default().lines().filter_map(pair).collect()
        };
        let of = |list: &[(String, u64)], name: &str| {
            list.iter().find(|(known, _)| known == name).map_or(0, |(_, value)| *value)
        };
        if self.unified {
            let cpu = keyed("", "cpu.stat");
            return Stats {
                cpu_total: of(&cpu, "usage_usec") * 1000,
                cpu_user: of(&cpu, "user_usec") * 1000,
                cpu_system: of(&cpu, "system_usec") * 1000,
                throttled_periods: of(&cpu, "nr_throttled"),
                memory_usage: number("", "memory.current").unwrap_or(0),
                memory_limit: number("", "memory.max").unwrap_or(u64::MAX),
                memory_max: number("", "memory.peak").unwrap_or(0),
                memory: keyed("", "memory.stat"),
                pids: number("", "pids.current").unwrap_or(0),
                pids_limit: number("", "pids.max").unwrap_or(0),
            };
        }
        let ticks = keyed("cpuacct", "cpuacct.stat");
        Stats {
            cpu_total: number("cpuacct", "cpuacct.usage").unwrap_or(0),
            cpu_user: of(&ticks, "user") * 10_000_000,
            cpu_system: of(&ticks, "system") * 10_000_000,
            throttled_periods: of(&keyed("cpu", "cpu.stat"), "nr_throttled"),
            memory_usage: number("memory", "memory.usage_in_bytes").unwrap_or(0),
            memory_limit: number("memory", "memory.limit_in_bytes").unwrap_or(u64::MAX),
            memory_max: number("memory", "memory.max_usage_in_bytes").unwrap_or(0),
            memory: keyed("memory", "memory.stat"),
            pids: number("pids", "pids.current").unwrap_or(0),
            pids_limit: number("pids", "pids.max").unwrap_or(0),
        }
    }
}

/// What a container used. Times in nanoseconds, memory in bytes.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    pub cpu_total: u64,
    pub cpu_user: u64,
    pub cpu_system: u64,
    pub throttled_periods: u64,
    pub memory_usage: u64,
    pub memory_limit: u64,
    pub memory_max: u64,
    /// The kernel's own table.
    pub memory: Vec<(String, u64)>,
    pub pids: u64,
    /// 0 for none.
    pub pids_limit: u64,
}

fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM | libc::EROFS))
}

fn has_magic(directory: &OwnedFd, magic: rustix::fs::FsWord) -> bool {
    rustix::fs::fstatfs(directory).is_ok_and(|stat| stat.f_type == magic)
}

fn open_place(name: &str, path: &str) -> io::Result<OwnedFd> {
    let hierarchy = root::open_dir(root::open_ambient_dir(BASE)?, if name.is_empty() { "." } else { name })?;
    let relative = path.trim_start_matches('/');
    let relative = if relative.is_empty() { "." } else { relative };
    root::open_no_links(&hierarchy, relative, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
}

fn create_place(unified: bool, name: &str, path: &str) -> io::Result<()> {
    let mut group = open_place(name, "/")?;
    for part in path.split('/').filter(|part| !part.is_empty()) {
        if unified {
            let here = read(&group, "cgroup.controllers").unwrap_or_default();
            for controller in here.split_whitespace() {
                // One that cannot be had is noticed when its limit is set.
                let _ = write(&group, "cgroup.subtree_control", &format!("+{controller}"));
            }
        }
        match rustix::fs::mkdirat(&group, part, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let below = root::open_no_links(&group, part, flags, Mode::empty())?;
        if name.split(',').any(|controller| controller == "cpuset") {
            // A new one is empty, and nothing can run in an empty one.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if read(&below, file)?.trim().is_empty() {
                    write(&below, file, read(&group, file)?.trim())?;
                }
            }
        }
        group = below;
    }
    Ok(())
}

fn collect_pids(group: &OwnedFd, depth: usize, pids: &mut Vec<i32>) {
    let text = read(group, "cgroup.procs").unwrap_or_default();
    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
    for name in below(group, depth) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        if let Ok(child) = root::open_no_links(group, &name, flags, Mode::empty()) {
            collect_pids(&child, depth + 1, pids);
        }
    }
}

fn below(group: &OwnedFd, depth: usize) -> Vec<PathBuf> {
    if depth > 64 {
        return Vec::new();
    }
    let Ok(entries) = rustix::fs::Dir::read_from(group) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_type() == rustix::fs::FileType::Directory)
        .filter(|entry| !matches!(entry.file_name().to_bytes(), b"." | b".."))
        .map(|entry| Path::new(std::str::from_utf8(entry.file_name().to_bytes()).unwrap_or(".")).to_owned())
        .collect()
}

fn remove_group(parent: &OwnedFd, name: &str, depth: usize) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    if let Ok(group) = root::open_no_links(parent, name, flags, Mode::empty()) {
        for child in below(&group, depth) {
            if let Some(child) = child.to_str() {
                remove_group(&group, child, depth + 1)?;
            }
        }
    }
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

fn read(directory: &OwnedFd, file: &str) -> io::Result<String> {
    let file = rustix::fs::openat(directory, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = String::new();
    io::Read::read_to_string(&mut std::fs::File::from(file), &mut text)?;
    Ok(text)
}

fn write(directory: &OwnedFd, file: &str, value: &str) -> io::Result<()> {
    let file = rustix::fs::openat(directory, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, value.as_bytes())?;
    Ok(())
}

/// A rule as version 1 reads it. A rule for all kinds is one for each unless it means everything.
fn device_lines(rule: &DeviceRule) -> Vec<String> {
    let number = |number: Option<i64>| match number {
        Some(number) if number >= 0 => number.to_string(),
        _ => "*".to_owned(),
    };
    let (major, minor) = (number(rule.major), number(rule.minor));
    let access = if rule.access.is_empty() { "rwm" } else { &rule.access };
    match rule.kind.as_str() {
        "b" => vec![format!("b {major}:{minor} {access}")],
        "c" | "u" => vec![format!("c {major}:{minor} {access}")],
        _ if major == "*" && minor == "*" && access.len() == 3 => vec!["a".to_owned()],
        _ => ["b", "c"].map(|kind| format!("{kind} {major}:{minor} {access}")).to_vec(),
    }
}

/// What version 2 admits: rules one after another, of which none may take a part of an earlier one away. None for
/// everything.
fn admitted(rules: &[DeviceRule]) -> Result<Option<Vec<String>>, BundleError> {
    let mut lines = Some(Vec::new());
    for rule in rules {
        for line in device_lines(rule) {
            match (rule.allow, line.as_str()) {
                (true, "a") => lines = None,
                (false, "a") => lines = Some(Vec::new()),
                (true, _) => lines.iter_mut().for_each(|lines| lines.push(line.clone())),
                (false, _) => {
                    return Err(BundleError::unsupported(
                        "linux.resources.devices",
                        "on cgroups of version 2 a rule that denies is the first, and denies everything",
                    ));
                }
            }
        }
    }
    Ok(lines.map(|mut lines| {
        lines.extend(DEVICES.iter().map(|line| (*line).to_owned()));
        lines
    }))
}

struct Settings(Vec<Setting>);

impl Settings {
    fn add(&mut self, property: &'static str, controller: &str, file: &str, value: Option<impl ToString>) {
        if let Some(value) = value {
            let (controller, file, value) = (controller.to_owned(), file.to_owned(), value.to_string());
            self.0.push(Setting { property, controller, file, value });
        }
    }
}

fn text(value: &str) -> Option<&str> {
    Some(value).filter(|value| !value.is_empty())
}

fn page_size(size: &str) -> Result<&str, BundleError> {
    let plain = size.bytes().all(|byte| byte.is_ascii_alphanumeric()) && !size.is_empty() && size.len() < 16;
    plain.then_some(size).ok_or_else(|| {
        BundleError::invalid("linux.resources.hugepageLimits", format!("`{size}` is no page size"))
    })
}

/// The files of version 1, in an order in which they can be written.
fn v1(resources: &LinuxResources) -> Result<Vec<Setting>, BundleError> {
    let mut list = Settings(Vec::new());
    let LinuxResources { memory, cpu, pids, block_io, hugepage_limits, network, .. } = resources;
    list.add("memory.limit", "memory", "memory.limit_in_bytes", memory.limit);
    list.add("memory.swap", "memory", "memory.memsw.limit_in_bytes", memory.swap);
    list.add("memory.reservation", "memory", "memory.soft_limit_in_bytes", memory.reservation);
    list.add("memory.swappiness", "memory", "memory.swappiness", memory.swappiness);
    let disabled = memory.disable_oom_killer.filter(|disabled| *disabled).map(|_| 1);
    list.add("memory.disableOOMKiller", "memory", "memory.oom_control", disabled);
    list.add("cpu.shares", "cpu", "cpu.shares", cpu.shares.filter(|shares| *shares != 0));
    list.add("cpu.period", "cpu", "cpu.cfs_period_us", cpu.period.filter(|period| *period != 0));
    list.add("cpu.quota", "cpu", "cpu.cfs_quota_us", cpu.quota.filter(|quota| *quota != 0));
    list.add("cpu.burst", "cpu", "cpu.cfs_burst_us", cpu.burst);
    list.add(
        "cpu.realtimePeriod",
        "cpu",
        "cpu.rt_period_us",
        cpu.realtime_period.filter(|period| *period != 0),
    );
    list.add(
        "cpu.realtimeRuntime",
        "cpu",
        "cpu.rt_runtime_us",
        cpu.realtime_runtime.filter(|time| *time != 0),
    );
    list.add("cpu.idle", "cpu", "cpu.idle", cpu.idle);
    list.add("cpu.cpus", "cpuset", "cpuset.cpus", text(&cpu.cpus));
    list.add("cpu.mems", "cpuset", "cpuset.mems", text(&cpu.mems));
    list.add("pids.limit", "pids", "pids.max", pids_max(pids.limit));
    list.add("blockIO.weight", "blkio", "blkio.weight", block_io.weight.filter(|weight| *weight != 0));
    list.add(
        "blockIO.leafWeight",
        "blkio",
        "blkio.leaf_weight",
        block_io.leaf_weight.filter(|weight| *weight != 0),
    );
    for device in &block_io.weight_device {
        let line =
            |weight: Option<u16>| weight.map(|weight| format!("{}:{} {weight}", device.major, device.minor));
        list.add("blockIO.weightDevice", "blkio", "blkio.weight_device", line(device.weight));
        list.add("blockIO.weightDevice", "blkio", "blkio.leaf_weight_device", line(device.leaf_weight));
    }
    for (devices, property, file) in [
        (&block_io.throttle_read_bps_device, "blockIO.throttleReadBpsDevice", "read_bps"),
        (&block_io.throttle_write_bps_device, "blockIO.throttleWriteBpsDevice", "write_bps"),
        (&block_io.throttle_read_iops_device, "blockIO.throttleReadIOPSDevice", "read_iops"),
        (&block_io.throttle_write_iops_device, "blockIO.throttleWriteIOPSDevice", "write_iops"),
    ] {
        for Throttle { major, minor, rate } in devices {
            let file = format!("blkio.throttle.{file}_device");
            list.add(property, "blkio", &file, Some(format!("{major}:{minor} {rate}")));
        }
    }
    for limit in hugepage_limits {
        let file = format!("hugetlb.{}.limit_in_bytes", page_size(&limit.page_size)?);
        list.add("hugepageLimits", "hugetlb", &file, Some(limit.limit));
    }
    list.add("network.classID", "net_cls", "net_cls.classid", network.class);
    for one in &network.priorities {
        let line = format!("{} {}", one.name, one.priority);
        list.add("network.priorities", "net_prio", "net_prio.ifpriomap", Some(line));
    }
    if !resources.unified.is_empty() {
        return Err(BundleError::unsupported(
            "linux.resources.unified",
            "this machine has cgroups of version 1",
        ));
    }
    Ok(list.0)
}

fn pids_max(limit: Option<i64>) -> Option<String> {
    limit.filter(|limit| *limit != 0).map(max)
}

/// A number, or the word for none.
fn max(limit: i64) -> String {
    if limit < 0 { "max".to_owned() } else { limit.to_string() }
}

/// The files of version 2.
fn v2(resources: &LinuxResources) -> Result<Vec<Setting>, BundleError> {
    let mut list = Settings(Vec::new());
    let LinuxResources { memory, cpu, pids, block_io, hugepage_limits, .. } = resources;
    list.add("memory.limit", "memory", "memory.max", memory.limit.map(max));
    // Swap alone is counted here, where version 1 counts both together.
    let swap = match (memory.swap, memory.limit) {
        (None | Some(0), _) => None,
        (Some(swap), _) if swap < 0 => Some("max".to_owned()),
        (Some(swap), Some(limit)) if limit >= 0 && swap >= limit => Some((swap - limit).to_string()),
        _ => {
            return Err(BundleError::invalid(
                "linux.resources.memory.swap",
                "memory and swap together are not less than `limit`, which must be set too",
            ));
        }
    };
    list.add("memory.swap", "memory", "memory.swap.max", swap);
    list.add("memory.reservation", "memory", "memory.low", memory.reservation.map(max));
    if memory.swappiness.is_some() || memory.disable_oom_killer == Some(true) {
        return Err(BundleError::unsupported(
            "linux.resources.memory.swappiness or disableOOMKiller",
            "cgroups of version 2 have neither",
        ));
    }
    // 2 to 262144 becomes 1 to 10000, linearly: the specification's own formula.
    let weight = |shares: u64| 1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142;
    list.add("cpu.shares", "cpu", "cpu.weight", cpu.shares.filter(|shares| *shares != 0).map(weight));
    let (quota, period) = (cpu.quota.filter(|quota| *quota != 0), cpu.period.filter(|period| *period != 0));
    if quota.is_some() || period.is_some() {
        let quota =
            quota.filter(|quota| *quota > 0).map_or_else(|| "max".to_owned(), |quota| quota.to_string());
        list.add("cpu.quota", "cpu", "cpu.max", Some(format!("{quota} {}", period.unwrap_or(100_000))));
    }
    list.add("cpu.burst", "cpu", "cpu.max.burst", cpu.burst);
    list.add("cpu.idle", "cpu", "cpu.idle", cpu.idle);
    if cpu.realtime_period.is_some_and(|n| n != 0) || cpu.realtime_runtime.is_some_and(|n| n != 0) {
        return Err(BundleError::unsupported(
            "linux.resources.cpu.realtimeRuntime",
            "cgroups of version 2 lack it",
        ));
    }
    list.add("cpu.cpus", "cpuset", "cpuset.cpus", text(&cpu.cpus));
    list.add("cpu.mems", "cpuset", "cpuset.mems", text(&cpu.mems));
    list.add("pids.limit", "pids", "pids.max", pids_max(pids.limit));
    let weight = |weight: u16| 1 + u64::from(weight.clamp(10, 1000) - 10) * 9999 / 990;
    list.add("blockIO.weight", "io", "io.weight", block_io.weight.filter(|weight| *weight != 0).map(weight));
    for device in &block_io.weight_device {
        let line = device.weight.map(|one| format!("{}:{} {}", device.major, device.minor, weight(one)));
        list.add("blockIO.weightDevice", "io", "io.weight", line);
    }
    for (devices, property, word) in [
        (&block_io.throttle_read_bps_device, "blockIO.throttleReadBpsDevice", "rbps"),
        (&block_io.throttle_write_bps_device, "blockIO.throttleWriteBpsDevice", "wbps"),
        (&block_io.throttle_read_iops_device, "blockIO.throttleReadIOPSDevice", "riops"),
        (&block_io.throttle_write_iops_device, "blockIO.throttleWriteIOPSDevice", "wiops"),
    ] {
        for Throttle { major, minor, rate } in devices {
            let rate = if *rate == 0 { "max".to_owned() } else { rate.to_string() };
            list.add(property, "io", "io.max", Some(format!("{major}:{minor} {word}={rate}")));
        }
    }
    for limit in hugepage_limits {
        let file = format!("hugetlb.{}.max", page_size(&limit.page_size)?);
        list.add("hugepageLimits", "hugetlb", &file, Some(limit.limit));
    }
    for (file, value) in &resources.unified {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if !file.bytes().all(plain) || !file.contains('.') || file.starts_with('.') {
            return Err(BundleError::invalid(
                "linux.resources.unified",
                format!("`{file}` is no file of a cgroup"),
            ));
        }
        list.add("unified", "", file, Some(value));
    }
    Ok(list.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(settings: &[Setting]) -> Vec<String> {
        settings.iter().map(|one| format!("{}={}", one.file, one.value)).collect()
    }

    fn resources(json: &str) -> LinuxResources {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn paths() {
        assert_eq!(path("", "x").unwrap(), "/stave-oci/x");
        assert_eq!(path("/a//b/", "x").unwrap(), "/a/b");
        assert_eq!(path("a/b", "x").unwrap(), "/stave-oci/a/b");
        for wrong in ["/a/../b", "..", "/a\nb", "user.slice:libpod:abc"] {
            assert!(path(wrong, "x").is_err(), "{wrong}");
        }
    }

    #[test]
    fn both_versions() {
        let all = resources(
            r#"{"memory":{"limit":1048576,"swap":2097152,"reservation":524288},
                "cpu":{"shares":1024,"quota":50000,"period":100000,"cpus":"0-1"},
                "pids":{"limit":32},
                "blockIO":{"weight":500,"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":600}]},
                "hugepageLimits":[{"pageSize":"2MB","limit":209715200}]}"#,
        );
        assert_eq!(
            lines(&v1(&all).unwrap()),
            [
                "memory.limit_in_bytes=1048576",
                "memory.memsw.limit_in_bytes=2097152",
                "memory.soft_limit_in_bytes=524288",
                "cpu.shares=1024",
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=50000",
                "cpuset.cpus=0-1",
                "pids.max=32",
                "blkio.weight=500",
                "blkio.throttle.read_bps_device=8:0 600",
                "hugetlb.2MB.limit_in_bytes=209715200",
            ]
        );
        assert_eq!(
            lines(&v2(&all).unwrap()),
            [
                "memory.max=1048576",
                "memory.swap.max=1048576",
                "memory.low=524288",
                "cpu.weight=39",
                "cpu.max=50000 100000",
                "cpuset.cpus=0-1",
                "pids.max=32",
                "io.weight=4950",
                "io.max=8:0 rbps=600",
                "hugetlb.2MB.max=209715200",
            ]
        );
    }

    #[test]
    fn no_limit_is_said_so() {
        let none = resources(r#"{"memory":{"limit":-1,"swap":-1},"pids":{"limit":-1},"cpu":{"quota":-1}}"#);
        assert_eq!(
            lines(&v2(&none).unwrap()),
            ["memory.max=max", "memory.swap.max=max", "cpu.max=max 100000", "pids.max=max"]
        );
        assert_eq!(lines(&v1(&none).unwrap())[0], "memory.limit_in_bytes=-1");
        assert_eq!(lines(&v1(&resources("{}")).unwrap()), Vec::<String>::new());
    }

    #[test]
    fn what_a_version_lacks_is_refused() {
        assert!(v1(&resources(r#"{"unified":{"memory.high":"1"}}"#)).is_err());
        assert_eq!(lines(&v2(&resources(r#"{"unified":{"memory.high":"1"}}"#)).unwrap()), ["memory.high=1"]);
        for wrong in [
            r#"{"unified":{"../x.y":"1"}}"#,
            r#"{"memory":{"swap":5}}"#,
            r#"{"memory":{"swappiness":5}}"#,
            r#"{"cpu":{"realtimeRuntime":5}}"#,
            r#"{"hugepageLimits":[{"pageSize":"../2MB","limit":1}]}"#,
        ] {
            assert!(v2(&resources(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn rules_of_devices() {
        let of = |json: &str| device_lines(&serde_json::from_str(json).unwrap());
        assert_eq!(of(r#"{"allow":false,"access":"rwm"}"#), ["a"]);
        assert_eq!(of(r#"{"allow":true,"type":"c","major":10,"minor":229,"access":"rw"}"#), ["c 10:229 rw"]);
        assert_eq!(of(r#"{"allow":true,"type":"b","major":8}"#), ["b 8:* rwm"]);
        assert_eq!(of(r#"{"allow":true,"type":"a","access":"m"}"#), ["b *:* m", "c *:* m"]);
        let admitted = |json: &str| admitted(&serde_json::from_str::<Vec<DeviceRule>>(json).unwrap());
        let one =
            admitted(r#"[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":10,"minor":229}]"#);
        assert_eq!(one.unwrap().unwrap()[0], "c 10:229 rwm");
        assert!(admitted(r#"[{"allow":true,"access":"rwm"}]"#).unwrap().is_none());
        assert!(admitted(r#"[{"allow":false,"type":"c","major":10,"minor":229}]"#).is_err());
    }
}
