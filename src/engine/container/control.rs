//! What is asked of a container that runs, and its removal.
//!
//! All of it goes to the monitor. Where none answers although the lock is held, one is just being started or is on
//! its way from one start to the next, so that is waited for.

use std::time::{Duration, Instant};

use super::{folder, settle, state};
use crate::runtime::monitor::{Client, Ended, Reply, ReplyError, Request};
use crate::store::containers::{ContainerId, Named, Stay};
use crate::store::{Store, StoreError};

/// How long a monitor may be between two starts.
const PATIENCE: Duration = Duration::from_secs(20);
const GLANCE: Duration = Duration::from_millis(5);

/// Why a container was not controlled.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the container is not running")]
    NotRunning,
    #[error("the container is running; stop it first, or force it")]
    Running,
    #[error("another command is busy with the container")]
    Busy,
    #[error(transparent)]
    Monitor(#[from] ReplyError),
}

/// Connects to a container's monitor; nothing if it does not run.
///
/// # Errors
/// [`ControlError::Busy`] where somebody holds its lock for long and does not answer.
pub fn connect(store: &Store, id: &ContainerId) -> Result<Option<Client>, ControlError> {
    let begun = Instant::now();
    loop {
        let Ok(folder) = folder(store, id) else { return Ok(None) };
        if let Ok(client) = Client::connect(&folder) {
            return Ok(Some(client));
        }
        if !store.container_is_held(id)? {
            return Ok(None);
        }
        if begun.elapsed() > PATIENCE {
            return Err(ControlError::Busy);
        }
        std::thread::sleep(GLANCE);
    }
}

/// Sends a signal.
///
/// # Errors
/// [`ControlError::NotRunning`], among others.
pub fn signal(store: &Store, id: &ContainerId, signal: i32) -> Result<(), ControlError> {
    let mut client = connect(store, id)?.ok_or(ControlError::NotRunning)?;
    if signal == libc::SIGKILL {
        super::resources::thaw_to_end(store, id)?;
    }
    match client.ask(&Request::Signal(signal)) {
        // It ended just now.
        Err(ReplyError::Gone) => Err(ControlError::NotRunning),
        asked => Ok(asked.map(|_: Reply| ())?),
    }
}

/// Stops a container: a signal, and SIGKILL after some seconds (see [`Request::Stop`]). One that does not run is
/// stopped already.
///
/// # Errors
/// What speaking to its monitor gives.
pub fn stop(
    store: &Store,
    id: &ContainerId,
    signal: Option<i32>,
    timeout: Option<i64>,
) -> Result<(), ControlError> {
    end(store, id, signal, timeout, false)
}

/// As [`stop`], for who starts it again at once: one that was to be removed after its end is not.
///
/// # Errors
/// As [`stop`].
pub fn stop_to_start(
    store: &Store,
    id: &ContainerId,
    signal: Option<i32>,
    timeout: Option<i64>,
) -> Result<(), ControlError> {
    end(store, id, signal, timeout, true)
}

fn end(
    store: &Store,
    id: &ContainerId,
    signal: Option<i32>,
    timeout: Option<i64>,
    again: bool,
) -> Result<(), ControlError> {
    super::resources::thaw_to_end(store, id)?;
    while let Some(mut client) = connect(store, id)? {
        match client.ask_for_end(&Request::Stop { signal, timeout, again }) {
            // Where it was between two starts, the next one is what is to be stopped.
            Ok(Ended { restarts: true, .. }) | Err(ReplyError::Gone) => {}
            Ok(_) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Waits for a container's end, or for the next one if it does not run and `next` says so; gives its exit code.
///
/// # Errors
/// What speaking to its monitor gives.
pub fn wait(store: &Store, id: &ContainerId, next: bool) -> Result<i32, ControlError> {
    loop {
        if let Some(mut client) = connect(store, id)? {
            match client.ask_for_end(&Request::Wait) {
                Ok(ended) if ended.restarts && !next => continue,
                Ok(ended) => return Ok(ended.code),
                // Killed: whoever looks at the state next sees that.
                Err(ReplyError::Gone) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if !next {
            return Ok(state(store, id)?.exit_code);
        }
        std::thread::sleep(GLANCE * 4);
    }
}

/// Waits until a container is gone, and gives the exit code of its last end.
///
/// # Errors
/// As [`wait`].
pub fn wait_for_removal(store: &Store, id: &ContainerId) -> Result<i32, ControlError> {
    let mut code = 0;
    while let Named::One(_) = store.container(id.as_str())? {
        if let Some(mut client) = connect(store, id)? {
            match client.ask_for_end(&Request::Wait) {
                Ok(ended) => code = ended.code,
                Err(ReplyError::Gone) => {}
                Err(error) => return Err(error.into()),
            }
        } else if let Ok(state) = state(store, id) {
            code = state.exit_code;
        }
        std::thread::sleep(GLANCE * 4);
    }
    Ok(code)
}

/// Removes a container, with all that it wrote; one that runs only with `force`, which kills it. One that is gone
/// already is fine. With `volumes` those go too that nobody named and no other container mounts.
///
/// # Errors
/// [`ControlError::Running`], among others.
pub fn remove(store: &Store, id: &ContainerId, force: bool, volumes: bool) -> Result<(), ControlError> {
    if force {
        stop(store, id, Some(libc::SIGKILL), Some(-1))?;
    }
    let begun = Instant::now();
    let lock = loop {
        if let Some(lock) = store.try_lock_container(id)? {
            break lock;
        }
        // A monitor that has told of the end may be busy with what comes after it for a moment.
        if !force && state(store, id)?.status.is_live() {
            return Err(ControlError::Running);
        }
        if begun.elapsed() > PATIENCE {
            return Err(ControlError::Busy);
        }
        std::thread::sleep(GLANCE);
    };
    if let Named::One(container) = store.container(id.as_str())? {
        if !store.container_is_lost(id, &lock) {
            settle(store, id, &lock)?;
        }
        // What another version of stave wrote down is no reason to keep a container.
        let config = super::config(&container).unwrap_or_default();
        super::forget_group(&config, id);
        store.remove_container(id, Stay::Lasting, &lock)?;
        if volumes || config.life.remove {
            store.remove_unused_volumes(&super::mounts::anonymous_volumes(&config))?;
        }
    }
    Ok(())
}
