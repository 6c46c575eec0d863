//! All that a document names, without a limit to its shape but with one to its size.
//!
//! What is no manifest and no index is a blob, whatever calls it so: indexes of build caches name layers
//! where others name manifests, and artifacts have configs and layers of any kind.

use std::collections::{HashMap, HashSet};

use futures_util::stream::{StreamExt, TryStreamExt, iter};

use crate::digest::Digest;
use crate::image::{DOCKER_LIST, DOCKER_MANIFEST, Descriptor, Document, OCI_INDEX, OCI_MANIFEST, is_foreign};
use crate::registry::Fetched;

use super::origin::{DEPTH, Origin};
use super::{TRANSFERS, TransferError};

/// The most documents below one name.
const DOCUMENT_LIMIT: usize = 10_000;
/// The most bytes of documents.
const BYTE_LIMIT: usize = 256 << 20;
/// The most blobs below one name.
const BLOB_LIMIT: usize = 100_000;

/// Documents and the blobs that they name.
#[derive(Debug, Clone)]
pub(super) struct Graph {
    /// The root alone, then what it names, and so on. What a level names is in those after it.
    pub(super) levels: Vec<Vec<Fetched>>,
    /// Each once. Those that nobody may move are not among them.
    pub(super) blobs: Vec<Descriptor>,
    /// Layers that are named by URLs and kept by no registry.
    pub(super) foreign: usize,
}

impl Graph {
    /// The document at the top.
    pub(super) fn root(&self) -> &Fetched {
        &self.levels[0][0]
    }

    /// All documents but the root, each after what it names.
    pub(super) fn below(&self) -> impl Iterator<Item = &[Fetched]> {
        self.levels[1..].iter().rev().map(Vec::as_slice)
    }
}

/// What of a manifest is there already, so that nothing below it needs to be looked at.
pub(super) trait There {
    /// Whether the place holds this image manifest, and with it all that it names.
    async fn holds(&self, manifest: &Descriptor) -> Result<bool, TransferError>;
}

/// Of a place that has to be looked through blob by blob.
pub(super) struct Nothing;

impl There for Nothing {
    async fn holds(&self, _: &Descriptor) -> Result<bool, TransferError> {
        Ok(false)
    }
}

/// Reads all documents below `root`.
///
/// # Errors
/// [`TransferError::Nested`], [`TransferError::TooMany`], and what reading gives.
pub(super) async fn walk(
    origin: &Origin<'_>,
    root: Fetched,
    there: &impl There,
) -> Result<Graph, TransferError> {
    let place = || origin.place.to_string();
    let mut levels: Vec<Vec<Fetched>> = Vec::new();
    let (mut blobs, mut known, mut foreign) = (Vec::new(), HashSet::new(), 0);
    let mut read: HashMap<Digest, Fetched> = HashMap::new();
    let (mut documents, mut bytes) = (1, root.bytes.len());
    let mut level = vec![root];
    while !level.is_empty() {
        if levels.len() > DEPTH {
            return Err(TransferError::Nested(place()));
        }
        let mut named: Vec<Descriptor> = Vec::new();
        let mut seen = HashSet::new();
        let mut missing = Vec::new();
        for found in &level {
            match &found.document {
                Document::Index(index) => {
                    for entry in &index.manifests {
                        if !is_document(entry) {
                            missing.push(entry);
                        } else if seen.insert(entry.digest) {
                            named.push(entry.clone());
                        }
                    }
                }
                Document::Manifest(manifest) => {
                    if !there.holds(&found.descriptor).await? {
                        missing.extend(manifest.layers.iter().chain([&manifest.config]));
                    }
                }
            }
        }
        for blob in missing {
            if is_foreign(blob.media_type.as_ref()) {
                foreign += 1;
            } else if known.insert(blob.digest) {
                blobs.push(blob.clone());
            }
        }
        documents += named.len();
        if documents > DOCUMENT_LIMIT || blobs.len() > BLOB_LIMIT {
            return Err(TransferError::TooMany(place()));
        }
        let fetch = |entry: Descriptor| {
            let kept = read.get(&entry.digest).cloned();
            async move {
                match kept {
                    Some(kept) => Ok(kept),
                    None => origin.document(&entry).await,
                }
            }
        };
        let next: Vec<Fetched> = iter(named.into_iter().map(fetch)).buffered(TRANSFERS).try_collect().await?;
        for found in &next {
            bytes += found.bytes.len();
            if bytes > BYTE_LIMIT {
                return Err(TransferError::TooMany(place()));
            }
            read.insert(found.descriptor.digest, found.clone());
        }
        // One that is named again further down is needed before all that name it.
        levels.push(std::mem::replace(&mut level, next));
        for earlier in &mut levels {
            earlier.retain(|found| !seen.contains(&found.descriptor.digest));
        }
    }
    Ok(Graph { levels, blobs, foreign })
}

/// Whether a descriptor names a manifest or an index.
pub(super) fn is_document(descriptor: &Descriptor) -> bool {
    let kind = descriptor.media_type.to_string();
    [OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST].contains(&kind.as_str())
}
