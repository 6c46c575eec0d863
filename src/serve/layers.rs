//! Whether the layers of a pushed image are what its config says.
//!
//! The store knows layers by the digest of their archive, and takes the blob that it knows for one for
//! the layer itself. So nobody's word is taken for it: a blob is unpacked into a hash.

use std::fs::File;
use std::io::{self, Read};

use super::storage::StorageError;
use crate::digest::{BlobDigest, DiffId, Digest, Hasher};
use crate::image::{Descriptor, is_foreign};
use crate::store::{Store, compress, layer_blobs};

/// The most that a layer may unpack to and still be looked into.
const UNPACKED_LIMIT: u64 = 64 << 30;

/// Whether a blob is the layer that a config says; remembered if so.
pub(super) fn is_layer(store: &Store, layer: &Descriptor, diff_id: DiffId) -> Result<bool, StorageError> {
    let (blob, media_type) = (BlobDigest(layer.digest), layer.media_type.as_ref());
    if is_foreign(media_type) {
        return Ok(false);
    }
    let format = layer_blobs::format_of_media_type(media_type);
    let known = store.layer_blob(diff_id, format)?;
    if known.is_some_and(|(known, _)| known == blob) {
        return Ok(true);
    }
    let (file, size) = store.open_blob(blob)?;
    let found = layer_blobs::format_of_blob(&file).ok();
    if found != Some(format) || unpacked(store.open_blob(blob)?.0).ok() != Some(diff_id.0) {
        return Ok(false);
    }
    // One that is here already is as good, and others may count on it.
    if known.is_none() {
        store.remember_layer_blob(diff_id, format, blob, size)?;
    }
    Ok(true)
}

/// The digest of what a blob unpacks to.
fn unpacked(blob: File) -> io::Result<Digest> {
    let mut plain = compress::decompress(blob)?.take(UNPACKED_LIMIT + 1);
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; 256 << 10];
    let mut size = 0;
    loop {
        match plain.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            length => {
                size += length as u64;
                hasher.update(&buffer[..length]);
            }
        }
        if size > UNPACKED_LIMIT {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
    }
}
