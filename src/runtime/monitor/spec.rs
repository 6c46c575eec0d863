//! What a monitor is told: how its container lives and ends.

use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use super::{State, Streams};
use crate::runtime::wire::Parcel;

/// How a container lives.
#[derive(Debug)]
pub struct Life {
    /// A handle on its folder.
    pub folder: OwnedFd,
    /// Listens on [`super::SOCKET`] there.
    pub listener: OwnedFd,
    /// Holds its lock.
    pub lock: OwnedFd,
    /// Its whole id.
    pub id: String,
    pub log: LogSpec,
    /// What the starter's socket is attached to; none hangs up once the program runs. One that stays does what comes
    /// after the end itself, if it is still there then.
    pub first: Option<Streams>,
    /// Whether standard input ends with the first client that wrote to it.
    pub stdin_once: bool,
    /// Whether a process of ours comes first, and reaps.
    pub init: bool,
    /// What `stop` sends first, and how many seconds it gives the program; negative for any number.
    pub stop_signal: i32,
    pub stop_timeout: i64,
    pub restart: Restart,
    pub health: Option<HealthCheck>,
    /// How it is from the start: where it is on networks, and how often it was started again.
    pub state: State,
    /// This program's command line for what comes after the end; the monitor adds `--lock N`, and `--restart`.
    pub after: CommandLine,
    /// Whether there is anything to do after the end besides starting it again.
    pub cleans: bool,
    /// Whether what it wrote goes with it.
    pub passing: bool,
}

/// A program's arguments, from its name on, and all of its environment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandLine {
    pub arguments: Vec<String>,
    /// Names and values.
    pub environment: Vec<(String, String)>,
}

/// When a container is started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Restart {
    #[default]
    No,
    /// At most that often; none for without end.
    OnFailure(Option<u32>),
    /// Unless somebody stopped it.
    Always,
}

/// A command that tells whether a container is well. Times in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// The program and its arguments.
    pub command: Vec<String>,
    pub interval: u64,
    pub timeout: u64,
    pub start_period: u64,
    pub start_interval: u64,
    /// How many failures in a row there are for it to be unhealthy.
    pub retries: u32,
}

/// Where output is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSpec {
    /// Whether it is kept at all.
    pub keep: bool,
    /// Bytes after which a new file begins; none for never.
    pub max_size: Option<u64>,
    /// How many files there are at most, from 1.
    pub max_files: u32,
}

/// A [`Life`] as it travels, its handles as indices.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::runtime) struct LifePlan {
    pub folder: usize,
    pub listener: usize,
    pub lock: usize,
    pub id: String,
    pub log: LogSpec,
    pub first: Option<Streams>,
    pub stdin_once: bool,
    /// Whether a process of ours comes first, and reaps.
    pub init: bool,
    pub stop_signal: i32,
    pub stop_timeout: i64,
    pub restart: Restart,
    pub health: Option<HealthCheck>,
    pub state: State,
    pub after: CommandLine,
    pub cleans: bool,
    pub passing: bool,
}

impl LifePlan {
    pub(in crate::runtime) fn new(life: Life, parcel: &mut Parcel) -> Self {
        Self {
            folder: parcel.add_fd(life.folder),
            listener: parcel.add_fd(life.listener),
            lock: parcel.add_fd(life.lock),
            id: life.id,
            log: life.log,
            first: life.first,
            stdin_once: life.stdin_once,
            init: life.init,
            stop_signal: life.stop_signal,
            stop_timeout: life.stop_timeout,
            restart: life.restart,
            health: life.health,
            state: life.state,
            after: life.after,
            cleans: life.cleans,
            passing: life.passing,
        }
    }
}
