//! A configuration as what the container's processes shall do: pure, and the place where is refused by name what is
//! not done.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::config::{self, Bundle, CapabilitySets, Hook, Linux, NamespaceKind};
use super::error::BundleError;
use super::hooks::HookState;
use super::mount::{self, MountPlan, Propagation};
use crate::runtime::capability::Capabilities;
use crate::runtime::plan::Bytes;
use crate::runtime::spec::Device;

/// What one launcher is told.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Task {
    Create(Box<CreatePlan>),
    Exec(Box<JoinPlan>),
}

/// A container, up to the moment when it waits for `start`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct CreatePlan {
    /// An absolute path of the host.
    pub rootfs: String,
    pub read_only: bool,
    /// Of everything that is mounted, before it is changed by each mount's own words.
    pub base: Propagation,
    /// Of the root in the end.
    pub propagation: Option<Propagation>,
    pub no_pivot: bool,
    pub hostname: String,
    pub domainname: String,
    pub namespaces: NamespacesPlan,
    pub mounts: Vec<MountPlan>,
    /// Whether `/dev` is the container's own, so that devices are made there.
    pub own_dev: bool,
    pub devices: Vec<Device>,
    pub masked: Vec<String>,
    pub protected: Vec<String>,
    /// Paths below `/proc/sys`, and values.
    pub sysctls: Vec<(String, String)>,
    /// Name below `/sys/fs/cgroup` (none on version 2) and path of the container's groups.
    pub groups: Vec<(String, String)>,
    pub unified: bool,
    /// Whether there are hooks to run when the tree stands.
    pub runtime_hooks: bool,
    pub create_container: Vec<Hook>,
    pub start_container: Vec<Hook>,
    pub state: HookState,
    pub process: ProcessPlan,
    /// Indices of descriptors: the FIFO that `start` writes to, and where failures after that go.
    pub start: usize,
    pub failure: usize,
}

/// Which namespaces are made, and which are joined.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct NamespacesPlan {
    /// `CLONE_NEW*` of the new ones.
    pub new: i32,
    /// Descriptors by index, with their kinds, in the order in which they are joined.
    pub joined: Vec<(usize, i32)>,
    /// Lines of `timens_offsets`.
    pub offsets: Vec<String>,
}

/// A process in a container that is there.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct JoinPlan {
    /// The container's first process, as an index of a pidfd.
    pub target: usize,
    /// `CLONE_NEW*` of the namespaces that differ from ours.
    pub namespaces: i32,
    pub process: ProcessPlan,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ProcessPlan {
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub cwd: String,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub umask: u32,
    pub capabilities: Sets,
    pub no_new_privileges: bool,
    /// Number, soft and hard limit, and the name.
    pub rlimits: Vec<(u32, u64, u64, String)>,
    pub oom_score_adj: Option<i32>,
    pub apparmor: Option<String>,
    pub seccomp: Option<Bytes>,
    pub personality: Option<u64>,
    pub scheduler: Option<SchedulerPlan>,
    /// As `ioprio_set` takes it.
    pub io_priority: Option<i32>,
    pub stdio: StdioPlan,
    /// Descriptors by index that the program gets from 3 on.
    pub preserved: Vec<usize>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sets {
    pub bounding: u64,
    pub effective: u64,
    pub inheritable: u64,
    pub permitted: u64,
    pub ambient: u64,
}

/// `struct sched_attr`, but its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SchedulerPlan {
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
}

/// Descriptors by index.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) enum StdioPlan {
    Fds([usize; 3]),
    /// A new terminal, whose outer end is sent to a socket.
    Terminal {
        console: usize,
        rows: u16,
        columns: u16,
    },
}

