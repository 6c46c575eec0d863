//! Networks that somebody created: their rows. What is in use of them is known to the machine, not to a store.

use rusqlite::{OptionalExtension, Row, params};

use super::{Store, StoreError};

/// A network's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredNetwork {
    /// 64 hexadecimal digits.
    pub id: String,
    pub name: String,
    /// JSON of the engine's.
    pub config: String,
    /// Nanoseconds since the epoch.
    pub created: i64,
}

/// What a text names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedNetwork {
    One(Box<StoredNetwork>),
    None,
    /// The beginning of that many ids.
    Several(usize),
}

const COLUMNS: &str = "SELECT id, name, config, created FROM network";

fn stored(row: &Row<'_>) -> rusqlite::Result<StoredNetwork> {
    Ok(StoredNetwork { id: row.get(0)?, name: row.get(1)?, config: row.get(2)?, created: row.get(3)? })
}

impl Store {
    /// Registers a network. `config` is made from those that there are, in one transaction, so that two that are
    /// created at once do not get the same subnet.
    ///
    /// # Errors
    /// [`StoreError::NetworkTaken`] if another has the name; what `config` gives.
    pub fn create_network<E: From<StoreError>>(
        &self,
        id: &str,
        name: &str,
        config: impl FnOnce(&[StoredNetwork]) -> Result<String, E>,
    ) -> Result<StoredNetwork, E> {
        let created = self.now();
        self.write(|tx| {
            let all = || -> rusqlite::Result<Vec<StoredNetwork>> {
                tx.prepare(COLUMNS)?.query_map([], stored)?.collect()
            };
            let all = all().map_err(StoreError::from)?;
            if all.iter().any(|network| network.name == name) {
                return Err(StoreError::NetworkTaken(name.to_owned()).into());
            }
            let config = config(&all)?;
            tx.execute(
                "INSERT INTO network (id, name, config, created) VALUES (?, ?, ?, ?)",
                params![id, name, config, created],
            )
            .map_err(StoreError::from)?;
            Ok(StoredNetwork { id: id.to_owned(), name: name.to_owned(), config, created })
        })
    }

    /// All networks, by name.
    ///
    /// # Errors
    /// What the database gives.
    pub fn networks(&self) -> Result<Vec<StoredNetwork>, StoreError> {
        self.read(|db| db.prepare(&format!("{COLUMNS} ORDER BY name"))?.query_map([], stored)?.collect())
    }

    /// The network that a person means: by its name, its whole id, or the beginning of its id, in that order.
    ///
    /// # Errors
    /// What the database gives.
    pub fn network(&self, text: &str) -> Result<NamedNetwork, StoreError> {
        self.read(|db| {
            let exact = format!("{COLUMNS} WHERE name = ?1 OR id = ?1 ORDER BY name = ?1 DESC LIMIT 1");
            if let Some(exact) = db.query_row(&exact, [text], stored).optional()? {
                return Ok(NamedNetwork::One(Box::new(exact)));
            }
            if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Ok(NamedNetwork::None);
            }
            let mut found: Vec<StoredNetwork> = db
                .prepare(&format!("{COLUMNS} WHERE substr(id, 1, ?2) = ?1"))?
                .query_map(params![text, text.len() as i64], stored)?
                .collect::<Result<_, _>>()?;
            Ok(match found.len() {
                0 => NamedNetwork::None,
                1 => NamedNetwork::One(Box::new(found.remove(0))),
                count => NamedNetwork::Several(count),
            })
        })
    }

    /// Forgets a network.
    ///
    /// # Errors
    /// What the database gives.
    pub fn remove_network(&self, id: &str) -> Result<(), StoreError> {
        self.write(|tx| {
            tx.execute("DELETE FROM network WHERE id = ?", [id])?;
            Ok(())
        })
    }
}
