//! Trees: layers mounted over one another, and the directories that steps write into.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::layer::overlay::LayerRef;
use super::layers::Layer;
use super::{Store, StoreError};

/// A mounted tree, attached nowhere: it ends with the handle.
#[derive(Debug)]
pub struct View {
    mount: OwnedFd,
    /// What the mount needed besides the layers. Removed after the mount has gone.
    folder: tempfile::TempDir,
}

impl View {
    /// The mount itself, and what must outlive it.
    pub fn into_parts(self) -> (OwnedFd, tempfile::TempDir) {
        (self.mount, self.folder)
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
    fn filled(self) -> Result<Self, StoreError> {
        for path in [self.upper(), self.work()] {
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
        Scratch { folder: self.temporary()? }.filled()
    }

    /// The tree that these layers make, lowest first, read-only: a mount that is attached nowhere
    /// and ends with the handle.
    ///
    /// # Errors
    /// What mount gives.
    pub fn view(&self, layers: &[Layer]) -> Result<View, StoreError> {
        self.mount(layers, None)
    }

    /// As [`Store::view`], writable; what is written goes into `scratch`.
    ///
    /// # Errors
    /// What mount gives.
    pub fn writable_view(&self, layers: &[Layer], scratch: &Scratch) -> Result<View, StoreError> {
        self.mount(layers, Some(scratch))
    }

    /// The tree of a container, over its own `fs`: it ends with the handle, of which its monitor keeps a copy.
    /// What was written is synced as any file is, for it shall be there after the machine's next start.
    ///
    /// # Errors
    /// What mount and the file system give.
    pub fn container_view(
        &self,
        layers: &[Layer],
        id: &super::containers::ContainerId,
    ) -> Result<OwnedFd, StoreError> {
        let place = self.container_folder(id);
        // Left by the last run, whose mount is gone.
        let aside = place.join("mount");
        if aside.exists() {
            self.remove_tree(&aside)?;
        }
        std::fs::create_dir(&aside).map_err(StoreError::io("create", &aside))?;
        self.mount_over(layers, Some((place.join("fs"), place.join("work"))), &aside, false)
    }

    /// The tree of an image that a container mounts as its `number`th, read-only. What the mount needs is in the
    /// container's folder, where it stays as long as that does.
    ///
    /// # Errors
    /// What mount and the file system give.
    pub fn container_image_view(
        &self,
        layers: &[Layer],
        id: &super::containers::ContainerId,
        number: usize,
    ) -> Result<OwnedFd, StoreError> {
        let aside = self.container_folder(id).join(format!("image-{number}"));
        if aside.exists() {
            self.remove_tree(&aside)?;
        }
        std::fs::create_dir(&aside).map_err(StoreError::io("create", &aside))?;
        self.mount_over(layers, None, &aside, false)
    }

    fn mount(&self, layers: &[Layer], scratch: Option<&Scratch>) -> Result<View, StoreError> {
        let folder = self.temporary()?;
        let paths = scratch.map(|scratch| (scratch.upper(), scratch.work()));
        let mount = self.mount_over(layers, paths, folder.path(), true)?;
        Ok(View { mount, folder })
    }

    fn mount_over(
        &self,
        layers: &[Layer],
        paths: Option<(PathBuf, PathBuf)>,
        scratch: &Path,
        volatile: bool,
    ) -> Result<OwnedFd, StoreError> {
        let folders: Vec<(PathBuf, &Layer)> = layers
            .iter()
            .filter(|layer| !layer.is_empty())
            .map(|layer| (self.layer_folder(layer.number()).join("fs"), layer))
            .collect();
        let below: Vec<LayerRef<'_>> =
            folders.iter().map(|(fs, layer)| LayerRef { fs, implied: layer.implied() }).collect();
        self.mount_tree(&below, paths.as_ref(), scratch, volatile)
    }
}
