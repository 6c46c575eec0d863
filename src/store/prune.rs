//! What nobody needs any more, and how much everything takes.
//!
//! Layers stay for images, for records of the build cache that `all` does not drop, for containers
//! and for leases; blobs for images and as the compressed form of layers that stay. Everything else
//! in the store's folders was left by a crash.

use std::collections::HashSet;
use std::path::Path;

use rusqlite::params;

use super::database::Json;
use super::{Store, StoreError};
use crate::digest::{BlobDigest, DiffId, Digest};
use crate::image::{Document, MANIFEST_LIMIT};

/// What a prune shall take.
#[derive(Debug, Clone, Copy, Default)]
pub struct PruneOptions {
    /// Images that no name points at.
    pub unnamed_images: bool,
    /// Every image that no container uses, named or not.
    pub all_images: bool,
    /// The build cache: its records and the layers that only they hold.
    pub build_cache: bool,
    /// What is in cache mounts.
    pub cache_mounts: bool,
}

/// What a prune took.
#[derive(Debug, Clone, Default)]
pub struct Pruned {
    /// The ids of containers.
    pub containers: Vec<String>,
    pub images: Vec<Digest>,
    pub layers: usize,
    pub blobs: usize,
    pub records: usize,
    pub bytes: u64,
}

/// How much there is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    pub images: usize,
    pub named_images: usize,
    /// Bytes of layers that images hold.
    pub image_bytes: u64,
    pub records: usize,
    pub cached_layers: usize,
    /// Bytes of layers that only the build cache holds.
    pub cache_bytes: u64,
    pub blobs: usize,
    pub blob_bytes: u64,
    pub cache_mounts: usize,
    pub cache_mount_bytes: u64,
}

impl Store {
    /// Removes what `options` names and what nothing holds after that.
    ///
    /// # Errors
    /// What the database and the file system give. What was removed before stays removed.
    pub fn prune(&self, options: PruneOptions) -> Result<Pruned, StoreError> {
        let mut pruned = Pruned { containers: self.prune_containers()?, ..Pruned::default() };
        self.write(|tx| -> Result<_, StoreError> {
            if options.all_images {
                tx.execute("DELETE FROM name WHERE image NOT IN (SELECT image FROM container)", [])?;
            }
            if options.unnamed_images || options.all_images {
                let unused = "id NOT IN (SELECT image FROM name) AND id NOT IN (SELECT image FROM container)";
                pruned.images = tx
                    .prepare(&format!("SELECT id FROM image WHERE {unused}"))?
                    .query_map([], |row| Ok(row.get::<_, crate::digest::ImageId>(0)?.0))?
                    .collect::<Result<_, _>>()?;
                tx.execute(&format!("DELETE FROM image WHERE {unused}"), [])?;
            }
            if options.build_cache {
                pruned.records = tx.execute("DELETE FROM action", [])?;
                tx.execute("DELETE FROM content", [])?;
            }
            Ok(())
        })?;
        if options.cache_mounts {
            self.prune_cache_mounts(&mut pruned)?;
        }
        self.sweep(&mut pruned)?;
        Ok(pruned)
    }

