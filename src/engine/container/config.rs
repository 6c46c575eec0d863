//! What a container is told to be.
//!
//! Made once, by `create`, from the command line and the image; kept in the store as JSON; read by all that
//! starts, shows or changes the container. It says what was asked for, resolved as far as it can be without
//! starting anything: names of volumes and networks, not mounts and addresses. How the container is at the moment
//! is [`crate::runtime::monitor::State`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::runtime::{Device, Resources, Rlimit};

/// All of it. A field that an older store does not have gets its default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The image as it was asked for; which one it is, is in the container's row.
    pub image: String,
    pub platform: String,
    pub process: ProcessConfig,
    /// In the order of the command line, the image's volumes after them.
    pub mounts: Vec<Mount>,
    pub network: NetworkConfig,
    pub namespaces: Namespaces,
    pub security: SecurityConfig,
    pub limits: Limits,
    pub life: Life,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// Whether writes to the image's files are refused.
    pub read_only: bool,
    /// Of `/dev/shm`, in bytes.
    pub shm_size: Option<u64>,
    /// The command line that made it, for `generate systemd --new`.
    pub command_line: Vec<String>,
    /// An OCI runtime to run it with, by absolute path, and arguments that come before all others; none for our own.
    pub runtime: Option<Vec<String>>,
}

/// The process, as image and command line together have it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessConfig {
    pub entrypoint: Vec<String>,
    pub command: Vec<String>,
    /// Of equal names the last counts.
    pub env: Vec<(String, String)>,
    /// Empty for `/`.
    pub cwd: String,
    /// Empty for root.
    pub user: String,
    /// Names or numbers, besides the user's own groups.
    pub groups: Vec<String>,
    pub tty: bool,
    /// `-i`: standard input is open, with or without somebody who writes to it.
    pub stdin_open: bool,
    /// Standard input ends with the first client that wrote to it.
    pub stdin_once: bool,
    /// What `run` and `start -a` attach to.
    pub attach: Attach,
    /// `--init`: a first process of ours that reaps.
    pub init: bool,
}

/// Streams of a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attach {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// Something mounted over the image's files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// An absolute path.
    pub target: String,
    pub read_only: bool,
    pub source: MountSource,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A file or directory of the host.
    Bind {
        path: PathBuf,
        /// Whether a missing one is made, as a directory (`-v` does, `--mount` does not).
        create: bool,
        propagation: Propagation,
        /// Whether what is mounted below it comes along.
        recursive: bool,
        /// Whether read-only leaves what is mounted below it as it is.
        #[serde(default)]
        writable_below: bool,
    },
    Volume {
        /// Of anonymous ones too: 64 hexadecimal digits then.
        name: String,
        /// Goes with the container (`--rm`, `rm -v`).
        anonymous: bool,
        /// Whether a new volume gets what the image has there.
        copy: bool,
        /// A directory of the volume, instead of the whole.
        subpath: Option<String>,
        /// Of a volume that is made for this.
        #[serde(default)]
        labels: BTreeMap<String, String>,
        #[serde(default)]
        options: BTreeMap<String, String>,
    },
    /// The files of an image, read-only.
    Image {
        /// As it was typed.
        name: String,
        /// Which it was found to be.
        id: String,
        subpath: Option<String>,
    },
    Tmpfs {
        /// Bytes.
        size: Option<u64>,
        mode: Option<u32>,
        /// Docker's default is without `exec`.
        exec: bool,
        suid: bool,
        dev: bool,
        /// Of its root directory.
        #[serde(default)]
        uid: u32,
        #[serde(default)]
        gid: u32,
        /// How many files it may hold.
        #[serde(default)]
        inodes: Option<u64>,
    },
}

