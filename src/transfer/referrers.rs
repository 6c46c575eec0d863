//! What refers to an image: signatures, SBOMs and attestations that name it as their subject, and those that
//! cosign keeps under tags made of the image's digest.

use std::collections::HashSet;

use crate::digest::Digest;
use crate::progress::Step;
use crate::reference::Reference;
use crate::registry::{Client, Fetched, RegistryError, referrers_tag};

use super::TransferError;
use super::graph::{Graph, walk};
use super::origin::Origin;
use super::to_registry::{Repository, below};

/// The most documents that are copied because they refer to one image, or to one another.
const LIMIT: usize = 5_000;
/// What cosign appends to the tag of a digest for signatures, attestations and SBOMs.
const SUFFIXES: [&str; 3] = ["sig", "att", "sbom"];

/// Copies all that refers to the documents of a graph, and what refers to that; gives how much it was.
pub(super) async fn copy(
    client: &Client,
    origin: &Origin<'_>,
    graph: &Graph,
    name: &Reference,
    step: &Step,
) -> Result<usize, TransferError> {
    let Some((source, from)) = origin.remote() else { return Err(TransferError::ReferrersElsewhere) };
    let mut todo: Vec<Digest> = graph.levels.iter().flatten().map(|found| found.descriptor.digest).collect();
    let mut known: HashSet<Digest> = todo.iter().copied().collect();
    let mut copied = 0;
    while let Some(subject) = todo.pop() {
        let mut found: Vec<(Fetched, Option<String>)> = Vec::new();
        for entry in source.referrers(from, subject, None).await? {
            if known.insert(entry.digest) {
                found.push((source.manifest(&from.with_digest(entry.digest)).await?, None));
            }
        }
        for suffix in SUFFIXES {
            let tag = format!("{}.{suffix}", referrers_tag(subject));
            let tagged = from.with_tag(&tag).expect("it has a tag's form");
            if let Some(fetched) = optional(source.manifest(&tagged).await)? {
                known.insert(fetched.descriptor.digest);
                found.push((fetched, Some(tag)));
            }
        }
        for (fetched, tag) in found {
            copied += 1;
            if copied > LIMIT {
                return Err(TransferError::TooMany(origin.place.to_string()));
            }
            let Fetched { descriptor, bytes, .. } = fetched.clone();
            let graph = walk(origin, fetched, &Repository { client, name }).await?;
            below(client, origin, &graph, name, step).await?;
            let own = match &tag {
                Some(tag) => name.with_tag(tag).expect("it was one at the source"),
                None => name.with_digest(descriptor.digest),
            };
            // One after another: registries without lists of referrers have them in a tag, which each changes.
            client.push_manifest(&own, &descriptor.media_type, &bytes).await?;
            todo.extend(graph.levels.iter().flatten().map(|found| found.descriptor.digest));
        }
    }
    Ok(copied)
}

fn optional(outcome: Result<Fetched, RegistryError>) -> Result<Option<Fetched>, RegistryError> {
    match outcome {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}
