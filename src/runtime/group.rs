//! The cgroup of a sandbox that runs, from outside: what it uses, its limits, its processes, and stopping it in its
//! tracks. It is found by its name, and nothing is made.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::child::cgroup;
use super::child::limits::{self, Setting};
use super::spec::Resources;

/// The directories of a sandbox's cgroup.
#[derive(Debug)]
pub struct Group {
    directories: Vec<(&'static str, OwnedFd)>,
}

/// What the processes of a group use, as far as this machine counts it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Nanoseconds of processor time since the beginning.
    pub cpu: u64,
    /// Bytes, without what the kernel would drop from its cache first.
    pub memory: u64,
    /// None if there is no limit.
    pub memory_limit: Option<u64>,
    pub pids: u64,
    pub pids_limit: Option<u64>,
    /// Bytes from and to disks.
    pub read: u64,
    pub written: u64,
}

/// Why limits of a running sandbox were not changed.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    #[error("the limit `{0}` cannot be had on this machine")]
    Missing(&'static str),
    #[error("cannot set the limit `{name}` to `{value}`")]
    Set {
        name: &'static str,
        value: String,
        #[source]
        source: io::Error,
    },
}

impl Group {
    /// The group that [`super::CgroupSpec`] with this parent and id made; nothing if there is none, as for an ordinary
    /// user without a part of the hierarchy of its own. It is elsewhere if another runtime made it.
    pub fn find(parent: Option<&str>, foreign: bool, id: &str) -> Option<Self> {
        let directories = cgroup::find(&names(parent), foreign, id);
        (!directories.is_empty()).then_some(Self { directories })
    }

    /// Removes what a container of another runtime left, for who knows that nobody runs it or is about to.
    pub fn remove_foreign(parent: Option<&str>, id: &str) {
        cgroup::remove_foreign(&names(parent), id);
    }

    fn of(&self, controller: &str) -> Option<&OwnedFd> {
        let found = self.directories.iter().find(|(name, _)| name.is_empty() || *name == controller);
        found.map(|(_, directory)| directory)
    }

    fn is_v2(&self) -> bool {
        self.directories.first().is_some_and(|(name, _)| name.is_empty())
    }

    /// Stops all of its processes where they are.
    ///
    /// # Errors
    /// What the kernel gives; then they go on.
    pub fn freeze(&self) -> io::Result<()> {
        let frozen = if self.is_v2() { self.freeze_v2() } else { self.freeze_v1() };
        if frozen.is_err() {
            let _ = self.thaw();
        }
        frozen
    }

    fn freeze_v2(&self) -> io::Result<()> {
        let group = self.freezer()?;
        cgroup::write(group, "cgroup.freeze", "1")?;
        wait_until(|| Ok(cgroup::read(group, "cgroup.events")?.lines().any(|line| line == "frozen 1")))
    }

