//! Images and the names they go by.
//!
//! An image is its config; its layers are named there by diffID. A name points at one image and, if
//! it was pulled or loaded, at the manifest it came with, so that pushing it again moves nothing.

use rusqlite::{Connection, OptionalExtension, params};

use super::database::Json;
use super::{Store, StoreError};
use crate::digest::{BlobDigest, DiffId, ImageId};
use crate::image::{CONFIG_LIMIT, ImageConfig};
use crate::platform::Platform;
use crate::reference::Reference;

/// An image in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredImage {
    pub id: ImageId,
    pub platform: Platform,
    /// The manifest it came with, if it came with one; a blob of the store.
    pub manifest: Option<BlobDigest>,
    pub diff_ids: Vec<DiffId>,
    /// When it was put here, in nanoseconds since the epoch.
    pub created: i64,
}

/// A line of `stave images`.
#[derive(Debug, Clone)]
pub struct Listed {
    /// None for an image that no name points at.
    pub name: Option<Reference>,
    pub image: StoredImage,
}

impl Store {
    /// Registers an image whose config is stored here; gives its id. `manifest` is the one it came
    /// with, if it did.
    ///
    /// # Errors
    /// [`StoreError::Document`] if the config cannot be read.
    pub fn put_image(&self, config: &[u8], manifest: Option<BlobDigest>) -> Result<StoredImage, StoreError> {
        let parsed = parse_config(config)?;
        let id = ImageId(self.put_blob(config)?.0);
        let image = StoredImage {
            id,
            platform: parsed.platform(),
            manifest,
            diff_ids: parsed.rootfs.diff_ids,
            created: self.now(),
        };
        let session = self.session_id()?;
        // Nearly every build gives an image that is here, and whatever holds of it is on the disk.
        if self.read(|db| is_stored(db, &image))? && self.hold_stored(&session, &image)? {
            return Ok(image);
        }
        self.write(|tx| -> Result<_, StoreError> {
            // It has no name yet, and a prune may be under way.
            Self::claim_image(tx, &session, id)?;
            tx.execute(
                "INSERT INTO image (id, platform, manifest, diff_ids, created) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (id) DO UPDATE SET manifest = coalesce(?3, manifest)",
                params![id, image.platform.to_string(), manifest, Json(&image.diff_ids), image.created],
            )?;
            Ok(())
        })?;
        Ok(image)
    }

    /// Keeps an image for the session, without waiting for the disk. Gives whether it is as stored still.
    fn hold_stored(&self, session: &str, image: &StoredImage) -> Result<bool, StoreError> {
        self.write_lightly(|tx| {
            Self::claim_image(tx, session, image.id)?;
            Ok(is_stored(tx, image)?)
        })
    }

    /// Points `name` at an image of the store, away from what it named before; gives that.
    ///
    /// # Errors
    /// What the database gives.
    pub fn tag(&self, name: &Reference, image: ImageId) -> Result<Option<ImageId>, StoreError> {
        // Only when it was named changes then, and all else of it is on the disk.
        if self.read(|db| names(db, name, image))? && self.name_again(name, image)? {
            return Ok(None);
        }
        self.write(|tx| {
            let before = tx
                .query_row("SELECT image FROM name WHERE name = ?", [name.to_string()], |row| row.get(0))
                .optional()?;
            super::indexes::forget_members(tx, name)?;
            tx.execute(
                "INSERT OR REPLACE INTO name (name, image, manifest, updated)
                 VALUES (?1, ?2, (SELECT manifest FROM image WHERE id = ?2), ?3)",
                params![name.to_string(), image, self.now()],
            )?;
            Ok(before.filter(|before| *before != image))
        })
    }

    /// Notes that a name was given once more, without waiting for the disk. Gives whether it names that image still.
    fn name_again(&self, name: &Reference, image: ImageId) -> Result<bool, StoreError> {
        self.write_lightly(|tx| {
            let is_same = names(tx, name, image)?;
            if is_same {
                let now = self.now();
                tx.execute("UPDATE name SET updated = ? WHERE name = ?", params![now, name.to_string()])?;
            }
            Ok(is_same)
        })
    }

    /// The image that `name` points at.
    ///
    /// # Errors
    /// What the database gives.
    pub fn image_named(&self, name: &Reference) -> Result<Option<StoredImage>, StoreError> {
        let by = |condition: &str, value: String| {
            self.read(|db| {
                db.query_row(
                    &format!(
                        "SELECT id, platform, image.manifest, diff_ids, created FROM image
                         JOIN name ON name.image = image.id WHERE {condition}"
                    ),
                    [value],
                    read_image,
                )
                .optional()
            })
        };
        if let Some(found) = by("name.name = ?", name.to_string())? {
            return Ok(Some(found));
        }
        match name.digest() {
            // `name@digest` finds what was pulled under another tag of the same repository, and
            // nothing that only some other repository is known to hold.
            Some(digest) => {
                let repository = format!("{}/{}", name.registry(), name.repository());
                self.read(|db| {
                    db.query_row(
                        "SELECT id, platform, image.manifest, diff_ids, created FROM image
                         JOIN name ON name.image = image.id
                         WHERE (image.manifest = ?1 OR name.manifest = ?1 OR image.id = ?1)
                           AND (substr(name.name, 1, length(?2) + 1) IN (?2 || ':', ?2 || '@'))",
                        params![digest.hex(), repository],
                        read_image,
                    )
                    .optional()
                })
            }
            None => Ok(None),
        }
    }

