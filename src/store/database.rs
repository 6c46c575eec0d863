//! The database: its schema and how it is opened.
//!
//! `user_version` counts formats; a newer one is refused, an older one is migrated here.

use std::path::Path;

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::StoreError;

const FORMAT: i64 = 6;

/// Where locks were files, up to format 5. Format 6 has them elsewhere, and nothing else: it keeps programs out that do
/// not know of those.
const OLD_LOCKS: &str = "locks";

/// What format 5 added: what containers are told to be, and what they share. A container of before, which nothing
/// but `prune` knew, has an empty `config`. Those columns hold JSON of the engine's; the store does not read it.
const CONTAINERS: &str = "
ALTER TABLE container ADD COLUMN config TEXT NOT NULL DEFAULT '';
CREATE TABLE volume (
    name TEXT PRIMARY KEY,
    labels TEXT NOT NULL,
    options TEXT NOT NULL,
    anonymous INTEGER NOT NULL,
    created INTEGER NOT NULL
) WITHOUT ROWID;
-- Which containers mount which volumes: a volume goes only when no row names it.
CREATE TABLE volume_use (
    volume TEXT NOT NULL REFERENCES volume (name),
    container TEXT NOT NULL REFERENCES container (id) ON DELETE CASCADE,
    PRIMARY KEY (volume, container)
) WITHOUT ROWID;
CREATE INDEX volume_use_container ON volume_use (container);
-- Images that a container mounts besides its own.
CREATE TABLE container_image (
    container TEXT NOT NULL REFERENCES container (id) ON DELETE CASCADE,
    image TEXT NOT NULL,
    PRIMARY KEY (container, image)
) WITHOUT ROWID;
CREATE TABLE network (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    config TEXT NOT NULL,
    created INTEGER NOT NULL
) WITHOUT ROWID;
";

/// How long a process waits for another's transaction.
pub(super) const PATIENCE: std::time::Duration = std::time::Duration::from_secs(120);

