//! Names that point at several images, one a platform: an index.
//!
//! The index is a blob, as are the manifests that it names; the images below it are rows like all
//! others, so whatever knows images knows these. `name.image` is the one that is taken where nobody
//! asks for a platform, `member` has all of them.

use rusqlite::{OptionalExtension, Transaction, params};

use super::images::{StoredImage, read_image};
use super::{Store, StoreError};
use crate::digest::{BlobDigest, ImageId};
use crate::platform::Platform;
use crate::reference::Reference;

/// An index that a name points at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredIndex {
    pub digest: BlobDigest,
    /// In the index's order, each with the manifest that it has there.
    pub members: Vec<(StoredImage, BlobDigest)>,
}

impl StoredIndex {
    /// The image that serves a platform best.
    pub fn select(&self, platform: &Platform) -> Option<&StoredImage> {
        let ranked =
            self.members.iter().filter_map(|(image, _)| Some((image.platform.preference(platform)?, image)));
        ranked.min_by_key(|(rank, _)| *rank).map(|(_, image)| image)
    }
}

impl Store {
    /// Points `name` at an index whose images and manifests are all here; gives the image that the
    /// name pointed at before, if it is none of these. Of the images the one for `platform` is the
    /// one that is taken where nobody says which.
    ///
    /// # Errors
    /// What the database gives. There is at least one member.
    pub fn tag_index(
        &self,
        name: &Reference,
        index: BlobDigest,
        members: &[(ImageId, BlobDigest)],
        platform: &Platform,
    ) -> Result<Option<ImageId>, StoreError> {
        let images = members.iter().map(|(id, _)| self.image(*id)).collect::<Result<Vec<_>, _>>()?;
        let rank = |image: &&StoredImage| image.platform.preference(platform).map_or(u16::MAX, u16::from);
        let main = images.iter().flatten().min_by_key(rank).map(|image| image.id);
        let Some(main) = main else {
            return Err(StoreError::Archive(format!("the index {index} has no image")));
        };
        self.write(|tx| {
            let before: Option<ImageId> = tx
                .query_row("SELECT image FROM name WHERE name = ?", [name.to_string()], |row| row.get(0))
                .optional()?;
            forget_members(tx, name)?;
            tx.execute(
                "INSERT OR REPLACE INTO name (name, image, manifest, updated) VALUES (?, ?, ?, ?)",
                params![name.to_string(), main, index, self.now()],
            )?;
            for (place, (image, manifest)) in members.iter().enumerate() {
                tx.execute(
                    "INSERT OR IGNORE INTO member (name, image, manifest, place) VALUES (?, ?, ?, ?)",
                    params![name.to_string(), image, manifest, place as i64],
                )?;
            }
            Ok(before.filter(|before| members.iter().all(|(image, _)| image != before)))
        })
    }

    /// The index that `name` points at; none if it points at one image, or at nothing.
    ///
    /// # Errors
    /// What the database gives.
    pub fn index_named(&self, name: &Reference) -> Result<Option<StoredIndex>, StoreError> {
        let found: Vec<(StoredImage, BlobDigest, BlobDigest)> = self.read(|db| {
            db.prepare(
                "SELECT id, platform, image.manifest, diff_ids, created, member.manifest, name.manifest
                 FROM member JOIN image ON image.id = member.image JOIN name ON name.name = member.name
                 WHERE member.name = ? ORDER BY place",
            )?
            .query_map([name.to_string()], |row| Ok((read_image(row)?, row.get(5)?, row.get(6)?)))?
            .collect()
        })?;
        let digest = found.first().map(|(_, _, index)| *index);
        Ok(digest.map(|digest| StoredIndex {
            digest,
            members: found.into_iter().map(|(image, manifest, _)| (image, manifest)).collect(),
        }))
    }

    /// The image for a platform that `name` points at: the best of an index, or else the only one,
    /// whatever it is for.
    ///
    /// # Errors
    /// What the database gives.
    pub fn image_named_for(
        &self,
        name: &Reference,
        platform: &Platform,
    ) -> Result<Option<StoredImage>, StoreError> {
        if let Some(index) = self.index_named(name)?
            && let Some(image) = index.select(platform)
        {
            return Ok(Some(image.clone()));
        }
        self.image_named(name)
    }

    /// Gives what `from` points at one more name, an index as a whole.
    ///
    /// # Errors
    /// What the database gives.
    pub fn copy_name(&self, from: &Reference, to: &Reference) -> Result<(), StoreError> {
        if from == to {
            return Ok(());
        }
        self.write(|tx| {
            forget_members(tx, to)?;
            tx.execute(
                "INSERT OR REPLACE INTO name (name, image, manifest, updated)
                 SELECT ?2, image, manifest, ?3 FROM name WHERE name = ?1",
                params![from.to_string(), to.to_string(), self.now()],
            )?;
            tx.execute(
                "INSERT INTO member (name, image, manifest, place)
                 SELECT ?2, image, manifest, place FROM member WHERE name = ?1",
                params![from.to_string(), to.to_string()],
            )?;
            Ok(())
        })
    }
}

/// A name that is about to point elsewhere is no index any more.
pub(super) fn forget_members(tx: &Transaction<'_>, name: &Reference) -> rusqlite::Result<()> {
    tx.execute("DELETE FROM member WHERE name = ?", [name.to_string()]).map(drop)
}