    /// Removes what nothing holds: layers, blobs, and what crashes left.
    ///
    /// # Errors
    /// As [`Store::prune`].
    pub fn sweep(&self, pruned: &mut Pruned) -> Result<(), StoreError> {
        self.sweep_leases()?;
        let removed: Vec<(i64, u64)> = self.write(|tx| -> Result<_, StoreError> {
            let held = held_diff_ids(tx)?;
            let mut removed = Vec::new();
            let mut layers = tx.prepare(
                "SELECT id, diff_id, unpacked_size FROM layer
                 WHERE id NOT IN (SELECT layer FROM lease)
                   AND id NOT IN (SELECT identity.layer FROM identity
                                  JOIN action ON action.layer = identity.identity)",
            )?;
            let rows = layers.query_map([], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, DiffId>(1)?, row.get::<_, i64>(2)? as u64))
            })?;
            for row in rows {
                let (number, diff_id, size) = row?;
                if !held.contains(&diff_id) {
                    removed.push((number, size));
                }
            }
            for (number, _) in &removed {
                tx.execute("DELETE FROM layer WHERE id = ?", [number])?;
            }
            Ok(removed)
        })?;
        for (number, size) in removed {
            self.remove_tree(&self.layer_folder(number))?;
            pruned.layers += 1;
            pruned.bytes += size;
        }
        self.sweep_blobs(pruned)?;
        self.sweep_strays()
    }

    fn sweep_blobs(&self, pruned: &mut Pruned) -> Result<(), StoreError> {
        let mut held = self.image_blobs()?;
        let layers: Vec<(DiffId, String, BlobDigest)> = self.read(|db| {
            db.prepare("SELECT diff_id, compression, blob FROM layer_blob")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
                .collect()
        })?;
        let wanted: HashSet<DiffId> = self.read(|db| {
            let mut wanted = held_diff_ids(db)?;
            let unpacked: Vec<DiffId> = db
                .prepare("SELECT diff_id FROM layer")?
                .query_map([], |row| row.get(0))?
                .collect::<Result<_, _>>()?;
            wanted.extend(unpacked);
            Ok(wanted)
        })?;
        for (diff_id, compression, blob) in layers {
            if wanted.contains(&diff_id) {
                held.insert(blob);
            } else {
                self.write(|tx| -> Result<_, StoreError> {
                    Ok(tx.execute(
                        "DELETE FROM layer_blob WHERE diff_id = ? AND compression = ?",
                        params![diff_id, compression],
                    )?)
                })?;
            }
        }
        let folder = self.path().join("blobs/sha256");
        for (path, name) in entries(&folder)? {
            let keep = Digest::from_hex(&name).is_some_and(|digest| held.contains(&BlobDigest(digest)));
            let Ok(metadata) = path.symlink_metadata() else { continue };
            // A blob that another process has just written may not have its row yet.
            if !keep && older_than_an_hour(&metadata) {
                std::fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
                pruned.blobs += 1;
                pruned.bytes += metadata.len();
            }
        }
        Ok(())
    }

    /// Configs and manifests of images and pins.
    fn image_blobs(&self) -> Result<HashSet<BlobDigest>, StoreError> {
        let mut held: HashSet<BlobDigest> = self.read(|db| {
            db.prepare(
                "SELECT id FROM image UNION SELECT manifest FROM image WHERE manifest IS NOT NULL
                 UNION SELECT manifest FROM name WHERE manifest IS NOT NULL
                 UNION SELECT image FROM pin UNION SELECT manifest FROM pin
                 UNION SELECT image FROM container",
            )?
            .query_map([], |row| row.get(0))?
            .collect()
        })?;
        let manifests: Vec<BlobDigest> = held.iter().copied().collect();
        for digest in manifests {
            let Ok(bytes) = self.read_blob(digest, MANIFEST_LIMIT) else { continue };
            match Document::parse(&bytes, None) {
                Ok(Document::Manifest(manifest)) => {
                    held.insert(BlobDigest(manifest.config.digest));
                    held.extend(manifest.layers.iter().map(|layer| BlobDigest(layer.digest)));
                }
                Ok(Document::Index(index)) => {
                    held.extend(index.manifests.iter().map(|entry| BlobDigest(entry.digest)));
                }
                Err(_) => {}
            }
        }
        Ok(held)
    }

    /// What is in `tmp/` and `layers/` without a process or a row: left by a crash.
    fn sweep_strays(&self) -> Result<(), StoreError> {
        for (path, name) in entries(&self.path().join("tmp"))? {
            let owner = name.split('-').next().and_then(|pid| pid.parse::<u32>().ok());
            let alive = owner.is_some_and(|pid| Path::new(&format!("/proc/{pid}")).exists());
            if !alive {
                self.remove_tree(&path)?;
            }
        }
        let known: HashSet<String> = self
            .read(|db| {
                db.prepare("SELECT id FROM layer")?
                    .query_map([], |row| row.get(0))?
                    .collect::<rusqlite::Result<Vec<i64>>>()
            })?
            .into_iter()
            .map(super::layers::base36)
            .collect();
        for (path, name) in entries(&self.path().join("layers"))? {
            let old = path.symlink_metadata().is_ok_and(|metadata| older_than_an_hour(&metadata));
            if !known.contains(&name) && old {
                self.remove_tree(&path)?;
            }
        }
        Ok(())
    }

    fn prune_cache_mounts(&self, pruned: &mut Pruned) -> Result<(), StoreError> {
        for (path, name) in entries(&self.path().join("mounts"))? {
            // One in use stays.
            if let Some(_lock) = self.try_lock_mount(&name)? {
                pruned.bytes += tree_size(&path);
                self.remove_tree(&path)?;
                self.write(|tx| -> Result<_, StoreError> {
                    Ok(tx.execute("DELETE FROM cache_mount WHERE id = ?", [&name])?)
                })?;
            }
        }
        Ok(())
    }

    /// Counts what there is.
    ///
    /// # Errors
    /// What the database and the file system give.
    pub fn usage(&self) -> Result<Usage, StoreError> {
        let mut usage = Usage::default();
        self.read(|db| {
            let count = |query: &str| db.query_row(query, [], |row| row.get::<_, i64>(0)).map(|n| n as usize);
            usage.images = count("SELECT count(*) FROM image")?;
            usage.named_images = count("SELECT count(DISTINCT image) FROM name")?;
            usage.records = count("SELECT count(*) FROM action")?;
            usage.cache_mounts = count("SELECT count(*) FROM cache_mount")?;
            let held = held_diff_ids(db)?;
            let mut layers = db.prepare("SELECT diff_id, unpacked_size FROM layer")?;
            let mut rows = layers.query([])?;
            while let Some(row) = rows.next()? {
                let size = row.get::<_, i64>(1)? as u64;
                if held.contains(&row.get(0)?) {
                    usage.image_bytes += size;
                } else {
                    usage.cached_layers += 1;
                    usage.cache_bytes += size;
                }
            }
            Ok(())
        })?;
        for (path, _) in entries(&self.path().join("blobs/sha256"))? {
            if let Ok(metadata) = path.symlink_metadata() {
                usage.blobs += 1;
                usage.blob_bytes += metadata.len();
            }
        }
        for (path, _) in entries(&self.path().join("mounts"))? {
            usage.cache_mount_bytes += tree_size(&path);
        }
        Ok(usage)
    }
}

