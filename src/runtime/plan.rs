//! What the sandbox's own processes shall do, decided before any of them exists.
//!
//! A pure function of the caller's [`Sandbox`]: no system call is made here, and what comes out is
//! compared as text in tests. Descriptors become indices into the list that travels with the plan,
//! bytes become ranges of one block.

use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use super::capability::Capabilities;
use super::monitor::LifePlan;
use super::network::ServicesPlan;
use super::network::user::UserNetwork;
use super::seccomp::Filters;
use super::spec::{
    CgroupSpec, Device, Filter, Io, Join, MadeAhead, MountSource, Namespace, Namespaces, Network,
    ProcessSpec, Propagation, Resources, Rlimit, Sandbox, Security, Shm,
};
use super::sys::{ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY};
use super::sysctl;
use super::wire::Parcel;
use crate::root;

/// Docker's, for a process whose image says nothing.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Everything that the launcher half and the first process are told.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    pub hostname: String,
    pub domainname: Option<String>,
    pub network: NetworkPlan,
    /// What is done for the network while the process lives.
    pub services: Option<ServicesPlan>,
    /// The root file system, as an index of a descriptor.
    pub rootfs: usize,
    pub read_only: bool,
    pub steps: Vec<Step>,
    pub confine_paths: bool,
    pub masks: Masks,
    /// Paths below `/proc/sys`, and what is written there.
    pub sysctls: Vec<(String, String)>,
    pub seccomp: Option<Bytes>,
    pub cgroup: Option<Cgroup>,
    pub namespaces: NamespacePlan,
    pub stdio: Stdio,
    pub process: Process,
    #[serde(default)]
    pub user_network: Option<UserNetwork>,
    /// What the launcher does besides waiting, for a container that outlives its starter.
    #[serde(default)]
    pub life: Option<LifePlan>,
}

/// What the launcher of a process that joins a sandbox is told.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct JoinPlan {
    /// A process of the sandbox, as an index of a descriptor.
    pub target: usize,
    pub seccomp: Option<Bytes>,
    pub stdio: Stdio,
    pub process: Process,
    pub detached: bool,
}

/// What a launcher is started for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    Run(Box<Plan>),
    Join(Box<JoinPlan>),
    Foreign(Box<super::bundle::ForeignPlan>),
    /// Nothing yet: a copy of the process shall wait for an order at the socket that comes along.
    Copy,
    /// Nothing yet, but a sandbox with these of its own will be.
    Ahead(MadeAhead),
}

impl Order {
    /// Whether a launcher that has made these namespaces can follow it: it cannot go back to the host's.
    pub(super) fn suits(&self, made: &MadeAhead) -> bool {
        let Self::Run(plan) = self else { return false };
        let own = |whose| whose == Whose::Own;
        // A program that connects a network stays in the namespaces that the launcher is in when it starts it.
        plan.network != NetworkPlan::User
            && (!made.ipc || own(plan.namespaces.ipc))
            && (!made.uts || own(plan.namespaces.uts))
            && (!made.network || plan.network == NetworkPlan::New)
    }
}

/// Which namespaces are the sandbox's own.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct NamespacePlan {
    pub pid: Whose,
    pub ipc: Whose,
    pub uts: Whose,
    pub cgroup: Option<Whose>,
}

/// As [`Namespace`], with an index of a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Whose {
    Own,
    Host,
    Join(usize),
}

/// What is hidden and what is protected.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Masks {
    /// Below `/proc`.
    pub proc_hidden: Vec<String>,
    pub proc_protected: Vec<String>,
    /// Below `/sys`.
    pub sys_hidden: Vec<String>,
    /// Whether each processor's `thermal_throttle` is.
    pub throttle_hidden: bool,
    /// Absolute paths, hidden when everything is mounted.
    pub others: Vec<String>,
}

