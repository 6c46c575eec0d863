//! Unpacked layers: one directory each, whatever number of images holds them.
//!
//! A layer goes by its diffID, and, if a step made it, by what it holds as well; both identities
//! lead to the same directory. The first layer of an identity stays; a later one with the same
//! content is dropped in its favour.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::database::Json;
use super::lease::Lease;
use super::lock::NameLock;
use super::views::{Scratch, View};
use super::{Store, StoreError, compress, layer};
use crate::digest::{BlobDigest, ContentDigest, DiffId, LayerIdentity};

/// A layer that is on this disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    number: i64,
    pub diff_id: DiffId,
    /// The bytes its files take.
    pub unpacked_size: u64,
    entries: u64,
    implied: Vec<String>,
}

impl Layer {
    /// The directories that it only implies, as the overlay wants to be told.
    pub(super) fn implied(&self) -> &[String] {
        &self.implied
    }

    /// Its directory in the store.
    pub(super) fn number(&self) -> i64 {
        self.number
    }

    /// Whether it holds nothing at all.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }
}

/// A layer that was unpacked and found right, and that is to be shown once its blob is: a layer from
/// outside leaves as the bytes it came as, so it is of no use to whoever gives it out without them.
#[derive(Debug)]
pub struct Unpacked(State);

impl Unpacked {
    pub(super) fn diff_id(&self) -> DiffId {
        match &self.0 {
            State::Here(layer) => layer.diff_id,
            State::Aside { new, .. } => new.diff_id,
        }
    }

    /// Whether it was here already, so that what it was to be unpacked from was not read.
    pub(super) fn was_here(&self) -> bool {
        matches!(self.0, State::Here(_))
    }
}

#[derive(Debug)]
enum State {
    /// It was here already.
    Here(Layer),
    Aside {
        scratch: Scratch,
        new: NewLayer,
        _lock: NameLock,
    },
}

/// What is known of a layer that was just unpacked or made.
#[derive(Debug)]
pub(super) struct NewLayer {
    pub diff_id: DiffId,
    pub content: Option<ContentDigest>,
    pub unpacked_size: u64,
    pub entries: u64,
    pub implied: Vec<String>,
}

impl Store {
    /// Finds all of these layers, and leases them in the same transaction; or tells which are not
    /// on this disk.
    ///
    /// # Errors
    /// What the database gives.
    pub fn find_layers(
        &self,
        identities: &[LayerIdentity],
        lease: &Lease<'_>,
    ) -> Result<Result<Vec<Layer>, Vec<LayerIdentity>>, StoreError> {
        self.write_lightly(|tx| {
            let mut found = Vec::with_capacity(identities.len());
            let mut missing = Vec::new();
            for identity in identities {
                match self.find_whole(tx, *identity)? {
                    Some(layer) => {
                        lease.add(tx, layer.number)?;
                        found.push(layer);
                    }
                    None => missing.push(*identity),
                }
            }
            Ok(if missing.is_empty() { Ok(found) } else { Err(missing) })
        })
    }

    /// As [`Store::find_layers`], of layers that something in the database holds already: the image of a container,
    /// say.
    ///
    /// # Errors
    /// What the database gives.
    pub fn held_layers(
        &self,
        identities: &[LayerIdentity],
    ) -> Result<Result<Vec<Layer>, Vec<LayerIdentity>>, StoreError> {
        self.read(|db| {
            let mut found = Vec::with_capacity(identities.len());
            let mut missing = Vec::new();
            for identity in identities {
                match find(db, *identity)? {
                    Some(layer) if self.layer_folder(layer.number).join("fs").is_dir() => found.push(layer),
                    _ => missing.push(*identity),
                }
            }
            Ok(if missing.is_empty() { Ok(found) } else { Err(missing) })
        })
    }

    /// Whether the layer is on this disk.
    ///
    /// # Errors
    /// What the database gives.
    pub fn has_layer(&self, identity: LayerIdentity) -> Result<bool, StoreError> {
        let number: Option<i64> = self.read(|db| {
            db.query_row("SELECT layer FROM identity WHERE identity = ?", [identity], |row| row.get(0))
                .optional()
        })?;
        Ok(number.is_some_and(|number| self.layer_folder(number).join("fs").is_dir()))
    }

