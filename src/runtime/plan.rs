//! What the sandbox's own processes shall do, decided before any of them exists.
//!
//! A pure function of the caller's [`Sandbox`]: no system call is made here, and what comes out is
//! compared as text in tests. Descriptors become indices into the list that travels with the plan,
//! bytes become ranges of one block.

use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use super::capability::Capabilities;
use super::seccomp::Filters;
use super::spec::{CgroupSpec, Device, Io, MountSource, Network, ProcessSpec, Resources, Rlimit, Sandbox};
use super::sys::{ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY};
use super::wire::Parcel;
use crate::root;

/// Docker's, for a process whose image says nothing.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Everything that the launcher half and the first process are told.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    pub hostname: String,
    pub new_network: bool,
    /// The root file system, as an index of a descriptor.
    pub rootfs: usize,
    pub read_only: bool,
    pub steps: Vec<Step>,
    pub confine_paths: bool,
    pub seccomp: Option<Bytes>,
    pub cgroup: Option<Cgroup>,
    pub stdio: Stdio,
    pub process: Process,
}

/// A range of the block that travels with the plan.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Bytes {
    pub start: usize,
    pub length: usize,
}

/// One thing to do in the tree, in order.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Step {
    /// `attributes` are `MOUNT_ATTR_*`. With `strict` no link is followed to `target`.
    Mount { target: String, kind: Kind, attributes: u64, strict: bool },
    /// A character device in `/dev`, or the host's where devices cannot be made.
    Device { name: String, major: u32, minor: u32 },
    /// A device that not every sandbox has, at a path below `/dev`.
    Node(Device),
    /// A link in `/dev`.
    Link { name: String, to: String },
}

/// What is mounted.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Kind {
    /// Only its mount point: the first process mounts it, since it shows that process's namespace.
    Proc,
    Sys,
    Dev,
    Pts,
    Mqueue,
    Tmpfs {
        size: Option<u64>,
        mode: Option<u32>,
    },
    Handle(usize),
    File {
        contents: Bytes,
        mode: u32,
        uid: u32,
        gid: u32,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Stdio {
    Fds([usize; 3]),
    Terminal { rows: u16, columns: u16 },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Cgroup {
    pub id: String,
    /// Names of groups from the root down.
    pub parent: Vec<String>,
    pub resources: Resources,
    pub limit_devices: bool,
    /// What the devices controller admits besides Docker's devices.
    pub devices: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Process {
    pub args: Vec<String>,
    /// `NAME=value`, each name once.
    pub env: Vec<String>,
    pub cwd: String,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub umask: u32,
    pub capabilities: Capabilities,
    pub no_new_privileges: bool,
    pub ambient: bool,
    pub rlimits: Vec<Limit>,
}

/// A resource limit by the kernel's number.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Limit {
    pub name: String,
    pub resource: u32,
    pub soft: u64,
    pub hard: u64,
}

/// Paths of `/proc` and `/sys` that tell of the host, or let it be changed: Docker's lists.
pub(super) const PROC_MASKED: [&str; 10] = [
    "acpi",
    "asound",
    "interrupts",
    "kcore",
    "keys",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
    "timer_stats",
];
pub(super) const PROC_READ_ONLY: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];
pub(super) const SYS_MASKED: [&str; 2] = ["firmware", "devices/virtual/powercap"];

/// Why a sandbox cannot be: the caller's own mistakes.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlanError {
    #[error("no program to run")]
    NoProgram,
    #[error("an argument of `{0}` holds a NUL byte")]
    NulInArguments(String),
    #[error("invalid environment variable name `{0}`")]
    Variable(String),
    #[error("the working directory `{0}` is not an absolute path")]
    WorkingDirectory(String),
    #[error("cannot mount at `{0}`: targets are absolute paths, not `/` and not below `/proc`")]
    Target(String),
    #[error("invalid host name `{0}`")]
    Hostname(String),
    #[error("invalid cgroup id `{0}`")]
    CgroupId(String),
    #[error("invalid cgroup parent `{0}`: it is a path of names without `..`")]
    CgroupParent(String),
    #[error("unknown limit `{0}`")]
    Rlimit(String),
    #[error("cannot make the device `{0}`: devices are made below `/dev`")]
    Device(String),
    #[error("no system call filter is known for this architecture")]
    Architecture,
}