/// Devices of every container: the specification's list (`config-linux.md`, Default Devices).
const DEFAULT_DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// What names its namespace to `setns`.
pub(super) fn clone_flag(kind: NamespaceKind) -> i32 {
    match kind {
        NamespaceKind::User => libc::CLONE_NEWUSER,
        NamespaceKind::Ipc => libc::CLONE_NEWIPC,
        NamespaceKind::Uts => libc::CLONE_NEWUTS,
        NamespaceKind::Network => libc::CLONE_NEWNET,
        NamespaceKind::Pid => libc::CLONE_NEWPID,
        NamespaceKind::Cgroup => libc::CLONE_NEWCGROUP,
        // Not in every C library; `linux/sched.h` has it.
        NamespaceKind::Time => 0x80,
        NamespaceKind::Mount => libc::CLONE_NEWNS,
    }
}

/// Whether a configuration makes sense to this runtime, as far as that shows without making anything.
///
/// # Errors
/// The first property that is wrong or not supported.
pub fn check_all(bundle: &Bundle, folder: &Path) -> Result<(), BundleError> {
    check(bundle)?;
    let state = HookState {
        oci_version: bundle.oci_version.clone(),
        id: String::new(),
        status: String::new(),
        pid: 0,
        bundle: folder.to_owned(),
        annotations: bundle.annotations.clone(),
    };
    let prepared = Prepared {
        no_pivot: false,
        groups: Vec::new(),
        unified: false,
        joined: Vec::new(),
        stdio: StdioPlan::Fds([0; 3]),
        preserved: Vec::new(),
        seccomp: None,
        state,
        start: 0,
        failure: 0,
    };
    create(bundle, folder, prepared).map(drop)
}

/// What a `create` prepares besides the configuration.
pub(super) struct Prepared {
    pub no_pivot: bool,
    pub groups: Vec<(String, String)>,
    pub unified: bool,
    pub joined: Vec<(usize, i32)>,
    pub stdio: StdioPlan,
    pub preserved: Vec<usize>,
    pub seccomp: Option<Bytes>,
    pub state: HookState,
    pub start: usize,
    pub failure: usize,
}

/// Refuses what cannot be done, before anything is made.
///
/// # Errors
/// The first property that is wrong or not supported.
pub(super) fn check(bundle: &Bundle) -> Result<(), BundleError> {
    let unsupported = BundleError::unsupported;
    let major = bundle.oci_version.split('.').next().unwrap_or_default();
    if major != "1" {
        return Err(BundleError::invalid("ociVersion", format!("`{}` is not 1.x", bundle.oci_version)));
    }
    if bundle.vm.is_some() || bundle.windows.is_some() || bundle.solaris.is_some() {
        return Err(unsupported("vm, windows or solaris", "containers of Linux are what there is"));
    }
    let linux = &bundle.linux;
    let refused = [
        ("linux.intelRdt", linux.intel_rdt.is_some()),
        ("linux.memoryPolicy", linux.memory_policy.is_some()),
        ("linux.netDevices", linux.net_devices.is_some()),
        ("linux.resources.rdma", linux.resources.as_ref().is_some_and(|r| r.rdma.is_some())),
    ];
    if let Some((property, _)) = refused.into_iter().find(|(_, there)| *there) {
        return Err(unsupported(property, "it is not implemented"));
    }
    if !linux.mount_label.is_empty() {
        return Err(unsupported("linux.mountLabel", "no SELinux labels are set"));
    }
    check_namespaces(linux)?;
    if linux
        .resources
        .as_ref()
        .and_then(|r| r.memory.kernel_tcp.or(r.memory.kernel))
        .is_some_and(|limit| limit > 0)
    {
        return Err(unsupported("linux.resources.memory.kernel", "kernels no longer limit it apart"));
    }
    check_sysctls(bundle)
}

