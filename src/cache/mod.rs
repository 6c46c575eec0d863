//! What was built from what: pure functions, remembered, keyed by content.
//!
//! **action**: an operation and the identities of what it reads give the identity of the layer it
//! made. **content**: a tree and a selection give the digest of what is selected. Both answers need
//! nothing on disk; whether a layer is here, or can be had, is the store's question.

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension, params};
use serde::{Deserialize, Serialize};

use crate::digest::{ActionKey, ContentDigest, DiffId, Digest, Hasher, LayerIdentity, TreeIdentity};
use crate::store::{Store, StoreError};

pub mod content;
pub mod remote;

use remote::Exchange;

/// What a step was made from, by name, so that a later miss can be explained.
pub type Inputs = BTreeMap<String, String>;

/// One remembered action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The layer that the step made.
    pub layer: LayerIdentity,
    /// The same layer by its tar stream, for the image's config.
    pub diff_id: DiffId,
    /// When it was made, in nanoseconds since the epoch.
    pub created: i64,
}

/// Builds the key of an action.
#[derive(Debug)]
pub struct KeyBuilder {
    hasher: Hasher,
    inputs: Inputs,
}

impl KeyBuilder {
    /// The key of this operation over nothing yet.
    pub fn new(op: Digest) -> Self {
        let mut hasher = Hasher::new();
        hasher.field(b"stave action 2");
        hasher.update(op.as_bytes());
        Self { hasher, inputs: Inputs::from([("operation".to_owned(), op.hex())]) }
    }

    /// Adds the identity of something that the operation reads; `name` says to people what it is.
    pub fn input(mut self, name: impl Into<String>, identity: &Digest) -> Self {
        self.hasher.update(identity.as_bytes());
        let mut name = name.into();
        while self.inputs.contains_key(&name) {
            name.push('\'');
        }
        self.inputs.insert(name, identity.hex());
        self
    }

    /// The key, and what went into it.
    pub fn finish(self) -> (ActionKey, Inputs) {
        (ActionKey(self.hasher.finish()), self.inputs)
    }
}

/// The records of one store, and those of caches elsewhere that a build may use.
#[derive(Debug, Clone, Copy)]
pub struct Cache<'a> {
    store: &'a Store,
    exchange: Option<&'a Exchange>,
}

impl<'a> Cache<'a> {
    /// The records that `store` keeps.
    pub fn new(store: &'a Store) -> Self {
        Self { store, exchange: None }
    }

    /// The same, and for what it does not know those of caches elsewhere.
    pub fn with(store: &'a Store, exchange: Option<&'a Exchange>) -> Self {
        Self { store, exchange }
    }

    /// What the action gave, if it is known. What a cache elsewhere knows is known here from then on.
    ///
    /// # Errors
    /// What the database gives.
    pub fn action(&self, key: ActionKey) -> Result<Option<Record>, StoreError> {
        if let Some(known) = self.own_action(key)? {
            return Ok(Some(known));
        }
        let Some(found) = self.exchange.and_then(|exchange| exchange.action(key)) else { return Ok(None) };
        self.remember_action(key, &found.step, &found.inputs, &found.record)?;
        self.own_action(key)
    }

    /// What the action gave, if this store knows it.
    ///
    /// # Errors
    /// What the database gives.
    pub fn own_action(&self, key: ActionKey) -> Result<Option<Record>, StoreError> {
        // Another machine, or an earlier run here, made the same files at another time. The identity
        // means the layer that is here, so the image must list that one's diffID.
        let query = "SELECT layer, coalesce(
                         (SELECT layer.diff_id FROM identity JOIN layer ON layer.id = identity.layer
                          WHERE identity.identity = action.layer), diff_id), created
                     FROM action WHERE key = ?";
        self.store.look_up(|db| {
            db.prepare_cached(query)?
                .query_row([key], |row| {
                    Ok(Record { layer: row.get(0)?, diff_id: row.get(1)?, created: row.get(2)? })
                })
                .optional()
        })
    }

    /// The layer that this operation made last, over whatever it was, if this store knows one.
    ///
    /// # Errors
    /// What the database gives.
    pub fn latest_of(&self, operation: Digest) -> Result<Option<LayerIdentity>, StoreError> {
        let query = "SELECT layer FROM action WHERE json_extract(inputs, '$.operation') = ?
                     ORDER BY created DESC LIMIT 1";
        self.store.read(|db| db.query_row(query, [operation.hex()], |row| row.get(0)).optional())
    }

    /// Notes that a build is at its beginning, perhaps once more.
    pub fn start_over(&self) {
        if let Some(exchange) = self.exchange {
            exchange.start_over();
        }
    }

    /// Notes that the build has this action, however it came by it, for the caches that it writes.
    pub fn use_action(&self, key: ActionKey, step: &str, inputs: &Inputs, record: &Record) {
        if let Some(exchange) = self.exchange {
            exchange.use_action(key, step, inputs, record);
        }
    }

    /// Remembers what the action gave. `step` names the step to people.
    ///
    /// # Errors
    /// What the database gives.
    pub fn remember_action(
        &self,
        key: ActionKey,
        step: &str,
        inputs: &Inputs,
        record: &Record,
    ) -> Result<(), StoreError> {
        let inputs = serde_json::to_string(inputs).expect("a map of strings is JSON");
        let now = self.store.now();
        // Lightly: a record that a power cut takes is that of a layer that it took too, or of one that is
        // made again. The name that an image gets is written for good, and all before it with that.
        self.store.write_lightly(|tx| {
            tx.execute(
                "INSERT OR REPLACE INTO action (key, step, layer, diff_id, inputs, created, used)
                 VALUES (?, ?, ?, ?, ?, ?, ?)",
                params![key, step, record.layer, record.diff_id, inputs, record.created, now],
            )?;
            Ok(())
        })
    }

    /// The digest of what `selector` chooses in a tree, if it is known. What a cache elsewhere knows is
    /// known here from then on.
    ///
    /// # Errors
    /// What the database gives.
    pub fn content(&self, tree: TreeIdentity, selector: &str) -> Result<Option<ContentDigest>, StoreError> {
        let known = self.store.look_up(|db| {
            db.prepare_cached("SELECT digest FROM content WHERE tree = ? AND selector = ?")?
                .query_row(params![tree, selector], |row| row.get(0))
                .optional()
        })?;
        let Some(exchange) = self.exchange else { return Ok(known) };
        if let Some(known) = known {
            exchange.use_content(tree, selector, known);
            return Ok(Some(known));
        }
        let found = exchange.content(tree, selector);
        if let Some(found) = found {
            self.remember_content(tree, selector, found)?;
        }
        Ok(found)
    }

    /// Remembers the digest of what `selector` chooses in a tree.
    ///
    /// # Errors
    /// What the database gives.
    pub fn remember_content(
        &self,
        tree: TreeIdentity,
        selector: &str,
        digest: ContentDigest,
    ) -> Result<(), StoreError> {
        if let Some(exchange) = self.exchange {
            exchange.use_content(tree, selector, digest);
        }
        let now = self.store.now();
        self.store.write_lightly(|tx| {
            tx.execute(
                "INSERT OR REPLACE INTO content (tree, selector, digest, used) VALUES (?, ?, ?, ?)",
                params![tree, selector, digest, now],
            )?;
            Ok(())
        })
    }
}
