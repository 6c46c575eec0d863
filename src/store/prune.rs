//! What nobody needs any more, and how much everything takes.
//!
//! Layers stay for images, for records of the build cache that `all` does not drop, for containers
//! and for leases; blobs for images and as the compressed form of layers that stay. Everything else
//! in the store's folders was left by a crash: see `sweep.rs`.

use std::collections::HashSet;
use std::path::Path;

use super::database::Json;
use super::{Store, StoreError};
use crate::digest::{DiffId, Digest};

/// What was not seen at a registry for 90 days is not counted on any more, in nanoseconds.
const PLACE_LIFETIME: i64 = 90 * 24 * 3600 * 1_000_000_000;

/// What a prune shall take.
#[derive(Debug, Clone, Copy, Default)]
pub struct PruneOptions {
    /// Containers that do not run.
    pub containers: bool,
    /// Images that no name points at.
    pub unnamed_images: bool,
    /// Every image that no container uses, named or not.
    pub all_images: bool,
    /// The build cache: its records and the layers that only they hold.
    pub build_cache: bool,
    /// Of the build cache only what was not used since then, in nanoseconds since the epoch.
    pub unused_since: Option<i64>,
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
    /// Bytes of layers that only the build cache holds, and of what was fetched by URL.
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
        super::reserve::release(self.path());
        let pruned = self.prune_what(options);
        super::reserve::keep(self.path());
        pruned
    }

    fn prune_what(&self, options: PruneOptions) -> Result<Pruned, StoreError> {
        // First what takes no database: it makes room on a disk that is full.
        self.sweep_temporary()?;
        let bytes = self.sweep_incoming(None)?;
        self.sweep_leases()?;
        let containers = if options.containers { self.prune_containers()? } else { Vec::new() };
        let mut pruned = Pruned { containers, bytes, ..Pruned::default() };
        self.write(|tx| -> Result<_, StoreError> {
            if options.all_images {
                tx.execute(
                    "DELETE FROM name WHERE image NOT IN (SELECT image FROM container)
                        AND image NOT IN (SELECT image FROM container_image)
                        AND image NOT IN (SELECT image FROM lease_image)
                        AND name NOT IN (SELECT name FROM member WHERE image IN (SELECT image FROM lease_image))",
                    [],
                )?;
                // What registries said is asked for again; its documents would stay otherwise.
                tx.execute("DELETE FROM pin", [])?;
            }
            if options.unnamed_images || options.all_images {
                self.prune_served(tx, options.all_images)?;
                let unused = "id NOT IN (SELECT image FROM name) AND id NOT IN (SELECT image FROM member) AND id NOT IN (SELECT image FROM container)
                              AND id NOT IN (SELECT image FROM container_image)
                              AND id NOT IN (SELECT image FROM lease_image)";
                pruned.images = tx
                    .prepare(&format!("SELECT id FROM image WHERE {unused}"))?
                    .query_map([], |row| Ok(row.get::<_, crate::digest::ImageId>(0)?.0))?
                    .collect::<Result<_, _>>()?;
                tx.execute(&format!("DELETE FROM image WHERE {unused}"), [])?;
            }
            if options.build_cache {
                let used_before = options.unused_since.unwrap_or(i64::MAX);
                pruned.records = tx.execute("DELETE FROM action WHERE used < ?", [used_before])?;
                tx.execute("DELETE FROM content WHERE used < ?", [used_before])?;
            }
            if options.build_cache && options.all_images {
                // Nothing is left that could be brought anywhere.
                tx.execute("DELETE FROM place", [])?;
            } else {
                let oldest = self.now().saturating_sub(PLACE_LIFETIME);
                tx.execute("DELETE FROM place WHERE seen < ?", [oldest])?;
            }
            Ok(())
        })?;
        if options.cache_mounts {
            self.prune_cache_mounts(&mut pruned)?;
        }
        if options.build_cache && options.unused_since.is_none() {
            self.sweep_uploads(true)?;
            // They only save reading files again whose digests were known.
            for (path, _) in entries(&self.path().join("contexts"))? {
                self.remove_tree(&path)?;
            }
            pruned.bytes += self.prune_remotes()?;
        }
        self.sweep(&mut pruned)?;
        self.shrink_database();
        Ok(pruned)
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

    /// Gives the file system back what the database no longer fills. Whoever uses it meanwhile has
    /// precedence: the next prune tries again.
    fn shrink_database(&self) {
        let _ = self.read(|db| {
            let pages = |pragma: &str| db.query_row(pragma, [], |row| row.get::<_, i64>(0));
            let (free, all) = (pages("PRAGMA freelist_count")?, pages("PRAGMA page_count")?);
            db.busy_timeout(std::time::Duration::ZERO)?;
            let shrunk = if free * 4 > all { db.execute_batch("VACUUM") } else { Ok(()) };
            let cut = db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
            db.busy_timeout(super::database::PATIENCE)?;
            shrunk.and(cut)
        });
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
            usage.named_images =
                count("SELECT count(*) FROM (SELECT image FROM name UNION SELECT image FROM member)")?;
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
        usage.cache_bytes += self.remotes_size() + tree_size(&self.path().join(super::incoming::FOLDER));
        for (path, _) in entries(&self.path().join("mounts"))? {
            usage.cache_mount_bytes += tree_size(&path);
        }
        Ok(usage)
    }
}

/// The layers of every image.
pub(super) fn held_diff_ids(db: &rusqlite::Connection) -> rusqlite::Result<HashSet<DiffId>> {
    let mut held = HashSet::new();
    let mut images = db.prepare("SELECT diff_ids FROM image")?;
    for row in images.query_map([], |row| row.get::<_, Json<Vec<DiffId>>>(0))? {
        held.extend(row?.0);
    }
    Ok(held)
}

pub(super) fn entries(folder: &Path) -> Result<Vec<(std::path::PathBuf, String)>, StoreError> {
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
pub(super) fn tree_size(path: &Path) -> u64 {
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