fn check_namespaces(linux: &Linux) -> Result<(), BundleError> {
    for (place, namespace) in linux.namespaces.iter().enumerate() {
        if linux.namespaces[..place].iter().any(|other| other.kind == namespace.kind) {
            return Err(BundleError::invalid(
                "linux.namespaces",
                format!("`{:?}` is there twice", namespace.kind),
            ));
        }
        if !namespace.path.is_empty() && !namespace.path.starts_with('/') {
            return Err(BundleError::invalid("linux.namespaces", "paths are absolute"));
        }
    }
    match has(linux, NamespaceKind::Mount) {
        Some("") => {}
        Some(_) => {
            return Err(BundleError::unsupported(
                "linux.namespaces",
                "a container's mounts are made in a namespace of its own",
            ));
        }
        None => return Err(BundleError::invalid("linux.namespaces", "a new mount namespace is needed")),
    }
    let mapped = !linux.uid_mappings.is_empty() || !linux.gid_mappings.is_empty();
    match has(linux, NamespaceKind::User) {
        Some("") if linux.uid_mappings.is_empty() || linux.gid_mappings.is_empty() => Err(
            BundleError::invalid("linux.uidMappings", "a new user namespace needs mappings of both kinds"),
        ),
        None if mapped => {
            Err(BundleError::invalid("linux.uidMappings", "there is no user namespace to map ids into"))
        }
        _ if !linux.time_offsets.is_empty() && has(linux, NamespaceKind::Time) != Some("") => {
            Err(BundleError::invalid("linux.timeOffsets", "there is no new time namespace"))
        }
        _ => Ok(()),
    }
}

/// The path of a namespace that is asked for; an empty one is new.
pub(super) fn has(linux: &Linux, kind: NamespaceKind) -> Option<&str> {
    linux.namespaces.iter().find(|namespace| namespace.kind == kind).map(|namespace| namespace.path.as_str())
}

/// Whether a namespace is asked for and is not the host's by its path: what is set in it stays in it.
fn is_own(linux: &Linux, kind: NamespaceKind, name: &str) -> bool {
    has(linux, kind).is_some_and(|path| {
        path.is_empty() || {
            let host = std::fs::metadata(format!("/proc/self/ns/{name}")).ok();
            let theirs = std::fs::metadata(path).ok();
            use std::os::unix::fs::MetadataExt;
            match (host, theirs) {
                (Some(host), Some(theirs)) => (host.dev(), host.ino()) != (theirs.dev(), theirs.ino()),
                _ => false,
            }
        }
    })
}

/// A setting of the kernel is only set where it is the container's own.
fn check_sysctls(bundle: &Bundle) -> Result<(), BundleError> {
    const IPC: [&str; 8] =
        ["msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced"];
    let linux = &bundle.linux;
    for name in linux.sysctl.keys() {
        let path = sysctl_path(name);
        let wrong = |why: &str| Err(BundleError::invalid(format!("linux.sysctl[{name}]"), why));
        if path.split('/').any(|part| part.is_empty() || part == "." || part == "..") || path.contains('\0') {
            return wrong("it is no setting");
        }
        let ipc = path.starts_with("fs/mqueue/")
            || path.strip_prefix("kernel/").is_some_and(|name| IPC.contains(&name));
        if ipc {
            if !is_own(linux, NamespaceKind::Ipc, "ipc") {
                return wrong("it is not allowed without an ipc namespace of the container's own");
            }
        } else if path.starts_with("net/") {
            if !is_own(linux, NamespaceKind::Network, "net") {
                return wrong("it is not allowed in the network namespace of the host");
            }
        } else if matches!(path.as_str(), "kernel/domainname" | "kernel/hostname") {
            if !is_own(linux, NamespaceKind::Uts, "uts") {
                return wrong("it is not allowed in the UTS namespace of the host");
            }
            if path == "kernel/hostname" {
                return wrong("it is in conflict with `hostname`");
            }
        } else {
            return wrong("it belongs to no namespace of the container's own");
        }
    }
    Ok(())
}

/// `sysctl(8)`: dots or slashes between names, whichever comes first; the other one is then part of names.
fn sysctl_path(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name.as_bytes()[at] == b'.' => name
            .chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect(),
        _ => name.to_owned(),
    }
}

