//! What a registry serves from the store, besides the images that have names.
//!
//! A pushed image becomes an image of the store, and its tag a name. What a repository has beyond that
//! is here: manifests that no tag points at, artifacts that are no images, which manifest is about which,
//! and the blobs of pushes that are under way. Those are kept until a time, not until a process ends:
//! a push may outlive a server.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::images::{StoredImage, read_image};
use super::{Store, StoreError};
use crate::digest::{BlobDigest, Digest, ImageId};
use crate::reference::Reference;

/// The folder of uploads to us that are not finished.
pub(super) const RECEIVING: &str = "receiving";
/// How long a blob is kept that no manifest names, and an upload that nobody goes on with: as long as a
/// push may take, in nanoseconds.
const KEPT: i64 = 24 * 3600 * 1_000_000_000;
/// How much of that may have passed before it is said anew.
const SAID: i64 = 3600 * 1_000_000_000;

/// A repository by its full name, which is what the tables know it by.
fn key(repository: &Reference) -> String {
    format!("{}/{}", repository.registry(), repository.repository())
}

/// A manifest of a repository.
#[derive(Debug, Clone)]
pub struct Served<'a> {
    pub manifest: BlobDigest,
    pub media_type: &'a str,
    pub subject: Option<Digest>,
    /// Itself as JSON, as the list of its subject's referrers states it.
    pub descriptor: String,
    /// The blobs and manifests that it names.
    pub parts: Vec<Digest>,
}

/// What a tag shall point at.
#[derive(Debug, Clone, Copy)]
pub enum Tagging<'a> {
    /// Nothing is tagged.
    None,
    /// An image of the store, or several under an index.
    Image { name: &'a Reference, image: ImageId, members: &'a [(ImageId, BlobDigest)] },
    /// What is no image.
    Artifact { tag: &'a str },
}

/// A name of the store.
#[derive(Debug, Clone)]
pub struct Named {
    pub name: Reference,
    pub image: StoredImage,
    /// The manifest that the image has under this name, an index perhaps.
    pub manifest: Option<BlobDigest>,
    /// When it was given, in nanoseconds since the epoch.
    pub updated: i64,
}

impl Store {
    /// The folder of uploads that are not finished.
    pub fn uploads(&self) -> PathBuf {
        self.path().join(RECEIVING)
    }

    /// The repositories of a registry that have a name or a manifest, without the registry.
    ///
    /// # Errors
    /// What the database gives.
    pub fn repositories_of(&self, registry: &str) -> Result<Vec<String>, StoreError> {
        let prefix = format!("{registry}/");
        let names: Vec<String> = self.read(|db| {
            db.prepare(
                "SELECT name FROM name WHERE substr(name, 1, length(?1)) = ?1
                 UNION SELECT DISTINCT repository || ':any' FROM served
                 WHERE substr(repository, 1, length(?1)) = ?1",
            )?
            .query_map([&prefix], |row| row.get(0))?
            .collect()
        })?;
        let names = names.iter().filter_map(|name| Reference::parse(name).ok());
        Ok(names.map(|name| name.repository().to_owned()).collect())
    }

    /// The names in a repository.
    ///
    /// # Errors
    /// What the database gives.
    pub fn names_in(&self, repository: &Reference) -> Result<Vec<Named>, StoreError> {
        let found: Vec<(String, StoredImage, Option<BlobDigest>, i64)> = self.read(|db| {
            db.prepare(
                "SELECT id, platform, image.manifest, diff_ids, created, name.name, name.manifest, updated
                 FROM image JOIN name ON name.image = image.id
                 WHERE substr(name.name, 1, length(?1) + 1) IN (?1 || ':', ?1 || '@')",
            )?
            .query_map([key(repository)], |row| {
                Ok((row.get(5)?, read_image(row)?, row.get(6)?, row.get(7)?))
            })?
            .collect()
        })?;
        let named = |(name, image, manifest, updated): (String, _, _, _)| {
            Some(Named { name: Reference::parse(&name).ok()?, image, manifest, updated })
        };
        Ok(found.into_iter().filter_map(named).collect())
    }

