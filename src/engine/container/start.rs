//! `start`: a container's config becomes a sandbox with a life, and its launcher its monitor.
//!
//! A function for each topic of the config: [`mounts::for_sandbox`], [`network`], [`security`], [`limits`].

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Mode};

use super::config::{Config, LogDriver, RestartPolicy};
use super::mounts::{self, MountError};
use super::security::{self, SecurityError};
use super::{folder, read_state, settle, write_state};
use crate::digest::LayerIdentity;
use crate::engine::Engine;
use crate::engine::network::{self, Host, Joining, NetworkError, Prepared};
use crate::engine::pull::{Layers, PullError, Remotes};
use crate::root;
use crate::runtime::bundle::Foreign;
use crate::runtime::monitor::{
    self, CommandLine, HealthCheck, Life, LogSpec, Restart, SOCKET, State, Status, Streams,
};
use crate::runtime::signal;
use crate::runtime::users::{self, UserError};
use crate::runtime::{CgroupSpec, Files, Io, Launcher, Live, ProcessSpec, Sandbox, SpawnError};
use crate::store::containers::{ContainerId, Named, Stay, StoredContainer};
use crate::store::images::StoredImage;
use crate::store::lock::NameLock;
use crate::store::points::MountPoints;
use crate::store::{Store, StoreError};

/// How long somebody else may be busy with a container that is to be started.
const PATIENCE: Duration = Duration::from_secs(10);

/// How a container is started.
#[derive(Debug)]
pub struct StartRequest {
    pub host: Host,
    /// What the caller is attached to from the first byte on, if anything.
    pub attach: Option<Streams>,
    /// Rows and columns of the terminal, if it has one.
    pub size: (u16, u16),
    /// This program's command line for what comes after the end, to which the monitor adds `--lock=N` and
    /// `--restart`.
    pub after: CommandLine,
    /// Whether its monitor starts it again.
    pub again: bool,
    /// What was begun already, so that it is ready by the time it is needed.
    pub launcher: Option<Launcher>,
}

/// A container that was started.
#[derive(Debug)]
pub struct Started {
    pub live: Live,
    /// Why it reaches nothing outside, though its network should lead there.
    pub unconnected: Option<String>,
    /// A copy of its lock, where something is attached: with it the caller may do what comes after the end.
    pub lock: Option<OwnedFd>,
}

/// Why a container did not come to run.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    User(#[from] UserError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    #[error(transparent)]
    Security(#[from] SecurityError),
    #[error("the container is running already")]
    Running,
    #[error("the container is being started, changed or removed by another command")]
    Busy,
    #[error("there is no such container any more")]
    Gone,
    /// [`Engine::fetch_layers`] helps.
    #[error("layers of the container's image are not here")]
    MissingLayers(Box<StoredImage>),
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error("`{0}` is not supported yet")]
    Unsupported(&'static str),
    #[error("cannot make the working directory `{path}`")]
    Workdir { path: String, source: std::io::Error },
    #[error("the image of the container is not here any more")]
    NoImage,
    #[error("cannot make the monitor's socket")]
    Socket(#[source] std::io::Error),
    #[error("unknown signal `{0}`")]
    Signal(String),
    #[error("cannot start containers")]
    Launcher(#[source] std::io::Error),
}

impl StartError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Network(error) => error.hint(),
            _ => None,
        }
    }

    /// Docker's exit code for it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Spawn(error) => error.exit_code(),
            _ => 125,
        }
    }
}

/// Starts a container. A lock that somebody holds already is passed on to its monitor.
///
/// # Errors
/// [`StartError`]; then it does not run, and its state says why.
pub fn start(
    store: &Store,
    id: &ContainerId,
    lock: Option<NameLock>,
    request: StartRequest,
) -> Result<Started, StartError> {
    let lock = match lock {
        Some(lock) => lock,
        None => lock_when_free(store, id)?,
    };
    // Only now nobody removes it any more.
    let Named::One(container) = store.container(id.as_str())? else { return Err(StartError::Gone) };
    let before = if request.again {
        // It goes on waiting for its start, as everybody sees, until that comes.
        let before = read_state(store, id)?;
        State { restart_count: before.restart_count.saturating_add(1), ..before }
    } else {
        State { restart_count: 0, back_off: 0, ..settle(store, id, &lock)? }
    };
    let handed = lock.duplicate().map_err(StartError::Launcher)?;
    // Who is attached does what comes after the end under it. Nobody shall wait for one who has nothing to do.
    let does_more = request.attach.is_some() && super::needs_after(&super::config(&container)?);
    let kept = does_more.then(|| lock.duplicate()).transpose().map_err(StartError::Launcher)?;
    match launch(store, &container, handed, request, &before) {
        Ok((live, unconnected)) => {
            // From here on the monitor's copy is what counts.
            drop(lock.hand_over());
            Ok(Started { live, unconnected, lock: kept })
        }
        Err(error) => {
            drop(kept);
            let failed = State {
                status: if before.status == Status::Created { Status::Created } else { Status::Exited },
                exit_code: error.exit_code().into(),
                error: error.to_string(),
                ..before
            };
            write_state(store, id, &failed)?;
            Err(error)
        }
    }
}

