//! Trees: layers mounted over one another, and the directories that steps write into.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::layer::overlay::{self, LayerRef};
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
    /// A directory of this very name.
    pub(super) fn at(place: &Path, name: &str) -> Result<Self, StoreError> {
        let failed = || StoreError::io("create a directory in", place);
        let mut builder = tempfile::Builder::new();
        let folder = builder.prefix(name).rand_bytes(0).tempdir_in(place).map_err(failed())?;
        Self { folder }.filled()
    }

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

    /// Leaves the directory where it is.
    pub(super) fn keep(self) {
        let _ = self.into_folder();
    }

    /// The directory that becomes the layer's `fs`.
    pub fn upper(&self) -> PathBuf {
        self.folder.path().join("fs")
    }

    fn work(&self) -> PathBuf {
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

    fn mount(&self, layers: &[Layer], scratch: Option<&Scratch>) -> Result<View, StoreError> {
        let folders: Vec<(PathBuf, &Layer)> = layers
            .iter()
            .filter(|layer| !layer.is_empty())
            .map(|layer| (self.layer_folder(layer.number()).join("fs"), layer))
            .collect();
        let below: Vec<LayerRef<'_>> =
            folders.iter().map(|(fs, layer)| LayerRef { fs, implied: layer.implied() }).collect();
        let paths = scratch.map(|scratch| (scratch.upper(), scratch.work()));
        let upper = paths.as_ref().map(|(upper, work)| overlay::Upper { upper, work });
        let folder = self.temporary()?;
        let options = overlay::Options {
            marks: self.marks(),
            scratch: folder.path(),
            volatile: true,
            api: overlay::Api::Auto,
        };
        let mount = overlay::mount(&below, upper, &options).map_err(StoreError::Mount)?;
        Ok(View { mount, folder })
    }
}
