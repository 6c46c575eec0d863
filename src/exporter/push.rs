//! To a registry: layers side by side, what is there already not at all, the manifest last.

use futures_util::stream::{StreamExt, TryStreamExt, iter};
use std::io::{Seek, SeekFrom};

use super::{ExportError, Packed};
use crate::digest::BlobDigest;
use crate::image::Descriptor;
use crate::progress::Step;
use crate::reference::Reference;
use crate::registry::{Client, Pushed};
use crate::store::{Store, StoreError};

/// How many blobs are in transfer at once.
const TRANSFERS: usize = 4;

/// Sends an image and points `name` at it. Layers that the registry holds in a repository of
/// `sources` are mounted from there.
///
/// # Errors
/// [`ExportError::Registry`]; then the name is what it was.
pub async fn push(
    client: &Client,
    store: &Store,
    name: &Reference,
    packed: &Packed,
    sources: &[Reference],
    step: &Step,
) -> Result<Descriptor, ExportError> {
    let from = sources
        .iter()
        .find(|source| source.registry() == name.registry() && source.repository() != name.repository());
    let mut blobs: Vec<&Descriptor> = Vec::with_capacity(packed.layers.len() + 1);
    for blob in packed.layers.iter().chain([&packed.config]) {
        // An image may hold one layer twice.
        if !blobs.iter().any(|known| known.digest == blob.digest) {
            blobs.push(blob);
        }
    }
    iter(blobs.into_iter().map(|blob| async move {
        let path = || store.open_blob(BlobDigest(blob.digest));
        // Found before anything is sent: a blob that is not here is our error, not the registry's.
        path()?;
        let source = |offset: u64| {
            let (mut file, _) = store.open_blob(BlobDigest(blob.digest)).map_err(std::io::Error::other)?;
            file.seek(SeekFrom::Start(offset))?;
            Ok(Box::new(file) as Box<dyn std::io::Read + Send>)
        };
        let how = client.push_blob(name, blob, from, &source, step).await?;
        if how != Pushed::Uploaded {
            step.transfer(&blob.digest.short(), blob.size, Some(blob.size));
        }
        Ok::<_, ExportError>(())
    }))
    .buffer_unordered(TRANSFERS)
    .try_collect::<Vec<()>>()
    .await?;
    Ok(client.push_manifest(name, &packed.descriptor.media_type, &packed.bytes).await?)
}

/// The manifest that an image of the store came with, if all that it names is here.
///
/// # Errors
/// What the store gives.
pub fn original(store: &Store, manifest: BlobDigest) -> Result<Option<Packed>, StoreError> {
    let bytes = store.read_blob(manifest, crate::image::MANIFEST_LIMIT)?;
    let crate::image::Document::Manifest(parsed) = crate::image::Document::parse(&bytes, None)? else {
        return Ok(None);
    };
    let here =
        parsed.layers.iter().chain([&parsed.config]).all(|blob| store.has_blob(BlobDigest(blob.digest)));
    let media_type = parsed.media_type.unwrap_or(oci_spec::image::MediaType::ImageManifest);
    let descriptor = Descriptor::new(media_type, manifest.0, bytes.len() as u64);
    Ok(here.then_some(Packed { descriptor, bytes, config: parsed.config, layers: parsed.layers }))
}
