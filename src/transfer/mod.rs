//! Images from one place to another, without being built, run or changed: `copy`, `manifest`, and what reads
//! an image where it is.
//!
//! ```text
//! place      docker://NAME, store:NAME, oci:FOLDER, oci-archive:FILE, docker-archive:FILE
//! origin     a place to read: the document at its top, what that names, and blobs
//! bundle, docker, stored    layouts and archives, Docker's older archives, the store
//! graph      all documents and blobs below a document
//! convert    the same in Docker's or OCI's words
//! to_registry, to_layout, to_archive, to_store    places to write, one file each
//! referrers  signatures and SBOMs, which go along if they are asked for
//! list       manifest lists that are being put together
//! ```
//!
//! Documents go as the bytes that they are, so an image has the same digest wherever it went. Blobs are
//! checked against theirs on the way. What names others comes after them, and the tag last: a copy that
//! fails has changed no name.

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::exporter::ExportError;
use crate::image::Descriptor;
use crate::platform::Platform;
use crate::progress::Progress;
use crate::registry::{Client, RegistryError};
use crate::store::{Store, StoreError};

mod bundle;
mod content;
mod convert;
mod docker;
mod graph;
mod list;
mod origin;
mod place;
mod referrers;
mod stored;
mod to_archive;
mod to_layout;
mod to_registry;
mod to_store;

pub use convert::Format;
pub use list::{Changes, List, Member};
pub use origin::Origin;
pub use place::{Entry, Place, PlaceError};

/// How many blobs or documents are in transfer at once.
const TRANSFERS: usize = 4;
/// How often one who waits for another process looks again.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_millis(25);

/// What copies are made with.
#[derive(Debug, Clone, Copy)]
pub struct Tools<'a> {
    pub client: &'a Client,
    /// None where no place needs it; see [`Place::reads_store`].
    pub store: Option<&'a Store>,
    pub progress: &'a Progress,
}

impl<'a> Tools<'a> {
    fn store(&self) -> Result<&'a Store, TransferError> {
        self.store.ok_or(TransferError::NoStore)
    }
}

/// What of an image is copied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CopyOptions {
    /// The image for this platform alone, and no index above it.
    pub platform: Option<Platform>,
    /// What refers to the image as well: signatures, SBOMs, attestations.
    pub referrers: bool,
    /// Whose words the documents are to be in; as they are if none.
    pub format: Option<Format>,
}

/// What a copy did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// What is there now.
    pub descriptor: Descriptor,
    /// Layers that were not moved, for they are kept by no registry.
    pub foreign: usize,
    /// How many documents came along because they refer to the image.
    pub referrers: usize,
}

/// Why something was not copied.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Export(#[from] ExportError),
    #[error("cannot read `{}`", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write `{}`", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot write what arrived")]
    Sink(#[source] io::Error),
    #[error("cannot use `{place}`: {reason}")]
    Broken { place: String, reason: String },
    #[error("`{place}` lacks {digest}, which its image names")]
    Lacks { place: String, digest: Digest },
    #[error("`{place}` has no `{name}`{}", but(there))]
    NoEntry { place: String, name: String, there: Vec<String> },
    #[error("`{place}` has no image for {platform}{}", but(there))]
    Platform { place: String, platform: Platform, there: Vec<String> },
    #[error("no such image: `{0}`")]
    NoImage(String),
    #[error("`{0}` nests indexes too deeply")]
    Nested(String),
    #[error("`{0}` names more documents or blobs than anything sound does")]
    TooMany(String),
    #[error("`{place}` cannot hold this: {reason}")]
    Unfit { place: String, reason: String },
    #[error("the store is needed for this, and none is open")]
    NoStore,
    #[error("what refers to an image is copied between registries alone")]
    ReferrersElsewhere,
    #[error("what refers to an image names its digest, which another format changes")]
    ReferrersChanged,
}

/// `; it has a, b`.
fn but(there: &[String]) -> String {
    if there.is_empty() { String::new() } else { format!("; it has {}", there.join(", ")) }
}

impl TransferError {
    fn reading(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Read { path, source }
    }

    fn writing(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Write { path, source }
    }
}

/// Copies an image, with all of its platforms unless one is asked for.
///
/// # Errors
/// [`TransferError`]; then the name that it was to have is what it was. Blobs that arrived may be there.
pub async fn copy(
    tools: &Tools<'_>,
    from: &Place,
    to: &Place,
    options: &CopyOptions,
) -> Result<Copied, TransferError> {
    let step = tools.progress.step(format!("copy {from} to {to}"));
    let outcome = copy_with(tools, from, to, options, &step).await;
    match &outcome {
        Ok(_) => step.done(),
        Err(error) => step.failed(error),
    }
    outcome
}

async fn copy_with(
    tools: &Tools<'_>,
    from: &Place,
    to: &Place,
    options: &CopyOptions,
    step: &crate::progress::Step,
) -> Result<Copied, TransferError> {
    if options.referrers && (from.is_local() || to.is_local()) {
        return Err(TransferError::ReferrersElsewhere);
    }
    if options.referrers && options.format.is_some() {
        return Err(TransferError::ReferrersChanged);
    }
    // Docker's archives hold one image a name.
    let here = Platform::host();
    let platform = match (&options.platform, to) {
        (None, Place::DockerArchive { .. }) => Some(&here),
        (platform, _) => platform.as_ref(),
    };
    let origin = Origin::open(tools, from, platform).await?;
    let job = Job { origin: &origin, format: options.format, to, step };
    match to {
        Place::Registry(name) => to_registry::write(&job, tools.client, name, options.referrers).await,
        Place::Layout { folder, entry } => to_layout::write(&job, folder, entry).await,
        Place::OciArchive { file, entry } | Place::DockerArchive { file, entry } => {
            to_archive::write(&job, file, entry).await
        }
        Place::Store(name) => to_store::write(&job, tools.store()?, name).await,
    }
}

/// A copy that is under way.
struct Job<'a> {
    origin: &'a Origin<'a>,
    format: Option<Format>,
    to: &'a Place,
    step: &'a crate::progress::Step,
}

impl Job<'_> {
    /// All that is to be copied.
    async fn graph(&self, there: &impl graph::There) -> Result<graph::Graph, TransferError> {
        let graph = graph::walk(self.origin, self.origin.root.clone(), there).await?;
        match self.format {
            Some(format) => convert::convert(graph, format).map_err(|reason| self.unfit(reason)),
            None => Ok(graph),
        }
    }

    fn unfit(&self, reason: String) -> TransferError {
        TransferError::Unfit { place: self.to.to_string(), reason }
    }
}
