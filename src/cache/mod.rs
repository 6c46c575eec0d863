//! What was built from what: pure functions, remembered, keyed by content.
//!
//! **action**: an operation and the identities of what it reads give the identity of the layer it
//! made. **content**: a tree and a selection give the digest of what is selected. Both answers need
//! nothing on disk; whether a layer is here, or can be had, is the store's question.

use std::borrow::Cow;
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

/// What an action reads. Its names are put in order only for whoever keeps them: nearly all actions of a build are
/// known, and then nobody does.
#[derive(Debug, Clone)]
pub struct Reads(Vec<(Cow<'static, str>, Digest)>);

impl Reads {
    /// All of it by name; of equal names, later ones get a mark.
    pub fn named(&self) -> Inputs {
        let mut inputs = Inputs::new();
        for (name, identity) in &self.0 {
            let mut name = name.clone().into_owned();
            while inputs.contains_key(&name) {
                name.push('\'');
            }
            inputs.insert(name, identity.hex());
        }
        inputs
    }
}

/// Builds the key of an action.
#[derive(Debug)]
pub struct KeyBuilder {
    hasher: Hasher,
    reads: Reads,
}

impl KeyBuilder {
    /// The key of this operation over nothing yet.
    pub fn new(op: Digest) -> Self {
        let mut hasher = Hasher::new();
        hasher.field(b"stave action 2");
        hasher.update(op.as_bytes());
        Self { hasher, reads: Reads(vec![("operation".into(), op)]) }
    }

    /// Adds the identity of something that the operation reads; `name` says to people what it is.
    pub fn input(mut self, name: impl Into<Cow<'static, str>>, identity: &Digest) -> Self {
        self.hasher.update(identity.as_bytes());
        self.reads.0.push((name.into(), *identity));
        self
    }

    /// The key, and what went into it.
    pub fn finish(self) -> (ActionKey, Reads) {
        (ActionKey(self.hasher.finish()), self.reads)
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

    /// Whether caches elsewhere are asked, which may take long.
    pub fn is_shared(&self) -> bool {
        self.exchange.is_some()
    }

    /// What the action gave, if it is known, as it was recorded: whoever lists the layer asks [`Cache::listed`]. What a
    /// cache elsewhere knows is known here from then on.
    ///
    /// # Errors
    /// What the database gives.
    pub fn action(&self, key: ActionKey) -> Result<Option<Record>, StoreError> {
        if let Some(known) = self.recorded(key)? {
            return Ok(Some(known));
        }
        let Some(found) = self.exchange.and_then(|exchange| exchange.action(key)) else { return Ok(None) };
        self.remember_action(key, &found.step, &found.inputs, &found.record)?;
        Ok(Some(found.record.clone()))
    }

    /// What the action gave, if this store knows it, with the layer as an image must list it.
    ///
    /// # Errors
    /// What the database gives.
    pub fn own_action(&self, key: ActionKey) -> Result<Option<Record>, StoreError> {
        let Some(record) = self.recorded(key)? else { return Ok(None) };
        Ok(Some(Record { diff_id: self.listed(record.layer, record.diff_id)?, ..record }))
    }

    fn recorded(&self, key: ActionKey) -> Result<Option<Record>, StoreError> {
        self.store.look_up(|db| {
            db.prepare_cached("SELECT layer, diff_id, created FROM action WHERE key = ?")?
                .query_row([key], |row| {
                    Ok(Record { layer: row.get(0)?, diff_id: row.get(1)?, created: row.get(2)? })
                })
                .optional()
        })
    }

    /// By which diffID an image lists a layer that was recorded with `diff_id`. Another machine, or an earlier run here,
    /// made the same files at another time: the identity means the layer that is here, so it is that one's.
    ///
    /// # Errors
    /// What the database gives.
    pub fn listed(&self, layer: LayerIdentity, diff_id: DiffId) -> Result<DiffId, StoreError> {
        let query = "SELECT diff_id FROM identity JOIN layer ON layer.id = identity.layer WHERE identity.identity = ?";
        let here = self
            .store
            .look_up(|db| db.prepare_cached(query)?.query_row([layer], |row| row.get(0)).optional());
        Ok(here?.unwrap_or(diff_id))
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
    pub fn use_action(&self, key: ActionKey, step: &str, reads: &Reads, record: &Record) {
        if let Some(exchange) = self.exchange {
            exchange.use_action(key, step, reads, record);
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
