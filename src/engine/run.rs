//! `run`: an image becomes a container, a process over its tree with a layer of its own.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitStatus;

use rustix::fs::Mode;

use crate::digest::{Digest, LayerIdentity};
use crate::image::ImageConfig;
use crate::root;
use crate::runtime::users::{self, UserError};
use crate::runtime::{
    self, CgroupSpec, Files, Io, Launcher, MountSource, Network, ProcessSpec, Running, Sandbox, SandboxMount,
    Security, SpawnError, WaitError,
};
use crate::store::containers::Container;
use crate::store::images::StoredImage;
use crate::store::views::Scratch;
use crate::store::{Lease, StoreError};

use super::Engine;
use super::pull::{Layers, PullError, Remotes};

/// What to run, and how it differs from what the image says.
#[derive(Debug)]
pub struct RunRequest {
    pub image: StoredImage,
    /// Takes the place of the image's entrypoint, and of its command with it.
    pub entrypoint: Option<Vec<String>>,
    /// Takes the place of the image's command; empty for the image's own.
    pub command: Vec<String>,
    /// On top of the image's; of equal names the last counts.
    pub env: Vec<(String, String)>,
    pub binds: Vec<Bind>,
    /// Where memory is mounted.
    pub tmpfs: Vec<String>,
    pub workdir: Option<String>,
    pub user: Option<String>,
    pub name: Option<String>,
    /// Keep what the container wrote when it ends.
    pub keep: bool,
    pub network: Network,
    pub hostname: Option<String>,
    pub extra_hosts: Vec<(String, IpAddr)>,
    pub read_only: bool,
    pub io: Io,
    /// The host's `/etc/resolv.conf`.
    pub resolv_conf: Vec<u8>,
    /// The host's name, which a container on its network shares.
    pub host_name: String,
}

/// A directory or file of the host inside the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// An absolute path of the host. A missing one is made, as a directory.
    pub source: PathBuf,
    pub target: String,
    pub read_only: bool,
}

/// Why a container did not come to run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Pull(#[from] PullError),
    #[error(transparent)]
    User(#[from] UserError),
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    #[error("the image says no command to run, and none was given")]
    NoCommand,
    #[error("cannot mount `{}`", path.display())]
    Bind { path: PathBuf, source: std::io::Error },
    #[error("cannot make the working directory `{path}`")]
    Workdir { path: String, source: std::io::Error },
    #[error("cannot start containers")]
    Launcher(#[source] std::io::Error),
}

/// A container that runs. Dropped, it is killed and taken away.
#[derive(Debug)]
pub struct Started<'a> {
    /// Ends before what it runs on is taken away.
    pub running: Running,
    _folder: tempfile::TempDir,
    scratch: Option<Scratch>,
    container: Option<Container<'a>>,
    _lease: Lease<'a>,
}

impl Started<'_> {
    /// Waits for the end. What the container wrote stays if it was to be kept.
    ///
    /// # Errors
    /// [`WaitError`].
    pub fn wait(&mut self) -> Result<ExitStatus, WaitError> {
        let status = self.running.wait()?;
        if let (Some(scratch), Some(container)) = (self.scratch.take(), self.container.take()) {
            container.keep(scratch);
        }
        Ok(status)
    }
}

