//! What is on this disk: blobs, unpacked layers, images, and the database that knows them.
//!
//! ```text
//! ROOT/                 0700
//!   blobs/sha256/<hex>  configs, manifests, layers as they came or were compressed
//!   partial/sha256/     blobs on their way in, for whoever goes on with them
//!   layers/<id>/fs      one layer's own files, in overlayfs form
//!   stave.db            SQLite (WAL): layers, images, names, records, leases, cache mounts
//!   mounts/<id>/        cache mounts
//!   volumes/<name>/     volumes of containers
//!   containers/<id>/    what `run` keeps of a container
//!   remotes/            files and repositories that were fetched
//!   uploads/            where uploads go on that were not ended: secrets
//!   events.log          what happened, for `events`
//!   reserve             room for the database on a full disk
//!   points/             what is mounted on where an image has nothing
//!   tmp/
//!   lock                where names are locked
//! ```
//!
//! Many processes share one root. SQLite is the arbiter: writes are IMMEDIATE transactions, none
//! spans a step. Nothing is visible before it is whole: written below `tmp/`, renamed into place,
//! then the row; so a crash leaves only what [`Store::sweep`] recognises.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, OnceLock};

use rusqlite::Connection;
use rustix::fs::{Access, AtFlags, FlockOperation, Mode};

use crate::root;

pub mod archive;
pub mod blobs;
pub mod compress;
pub mod containers;
mod database;
pub mod events;
pub mod images;
pub mod incoming;
pub mod indexes;
pub mod layer;
pub mod layer_blobs;
pub mod layers;
pub mod lease;
pub mod lock;
mod made;
pub mod networks;
pub mod places;
pub mod points;
pub mod prune;
pub mod remotes;
mod reserve;
pub mod served;
mod session;
pub mod sizes;
pub mod snapshotter;
mod sweep;
pub mod uploads;
pub mod views;
mod volume_fill;
pub mod volumes;

pub use lease::Lease;

/// The database's file below the root; SQLite adds two beside it.
const DATABASE: &str = "stave.db";

/// Facts about this machine and process that a store must be told.
#[derive(Debug, Clone)]
pub struct Environment {
    /// The boot's id (`/proc/sys/kernel/random/boot_id`): layers that were not synced in an earlier
    /// boot may be torn, and are dropped.
    pub boot: String,
    /// How layers are unpacked here: what differs inside a user namespace.
    pub layers: layer::Options,
    /// Nanoseconds since the Unix epoch.
    pub now: fn() -> i64,
}

/// Why a store cannot be used, or an operation on it failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot {doing} `{}`", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("the store's database failed")]
    Database(#[source] rusqlite::Error),
    #[error(
        "the store's database is damaged ({0}); to begin with an empty store, move `stave.db`, `stave.db-wal` and `stave.db-shm` out of its folder and run `stave prune`"
    )]
    DamagedDatabase(rusqlite::Error),
    #[error("no space left on the device that holds the store; `stave prune` removes what nobody needs")]
    NoSpace,
    #[error(
        "the store was written by a newer stave (format {found}, this one knows {known}); use that one, or another `--root`"
    )]
    Newer { found: i64, known: i64 },
    #[error("blob {0} is not in the store; build, load or pull the image that it belongs to again")]
    MissingBlob(crate::digest::BlobDigest),
    #[error(
        "blob {wanted} is damaged: its bytes have the digest {found}; build, load or pull the image that it belongs to again"
    )]
    Corrupt { wanted: crate::digest::BlobDigest, found: crate::digest::BlobDigest },
    #[error("what claims to be {wanted} has the digest {found}")]
    Mismatch { wanted: crate::digest::Digest, found: crate::digest::Digest },
    #[error(
        "the files of layer {layer} in `{}` are not what they were; build, load or pull the image again", place.display()
    )]
    ChangedLayer { layer: crate::digest::DiffId, place: PathBuf },
    #[error("layer {0} is not in the store any more; build, load or pull the image that it belongs to again")]
    MissingLayer(crate::digest::LayerIdentity),
    #[error("cannot read the document {what}")]
    Document { what: String, source: serde_json::Error },
    #[error(transparent)]
    Manifest(#[from] crate::image::DocumentError),
    #[error(
        "the name `{0}` is in use by another container: choose another, or remove that one with `stave rm`"
    )]
    NameTaken(String),
    #[error("network with name `{0}` already exists")]
    NetworkTaken(String),
    #[error("{0}")]
    Archive(String),
    #[error("cannot unpack the layer {layer}: {source}")]
    Apply { layer: String, source: Box<layer::ApplyError> },
    #[error("cannot mount layers: {0}")]
    Mount(#[source] layer::PathError),
    #[error(
        "the container's files are of the snapshotter `{made}`, which cannot be had here, where `{here}` is used; its image can be used for another container"
    )]
    OtherSnapshotter { made: &'static str, here: &'static str, source: Box<StoreError> },
    #[error("cannot read the layer's files: {0}")]
    Commit(#[from] Box<layer::CommitError>),
    #[error("cannot copy files: {0}")]
    CopyTree(#[source] Box<layer::CopyError>),
    #[error("cannot compress the layer: {0}")]
    Compress(#[from] io::Error),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::{ErrorCode, ffi};
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::DamagedDatabase(error),
            Some(ErrorCode::DiskFull) => Self::NoSpace,
            // What it gives when the memory that processes share cannot be laid out on the disk.
            _ if error.sqlite_error().is_some_and(|e| e.extended_code == ffi::SQLITE_IOERR_SHMSIZE) => {
                Self::NoSpace
            }
            _ => Self::Database(error),
        }
    }
}

