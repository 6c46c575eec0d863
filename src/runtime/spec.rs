//! What a sandbox is made of, as plain data: the caller's half of the module.

use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use super::capability::Capabilities;
use super::network::user::UserNetwork;
use super::seccomp::Program;
use super::users::ResolvedUser;

/// A process and all that it shall see. Nothing of the host is added to it but the kernel.
#[derive(Debug)]
pub struct Sandbox {
    /// A detached mount (`fsmount`, or [`super::bind`]) that becomes `/`.
    pub rootfs: OwnedFd,
    /// Whether writes to the root file system itself are refused. Other mounts are not touched.
    pub read_only: bool,
    pub process: ProcessSpec,
    /// Mounted in this order, after `/proc`, `/dev` and `/sys`.
    pub mounts: Vec<SandboxMount>,
    pub network: Network,
    pub hostname: String,
    /// The NIS domain, which few programs ask for.
    pub domainname: Option<String>,
    pub files: Files,
    pub security: Security,
    pub rlimits: Vec<Rlimit>,
    pub shm: Shm,
    /// Besides those that every sandbox has.
    pub devices: Vec<Device>,
    /// None runs the process in the caller's own cgroups.
    pub cgroup: Option<CgroupSpec>,
    pub namespaces: Namespaces,
    pub tuning: Tuning,
    pub io: Io,
}

/// What is at `/dev/shm`.
#[derive(Debug)]
pub enum Shm {
    /// Memory of its own, of so many bytes.
    Own(u64),
    /// A detached mount, of who shares it.
    Shared(OwnedFd),
    Nothing,
}

impl Shm {
    /// Memory of this size, or of Docker's.
    pub fn sized(size: Option<u64>) -> Self {
        Self::Own(size.unwrap_or(64 << 20))
    }
}

/// Which namespaces besides the mount and the network namespace are its own.
#[derive(Debug, Default)]
pub struct Namespaces {
    pub pid: Namespace,
    pub ipc: Namespace,
    pub uts: Namespace,
    /// None for what the machine's cgroup version makes usual: its own on v2, the host's on v1.
    pub cgroup: Option<Namespace>,
}

/// What a launcher makes before it knows anything else of its sandbox: a mount namespace, what all have in `/dev`, and of
/// these what the sandbox will have of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeAhead {
    pub ipc: bool,
    pub uts: bool,
    /// A network namespace that nothing is connected to.
    pub network: bool,
    /// The cgroup of this id, below the usual parent.
    pub group: Option<String>,
}

/// Whose a namespace is.
#[derive(Debug, Default)]
pub enum Namespace {
    #[default]
    Own,
    /// That of the caller.
    Host,
    /// One that is there, by a handle on it, as `/proc/<pid>/ns/ipc` opens.
    Join(OwnedFd),
}

/// Settings of the kernel for this sandbox alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tuning {
    /// Names with dots or slashes, and values. Only those that belong to a namespace of the sandbox's own.
    pub sysctls: Vec<(String, String)>,
    /// None for 0, whatever the caller's is.
    pub oom_score_adj: Option<i32>,
    /// What the devices list admits besides [`Sandbox::devices`], as in `c 10:* rwm`.
    pub device_rules: Vec<String>,
}

/// A process that joins a sandbox which is there: its namespaces, its root, its cgroup.
#[derive(Debug)]
pub struct Join {
    /// A handle on a process of the sandbox, usually the first.
    pub target: OwnedFd,
    pub process: ProcessSpec,
    /// Usually that of the sandbox. Paths are masked as they are there.
    pub security: Security,
    pub rlimits: Vec<Rlimit>,
    /// None for the target's own.
    pub oom_score_adj: Option<i32>,
    pub io: Io,
    /// Whether the process goes on when the caller is gone.
    pub detached: bool,
}