    /// The image with this id.
    ///
    /// # Errors
    /// What the database gives.
    pub fn image(&self, id: ImageId) -> Result<Option<StoredImage>, StoreError> {
        self.read(|db| {
            db.query_row(
                "SELECT id, platform, manifest, diff_ids, created FROM image WHERE id = ?",
                [id],
                read_image,
            )
            .optional()
        })
    }

    /// The image that a person means: a name, an id, or the beginning of one id only.
    ///
    /// # Errors
    /// What the database gives.
    pub fn find_image(&self, text: &str) -> Result<Option<StoredImage>, StoreError> {
        if let Ok(name) = Reference::parse(text)
            && let Some(found) = self.image_named(&name)?
        {
            return Ok(Some(found));
        }
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        if hex.is_empty() || !hex.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c)) {
            return Ok(None);
        }
        let mut found: Vec<StoredImage> = self.read(|db| {
            db.prepare(
                "SELECT id, platform, manifest, diff_ids, created FROM image
                 WHERE substr(id, 1, length(?1)) = ?1 LIMIT 2",
            )?
            .query_map([hex], read_image)?
            .collect()
        })?;
        Ok(if found.len() == 1 { found.pop() } else { None })
    }

    /// The config of an image.
    ///
    /// # Errors
    /// [`StoreError::MissingBlob`] or [`StoreError::Corrupt`] if the store was damaged.
    pub fn image_config(&self, id: ImageId) -> Result<(ImageConfig, Vec<u8>), StoreError> {
        let bytes = self.read_blob(BlobDigest(id.0), CONFIG_LIMIT)?;
        Ok((parse_config(&bytes)?, bytes))
    }

    /// Every name, and every image without one, newest first.
    ///
    /// # Errors
    /// What the database gives.
    pub fn images(&self) -> Result<Vec<Listed>, StoreError> {
        self.read(|db| {
            db.prepare(
                "SELECT id, platform, image.manifest, diff_ids, created, name.name FROM image
                 LEFT JOIN name ON name.image = image.id
                 WHERE name.name IS NOT NULL OR id NOT IN (SELECT image FROM member)
                 ORDER BY coalesce(name.updated, created) DESC, name.name",
            )?
            .query_map([], |row| {
                let name: Option<String> = row.get(5)?;
                Ok(Listed {
                    name: name.and_then(|name| Reference::parse(&name).ok()),
                    image: read_image(row)?,
                })
            })?
            .collect()
        })
    }

    /// The names that point at an image, alone or among those of an index.
    ///
    /// # Errors
    /// What the database gives.
    pub fn names_of(&self, id: ImageId) -> Result<Vec<Reference>, StoreError> {
        let names: Vec<String> = self.read(|db| {
            db.prepare(
                "SELECT name FROM name WHERE image = ?1 UNION SELECT name FROM member WHERE image = ?1
                 ORDER BY name",
            )?
            .query_map([id], |row| row.get(0))?
            .collect()
        })?;
        Ok(names.iter().filter_map(|name| Reference::parse(name).ok()).collect())
    }

    /// Takes a name away; whether it was there.
    ///
    /// # Errors
    /// What the database gives.
    pub fn untag(&self, name: &Reference) -> Result<bool, StoreError> {
        self.write(|tx| {
            super::indexes::forget_members(tx, name)?;
            Ok(tx.execute("DELETE FROM name WHERE name = ?", [name.to_string()])? > 0)
        })
    }

    /// Forgets an image that no name points at and no container is made of or mounts; its layers go with the next
    /// [`Store::prune`].
    /// Gives whether it was forgotten.
    ///
    /// # Errors
    /// What the database gives.
    pub fn forget_image(&self, id: ImageId) -> Result<bool, StoreError> {
        self.write(|tx| {
            Ok(tx.execute(
                "DELETE FROM image WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM name WHERE image = ?1)
                 AND NOT EXISTS (SELECT 1 FROM member WHERE image = ?1)
                 AND NOT EXISTS (SELECT 1 FROM container WHERE image = ?1)
                 AND NOT EXISTS (SELECT 1 FROM container_image WHERE image = ?1)",
                [id],
            )? > 0)
        })
    }

    /// Remembers what `name` was found to be at its registry.
    ///
    /// # Errors
    /// What the database gives.
    pub fn pin(
        &self,
        name: &Reference,
        platform: &Platform,
        image: ImageId,
        manifest: BlobDigest,
    ) -> Result<(), StoreError> {
        self.write(|tx| {
            tx.execute(
                "INSERT OR REPLACE INTO pin (name, platform, image, manifest, at) VALUES (?, ?, ?, ?, ?)",
                params![name.to_string(), platform.to_string(), image, manifest, self.now()],
            )?;
            Ok(())
        })
    }

    /// What `name` was last found to be at its registry: image, manifest, and when.
    ///
    /// # Errors
    /// What the database gives.
    pub fn pinned(
        &self,
        name: &Reference,
        platform: &Platform,
    ) -> Result<Option<(ImageId, BlobDigest, i64)>, StoreError> {
        self.read(|db| {
            db.query_row(
                "SELECT image, manifest, at FROM pin WHERE name = ? AND platform = ?",
                params![name.to_string(), platform.to_string()],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
            )
            .optional()
        })
    }
}

