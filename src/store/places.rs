//! Which repositories hold which layers, as what blobs.
//!
//! Written down when a manifest was read there or a layer was brought there. It saves compressing and
//! sending what is known to be elsewhere, and tells where a layer can be fetched that is not on this
//! disk. A registry may have lost a blob, so it is asked before anything counts on it.
//!
//! What a manifest at a registry says of a layer is no more than a claim: whoever wrote it may have put
//! another's diffID beside bytes of his own. Such a place will do to fetch from, since what arrives is
//! checked, and to mount a blob from whose digest is known. Only one that is [verified] tells which
//! blob a layer is.
//!
//! [verified]: LayerPlace::verified

use rusqlite::params;

use super::{Store, StoreError};
use crate::digest::{BlobDigest, DiffId};
use crate::image::Descriptor;
use crate::reference::Reference;

/// How many repositories are remembered for a layer, the latest.
const KEPT: usize = 16;

/// A layer in a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerPlace {
    /// The repository; it has no tag that means anything.
    pub repository: Reference,
    pub blob: BlobDigest,
    pub size: u64,
    pub media_type: String,
    /// Whether the blob was seen to hold the layer: it was made here, or unpacked here.
    pub verified: bool,
}

impl Store {
    /// Remembers that a repository holds these layers. Those that this store knows to be these blobs
    /// count as verified.
    ///
    /// # Errors
    /// What the database gives.
    pub fn remember_places<'l>(
        &self,
        repository: &Reference,
        layers: impl IntoIterator<Item = (DiffId, &'l Descriptor)>,
    ) -> Result<(), StoreError> {
        let now = self.now();
        self.write_lightly(|tx| {
            for (diff_id, blob) in layers {
                let digest = BlobDigest(blob.digest);
                tx.execute(
                    "INSERT INTO place (diff_id, registry, repository, blob, size, media_type, verified, seen)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6,
                             EXISTS (SELECT 1 FROM layer_blob WHERE diff_id = ?1 AND blob = ?4), ?7)
                     ON CONFLICT (diff_id, registry, repository, blob)
                     DO UPDATE SET seen = ?7, verified = max(verified, excluded.verified)",
                    params![
                        diff_id,
                        repository.registry(),
                        repository.repository(),
                        digest,
                        blob.size as i64,
                        blob.media_type.to_string(),
                        now
                    ],
                )?;
                tx.execute(
                    "DELETE FROM place WHERE diff_id = ?1 AND rowid NOT IN
                     (SELECT rowid FROM place WHERE diff_id = ?1 ORDER BY seen DESC, rowid DESC LIMIT ?2)",
                    params![diff_id, KEPT as i64],
                )?;
            }
            Ok(())
        })
    }

    /// The repositories that were seen to hold a layer, the latest first.
    ///
    /// # Errors
    /// What the database gives.
    pub fn places(&self, diff_id: DiffId) -> Result<Vec<LayerPlace>, StoreError> {
        type Row = (String, String, BlobDigest, i64, String, bool);
        let rows: Vec<Row> = self.read(|db| {
            db.prepare_cached(
                "SELECT registry, repository, blob, size, media_type, verified FROM place
                 WHERE diff_id = ? ORDER BY seen DESC, rowid DESC",
            )?
            .query_map([diff_id], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?))
            })?
            .collect()
        })?;
        let places =
            rows.into_iter().filter_map(|(registry, repository, blob, size, media_type, verified)| {
                let repository = Reference::parse(&format!("{registry}/{repository}")).ok()?;
                Some(LayerPlace { repository, blob, size: size.unsigned_abs(), media_type, verified })
            });
        Ok(places.collect())
    }

    /// Forgets that a repository holds a layer: it was asked and has it no more.
    ///
    /// # Errors
    /// What the database gives.
    pub fn forget_place(&self, repository: &Reference, blob: BlobDigest) -> Result<(), StoreError> {
        self.write_lightly(|tx| {
            tx.execute(
                "DELETE FROM place WHERE registry = ? AND repository = ? AND blob = ?",
                params![repository.registry(), repository.repository(), blob],
            )?;
            Ok(())
        })
    }
}

impl LayerPlace {
    /// The blob as a manifest names it.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(self.media_type.as_str().into(), self.blob.0, self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::store::tests::store;

    #[test]
    fn what_a_manifest_claims_is_not_verified() {
        let (_folder, store) = store();
        let at = |name: &str| Reference::parse(name).unwrap();
        let diff_id = DiffId(Digest::of(b"layer"));
        let blob = |bytes: &[u8]| Descriptor::new("application/x+gzip".into(), Digest::of(bytes), 5);
        let (ours, theirs) = (blob(b"ours"), blob(b"theirs"));
        store.remember_layer_blob(diff_id, "gzip", BlobDigest(ours.digest), 5).unwrap();
        store.remember_places(&at("r.example/evil:1"), [(diff_id, &theirs)]).unwrap();
        store.remember_places(&at("r.example/a/b:2"), [(diff_id, &ours)]).unwrap();
        let found: Vec<_> = store
            .places(diff_id)
            .unwrap()
            .into_iter()
            .map(|place| (place.repository.repository().to_owned(), place.descriptor(), place.verified))
            .collect();
        assert_eq!(found.len(), 2);
        assert!(found.contains(&("a/b".to_owned(), ours.clone(), true)), "{found:?}");
        assert!(found.contains(&("evil".to_owned(), theirs, false)), "{found:?}");
        store.forget_place(&at("r.example/a/b"), BlobDigest(ours.digest)).unwrap();
        assert_eq!(store.places(diff_id).unwrap().len(), 1);
        assert!(store.places(DiffId(Digest::of(b"other"))).unwrap().is_empty());
    }

    #[test]
    fn the_latest_places_are_kept() {
        let (_folder, store) = store();
        let diff_id = DiffId(Digest::of(b"layer"));
        let blob = Descriptor::new("application/x+gzip".into(), Digest::of(b"blob"), 5);
        for number in 0..40 {
            let name = Reference::parse(&format!("r.example/a{number}")).unwrap();
            store.remember_places(&name, [(diff_id, &blob)]).unwrap();
        }
        let places = store.places(diff_id).unwrap();
        assert_eq!(places.len(), KEPT);
        assert_eq!(places[0].repository.repository(), "a39");
    }
}