/// The process itself.
#[derive(Debug, Clone)]
pub struct ProcessSpec {
    /// The program and its arguments. A program without a slash is looked up on `PATH` of `env`.
    pub args: Vec<String>,
    /// Names and values; of equal names the last counts. `PATH`, `HOME` and, with a terminal,
    /// `TERM` get Docker's defaults where they are missing.
    pub env: Vec<(String, String)>,
    /// An absolute path of a directory that exists below the root.
    pub cwd: String,
    pub user: ResolvedUser,
    /// Docker's is 022.
    pub umask: u32,
}

/// The files that Docker puts over those of an image. They are never written in its tree.
#[derive(Debug, Clone, Default)]
pub struct Files {
    pub hosts: Option<Vec<u8>>,
    pub resolv_conf: Option<Vec<u8>>,
    pub hostname: Option<Vec<u8>>,
    /// Whether the process may write to its (private) copies: yes in `run`, no in a build.
    pub writable: bool,
}

/// Which network the process sees.
#[derive(Debug, Default)]
pub enum Network {
    /// That of the caller.
    #[default]
    Host,
    /// A loopback device of its own.
    None,
    /// A network namespace that somebody made: a handle on it, as `/proc/<pid>/ns/net` opens.
    Namespace(OwnedFd),
    /// One that is in bridge networks, and what is done for it while the process lives.
    Served { namespace: OwnedFd, services: Box<super::network::Services> },
    /// One of its own that a program of an ordinary user's connects.
    User(UserNetwork),
}

/// Something mounted below the root.
#[derive(Debug)]
pub struct SandboxMount {
    /// An absolute path; links in it are followed inside the root. What is missing is made and is
    /// taken away afterwards. Not `/`, and nothing in `/proc`.
    pub target: String,
    pub source: MountSource,
    pub read_only: bool,
    /// `nosuid`, `nodev` and `noexec`, as secrets have.
    pub inert: bool,
    pub options: MountOptions,
}

/// How something is mounted, beyond the usual.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MountOptions {
    pub propagation: Propagation,
    pub nosuid: bool,
    pub nodev: bool,
    pub noexec: bool,
    /// Whether setuid programs count in memory too ([`MountSource::Tmpfs`]), where they usually do not.
    pub suid: bool,
}

/// How mounts made on one side are seen on the other. `Slave` and `Shared` say what the mount may be at most: a mount
/// that was taken from a namespace where nothing is shared stays alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// Docker's `rprivate`.
    #[default]
    RecursivelyPrivate,
    Private,
    Slave,
    RecursivelySlave,
    Shared,
    RecursivelyShared,
}

/// What is mounted.
#[derive(Debug)]
pub enum MountSource {
    /// A detached mount, of a directory or a file: see [`super::bind`].
    Fd(OwnedFd),
    /// Memory. `size` in bytes, none for the kernel's default; without a mode it has that of the
    /// directory it is mounted on, and 1777 where there is none.
    Tmpfs { size: Option<u64>, mode: Option<u32> },
    /// A file in memory, for secrets.
    File { contents: Vec<u8>, mode: u32, uid: u32, gid: u32 },
}

/// What the process may do to the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Security {
    /// Its bounding set, and what root inside has. Those the caller lacks are left out.
    pub capabilities: Capabilities,
    pub seccomp: Filter,
    /// Whether the paths of `/proc` and `/sys` that Docker hides or protects are so, `/sys` is read-only and the
    /// devices list holds.
    pub confine_paths: bool,
    /// Absolute paths that are hidden besides.
    pub mask: Vec<String>,
    /// Of the usual paths, those that are neither hidden nor protected: paths, with `*` for any characters of a name,
    /// or `ALL`.
    pub unmask: Vec<String>,
    pub no_new_privileges: bool,
    /// Whether other users than root have the capabilities too.
    pub ambient: bool,
}

/// Which system calls are refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// Those that Docker's profile refuses.
    Docker,
    None,
    /// Those that a profile of somebody's refuses: see [`super::seccomp::Profile`].
    Program(Program),
}

impl Default for Security {
    /// Docker's.
    fn default() -> Self {
        Self {
            capabilities: Capabilities::DOCKER,
            seccomp: Filter::Docker,
            confine_paths: true,
            mask: Vec::new(),
            unmask: Vec::new(),
            no_new_privileges: false,
            ambient: false,
        }
    }
}