    fn freeze_v1(&self) -> io::Result<()> {
        let group = self.freezer()?;
        // A process that forks quickly can keep a group from being frozen; asking again helps.
        wait_until(|| {
            cgroup::write(group, "freezer.state", "FROZEN")?;
            Ok(cgroup::read(group, "freezer.state")? == "FROZEN")
        })
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// What the kernel gives.
    pub fn thaw(&self) -> io::Result<()> {
        let (file, value) = if self.is_v2() { ("cgroup.freeze", "0") } else { ("freezer.state", "THAWED") };
        cgroup::write(self.freezer()?, file, value)
    }

    /// Whether they are stopped.
    pub fn is_frozen(&self) -> bool {
        let (file, value) =
            if self.is_v2() { ("cgroup.freeze", "1") } else { ("freezer.self_freezing", "1") };
        self.freezer().and_then(|group| cgroup::read(group, file)).is_ok_and(|text| text == value)
    }

    fn freezer(&self) -> io::Result<&OwnedFd> {
        self.of("freezer").ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))
    }

    /// The numbers of its processes, in order.
    ///
    /// # Errors
    /// What the kernel gives.
    pub fn processes(&self) -> io::Result<Vec<i32>> {
        let group = self.of("pids").or_else(|| self.directories.first().map(|(_, group)| group));
        let Some(group) = group else { return Ok(Vec::new()) };
        let text = cgroup::read(group, "cgroup.procs")?;
        let mut pids: Vec<i32> = text.lines().filter_map(|line| line.parse().ok()).collect();
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Kills them, those too that are stopped.
    pub fn kill(&self) {
        for (_, group) in self.directories.iter().take(1) {
            cgroup::kill_all(group);
        }
        let _ = self.thaw();
    }

    /// How often the kernel killed one of them for want of memory.
    pub fn oom_kills(&self) -> u64 {
        self.of("memory").map_or(0, cgroup::oom_kills)
    }

    /// What they use.
    pub fn usage(&self) -> Usage {
        if self.is_v2() { self.usage_v2() } else { self.usage_v1() }
    }

    fn usage_v1(&self) -> Usage {
        let number = |controller, file| self.number(controller, file);
        let cache = self.field("memory", "memory.stat", "total_inactive_file").unwrap_or(0);
        let memory = number("memory", "memory.usage_in_bytes").unwrap_or(0);
        // No limit is the largest multiple of a page.
        let limit = number("memory", "memory.limit_in_bytes").filter(|limit| *limit < 1 << 62);
        let (mut read, mut written) = (0, 0);
        for file in ["blkio.throttle.io_service_bytes", "blkio.bfq.io_service_bytes"] {
            let text = self.text("blkio", file);
            let sum = |kind: &str| -> u64 {
                let of = |line: &str| {
                    let mut fields = line.split(' ');
                    (fields.nth(1)? == kind).then(|| fields.next()?.parse::<u64>().ok()).flatten()
                };
                text.lines().filter_map(of).sum()
            };
            (read, written) = (sum("Read"), sum("Write"));
            if read + written > 0 {
                break;
            }
        }
        Usage {
            cpu: number("cpuacct", "cpuacct.usage").unwrap_or(0),
            memory: memory.saturating_sub(cache),
            memory_limit: limit,
            pids: number("pids", "pids.current").unwrap_or(0),
            pids_limit: number("pids", "pids.max"),
            read,
            written,
        }
    }

    fn usage_v2(&self) -> Usage {
        let cache = self.field("memory", "memory.stat", "inactive_file").unwrap_or(0);
        let io = self.text("io", "io.stat");
        let sum = |key: &str| -> u64 {
            let fields = io.lines().flat_map(|line| line.split(' '));
            fields.filter_map(|field| field.strip_prefix(key)?.parse::<u64>().ok()).sum()
        };
        Usage {
            cpu: self.field("cpu", "cpu.stat", "usage_usec").unwrap_or(0).saturating_mul(1000),
            memory: self.number("memory", "memory.current").unwrap_or(0).saturating_sub(cache),
            memory_limit: self.number("memory", "memory.max"),
            pids: self.number("pids", "pids.current").unwrap_or(0),
            pids_limit: self.number("pids", "pids.max"),
            read: sum("rbytes="),
            written: sum("wbytes="),
        }
    }

    fn text(&self, controller: &str, file: &str) -> String {
        self.of(controller).and_then(|group| cgroup::read(group, file).ok()).unwrap_or_default()
    }

    fn number(&self, controller: &str, file: &str) -> Option<u64> {
        self.text(controller, file).parse().ok()
    }

    fn field(&self, controller: &str, file: &str, name: &str) -> Option<u64> {
        let text = self.text(controller, file);
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
    }

    /// Sets what `resources` states, and leaves the rest as it is.
    ///
    /// # Errors
    /// See [`UpdateError`]. What was set before the one that failed stays set.
    pub fn update(&self, resources: &Resources) -> Result<(), UpdateError> {
        let mut settings = if self.is_v2() { limits::v2(resources) } else { limits::v1(resources) };
        // Memory alone may never be more than memory with swap: which of the two can be written first depends on
        // whether they grow.
        let at = |file: &str| settings.iter().position(|setting| setting.file == file);
        if let (Some(memory), Some(both)) = (at("memory.limit_in_bytes"), at("memory.memsw.limit_in_bytes"))
            && let Some(now) = self.number("memory", "memory.memsw.limit_in_bytes")
            && settings[memory].value.parse::<u64>().map_or(true, |wanted| wanted > now)
        {
            settings.swap(memory, both);
        }
        settings.iter().try_for_each(|setting| self.set(setting))
    }

    fn set(&self, setting: &Setting) -> Result<(), UpdateError> {
        let missing = || UpdateError::Missing(setting.name);
        let group = self.of(setting.controller).ok_or_else(missing)?;
        match cgroup::apply(group, setting) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(missing()),
            Err(source) => Err(UpdateError::Set { name: setting.name, value: setting.value.clone(), source }),
        }
    }
}

/// Waits for what takes a moment; two seconds at most.
fn names(parent: Option<&str>) -> Vec<&str> {
    parent.unwrap_or_default().split('/').filter(|name| !name.is_empty()).collect()
}

fn wait_until(mut done: impl FnMut() -> io::Result<bool>) -> io::Result<()> {
    for _ in 0..1000 {
        if done()? {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Err(io::ErrorKind::TimedOut.into())
}
