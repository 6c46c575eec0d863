//! What a crash left, told exactly from what somebody is about to use.
//!
//! Three kinds of things can lie around. Layers and blobs without a row that holds them: they are
//! judged and taken away inside one IMMEDIATE transaction, while nobody can register one. Temporary
//! directories: they carry the name of their session, whose lock tells whether it lives. Places of
//! containers: their rows come first and go first.

use std::collections::HashSet;
use std::path::PathBuf;

use rusqlite::{Connection, Transaction, params};

use super::prune::{Pruned, entries, held_diff_ids};
use super::{Store, StoreError};
use crate::digest::{BlobDigest, DiffId, Digest};
use crate::image::{Document, MANIFEST_LIMIT};

impl Store {
    /// Removes what nothing holds: layers, blobs, and what crashes left.
    ///
    /// # Errors
    /// What the database and the file system give. What was removed before stays removed.
    pub fn sweep(&self, pruned: &mut Pruned) -> Result<(), StoreError> {
        self.sweep_temporary()?;
        self.sweep_receiving()?;
        self.sweep_leases()?;
        let strays = self.write(|tx| {
            self.sweep_layers(tx, pruned)?;
            self.sweep_blobs(tx, pruned)?;
            self.set_strays_aside(tx)
        })?;
        for path in strays {
            self.remove_tree(&path)?;
        }
        self.sweep_containers()?;
        self.sweep_volumes()?;
        self.sweep_uploads(false)
    }

    /// Takes away the rows of layers that nothing holds; their directories are strays from then on.
    fn sweep_layers(&self, tx: &Transaction<'_>, pruned: &mut Pruned) -> rusqlite::Result<()> {
        let held = held_diff_ids(tx)?;
        let mut layers = tx.prepare(
            "SELECT id, diff_id, unpacked_size FROM layer
             WHERE id NOT IN (SELECT layer FROM lease)
               AND id NOT IN (SELECT identity.layer FROM identity
                              JOIN action ON action.layer = identity.identity)",
        )?;
        let mut removed = Vec::new();
        let mut rows = layers.query([])?;
        while let Some(row) = rows.next()? {
            if !held.contains(&row.get::<_, DiffId>(1)?) {
                removed.push((row.get::<_, i64>(0)?, row.get::<_, i64>(2)?.unsigned_abs()));
            }
        }
        for (number, size) in removed {
            tx.execute("DELETE FROM layer WHERE id = ?", [number])?;
            pruned.layers += 1;
            pruned.bytes += size;
        }
        Ok(())
    }

    fn sweep_blobs(&self, tx: &Transaction<'_>, pruned: &mut Pruned) -> Result<(), StoreError> {
        let mut wanted = held_diff_ids(tx)?;
        let mut unpacked = tx.prepare("SELECT diff_id FROM layer")?;
        for diff_id in unpacked.query_map([], |row| row.get::<_, DiffId>(0))? {
            wanted.insert(diff_id?);
        }
        let mut held = self.document_blobs(tx)?;
        held.extend(self.served_blobs(tx)?);
        let mut leased = tx.prepare("SELECT blob FROM lease_blob")?;
        for blob in leased.query_map([], |row| row.get::<_, BlobDigest>(0))? {
            held.insert(blob?);
        }
        let layers: Vec<(DiffId, String, BlobDigest)> = tx
            .prepare("SELECT diff_id, compression, blob FROM layer_blob")?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
            .collect::<Result<_, _>>()?;
        for (diff_id, compression, blob) in layers {
            if wanted.contains(&diff_id) {
                held.insert(blob);
            } else if !held.contains(&blob) {
                // What a registry holds need not be compressed again to be known: its row is kept.
                tx.execute(
                    "DELETE FROM layer_blob WHERE diff_id = ?1 AND compression = ?2
                     AND NOT EXISTS (SELECT 1 FROM place WHERE diff_id = ?1 AND blob = ?3)",
                    params![diff_id, compression, blob],
                )?;
            }
        }
        for (path, name) in entries(&self.path().join("blobs/sha256"))? {
            if Digest::from_hex(&name).is_some_and(|digest| held.contains(&BlobDigest(digest))) {
                continue;
            }
            let size = path.symlink_metadata().map_or(0, |metadata| metadata.len());
            self.remove_tree(&path)?;
            pruned.blobs += 1;
            pruned.bytes += size;
        }
        Ok(())
    }

    /// Configs and manifests of images and pins, and what the manifests name.
    fn document_blobs(&self, db: &Connection) -> rusqlite::Result<HashSet<BlobDigest>> {
        let mut held: HashSet<BlobDigest> = db
            .prepare(
                "SELECT id FROM image UNION SELECT manifest FROM image WHERE manifest IS NOT NULL
                 UNION SELECT manifest FROM name WHERE manifest IS NOT NULL
                 UNION SELECT manifest FROM member
                 UNION SELECT image FROM pin UNION SELECT manifest FROM pin
                 UNION SELECT image FROM container UNION SELECT image FROM container_image",
            )?
            .query_map([], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        // An index holds what its manifests name too: attestations have no image of their own.
        let mut manifests: Vec<BlobDigest> = held.iter().copied().collect();
        while let Some(digest) = manifests.pop() {
            let Ok(bytes) = self.read_blob(digest, MANIFEST_LIMIT) else { continue };
            match Document::parse(&bytes, None) {
                Ok(Document::Manifest(manifest)) => {
                    held.insert(BlobDigest(manifest.config.digest));
                    held.extend(manifest.layers.iter().map(|layer| BlobDigest(layer.digest)));
                }
                Ok(Document::Index(index)) => {
                    let below = index.manifests.iter().map(|entry| BlobDigest(entry.digest));
                    manifests.extend(below.filter(|entry| held.insert(*entry)));
                }
                Err(_) => {}
            }
        }
        Ok(held)
    }

    /// Renames what lies in `layers/` without a row or a lease, so that no layer can get that place,
    /// and gives the new names. To remove them here would keep everybody else waiting.
    fn set_strays_aside(&self, tx: &Transaction<'_>) -> Result<Vec<PathBuf>, StoreError> {
        let known: HashSet<String> = tx
            .prepare("SELECT id FROM layer UNION SELECT layer FROM lease")?
            .query_map([], |row| Ok(super::layers::base36(row.get(0)?)))?
            .collect::<rusqlite::Result<_>>()?;
        let mut strays = Vec::new();
        for (path, name) in entries(&self.path().join("layers"))? {
            if known.contains(&name) {
                continue;
            }
            // Only one that was set aside before has a dot in its name.
            if name.contains('.') {
                strays.push(path);
                continue;
            }
            let aside = path.with_file_name(format!("{name}.{}.gone", self.now()));
            std::fs::rename(&path, &aside).map_err(StoreError::io("set aside", &path))?;
            strays.push(aside);
        }
        Ok(strays)
    }

    /// What sessions that are over left in `tmp/`.
    pub(super) fn sweep_temporary(&self) -> Result<(), StoreError> {
        for (path, name) in entries(&self.path().join("tmp"))? {
            let session = name.split_once('.').map_or("", |(session, _)| session);
            // What has no session's name is nobody's.
            if !session.starts_with("session-") || self.session_is_over(session)? {
                self.remove_tree(&path)?;
            }
        }
        Ok(())
    }
}
