//! To a registry: blobs side by side, documents after what they name, the tag last.

use futures_util::stream::{StreamExt, TryStreamExt, iter};

use crate::image::Descriptor;
use crate::progress::Step;
use crate::reference::Reference;
use crate::registry::{Client, Failure, Fetched, Pushed};

use super::graph::{Graph, There};
use super::origin::Origin;
use super::{Copied, Job, TRANSFERS, TransferError, referrers};

/// A repository that manifests are looked for in.
pub(super) struct Repository<'a> {
    pub(super) client: &'a Client,
    pub(super) name: &'a Reference,
}

impl There for Repository<'_> {
    async fn holds(&self, manifest: &Descriptor) -> Result<bool, TransferError> {
        match self.client.resolve_at_origin(&self.name.with_digest(manifest.digest)).await {
            Ok(found) => Ok(found.digest == manifest.digest),
            // Who may write somewhere may not always read there, and what cannot be read is sent.
            Err(error) => match *error.failure {
                Failure::NotFound { .. }
                | Failure::Denied { .. }
                | Failure::Unauthorized { .. }
                | Failure::NoCredentials { .. } => Ok(false),
                _ => Err(error.into()),
            },
        }
    }
}

/// Copies a document and all that it names, and points `name` at it.
pub(super) async fn write(
    job: &Job<'_>,
    client: &Client,
    name: &Reference,
    with_referrers: bool,
) -> Result<Copied, TransferError> {
    let graph = job.graph(&Repository { client, name }).await?;
    below(client, job.origin, &graph, name, job.step).await?;
    let referrers = match with_referrers {
        true => referrers::copy(client, job.origin, &graph, name, job.step).await?,
        false => 0,
    };
    let Fetched { descriptor, bytes, .. } = graph.root();
    let descriptor = client.push_manifest(name, &descriptor.media_type, bytes).await?;
    Ok(Copied { descriptor, foreign: graph.foreign, referrers })
}

/// Copies all below a document, but not itself.
pub(super) async fn below(
    client: &Client,
    origin: &Origin<'_>,
    graph: &Graph,
    name: &Reference,
    step: &Step,
) -> Result<(), TransferError> {
    iter(graph.blobs.iter().map(|blob| send(client, origin, blob, name, step)))
        .buffer_unordered(TRANSFERS)
        .try_collect::<Vec<()>>()
        .await?;
    for level in graph.below() {
        iter(level.iter().map(|found| async move {
            let own = name.with_digest(found.descriptor.digest);
            client.push_manifest(&own, &found.descriptor.media_type, &found.bytes).await
        }))
        .buffer_unordered(TRANSFERS)
        .try_collect::<Vec<_>>()
        .await?;
    }
    Ok(())
}

async fn send(
    client: &Client,
    origin: &Origin<'_>,
    blob: &Descriptor,
    name: &Reference,
    step: &Step,
) -> Result<(), TransferError> {
    let how = match origin.remote() {
        Some((_, from)) => client.relay_blob(from, name, blob, step).await?,
        None => {
            let content = origin.content(blob)?;
            let source = |offset| content.checked(blob, offset);
            client.push_blob(name, blob, None, &source, step).await?
        }
    };
    if how != Pushed::Uploaded {
        step.transfer(&blob.digest.short(), blob.size, Some(blob.size));
    }
    Ok(())
}
