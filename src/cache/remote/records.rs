//! The document of a cache: what steps made, what trees hold, and which blobs have the layers.
//!
//! ```text
//! {"version":1,
//!  "actions":[{"key":…,"step":"RUN make","layer":…,"diffId":…,"created":…,"inputs":{…}}, …],
//!  "contents":[{"tree":…,"selector":…,"digest":…}, …],
//!  "layers":[{"diffId":…,"blobs":[{"mediaType":…,"digest":…,"size":…}]}, …]}
//! ```
//!
//! `contents` are there because a `COPY --from` is looked up by what it takes of a tree: without them a
//! machine would need the tree's files to know that it needs no files. Lists are strictly ascending, so
//! the same build gives the same bytes, and nothing is said twice in two ways. A long document is
//! stored as zstd.
//!
//! It comes from other machines: every bound is checked and every digest parsed before anything is
//! believed. What it then says of a step is taken at its word, since that is what sharing a cache means;
//! the bytes of a layer never are (see [`crate::store::Store::identify_made`]).

use std::collections::BTreeMap;
use std::io::Read;

use oci_spec::image::MediaType;
use serde::{Deserialize, Serialize};

use super::RECORDS_LIMIT;
use crate::cache::{Inputs, Record};
use crate::digest::{ActionKey, ContentDigest, DiffId, Digest, LayerIdentity, TreeIdentity};
use crate::image::Descriptor;

/// The version of the document that is written, and the only one that is read.
pub const VERSION: u32 = 1;
/// What a document of at most this many bytes is stored as: itself. A longer one is compressed.
const PLAIN_LIMIT: usize = 32 << 10;
const ZSTD_LEVEL: i32 = 9;
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

const ACTION_LIMIT: usize = 200_000;
const CONTENT_LIMIT: usize = 500_000;
const LAYER_LIMIT: usize = 100_000;
const BLOB_LIMIT: usize = 8;
const INPUT_LIMIT: usize = 10_000;
/// The longest name of an input, and of a step that is read.
const NAME_LIMIT: usize = 64 << 10;
/// The longest selector: a path with what is excluded below it.
const SELECTOR_LIMIT: usize = 256 << 10;
/// What of a step's name is written.
const STEP_WRITTEN: usize = 4 << 10;

/// What one step made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Action {
    /// The step as people read it.
    pub step: String,
    /// What it was made from, so that a later miss can be explained.
    pub inputs: Inputs,
    pub record: Record,
}

/// The records of a cache.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Records {
    pub actions: BTreeMap<ActionKey, Action>,
    pub contents: BTreeMap<(TreeIdentity, String), ContentDigest>,
    /// The blobs that hold a layer, the preferred first.
    pub layers: BTreeMap<DiffId, Vec<Descriptor>>,
}

