//! Manifests to a registry: those of an index's images first, and what has the name last. The blobs
//! that they name are there by then.

use super::{ExportError, Package};
use crate::image::Descriptor;
use crate::reference::Reference;
use crate::registry::Client;

/// Points `name` at a package whose blobs are all at the registry.
///
/// # Errors
/// [`ExportError::Registry`]; then the name is what it was.
pub async fn push_manifests(
    client: &Client,
    name: &Reference,
    package: &Package,
) -> Result<Descriptor, ExportError> {
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
