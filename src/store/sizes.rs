//! How much single things take, and where they are: what listings show.

use std::collections::HashMap;
use std::path::PathBuf;

use super::containers::ContainerId;
use super::prune::tree_size;
use super::{Store, StoreError};
use crate::digest::{DiffId, ImageId, LayerIdentity};

/// A volume, as far as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeUse {
    pub name: String,
    /// How many containers mount it.
    pub containers: usize,
    pub bytes: u64,
}

/// A record of the build cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheRecord {
    pub key: String,
    /// What the step did, in words.
    pub step: String,
    pub created: i64,
    pub used: i64,
    /// Of its layer, if that is here.
    pub bytes: u64,
    /// Whether an image holds the layer too.
    pub shared: bool,
}

impl Store {
    /// The bytes that a container wrote.
    pub fn container_size(&self, id: &ContainerId) -> u64 {
        tree_size(&self.container_folder(id).join("fs"))
    }

    /// The directories of layers that are here, in the order of `diff_ids`.
    ///
    /// # Errors
    /// What the database gives.
    pub fn layer_folders(&self, diff_ids: &[DiffId]) -> Result<Vec<PathBuf>, StoreError> {
        let folder = self.path().join("layers");
        self.read(|db| {
            let mut query = db.prepare_cached("SELECT layer FROM identity WHERE identity = ?")?;
            let mut found = Vec::new();
            for diff_id in diff_ids {
                let mut rows = query.query([LayerIdentity::of_diff(*diff_id)])?;
                if let Some(row) = rows.next()? {
                    found.push(folder.join(super::layers::base36(row.get(0)?)).join("fs"));
                }
            }
            Ok(found)
        })
    }

    /// The bytes of an image's layers that other images have too.
    ///
    /// # Errors
    /// What the database gives.
    pub fn shared_sizes(&self) -> Result<HashMap<ImageId, u64>, StoreError> {
        let (images, sizes) = self.read(|db| {
            let images: Vec<(ImageId, Vec<DiffId>)> = db
                .prepare("SELECT id, diff_ids FROM image")?
                .query_map([], |row| Ok((row.get(0)?, row.get::<_, super::database::Json<_>>(1)?.0)))?
                .collect::<rusqlite::Result<_>>()?;
            let sizes: HashMap<DiffId, i64> = db
                .prepare("SELECT diff_id, unpacked_size FROM layer")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<rusqlite::Result<_>>()?;
            Ok((images, sizes))
        })?;
        let mut holders: HashMap<DiffId, usize> = HashMap::new();
        for (_, layers) in &images {
            let own: std::collections::HashSet<&DiffId> = layers.iter().collect();
            own.into_iter().for_each(|layer| *holders.entry(*layer).or_default() += 1);
        }
        let shared = |layers: &[DiffId]| {
            let several = layers.iter().filter(|layer| holders.get(layer).is_some_and(|count| *count > 1));
            several.filter_map(|layer| sizes.get(layer)).map(|size| size.unsigned_abs()).sum()
        };
        Ok(images.iter().map(|(id, layers)| (*id, shared(layers))).collect())
    }

    /// All volumes, by name, with what they hold.
    ///
    /// # Errors
    /// What the database gives.
    pub fn volume_uses(&self) -> Result<Vec<VolumeUse>, StoreError> {
        let rows: Vec<(String, i64)> = self.read(|db| {
            db.prepare(
                "SELECT name, (SELECT count(*) FROM volume_use WHERE volume = name) FROM volume ORDER BY name",
            )?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect()
        })?;
        let folder = self.path().join("volumes");
        let row = |(name, containers): (String, i64)| VolumeUse {
            bytes: tree_size(&folder.join(&name)),
            containers: usize::try_from(containers).unwrap_or(0),
            name,
        };
        Ok(rows.into_iter().map(row).collect())
    }

    /// The records of the build cache, the last used first.
    ///
    /// # Errors
    /// What the database gives.
    pub fn cache_records(&self) -> Result<Vec<CacheRecord>, StoreError> {
        self.read(|db| {
            let held = super::prune::held_diff_ids(db)?;
            db.prepare(
                "SELECT key, step, action.created, used, coalesce(unpacked_size, 0), action.diff_id FROM action
                 LEFT JOIN identity ON identity.identity = action.layer
                 LEFT JOIN layer ON layer.id = identity.layer
                 ORDER BY used DESC, key",
            )?
            .query_map([], |row| {
                Ok(CacheRecord {
                    key: row.get(0)?,
                    step: row.get(1)?,
                    created: row.get(2)?,
                    used: row.get(3)?,
                    bytes: row.get::<_, i64>(4)?.unsigned_abs(),
                    shared: held.contains(&row.get(5)?),
                })
            })?
            .collect()
        })
    }
}
