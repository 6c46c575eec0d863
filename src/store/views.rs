//! Trees: layers mounted over one another, and the directories that steps write into.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::containers::{ContainerId, Stay};
use super::layer::ground::Ground;
use super::layer::overlay::LayerRef;
use super::layer::stack::{self, Plane, Stack};
use super::layers::Layer;
use super::points::MountPoints;
use super::snapshotter::Snapshotter;
use super::{Store, StoreError};

/// Where overlayfs notes, in a work directory, that it never syncs.
const UNSYNCED: &str = "work/incompat";

/// A mounted tree, attached nowhere: it ends with the handle.
#[derive(Debug)]
pub struct View {
    mount: OwnedFd,
    aside: Aside,
}

/// What a mount needed besides its layers, which must outlive it: mostly nothing. Removed when dropped.
#[derive(Debug)]
pub struct Aside {
    path: PathBuf,
}

impl Drop for Aside {
    fn drop(&mut self) {
        // What cannot be removed now has its session's name, for a sweep.
        match std::fs::remove_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => drop(std::fs::remove_dir_all(&self.path)),
            Ok(()) => {}
        }
    }
}

impl View {
    /// The mount itself, and what must outlive it.
    pub fn into_parts(self) -> (OwnedFd, Aside) {
        (self.mount, self.aside)
    }
}

impl AsFd for View {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.mount.as_fd()
    }
}

/// A directory that becomes a layer: an overlay's upper and work directory, side by side.
#[derive(Debug)]
pub struct Scratch {
    folder: tempfile::TempDir,
}

impl Scratch {
    fn filled(self, with_work: bool) -> Result<Self, StoreError> {
        for path in [Some(self.upper()), with_work.then(|| self.work())].into_iter().flatten() {
            std::fs::create_dir(&path).map_err(StoreError::io("create", &path))?;
            // The root directory of an image is 0755 unless a layer says otherwise.
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
                .map_err(StoreError::io("create", &path))?;
        }
        Ok(self)
    }

    /// The whole directory, which nobody removes any more.
    pub(super) fn into_folder(self) -> PathBuf {
        self.folder.keep()
    }

    /// The directory that becomes the layer's `fs`.
    pub fn upper(&self) -> PathBuf {
        self.folder.path().join("fs")
    }

    pub(super) fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }
}

impl Store {
    /// A new empty directory for a layer in the making.
    ///
    /// # Errors
    /// What the file system gives.
    pub fn scratch(&self) -> Result<Scratch, StoreError> {
        Scratch { folder: self.temporary()? }.filled(true)
    }

    /// A new directory for a layer over `layers`, the lowest first, to be written into as it is.
    ///
    /// # Errors
    /// What the file system gives.
    pub fn ground(&self, layers: &[Layer]) -> Result<(Scratch, Ground), StoreError> {
        let scratch = Scratch { folder: self.temporary()? }.filled(false)?;
        let upper = crate::root::open_ambient_dir(scratch.upper())
            .map_err(StoreError::io("open", scratch.upper()))?;
        let ground = Ground::new(upper, self.stack(layers)?).map_err(StoreError::Mount)?;
        Ok((scratch, ground))
    }

    /// The directory of a layer, which nobody may write to.
    ///
    /// # Errors
    /// What the file system gives.
    pub fn open_layer(&self, layer: &Layer) -> Result<OwnedFd, StoreError> {
        let fs = self.layer_folder(layer.number()).join("fs");
        crate::root::open_ambient_dir(&fs).map_err(StoreError::io("open", &fs))
    }

    /// The tree that these layers make, lowest first, without mounting it.
    ///
    /// # Errors
    /// What the file system gives.
    pub fn stack(&self, layers: &[Layer]) -> Result<Stack, StoreError> {
        let failed = || StoreError::io("look at the layers in", self.path());
        let base = crate::root::open_dir(&self.root, "layers").map_err(failed())?;
        let mut clear = self.clear.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen = HashSet::new();
        let mut planes = Vec::with_capacity(layers.len());
        for layer in layers.iter().rev().filter(|layer| !layer.is_empty()) {
            if !seen.insert(layer.number()) {
                continue;
            }
            let fs = Path::new(&super::layers::base36(layer.number())).join("fs");
            let mut opaque = false;
            if !clear.contains(&layer.number()) {
                let fd = crate::root::open_dir(&base, &fs).map_err(failed())?;
                opaque = stack::is_opaque(&fd, self.marks()).map_err(failed())?;
            }
            planes.push(Plane::new(fs, layer.implied()));
            if opaque {
                break;
            }
            clear.insert(layer.number());
        }
        Ok(Stack::new(base, planes, self.marks()))
    }