    /// A layer whose row and directory are both there. Somebody may have removed the directory, or a
    /// file system check may have: then the row goes too, and the layer is made again.
    fn find_whole(&self, tx: &Transaction<'_>, identity: LayerIdentity) -> rusqlite::Result<Option<Layer>> {
        let Some(layer) = find(tx, identity)? else { return Ok(None) };
        if self.layer_folder(layer.number).join("fs").is_dir() {
            return Ok(Some(layer));
        }
        tx.execute("DELETE FROM layer WHERE id = ?", [layer.number])?;
        Ok(None)
    }

    /// Keeps an image's config, layers and their blobs for as long as the lease, whatever becomes of
    /// the image. Gives whether the image is there.
    ///
    /// # Errors
    /// What the database gives.
    pub fn hold_image(
        &self,
        image: &super::images::StoredImage,
        lease: &Lease<'_>,
    ) -> Result<bool, StoreError> {
        self.write_lightly(|tx| {
            let there =
                tx.query_row("SELECT EXISTS (SELECT 1 FROM image WHERE id = ?)", [image.id], |row| {
                    row.get::<_, bool>(0)
                })?;
            if !there {
                return Ok(false);
            }
            lease.add_blob(tx, BlobDigest(image.id.0))?;
            if let Some(manifest) = image.manifest {
                lease.add_blob(tx, manifest)?;
            }
            let mut blobs = tx.prepare("SELECT blob FROM layer_blob WHERE diff_id = ?")?;
            for diff_id in &image.diff_ids {
                if let Some(layer) = self.find_whole(tx, LayerIdentity::of_diff(*diff_id))? {
                    lease.add(tx, layer.number)?;
                }
                for blob in blobs.query_map([diff_id], |row| row.get(0))? {
                    lease.add_blob(tx, blob?)?;
                }
            }
            Ok(true)
        })
    }

    /// Reads what a step wrote over `lower` and keeps it as a layer. Gives the identity by which
    /// the step's record names it.
    ///
    /// # Errors
    /// [`StoreError::Commit`] if the files cannot be read, and what the database gives.
    pub fn keep_made(
        &self,
        scratch: Scratch,
        lower: Option<&View>,
        lease: &Lease<'_>,
    ) -> Result<(LayerIdentity, Layer), StoreError> {
        let below = lower.map(|lower| lower.as_fd().try_clone_to_owned()).transpose()?;
        self.settle((&scratch.upper(), &scratch.work()), below.as_ref(), layer::Way::Link)?;
        self.keep_read(scratch, lower.map(AsFd::as_fd).into(), layer::commit, lease)
    }

    /// As [`Store::keep_made`], over `layers`, the lowest first.
    ///
    /// # Errors
    /// As [`Store::keep_made`].
    pub fn keep_over(
        &self,
        scratch: Scratch,
        layers: &[Layer],
        lease: &Lease<'_>,
    ) -> Result<(LayerIdentity, Layer), StoreError> {
        // A copy is compared with all that it was made of.
        if layer::trees::is_copied(&scratch.work()) {
            let lower = if layers.is_empty() { None } else { Some(self.view(layers)?) };
            return self.keep_made(scratch, lower.as_ref(), lease);
        }
        self.settle((&scratch.upper(), &scratch.work()), None, layer::Way::Link)?;
        self.keep_read(scratch, self.stack(layers)?.lower(), layer::commit, lease)
    }

    /// Keeps what was written as a [`layer::ground::Ground`] over `stack`.
    ///
    /// # Errors
    /// As [`Store::keep_made`].
    pub fn keep_ground(
        &self,
        scratch: Scratch,
        stack: &layer::stack::Stack,
        lease: &Lease<'_>,
    ) -> Result<(LayerIdentity, Layer), StoreError> {
        self.keep_read(scratch, stack.lower(), layer::commit_clean, lease)
    }