/// The plan of a container. [`check`] was asked before.
///
/// # Errors
/// As [`check`].
pub(super) fn create(bundle: &Bundle, folder: &Path, prepared: Prepared) -> Result<CreatePlan, BundleError> {
    let linux = &bundle.linux;
    let root = bundle.root.as_ref().ok_or_else(|| BundleError::invalid("root", "it is missing"))?;
    let rootfs = folder.join(&root.path);
    let rootfs = rootfs.to_str().ok_or_else(|| BundleError::invalid("root.path", "paths are UTF-8"))?;
    let process = bundle.process.as_ref().ok_or_else(|| BundleError::invalid("process", "it is missing"))?;
    let propagation = match linux.rootfs_propagation.as_str() {
        "" => None,
        name => Some(Propagation::named(name).ok_or_else(|| {
            BundleError::invalid("linux.rootfsPropagation", format!("`{name}` is no kind of propagation"))
        })?),
    };
    let base = match propagation {
        // Peers of the host's mounts stay peers only where that is asked for.
        Some(asked) if asked.kind == libc::MS_SHARED => asked,
        Some(asked) if asked.kind == libc::MS_PRIVATE => asked,
        _ => Propagation { kind: libc::MS_SLAVE, recursive: true },
    };
    let mut mounts = Vec::new();
    for mount in &bundle.mounts {
        mounts.push(mount::plan(mount, folder)?);
    }
    let own_dev =
        !mounts.iter().any(|mount| mount.target == "/dev" && matches!(mount.what, mount::What::Bind { .. }));
    let mut devices: Vec<Device> =
        DEFAULT_DEVICES.iter().map(|(name, major, minor)| default_device(name, *major, *minor)).collect();
    for asked in &linux.devices {
        let device = device(asked)?;
        devices.retain(|other| other.path != device.path);
        devices.push(device);
    }
    let new = linux
        .namespaces
        .iter()
        .filter(|namespace| namespace.path.is_empty())
        .fold(0, |flags, namespace| flags | clone_flag(namespace.kind));
    let offsets = linux
        .time_offsets
        .iter()
        .map(|(clock, offset)| match clock.as_str() {
            "monotonic" | "boottime" => Ok(format!("{clock} {} {}", offset.secs, offset.nanosecs)),
            _ => Err(BundleError::invalid(
                "linux.timeOffsets",
                format!("`{clock}` is no clock of a namespace"),
            )),
        })
        .collect::<Result<_, _>>()?;
    let hooks = bundle.hooks.clone().unwrap_or_default();
    let paths = |paths: &[String], property: &str| -> Result<Vec<String>, BundleError> {
        let wrong = |path: &String| !path.starts_with('/') || path.contains('\0');
        match paths.iter().find(|path| wrong(path)) {
            Some(path) => Err(BundleError::invalid(property, format!("`{path}` is not absolute"))),
            None => Ok(paths.to_vec()),
        }
    };
    Ok(CreatePlan {
        rootfs: rootfs.to_owned(),
        read_only: root.readonly,
        base,
        propagation,
        no_pivot: prepared.no_pivot,
        hostname: bundle.hostname.clone(),
        domainname: bundle.domainname.clone(),
        namespaces: NamespacesPlan { new, joined: prepared.joined, offsets },
        mounts,
        own_dev,
        devices,
        masked: paths(&linux.masked_paths, "linux.maskedPaths")?,
        protected: paths(&linux.readonly_paths, "linux.readonlyPaths")?,
        sysctls: linux.sysctl.iter().map(|(name, value)| (sysctl_path(name), value.clone())).collect(),
        groups: prepared.groups,
        unified: prepared.unified,
        runtime_hooks: !hooks.prestart.is_empty() || !hooks.create_runtime.is_empty(),
        create_container: hooks.create_container,
        start_container: hooks.start_container,
        state: prepared.state,
        process: self::process(
            process,
            linux.personality.as_ref(),
            prepared.seccomp,
            prepared.stdio,
            prepared.preserved,
        )?,
        start: prepared.start,
        failure: prepared.failure,
    })
}

fn default_device(name: &str, major: u32, minor: u32) -> Device {
    Device {
        path: format!("/dev/{name}"),
        host: None,
        block: false,
        major,
        minor,
        mode: 0o666,
        uid: 0,
        gid: 0,
        access: String::new(),
        required: true,
    }
}

