//! Containers: from what was asked for to a process with a monitor, and what can be done with it then.
//!
//! ```text
//! create    image + what was asked for -> Config -> row and folder
//! start     Config -> Sandbox and Life -> the launcher, which stays as the monitor
//! control   what is asked of a monitor: stop, signals, its end; removal
//! view      a container as it is, and inspect, Docker's document of it
//! after     what the monitor becomes when its container has ended and the store is needed: `--rm`, another start
//! ```
//!
//! A container whose lock is free does not run, whatever its state says: its monitor was killed, and the kernel killed
//! its processes with that. Whoever comes next [`settle`]s it.

mod after;
pub mod config;
mod control;
pub mod copy;
mod create;
pub mod diff;
pub mod exec;
pub mod files;
mod inspect;
mod logs;
pub mod mounts;
mod name;
pub mod resources;
pub mod security;
mod start;
mod view;

use std::io::ErrorKind;
use std::os::fd::OwnedFd;

pub use after::{after, after_attached, needs_after, settle_abandoned, settle_killed};
pub use config::{Config, LogDriver};
pub use control::{ControlError, connect, remove, signal, stop, stop_to_start, wait, wait_for_removal};
pub use create::{CreateError, CreateRequest, Created, create};
pub use inspect::{Facts, inspect, network_mode, protocol_word, status_word};
pub use logs::{LogEntry, LogError, LogRequest, logs};
pub use name::{NameError, parse_name, unused_name};
pub use start::{StartError, StartRequest, Started, start};
pub use view::{Seen, attributes, introduce, see, see_all};

use crate::root;
use crate::runtime::Group;
use crate::runtime::monitor::{self, State, Status};
use crate::store::containers::{ContainerId, Named, StoredContainer};
use crate::store::lock::NameLock;
use crate::store::{Store, StoreError};

/// The exit code of what was killed.
const KILLED: i32 = 128 + libc::SIGKILL;
/// The exit code of what ended in a way that nobody knows, as in Docker.
const UNKNOWN: i32 = 255;

/// What a container was told to be.
///
/// # Errors
/// A document of another version of stave.
pub fn config(container: &StoredContainer) -> Result<Config, StoreError> {
    serde_json::from_str(&container.config).map_err(unreadable(&container.id))
}

fn unreadable(id: &ContainerId) -> impl Fn(serde_json::Error) -> StoreError {
    move |source| StoreError::Document { what: format!("of container {}", id.short()), source }
}

/// Changes what a container is told to be. Two who change different things at once do not undo each other's.
///
/// # Errors
/// What the database and `change` give, and a document of another version of stave; then it is as it was.
pub fn change_config<E: From<StoreError>>(
    store: &Store,
    id: &ContainerId,
    change: impl FnOnce(&mut Config) -> Result<(), E>,
) -> Result<(), E> {
    let wrong = |source| StoreError::Document { what: format!("of container {}", id.short()), source };
    store.change_container_config(id, |text| {
        let mut config = serde_json::from_str(text).map_err(wrong)?;
        change(&mut config)?;
        Ok(serde_json::to_string(&config).map_err(wrong)?)
    })
}

/// How a container is. One whose monitor was killed has ended.
///
/// # Errors
/// What the file system gives.
pub fn state(store: &Store, id: &ContainerId) -> Result<State, StoreError> {
    let read = || read_state(store, id);
    let mut state = read()?;
    if state.status.is_live() && !store.container_is_held(id)? {
        // It may have ended, in order, between the two looks.
        state = read()?;
        if state.status.is_live() {
            give_up(&mut state);
        }
    }
    Ok(state)
}

/// As [`state`], for who holds the lock: what a killed monitor left is put right in the file too.
///
/// # Errors
/// What the file system gives.
pub fn settle(store: &Store, id: &ContainerId, _held: &NameLock) -> Result<State, StoreError> {
    let mut state = read_state(store, id)?;
    if state.status.is_live() {
        give_up(&mut state);
        state.finished_at = store.now();
        write_state(store, id, &state)?;
        if let Named::One(container) = store.container(id.as_str())?
            && let Ok(config) = config(&container)
        {
            forget_group(&config, id);
        }
    }
    Ok(state)
}

/// Takes away the cgroup that another runtime made for a container and could not remove, being killed with its monitor.
/// For who holds the container's lock: nobody makes one meanwhile. Ours are swept, having locks of their own.
fn forget_group(config: &Config, id: &ContainerId) {
    if config.runtime.is_some() {
        Group::remove_foreign(config.limits.cgroup_parent.as_deref(), id.as_str());
    }
}

/// Its monitor is gone, and it with that.
fn give_up(state: &mut State) {
    // One that waited for its next start had ended by itself.
    if state.status != Status::Restarting {
        state.exit_code = KILLED;
    }
    state.status = Status::Exited;
    state.pid = 0;
    state.finished_at = state.finished_at.max(state.started_at);
}

fn read_state(store: &Store, id: &ContainerId) -> Result<State, StoreError> {
    let folder = folder(store, id)?;
    match monitor::read_state(&folder) {
        // It was cut off by a power cut, perhaps; a container whose state is lost must still be one that can be
        // started and removed. Whether it runs is told by its lock.
        Err(error) if matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) => {
            Ok(State {
                status: Status::Exited,
                exit_code: UNKNOWN,
                error: "how it ended is not known: its state cannot be read".to_owned(),
                finished_at: store.now(),
                ..State::default()
            })
        }
        read => read.map_err(StoreError::io("read the state in", store.container_folder(id))),
    }
}

fn write_state(store: &Store, id: &ContainerId, state: &State) -> Result<(), StoreError> {
    let folder = folder(store, id)?;
    monitor::write_state(&folder, state)
        .map_err(StoreError::io("write the state in", store.container_folder(id)))
}

/// Tells the log that something was done to a container; nothing fails for its event.
pub fn tell(store: &Store, id: &ContainerId, action: &str, more: &[(&str, &str)]) {
    if let Ok(folder) = folder(store, id) {
        crate::event::of_container(folder, action, more, store.now());
    }
}

/// A handle on a container's folder.
fn folder(store: &Store, id: &ContainerId) -> Result<OwnedFd, StoreError> {
    let path = store.container_folder(id);
    root::open_ambient_dir(&path).map_err(StoreError::io("open", path))
}
