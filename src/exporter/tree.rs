//! The files of an image alone: a tar of the merged tree, or what a folder is filled from.

use std::io::Write;
use std::os::fd::AsFd;

use super::{ExportError, Image};
use crate::cache::content::{Listing, Selector, Tree, list};
use crate::digest::LayerIdentity;
use crate::store::views::{Aside, View};
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
    write_folder_tar(store, view(store, image)?, out)
}

/// Writes what is in a directory as a tar.
///
/// # Errors
/// What reading and writing give.
pub fn write_folder_tar(store: &Store, folder: impl AsFd, out: &mut dyn Write) -> Result<(), ExportError> {
    layer::write_tar(folder.as_fd(), store.marks(), out)
        .map_err(|error| StoreError::from(Box::new(error)))?;
    Ok(())
}

/// The merged tree, all that is in it, and what must stay for as long as the tree is read.
///
/// # Errors
/// What reading the tree gives.
pub fn listed(store: &Store, image: &Image) -> Result<(Tree, Listing, Aside), ExportError> {
    let (mount, folder) = view(store, image)?.into_parts();
    let tree = Tree::snapshot(mount);
    let listing = list(&tree, &Selector::path("/"))
        .map_err(|error| ExportError::write("the image's files")(std::io::Error::other(error)))?;
    Ok((tree, listing, folder))
}