/// Why bytes are no records.
#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    #[error("the records are no JSON document of the expected form")]
    Json(#[from] serde_json::Error),
    #[error("the records are of version {0}; this stave knows {VERSION}")]
    Version(u64),
    #[error("the records have more than {RECORDS_LIMIT} bytes")]
    TooLarge,
    #[error("the records name {count} {what}; the limit is {limit}")]
    TooMany { what: &'static str, count: usize, limit: usize },
    #[error("{what} in the records has {length} bytes; the limit is {limit}")]
    TooLong { what: &'static str, length: usize, limit: usize },
    #[error("the {0} of the records are not in ascending order")]
    Order(&'static str),
    #[error("`{0}` is no media type of a layer")]
    MediaType(String),
    #[error("the records cannot be decompressed")]
    Packed(#[source] std::io::Error),
}

#[derive(Deserialize)]
struct Stated {
    version: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u64,
    actions: Vec<WireAction>,
    contents: Vec<WireContent>,
    layers: Vec<WireLayer>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WireAction {
    key: ActionKey,
    step: String,
    layer: LayerIdentity,
    diff_id: DiffId,
    created: i64,
    inputs: Inputs,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireContent {
    tree: TreeIdentity,
    selector: String,
    digest: ContentDigest,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WireLayer {
    diff_id: DiffId,
    blobs: Vec<WireBlob>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WireBlob {
    media_type: String,
    digest: Digest,
    size: u64,
}

const LAYER_TYPES: [&str; 6] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
];

/// Whether a descriptor of this type is of a layer that can be unpacked here.
pub(super) fn is_layer_type(media_type: &str) -> bool {
    LAYER_TYPES.contains(&media_type)
}

impl Records {
    /// The document as JSON: the same records give the same bytes. What no reader would take, a name of
    /// a megabyte for one, is left out, which costs a hit and nothing else.
    pub fn to_json(&self) -> Vec<u8> {
        let readable = |inputs: &Inputs| {
            inputs.len() <= INPUT_LIMIT
                && inputs.iter().all(|(name, value)| name.len().max(value.len()) <= NAME_LIMIT)
        };
        let actions = self.actions.iter().filter(|(_, action)| readable(&action.inputs));
        let document = Document {
            version: VERSION.into(),
            actions: actions
                .map(|(key, action)| WireAction {
                    key: *key,
                    step: cut(&action.step, STEP_WRITTEN).to_owned(),
                    layer: action.record.layer,
                    diff_id: action.record.diff_id,
                    created: action.record.created,
                    inputs: action.inputs.clone(),
                })
                .collect(),
            contents: self
                .contents
                .iter()
                .filter(|((_, selector), _)| selector.len() <= SELECTOR_LIMIT)
                .map(|((tree, selector), digest)| WireContent {
                    tree: *tree,
                    selector: selector.clone(),
                    digest: *digest,
                })
                .collect(),
            layers: self
                .layers
                .iter()
                .map(|(diff_id, blobs)| WireLayer {
                    diff_id: *diff_id,
                    blobs: blobs.iter().take(BLOB_LIMIT).map(WireBlob::from).collect(),
                })
                .collect(),
        };
        serde_json::to_vec(&document).expect("records have no map with other keys than strings")
    }

    /// The document as it is stored.
    ///
    /// # Errors
    /// [`RecordsError::TooLarge`] if nobody would read it, and what compressing gives.
    pub fn to_bytes(&self) -> Result<Vec<u8>, RecordsError> {
        let json = self.to_json();
        if json.len() as u64 > RECORDS_LIMIT {
            return Err(RecordsError::TooLarge);
        }
        match json.len() <= PLAIN_LIMIT {
            true => Ok(json),
            false => zstd::bulk::compress(&json, ZSTD_LEVEL).map_err(RecordsError::Packed),
        }
    }

    /// Reads a document as it is stored.
    ///
    /// # Errors
    /// [`RecordsError`]; [`RecordsError::Version`] for one that another stave may read.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordsError> {
        if !is_packed(bytes) {
            return Self::parse_json(bytes);
        }
        let mut json = Vec::new();
        let decoder = zstd::stream::read::Decoder::with_buffer(bytes).map_err(RecordsError::Packed)?;
        // One byte more than is allowed tells that there are more.
        decoder.take(RECORDS_LIMIT + 1).read_to_end(&mut json).map_err(RecordsError::Packed)?;
        Self::parse_json(&json)
    }

    fn parse_json(json: &[u8]) -> Result<Self, RecordsError> {
        if json.len() as u64 > RECORDS_LIMIT {
            return Err(RecordsError::TooLarge);
        }
        let stated: Stated = serde_json::from_slice(json)?;
        if stated.version != u64::from(VERSION) {
            return Err(RecordsError::Version(stated.version));
        }
        let document: Document = serde_json::from_slice(json)?;
        at_most("actions", document.actions.len(), ACTION_LIMIT)?;
        at_most("contents", document.contents.len(), CONTENT_LIMIT)?;
        at_most("layers", document.layers.len(), LAYER_LIMIT)?;
        ascending("actions", document.actions.iter().map(|action| action.key))?;
        ascending("contents", document.contents.iter().map(|content| (content.tree, &content.selector)))?;
        ascending("layers", document.layers.iter().map(|layer| layer.diff_id))?;
        let mut records = Self::default();
        for action in document.actions {
            short("the name of a step", &action.step, NAME_LIMIT)?;
            at_most("inputs of a step", action.inputs.len(), INPUT_LIMIT)?;
            for text in action.inputs.iter().flat_map(|(name, value)| [name, value]) {
                short("an input of a step", text, NAME_LIMIT)?;
            }
            let record = Record { layer: action.layer, diff_id: action.diff_id, created: action.created };
            let action_of = Action { step: action.step, inputs: action.inputs, record };
            records.actions.insert(action.key, action_of);
        }
        for content in document.contents {
            short("a selector", &content.selector, SELECTOR_LIMIT)?;
            records.contents.insert((content.tree, content.selector), content.digest);
        }
        for layer in document.layers {
            at_most("blobs of a layer", layer.blobs.len(), BLOB_LIMIT)?;
            let blobs = layer.blobs.into_iter().map(WireBlob::descriptor).collect::<Result<_, _>>()?;
            records.layers.insert(layer.diff_id, blobs);
        }
        Ok(records)
    }
}

impl From<&Descriptor> for WireBlob {
    fn from(descriptor: &Descriptor) -> Self {
        Self {
            media_type: descriptor.media_type.to_string(),
            digest: descriptor.digest,
            size: descriptor.size,
        }
    }
}

impl WireBlob {
    fn descriptor(self) -> Result<Descriptor, RecordsError> {
        if !is_layer_type(&self.media_type) {
            return Err(RecordsError::MediaType(cut(&self.media_type, 100).to_owned()));
        }
        Ok(Descriptor::new(MediaType::from(self.media_type.as_str()), self.digest, self.size))
    }
}

/// Whether stored records are compressed.
pub(super) fn is_packed(bytes: &[u8]) -> bool {
    bytes.starts_with(&ZSTD_MAGIC)
}

fn at_most(what: &'static str, count: usize, limit: usize) -> Result<(), RecordsError> {
    if count > limit { Err(RecordsError::TooMany { what, count, limit }) } else { Ok(()) }
}

fn short(what: &'static str, text: &str, limit: usize) -> Result<(), RecordsError> {
    match text.len() {
        length if length > limit => Err(RecordsError::TooLong { what, length, limit }),
        _ => Ok(()),
    }
}

fn ascending<T: Ord>(what: &'static str, items: impl Iterator<Item = T>) -> Result<(), RecordsError> {
    if items.is_sorted_by(|one, next| one < next) { Ok(()) } else { Err(RecordsError::Order(what)) }
}

/// At most `limit` bytes of a text, whole characters.
fn cut(text: &str, limit: usize) -> &str {
    let end = (0..=limit.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or_default()]
}

#[cfg(test)]
mod tests;