/// Waits for those who only look, or remove and change; one that runs is an error at once.
fn lock_when_free(store: &Store, id: &ContainerId) -> Result<NameLock, StartError> {
    let begun = Instant::now();
    loop {
        if let Some(lock) = store.try_lock_container(id)? {
            return Ok(lock);
        }
        // A monitor that has just told of the end is there for a moment longer.
        let monitor = folder(store, id).ok().and_then(|folder| monitor::Client::connect(folder).ok());
        let state = monitor.and_then(|mut monitor| monitor.state().ok());
        if state.is_some_and(|state| state.status.is_live()) {
            return Err(StartError::Running);
        }
        if begun.elapsed() > PATIENCE {
            return Err(StartError::Busy);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn launch(
    store: &Store,
    container: &StoredContainer,
    lock: OwnedFd,
    mut request: StartRequest,
    before: &State,
) -> Result<(Live, Option<String>), StartError> {
    let config = super::config(container)?;
    let id = &container.id;
    let image = store.image(container.image)?.ok_or(StartError::NoImage)?;
    let identities: Vec<LayerIdentity> =
        image.diff_ids.iter().map(|diff_id| LayerIdentity::of_diff(*diff_id)).collect();
    let Ok(layers) = store.held_layers(&identities)? else {
        return Err(StartError::MissingLayers(Box::new(image)));
    };
    let points = mounts::allow_points(&config).then_some(MountPoints::Container);
    let rootfs = store.container_view(&layers, id, super::create::stay(&config), points)?;
    mounts::fill(store, id, &config, rootfs.as_fd())?;
    let mounts = mounts::for_sandbox(store, id, &config, rootfs.as_fd())?;
    let process = process(&config, &rootfs)?;
    let joining = Joining { id: id.as_str(), name: &container.name, config: &config.network };
    let Prepared { network, hostname, hosts, resolv_conf, joined, published, unconnected } =
        network::prepare(store, &request.host, joining, |other| network::namespace_of(store, other))?;
    let sandbox = Sandbox {
        read_only: config.read_only,
        mounts,
        network,
        files: Files {
            hosts: Some(hosts),
            resolv_conf: Some(resolv_conf),
            hostname: Some(format!("{hostname}\n").into_bytes()),
            writable: true,
        },
        security: security::security(&config.security, request.host.kernel)?,
        rlimits: config.limits.ulimits.clone(),
        shm: security::shared_memory(&config, running(store))?,
        devices: security::devices(&config)?,
        cgroup: Some(limits(&config, id)),
        namespaces: security::namespaces(&config, running(store))?,
        tuning: security::tuning(&config.limits),
        io: io(&config, request.size)?,
        process: ProcessSpec {
            env: std::iter::once(("HOSTNAME".to_owned(), hostname.clone())).chain(process.env).collect(),
            ..process
        },
        hostname,
        domainname: config.network.domainname.clone(),
        rootfs,
    };
    let launcher = match request.launcher.take() {
        Some(begun) => begun,
        None => Launcher::of_this_program().map_err(StartError::Launcher)?,
    };
    let mut life = life(store, container, &config, lock, request, before)?;
    life.cleans |= super::after::is_in_firewall(&joined, &published);
    (life.state.networks, life.state.ports) = (joined, published);
    let live = match &config.runtime {
        None => launcher.start(sandbox, life)?,
        Some(program) => {
            let folder = store.container_folder(id).join("bundle");
            std::fs::create_dir_all(&folder).map_err(StoreError::io("create", &folder))?;
            let program = program.clone();
            launcher.start_foreign(Foreign { program, folder }, sandbox, life)?
        }
    };
    Ok((live, unconnected))
}

fn process(config: &Config, rootfs: &OwnedFd) -> Result<ProcessSpec, StartError> {
    let asked = &config.process;
    let mut user = users::resolve(rootfs.as_fd(), if asked.user.is_empty() { "0" } else { &asked.user })?;
    users::add_groups(rootfs.as_fd(), &mut user, &asked.groups)?;
    let cwd = if asked.cwd.is_empty() { "/".to_owned() } else { root::clean(&asked.cwd) };
    root::create_dirs(rootfs, &cwd, Mode::from_raw_mode(0o755))
        .map_err(|source| StartError::Workdir { path: cwd.clone(), source })?;
    Ok(ProcessSpec {
        args: asked.entrypoint.iter().chain(&asked.command).cloned().collect(),
        env: asked.env.clone(),
        cwd,
        user,
        umask: 0o022,
    })
}

fn io(config: &Config, (rows, columns): (u16, u16)) -> Result<Io, StartError> {
    if config.process.tty {
        return Ok(Io::Terminal { rows, columns });
    }
    let stdin = match config.process.stdin_open {
        true => None,
        false => Some(std::fs::File::open("/dev/null").map_err(StartError::Launcher)?.into()),
    };
    Ok(Io::Pipes { stdin })
}

/// Tells the first process of a container that runs.
fn running(store: &Store) -> impl Fn(&str) -> Option<i32> {
    |id| {
        let id = ContainerId::parse(id)?;
        let state = super::state(store, &id).ok()?;
        matches!(state.status, Status::Running | Status::Paused).then_some(state.pid)
    }
}

/// The cgroup, whose name is the container's id.
fn limits(config: &Config, id: &ContainerId) -> CgroupSpec {
    CgroupSpec {
        id: id.as_str().to_owned(),
        parent: config.limits.cgroup_parent.clone(),
        resources: config.limits.resources.clone(),
        accounted: true,
    }
}

fn life(
    store: &Store,
    container: &StoredContainer,
    config: &Config,
    lock: OwnedFd,
    request: StartRequest,
    before: &State,
) -> Result<Life, StartError> {
    let life = &config.life;
    let stop_signal = match &life.stop_signal {
        Some(text) => signal::parse(text).ok_or_else(|| StartError::Signal(text.clone()))?,
        None => libc::SIGTERM,
    };
    let folder = folder(store, &container.id)?;
    Ok(Life {
        listener: listen(&folder).map_err(StartError::Socket)?.into(),
        folder,
        lock,
        id: container.id.as_str().to_owned(),
        log: LogSpec {
            keep: life.log.driver == LogDriver::JsonFile,
            max_size: life.log.max_size,
            max_files: life.log.max_files.max(1),
        },
        first: request.attach,
        stdin_once: config.process.stdin_once,
        init: config.process.init,
        stop_signal,
        stop_timeout: life.stop_timeout.unwrap_or(10),
        restart: restart(life.restart),
        health: life.health.as_ref().map(health).filter(|check| !check.command.is_empty()),
        state: State { restart_count: before.restart_count, back_off: before.back_off, ..State::default() },
        after: request.after,
        cleans: super::needs_after(config),
        passing: super::create::stay(config) == Stay::Passing,
    })
}

/// What a monitor makes of a policy.
pub(super) fn restart(policy: RestartPolicy) -> Restart {
    match policy {
        RestartPolicy::No => Restart::No,
        RestartPolicy::OnFailure(most) => Restart::OnFailure(most.filter(|most| *most > 0)),
        RestartPolicy::Always | RestartPolicy::UnlessStopped => Restart::Always,
    }
}

fn health(asked: &super::config::Health) -> HealthCheck {
    let super::config::Health { command, interval, timeout, start_period, start_interval, retries } =
        asked.with_defaults();
    HealthCheck { command, interval, timeout, start_period, start_interval, retries }
}

/// Listens in the container's folder, which nobody else may enter. What the last monitor left there is replaced.
fn listen(folder: &OwnedFd) -> std::io::Result<UnixListener> {
    match rustix::fs::unlinkat(folder, SOCKET, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let listener = UnixListener::bind(format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd()))?;
    rustix::fs::chmodat(folder, SOCKET, Mode::from_raw_mode(0o600), AtFlags::empty())?;
    Ok(listener)
}

impl Engine<'_> {
    /// Fetches the layers of an image that are not here.
    ///
    /// # Errors
    /// What the registry gives.
    pub fn fetch_layers(&self, image: &StoredImage) -> Result<(), PullError> {
        let lease = self.store.lease()?;
        Layers { engine: self, remotes: &Remotes::default() }.fetch_all(&image.diff_ids, &lease)?;
        Ok(())
    }
}