/// How mounts made on one side are seen on the other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    #[default]
    Private,
    Slave,
    Shared,
    /// Whether what is mounted below takes part; Docker's `r…`.
    RPrivate,
    RSlave,
    RShared,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkConfig {
    pub mode: NetworkMode,
    /// The networks of [`NetworkMode::Networks`], the first being the one with the default route.
    pub endpoints: Vec<Endpoint>,
    pub ports: Vec<PortMapping>,
    /// `-P`: all exposed ports get a port of the host.
    pub publish_all: bool,
    /// Of the image and of `--expose`.
    pub exposed: Vec<(u16, Protocol)>,
    pub dns: Vec<IpAddr>,
    pub dns_search: Vec<String>,
    pub dns_options: Vec<String>,
    /// Lines of `/etc/hosts`; no address stands for the host's (`host-gateway`).
    pub extra_hosts: Vec<(String, Option<IpAddr>)>,
    /// None for the id's first twelve digits, or on the host's network the host's.
    pub hostname: Option<String>,
    pub domainname: Option<String>,
}

/// Which network a container sees.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkMode {
    /// Those of [`NetworkConfig::endpoints`]; usually `bridge`.
    #[default]
    Networks,
    Host,
    None,
    /// That of another container, by id.
    Container(String),
}

/// A container's place in a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Endpoint {
    /// The network's name.
    pub network: String,
    pub ipv4: Option<std::net::Ipv4Addr>,
    pub ipv6: Option<std::net::Ipv6Addr>,
    pub mac: Option<[u8; 6]>,
    /// Names besides the container's own.
    pub aliases: Vec<String>,
}

/// A published port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    pub container_port: u16,
    pub protocol: Protocol,
    /// None for all addresses.
    pub host_ip: Option<IpAddr>,
    /// The first and the last of which one is taken; none for any that is free.
    pub host_ports: Option<(u16, u16)>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

/// Which namespaces are shared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Namespaces {
    pub pid: Shared,
    pub ipc: Shared,
    /// Whether there is no `/dev/shm` (`--ipc=none`).
    pub no_shm: bool,
    pub uts: Shared,
    pub cgroup: Shared,
    /// Whether its own cgroup namespace was asked for, on version 1 too (`--cgroupns=private`).
    pub private_cgroup: bool,
    /// `--userns`: empty for the default, else as it was typed (`host`, `auto`, `keep-id`).
    pub user: String,
}

/// Whose namespace it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shared {
    /// The container's own; for cgroups what the machine's cgroup version makes usual.
    #[default]
    Own,
    Host,
    /// That of another container, by id.
    Container(String),
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SecurityConfig {
    pub privileged: bool,
    /// As typed: names in any case, with or without `CAP_`, or `ALL`.
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub no_new_privileges: bool,
    pub seccomp: Seccomp,
    /// Paths hidden besides the usual ones, and usual ones that are not (`ALL` for none of them hidden).
    pub mask: Vec<String>,
    pub unmask: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seccomp {
    /// Docker's profile.
    #[default]
    Default,
    Unconfined,
    /// A profile in Docker's JSON form, its text.
    Profile(String),
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    pub resources: Resources,
    pub ulimits: Vec<Rlimit>,
    pub oom_score_adj: Option<i32>,
    pub sysctls: BTreeMap<String, String>,
    pub cgroup_parent: Option<String>,
    pub devices: Vec<Device>,
    /// What its devices list admits besides, as in `c 10:* rwm`.
    pub device_rules: Vec<String>,
}

/// How it lives and ends.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Life {
    /// `--rm`.
    pub remove: bool,
    pub restart: RestartPolicy,
    /// As typed or as the image has it; none for SIGTERM.
    pub stop_signal: Option<String>,
    /// Seconds until it is killed; none for 10, negative for never.
    pub stop_timeout: Option<i64>,
    pub health: Option<Health>,
    pub log: LogConfig,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartPolicy {
    #[default]
    No,
    /// At most that often; none for without end.
    OnFailure(Option<u32>),
    Always,
    UnlessStopped,
}

/// A command that tells whether the container is well. Times in nanoseconds, as in images.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// The program and its arguments; what was written for a shell has it in front.
    pub command: Vec<String>,
    pub interval: u64,
    pub timeout: u64,
    pub start_period: u64,
    pub start_interval: u64,
    pub retries: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogConfig {
    pub driver: LogDriver,
    /// Bytes after which a new file begins; none for never.
    pub max_size: Option<u64>,
    /// How many files are kept; 0 counts as 1.
    pub max_files: u32,
    /// Other options, for `inspect`.
    pub options: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogDriver {
    #[default]
    JsonFile,
    None,
}