    fn keep_read(
        &self,
        scratch: Scratch,
        lower: layer::Lower<'_>,
        commit: impl FnOnce(
            BorrowedFd<'_>,
            layer::Lower<'_>,
            layer::Marks,
        ) -> Result<layer::Committed, layer::CommitError>,
        lease: &Lease<'_>,
    ) -> Result<(LayerIdentity, Layer), StoreError> {
        let upper = crate::root::open_ambient_dir(scratch.upper())
            .map_err(StoreError::io("open", scratch.upper()))?;
        let made = commit(upper.as_fd(), lower, self.marks()).map_err(Box::new)?;
        let new = NewLayer {
            diff_id: made.diff_id,
            content: Some(made.content),
            unpacked_size: made.unpacked_size,
            entries: if made.empty { 0 } else { made.entries },
            implied: made.implied,
        };
        let layer = self.keep(scratch, &new, lease)?;
        Ok((LayerIdentity::of_content(made.content), layer))
    }

    /// Unpacks a layer's tar stream, compressed or not, unless the layer is here already. The
    /// uncompressed bytes must have this diffID.
    ///
    /// # Errors
    /// [`StoreError::Apply`] if the archive is malformed or hostile, [`StoreError::Mismatch`] if it
    /// is another one.
    pub fn unpack(
        &self,
        stream: impl Read + Send,
        diff_id: DiffId,
        lease: &Lease<'_>,
    ) -> Result<Layer, StoreError> {
        self.keep_unpacked(self.unpack_aside(stream, diff_id, lease)?, lease)
    }

    /// As [`Store::unpack`], but nobody sees the layer yet: it is gone if it is dropped.
    ///
    /// # Errors
    /// As [`Store::unpack`].
    pub fn unpack_aside(
        &self,
        stream: impl Read + Send,
        diff_id: DiffId,
        lease: &Lease<'_>,
    ) -> Result<Unpacked, StoreError> {
        let identity = LayerIdentity::of_diff(diff_id);
        if let Ok(mut found) = self.find_layers(&[identity], lease)? {
            return Ok(Unpacked(State::Here(found.remove(0))));
        }
        // Two processes that need one layer unpack it once.
        let lock = self.lock_name(&format!("layer-{}", diff_id.0.hex()))?;
        if let Ok(mut found) = self.find_layers(&[identity], lease)? {
            return Ok(Unpacked(State::Here(found.remove(0))));
        }
        let scratch = self.scratch()?;
        let wrong = |source| StoreError::Apply { layer: diff_id.0.short(), source: Box::new(source) };
        let fs = crate::root::open_ambient_dir(scratch.upper())
            .map_err(StoreError::io("open", scratch.upper()))?;
        let plain = compress::decompress(stream)?;
        let applied = layer::apply(plain, fs.as_fd(), &self.environment.layers).map_err(wrong)?;
        if applied.diff_id != diff_id {
            return Err(StoreError::Mismatch { wanted: diff_id.0, found: applied.diff_id.0 });
        }
        let new = NewLayer {
            diff_id,
            content: None,
            unpacked_size: applied.unpacked_size,
            entries: applied.entries,
            implied: applied.implied,
        };
        Ok(Unpacked(State::Aside { scratch, new, _lock: lock }))
    }

    /// Shows a layer that was unpacked.
    ///
    /// # Errors
    /// What the database and the file system give.
    pub fn keep_unpacked(&self, unpacked: Unpacked, lease: &Lease<'_>) -> Result<Layer, StoreError> {
        match unpacked.0 {
            State::Here(layer) => Ok(layer),
            State::Aside { scratch, new, _lock } => self.keep(scratch, &new, lease),
        }
    }

    /// Unpacks a layer from its blob.
    ///
    /// # Errors
    /// [`StoreError::MissingBlob`] and as [`Store::unpack`].
    pub fn unpack_blob(
        &self,
        blob: BlobDigest,
        diff_id: DiffId,
        lease: &Lease<'_>,
    ) -> Result<Layer, StoreError> {
        self.keep_unpacked(self.unpack_blob_aside(blob, diff_id, lease)?, lease)
    }

    /// As [`Store::unpack_blob`], but nobody sees the layer yet.
    ///
    /// # Errors
    /// As [`Store::unpack_blob`].
    pub fn unpack_blob_aside(
        &self,
        blob: BlobDigest,
        diff_id: DiffId,
        lease: &Lease<'_>,
    ) -> Result<Unpacked, StoreError> {
        let unpacked = self.unpack_aside(self.open_blob(blob)?.0, diff_id, lease);
        // A blob that is not what its name says explains whatever went wrong; one that is, is hostile.
        if unpacked.is_err() && self.drop_damaged_blob(blob)? {
            return Err(StoreError::MissingBlob(blob));
        }
        unpacked
    }