impl Security {
    /// `RUN --security=insecure`: everything the caller itself may do.
    pub fn insecure() -> Self {
        Self {
            capabilities: Capabilities::ALL,
            seccomp: Filter::None,
            confine_paths: false,
            mask: Vec::new(),
            unmask: Vec::new(),
            no_new_privileges: false,
            ambient: true,
        }
    }
}

/// A cgroup of its own, `/stave/<id>` in each hierarchy that can be written. Where none can (an
/// ordinary user) the process runs without. Docker's devices alone are admitted: by the devices controller on v1, by
/// an eBPF program on v2.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CgroupSpec {
    /// Letters, digits, `-` and `_`; unique on the machine.
    pub id: String,
    /// The group below which `stave/<id>` is made, and made itself if it is missing. None is the
    /// root.
    pub parent: Option<String>,
    pub resources: Resources,
    /// Whether what it uses is counted, for whoever asks for it: see [`super::Group::usage`].
    pub accounted: bool,
}

/// What a cgroup limits. What this machine cannot limit is no error: see
/// [`super::Running::unmet_limits`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Bytes.
    pub memory: Option<u64>,
    /// Bytes of memory and swap together.
    pub memory_and_swap: Option<Swap>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Thousandths of a processor.
    pub millicpus: Option<u64>,
    /// The share of processor time where there is not enough for all; 1024 is the usual one.
    pub cpu_shares: Option<u64>,
    /// Microseconds of processor time in each period, and the period's length.
    pub cpu_quota: Option<u64>,
    pub cpu_period: Option<u64>,
    /// Processors, as in `0-3,7`.
    pub cpus: Option<String>,
    /// Memory nodes, likewise.
    pub memory_nodes: Option<String>,
    /// Bytes that it is pushed back to when memory is short.
    #[serde(default)]
    pub memory_reservation: Option<u64>,
    /// From 0 to 100; version 1 only.
    #[serde(default)]
    pub memory_swappiness: Option<u64>,
    /// Whether a process that wants more memory than there is waits instead of being killed; version 1 only.
    #[serde(default)]
    pub oom_kill_disable: bool,
    /// The share of a disk's time, from 10 to 1000.
    #[serde(default)]
    pub blkio_weight: Option<u64>,
    /// Limits of single disks.
    #[serde(default)]
    pub throttles: Vec<Throttle>,
}

/// A limit of what goes to or from a block device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Throttle {
    pub kind: ThrottleKind,
    pub major: u32,
    pub minor: u32,
    /// Bytes or operations a second; for a weight the weight.
    pub rate: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ThrottleKind {
    Weight,
    ReadBytes,
    WriteBytes,
    ReadOperations,
    WriteOperations,
}

/// A limit of memory and swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Swap {
    Unlimited,
    Bytes(u64),
}

/// A limit of each process, as `setrlimit` knows it. None is no limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// As Docker's `--ulimit` calls it.
    pub name: String,
    pub soft: Option<u64>,
    pub hard: Option<u64>,
}

/// A device node below `/dev`. Where none can be made the host's is bound, if it is the same device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its absolute path.
    pub path: String,
    /// Where the host has it, if that is elsewhere: below `/dev` too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// A block device; else one of characters.
    pub block: bool,
    pub major: u32,
    pub minor: u32,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// What may be done with it: any of `r`, `w` and `m`.
    pub access: String,
    /// Whether it is an error that it cannot be made.
    pub required: bool,
}

/// What standard input, output and error are.
#[derive(Debug)]
pub enum Io {
    Fds {
        stdin: OwnedFd,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    /// A terminal of the sandbox's own `/dev/pts`, as `/dev/console`; its other end is
    /// [`super::Running::terminal`].
    Terminal {
        rows: u16,
        columns: u16,
    },
    /// Pipes whose other ends the launcher keeps, for a container with a [`super::monitor::Life`]. `stdin` is what
    /// standard input is if that is not to be a pipe too.
    Pipes {
        stdin: Option<OwnedFd>,
    },
}