    /// Remembers the manifest that an image was given out with under a name, which had none and still
    /// points at it.
    ///
    /// # Errors
    /// What the database gives.
    pub fn remember_manifest(
        &self,
        name: &Reference,
        image: ImageId,
        manifest: BlobDigest,
    ) -> Result<(), StoreError> {
        self.write(|tx| {
            tx.execute(
                "UPDATE name SET manifest = ? WHERE name = ? AND image = ? AND manifest IS NULL",
                params![manifest, name.to_string(), image],
            )?;
            Ok(())
        })
    }

    /// The tags in a repository that are no names: each with its manifest, and when it was given.
    ///
    /// # Errors
    /// What the database gives.
    pub fn served_tags(&self, repository: &Reference) -> Result<Vec<(String, BlobDigest, i64)>, StoreError> {
        self.read(|db| {
            db.prepare("SELECT tag, manifest, updated FROM served_tag WHERE repository = ?")?
                .query_map([key(repository)], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
                .collect()
        })
    }

    /// Whether a repository has any manifest that was pushed.
    ///
    /// # Errors
    /// What the database gives.
    pub fn serves_any(&self, repository: &Reference) -> Result<bool, StoreError> {
        self.read(|db| {
            db.query_row(
                "SELECT EXISTS (SELECT 1 FROM served WHERE repository = ?)",
                [key(repository)],
                |row| row.get(0),
            )
        })
    }

    /// The media type of a manifest that was pushed to a repository.
    ///
    /// # Errors
    /// What the database gives.
    pub fn served_media_type(
        &self,
        repository: &Reference,
        manifest: BlobDigest,
    ) -> Result<Option<String>, StoreError> {
        self.read(|db| {
            db.query_row(
                "SELECT media_type FROM served WHERE repository = ? AND manifest = ?",
                params![key(repository), manifest],
                |row| row.get(0),
            )
            .optional()
        })
    }

    /// Gives a repository a manifest, whose bytes and parts are blobs of the store, and points a tag at
    /// it: all of it or nothing.
    ///
    /// # Errors
    /// What the database gives.
    pub fn serve_manifest(
        &self,
        repository: &Reference,
        served: &Served<'_>,
        tagging: Tagging<'_>,
    ) -> Result<(), StoreError> {
        let key = key(repository);
        let subject = served.subject.map(BlobDigest);
        self.write(|tx| -> Result<_, StoreError> {
            // Not replaced: that would take its tags away.
            tx.execute(
                "INSERT INTO served (repository, manifest, media_type, subject, descriptor) VALUES (?, ?, ?, ?, ?)
                 ON CONFLICT (repository, manifest) DO UPDATE SET media_type = excluded.media_type",
                params![key, served.manifest, served.media_type, subject, served.descriptor],
            )?;
            for part in &served.parts {
                tx.execute(
                    "INSERT OR IGNORE INTO served_part (repository, part, manifest) VALUES (?, ?, ?)",
                    params![key, BlobDigest(*part), served.manifest],
                )?;
            }
            match tagging {
                Tagging::None => {}
                Tagging::Image { name, image, members } => {
                    tx.execute(
                        "DELETE FROM served_tag WHERE repository = ? AND tag = ?",
                        params![key, name.tag()],
                    )?;
                    super::indexes::forget_members(tx, name)?;
                    tx.execute(
                        "INSERT OR REPLACE INTO name (name, image, manifest, updated) VALUES (?, ?, ?, ?)",
                        params![name.to_string(), image, served.manifest, self.now()],
                    )?;
                    for (place, (image, manifest)) in members.iter().enumerate() {
                        tx.execute(
                            "INSERT OR IGNORE INTO member (name, image, manifest, place) VALUES (?, ?, ?, ?)",
                            params![name.to_string(), image, manifest, place as i64],
                        )?;
                    }
                }
                Tagging::Artifact { tag } => {
                    delete_name(tx, &key, tag)?;
                    tx.execute(
                        "INSERT OR REPLACE INTO served_tag (repository, tag, manifest, updated) VALUES (?, ?, ?, ?)",
                        params![key, tag, served.manifest, self.now()],
                    )?;
                }
            }
            Ok(())
        })
    }

    /// Takes a tag out of a repository, whatever it points at; whether it was there.
    ///
    /// # Errors
    /// What the database gives.
    pub fn unserve_tag(&self, repository: &Reference, tag: &str) -> Result<bool, StoreError> {
        let key = key(repository);
        self.write(|tx| {
            let tags =
                tx.execute("DELETE FROM served_tag WHERE repository = ? AND tag = ?", params![key, tag])?;
            Ok(tags + delete_name(tx, &key, tag)? > 0)
        })
    }

    /// Takes a manifest out of a repository, and the tags and names there that point at it; whether it
    /// was there.
    ///
    /// # Errors
    /// What the database gives.
    pub fn unserve_manifest(&self, repository: &Reference, manifest: BlobDigest) -> Result<bool, StoreError> {
        let key = key(repository);
        self.write(|tx| {
            let served = tx.execute(
                "DELETE FROM served WHERE repository = ? AND manifest = ?",
                params![key, manifest],
            )?;
            let names = tx.execute(
                "DELETE FROM name WHERE substr(name, 1, length(?1) + 1) = ?1 || ':' AND (manifest = ?2 OR
                 manifest IS NULL AND image IN (SELECT id FROM image WHERE image.manifest = ?2))",
                params![key, manifest],
            )?;
            Ok(served + names > 0)
        })
    }