fn device(asked: &config::LinuxDevice) -> Result<Device, BundleError> {
    let wrong = |why: &str| BundleError::invalid(format!("linux.devices[{}]", asked.path), why);
    let path = crate::root::clean(&asked.path);
    if !asked.path.starts_with('/') || path == "/" || path.contains('\0') {
        return Err(wrong("the path is absolute"));
    }
    let block = match asked.kind.as_str() {
        "b" => true,
        "c" | "u" => false,
        "p" => return Err(BundleError::unsupported(format!("linux.devices[{path}]"), "FIFOs are not made")),
        _ => return Err(wrong("the type is `b`, `c`, `u` or `p`")),
    };
    let number = |number: i64| u32::try_from(number).map_err(|_| wrong("its number is out of range"));
    Ok(Device {
        path,
        host: None,
        block,
        major: number(asked.major)?,
        minor: number(asked.minor)?,
        mode: asked.file_mode.unwrap_or(0o666) & 0o7777,
        uid: asked.uid.unwrap_or(0),
        gid: asked.gid.unwrap_or(0),
        access: String::new(),
        required: true,
    })
}

/// The plan of a process.
///
/// # Errors
/// What is wrong with it, by the property's name.
pub(super) fn process(
    process: &config::Process,
    personality: Option<&config::Personality>,
    seccomp: Option<Bytes>,
    stdio: StdioPlan,
    preserved: Vec<usize>,
) -> Result<ProcessPlan, BundleError> {
    let invalid = |property: &str, why: String| BundleError::invalid(property, why);
    if process.args.first().is_none_or(String::is_empty) {
        return Err(invalid("process.args", "no program is given".to_owned()));
    }
    if !process.cwd.starts_with('/') {
        return Err(invalid("process.cwd", format!("`{}` is not an absolute path", process.cwd)));
    }
    let texts = process.args.iter().chain(&process.env).chain([&process.cwd]);
    if texts.into_iter().any(|text| text.contains('\0')) {
        return Err(invalid("process", "a text holds a NUL byte".to_owned()));
    }
    if let Some(wrong) = process.env.iter().find(|variable| variable.find('=').is_none_or(|at| at == 0)) {
        return Err(invalid("process.env", format!("`{wrong}` is no `NAME=value`")));
    }
    if !process.selinux_label.is_empty() {
        return Err(BundleError::unsupported("process.selinuxLabel", "no SELinux labels are set"));
    }
    if process.exec_cpu_affinity.is_some() {
        return Err(BundleError::unsupported("process.execCPUAffinity", "it is not implemented"));
    }
    let mut rlimits: Vec<(u32, u64, u64, String)> = Vec::new();
    for limit in &process.rlimits {
        let name = limit.kind.strip_prefix("RLIMIT_").unwrap_or_default().to_ascii_lowercase();
        let number = crate::runtime::plan::rlimit_number(&name)
            .ok_or_else(|| invalid("process.rlimits", format!("`{}` is no limit", limit.kind)))?;
        if rlimits.iter().any(|(other, ..)| *other == number) {
            return Err(invalid("process.rlimits", format!("`{}` is there twice", limit.kind)));
        }
        rlimits.push((number, limit.soft, limit.hard, limit.kind.clone()));
    }
    let personality = match personality {
        None => None,
        Some(asked) if !asked.flags.is_empty() => {
            return Err(invalid("linux.personality.flags", "the specification has none".to_owned()));
        }
        Some(asked) => Some(match asked.domain.as_str() {
            "LINUX" => 0,
            "LINUX32" => 8,
            other => return Err(invalid("linux.personality.domain", format!("`{other}` is unknown"))),
        }),
    };
    if process.oom_score_adj.is_some_and(|score| !(-1000..=1000).contains(&score)) {
        return Err(invalid("process.oomScoreAdj", "it is from -1000 to 1000".to_owned()));
    }
    Ok(ProcessPlan {
        args: process.args.clone(),
        env: process.env.clone(),
        cwd: process.cwd.clone(),
        uid: process.user.uid,
        gid: process.user.gid,
        groups: process.user.additional_gids.clone(),
        umask: process.user.umask.unwrap_or(0o022) & 0o777,
        capabilities: process.capabilities.as_ref().map(sets).unwrap_or_default(),
        no_new_privileges: process.no_new_privileges,
        rlimits,
        oom_score_adj: process.oom_score_adj,
        apparmor: Some(process.apparmor_profile.clone()).filter(|profile| !profile.is_empty()),
        seccomp,
        personality,
        scheduler: process.scheduler.as_ref().map(scheduler).transpose()?,
        io_priority: process.io_priority.as_ref().map(io_priority).transpose()?,
        stdio,
        preserved,
    })
}

