//! The composition root: the pipeline as one reads it, over a store and a registry client.

use tokio::runtime::Handle;

use crate::progress::Progress;
use crate::registry::Client;
use crate::store::Store;

mod build;
mod pull;
mod push;
mod run;

pub use build::{BuildError, BuildRequest, Built};
pub use pull::{Policy, PullError};
pub use run::{Bind, RunError, RunRequest, Started};

/// What every verb works with.
#[derive(Debug, Clone)]
pub struct Engine<'a> {
    pub store: &'a Store,
    pub registry: Client,
    /// Where asynchronous work runs.
    pub runtime: Handle,
    pub progress: Progress,
}