pub(super) fn read_image(row: &rusqlite::Row<'_>) -> rusqlite::Result<StoredImage> {
    let platform: String = row.get(1)?;
    Ok(StoredImage {
        id: row.get(0)?,
        platform: Platform::parse(&platform).unwrap_or_else(|_| Platform::new("unknown", "unknown", None)),
        manifest: row.get(2)?,
        diff_ids: row.get::<_, Json<_>>(3)?.0,
        created: row.get(4)?,
    })
}

pub(super) fn parse_config(bytes: &[u8]) -> Result<ImageConfig, StoreError> {
    serde_json::from_slice(bytes)
        .map_err(|source| StoreError::Document { what: "of an image's config".to_owned(), source })
}

/// Whether the database says the same of the image already.
fn is_stored(db: &Connection, image: &StoredImage) -> rusqlite::Result<bool> {
    db.query_row(
        "SELECT EXISTS (SELECT 1 FROM image WHERE id = ?1 AND manifest IS coalesce(?2, manifest))",
        params![image.id, image.manifest],
        |row| row.get(0),
    )
}

/// Whether `name` is that of the image alone.
fn names(db: &Connection, name: &Reference, image: ImageId) -> rusqlite::Result<bool> {
    db.query_row(
        "SELECT EXISTS (SELECT 1 FROM name JOIN image ON image.id = name.image
                        WHERE name.name = ?1 AND image.id = ?2 AND name.manifest IS image.manifest)
                AND NOT EXISTS (SELECT 1 FROM member WHERE name = ?1)",
        params![name.to_string(), image],
        |row| row.get(0),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::store::tests::store;

    const CONFIG: &[u8] =
        br#"{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[]}}"#;

    #[test]
    fn an_image_that_is_here_is_put_and_named_again() {
        let (_folder, store) = store();
        let name = Reference::parse("app").unwrap();
        let image = store.put_image(CONFIG, None).unwrap().id;
        assert_eq!(store.tag(&name, image).unwrap(), None);
        let stated = |store: &Store| {
            let found = store.image_named(&name).unwrap().unwrap();
            let updated: i64 =
                store.read(|db| db.query_row("SELECT updated FROM name", [], |row| row.get(0))).unwrap();
            (found.id, found.manifest, updated)
        };
        let before = stated(&store);
        assert_eq!(store.put_image(CONFIG, None).unwrap().id, image);
        assert_eq!(store.tag(&name, image).unwrap(), None);
        let again = stated(&store);
        assert!((again.0, again.1) == (image, None) && again.2 > before.2);
        // A manifest is new, and one that is there stays where none is given.
        let manifest = BlobDigest(Digest::of(b"manifest"));
        store.put_image(CONFIG, Some(manifest)).unwrap();
        store.put_image(CONFIG, None).unwrap();
        assert_eq!(stated(&store).1, Some(manifest));
        store.tag(&name, image).unwrap();
        let of_name: Option<BlobDigest> =
            store.read(|db| db.query_row("SELECT manifest FROM name", [], |row| row.get(0))).unwrap();
        assert_eq!(of_name, Some(manifest));
    }

    #[test]
    fn a_name_of_several_becomes_that_of_one() {
        let (_folder, store) = store();
        let name = Reference::parse("app").unwrap();
        let image = store.put_image(CONFIG, None).unwrap().id;
        store.tag(&name, image).unwrap();
        let members = || -> i64 {
            store.read(|db| db.query_row("SELECT count(*) FROM member", [], |row| row.get(0))).unwrap()
        };
        let add = "INSERT INTO member (name, image, manifest, place) VALUES (?, ?, '', 0)";
        store
            .write(|tx| tx.execute(add, params![name.to_string(), image]).map(drop).map_err(StoreError::from))
            .unwrap();
        assert_eq!(members(), 1);
        store.tag(&name, image).unwrap();
        assert_eq!(members(), 0);
    }

    #[test]
    fn another_image_takes_the_name() {
        let (_folder, store) = store();
        let name = Reference::parse("app").unwrap();
        let first = store.put_image(CONFIG, None).unwrap().id;
        let other = String::from_utf8_lossy(CONFIG).replace("amd64", "arm64");
        let second = store.put_image(other.as_bytes(), None).unwrap().id;
        store.tag(&name, first).unwrap();
        assert_eq!(store.tag(&name, second).unwrap(), Some(first));
        assert_eq!(store.image_named(&name).unwrap().unwrap().id, second);
    }
}