    /// The manifests of a repository that are about this one, as JSON.
    ///
    /// # Errors
    /// What the database gives.
    pub fn served_referrers(
        &self,
        repository: &Reference,
        subject: BlobDigest,
    ) -> Result<Vec<String>, StoreError> {
        self.read(|db| {
            db.prepare("SELECT descriptor FROM served WHERE repository = ? AND subject = ?")?
                .query_map(params![key(repository), subject], |row| row.get(0))?
                .collect()
        })
    }

    /// Whether a blob was sent to a repository, or is named by a manifest that was.
    ///
    /// # Errors
    /// What the database gives.
    pub fn serves_blob(&self, repository: &Reference, blob: BlobDigest) -> Result<bool, StoreError> {
        self.read(|db| {
            db.query_row(
                "SELECT EXISTS (SELECT 1 FROM served_part WHERE repository = ?1 AND part = ?2)
                     OR EXISTS (SELECT 1 FROM served_blob
                                WHERE repository = ?1 AND blob = ?2 AND kept_until > ?3)",
                params![key(repository), blob, self.now()],
                |row| row.get(0),
            )
        })
    }

    /// A manifest of a repository that names this blob.
    ///
    /// # Errors
    /// What the database gives.
    pub fn served_part_of(
        &self,
        repository: &Reference,
        blob: BlobDigest,
    ) -> Result<Option<BlobDigest>, StoreError> {
        self.read(|db| {
            db.query_row(
                "SELECT manifest FROM served_part WHERE repository = ? AND part = ? LIMIT 1",
                params![key(repository), blob],
                |row| row.get(0),
            )
            .optional()
        })
    }

    /// Keeps a blob for a repository for as long as a push may take, here or about to be.
    ///
    /// # Errors
    /// What the database gives.
    pub fn keep_served_blob(&self, repository: &Reference, blob: BlobDigest) -> Result<(), StoreError> {
        let (key, now) = (key(repository), self.now());
        let known: Option<i64> = self.read(|db| {
            db.query_row(
                "SELECT kept_until FROM served_blob WHERE repository = ? AND blob = ?",
                params![key, blob],
                |row| row.get(0),
            )
            .optional()
        })?;
        if known.is_some_and(|until| until - now > KEPT - SAID) {
            return Ok(());
        }
        self.write(|tx| {
            tx.execute(
                "INSERT OR REPLACE INTO served_blob (repository, blob, kept_until) VALUES (?, ?, ?)",
                params![key, blob, now + KEPT],
            )?;
            Ok(())
        })
    }

