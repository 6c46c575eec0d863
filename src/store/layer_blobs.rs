//! Which blob holds a layer, for each way to compress it.
//!
//! A layer from outside keeps the blob that it came as, under its format's name; one that was
//! compressed here is known under the compressor's version, since another version makes other bytes.

use std::io::Read;

use rusqlite::{OptionalExtension, params};

use super::layers::Unpacked;
use super::{Lease, Store, StoreError};
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
        match self.known_layer_blob(diff_id, compression)? {
            Some((blob, size)) if self.claim_blob(blob)? => Ok(Some((blob, size))),
            _ => Ok(None),
        }
    }

    /// The blob that a layer compressed that way is, whether it is here or not.
    ///
    /// # Errors
    /// What the database gives.
    pub fn known_layer_blob(
        &self,
        diff_id: DiffId,
        compression: &str,
    ) -> Result<Option<(BlobDigest, u64)>, StoreError> {
        self.read(|db| {
            db.query_row(
                "SELECT blob, size FROM layer_blob WHERE diff_id = ? AND compression = ?",
                params![diff_id, compression],
                |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64)),
            )
            .optional()
        })
    }

    /// The names of the compressions under which a layer is known as this blob.
    ///
    /// # Errors
    /// What the database gives.
    pub fn compressions_of(&self, diff_id: DiffId, blob: BlobDigest) -> Result<Vec<String>, StoreError> {
        self.read(|db| {
            db.prepare("SELECT compression FROM layer_blob WHERE diff_id = ? AND blob = ?")?
                .query_map(params![diff_id, blob], |row| row.get(0))?
                .collect()
        })
    }

    /// Unpacks a layer from the blob that somebody says it is in, and remembers that blob as the layer's.
    ///
    /// # Errors
    /// As [`Store::unpack_blob`]; then the blob is not remembered.
    pub fn unpack_claimed(
        &self,
        diff_id: DiffId,
        compression: &str,
        blob: BlobDigest,
        size: u64,
        lease: &Lease<'_>,
    ) -> Result<(), StoreError> {
        let unpacked = self.unpack_blob_aside(blob, diff_id, lease)?;
        self.keep_claimed(unpacked, compression, blob, size, lease)
    }

    /// Shows a layer that was unpacked from a blob, and remembers the blob as the layer's; that first, since
    /// who finds the layer counts on it. If the layer was here already, nobody has read the blob, and that is
    /// done now: it would stand for the layer in every image that leaves.
    ///
    /// # Errors
    /// As [`Store::check_blob`]; then the blob is not remembered.
    pub fn keep_claimed(
        &self,
        unpacked: Unpacked,
        compression: &str,
        blob: BlobDigest,
        size: u64,
        lease: &Lease<'_>,
    ) -> Result<(), StoreError> {
        let diff_id = unpacked.diff_id();
        let is_known = |known: Option<(BlobDigest, u64)>| known.is_some_and(|(known, _)| known == blob);
        if unpacked.was_here() && !is_known(self.known_layer_blob(diff_id, compression)?) {
            self.check_blob(blob, diff_id)?;
        }
        self.remember_layer_blob(diff_id, compression, blob, size)?;
        self.keep_unpacked(unpacked, lease).map(drop)
    }

    /// Remembers which blob holds a layer compressed that way. It was made of that layer, or read to its
    /// end to find it there: whoever is told of the blob believes it.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::LayerIdentity;
    use crate::store::tests::store;

    /// A layer with one file of this content.
    fn tar(content: &[u8]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        // The test's own, who may be nobody to give files away.
        header.set_uid(rustix::process::getuid().as_raw().into());
        header.set_gid(rustix::process::getgid().as_raw().into());
        tar.append_data(&mut header, "file", content).unwrap();
        tar.into_inner().unwrap()
    }

    fn blob(store: &Store, bytes: &[u8]) -> (BlobDigest, u64) {
        (store.put_blob(bytes).unwrap(), bytes.len() as u64)
    }

    #[test]
    fn a_blob_that_lies_about_its_layer_is_not_remembered() {
        let (_folder, store) = store();
        let lease = store.lease().unwrap();
        let (good, evil) = (blob(&store, &tar(b"good")), blob(&store, &tar(b"evil")));
        let diff_id = DiffId(good.0.0);
        let take = |(blob, size)| store.unpack_claimed(diff_id, "none", blob, size, &lease);
        assert!(matches!(take(evil), Err(StoreError::Mismatch { .. })));
        assert!(!store.has_layer(LayerIdentity::of_diff(diff_id)).unwrap());
        take(good).unwrap();
        // The layer is here now and need not be unpacked; the lie is noticed all the same.
        assert!(matches!(take(evil), Err(StoreError::Mismatch { .. })));
        assert_eq!(store.known_layer_blob(diff_id, "none").unwrap(), Some(good));
    }

    #[test]
    fn another_archive_of_a_layer_that_is_here_is_remembered() {
        let (_folder, store) = store();
        let lease = store.lease().unwrap();
        let plain = tar(b"good");
        let packed = zstd::encode_all(plain.as_slice(), 3).unwrap();
        let (plain, packed) = (blob(&store, &plain), blob(&store, &packed));
        let diff_id = DiffId(plain.0.0);
        for _ in 0..2 {
            store.unpack_claimed(diff_id, "none", plain.0, plain.1, &lease).unwrap();
            store.unpack_claimed(diff_id, "zstd", packed.0, packed.1, &lease).unwrap();
        }
        assert_eq!(store.known_layer_blob(diff_id, "zstd").unwrap(), Some(packed));
    }
}