impl<'a> Engine<'a> {
    /// Starts a container. Its layers are fetched if they are missing.
    ///
    /// # Errors
    /// [`RunError`]; then nothing is left of it.
    pub fn start(&self, request: RunRequest) -> Result<Started<'a>, RunError> {
        let (config, _) = self.store.image_config(request.image.id)?;
        let args = arguments(&config, request.entrypoint, request.command)?;
        let lease = self.store.lease()?;
        self.store.hold_image(&request.image, &lease)?;
        let layers = self.layers_of(&request.image, &lease)?;
        let id = container_id(self.store.now());
        let short = &id[..12];
        let container = match request.keep {
            true => Some(self.store.add_container(&id, request.name.as_deref(), request.image.id)?),
            false => None,
        };
        let scratch = match &container {
            Some(container) => container.scratch()?,
            None => self.store.scratch()?,
        };
        let view = self.store.writable_view(&layers, &scratch)?;
        let user = request.user.unwrap_or(config.config.user);
        let user = users::resolve(view.as_fd(), if user.is_empty() { "0" } else { &user })?;
        let cwd = match request.workdir.unwrap_or(config.config.working_dir) {
            empty if empty.is_empty() => "/".to_owned(),
            path => root::clean(&path),
        };
        root::create_dirs(&view, &cwd, Mode::from_raw_mode(0o755))
            .map_err(|source| RunError::Workdir { path: cwd.clone(), source })?;
        let mut mounts = Vec::new();
        for bind in &request.binds {
            mounts.push(SandboxMount {
                target: bind.target.clone(),
                source: MountSource::Fd(open_bind(bind)?),
                read_only: bind.read_only,
                inert: false,
            });
        }
        mounts.extend(request.tmpfs.into_iter().map(|target| SandboxMount {
            target,
            source: MountSource::Tmpfs { size: None, mode: Some(0o1777) },
            read_only: false,
            inert: true,
        }));
        let hostname = request.hostname.unwrap_or_else(|| match request.network {
            Network::Host => request.host_name,
            Network::None => short.to_owned(),
        });
        let (mount, folder) = view.into_parts();
        let mut env: Vec<(String, String)> =
            config.config.env.iter().filter_map(|pair| pair.split_once('=')).map(owned).collect();
        env.insert(0, ("HOSTNAME".to_owned(), hostname.clone()));
        // An image may say nonsense here. What is no pair means nothing, and is not looked up anywhere.
        env.retain(|(name, _)| !name.is_empty());
        env.extend(request.env);
        let sandbox = Sandbox {
            rootfs: mount,
            read_only: request.read_only,
            process: ProcessSpec { args, env, cwd, user, umask: 0o022 },
            mounts,
            network: request.network,
            files: Files {
                hosts: Some(hosts(&hostname, &request.extra_hosts)),
                resolv_conf: Some(request.resolv_conf),
                hostname: Some(format!("{hostname}\n").into_bytes()),
                writable: true,
            },
            hostname,
            security: Security::default(),
            rlimits: Vec::new(),
            shm_size: None,
            devices: Vec::new(),
            cgroup: Some(CgroupSpec { id: format!("run-{short}"), ..CgroupSpec::default() }),
            io: request.io,
        };
        let launcher = Launcher::of_this_program().map_err(RunError::Launcher)?;
        let running = launcher.spawn(sandbox)?;
        Ok(Started { running, _folder: folder, scratch: Some(scratch), container, _lease: lease })
    }

    fn layers_of(
        &self,
        image: &StoredImage,
        lease: &Lease<'_>,
    ) -> Result<Vec<crate::store::layers::Layer>, RunError> {
        let identities: Vec<LayerIdentity> =
            image.diff_ids.iter().map(|diff_id| LayerIdentity::of_diff(*diff_id)).collect();
        if let Ok(found) = self.store.find_layers(&identities, lease)? {
            return Ok(found);
        }
        Layers { engine: self, remotes: &Remotes::default() }.fetch_all(&image.diff_ids, lease)?;
        let found = self.store.find_layers(&identities, lease)?;
        Ok(found.map_err(|missing| StoreError::MissingLayer(missing[0]))?)
    }
}

/// Entrypoint and command, as Docker joins them: another entrypoint drops the image's command.
fn arguments(
    config: &ImageConfig,
    entrypoint: Option<Vec<String>>,
    command: Vec<String>,
) -> Result<Vec<String>, RunError> {
    let command = match (&entrypoint, command) {
        (None, command) if command.is_empty() => config.config.cmd.clone().unwrap_or_default(),
        (_, command) => command,
    };
    let mut args = entrypoint.or_else(|| config.config.entrypoint.clone()).unwrap_or_default();
    args.extend(command);
    if args.is_empty() { Err(RunError::NoCommand) } else { Ok(args) }
}

fn open_bind(bind: &Bind) -> Result<std::os::fd::OwnedFd, RunError> {
    let failed = |source| RunError::Bind { path: bind.source.clone(), source };
    if !bind.source.exists() {
        std::fs::create_dir_all(&bind.source).map_err(failed)?;
    }
    let path = bind.source.canonicalize().map_err(failed)?;
    let text = path.to_str().ok_or_else(|| failed(std::io::ErrorKind::InvalidFilename.into()))?;
    let host = root::open_ambient_dir("/").map_err(failed)?;
    runtime::bind_recursive(&host, text).map_err(failed)
}

fn hosts(hostname: &str, extra: &[(String, IpAddr)]) -> Vec<u8> {
    let mut text = format!(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n127.0.0.1\t{hostname}\n"
    );
    for (name, address) in extra {
        text.push_str(&format!("{address}\t{name}\n"));
    }
    text.into_bytes()
}

fn owned((name, value): (&str, &str)) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

/// 64 hexadecimal digits that no other container has.
fn container_id(now: i64) -> String {
    Digest::of(format!("{} {now}", std::process::id()).as_bytes()).hex()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::Platform;

    #[test]
    fn entrypoint_and_command_join_as_in_docker() {
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let mut config = ImageConfig::scratch(&Platform::host());
        assert!(matches!(arguments(&config, None, vec![]), Err(RunError::NoCommand)));
        config.config.entrypoint = Some(texts(&["serve"]));
        config.config.cmd = Some(texts(&["--all"]));
        let args = |entrypoint, command| arguments(&config, entrypoint, command).unwrap();
        assert_eq!(args(None, vec![]), ["serve", "--all"]);
        assert_eq!(args(None, texts(&["--one"])), ["serve", "--one"]);
        assert_eq!(args(Some(texts(&["sh"])), vec![]), ["sh"]);
        assert_eq!(args(Some(vec![]), texts(&["ls"])), ["ls"]);
    }
}
