//! Exec: a process over a tree.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::in_range;
use crate::llb::DefinitionError;

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
    /// `user[:group]`, names or numbers, resolved in the tree itself. Empty means root.
    pub user: String,
    /// Name and address of each line that `/etc/hosts` gets besides its own.
    pub extra_hosts: Vec<(String, IpAddr)>,
    pub network: Network,
    pub mounts: Vec<Mount>,
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
        mode: u32,
        uid: u32,
        gid: u32,
    },
    /// Memory; `size` in bytes, none for the kernel's default.
    Tmpfs { size: Option<u64> },
    /// A secret as a file.
    Secret { id: String, required: bool, mode: u32, uid: u32, gid: u32 },
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
                MountKind::Cache { input: None, .. } | MountKind::Tmpfs { .. } | MountKind::Secret { .. } => {
                }
            }
        }
        Ok(())
    }
}
