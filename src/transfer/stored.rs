//! Images of the store: as they came, or packed as a push would.

use std::collections::HashMap;

use crate::digest::{BlobDigest, Digest};
use crate::exporter::{self, Package};
use crate::image::{Descriptor, Document};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::registry::Fetched;
use crate::store::{Store, StoreError};

use super::TransferError;
use super::content::Content;
use super::origin::Kind;

/// An image or an index of the store, by name or id, with its documents.
pub(super) fn open<'a>(
    store: &'a Store,
    text: &str,
    platform: Option<&Platform>,
) -> Result<(Kind<'a>, Fetched), TransferError> {
    let package = package(store, text, platform)?;
    let mut documents = HashMap::new();
    let mut keep = |digest: Digest, bytes: &[u8]| {
        documents.insert(digest, Content::Memory(bytes.into()));
    };
    for packed in &package.images {
        keep(packed.descriptor.digest, &packed.bytes);
        keep(packed.config.digest, &packed.config_bytes);
    }
    let bytes = match &package.index {
        Some(index) => index.clone(),
        None => package.images.first().expect("a package has an image").bytes.clone(),
    };
    keep(package.descriptor.digest, &bytes);
    let document = Document::parse(&bytes, None).map_err(StoreError::from)?;
    let mut descriptor =
        Descriptor::new(package.descriptor.media_type.clone(), package.descriptor.digest, bytes.len() as u64);
    descriptor.platform.clone_from(&package.descriptor.platform);
    Ok((Kind::Store { store, documents }, Fetched { descriptor, bytes, document }))
}

/// What a push of this image would send.
fn package(store: &Store, text: &str, platform: Option<&Platform>) -> Result<Package, TransferError> {
    let name = Reference::parse(text).ok();
    if let Some(name) = &name
        && let Some(index) = store.index_named(name)?
    {
        return Ok(exporter::original_package(store, index.digest)?);
    }
    let found = match (&name, platform) {
        (Some(name), Some(platform)) => store.image_named_for(name, platform)?,
        _ => None,
    };
    let image = match found {
        Some(image) => image,
        None => store.find_image(text)?.ok_or_else(|| TransferError::NoImage(text.to_owned()))?,
    };
    if let Some(platform) = platform
        && !image.platform.serves(platform)
    {
        return Err(TransferError::Platform {
            place: format!("store:{text}"),
            platform: platform.clone(),
            there: vec![image.platform.to_string()],
        });
    }
    let packed = exporter::whole(store, &image)?;
    if image.manifest != Some(BlobDigest(packed.descriptor.digest)) {
        // Remembered as a push remembers it: the next one sends the same.
        let manifest = store.put_blob(&packed.bytes)?;
        store.put_image(&packed.config_bytes, Some(manifest))?;
    }
    let mut package = Package::from(packed);
    package.descriptor.platform = Some((&image.platform).into());
    Ok(package)
}
