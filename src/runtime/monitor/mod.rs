//! Containers that outlive the command that started them: what the launcher does for one besides waiting.
//!
//! ```text
//! starter   Launcher::start: plan with a Life -> Client, the first one, on the socket that the plan went over
//! monitor   serve: poll loop over the program's output, its end, and clients; writes the log and `state.json`
//! clients   Client: `attach`, `stop`, `wait`, ... over `monitor.sock` in the container's folder (0600)
//! ```
//!
//! The monitor is the launcher itself, so starting a container executes nothing more than a step does. It has one
//! thread, no database, and holds the container's lock. What comes after the end and needs the store (`--rm`, another
//! start) is done by the command line that it was given, in its own place; the lock passes on with that.

mod client;
mod ending;
mod frame;
mod health;
mod lines;
mod log;
mod memory;
mod peer;
mod serve;
mod signals;
mod spec;
mod state;
mod tell;

pub use client::{Client, Event, ReplyError};
pub use frame::{Ended, Reply, Request, Streams};
pub use log::log_name;
pub use spec::{CommandLine, HealthCheck, Life, LogSpec, Restart};
pub use state::{HealthState, HealthStatus, Joined, Probe, Published, STATE_FILE, State, Status};
pub use state::{read as read_state, write as write_state};

pub(super) use serve::{Monitor, Output, Probing, Program};
pub(super) use spec::LifePlan;

/// The socket's name in the container's folder.
pub const SOCKET: &str = "monitor.sock";

/// Nanoseconds since the epoch. The monitor is a process of its own, so nobody could tell it the time.
fn now() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec)
}
