//! Into the store: as a pull or a load leaves it.

use futures_util::stream::{StreamExt, TryStreamExt, iter};
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use crate::digest::{BlobDigest, ImageId};
use crate::image::{CONFIG_LIMIT, Descriptor, Document, ImageConfig, Manifest};
use crate::platform::Platform;
use crate::progress::Step;
use crate::reference::Reference;
use crate::registry::Fetched;
use crate::store::{Lease, Store, StoreError, layer_blobs};

use super::graph::{Nothing, is_document};
use super::origin::Origin;
use super::to_archive::image_only;
use super::{Copied, Job, LOOK_AGAIN, TRANSFERS, TransferError};

/// Copies an image, or an index of several, into the store, and points `name` at it.
pub(super) async fn write(job: &Job<'_>, store: &Store, name: &str) -> Result<Copied, TransferError> {
    let Job { origin, step, .. } = *job;
    let unfit = |reason| job.unfit(reason);
    let name = Reference::parse(name).map_err(|error| unfit(error.to_string()))?;
    let graph = job.graph(&Nothing).await?;
    let root = &graph.root().descriptor;
    if let Some(wanted) = name.digest().filter(|wanted| *wanted != root.digest) {
        return Err(unfit(format!("{wanted} is not the image's digest, {}", root.digest)));
    }
    // Before anything is fetched.
    let images = images(graph.root(), graph.levels.get(1).map_or(&[], Vec::as_slice)).map_err(unfit)?;
    if graph.foreign > 0 {
        return Err(unfit("some of its layers are kept by no registry".to_owned()));
    }
    let lease = store.lease()?;
    iter(graph.blobs.iter().map(|blob| fetch(store, origin, blob, step)))
        .buffer_unordered(TRANSFERS)
        .try_collect::<Vec<()>>()
        .await?;
    for found in graph.levels.iter().rev().flatten() {
        store.put_blob(&found.bytes)?;
    }
    let mut members = Vec::with_capacity(images.len());
    for (manifest, digest) in images {
        members.push((unpack(store, origin, manifest, digest, &lease)?, digest));
    }
    match (&graph.root().document, members.first()) {
        (Document::Manifest(_), Some((image, _))) => drop(store.tag(&name, *image)?),
        _ => drop(store.tag_index(&name, BlobDigest(root.digest), &members, &Platform::host())?),
    }
    Ok(Copied { descriptor: root.clone(), foreign: 0, referrers: 0 })
}

/// The images that a name of the store is to point at, with their manifests.
fn images<'d>(root: &'d Fetched, below: &'d [Fetched]) -> Result<Vec<(&'d Manifest, BlobDigest)>, String> {
    let index = match &root.document {
        Document::Manifest(manifest) => {
            image_only(manifest)?;
            return Ok(vec![(manifest, BlobDigest(root.descriptor.digest))]);
        }
        Document::Index(index) => index,
    };
    let mut images = Vec::new();
    for entry in &index.manifests {
        if !is_document(entry) {
            return Err(format!("its index names {}, which is no image", entry.digest));
        }
        let found = below.iter().find(|found| found.descriptor.digest == entry.digest);
        match found.map(|found| &found.document) {
            Some(Document::Manifest(_)) if entry.is_attestation() => {}
            Some(Document::Manifest(manifest)) => {
                image_only(manifest)?;
                images.push((manifest, BlobDigest(entry.digest)));
            }
            _ => return Err("it is an index of indexes; choose a platform".to_owned()),
        }
    }
    if images.is_empty() { Err("its index names no image".to_owned()) } else { Ok(images) }
}

async fn fetch(
    store: &Store,
    origin: &Origin<'_>,
    blob: &Descriptor,
    step: &Step,
) -> Result<(), TransferError> {
    let digest = BlobDigest(blob.digest);
    let mut incoming = loop {
        if store.claim_blob(digest)? {
            step.transfer(&blob.digest.short(), blob.size, Some(blob.size));
            return Ok(());
        }
        // Another process may be fetching it: it is waited for, and gone on for if it dies.
        match store.try_incoming(digest, blob.size)? {
            Some(incoming) if !store.has_blob(digest) => break incoming,
            Some(_) => {}
            None => tokio::time::sleep(LOOK_AGAIN).await,
        }
    };
    origin.fetch(blob, &mut incoming, step).await?;
    incoming.verify()?;
    Ok(incoming.commit()?)
}

fn unpack(
    store: &Store,
    origin: &Origin<'_>,
    manifest: &Manifest,
    digest: BlobDigest,
    lease: &Lease<'_>,
) -> Result<ImageId, TransferError> {
    let bytes = store.read_blob(BlobDigest(manifest.config.digest), CONFIG_LIMIT)?;
    let config: ImageConfig = serde_json::from_slice(&bytes)
        .map_err(|error| origin.broken(format!("the config {}: {error}", manifest.config.digest)))?;
    let diff_ids = &config.rootfs.diff_ids;
    if diff_ids.len() != manifest.layers.len() {
        let (layers, ids) = (manifest.layers.len(), diff_ids.len());
        return Err(origin.broken(format!("the manifest {digest} has {layers} layers, its config {ids}")));
    }
    let layers: Vec<_> = manifest.layers.iter().zip(diff_ids).collect();
    layers.par_iter().try_for_each(|(layer, diff_id)| -> Result<(), StoreError> {
        let format = layer_blobs::format_of_media_type(layer.media_type.as_ref());
        store.unpack_claimed(**diff_id, format, BlobDigest(layer.digest), layer.size, lease)
    })?;
    store.sync_layers(diff_ids)?;
    Ok(store.put_image(&bytes, Some(digest))?.id)
}