/// A name that no kernel of ours has is left out, as the specification allows; [`unknown_capabilities`] tells of it.
fn sets(sets: &CapabilitySets) -> Sets {
    let bits = |names: &[String]| {
        names.iter().filter_map(|name| Capabilities::named(name)).fold(0, |set, one| set | one.0)
    };
    Sets {
        bounding: bits(&sets.bounding),
        effective: bits(&sets.effective),
        inheritable: bits(&sets.inheritable),
        permitted: bits(&sets.permitted),
        ambient: bits(&sets.ambient),
    }
}

/// Names of capabilities that are not known.
pub(super) fn unknown_capabilities(process: &config::Process) -> Vec<String> {
    let Some(sets) = &process.capabilities else { return Vec::new() };
    let all = [&sets.bounding, &sets.effective, &sets.inheritable, &sets.permitted, &sets.ambient];
    let mut unknown: Vec<String> =
        all.into_iter().flatten().filter(|name| Capabilities::named(name).is_none()).cloned().collect();
    unknown.sort();
    unknown.dedup();
    unknown
}

fn scheduler(asked: &config::Scheduler) -> Result<SchedulerPlan, BundleError> {
    let invalid = |why: String| BundleError::invalid("process.scheduler", why);
    let policy = match asked.policy.as_str() {
        "SCHED_OTHER" => 0,
        "SCHED_FIFO" => 1,
        "SCHED_RR" => 2,
        "SCHED_BATCH" => 3,
        "SCHED_ISO" => 4,
        "SCHED_IDLE" => 5,
        "SCHED_DEADLINE" => 6,
        other => return Err(invalid(format!("`{other}` is no policy"))),
    };
    let flags = asked.flags.iter().try_fold(0, |flags, name| {
        Ok(flags
            | match name.as_str() {
                "SCHED_FLAG_RESET_ON_FORK" => 0x01,
                "SCHED_FLAG_RECLAIM" => 0x02,
                "SCHED_FLAG_DL_OVERRUN" => 0x04,
                "SCHED_FLAG_KEEP_POLICY" => 0x08,
                "SCHED_FLAG_KEEP_PARAMS" => 0x10,
                "SCHED_FLAG_UTIL_CLAMP_MIN" => 0x20,
                "SCHED_FLAG_UTIL_CLAMP_MAX" => 0x40,
                other => return Err(invalid(format!("`{other}` is no flag"))),
            })
    })?;
    if !(-20..=19).contains(&asked.nice) {
        return Err(invalid("`nice` is from -20 to 19".to_owned()));
    }
    let config::Scheduler { nice, priority, runtime, deadline, period, .. } = *asked;
    Ok(SchedulerPlan { policy, flags, nice, priority, runtime, deadline, period })
}

fn io_priority(asked: &config::IoPriority) -> Result<i32, BundleError> {
    let invalid = |why: &str| BundleError::invalid("process.ioPriority", why);
    let class = match asked.class.as_str() {
        "IOPRIO_CLASS_RT" => 1,
        "IOPRIO_CLASS_BE" => 2,
        "IOPRIO_CLASS_IDLE" => 3,
        _ => return Err(invalid("the class is `IOPRIO_CLASS_RT`, `_BE` or `_IDLE`")),
    };
    let level = i32::try_from(asked.priority).ok().filter(|level| (0..=7).contains(level));
    Ok(class << 13 | level.ok_or_else(|| invalid("the priority is from 0 to 7"))?)
}

#[cfg(test)]
mod tests;
