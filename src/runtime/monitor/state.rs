//! How a container is at the moment: `state.json` in its folder.
//!
//! While its monitor lives, nobody else writes the file; whether it lives is told by the container's lock and not by
//! the file, so a state of a monitor that was killed is recognised. Written whole and renamed.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

/// Its name in the container's folder.
pub const STATE_FILE: &str = "state.json";
/// No state is longer.
const LIMIT: u64 = 1 << 20;

/// Times are nanoseconds since the epoch; 0 for never.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    pub status: Status,
    /// Of the first process, as the host (or the user's namespace) numbers it; 0 if there is none.
    pub pid: i32,
    pub monitor_pid: i32,
    /// 128 and more for signals.
    pub exit_code: i32,
    /// Why it could not be started.
    pub error: String,
    pub oom_killed: bool,
    pub started_at: i64,
    pub finished_at: i64,
    pub restart_count: u32,
    /// Milliseconds that were waited before it was last started again.
    pub back_off: u64,
    /// Whether it ended because somebody stopped it: `unless-stopped` stays that way then.
    pub stopped_by_hand: bool,
    pub health: Option<HealthState>,
    pub networks: Vec<Joined>,
    pub ports: Vec<Published>,
}

impl Status {
    /// Whether a monitor is there for it, if it was not killed.
    pub fn is_live(self) -> bool {
        match self {
            Self::Running | Self::Paused | Self::Restarting => true,
            Self::Created | Self::Removing | Self::Exited | Self::Dead => false,
        }
    }
}

/// Reads the state from a container's folder; one that was never written is that of a new container.
///
/// # Errors
/// What the file system gives, and `InvalidData` for what is no state.
pub fn read(folder: impl AsFd) -> io::Result<State> {
    match crate::root::read(folder, STATE_FILE, LIMIT) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(State::default()),
        Err(error) => Err(error),
    }
}

/// Writes the state into a container's folder. Whoever does this holds the container's lock.
///
/// # Errors
/// What the file system gives; then the old one is still there.
pub fn write(folder: impl AsFd, state: &State) -> io::Result<()> {
    const NEW: &str = "state.json.new";
    let folder = folder.as_fd();
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut file = std::fs::File::from(rustix::fs::openat(folder, NEW, flags, Mode::from_raw_mode(0o600))?);
    file.write_all(&serde_json::to_vec(state)?)?;
    Ok(rustix::fs::renameat(folder, NEW, folder, STATE_FILE)?)
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    #[default]
    Created,
    Running,
    Paused,
    /// It ended, and will be started again.
    Restarting,
    Removing,
    Exited,
    Dead,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthState {
    pub status: HealthStatus,
    pub failing_streak: u32,
    /// The last five.
    pub log: Vec<Probe>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    #[default]
    Starting,
    Healthy,
    Unhealthy,
}

impl HealthStatus {
    /// Docker's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// One run of the health command.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    pub start: i64,
    pub end: i64,
    pub exit_code: i32,
    /// At most 4 KiB.
    pub output: String,
}

/// A network that it is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    pub network: String,
    pub network_id: String,
    /// The device inside.
    pub device: String,
    pub ipv4: Option<(Ipv4Addr, u8)>,
    pub gateway: Option<Ipv4Addr>,
    pub ipv6: Option<(Ipv6Addr, u8)>,
    pub gateway6: Option<Ipv6Addr>,
    pub mac: [u8; 6],
}

/// A port of the host that leads into it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    pub container_port: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    pub host_ip: IpAddr,
    pub host_port: u16,
}
