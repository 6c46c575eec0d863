//! To a registry: layers side by side, what is there already not at all, the manifest last.

use futures_util::stream::{StreamExt, TryStreamExt, iter};
use std::io::{Seek, SeekFrom};

use super::{ExportError, Package};
use crate::digest::BlobDigest;
use crate::image::Descriptor;
use crate::progress::Step;
use crate::reference::Reference;
use crate::registry::{Client, Pushed};
use crate::store::Store;

/// How many blobs are in transfer at once.
const TRANSFERS: usize = 4;

/// Sends a package and points `name` at it. Layers that the registry holds in a repository of
/// `sources` are mounted from there. The images of an index are there before the index is.
///
/// # Errors
/// [`ExportError::Registry`]; then the name is what it was.
pub async fn push(
    client: &Client,
    store: &Store,
    name: &Reference,
    package: &Package,
    sources: &[Reference],
    step: &Step,
) -> Result<Descriptor, ExportError> {
    let from = sources
        .iter()
        .find(|source| source.registry() == name.registry() && source.repository() != name.repository());
    let mut blobs: Vec<&Descriptor> = Vec::new();
    for blob in package.images.iter().flat_map(|packed| packed.layers.iter().chain([&packed.config])) {
        // An image may hold one layer twice, and images of an index share what they have in common.
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
    let Some(index) = &package.index else {
        let packed = package.images.first().expect("a package has an image");
        return Ok(client.push_manifest(name, &package.descriptor.media_type, &packed.bytes).await?);
    };
    for packed in &package.images {
        let own = name.with_digest(packed.descriptor.digest);
        client.push_manifest(&own, &packed.descriptor.media_type, &packed.bytes).await?;
    }
    Ok(client.push_manifest(name, &package.descriptor.media_type, index).await?)
}
