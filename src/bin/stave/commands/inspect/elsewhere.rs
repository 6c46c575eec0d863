//! Images where they are: at registries, in layouts and archives. Nothing but documents is read.

use serde_json::{Value, json};
use stave::diagnostic::printable;
use stave::image::{CONFIG_LIMIT, Document, ImageConfig, Manifest};
use stave::platform::Platform;
use stave::registry::Fetched;
use stave::transfer::{Origin, Place, Tools};

use super::super::remote::failure;
use crate::failure::Failure;

/// What of an image is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All that is known of it.
    Everything,
    /// The manifest or index, as its bytes are.
    Manifest,
    /// The config, as its bytes are.
    Config,
}

/// What `inspect` gives of an image.
pub enum Seen {
    Object(Value),
    Bytes(Vec<u8>),
}

/// Reads an image where it is.
pub async fn inspect(
    tools: &Tools<'_>,
    place: &Place,
    platform: Option<&Platform>,
    part: Part,
) -> Result<Seen, Failure> {
    let origin = match Origin::open(tools, place, platform).await {
        Ok(origin) => origin,
        Err(error) => return Err(failure(tools, place, error).await),
    };
    if part == Part::Manifest {
        return Ok(Seen::Bytes(origin.root.bytes.clone()));
    }
    let image = match &origin.root.document {
        Document::Manifest(_) => Some(origin.root.clone()),
        Document::Index(index) => match index.select(&Platform::host()) {
            Some(entry) => Some(origin.find(entry).await?),
            None => None,
        },
    };
    let image = image.as_ref().and_then(|found| match &found.document {
        Document::Manifest(manifest) => Some((found, manifest)),
        Document::Index(_) => None,
    });
    if part == Part::Config {
        let Some((_, manifest)) = image else {
            return Err(Failure::new(format!("`{place}` has no image for this machine"))
                .hint("--platform chooses one of those that it has"));
        };
        return Ok(Seen::Bytes(origin.small_blob(&manifest.config, CONFIG_LIMIT).await?));
    }
    let root = &origin.root;
    let mut object = json!({
        "Name": place.to_string(),
        "Digest": root.descriptor.digest,
        "MediaType": root.descriptor.media_type,
    });
    if let Some((found, manifest)) = image {
        describe(&mut object, &origin, found, manifest).await?;
    }
    if let Document::Index(index) = &root.document {
        let entries = index.manifests.iter().map(|entry| {
            let platform = entry.platform.as_ref().map(|platform| Platform::from(platform).to_string());
            json!({ "Platform": platform, "Manifest": entry.digest, "Size": entry.size })
        });
        object["Platforms"] = entries.collect();
    }
    Ok(Seen::Object(object))
}

/// Adds what a manifest and its config say, under the names that `inspect` has for images of the store.
async fn describe(
    object: &mut Value,
    origin: &Origin<'_>,
    found: &Fetched,
    manifest: &Manifest,
) -> Result<(), Failure> {
    object["Manifest"] = json!(found.descriptor.digest);
    object["Id"] = json!(manifest.config.digest);
    object["Size"] = json!(manifest.layers.iter().fold(0_u64, |sum, layer| sum.saturating_add(layer.size)));
    object["Layers"] = json!(manifest.layers);
    object["Annotations"] = json!(manifest.annotations);
    if let Some(kind) = &manifest.artifact_type {
        object["ArtifactType"] = json!(printable(kind));
    }
    // The config of an artifact is anything at all.
    let kind = manifest.config.media_type.to_string();
    if !(kind.ends_with("image.config.v1+json") || kind.ends_with("container.image.v1+json")) {
        return Ok(());
    }
    let bytes = origin.small_blob(&manifest.config, CONFIG_LIMIT).await?;
    let raw: Value = serde_json::from_slice(&bytes).map_err(Failure::new)?;
    let config: ImageConfig = serde_json::from_slice(&bytes).map_err(Failure::new)?;
    for (name, value) in [
        ("Created", &raw["created"]),
        ("Author", &raw["author"]),
        ("Config", &raw["config"]),
        ("History", &raw["history"]),
    ] {
        object[name] = value.clone();
    }
    object["Architecture"] = json!(config.architecture);
    object["Variant"] = json!(config.variant);
    object["Os"] = json!(config.os);
    object["RootFS"] = json!({ "Type": "layers", "Layers": config.rootfs.diff_ids });
    Ok(())
}
