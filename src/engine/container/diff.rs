//! `diff`, `export`, `commit`: what a container made of its image.

use std::io::Write;
use std::os::fd::AsFd;

use time::OffsetDateTime;

use super::files::{self, FilesError, Which};
use super::resources::{self, ResourceError};
use super::{config, state};
use crate::digest::ImageId;
use crate::image::{ContainerConfig, Empty, Healthcheck, History};
use crate::reference::Reference;
use crate::runtime::monitor::Status;
use crate::store::containers::StoredContainer;
use crate::store::layer::{self, Change, CopyError, Owner, PackError, Packing};
use crate::store::{Store, StoreError};

/// Why a container did not become something else.
#[derive(Debug, thiserror::Error)]
pub enum DiffError {
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Pack(#[from] PackError),
    #[error(transparent)]
    Pause(#[from] ResourceError),
    #[error("cannot copy what the container wrote")]
    Copy(#[from] CopyError),
}

impl From<layer::PathError> for DiffError {
    fn from(error: layer::PathError) -> Self {
        Self::Files(error.into())
    }
}

/// What a container changed in its image's files, in the order of paths.
///
/// # Errors
/// [`DiffError`].
pub fn diff(store: &Store, container: &StoredContainer) -> Result<Vec<Change>, DiffError> {
    let lease = store.lease()?;
    let lower = store.view(&files::layers(store, container, &lease)?)?;
    let upper = files::written(store, container, lower.as_fd())?;
    let stubs = files::mount_points(&config(container)?, upper.as_fd(), lower.as_fd())?;
    Ok(layer::changes(upper.as_fd(), lower.as_fd(), store.marks(), &stubs)?)
}

/// Writes a container's own files, its image's among them, as an archive. What is mounted in it is left out.
///
/// # Errors
/// [`DiffError`].
pub fn export(store: &Store, container: &StoredContainer, out: &mut dyn Write) -> Result<(), DiffError> {
    let files = files::open(store, container, Which::Own)?;
    Ok(layer::pack(files.as_fd(), &Packing { precise: false, ..Packing::ALL }, out)?)
}

/// What a commit adds.
#[derive(Debug, Clone, Default)]
pub struct CommitRequest {
    pub author: Option<String>,
    pub message: Option<String>,
    /// The name that the image gets.
    pub name: Option<Reference>,
    /// Whether a container that runs is held while its files are read.
    pub pause: bool,
}

/// Makes an image of a container: its image's layers and what it wrote as one more. `change` is given the config
/// that the container's becomes, and what it returns is the image's.
///
/// # Errors
/// [`DiffError`], or what `change` gives.
pub fn commit<E: From<DiffError>>(
    store: &Store,
    container: &StoredContainer,
    request: &CommitRequest,
    change: impl FnOnce(ContainerConfig) -> Result<ContainerConfig, E>,
) -> Result<ImageId, E> {
    let step = |error: DiffError| E::from(error);
    let config = config(container).map_err(|error| step(error.into()))?;
    let (mut image, _) = store.image_config(container.image).map_err(|error| step(error.into()))?;
    image.config = change(container_config(&config, image.config))?;
    add_layer(store, container, &config, request, image).map_err(step)
}

fn add_layer(
    store: &Store,
    container: &StoredContainer,
    config: &super::Config,
    request: &CommitRequest,
    mut image: crate::image::ImageConfig,
) -> Result<ImageId, DiffError> {
    let lease = store.lease()?;
    let base = files::image(store, container)?;
    store.hold_image(&base, &lease)?;
    let layers = files::layers(store, container, &lease)?;
    let lower = store.view(&layers)?;
    let held = if request.pause { Held::new(store, container)? } else { None };
    let upper = files::written(store, container, lower.as_fd())?;
    let stubs = files::mount_points(config, upper.as_fd(), lower.as_fd())?;
    // The container goes on with its own; a layer is brought into normal form, in place.
    let scratch = store.scratch()?;
    let copy =
        crate::root::open_ambient_dir(scratch.upper()).map_err(StoreError::io("open", scratch.upper()))?;
    let without = |path: &[u8], _: &rustix::fs::Stat| stubs.contains(path);
    let packing = Packing { marks: true, without: &without, ..Packing::ALL };
    let extracting = layer::Extracting { marks: true, ..store.extracting(Owner::Keep) };
    layer::copy_tree(upper.as_fd(), &packing, copy.as_fd(), &extracting)?;
    layer::copy_directory(upper.as_fd(), copy.as_fd(), true)
        .map_err(StoreError::io("copy", scratch.upper()))?;
    drop(held);
    let (_, layer) = store.keep_made(scratch, Some(&lower), &lease)?;
    let now = OffsetDateTime::from_unix_timestamp_nanos(i128::from(store.now())).ok();
    image.created = now;
    image.author.clone_from(&request.author);
    let empty = layer.is_empty();
    if !empty {
        image.rootfs.diff_ids.push(layer.diff_id);
    }
    image.history.push(History {
        created: now,
        created_by: Some(config.process.command.join(" ")),
        author: request.author.clone(),
        comment: request.message.clone(),
        empty_layer: empty,
    });
    store.sync_layers(&image.rootfs.diff_ids)?;
    let stored = store.put_image(&image.to_bytes().1, None)?;
    if let Some(name) = &request.name {
        store.tag(name, stored.id)?;
    }
    Ok(stored.id)
}

/// A container that is paused, and goes on when this is dropped.
struct Held<'a> {
    store: &'a Store,
    container: &'a StoredContainer,
}

impl<'a> Held<'a> {
    /// Nothing for one that does not run, or that somebody else has paused. One that cannot be held, for want of a
    /// cgroup, is read while it runs, as Docker reads it without `--pause`.
    fn new(store: &'a Store, container: &'a StoredContainer) -> Result<Option<Self>, DiffError> {
        if state(store, &container.id)?.status != Status::Running {
            return Ok(None);
        }
        match resources::pause(store, container) {
            Ok(()) => Ok(Some(Self { store, container })),
            Err(ResourceError::NoCgroup(_) | ResourceError::NotRunning(_) | ResourceError::Paused(_)) => {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // It may have been killed or unpaused meanwhile.
        let _ = resources::unpause(self.store, self.container);
    }
}

/// The image's config with what the container was told in its place, as Docker keeps it of a container.
fn container_config(config: &super::Config, image: ContainerConfig) -> ContainerConfig {
    let process = &config.process;
    let list = |words: &[String]| (!words.is_empty()).then(|| words.to_vec());
    let mut env: Vec<String> = Vec::new();
    for (name, value) in &process.env {
        // A terminal's kind is no fact about the image.
        if name == "TERM" && process.tty {
            continue;
        }
        let prefix = format!("{name}=");
        env.retain(|pair| !pair.starts_with(&prefix));
        env.push(format!("{prefix}{value}"));
    }
    let mut exposed = image.exposed_ports.clone();
    for (port, protocol) in &config.network.exposed {
        let protocol = match protocol {
            config::Protocol::Tcp => "tcp",
            config::Protocol::Udp => "udp",
            config::Protocol::Sctp => "sctp",
        };
        exposed.insert(format!("{port}/{protocol}"), Empty {});
    }
    let mut volumes = image.volumes.clone();
    for mount in &config.mounts {
        if let config::MountSource::Volume { anonymous: true, .. } = mount.source {
            volumes.entry(mount.target.clone()).or_insert(Empty {});
        }
    }
    ContainerConfig {
        user: process.user.clone(),
        exposed_ports: exposed,
        env,
        entrypoint: list(&process.entrypoint),
        cmd: list(&process.command),
        volumes,
        working_dir: process.cwd.clone(),
        labels: config.labels.clone(),
        stop_signal: config.life.stop_signal.clone(),
        stop_timeout: config.life.stop_timeout.and_then(|seconds| u64::try_from(seconds).ok()),
        healthcheck: health(config, image.healthcheck),
        // What the image tells builds on it is done with: this is no build.
        on_build: Vec::new(),
        shell: image.shell,
        args_escaped: false,
    }
}

/// The container's check; the image's own words where they say the same.
fn health(config: &super::Config, image: Option<Healthcheck>) -> Option<Healthcheck> {
    let Some(health) = &config.life.health else {
        // Docker's way to say that what a base checks is not checked.
        return image.map(|_| Healthcheck { test: vec!["NONE".to_owned()], ..Healthcheck::default() });
    };
    let test = match &health.command[..] {
        [shell, flag, script] if shell == "/bin/sh" && flag == "-c" => {
            vec!["CMD-SHELL".to_owned(), script.clone()]
        }
        command => std::iter::once("CMD".to_owned()).chain(command.iter().cloned()).collect(),
    };
    let time = |time: u64| i64::try_from(time).unwrap_or(i64::MAX);
    Some(Healthcheck {
        test,
        interval: time(health.interval),
        timeout: time(health.timeout),
        start_period: time(health.start_period),
        start_interval: time(health.start_interval),
        retries: health.retries.into(),
    })
}