/// Which network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum NetworkPlan {
    Host,
    New,
    /// One that somebody made, as an index of a descriptor.
    Join(usize),
    /// One that a program of the user's connects: [`Plan::user_network`].
    User,
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
    Mount { target: String, kind: Kind, attributes: u64, strict: bool, propagation: Propagation },
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
    Terminal {
        rows: u16,
        columns: u16,
    },
    /// Pipes to the monitor; standard input may be something else.
    Pipes {
        stdin: Option<usize>,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Cgroup {
    pub id: String,
    /// Names of groups from the root down.
    pub parent: Vec<String>,
    pub resources: Resources,
    pub limit_devices: bool,
    pub accounted: bool,
    /// What the devices controller admits besides Docker's devices.
    pub devices: Vec<String>,
    /// Whether some of that was asked for by number, and not by a device that is there.
    pub has_rules: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
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
    pub oom_score_adj: Option<i32>,
}

/// A resource limit by the kernel's number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    #[error("{0} cannot be had with another runtime than our own")]
    Foreign(&'static str),
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
    #[error("invalid domain name `{0}`")]
    Domainname(String),
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
    #[error("cannot set `{name}`: {why}")]
    Sysctl { name: String, why: &'static str },
    #[error("invalid rule for devices `{0}`: expected such as `c 10:200 rwm`")]
    DeviceRule(String),
    #[error("cannot hide `{0}`: it is not an absolute path, or it is `/`")]
    Mask(String),
    #[error("the score `{0}` for the kernel's killer is not from -1000 to 1000")]
    OomScore(i32),
}

/// Turns a sandbox into its plan and what travels with it.
pub(super) fn plan(sandbox: Sandbox, filters: &Filters) -> Result<(Plan, Parcel), PlanError> {
    let mut parcel = Parcel::default();
    let tty = matches!(sandbox.io, Io::Terminal { .. });
    if sandbox.hostname.is_empty() || sandbox.hostname.len() > 64 || sandbox.hostname.contains('\0') {
        return Err(PlanError::Hostname(sandbox.hostname));
    }
    let score = sandbox.tuning.oom_score_adj;
    let process = process(&sandbox.process, &sandbox.security, &sandbox.rlimits, score, tty)?;
    let mut sysctls = sysctl::check(&sandbox.tuning.sysctls, &sandbox.namespaces, &sandbox.network)?;
    // By a call of its own: only the machine's root may write to the file.
    let named = sysctls.iter().rposition(|(path, _)| path == "kernel/domainname");
    let domainname = named.map(|at| sysctls.remove(at).1).or_else(|| sandbox.domainname.clone());
    if let Some(name) = domainname.as_ref().filter(|name| name.len() > 64 || name.contains('\0')) {
        return Err(PlanError::Domainname(name.clone()));
    }
    let masks = masks(&sandbox.security)?;
    let cgroup = sandbox.cgroup.as_ref().map(|spec| cgroup(spec, &sandbox)).transpose()?;
    let shm = match sandbox.shm {
        Shm::Own(size) => Some(Kind::Tmpfs { size: Some(size), mode: Some(0o1777) }),
        Shm::Shared(mount) => Some(Kind::Handle(parcel.add_fd(mount))),
        Shm::Nothing => None,
    };
    let mut steps = standard_steps(shm);
    for device in sandbox.devices {
        let path = root::clean(&device.path);
        if !device.path.starts_with('/') || !path.starts_with("/dev/") || path.contains('\0') {
            return Err(PlanError::Device(device.path));
        }
        steps.push(Step::Node(Device { path, ..device }));
    }
    // What hides parts of it is made of what covers the host's `/dev`, of which the devices above may be.
    steps.push(sys_step(sandbox.security.confine_paths));
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
            steps.push(Step::Mount {
                target,
                kind,
                attributes: file_attributes,
                strict: false,
                propagation: Propagation::default(),
            });
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
        let options = mount.options;
        for (wanted, bit) in
            [(options.nosuid, ATTR_NOSUID), (options.nodev, ATTR_NODEV), (options.noexec, ATTR_NOEXEC)]
        {
            if wanted {
                attributes |= bit;
            }
        }
        let kind = match mount.source {
            MountSource::Fd(fd) => Kind::Handle(parcel.add_fd(fd)),
            MountSource::Tmpfs { size, mode } => {
                if !options.suid {
                    attributes |= ATTR_NOSUID;
                }
                Kind::Tmpfs { size, mode }
            }
            MountSource::File { contents, mode, uid, gid } => {
                Kind::File { contents: parcel.add_bytes(&contents), mode, uid, gid }
            }
        };
        steps.push(Step::Mount { target, kind, attributes, strict: false, propagation: options.propagation });
    }
    let seccomp = filter(&sandbox.security, filters, &mut parcel)?;
    let stdio = stdio(sandbox.io, &mut parcel);
    let Namespaces { pid, ipc, uts, cgroup: cgroup_namespace } = sandbox.namespaces;
    let mut whose = |namespace| match namespace {
        Namespace::Own => Whose::Own,
        Namespace::Host => Whose::Host,
        Namespace::Join(fd) => Whose::Join(parcel.add_fd(fd)),
    };
    let namespaces = NamespacePlan {
        pid: whose(pid),
        ipc: whose(ipc),
        uts: whose(uts),
        cgroup: cgroup_namespace.map(whose),
    };
    let user_network = match &sandbox.network {
        Network::User(network) => Some(network.clone()),
        Network::Host | Network::None | Network::Namespace(_) | Network::Served { .. } => None,
    };
    let (network, services) = match sandbox.network {
        Network::Host => (NetworkPlan::Host, None),
        Network::None => (NetworkPlan::New, None),
        Network::User(_) => (NetworkPlan::User, None),
        Network::Namespace(namespace) => (NetworkPlan::Join(parcel.add_fd(namespace)), None),
        Network::Served { namespace, services } => {
            (NetworkPlan::Join(parcel.add_fd(namespace)), Some(services.plan(&mut parcel)))
        }
    };
    let plan = Plan {
        hostname: sandbox.hostname,
        domainname,
        network,
        services,
        rootfs: parcel.add_fd(sandbox.rootfs),
        read_only: sandbox.read_only,
        steps,
        confine_paths: sandbox.security.confine_paths,
        masks,
        sysctls,
        seccomp,
        cgroup,
        namespaces,
        stdio,
        process,
        user_network,
        life: None,
    };
    Ok((plan, parcel))
}

/// Turns a process that joins a sandbox into its plan and what travels with it.
pub(super) fn join(join: Join, filters: &Filters) -> Result<(JoinPlan, Parcel), PlanError> {
    let mut parcel = Parcel::default();
    let tty = matches!(join.io, Io::Terminal { .. });
    let process = process(&join.process, &join.security, &join.rlimits, join.oom_score_adj, tty)?;
    let seccomp = filter(&join.security, filters, &mut parcel)?;
    let stdio = stdio(join.io, &mut parcel);
    let target = parcel.add_fd(join.target);
    Ok((JoinPlan { target, seccomp, stdio, process, detached: join.detached }, parcel))
}

pub(super) fn filter(
    security: &Security,
    filters: &Filters,
    parcel: &mut Parcel,
) -> Result<Option<Bytes>, PlanError> {
    Ok(match &security.seccomp {
        Filter::Docker => {
            let program = filters.get(security.capabilities).ok_or(PlanError::Architecture)?;
            Some(parcel.add_bytes(&program))
        }
        Filter::Program(program) => Some(parcel.add_bytes(program.bytes())),
        Filter::None => None,
    })
}

fn stdio(io: Io, parcel: &mut Parcel) -> Stdio {
    match io {
        Io::Fds { stdin, stdout, stderr } => {
            Stdio::Fds([stdin, stdout, stderr].map(|fd: OwnedFd| parcel.add_fd(fd)))
        }
        Io::Terminal { rows, columns } => Stdio::Terminal { rows, columns },
        Io::Pipes { stdin } => Stdio::Pipes { stdin: stdin.map(|fd| parcel.add_fd(fd)) },
    }
}

/// Docker's lists without what somebody wants to see, and what somebody wants hidden besides.
fn masks(security: &Security) -> Result<Masks, PlanError> {
    let mut others = Vec::new();
    for path in &security.mask {
        let clean = root::clean(path);
        if !path.starts_with('/') || clean == "/" || clean.contains('\0') {
            return Err(PlanError::Mask(path.replace('\0', "\\0")));
        }
        others.push(clean);
    }
    if !security.confine_paths {
        return Ok(Masks { others, ..Masks::default() });
    }
    let unmasked = |path: &str| {
        security.unmask.iter().any(|pattern| {
            pattern.eq_ignore_ascii_case("ALL") || matches(pattern.trim_end_matches('/'), path)
        })
    };
    let kept = |below: &str, list: &[&str]| -> Vec<String> {
        let full = |name: &&&str| !unmasked(&format!("{below}/{name}"));
        list.iter().filter(full).map(|name| (*name).to_owned()).collect()
    };
    Ok(Masks {
        proc_hidden: kept("/proc", &PROC_MASKED),
        proc_protected: kept("/proc", &PROC_READ_ONLY),
        sys_hidden: kept("/sys", &SYS_MASKED),
        throttle_hidden: !unmasked("/sys/devices/system/cpu/cpu0/thermal_throttle"),
        others,
    })
}

/// Whether a path is what a pattern says, where `*` stands for any characters but a slash.
fn matches(pattern: &str, path: &str) -> bool {
    let (pattern, path): (Vec<&str>, Vec<&str>) = (pattern.split('/').collect(), path.split('/').collect());
    let name = |(pattern, name): (&&str, &&str)| {
        let mut pieces = pattern.split('*');
        let first = pieces.next().unwrap_or_default();
        let Some(mut rest) = name.strip_prefix(first) else { return false };
        let pieces: Vec<&str> = pieces.collect();
        let Some((last, middle)) = pieces.split_last() else { return rest.is_empty() };
        for piece in middle {
            match rest.find(piece) {
                Some(at) => rest = &rest[at + piece.len()..],
                None => return false,
            }
        }
        rest.ends_with(last)
    };
    pattern.len() == path.len() && pattern.iter().zip(&path).all(name)
}

fn standard_mount(target: &str, kind: Kind, attributes: u64) -> Step {
    let propagation = Propagation::default();
    Step::Mount { target: target.to_owned(), kind, attributes, strict: true, propagation }
}

fn sys_step(confined: bool) -> Step {
    let inert = ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC;
    standard_mount("/sys", Kind::Sys, if confined { inert | ATTR_RDONLY } else { inert })
}

/// What every sandbox has besides `/sys`: `/proc`, `/dev` and its devices.
pub(super) fn standard_steps(shm: Option<Kind>) -> Vec<Step> {
    let inert = ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC;
    let mount = standard_mount;
    // A link at one of the three would put our mount where the image likes (CVE-2019-19921,
    // CVE-2023-27561, CVE-2026-41579); what lies below `/dev` is our own file system.
    let mut steps = vec![mount("/proc", Kind::Proc, inert), mount("/dev", Kind::Dev, ATTR_NOSUID)];
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
    steps.push(mount("/dev/pts", Kind::Pts, ATTR_NOSUID | ATTR_NOEXEC));
    steps.extend(shm.map(|shm| mount("/dev/shm", shm, inert)));
    steps.push(mount("/dev/mqueue", Kind::Mqueue, inert));
    steps
}

pub(super) fn process(
    spec: &ProcessSpec,
    security: &Security,
    rlimits: &[Rlimit],
    oom_score_adj: Option<i32>,
    tty: bool,
) -> Result<Process, PlanError> {
    let ProcessSpec { args, env, cwd, user, umask } = spec;
    if let Some(score) = oom_score_adj.filter(|score| !(-1000..=1000).contains(score)) {
        return Err(PlanError::OomScore(score));
    }
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
        capabilities: security.capabilities,
        no_new_privileges: security.no_new_privileges,
        ambient: security.ambient,
        rlimits: rlimits.iter().map(limit).collect::<Result<_, _>>()?,
        oom_score_adj,
    })
}