    fn keep(&self, scratch: Scratch, new: &NewLayer, lease: &Lease<'_>) -> Result<Layer, StoreError> {
        let identities: Vec<LayerIdentity> =
            [new.content.map(LayerIdentity::of_content), Some(LayerIdentity::of_diff(new.diff_id))]
                .into_iter()
                .flatten()
                .collect();
        // overlayfs' own, which must not become a part of the layer. Before the transaction, for which all
        // others wait.
        remove_work(&scratch)?;
        // Lightly: after a power cut the layer is torn anyway, and made again.
        self.write_lightly(|tx| {
            if let Some(same) = self.find_whole(tx, identities[0])? {
                lease.add(tx, same.number)?;
                return Ok(same);
            }
            tx.execute(
                "INSERT INTO layer (diff_id, unpacked_size, entries, implied, unsynced_boot, created)
                 VALUES (?, ?, ?, ?, ?, ?)",
                params![
                    new.diff_id,
                    new.unpacked_size as i64,
                    new.entries as i64,
                    Json(&new.implied),
                    self.environment.boot,
                    self.now()
                ],
            )?;
            let number = tx.last_insert_rowid();
            for identity in &identities {
                tx.execute(
                    "INSERT OR IGNORE INTO identity (identity, layer) VALUES (?, ?)",
                    params![identity, number],
                )?;
            }
            lease.add(tx, number)?;
            // Renamed inside the transaction: a crash in between leaves a directory without a row,
            // whose number the next layer gets and whose place it takes.
            let place = self.layer_folder(number);
            if place.exists() {
                self.remove_tree(&place)?;
            }
            let from = scratch.into_folder();
            if let Err(error) = std::fs::rename(&from, &place) {
                let _ = self.remove_tree(&from);
                return Err(StoreError::io("move a layer to", &place)(error));
            }
            Ok(Layer {
                number,
                diff_id: new.diff_id,
                unpacked_size: new.unpacked_size,
                entries: new.entries,
                implied: new.implied.clone(),
            })
        })
    }

    /// Writes a layer's tar stream again and checks that it is the same one. One that a step made and
    /// somebody changed is forgotten, so that it is made again when it is needed next. A layer from
    /// outside seldom comes out as it came in: use its blob.
    ///
    /// # Errors
    /// [`StoreError::ChangedLayer`] if somebody changed the directory.
    pub fn write_layer(&self, layer: &Layer, out: &mut dyn std::io::Write) -> Result<(), StoreError> {
        let path = self.layer_folder(layer.number).join("fs");
        let fs = crate::root::open_ambient_dir(&path).map_err(StoreError::io("open", &path))?;
        let found = layer::write_tar(fs.as_fd(), self.marks(), out).map_err(Box::new)?;
        if found != layer.diff_id {
            self.forget_made_layer(layer)?;
            return Err(StoreError::ChangedLayer { layer: layer.diff_id, place: path });
        }
        Ok(())
    }

    fn forget_made_layer(&self, layer: &Layer) -> Result<(), StoreError> {
        self.write(|tx| -> Result<_, StoreError> {
            // What a step made goes by its content too.
            Ok(tx.execute(
                "DELETE FROM layer WHERE id = ?1 AND (SELECT count(*) FROM identity WHERE layer = ?1) > 1",
                [layer.number],
            )?)
        })?;
        Ok(())
    }

    /// Makes the files of these layers, and of all others written since, outlive a power cut.
    ///
    /// # Errors
    /// What `syncfs` gives.
    pub fn sync_layers(&self, diff_ids: &[DiffId]) -> Result<(), StoreError> {
        let unsynced: Vec<(i64, DiffId)> = self.read(|db| {
            db.prepare("SELECT id, diff_id FROM layer WHERE unsynced_boot IS NOT NULL")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })?;
        if !unsynced.iter().any(|(_, diff_id)| diff_ids.contains(diff_id)) {
            return Ok(());
        }
        rustix::fs::syncfs(&self.root).map_err(|error| StoreError::io("sync", self.path())(error.into()))?;
        // It did so for all of them.
        self.write(|tx| {
            for (id, _) in &unsynced {
                tx.execute("UPDATE layer SET unsynced_boot = NULL WHERE id = ?", [id])?;
            }
            Ok(())
        })
    }

