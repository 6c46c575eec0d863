//! `exec`: another process in a container that runs.

use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags};

use super::security::{self, SecurityError};
use super::{config, state};
use crate::diagnostic::one_line;
use crate::digest::Digest;
use crate::root;
use crate::runtime::monitor::Status;
use crate::runtime::seccomp::Kernel;
use crate::runtime::users::{self, UserError};
use crate::runtime::{Io, Join, Launcher, ProcessSpec, Running, SpawnError};
use crate::store::containers::{ContainerId, StoredContainer};
use crate::store::{Store, StoreError};

/// What to run, and how it differs from the container's own process.
#[derive(Debug)]
pub struct ExecRequest {
    pub command: Vec<String>,
    /// On top of the container's; of equal names the last counts.
    pub env: Vec<(String, String)>,
    pub cwd: Option<String>,
    pub user: Option<String>,
    /// Gives it every capability.
    pub privileged: bool,
    /// Whether it goes on when the caller is gone.
    pub detached: bool,
    pub io: Io,
    /// Of this machine.
    pub kernel: Kernel,
}

/// Why a process did not come to run.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("container `{0}` is not running")]
    NotRunning(String),
    #[error("container `{0}` is paused; unpause it first")]
    Paused(String),
    #[error(transparent)]
    User(#[from] UserError),
    #[error(transparent)]
    Security(#[from] SecurityError),
    #[error("cannot look into the container")]
    Look(#[source] std::io::Error),
    #[error("the working directory `{0}` is not an absolute path")]
    Workdir(String),
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    #[error("cannot start processes")]
    Launcher(#[source] std::io::Error),
}

impl ExecError {
    /// Docker's exit code for it: 126 and 127 for the program's own failures, 1 for the rest.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Spawn(error) => error.exit_code(),
            _ => 1,
        }
    }
}

/// Starts a process in a container.
///
/// # Errors
/// See [`ExecError`].
pub fn exec(store: &Store, container: &StoredContainer, request: ExecRequest) -> Result<Exec, ExecError> {
    let ended = || ExecError::NotRunning(container.name.clone());
    let now = state(store, &container.id)?;
    match now.status {
        Status::Running => {}
        Status::Paused => return Err(ExecError::Paused(container.name.clone())),
        _ => return Err(ended()),
    }
    let target = security::process_handle(now.pid).map_err(|_| ended())?;
    let root = rustix::fs::open(
        format!("/proc/{}/root", now.pid),
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|error| ExecError::Look(error.into()))?;
    // The number could have become another's before the handle was had: its monitor says whether it is the one.
    let again = state(store, &container.id)?;
    if security::has_ended(&target) || (again.pid, again.started_at) != (now.pid, now.started_at) {
        return Err(ended());
    }
    let config = config(container)?;
    let asked = request.user.as_deref().unwrap_or(&config.process.user);
    let mut user = users::resolve(root.as_fd(), if asked.is_empty() { "0" } else { asked })?;
    users::add_groups(root.as_fd(), &mut user, &config.process.groups)?;
    drop(root);
    let cwd = match request.cwd.filter(|cwd| !cwd.is_empty()) {
        Some(cwd) if !cwd.starts_with('/') => return Err(ExecError::Workdir(cwd)),
        Some(cwd) => root::clean(&cwd),
        None if config.process.cwd.is_empty() => "/".to_owned(),
        None => root::clean(&config.process.cwd),
    };
    let mut rights = config.security.clone();
    if request.privileged {
        // As under Docker it gets every capability, and the container's own filter for who has those.
        rights.cap_add = vec!["ALL".to_owned()];
        rights.cap_drop = Vec::new();
    }
    let security = security::security(&rights, request.kernel)?;
    let mut env = config.process.env.clone();
    let hostname = config.network.hostname.clone().unwrap_or_else(|| container.id.short().to_owned());
    env.insert(0, ("HOSTNAME".to_owned(), hostname));
    env.extend(request.env);
    // As Docker tells of it; a line of the log is bounded, and what is too long for it is not told at all.
    let command = one_line(&request.command.join(" "), 1024);
    let join = Join {
        target,
        process: ProcessSpec { args: request.command, env, cwd, user, umask: 0o022 },
        security,
        rlimits: config.limits.ulimits.clone(),
        oom_score_adj: config.limits.oom_score_adj,
        io: request.io,
        detached: request.detached,
    };
    let launcher = Launcher::of_this_program().map_err(ExecError::Launcher)?;
    let id = Digest::of(format!("{} {} {}", container.id, std::process::id(), store.now()).as_bytes()).hex();
    super::tell(store, &container.id, &format!("exec_create: {command}"), &[("execID", &id)]);
    let running = launcher.join(join)?;
    super::tell(store, &container.id, &format!("exec_start: {command}"), &[("execID", &id)]);
    Ok(Exec { running, id, container: container.id.clone() })
}

/// A process that was started in a container.
#[derive(Debug)]
pub struct Exec {
    pub running: Running,
    /// What its events have in common.
    id: String,
    container: ContainerId,
}

impl Exec {
    /// Tells that it ended so.
    pub fn tell_of_end(&self, store: &Store, code: i32) {
        let about = [("execID", self.id.as_str()), ("exitCode", &code.to_string())];
        super::tell(store, &self.container, "exec_die", &about);
    }
}
