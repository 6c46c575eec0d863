//! Layers that steps of other machines made: known by content only once that was looked at.

use std::os::fd::AsFd;

use rusqlite::{OptionalExtension, params};

use super::{Lease, Store, StoreError, layer};
use crate::digest::{DiffId, LayerIdentity};

impl Store {
    /// Gives the layer with this diffID, which is here, the identity of a step's own if that is what
    /// its files have: their content is digested for that. Gives whether it is.
    ///
    /// A record of another machine says that a step made the layer; nothing but its bytes can prove it,
    /// and an identity that is not proved would stand for other files in every build to come.
    ///
    /// # Errors
    /// What reading the files and the database gives.
    pub fn identify_made(
        &self,
        identity: LayerIdentity,
        diff_id: DiffId,
        lease: &Lease<'_>,
    ) -> Result<bool, StoreError> {
        let Ok(found) = self.find_layers(&[LayerIdentity::of_diff(diff_id)], lease)? else {
            return Ok(false);
        };
        let number = found[0].number();
        let path = self.layer_folder(number).join("fs");
        let fs = crate::root::open_ambient_dir(&path).map_err(StoreError::io("open", &path))?;
        let (content, written) = layer::measure(fs.as_fd(), self.marks()).map_err(Box::new)?;
        // A layer of ours is also written again as it came; another archive of the same files is not.
        if LayerIdentity::of_content(content) != identity || written != diff_id {
            return Ok(false);
        }
        self.write(|tx| -> Result<_, StoreError> {
            Ok(tx.execute(
                "INSERT OR IGNORE INTO identity (identity, layer)
                 SELECT ?1, ?2 WHERE EXISTS (SELECT 1 FROM layer WHERE id = ?2)",
                params![identity, number],
            )?)
        })?;
        Ok(true)
    }

    /// The diffID of the layer with this identity, if it is here.
    ///
    /// # Errors
    /// What the database gives.
    pub fn diff_id_of(&self, identity: LayerIdentity) -> Result<Option<DiffId>, StoreError> {
        let query = "SELECT diff_id FROM identity JOIN layer ON layer.id = identity.layer WHERE identity = ?";
        self.read(|db| db.query_row(query, [identity], |row| row.get(0)).optional())
    }
}
