//! The same images in OCI's words or in Docker's. Blobs stay what they are; documents, and with them digests,
//! do not.
//!
//! What the other side has no words for stays as it is (attestations, artifacts), and what it could not read
//! is an error (zstd, for which Docker has none).

use std::collections::HashMap;

use serde_json::Value;

use crate::digest::Digest;
use crate::image::{DOCKER_LIST, DOCKER_MANIFEST, Descriptor, Document, OCI_INDEX, OCI_MANIFEST};
use crate::registry::Fetched;

use super::graph::Graph;

/// Whose words documents are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Oci,
    Docker,
}

/// OCI's name and Docker's of one thing.
const NAMES: [(&str, &str); 7] = [
    (OCI_MANIFEST, DOCKER_MANIFEST),
    (OCI_INDEX, DOCKER_LIST),
    ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"),
    ("application/vnd.oci.image.layer.v1.tar", "application/vnd.docker.image.rootfs.diff.tar"),
    ("application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.docker.image.rootfs.diff.tar.gzip"),
    (
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
    ),
    (
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ),
];

const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// What an entry of an index says it is about.
const ABOUT: &str = "vnd.docker.reference.digest";

impl Format {
    /// The name of a media type, if it is one of an image's.
    fn name(self, kind: &str) -> Option<&'static str> {
        let (oci, docker) = NAMES.into_iter().find(|(oci, docker)| kind == *oci || kind == *docker)?;
        Some(match self {
            Self::Oci => oci,
            Self::Docker => docker,
        })
    }
}

/// Has all images and indexes of a graph in these words.
///
/// # Errors
/// Why one cannot be.
pub(super) fn convert(graph: Graph, format: Format) -> Result<Graph, String> {
    let Graph { mut levels, blobs, foreign } = graph;
    let mut changed: HashMap<Digest, Descriptor> = HashMap::new();
    for level in levels.iter_mut().rev() {
        for found in level {
            let before = found.descriptor.digest;
            if let Some(after) = rewritten(found, format, &changed)? {
                *found = after;
                changed.insert(before, found.descriptor.clone());
            }
        }
    }
    Ok(Graph { levels, blobs, foreign })
}

/// A document in other words; none if it is in these, or has to stay as it is.
fn rewritten(
    found: &Fetched,
    format: Format,
    changed: &HashMap<Digest, Descriptor>,
) -> Result<Option<Fetched>, String> {
    let mut json: Value = serde_json::from_slice(&found.bytes).map_err(|error| error.to_string())?;
    match &found.document {
        Document::Manifest(manifest) => {
            let kinds: Vec<String> = manifest
                .layers
                .iter()
                .chain([&manifest.config])
                .map(|blob| blob.media_type.to_string())
                .collect();
            if format == Format::Docker && kinds.iter().any(|kind| kind == ZSTD) {
                return Err("Docker's media types have no word for layers of zstd".to_owned());
            }
            let is_image = kinds.iter().all(|kind| format.name(kind).is_some());
            if !is_image || manifest.subject.is_some() || manifest.artifact_type.is_some() {
                return Ok(None);
            }
            rename(&mut json["config"], format);
            json["layers"].as_array_mut().into_iter().flatten().for_each(|layer| rename(layer, format));
        }
        Document::Index(_) => {
            for entry in json["manifests"].as_array_mut().into_iter().flatten() {
                let new = |text: &Value| changed.get(&Digest::parse(text.as_str()?).ok()?);
                if let Some(new) = new(&entry["annotations"][ABOUT]) {
                    entry["annotations"][ABOUT] = new.digest.to_string().into();
                }
                if let Some(new) = new(&entry["digest"]) {
                    entry["digest"] = new.digest.to_string().into();
                    entry["size"] = new.size.into();
                    entry["mediaType"] = new.media_type.to_string().into();
                }
            }
        }
    }
    let kind = format.name(found.descriptor.media_type.as_ref()).unwrap_or(OCI_MANIFEST);
    json["mediaType"] = kind.into();
    if format == Format::Docker
        && let Some(members) = json.as_object_mut()
    {
        // Docker's documents have none.
        members.remove("annotations");
    }
    let bytes = json.to_string().into_bytes();
    if kind == found.descriptor.media_type.to_string()
        && serde_json::from_slice::<Value>(&found.bytes).is_ok_and(|old| old == json)
    {
        return Ok(None);
    }
    let document = Document::parse(&bytes, Some(kind)).map_err(|error| error.to_string())?;
    let descriptor = Descriptor {
        media_type: kind.into(),
        digest: Digest::of(&bytes),
        size: bytes.len() as u64,
        ..found.descriptor.clone()
    };
    Ok(Some(Fetched { descriptor, bytes, document }))
}