    /// The tree that these layers make, lowest first, read-only: a mount that is attached nowhere
    /// and ends with the handle.
    ///
    /// # Errors
    /// What mount gives.
    pub fn view(&self, layers: &[Layer]) -> Result<View, StoreError> {
        self.mount(layers, None, None)
    }

    /// As [`Store::view`], writable; what is written goes into `scratch`. With mount points, those that the layers lack
    /// are there too.
    ///
    /// # Errors
    /// What mount gives.
    pub fn writable_view(
        &self,
        layers: &[Layer],
        scratch: &Scratch,
        points: Option<MountPoints>,
    ) -> Result<View, StoreError> {
        self.mount(layers, Some(scratch), points)
    }

    /// The tree of a container, over its own `fs`: it ends with the handle, of which its monitor keeps a copy.
    /// What one that stays wrote is synced as any file is, for it shall be there after the machine's next start. For
    /// one that does not, nobody waits: the end of an overlay writes all that the whole file system below has to write.
    ///
    /// # Errors
    /// What mount and the file system give.
    pub fn container_view(
        &self,
        layers: &[Layer],
        id: &ContainerId,
        stay: Stay,
        points: Option<MountPoints>,
    ) -> Result<OwnedFd, StoreError> {
        let place = self.container_folder(id);
        let (work, aside) = (place.join("work"), place.join("mount"));
        // Left by the last run, whose mount is gone: what that needed, and the kernel's note that it did not sync, with
        // which it would refuse to mount the directory again.
        for left in [&aside, &work.join(UNSYNCED)] {
            if left.exists() {
                self.remove_tree(left)?;
            }
        }
        let snapshotter = self.snapshotter_of(id)?;
        let paths = Some((place.join("fs"), work));
        let view = self
            .mount_over(snapshotter, layers, paths, &aside, (stay == Stay::Passing, points))
            .map_err(|error| self.explain(snapshotter, error))?;
        self.settle_snapshotter_of(id, snapshotter)?;
        Ok(view)
    }

    /// The tree of an image that a container mounts as its `number`th, read-only. What the mount needs is in the
    /// container's folder, where it stays as long as that does.
    ///
    /// # Errors
    /// What mount and the file system give.
    pub fn container_image_view(
        &self,
        layers: &[Layer],
        id: &ContainerId,
        number: usize,
    ) -> Result<OwnedFd, StoreError> {
        let aside = self.container_folder(id).join(format!("image-{number}"));
        if aside.exists() {
            self.remove_tree(&aside)?;
        }
        self.mount_over(self.snapshotter()?.snapshotter, layers, None, &aside, (false, None))
    }

    /// A place below `tmp/` that nobody else has, where nothing is yet.
    fn aside(&self) -> Result<Aside, StoreError> {
        let number = self.asides.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}.aside-{number}", self.session_id()?);
        Ok(Aside { path: self.path().join("tmp").join(name) })
    }

    fn mount(
        &self,
        layers: &[Layer],
        scratch: Option<&Scratch>,
        points: Option<MountPoints>,
    ) -> Result<View, StoreError> {
        let aside = self.aside()?;
        let paths = scratch.map(|scratch| (scratch.upper(), scratch.work()));
        let snapshotter = self.snapshotter()?.snapshotter;
        let mount = self.mount_over(snapshotter, layers, paths, &aside.path, (true, points))?;
        Ok(View { mount, aside })
    }

    fn mount_over(
        &self,
        snapshotter: Snapshotter,
        layers: &[Layer],
        paths: Option<(PathBuf, PathBuf)>,
        scratch: &Path,
        how: (bool, Option<MountPoints>),
    ) -> Result<OwnedFd, StoreError> {
        let folders: Vec<(PathBuf, &Layer)> = layers
            .iter()
            .filter(|layer| !layer.is_empty())
            .map(|layer| (self.layer_folder(layer.number()).join("fs"), layer))
            .collect();
        let below: Vec<LayerRef<'_>> =
            folders.iter().map(|(fs, layer)| LayerRef { fs, implied: layer.implied() }).collect();
        self.mount_tree(snapshotter, &below, paths.as_ref(), scratch, how)
    }
}