    /// Keeps a blob for a repository no longer; whether it was kept.
    ///
    /// # Errors
    /// What the database gives.
    pub fn unserve_blob(&self, repository: &Reference, blob: BlobDigest) -> Result<bool, StoreError> {
        self.write(|tx| {
            Ok(tx.execute(
                "DELETE FROM served_blob WHERE repository = ? AND blob = ? AND kept_until > ?",
                params![key(repository), blob, self.now()],
            )? > 0)
        })
    }

    /// Makes a file a blob of the store, kept for a repository. Its bytes have this digest, and are
    /// synced; it is on the store's own file system.
    ///
    /// # Errors
    /// What the file system and the database give.
    pub fn adopt_blob(
        &self,
        repository: &Reference,
        digest: BlobDigest,
        file: &Path,
    ) -> Result<(), StoreError> {
        // Said before it is there: a sweep that begins between the two knows of it.
        self.keep_served_blob(repository, digest)?;
        let folder = self.path().join("blobs/sha256");
        let path = folder.join(digest.0.hex());
        // Over one that may be there: that one may be damaged.
        std::fs::rename(file, &path).map_err(StoreError::io("name the blob", &path))?;
        std::fs::File::open(&folder)
            .and_then(|folder| folder.sync_all())
            .map_err(StoreError::io("sync", &folder))
    }

    /// The blobs that the registry holds, those of pushes under way among them.
    pub(super) fn served_blobs(&self, db: &Connection) -> rusqlite::Result<HashSet<BlobDigest>> {
        let now = self.now();
        db.execute("DELETE FROM served_blob WHERE kept_until <= ?", [now])?;
        db.prepare(
            "SELECT manifest FROM served UNION SELECT part FROM served_part UNION SELECT blob FROM served_blob",
        )?
        .query_map([], |row| row.get(0))?
        .collect()
    }

    /// Takes away manifests that no tag leads to: none points at them, at an index that names them, or
    /// at what they are about. With `all`, the tags go first.
    pub(super) fn prune_served(&self, tx: &Transaction<'_>, all: bool) -> rusqlite::Result<()> {
        if all {
            tx.execute("DELETE FROM served_tag", [])?;
        }
        tx.execute(
            "WITH RECURSIVE kept (repository, manifest) AS (
                 SELECT repository, manifest FROM served_tag
                 UNION SELECT served.repository, served.manifest FROM served JOIN name
                     ON name.manifest = served.manifest
                     AND substr(name.name, 1, length(served.repository) + 1) = served.repository || ':'
                 UNION SELECT repository, blob FROM served_blob WHERE kept_until > ?1
                 -- What is about an image of the store's owner, whose name is in no repository of ours.
                 UNION SELECT repository, manifest FROM served WHERE subject IN
                     (SELECT manifest FROM name UNION SELECT manifest FROM image UNION SELECT manifest FROM member)
                 UNION SELECT served_part.repository, served_part.part FROM served_part JOIN kept
                     ON served_part.repository = kept.repository AND served_part.manifest = kept.manifest
                 UNION SELECT served.repository, served.manifest FROM served JOIN kept
                     ON served.repository = kept.repository AND served.subject = kept.manifest
             )
             DELETE FROM served WHERE (repository, manifest) NOT IN (SELECT repository, manifest FROM kept)",
            [self.now()],
        )?;
        Ok(())
    }

    /// Uploads that nobody went on with for a day.
    pub(super) fn sweep_receiving(&self) -> Result<(), StoreError> {
        use std::os::unix::fs::MetadataExt;
        for (path, _) in super::prune::entries(&self.uploads())? {
            let Ok(metadata) = path.symlink_metadata() else { continue };
            if metadata.mtime().saturating_mul(1_000_000_000).saturating_add(KEPT) < self.now() {
                self.remove_tree(&path)?;
            }
        }
        Ok(())
    }
}

fn delete_name(tx: &Transaction<'_>, repository: &str, tag: &str) -> rusqlite::Result<usize> {
    tx.execute("DELETE FROM name WHERE name = ?", [format!("{repository}:{tag}")])
}
