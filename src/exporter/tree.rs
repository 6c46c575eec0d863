//! The files of an image alone: a tar of the merged tree, or a folder.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use super::{ExportError, Image};
use crate::cache::content::{Listing, Selector, Tree, list};
use crate::digest::LayerIdentity;
use crate::store::views::View;
use crate::store::{Store, StoreError, layer};

fn view(store: &Store, image: &Image) -> Result<View, ExportError> {
    let lease = store.lease()?;
    let identities: Vec<LayerIdentity> = image.layers.iter().map(|layer| layer.identity).collect();
    let layers =
        store.find_layers(&identities, &lease)?.map_err(|missing| StoreError::MissingLayer(missing[0]))?;
    Ok(store.view(&layers)?)
}

/// Writes the merged tree as a tar, owners and modes as in the image.
///
/// # Errors
/// What reading the tree and writing give.
pub fn write_tar(store: &Store, image: &Image, out: &mut dyn Write) -> Result<(), ExportError> {
    let view = view(store, image)?;
    layer::write_tar(view.as_fd(), store.marks(), out).map_err(|error| StoreError::from(Box::new(error)))?;
    Ok(())
}

/// Writes the merged tree into a folder. `copy` is the copier, which stands above this module.
///
/// # Errors
/// What reading the tree and writing give.
pub fn write_folder(
    store: &Store,
    image: &Image,
    folder: &Path,
    copy: impl FnOnce(&Tree, &Listing, BorrowedFd<'_>) -> Result<(), String>,
) -> Result<(), ExportError> {
    let failed = || ExportError::write(format!("`{}`", folder.display()));
    std::fs::create_dir_all(folder).map_err(failed())?;
    let target = crate::root::open_ambient_dir(folder).map_err(failed())?;
    let (mount, _folder) = view(store, image)?.into_parts();
    let tree = Tree::snapshot(mount);
    let listing =
        list(&tree, &Selector::path("/")).map_err(|error| failed()(std::io::Error::other(error)))?;
    copy(&tree, &listing, target.as_fd()).map_err(|error| failed()(std::io::Error::other(error)))
}
