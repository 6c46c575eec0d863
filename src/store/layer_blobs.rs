//! Which blob holds a layer, for each way to compress it.
//!
//! A layer from outside keeps the blob that it came as, under its format's name; one that was
//! compressed here is known under the compressor's version, since another version makes other bytes.

use std::io::Read;

use rusqlite::{OptionalExtension, params};

use super::{Store, StoreError};
use crate::digest::{BlobDigest, DiffId};

impl Store {
    /// The blob that holds a layer compressed that way, if one is here.
    ///
    /// # Errors
    /// What the database gives.
    pub fn layer_blob(
        &self,
        diff_id: DiffId,
        compression: &str,
    ) -> Result<Option<(BlobDigest, u64)>, StoreError> {
        let found = self.read(|db| {
            db.query_row(
                "SELECT blob, size FROM layer_blob WHERE diff_id = ? AND compression = ?",
                params![diff_id, compression],
                |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64)),
            )
            .optional()
        })?;
        match found {
            Some((blob, size)) if self.claim_blob(blob)? => Ok(Some((blob, size))),
            _ => Ok(None),
        }
    }

    /// Remembers which blob holds a layer compressed that way.
    ///
    /// # Errors
    /// What the database gives.
    pub fn remember_layer_blob(
        &self,
        diff_id: DiffId,
        compression: &str,
        blob: BlobDigest,
        size: u64,
    ) -> Result<(), StoreError> {
        self.write(|tx| {
            tx.execute(
                "INSERT OR REPLACE INTO layer_blob (diff_id, compression, blob, size) VALUES (?, ?, ?, ?)",
                params![diff_id, compression, blob, size as i64],
            )?;
            Ok(())
        })
    }
}

/// The names under which [`Store::layer_blob`] knows blobs that came from outside.
pub const FOREIGN_FORMATS: [&str; 3] = ["gzip", "zstd", "none"];

/// The name of a layer blob's compression, by the media type of its descriptor.
pub fn format_of_media_type(media_type: &str) -> &'static str {
    if media_type.ends_with("gzip") {
        "gzip"
    } else if media_type.ends_with("zstd") {
        "zstd"
    } else {
        "none"
    }
}

/// The media type of a layer blob that [`Store::layer_blob`] knows under this name: a foreign
/// format's, or a compressor's version, which begins with the format's name.
pub fn media_type(name: &str) -> &'static str {
    if name.starts_with("gzip") {
        "application/vnd.oci.image.layer.v1.tar+gzip"
    } else if name.starts_with("zstd") {
        "application/vnd.oci.image.layer.v1.tar+zstd"
    } else {
        "application/vnd.oci.image.layer.v1.tar"
    }
}

/// The name of a blob's compression, by its first bytes.
///
/// # Errors
/// What reading gives.
pub fn format_of_blob(mut blob: impl Read) -> std::io::Result<&'static str> {
    let mut start = [0; 4];
    let length = blob.read(&mut start)?;
    Ok(match start[..length] {
        [0x1f, 0x8b, ..] => "gzip",
        [0x28, 0xb5, 0x2f, 0xfd] => "zstd",
        _ => "none",
    })
}