    /// Drops layers that an earlier boot wrote and never synced: a power cut may have torn them.
    pub(super) fn drop_torn_layers(&self) -> Result<(), StoreError> {
        let torn = |db: &rusqlite::Connection| -> rusqlite::Result<Vec<i64>> {
            db.prepare("SELECT id FROM layer WHERE unsynced_boot IS NOT NULL AND unsynced_boot <> ?")?
                .query_map([&self.environment.boot], |row| row.get(0))?
                .collect()
        };
        if self.read(torn)?.is_empty() {
            return Ok(());
        }
        let dropped: Vec<i64> = self.write(|tx| -> Result<_, StoreError> {
            let torn = torn(tx)?;
            for id in &torn {
                tx.execute("DELETE FROM layer WHERE id = ?", [id])?;
            }
            Ok(torn)
        })?;
        dropped.iter().try_for_each(|number| self.remove_tree(&self.layer_folder(*number)))
    }

    pub(super) fn layer_folder(&self, number: i64) -> PathBuf {
        self.path().join("layers").join(base36(number))
    }

    /// Removes a directory of the store, through handles, whatever is in it.
    pub(super) fn remove_tree(&self, path: &Path) -> Result<(), StoreError> {
        let fail = || StoreError::io("remove", path);
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
        let folder = File::open(folder).map_err(fail())?;
        crate::root::remove_all(&folder, name).map_err(fail())
    }
}

fn remove_work(scratch: &Scratch) -> Result<(), StoreError> {
    let work = scratch.work();
    let (Some(folder), Some(name)) = (work.parent(), work.file_name()) else { return Ok(()) };
    let folder = crate::root::open_ambient_dir(folder).map_err(StoreError::io("open", folder))?;
    crate::root::remove_all(&folder, name).map_err(StoreError::io("remove", &work))
}

fn find(db: &Connection, identity: LayerIdentity) -> rusqlite::Result<Option<Layer>> {
    let mut query = db.prepare_cached(
        "SELECT layer.id, diff_id, unpacked_size, entries, implied
         FROM identity JOIN layer ON layer.id = identity.layer WHERE identity = ?",
    )?;
    query
        .query_row([identity], |row| {
            Ok(Layer {
                number: row.get(0)?,
                diff_id: row.get(1)?,
                unpacked_size: row.get::<_, i64>(2)? as u64,
                entries: row.get::<_, i64>(3)? as u64,
                implied: row.get::<_, Json<_>>(4)?.0,
            })
        })
        .optional()
}

/// Short directory names: three hundred lower directories must fit into one page of mount options.
pub(super) fn base36(mut number: i64) -> String {
    let mut digits = Vec::new();
    loop {
        digits.push(b"0123456789abcdefghijklmnopqrstuvwxyz"[(number % 36) as usize]);
        number /= 36;
        if number == 0 {
            break;
        }
    }
    digits.reverse();
    String::from_utf8(digits).expect("the digits are ASCII")
}

impl Store {
    /// How many bytes the files of an image's layers have.
    ///
    /// # Errors
    /// What the database gives.
    pub fn image_size(&self, image: &super::images::StoredImage) -> Result<u64, StoreError> {
        image.diff_ids.iter().map(|diff_id| self.layer_size(*diff_id)).sum()
    }

    /// How many bytes the files of a layer have; none for one that is not here.
    ///
    /// # Errors
    /// What the database gives.
    pub fn layer_size(&self, diff_id: DiffId) -> Result<u64, StoreError> {
        self.read(|db| {
            db.query_row("SELECT unpacked_size FROM layer WHERE diff_id = ? LIMIT 1", [diff_id], |row| {
                Ok(row.get::<_, i64>(0)? as u64)
            })
            .optional()
        })
        .map(Option::unwrap_or_default)
    }
}