impl StoreError {
    pub(crate) fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { doing, path, source }
    }
}

/// The store of one root directory. Shared between threads by reference, between processes by the
/// database.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    root: OwnedFd,
    environment: Environment,
    database: Mutex<Connection>,
    session: Mutex<Option<session::Session>>,
    snapshotter_options: OnceLock<snapshotter::SnapshotterOptions>,
    snapshotter: OnceLock<snapshotter::Chosen>,
    /// Layers that are known to hide nothing of those below them as a whole.
    clear: Mutex<std::collections::HashSet<i64>>,
    /// How many places views have been given for what they need aside.
    asides: AtomicU64,
}

impl Store {
    /// Opens the store below `path`, made if it is missing, and drops what an earlier boot left torn.
    ///
    /// # Errors
    /// [`StoreError::Newer`] for a store of a newer format; what the file system and SQLite give.
    pub fn open(path: &Path, environment: Environment) -> Result<Self, StoreError> {
        let fail = |doing| StoreError::io(doing, path);
        std::fs::create_dir_all(path).map_err(fail("create the store"))?;
        let path = path.canonicalize().map_err(fail("open the store"))?;
        let root = root::open_ambient_dir(&path).map_err(fail("open the store"))?;
        // Image content keeps its setuid bits and owners, so nobody else may reach it (S11).
        let private = Mode::from_raw_mode(0o700);
        rustix::fs::fchmod(&root, private).map_err(io::Error::from).map_err(fail("make private"))?;
        for folder in [
            "blobs/sha256",
            "layers",
            "mounts",
            "containers",
            "tmp",
            "contexts",
            incoming::FOLDER,
            served::RECEIVING,
        ] {
            // Nearly always all are there, and to look takes one call for each.
            if rustix::fs::accessat(&root, folder, Access::EXISTS, AtFlags::empty()).is_err() {
                root::create_dirs(&root, folder, private).map_err(fail("create folders in the store"))?;
            }
        }
        let database = reserve::open_database(&path)?;
        let store = Self {
            path,
            root,
            environment,
            database: Mutex::new(database),
            session: Mutex::default(),
            snapshotter_options: OnceLock::new(),
            snapshotter: OnceLock::new(),
            clear: Mutex::default(),
            asides: AtomicU64::default(),
        };
        store.drop_torn_layers()?;
        Ok(store)
    }

    /// The store's root directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Nanoseconds since the Unix epoch.
    pub fn now(&self) -> i64 {
        (self.environment.now)()
    }

    /// Which attributes carry overlay marks here.
    pub fn marks(&self) -> layer::Marks {
        self.environment.layers.marks
    }

