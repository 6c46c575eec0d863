//! A container's files, for those who look at them from outside: `cp`, `export`, `diff`, `commit`.
//!
//! Of a container that runs its first process's root is opened, so all is seen as the container sees it, volumes and
//! binds too. One that does not run is put together here as it would be for a start, under its lock, and is gone with
//! the handle. Either way what comes back is a handle, and every path is resolved beneath it.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::config::Config;
use super::mounts::{self, MountError};
use super::{config, settle, state};
use crate::digest::LayerIdentity;
use crate::root;
use crate::runtime::detached::{self, Assembled};
use crate::store::containers::StoredContainer;
use crate::store::images::StoredImage;
use crate::store::layer::{self, PathError};
use crate::store::layers::Layer;
use crate::store::lock::NameLock;
use crate::store::points::MountPoints;
use crate::store::views::Scratch;
use crate::store::{Lease, Store, StoreError};

/// How long others may look at a container's files, or change it, before who comes next gives up.
const PATIENCE: Duration = Duration::from_secs(20);
const GLANCE: Duration = Duration::from_millis(5);

/// Why a container's files cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error(transparent)]
    Path(#[from] PathError),
    #[error("the image of the container is not here any more")]
    NoImage,
    #[error("layers of the container's image are not here; pull the image again")]
    NoLayers,
    #[error("the container is being started, changed or removed by another command; try again")]
    Busy,
    #[error("the container ended meanwhile; try again")]
    Ended,
    #[error("cannot look into the running container")]
    Running(#[source] io::Error),
    #[error("cannot put `{target}` into the container's tree")]
    Assemble { target: String, source: io::Error },
}

/// Which of a container's files are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// All that it sees, with what is mounted.
    Seen,
    /// Its image's and its own, without what is mounted.
    Own,
}

/// The root of a container's tree.
#[derive(Debug)]
pub struct ContainerFiles<'a> {
    root: Root,
    _lease: Option<Lease<'a>>,
    /// Nobody starts it meanwhile.
    _lock: Option<NameLock>,
}

#[derive(Debug)]
enum Root {
    Running(OwnedFd),
    Assembled(Assembled),
}

impl AsFd for ContainerFiles<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.root {
            Root::Running(root) => root.as_fd(),
            Root::Assembled(assembled) => assembled.as_fd(),
        }
    }
}

/// Opens a container's tree.
///
/// # Errors
/// [`FilesError`].
pub fn open<'a>(
    store: &'a Store,
    container: &StoredContainer,
    which: Which,
) -> Result<ContainerFiles<'a>, FilesError> {
    let id = &container.id;
    if let Some(lock) = lock_unless_running(store, container)? {
        settle(store, id, &lock)?;
        let lease = store.lease()?;
        let layers = layers(store, container, &lease)?;
        let config = config(container)?;
        let view = store.container_view(&layers, id, super::create::stay(&config), None)?;
        let opened = match which {
            Which::Seen => {
                mounts::fill(store, id, &config, view.as_fd())?;
                mounts::open(store, id, &config, view.as_fd())?
            }
            Which::Own => Vec::new(),
        };
        let mounts = opened.into_iter().map(|(mount, fd)| (mount.target, fd)).collect();
        let assembled = Assembled::new(view, store.temporary()?, mounts, config.read_only)
            .map_err(|(target, source)| FilesError::Assemble { target, source })?;
        return Ok(ContainerFiles {
            root: Root::Assembled(assembled),
            _lease: Some(lease),
            _lock: Some(lock),
        });
    }
    let before = state(store, id)?;
    if before.pid <= 0 {
        return Err(FilesError::Ended);
    }
    // Its monitor lives as long as it does, and writes another state when it has ended: what was opened by this
    // number while both hold is the container's.
    let alive = || {
        state(store, id).is_ok_and(|now| {
            now.status.is_live() && (now.pid, now.started_at) == (before.pid, before.started_at)
        })
    };
    let opened = match which {
        Which::Seen => detached::root_of_process(before.pid, alive),
        Which::Own => detached::part_of_process(before.pid, "/", alive),
    };
    let root = opened.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => FilesError::Ended,
        _ => FilesError::Running(error),
    })?;
    Ok(ContainerFiles { root: Root::Running(root), _lease: None, _lock: None })
}

/// The lock of a container that does not run, once others who look at its files are done; nothing if it runs.
fn lock_unless_running(store: &Store, container: &StoredContainer) -> Result<Option<NameLock>, FilesError> {
    let begun = Instant::now();
    loop {
        if let Some(lock) = store.try_lock_container(&container.id)? {
            return Ok(Some(lock));
        }
        if state(store, &container.id)?.pid > 0 {
            return Ok(None);
        }
        if begun.elapsed() > PATIENCE {
            return Err(FilesError::Busy);
        }
        std::thread::sleep(GLANCE);
    }
}

/// The image of a container.
///
/// # Errors
/// [`FilesError::NoImage`].
pub fn image(store: &Store, container: &StoredContainer) -> Result<StoredImage, FilesError> {
    store.image(container.image)?.ok_or(FilesError::NoImage)
}

/// The layers below a container.
///
/// # Errors
/// [`FilesError::NoLayers`].
pub fn layers(
    store: &Store,
    container: &StoredContainer,
    lease: &Lease<'_>,
) -> Result<Vec<Layer>, FilesError> {
    let image = image(store, container)?;
    let identities: Vec<LayerIdentity> =
        image.diff_ids.iter().map(|diff_id| LayerIdentity::of_diff(*diff_id)).collect();
    store.find_layers(&identities, lease)?.map_err(|_| FilesError::NoLayers)
}

/// What a container wrote itself, in overlayfs form.
#[derive(Debug)]
pub struct Written {
    upper: OwnedFd,
    /// Where it was put together.
    _scratch: Option<Scratch>,
}

impl AsFd for Written {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.upper.as_fd()
    }
}

/// What a container wrote over `lower`, the tree of its image.
///
/// # Errors
/// What the file system gives.
pub fn written(
    store: &Store,
    container: &StoredContainer,
    lower: BorrowedFd<'_>,
) -> Result<Written, StoreError> {
    let folder = store.container_folder(&container.id);
    let scratch = store.written_beside(&container.id, lower)?;
    let path = scratch.as_ref().map_or_else(|| folder.join("fs"), Scratch::upper);
    let upper = root::open_ambient_dir(&path).map_err(StoreError::io("open", path))?;
    Ok(Written { upper, _scratch: scratch })
}

/// The paths in `upper` that are there only to mount something on: no image knows them, and the container's end takes
/// them away.
///
/// # Errors
/// [`PathError`].
pub fn mount_points(
    config: &Config,
    upper: BorrowedFd<'_>,
    lower: BorrowedFd<'_>,
) -> Result<BTreeSet<Vec<u8>>, PathError> {
    let usual = ["/proc", "/dev", "/sys"].into_iter().chain(MountPoints::Container.files().iter().copied());
    let targets = usual.chain(config.mounts.iter().map(|mount| mount.target.as_str()));
    layer::mount_points(upper, lower, targets.map(str::as_bytes))
}