/// The layers of every image.
fn held_diff_ids(db: &rusqlite::Connection) -> rusqlite::Result<HashSet<DiffId>> {
    let mut held = HashSet::new();
    let mut images = db.prepare("SELECT diff_ids FROM image")?;
    for row in images.query_map([], |row| row.get::<_, Json<Vec<DiffId>>>(0))? {
        held.extend(row?.0);
    }
    Ok(held)
}

fn older_than_an_hour(metadata: &std::fs::Metadata) -> bool {
    let age = metadata.modified().ok().and_then(|modified| modified.elapsed().ok());
    age.is_some_and(|age| age.as_secs() > 3600)
}

fn entries(folder: &Path) -> Result<Vec<(std::path::PathBuf, String)>, StoreError> {
    let fail = || StoreError::io("list", folder);
    std::fs::read_dir(folder)
        .map_err(fail())?
        .map(|entry| {
            let entry = entry.map_err(fail())?;
            Ok((entry.path(), entry.file_name().to_string_lossy().into_owned()))
        })
        .collect()
}

/// The bytes that the files below `path` take, links not followed.
fn tree_size(path: &Path) -> u64 {
    let mut total = 0;
    let mut todo = vec![path.to_owned()];
    while let Some(next) = todo.pop() {
        let Ok(metadata) = next.symlink_metadata() else { continue };
        if metadata.is_dir() {
            let children = std::fs::read_dir(&next).into_iter().flatten().flatten();
            todo.extend(children.map(|entry| entry.path()));
        } else {
            total += metadata.len();
        }
    }
    total
}
