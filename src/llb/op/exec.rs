//! Exec: a process over a tree.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::in_range;
use crate::llb::DefinitionError;

/// What the machine of a step is called, as with BuildKit.
pub const HOSTNAME: &str = "buildkitsandbox";

/// A process over the tree of input 0, which it may change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecOp {
    /// The program and its arguments, the program first. Looked up on `PATH` of `env`.
    pub args: Vec<String>,
    /// Variables in order; of equal names the last counts.
    pub env: Vec<(String, String)>,
    /// Proxy variables: in the process's environment, but no part of what the step is.
    #[serde(skip)]
    pub proxy_env: Vec<(String, String)>,
    /// Secrets given as variables.
    pub secret_env: Vec<SecretEnv>,
    /// An absolute path below the root.
    pub cwd: String,
    /// What the process's machine is called; none is [`HOSTNAME`].
    pub hostname: Option<String>,
    /// `user[:group]`, names or numbers, resolved in the tree itself. Empty means root.
    pub user: String,
    /// Name and address of each line that `/etc/hosts` gets besides its own.
    pub extra_hosts: Vec<(String, IpAddr)>,
    pub network: Network,
    pub mounts: Vec<Mount>,
    #[serde(skip_serializing_if = "SecurityMode::is_default", default)]
    pub security: SecurityMode,
    /// Devices of the host, by the names that the Container Device Interface gives them.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub devices: Vec<DeviceRequest>,
    #[serde(skip_serializing_if = "ExecLimits::is_default", default)]
    pub limits: ExecLimits,
}

/// What a process may do to the machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecurityMode {
    /// The usual capabilities, with the system call filter.
    #[default]
    Sandbox,
    /// Whatever the builder itself may.
    Insecure,
}

impl SecurityMode {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A device that a step wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRequest {
    /// `vendor.com/class=name`.
    pub name: String,
    /// Whether the step fails without it.
    pub required: bool,
}

/// Limits that a process can see, and that its result may depend on for that reason.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecLimits {
    pub ulimits: Vec<Ulimit>,
    /// The size of `/dev/shm` in bytes, if it is not the usual one.
    pub shm_size: Option<u64>,
    /// The cgroup below which the step gets its own, if it is not the usual one.
    pub cgroup_parent: Option<String>,
}

impl ExecLimits {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A resource limit of a process, `setrlimit`'s. None is no limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// As `--ulimit` calls it: `nofile`, `nproc`, ...
    pub name: String,
    pub soft: Option<u64>,
    pub hard: Option<u64>,
}

/// A secret as a variable: never part of a key, a record or a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretEnv {
    pub name: String,
    pub id: String,
    pub required: bool,
}

/// Which network a step sees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// What the builder gives its steps.
    #[default]
    Default,
    /// A loopback device and nothing else.
    None,
    /// The host's own.
    Host,
}

/// Something that is in the tree while the process runs, and not afterwards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// An absolute path below the root, `.` and `..` resolved.
    pub target: String,
    pub kind: MountKind,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountKind {
    /// `source` (a path, `/` for all) of the tree of an input. Writes are refused, or thrown away.
    Bind { input: usize, source: String, writable: bool },
    /// A directory that outlives the step. A new one is filled from `source` of the tree of
    /// `input`, or is empty with this mode and owner.
    Cache {
        id: String,
        sharing: CacheSharing,
        read_only: bool,
        input: Option<usize>,
        source: String,
        /// What a new one shall have, if anything was said; another one is another cache.
        attributes: Option<Attributes>,
        /// Keeps apart the caches of builds that call them the same.
        #[serde(skip_serializing_if = "String::is_empty", default)]
        namespace: String,
    },
    /// Memory; `size` in bytes, none for the kernel's default.
    Tmpfs { size: Option<u64>, read_only: bool },
    /// A secret as a file.
    Secret { id: String, required: bool, mode: u32, uid: u32, gid: u32 },
    /// The socket of an SSH agent.
    Ssh { id: String, required: bool, mode: u32, uid: u32, gid: u32 },
}

/// The mode and owner of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// Who may use a cache mount at the same time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheSharing {
    /// Anybody, at once.
    #[default]
    Shared,
    /// Each user gets one of its own.
    Private,
    /// One at a time; others wait.
    Locked,
}

impl ExecOp {
    /// The operation without what does not change its result: which cache it uses and who else may,
    /// what addresses hosts have, and the paths whose content counts in their place.
    #[must_use]
    pub fn key_form(&self) -> Self {
        let mut op = self.clone();
        for (_, address) in &mut op.extra_hosts {
            *address = std::net::Ipv4Addr::UNSPECIFIED.into();
        }
        for mount in &mut op.mounts {
            match &mut mount.kind {
                MountKind::Bind { source, .. } => source.clear(),
                MountKind::Cache { id, sharing, source, namespace, .. } => {
                    *sharing = CacheSharing::default();
                    for text in [id, source, namespace] {
                        text.clear();
                    }
                }
                MountKind::Tmpfs { .. } | MountKind::Secret { .. } | MountKind::Ssh { .. } => {}
            }
        }
        op
    }

    pub(super) fn validate(&self, inputs: usize) -> Result<(), DefinitionError> {
        in_range(0, inputs)?;
        if self.args.is_empty() {
            return Err(DefinitionError::Invalid("an exec has a program"));
        }
        for mount in &self.mounts {
            if !mount.target.starts_with('/') {
                return Err(DefinitionError::Invalid("a mount's target is an absolute path"));
            }
            match &mount.kind {
                MountKind::Bind { input, .. } | MountKind::Cache { input: Some(input), .. } => {
                    in_range(*input, inputs)?;
                }
                MountKind::Cache { input: None, .. }
                | MountKind::Tmpfs { .. }
                | MountKind::Secret { .. }
                | MountKind::Ssh { .. } => {}
            }
        }
        Ok(())
    }
}