fn rename(descriptor: &mut Value, format: Format) {
    if let Some(name) = descriptor["mediaType"].as_str().and_then(|kind| format.name(kind)) {
        descriptor["mediaType"] = name.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(json: &Value) -> Fetched {
        let bytes = json.to_string().into_bytes();
        let kind = json["mediaType"].as_str().unwrap();
        let document = Document::parse(&bytes, Some(kind)).unwrap();
        Fetched {
            descriptor: Descriptor::new(kind.into(), Digest::of(&bytes), bytes.len() as u64),
            bytes,
            document,
        }
    }

    fn blob(kind: &str) -> Value {
        json!({ "mediaType": kind, "digest": Digest::of(b""), "size": 0, "urls": ["http://r.example"] })
    }

    fn image(layer: &str) -> Value {
        json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "annotations": { "a": "b" },
            "config": blob(NAMES[2].0), "layers": [blob(layer)],
        })
    }

    fn graph(levels: &[&[Value]]) -> Graph {
        let levels = levels.iter().map(|level| level.iter().map(found).collect()).collect();
        Graph { levels, blobs: Vec::new(), foreign: 0 }
    }

    fn entry(of: &Value) -> Value {
        serde_json::to_value(found(of).descriptor).unwrap()
    }

    #[test]
    fn there_and_back() {
        let image = image(NAMES[6].0);
        let mut attestation = image.clone();
        attestation["layers"] = json!([blob("application/vnd.in-toto+json")]);
        let mut about = entry(&attestation);
        about["annotations"] = json!({ ABOUT: found(&image).descriptor.digest });
        let index = json!({
            "schemaVersion": 2, "mediaType": OCI_INDEX, "annotations": { "a": "b" }, "manifests": [entry(&image), about],
        });
        let docker =
            convert(graph(&[&[index], &[image.clone(), attestation.clone()]]), Format::Docker).unwrap();
        let parsed = |found: &Fetched| -> Value { serde_json::from_slice(&found.bytes).unwrap() };
        let (list, manifest) = (parsed(docker.root()), parsed(&docker.levels[1][0]));
        assert_eq!(
            (&list["mediaType"], &manifest["mediaType"]),
            (&json!(DOCKER_LIST), &json!(DOCKER_MANIFEST))
        );
        assert_eq!(manifest["layers"][0]["mediaType"], NAMES[6].1);
        assert_eq!(manifest["layers"][0]["urls"][0], "http://r.example", "what we do not know stays");
        assert_eq!((&list["annotations"], &manifest["annotations"]), (&Value::Null, &Value::Null));
        let digest = json!(docker.levels[1][0].descriptor.digest);
        assert_eq!(
            (&list["manifests"][0]["digest"], &list["manifests"][1]["annotations"][ABOUT]),
            (&digest, &digest)
        );
        assert_eq!(parsed(&docker.levels[1][1]), attestation);
        let oci = convert(docker, Format::Oci).unwrap();
        let mut bare = image;
        bare.as_object_mut().unwrap().remove("annotations");
        assert_eq!(parsed(&oci.levels[1][0]), bare);
        // What is in these words already keeps its bytes.
        let again = convert(oci.clone(), Format::Oci).unwrap();
        assert_eq!(again.root(), oci.root());
    }

    #[test]
    fn docker_has_no_word_for_zstd() {
        let error = convert(graph(&[&[image(ZSTD)]]), Format::Docker).unwrap_err();
        assert!(error.contains("zstd"), "{error}");
        assert!(convert(graph(&[&[image(ZSTD)]]), Format::Oci).is_ok());
    }
}