/// Digests are kept as their text, lists as JSON, times as nanoseconds since the epoch.
const SCHEMA: &str = "
-- One unpacked layer, in layers/<id in base 36>/fs.
CREATE TABLE layer (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    diff_id TEXT NOT NULL,
    unpacked_size INTEGER NOT NULL,
    entries INTEGER NOT NULL,
    implied TEXT NOT NULL,
    unsynced_boot TEXT,
    created INTEGER NOT NULL
);
CREATE INDEX layer_diff ON layer (diff_id);
-- Every name a layer goes by: its diffID's, and its content's if a step made it.
CREATE TABLE identity (
    identity TEXT PRIMARY KEY,
    layer INTEGER NOT NULL REFERENCES layer (id) ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX identity_layer ON identity (layer);
-- Which blob holds a layer, for each way to compress it.
CREATE TABLE layer_blob (
    diff_id TEXT NOT NULL,
    compression TEXT NOT NULL,
    blob TEXT NOT NULL,
    size INTEGER NOT NULL,
    PRIMARY KEY (diff_id, compression)
) WITHOUT ROWID;
CREATE TABLE image (
    id TEXT PRIMARY KEY,
    platform TEXT NOT NULL,
    manifest TEXT,
    diff_ids TEXT NOT NULL,
    created INTEGER NOT NULL
) WITHOUT ROWID;
-- `manifest` is the one the image was pulled or pushed with under that name, an index perhaps.
CREATE TABLE name (
    name TEXT PRIMARY KEY,
    image TEXT NOT NULL REFERENCES image (id),
    manifest TEXT,
    updated INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX name_image ON name (image);
CREATE TABLE action (
    key TEXT PRIMARY KEY,
    step TEXT NOT NULL,
    layer TEXT NOT NULL,
    diff_id TEXT NOT NULL,
    inputs TEXT NOT NULL,
    created INTEGER NOT NULL,
    used INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX action_layer ON action (layer);
CREATE TABLE content (
    tree TEXT NOT NULL,
    selector TEXT NOT NULL,
    digest TEXT NOT NULL,
    used INTEGER NOT NULL,
    PRIMARY KEY (tree, selector)
) WITHOUT ROWID;
CREATE TABLE pin (
    name TEXT NOT NULL,
    platform TEXT NOT NULL,
    image TEXT NOT NULL,
    manifest TEXT NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (name, platform)
) WITHOUT ROWID;
CREATE TABLE lease (
    lease TEXT NOT NULL,
    layer INTEGER NOT NULL,
    PRIMARY KEY (lease, layer)
) WITHOUT ROWID;
CREATE TABLE cache_mount (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    used INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE container (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    image TEXT NOT NULL,
    created INTEGER NOT NULL
) WITHOUT ROWID;
";

/// What format 2 added: blobs and images that running processes count on.
const LEASES: &str = "
CREATE TABLE lease_blob (
    lease TEXT NOT NULL,
    blob TEXT NOT NULL,
    PRIMARY KEY (lease, blob)
) WITHOUT ROWID;
CREATE TABLE lease_image (
    lease TEXT NOT NULL,
    image TEXT NOT NULL,
    PRIMARY KEY (lease, image)
) WITHOUT ROWID;
";

/// What format 3 added: the images of a name whose `manifest` is an index.
const INDEXES: &str = "
CREATE TABLE member (
    name TEXT NOT NULL REFERENCES name (name) ON DELETE CASCADE,
    image TEXT NOT NULL REFERENCES image (id),
    manifest TEXT NOT NULL,
    place INTEGER NOT NULL,
    PRIMARY KEY (name, image)
) WITHOUT ROWID;
CREATE INDEX member_image ON member (image);
";

/// What format 4 added: which repositories were seen to hold which layers.
const PLACES: &str = "
CREATE TABLE place (
    diff_id TEXT NOT NULL,
    registry TEXT NOT NULL,
    repository TEXT NOT NULL,
    blob TEXT NOT NULL,
    size INTEGER NOT NULL,
    media_type TEXT NOT NULL,
    verified INTEGER NOT NULL,
    seen INTEGER NOT NULL,
    PRIMARY KEY (diff_id, registry, repository, blob)
);
CREATE INDEX place_blob ON place (blob);
";

/// What format 4 added: what a registry serves from the store besides images that have names. A
/// repository is its full name, `localhost/team/app`.
const SERVED: &str = "
CREATE TABLE served (
    repository TEXT NOT NULL,
    manifest TEXT NOT NULL,
    media_type TEXT NOT NULL,
    subject TEXT,
    -- Itself as the list of its subject's referrers states it.
    descriptor TEXT NOT NULL,
    PRIMARY KEY (repository, manifest)
) WITHOUT ROWID;
CREATE INDEX served_subject ON served (repository, subject) WHERE subject IS NOT NULL;
-- What a manifest names.
CREATE TABLE served_part (
    repository TEXT NOT NULL,
    part TEXT NOT NULL,
    manifest TEXT NOT NULL,
    PRIMARY KEY (repository, part, manifest),
    FOREIGN KEY (repository, manifest) REFERENCES served (repository, manifest) ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX served_part_manifest ON served_part (repository, manifest);
-- Tags of what is no image of the store; those of images are names.
CREATE TABLE served_tag (
    repository TEXT NOT NULL,
    tag TEXT NOT NULL,
    manifest TEXT NOT NULL,
    updated INTEGER NOT NULL,
    PRIMARY KEY (repository, tag),
    FOREIGN KEY (repository, manifest) REFERENCES served (repository, manifest) ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX served_tag_manifest ON served_tag (repository, manifest);
-- Blobs that a push counts on before its manifest names them.
CREATE TABLE served_blob (
    repository TEXT NOT NULL,
    blob TEXT NOT NULL,
    kept_until INTEGER NOT NULL,
    PRIMARY KEY (repository, blob)
) WITHOUT ROWID;
";

/// Two processes that are a store's first do this at once; for this one change SQLite does not wait for
/// whoever is in the way, however patient it was told to be.
fn switch_to_wal(connection: &Connection) -> rusqlite::Result<()> {
    const PAUSE: std::time::Duration = std::time::Duration::from_millis(5);
    let mut waited = std::time::Duration::ZERO;
    loop {
        match connection.pragma_update(None, "journal_mode", "WAL") {
            Err(error) if is_busy(&error) && waited < PATIENCE => {}
            outcome => return outcome,
        }
        std::thread::sleep(PAUSE);
        waited += PAUSE;
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy)
}

pub(super) fn open(path: &Path) -> Result<Connection, StoreError> {
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(PATIENCE)?;
    let version = |connection: &Connection| -> rusqlite::Result<i64> {
        connection.query_row("PRAGMA user_version", [], |row| row.get(0))
    };
    let found = version(&connection)?;
    if found > FORMAT {
        return Err(StoreError::Newer { found, known: FORMAT });
    }
    if found == 0 {
        switch_to_wal(&connection)?;
    }
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // A build that looks thousands of records up comes back to the same pages, which SQLite keeps 2 MiB of. It takes
    // as much memory as it has pages to keep.
    connection.pragma_update(None, "cache_size", -16 << 10)?;
    // See [`leave`].
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    if found < FORMAT {
        let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        // Another process may have been first while this one waited.
        let found = version(&transaction)?;
        if found < 1 {
            transaction.execute_batch(SCHEMA)?;
        }
        if found < 2 {
            transaction.execute_batch(LEASES)?;
        }
        if found < 3 {
            transaction.execute_batch(INDEXES)?;
        }
        if found < 4 {
            transaction.execute_batch(PLACES)?;
            transaction.execute_batch(SERVED)?;
        }
        if found < 5 {
            transaction.execute_batch(CONTAINERS)?;
        }
        if found < FORMAT {
            transaction.pragma_update(None, "user_version", FORMAT)?;
        }
        transaction.commit()?;
        let _ = std::fs::remove_dir_all(path.with_file_name(OLD_LOCKS));
    }
    Ok(connection)
}

/// The write-ahead log is moved into the database when one of its users leaves and it is longer than this.
const LOG_LIMIT: u64 = 96 * (4096 + 24);

/// What is done before a connection is closed.
///
/// SQLite's own habit is that the last user moves the log into the database and removes it: three waits for the disk
/// at the end of each command, and two more when the next one begins a new log. So the log stays. Who opens the
/// database next reads it through, which takes less than one such wait as long as it is short.
pub(super) fn leave(connection: &Connection, path: &Path) {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    if std::fs::metadata(&log).is_ok_and(|found| found.len() > LOG_LIMIT) {
        // It is the next one's task where others are reading: nobody waits for them.
        let _ = connection.busy_timeout(std::time::Duration::ZERO);
        let _ = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    }
}

macro_rules! digest_columns {
    ($($name:ident),*) => {$(
        impl rusqlite::ToSql for crate::digest::$name {
            fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
                Ok(self.0.hex().into())
            }
        }

        impl rusqlite::types::FromSql for crate::digest::$name {
            fn column_result(value: rusqlite::types::ValueRef<'_>) -> rusqlite::types::FromSqlResult<Self> {
                crate::digest::Digest::from_hex(value.as_str()?)
                    .map(Self)
                    .ok_or(rusqlite::types::FromSqlError::InvalidType)
            }
        }
    )*};
}

digest_columns!(BlobDigest, DiffId, ContentDigest, LayerIdentity, TreeIdentity, ImageId, ActionKey);

/// A column that holds JSON.
pub(super) struct Json<T>(pub T);

impl<T: serde::Serialize> rusqlite::ToSql for Json<T> {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        let text = serde_json::to_string(&self.0)
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
        Ok(text.into())
    }
}

impl<T: serde::de::DeserializeOwned> rusqlite::types::FromSql for Json<T> {
    fn column_result(value: rusqlite::types::ValueRef<'_>) -> rusqlite::types::FromSqlResult<Self> {
        serde_json::from_str(value.as_str()?)
            .map(Self)
            .map_err(|error| rusqlite::types::FromSqlError::Other(Box::new(error)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_store_is_migrated_and_a_newer_one_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stave.db");
        let old = Connection::open(&path).unwrap();
        old.execute_batch(SCHEMA).unwrap();
        old.execute_batch(LEASES).unwrap();
        let id = "a".repeat(64);
        old.execute("INSERT INTO image VALUES (?1, 'linux/amd64', NULL, '[]', 1)", [&id]).unwrap();
        old.execute("INSERT INTO name VALUES ('app', ?1, NULL, 1)", [&id]).unwrap();
        old.pragma_update(None, "user_version", 2).unwrap();
        drop(old);
        std::fs::create_dir(path.with_file_name(OLD_LOCKS)).unwrap();
        for _ in 0..2 {
            let new = open(&path).unwrap();
            assert!(!path.with_file_name(OLD_LOCKS).exists());
            let count = |table: &str| -> i64 {
                new.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
            };
            assert_eq!((count("name"), count("member")), (1, 0));
        }
        let newer = Connection::open(&path).unwrap();
        newer.pragma_update(None, "user_version", FORMAT + 1).unwrap();
        assert!(matches!(open(&path), Err(StoreError::Newer { .. })));
    }

    #[test]
    fn the_log_stays_while_it_is_short() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stave.db");
        let log = || std::fs::metadata(folder.path().join("stave.db-wal")).map_or(0, |found| found.len());
        let add = |count: usize| {
            let db = open(&path).unwrap();
            for _ in 0..count {
                db.execute("INSERT INTO layer (diff_id, unpacked_size, entries, implied, created) VALUES ('', 1, 1, '[]', 1)", [])
                    .unwrap();
            }
            leave(&db, &path);
        };
        add(1);
        assert!((1..=LOG_LIMIT).contains(&log()));
        add(120);
        assert_eq!(log(), 0, "it was moved");
        let reader = open(&path).unwrap();
        let count = |db: &Connection| -> i64 {
            db.query_row("SELECT count(*) FROM layer", [], |row| row.get(0)).unwrap()
        };
        let reading = reader.unchecked_transaction().unwrap();
        assert_eq!(count(&reading), 121);
        add(120);
        assert!(log() > LOG_LIMIT, "somebody still reads it");
        drop(reading);
        leave(&reader, &path);
        drop(reader);
        assert_eq!((log(), count(&open(&path).unwrap())), (0, 241));
    }

    #[test]
    fn many_can_be_a_stores_first() {
        for _ in 0..30 {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("stave.db");
            std::thread::scope(|scope| {
                for _ in 0..24 {
                    scope.spawn(|| open(&path).unwrap());
                }
            });
        }
    }

    #[test]
    fn the_members_of_a_name_go_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let db = open(&folder.path().join("stave.db")).unwrap();
        let id = "a".repeat(64);
        db.execute("INSERT INTO image VALUES (?1, 'linux/amd64', NULL, '[]', 1)", [&id]).unwrap();
        db.execute("INSERT INTO name VALUES ('app', ?1, NULL, 1)", [&id]).unwrap();
        db.execute("INSERT INTO member VALUES ('app', ?1, ?1, 0)", [&id]).unwrap();
        assert!(db.execute("DELETE FROM image", []).is_err(), "an image of a name stays");
        db.execute("DELETE FROM name", []).unwrap();
        let left: i64 = db.query_row("SELECT count(*) FROM member", [], |row| row.get(0)).unwrap();
        assert_eq!(left, 0);
    }
}
