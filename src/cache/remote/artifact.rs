//! A cache as an artifact: a manifest whose config is the document of records and whose layers are the
//! blobs that it names, or an index that lists both, for what BuildKit calls `image-manifest=false`.
//!
//! Records that are small ride in the manifest itself, as their descriptor's `data` (OCI image
//! specification 1.1, descriptor.md), so that one request brings all that a build with only hits needs.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oci_spec::image::MediaType;
use serde_json::{Value, json};

use super::records;
use crate::digest::Digest;
use crate::image::{
    DOCKER_LIST, Descriptor, Document, DocumentError, INDEX_LIMIT, Index, LAYER_LIMIT, Manifest, OCI_INDEX,
    OCI_MANIFEST,
};

/// What the artifact is.
pub const ARTIFACT_TYPE: &str = "application/vnd.stave.cache.v1";
/// What its records are.
pub const RECORDS_TYPE: &str = "application/vnd.stave.cache.records.v1+json";
/// What its records are when they are compressed.
pub const PACKED_RECORDS_TYPE: &str = "application/vnd.stave.cache.records.v1+json+zstd";
/// The records of BuildKit's caches.
const BUILDKIT_RECORDS_TYPE: &str = "application/vnd.buildkit.cacheconfig.v0";

/// The most bytes of records that ride in the manifest: far below the 4 MiB that registries take.
const DATA_LIMIT: usize = 256 << 10;

/// Which documents are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A manifest, which every registry takes.
    Manifest,
    /// An index of the blobs.
    Index,
    /// The same with Docker's media types.
    DockerIndex,
}

/// A document that is ready to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    pub media_type: &'static str,
    pub bytes: Vec<u8>,
}

/// What a manifest or an index turns out to be.
#[derive(Debug)]
pub enum Stored {
    /// A cache: its records, which may be there already.
    Cache { records: Descriptor, data: Option<Vec<u8>> },
    /// An image, which may have a cache in its config.
    Image(Box<Manifest>),
    /// Images for several platforms.
    Images(Index),
    /// BuildKit's cache.
    BuildKit,
}

/// Too many layers for a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cache has {count} layers, and its {kind} can name {limit}")]
pub struct TooManyLayers {
    pub kind: &'static str,
    pub count: usize,
    pub limit: usize,
}

/// The descriptor of stored records.
pub fn describe(records: &[u8]) -> Descriptor {
    let kind = if records::is_packed(records) { PACKED_RECORDS_TYPE } else { RECORDS_TYPE };
    Descriptor::new(MediaType::from(kind), Digest::of(records), records.len() as u64)
}

/// Writes the document that names `records` and `layers`. The same cache gives the same bytes.
///
/// # Errors
/// [`TooManyLayers`].
pub fn write(records: &[u8], layers: &[Descriptor], form: Form) -> Result<Artifact, TooManyLayers> {
    let bound = |kind, limit| match layers.len() {
        count if count > limit => Err(TooManyLayers { kind, count, limit }),
        _ => Ok(()),
    };
    let mut config = json!(describe(records));
    if records.len() <= DATA_LIMIT {
        config["data"] = json!(STANDARD.encode(records));
    }
    let (media_type, document) = match form {
        Form::Manifest => {
            bound("manifest", LAYER_LIMIT)?;
            let document = json!({
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "artifactType": ARTIFACT_TYPE,
                "config": config,
                "layers": layers,
            });
            (OCI_MANIFEST, document)
        }
        Form::Index | Form::DockerIndex => {
            bound("index", INDEX_LIMIT - 1)?;
            let docker = form == Form::DockerIndex;
            let media_type = if docker { DOCKER_LIST } else { OCI_INDEX };
            let mut entries: Vec<Value> = layers.iter().map(|layer| entry(layer, docker)).collect();
            entries.push(config);
            (media_type, json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": entries }))
        }
    };
    let bytes = serde_json::to_vec(&document).expect("a document of strings and numbers is JSON");
    Ok(Artifact { media_type, bytes })
}

fn entry(layer: &Descriptor, docker: bool) -> Value {
    let mut layer = layer.clone();
    if docker && layer.media_type.to_string().ends_with("gzip") {
        layer.media_type = MediaType::from("application/vnd.docker.image.rootfs.diff.tar.gzip");
    }
    json!(layer)
}

/// Reads a manifest or an index.
///
/// # Errors
/// [`DocumentError`] for what is neither.
pub fn read(bytes: &[u8]) -> Result<Stored, DocumentError> {
    let is_records = |descriptor: &Descriptor| {
        matches!(descriptor.media_type.as_ref(), RECORDS_TYPE | PACKED_RECORDS_TYPE)
    };
    let is_buildkits = |descriptor: &Descriptor| descriptor.media_type.as_ref() == BUILDKIT_RECORDS_TYPE;
    Ok(match Document::parse(bytes, None)? {
        Document::Manifest(manifest) if is_records(&manifest.config) => {
            let value: Value = serde_json::from_slice(bytes)?;
            let data = data_of(&value["config"], &manifest.config);
            Stored::Cache { records: manifest.config, data }
        }
        Document::Manifest(manifest) if is_buildkits(&manifest.config) => Stored::BuildKit,
        Document::Manifest(manifest) => Stored::Image(Box::new(manifest)),
        Document::Index(index) => {
            if let Some(place) = index.manifests.iter().position(is_records) {
                let value: Value = serde_json::from_slice(bytes)?;
                let records = index.manifests[place].clone();
                let data = data_of(&value["manifests"][place], &records);
                return Ok(Stored::Cache { records, data });
            }
            match index.manifests.iter().any(is_buildkits) {
                true => Stored::BuildKit,
                false => Stored::Images(index),
            }
        }
    })
}

/// The bytes that ride with a descriptor. Those that are not what it says are as good as none: then
/// the blob is fetched, and checked again.
fn data_of(value: &Value, descriptor: &Descriptor) -> Option<Vec<u8>> {
    let bytes = STANDARD.decode(value.get("data")?.as_str()?).ok()?;
    let right = bytes.len() as u64 == descriptor.size && Digest::of(&bytes) == descriptor.digest;
    right.then_some(bytes)
}
