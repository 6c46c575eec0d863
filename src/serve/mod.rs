//! A registry of our own: images over the OCI distribution API, from the store or from a folder.
//!
//! ```text
//! connection   sockets, TLS, limits of time and number, an end in good order
//! answer       a request: route + auth -> one of the files below, and a line of the log
//! route        a path -> what is asked for, in parsed types
//! auth         who asks: Basic, against a file of htpasswd
//! blobs        blobs out, whole or by range
//! uploads      blobs in: one request, or many, resumed after a cut
//! manifests    manifests out and in
//! listing      repositories, tags, referrers
//! refusal      errors, as the specification spells them
//! storage      what all of that needs of a disk
//!   upload_files   uploads that are not finished, the same for both
//!   folder         a folder of its own
//!   shared         the store, whose images have names here, and get them by a push
//!   layers         whether those are what they say
//! ```
//!
//! Everything a client sends is taken for hostile: names, tags and digests are parsed before a path
//! or a query is formed of them, sizes are bounded, bytes are hashed before they count. Nothing is
//! acknowledged before it is on the disk. The server keeps no state but what makes it faster:
//! after a restart, uploads go on where they were.
//!
//! There is one realm: who may read, reads every repository, so taking a blob over from another
//! repository discloses nothing. A blob is only ever seen in repositories that it was sent to, mounted in, or
//! that have a manifest which names it; what else lies in the store is out of reach.
//!
//! Specification: OCI distribution specification 1.1, with distribution's `_catalog`.

mod answer;
mod auth;
mod blobs;
#[cfg(test)]
mod conformance;
mod connection;
pub mod folder;
mod layers;
mod listing;
mod manifests;
mod name;
mod refusal;
mod route;
pub mod shared;
pub mod storage;
mod upload_files;
mod uploads;

pub use auth::{Users, UsersError};
pub use connection::{ServeError, Server, Tls};
pub use name::{Repository, Tag, Target};
pub use storage::{Storage, StorageError};
pub use upload_files::UploadFiles;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What a server shall be.
pub struct Options {
    /// Whom to let in; everybody if none.
    pub users: Option<Users>,
    pub tls: Option<Tls>,
    /// Pushes and deletions are refused.
    pub read_only: bool,
    /// Deletions are refused.
    pub keep: bool,
    /// The only host names that a request may be for, besides addresses; any if none. A web page can
    /// have its own name point at a loopback address and would then be at home here, were every
    /// name let in.
    pub hosts: Option<Vec<String>>,
    /// Something that nobody can guess: ids of uploads are made of it.
    pub secret: [u8; 32],
    /// Nanoseconds since the epoch.
    pub now: fn() -> i64,
    /// How long requests may go on after the server was asked to end.
    pub patience: Duration,
    /// Is told of every answer, and of what went wrong here.
    pub log: Arc<dyn Fn(Entry<'_>) + Send + Sync>,
}

/// A line of the log. What comes from the client is as it came: it may hold anything.
#[derive(Debug)]
pub enum Entry<'a> {
    Answered {
        peer: SocketAddr,
        user: Option<&'a str>,
        method: &'a str,
        /// Path and query.
        target: &'a str,
        status: u16,
        /// The length that the answer states.
        length: Option<u64>,
        took: Duration,
    },
    /// Something failed that is no client's fault.
    Failed { doing: &'a str, error: &'a (dyn std::error::Error + 'static) },
}

/// Files of a person's that are read again when they change.
#[derive(Debug, Clone)]
pub struct Watched {
    path: PathBuf,
    seen: Option<(std::time::SystemTime, u64)>,
}

impl Watched {
    /// A file whose content was not read yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), seen: None }
    }

    /// Its path.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Whether it is another than when this was asked before. One that is not there is not.
    fn changed(&mut self) -> bool {
        let Ok(metadata) = std::fs::metadata(&self.path) else { return false };
        let now = metadata.modified().ok().map(|time| (time, metadata.len()));
        let changed = now != self.seen;
        self.seen = now;
        changed
    }
}
