//! A build cache that is not on this machine: what is in one, and the places that can hold one.
//!
//! A cache is one document of records and the blobs of layers that it names. The records are small and
//! read at once; a blob only when a step that really runs needs that layer. `spec` reads the command
//! line; each kind of place has a file of its own and implements [`CacheReader`], [`CacheWriter`] or
//! both.
//!
//! | file | what |
//! |---|---|
//! | `records.rs` | the document, and its strict reader |
//! | `exchange.rs` | what one build takes from caches, and what it could give |
//! | `artifact.rs` | records and blobs as a manifest or an index |
//! | `registry.rs`, `local.rs`, `inline.rs` | at a registry, in a folder, inside the image |
//! | `objects/`, `s3/`, `azblob.rs` | in an object store, through the library of that name |
//! | `gha/` | in the service that GitHub gives to workflows |

use futures_util::future::BoxFuture;

use crate::digest::Digest;
use crate::image::Descriptor;
use crate::progress::Step;
use crate::reference::Reference;
use crate::registry::{RegistryError, Sink, Source};

mod answers;
mod artifact;
mod azblob;
mod checked;
mod exchange;
mod gha;
mod inline;
mod local;
mod objects;
mod parts;
mod records;
mod registry;
mod s3;
mod spec;
mod surroundings;

pub use artifact::Form;
pub use azblob::Azblob;
pub use exchange::{Exchange, Held};
pub use gha::Gha;
pub use inline::{INLINE_LIMIT, embed};
pub use local::LocalCache;
pub use records::{Action, Records, RecordsError};
pub use registry::RegistryCache;
pub use s3::S3;
pub use spec::{CacheSource, CacheSpecError, CacheTarget, Mode, Place, split_csv};
pub use surroundings::{Surroundings, VARIABLES};

/// The most that the records of a cache may have, in bytes.
pub const RECORDS_LIMIT: u64 = 64 << 20;

/// Why a place could not give or take a cache.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("`{place}`: {reason}")]
    Place { place: String, reason: String },
    #[error("`{place}`: cannot {doing}")]
    Io { place: String, doing: &'static str, source: std::io::Error },
}

/// A place to read a cache from.
pub trait CacheReader: Send + Sync + std::fmt::Debug {
    /// What people call it: `registry ghcr.io/org/app:cache`, `s3 bucket/app`.
    fn name(&self) -> String;

    /// The document of records as it is stored, at most [`RECORDS_LIMIT`] bytes; nothing if the place
    /// holds no cache. One small request where the place allows that.
    ///
    /// # Errors
    /// [`PlaceError`].
    fn records(&self) -> BoxFuture<'_, Result<Option<Vec<u8>>, PlaceError>>;

    /// Brings a layer's blob into `sink`; size and digest are checked.
    ///
    /// # Errors
    /// [`PlaceError`]; then what the sink holds is to be thrown away.
    fn blob<'a>(
        &'a self,
        descriptor: &'a Descriptor,
        sink: &'a mut dyn Sink,
        step: &'a Step,
    ) -> BoxFuture<'a, Result<(), PlaceError>>;

    /// The repository that holds the blobs, if a registry does: another one of that registry can take
    /// them from there.
    fn repository(&self) -> Option<&Reference> {
        None
    }
}

/// A place to write a cache to.
pub trait CacheWriter: Send + Sync + std::fmt::Debug {
    /// What people call it.
    fn name(&self) -> String;

    /// Whether the place has a blob, so that it need not even be made here.
    ///
    /// # Errors
    /// [`PlaceError`].
    fn has_blob(&self, digest: Digest, size: u64) -> BoxFuture<'_, Result<bool, PlaceError>>;

    /// Sends a layer's blob; nothing is sent if it is there.
    ///
    /// # Errors
    /// [`PlaceError`].
    fn put_blob<'a>(
        &'a self,
        descriptor: &'a Descriptor,
        source: &'a dyn Source,
        step: &'a Step,
    ) -> BoxFuture<'a, Result<(), PlaceError>>;

    /// Publishes the records, when all blobs that they name (`layers`) are there: only now others see
    /// the cache.
    ///
    /// # Errors
    /// [`PlaceError`]; then the place holds what it held.
    fn put_records<'a>(
        &'a self,
        records: &'a [u8],
        layers: &'a [Descriptor],
        step: &'a Step,
    ) -> BoxFuture<'a, Result<(), PlaceError>>;

    /// The repository that holds the blobs then, if a registry does.
    fn repository(&self) -> Option<&Reference> {
        None
    }
}