    /// Reads the database.
    pub(crate) fn read<T>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        Ok(query(&self.lock())?)
    }

    /// As [`Store::read`], for questions of which a build asks many in a row: one read transaction is for all of them,
    /// and ends with whatever else is done with the database. So an answer may be as old as the first of them, but no
    /// older than a [lock](Store::lock_name) that was taken.
    pub(crate) fn look_up<T>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let connection = self.database();
        if connection.is_autocommit() {
            connection.execute_batch("BEGIN")?;
        }
        Ok(query(&connection)?)
    }

    /// Changes the database: one IMMEDIATE transaction, all of it or nothing.
    pub(crate) fn write<T, E: From<StoreError>>(
        &self,
        change: impl FnOnce(&rusqlite::Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut connection = self.lock();
        let _turn = self.turn();
        transact(&mut connection, change)
    }

    /// As [`Store::write`], for what nobody misses after a power cut: leases. It may be lost then, and
    /// costs no wait for the disk.
    pub(crate) fn write_lightly<T, E: From<StoreError>>(
        &self,
        change: impl FnOnce(&rusqlite::Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut connection = self.lock();
        let synchronous = |connection: &Connection, how| connection.pragma_update(None, "synchronous", how);
        synchronous(&connection, "NORMAL").map_err(StoreError::from)?;
        let turn = self.turn();
        let done = transact(&mut connection, change);
        drop(turn);
        synchronous(&connection, "FULL").map_err(StoreError::from)?;
        done
    }

    /// Waits until no other process changes the database. SQLite would too, but it looks again after ever longer naps,
    /// up to a tenth of a second, and of many builds at once most would be asleep. It still keeps them apart: where
    /// there is no such lock, nothing is lost but time.
    fn turn(&self) -> Turn<'_> {
        while rustix::fs::flock(&self.root, FlockOperation::LockExclusive) == Err(rustix::io::Errno::INTR) {}
        Turn(self.root.as_fd())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Connection> {
        let connection = self.database();
        if !connection.is_autocommit() {
            // What was only read can always be let go of.
            let _ = connection.execute_batch("COMMIT");
        }
        connection
    }

    fn database(&self) -> std::sync::MutexGuard<'_, Connection> {
        // A panic elsewhere leaves no transaction open: rusqlite rolls back in its Drop.
        self.database.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A new private directory below `tmp/`, removed when dropped unless it was moved away. Its name
    /// tells a sweep which session made it.
    ///
    /// # Errors
    /// What the file system gives.
    pub fn temporary(&self) -> Result<tempfile::TempDir, StoreError> {
        let folder = self.path.join("tmp");
        tempfile::Builder::new()
            .prefix(&format!("{}.", self.session_id()?))
            .tempdir_in(&folder)
            .map_err(StoreError::io("create a temporary directory in", &folder))
    }
}

/// The lock on the store's folder: whose turn it is to change the database.
struct Turn<'a>(BorrowedFd<'a>);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let _ = rustix::fs::flock(self.0, FlockOperation::Unlock);
    }
}

/// One IMMEDIATE transaction, all of it or nothing.
fn transact<T, E: From<StoreError>>(
    connection: &mut Connection,
    change: impl FnOnce(&rusqlite::Transaction<'_>) -> Result<T, E>,
) -> Result<T, E> {
    let transaction = connection
        .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
        .map_err(StoreError::from)?;
    let value = change(&transaction)?;
    transaction.commit().map_err(StoreError::from)?;
    Ok(value)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A store of a test's own, with the clock of the machine.
    pub(crate) fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let now = || {
            let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
            i64::try_from(since.as_nanos()).unwrap()
        };
        let layers = layer::Options {
            marks: layer::Marks::User,
            ids: layer::Ids::Keep,
            devices: layer::Devices::Skip,
            limits: layer::Limits::GENEROUS,
        };
        let environment = Environment { boot: "a boot".to_owned(), layers, now };
        let store = Store::open(&folder.path().join("root"), environment).unwrap();
        (folder, store)
    }

    fn add_content(db: &Connection, tree: &str) -> rusqlite::Result<()> {
        db.execute("INSERT INTO content (tree, selector, digest, used) VALUES (?, '', '', 0)", [tree])
            .map(drop)
    }

    #[test]
    fn look_ups_are_one_transaction_until_something_else_is_done() {
        let (_folder, store) = store();
        let another = database::open(&store.path().join(DATABASE)).unwrap();
        let count = |db: &Connection| db.query_row("SELECT count(*) FROM content", [], |row| row.get(0));
        let look = || -> i64 { store.look_up(count).unwrap() };
        assert_eq!(look(), 0);
        add_content(&another, "a").unwrap();
        assert_eq!(look(), 0, "it is as old as the first");
        let lock = store.lock_name("step").unwrap();
        assert_eq!(look(), 1, "whoever had the lock may have written it");
        drop(lock);
        store.write::<_, StoreError>(|tx| Ok(add_content(tx, "b")?)).unwrap();
        assert_eq!(look(), 2, "our own");
        add_content(&another, "c").unwrap();
        assert_eq!((look(), store.read(count).unwrap()), (2, 3));
        assert_eq!(look(), 3);
    }

    #[test]
    fn writers_take_turns() {
        let (folder, store) = store();
        let (path, environment) = (folder.path().join("root"), store.environment.clone());
        std::thread::scope(|scope| {
            for writer in 0..8 {
                let (path, environment) = (&path, environment.clone());
                scope.spawn(move || {
                    let store = Store::open(path, environment).unwrap();
                    for at in 0..20 {
                        let add =
                            |db: &rusqlite::Transaction<'_>| Ok(add_content(db, &format!("{writer} {at}"))?);
                        match at % 2 {
                            0 => store.write::<_, StoreError>(add).unwrap(),
                            _ => store.write_lightly::<_, StoreError>(add).unwrap(),
                        }
                    }
                });
            }
        });
        let count = |db: &Connection| db.query_row("SELECT count(*) FROM content", [], |row| row.get(0));
        assert_eq!(store.read::<i64>(count).unwrap(), 160);
    }
}
