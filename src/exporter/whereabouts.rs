//! Layers whose blobs are not here: known from an earlier push, or at the registry or in the cache that
//! the layer comes from.
//!
//! A manifest needs no more of a layer than its blob's digest and size. So a layer that is known goes
//! into one without its bytes being here; whoever wants them (an archive, a registry that lacks them)
//! gets them then: compressed again, or fetched.

use std::sync::Arc;

use oci_spec::image::MediaType;

use super::{ExportError, ImageLayer, LayerFormat};
use crate::cache::remote::CacheReader;
use crate::digest::{BlobDigest, DiffId};
use crate::image::Descriptor;
use crate::reference::Reference;
use crate::store::{Store, layer_blobs};

/// Where a blob can be had.
#[derive(Debug, Clone)]
pub enum Place {
    /// In a repository.
    Repository(Reference),
    /// In a build cache.
    Cache(Arc<dyn CacheReader>),
}

/// Knows of layers that are elsewhere what the store does not: those of base images and caches of the
/// build that is under way.
pub trait Whereabouts: Sync {
    /// Where a layer can be had, and what its blob is there.
    fn place(&self, layer: DiffId) -> Option<(Place, Descriptor)>;
}

/// Nothing is known besides what the store remembers.
#[derive(Debug, Clone, Copy)]
pub struct OnlyStore;

impl Whereabouts for OnlyStore {
    fn place(&self, _layer: DiffId) -> Option<(Place, Descriptor)> {
        None
    }
}

/// The blob that a layer leaves as, if that is known without compressing it and the blob can be had:
/// it is here, can be made again, or is elsewhere.
///
/// # Errors
/// What the store gives.
pub fn known_blob(
    store: &Store,
    layer: &ImageLayer,
    format: LayerFormat,
    elsewhere: &dyn Whereabouts,
) -> Result<Option<Descriptor>, ExportError> {
    let ours = format.compression.version();
    let mut names = vec![ours.as_str()];
    // A layer from outside keeps the bytes it came as, but nobody wants it uncompressed.
    if !format.force {
        names.extend(["gzip", "zstd"]);
    }
    let described = |name: &str, (blob, size): (BlobDigest, u64)| {
        Descriptor::new(MediaType::from(layer_blobs::media_type(name)), blob.0, size)
    };
    for name in &names {
        if let Some(here) = store.layer_blob(layer.diff_id, name)? {
            return Ok(Some(described(name, here)));
        }
    }
    let remade = can_be_made(store, layer)?;
    let remembered = store.places(layer.diff_id)?;
    let built_on = elsewhere.place(layer.diff_id);
    for name in &names {
        let Some(known) = store.known_layer_blob(layer.diff_id, name)? else { continue };
        let is_there = remembered.iter().any(|place| place.blob == known.0)
            || built_on.as_ref().is_some_and(|(_, blob)| blob.digest == known.0.0);
        if is_there || (remade && *name == ours) {
            return Ok(Some(described(name, known)));
        }
    }
    // Whoever can make it makes the bytes that anybody else would.
    if remade {
        return Ok(None);
    }
    let verified = remembered.iter().filter(|place| place.verified).map(|place| place.descriptor());
    let claimed = built_on.into_iter().map(|(_, blob)| blob).chain(verified);
    let mut named = claimed.filter_map(|blob| {
        let name = layer_blobs::format_of_media_type(blob.media_type.as_ref());
        let fits = !format.force && name != "none";
        fits.then(|| described(name, (BlobDigest(blob.digest), blob.size)))
    });
    Ok(named.next())
}

/// Whether the tar stream of a layer is here in one form or another.
pub(super) fn can_be_made(store: &Store, layer: &ImageLayer) -> Result<bool, ExportError> {
    for name in layer_blobs::FOREIGN_FORMATS {
        if store.layer_blob(layer.diff_id, name)?.is_some() {
            return Ok(true);
        }
    }
    Ok(store.has_layer(layer.identity)?)
}