/// Turns a sandbox into its plan and what travels with it.
pub(super) fn plan(sandbox: Sandbox, filters: &Filters) -> Result<(Plan, Parcel), PlanError> {
    let mut parcel = Parcel::default();
    let tty = matches!(sandbox.io, Io::Terminal { .. });
    if sandbox.hostname.is_empty() || sandbox.hostname.len() > 64 || sandbox.hostname.contains('\0') {
        return Err(PlanError::Hostname(sandbox.hostname));
    }
    let process = process(&sandbox, tty)?;
    let cgroup = sandbox.cgroup.as_ref().map(|spec| cgroup(spec, &sandbox)).transpose()?;
    let mut steps = standard_steps(sandbox.security.confine_paths, sandbox.shm_size);
    for device in sandbox.devices {
        let path = root::clean(&device.path);
        if !device.path.starts_with('/') || !path.starts_with("/dev/") || path.contains('\0') {
            return Err(PlanError::Device(device.path));
        }
        steps.push(Step::Node(Device { path, ..device }));
    }
    // As in BuildKit: a mount over `/etc` hides these files, and one over a file replaces it.
    let file_attributes = if sandbox.files.writable { 0 } else { ATTR_RDONLY };
    for (target, contents) in [
        ("/etc/hosts", &sandbox.files.hosts),
        ("/etc/resolv.conf", &sandbox.files.resolv_conf),
        ("/etc/hostname", &sandbox.files.hostname),
    ] {
        if let Some(contents) = contents {
            let kind = Kind::File { contents: parcel.add_bytes(contents), mode: 0o644, uid: 0, gid: 0 };
            let target = target.to_owned();
            steps.push(Step::Mount { target, kind, attributes: file_attributes, strict: false });
        }
    }
    for mount in sandbox.mounts {
        let target = root::clean(&mount.target);
        let in_proc = target == "/proc" || target.starts_with("/proc/");
        if !mount.target.starts_with('/') || target == "/" || in_proc || target.contains('\0') {
            return Err(PlanError::Target(mount.target));
        }
        let mut attributes = if mount.read_only { ATTR_RDONLY } else { 0 };
        if mount.inert {
            attributes |= ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC;
        }
        let kind = match mount.source {
            MountSource::Fd(fd) => Kind::Handle(parcel.add_fd(fd)),
            MountSource::Tmpfs { size, mode } => {
                attributes |= ATTR_NOSUID;
                Kind::Tmpfs { size, mode }
            }
            MountSource::File { contents, mode, uid, gid } => {
                Kind::File { contents: parcel.add_bytes(&contents), mode, uid, gid }
            }
        };
        steps.push(Step::Mount { target, kind, attributes, strict: false });
    }
    let seccomp = if sandbox.security.seccomp {
        let program = filters.get(sandbox.security.capabilities).ok_or(PlanError::Architecture)?;
        Some(parcel.add_bytes(&program))
    } else {
        None
    };
    let stdio = match sandbox.io {
        Io::Fds { stdin, stdout, stderr } => {
            Stdio::Fds([stdin, stdout, stderr].map(|fd: OwnedFd| parcel.add_fd(fd)))
        }
        Io::Terminal { rows, columns } => Stdio::Terminal { rows, columns },
    };
    let plan = Plan {
        hostname: sandbox.hostname,
        new_network: sandbox.network == Network::None,
        rootfs: parcel.add_fd(sandbox.rootfs),
        read_only: sandbox.read_only,
        steps,
        confine_paths: sandbox.security.confine_paths,
        seccomp,
        cgroup,
        stdio,
        process,
    };
    Ok((plan, parcel))
}

/// What every sandbox has: `/proc`, `/dev` and its devices, `/sys`.
fn standard_steps(confined: bool, shm_size: Option<u64>) -> Vec<Step> {
    let inert = ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC;
    let mount = |target: &str, kind, attributes, strict| Step::Mount {
        target: target.to_owned(),
        kind,
        attributes,
        strict,
    };
    let sys_attributes = if confined { inert | ATTR_RDONLY } else { inert };
    // A link at one of the three would put our mount where the image likes (CVE-2019-19921,
    // CVE-2023-27561, CVE-2026-41579); what lies below `/dev` is our own file system.
    let mut steps =
        vec![mount("/proc", Kind::Proc, inert, true), mount("/dev", Kind::Dev, ATTR_NOSUID, true)];
    for (name, major, minor) in
        [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)]
    {
        steps.push(Step::Device { name: name.to_owned(), major, minor });
    }
    for (name, to) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("core", "/proc/kcore"),
        ("ptmx", "pts/ptmx"),
    ] {
        steps.push(Step::Link { name: name.to_owned(), to: to.to_owned() });
    }
    let shm = Kind::Tmpfs { size: Some(shm_size.unwrap_or(64 << 20)), mode: Some(0o1777) };
    steps.push(mount("/dev/pts", Kind::Pts, ATTR_NOSUID | ATTR_NOEXEC, true));
    steps.push(mount("/dev/shm", shm, inert, true));
    steps.push(mount("/dev/mqueue", Kind::Mqueue, inert, true));
    steps.push(mount("/sys", Kind::Sys, sys_attributes, true));
    steps
}

