//! Archives as `docker save` wrote them before Docker 25, and others still do: a `manifest.json` that names
//! a config and layers, no manifests and no digests of blobs.
//!
//! The image gets the manifest here that it would get if it were loaded and pushed: layers that are not
//! compressed are, for nobody wants them otherwise at a registry.
//!
//! Source: moby's image specification v1.2.

use std::collections::HashMap;
use std::io::{self, Read};

use oci_spec::image::MediaType;

use crate::digest::{DiffId, Digest, Hasher};
use crate::image::{CONFIG_LIMIT, Descriptor, Document, INDEX_LIMIT, ImageConfig, Manifest, OCI_MANIFEST};
use crate::reference::Reference;
use crate::registry::Fetched;
use crate::store::compress::{self, Compression};
use crate::store::{Store, layer_blobs};

use super::TransferError;
use super::bundle::Bundle;
use super::content::Content;
use super::origin::Kind;
use super::place::{Entry, Place};

/// The longest `manifest.json`.
const LIST_LIMIT: u64 = 16 << 20;

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// Finds an image in an archive, and makes its manifest.
pub(super) fn open<'a>(
    place: &Place,
    bundle: Bundle,
    entry: &Entry,
    store: &Store,
) -> Result<(Kind<'a>, Fetched), TransferError> {
    let broken = |reason: String| TransferError::Broken { place: place.to_string(), reason };
    let file = |name: &str| match bundle.find(name) {
        Ok(Some(content)) => Ok(content),
        Ok(None) => Err(broken(format!("it lacks `{}`", name.chars().take(200).collect::<String>()))),
        Err(error) => Err(broken(error.to_string())),
    };
    let list = file("manifest.json")?.bytes(LIST_LIMIT).map_err(|error| broken(error.to_string()))?;
    let list: Vec<Listed> =
        serde_json::from_slice(&list).map_err(|error| broken(format!("`manifest.json`: {error}")))?;
    if list.len() > INDEX_LIMIT {
        return Err(broken(format!("`manifest.json` names more than {INDEX_LIMIT} images")));
    }
    let image = choose(place, &list, entry)?;
    let config = file(&image.config)?.bytes(CONFIG_LIMIT).map_err(|error| broken(error.to_string()))?;
    let parsed: ImageConfig =
        serde_json::from_slice(&config).map_err(|error| broken(format!("its image's config: {error}")))?;
    let layers = image.layers.as_deref().unwrap_or_default();
    if layers.len() != parsed.rootfs.diff_ids.len() {
        let (files, ids) = (layers.len(), parsed.rootfs.diff_ids.len());
        return Err(broken(format!("its image has {files} layers, the config {ids}")));
    }
    let mut contents = HashMap::new();
    let mut made: HashMap<DiffId, Descriptor> = HashMap::new();
    let mut descriptors = Vec::with_capacity(layers.len());
    for (name, diff_id) in layers.iter().zip(&parsed.rootfs.diff_ids) {
        let descriptor = match made.get(diff_id) {
            Some(made) => made.clone(),
            None => {
                let (descriptor, content) = layer(&file(name)?, *diff_id, store)
                    .map_err(|error| broken(format!("its layer {diff_id}: {error}")))?;
                contents.insert(descriptor.digest, content);
                made.insert(*diff_id, descriptor.clone());
                descriptor
            }
        };
        descriptors.push(descriptor);
    }
    let config_descriptor = Descriptor::new(MediaType::ImageConfig, Digest::of(&config), config.len() as u64);
    contents.insert(config_descriptor.digest, Content::Memory(config.into()));
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(OCI_MANIFEST.into()),
        artifact_type: None,
        config: config_descriptor,
        layers: descriptors,
        subject: None,
        annotations: None,
    };
    let bytes = serde_json::to_vec(&manifest).expect("a manifest has no map with other keys than strings");
    let mut descriptor = Descriptor::new(OCI_MANIFEST.into(), Digest::of(&bytes), bytes.len() as u64);
    descriptor.platform = Some((&parsed.platform()).into());
    Ok((Kind::Made(contents), Fetched { descriptor, bytes, document: Document::Manifest(manifest) }))
}

fn choose<'l>(place: &Place, list: &'l [Listed], entry: &Entry) -> Result<&'l Listed, TransferError> {
    let names = |image: &Listed| image.repo_tags.clone().unwrap_or_default();
    let not_there = |name: String| TransferError::NoEntry {
        place: place.to_string(),
        name,
        there: list.iter().flat_map(names).take(50).collect(),
    };
    match (entry, list) {
        (Entry::Default, [only]) => Ok(only),
        (Entry::Default, []) => {
            Err(TransferError::Broken { place: place.to_string(), reason: "it has no image".to_owned() })
        }
        (Entry::Default, _) => Err(not_there("one image alone".to_owned())),
        (Entry::Named(name), _) => {
            let wanted = Reference::parse(name).ok();
            let is_it = |image: &&Listed| {
                names(image).iter().any(|own| own == name || Reference::parse(own).ok() == wanted)
            };
            list.iter().find(is_it).filter(|_| wanted.is_some()).ok_or_else(|| not_there(name.clone()))
        }
        (Entry::Digest(digest), _) => {
            let is_it = |image: &&Listed| image.config.contains(&digest.hex());
            list.iter().find(is_it).ok_or_else(|| not_there(digest.to_string()))
        }
    }
}

/// The blob of a layer whose bytes have this diffID: compressed as it came, or now.
fn layer(content: &Content, diff_id: DiffId, store: &Store) -> io::Result<(Descriptor, Content)> {
    let mut hasher = Hasher::new();
    let mut plain = compress::decompress(content.reader(0))?;
    let mut piece = vec![0; 256 << 10];
    loop {
        match plain.read(&mut piece)? {
            0 => break,
            read => hasher.update(&piece[..read]),
        }
    }
    let found = DiffId(hasher.finish());
    if found != diff_id {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it is damaged: it has {found}")));
    }
    let format = layer_blobs::format_of_blob(content.reader(0))?;
    let (digest, size, content) = match format {
        "none" => {
            let file = tempfile::tempfile_in(store.path().join("tmp"))?;
            let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
            let (digest, size) = compress::compress(content.reader(0), &file, Compression::GZIP, threads)?;
            (digest.0, size, Content::file(file)?)
        }
        _ => {
            let mut hasher = Hasher::new();
            let mut reader = content.reader(0);
            loop {
                match reader.read(&mut piece)? {
                    0 => break,
                    read => hasher.update(&piece[..read]),
                }
            }
            (hasher.finish(), content.size(), content.clone())
        }
    };
    let media_type = layer_blobs::media_type(if format == "none" { "gzip" } else { format });
    Ok((Descriptor::new(media_type.into(), digest, size), content))
}
