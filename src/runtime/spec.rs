//! What a sandbox is made of, as plain data: the caller's half of the module.

use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use super::capability::Capabilities;
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
    pub files: Files,
    pub security: Security,
    pub rlimits: Vec<Rlimit>,
    /// The size of `/dev/shm` in bytes; none for Docker's.
    pub shm_size: Option<u64>,
    /// Besides those that every sandbox has.
    pub devices: Vec<Device>,
    /// None runs the process in the caller's own cgroups.
    pub cgroup: Option<CgroupSpec>,
    pub io: Io,
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Network {
    /// That of the caller.
    #[default]
    Host,
    /// A loopback device of its own.
    None,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Security {
    /// Its bounding set, and what root inside has. Those the caller lacks are left out.
    pub capabilities: Capabilities,
    /// Whether Docker's system call filter applies.
    pub seccomp: bool,
    /// Whether the paths of `/proc` and `/sys` that Docker hides or protects are so.
    pub confine_paths: bool,
    pub no_new_privileges: bool,
    /// Whether other users than root have the capabilities too.
    pub ambient: bool,
}

impl Default for Security {
    /// Docker's.
    fn default() -> Self {
        Self {
            capabilities: Capabilities::DOCKER,
            seccomp: true,
            confine_paths: true,
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
            seccomp: false,
            confine_paths: false,
            no_new_privileges: false,
            ambient: true,
        }
    }
}

/// A cgroup of its own, `/stave/<id>` in each hierarchy that can be written. Where none can (an
/// ordinary user) the process runs without. On v1 the devices controller admits Docker's devices
/// only; on v2 that would take an eBPF program, which is not done: there the mknod permission and
/// `nodev` mounts are what stands between a process and devices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CgroupSpec {
    /// Letters, digits, `-` and `_`; unique on the machine.
    pub id: String,
    /// The group below which `stave/<id>` is made, and made itself if it is missing. None is the
    /// root.
    pub parent: Option<String>,
    pub resources: Resources,
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
}

/// A limit of memory and swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Swap {
    Unlimited,
    Bytes(u64),
}

/// A limit of each process, as `setrlimit` knows it. None is no limit.
#[derive(Debug, Clone, PartialEq, Eq)]
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
}
