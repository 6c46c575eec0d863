//! The composition root: the pipeline as one reads it, over a store and a registry client.

use tokio::runtime::Handle;

use crate::progress::Progress;
use crate::registry::Client;
use crate::solver::Cancel;
use crate::store::Store;

mod build;
mod cache;
mod cache_export;
mod cache_places;
pub mod container;
mod export;
mod findings;
mod layout;
mod lint;
pub mod network;
mod pull;
mod pull_all;
mod pull_find;
mod pull_layer;
mod push;

pub use build::{BuildError, BuildRequest, Built, Needed};
pub use cache::{CacheError, CacheExport, Caches};
pub use export::Files;
pub use layout::{Layout, LayoutEntry};
pub use lint::{CheckRequest, check};
pub use pull::{Policy, PullError, Pulled};
pub use push::{EarlyPush, PushError, PushHelp, Sent};

/// What every verb works with.
#[derive(Debug, Clone)]
pub struct Engine<'a> {
    pub store: &'a Store,
    pub registry: Client,
    /// Where asynchronous work runs.
    pub runtime: Handle,
    pub progress: Progress,
    /// Ends whatever is under way.
    pub cancel: Cancel,
}

/// The work was given up because somebody asked for that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("canceled")]
pub struct Canceled;

impl Engine<'_> {
    /// Waits for asynchronous work, or for it to be canceled.
    fn wait<T>(&self, work: impl Future<Output = T>) -> Result<T, Canceled> {
        self.cancel.wait(&self.runtime, work).ok_or(Canceled)
    }
}