fn process(sandbox: &Sandbox, tty: bool) -> Result<Process, PlanError> {
    let ProcessSpec { args, env, cwd, user, umask } = &sandbox.process;
    let program = args.first().filter(|program| !program.is_empty()).ok_or(PlanError::NoProgram)?;
    if args.iter().any(|arg| arg.contains('\0')) {
        return Err(PlanError::NulInArguments(program.replace('\0', "\\0")));
    }
    if !cwd.starts_with('/') || cwd.contains('\0') {
        return Err(PlanError::WorkingDirectory(cwd.clone()));
    }
    Ok(Process {
        args: args.clone(),
        env: environment(env, &user.home, tty)?,
        cwd: cwd.clone(),
        uid: user.uid,
        gid: user.gid,
        groups: user.groups.clone(),
        umask: umask & 0o777,
        capabilities: sandbox.security.capabilities,
        no_new_privileges: sandbox.security.no_new_privileges,
        ambient: sandbox.security.ambient,
        rlimits: sandbox.rlimits.iter().map(limit).collect::<Result<_, _>>()?,
    })
}

fn limit(limit: &Rlimit) -> Result<Limit, PlanError> {
    let resource = match limit.name.as_str() {
        "core" => libc::RLIMIT_CORE,
        "cpu" => libc::RLIMIT_CPU,
        "data" => libc::RLIMIT_DATA,
        "fsize" => libc::RLIMIT_FSIZE,
        "locks" => libc::RLIMIT_LOCKS,
        "memlock" => libc::RLIMIT_MEMLOCK,
        "msgqueue" => libc::RLIMIT_MSGQUEUE,
        "nice" => libc::RLIMIT_NICE,
        "nofile" => libc::RLIMIT_NOFILE,
        "nproc" => libc::RLIMIT_NPROC,
        "rss" => libc::RLIMIT_RSS,
        "rtprio" => libc::RLIMIT_RTPRIO,
        "rttime" => libc::RLIMIT_RTTIME,
        "sigpending" => libc::RLIMIT_SIGPENDING,
        "stack" => libc::RLIMIT_STACK,
        other => return Err(PlanError::Rlimit(other.to_owned())),
    };
    let value = |value: Option<u64>| value.unwrap_or(libc::RLIM_INFINITY);
    let (soft, hard) = (value(limit.soft), value(limit.hard));
    // The type of these constants differs between C libraries.
    #[allow(clippy::unnecessary_cast)]
    let resource = resource as u32;
    Ok(Limit { name: limit.name.clone(), resource, soft, hard })
}

/// The variables as the kernel takes them: those given, each once, and then Docker's where missing.
fn environment(given: &[(String, String)], home: &str, tty: bool) -> Result<Vec<String>, PlanError> {
    let mut all: Vec<(&str, &str)> = Vec::new();
    let mut places: std::collections::HashMap<&str, usize> = std::collections::HashMap::new();
    for (name, value) in given {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(PlanError::Variable(name.replace('\0', "\\0")));
        }
        match places.get(name.as_str()) {
            // An empty HOME is what an image without one has; Docker fills it too.
            _ if name == "HOME" && value.is_empty() => {}
            Some(place) => all[*place].1 = value,
            None => {
                places.insert(name, all.len());
                all.push((name, value));
            }
        }
    }
    let defaults = [("PATH", DEFAULT_PATH), ("TERM", if tty { "xterm" } else { "" }), ("HOME", home)];
    for (name, value) in defaults {
        if !value.is_empty() && !places.contains_key(name) {
            all.push((name, value));
        }
    }
    Ok(all.into_iter().map(|(name, value)| format!("{name}={value}")).collect())
}

fn cgroup(spec: &CgroupSpec, sandbox: &Sandbox) -> Result<Cgroup, PlanError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if spec.id.is_empty() || spec.id.len() > 128 || !spec.id.bytes().all(plain) {
        return Err(PlanError::CgroupId(spec.id.clone()));
    }
    let written = spec.parent.as_deref().unwrap_or_default();
    let parent: Vec<String> = written.split('/').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    let wrong = |name: &String| matches!(name.as_str(), "." | "..") || name.contains(['\0', '\n']);
    if parent.iter().any(wrong) || parent.len() > 32 {
        return Err(PlanError::CgroupParent(written.to_owned()));
    }
    let rule = |device: &Device| {
        let Device { block, major, minor, access, .. } = device;
        format!("{} {major}:{minor} {access}", if *block { 'b' } else { 'c' })
    };
    Ok(Cgroup {
        id: spec.id.clone(),
        parent,
        resources: spec.resources.clone(),
        limit_devices: sandbox.security.confine_paths,
        devices: sandbox.devices.iter().map(rule).collect(),
    })
}

#[cfg(test)]
mod tests;