/// The kernel's number of a limit, by the name of `--ulimit`.
pub(super) fn rlimit_number(name: &str) -> Option<u32> {
    let resource = match name {
        "as" => libc::RLIMIT_AS,
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
        _ => return None,
    };
    // The type of these constants differs between C libraries.
    #[allow(clippy::unnecessary_cast)]
    Some(resource as u32)
}

fn limit(limit: &Rlimit) -> Result<Limit, PlanError> {
    // Docker has no name for the address space's.
    let resource = rlimit_number(&limit.name)
        .filter(|_| limit.name != "as")
        .ok_or_else(|| PlanError::Rlimit(limit.name.clone()))?;
    let value = |value: Option<u64>| value.unwrap_or(libc::RLIM_INFINITY);
    Ok(Limit { name: limit.name.clone(), resource, soft: value(limit.soft), hard: value(limit.hard) })
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
    let mut devices: Vec<String> = sandbox.devices.iter().map(rule).collect();
    for rule in &sandbox.tuning.device_rules {
        if !is_device_rule(rule) {
            return Err(PlanError::DeviceRule(rule.clone()));
        }
        devices.push(rule.clone());
    }
    Ok(Cgroup {
        has_rules: !sandbox.tuning.device_rules.is_empty(),
        id: spec.id.clone(),
        parent,
        resources: spec.resources.clone(),
        limit_devices: sandbox.security.confine_paths,
        accounted: spec.accounted,
        devices,
    })
}

/// `a`, `b` or `c`, numbers or `*`, and what may be done: as the devices controller reads it.
pub fn is_device_rule(rule: &str) -> bool {
    let number = |text: &str| text == "*" || (!text.starts_with('+') && text.parse::<u32>().is_ok());
    let mut fields = rule.split(' ');
    let (Some(kind), Some(numbers), Some(access), None) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return false;
    };
    matches!(kind, "a" | "b" | "c")
        && numbers.split_once(':').is_some_and(|(major, minor)| number(major) && number(minor))
        && !access.is_empty()
        && access.len() <= 3
        && access.bytes().all(|byte| b"rwm".contains(&byte))
}

#[cfg(test)]
pub(super) mod tests;
