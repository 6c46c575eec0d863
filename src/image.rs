//! Images as documents: descriptors, manifests, indexes and configs.
//!
//! Digests are of bytes, so whoever reads a document keeps the bytes it came as and treats these
//! types as a view of them. Formats: OCI image specification 1.1 (manifest.md, image-index.md,
//! config.md) and Docker's schema 2, which has the same shape under other media types; Docker's
//! additions to the config (`Healthcheck`, `OnBuild`, `Shell`) as in moby's image specification.

use std::collections::BTreeMap;

use oci_spec::image::MediaType;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::digest::{DiffId, Digest, ImageId};
use crate::platform::Platform;

/// The largest manifest or index that is read: the distribution specification asks for 4 MiB.
pub const MANIFEST_LIMIT: u64 = 4 << 20;
/// The largest image config that is read.
pub const CONFIG_LIMIT: u64 = 8 << 20;
/// The most layers an image may have.
pub const LAYER_LIMIT: usize = 5_000;
/// The most entries an index may have.
pub const INDEX_LIMIT: usize = 1_000;

/// A pointer to bytes elsewhere: their digest, size and kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    pub media_type: MediaType,
    pub digest: Digest,
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<DescriptorPlatform>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

impl Descriptor {
    /// A descriptor of `size` bytes with this digest.
    pub fn new(media_type: MediaType, digest: Digest, size: u64) -> Self {
        Self { media_type, digest, size, platform: None, annotations: None, artifact_type: None }
    }

    /// Whether an entry of an index says something about another entry, and is no image: it is for no
    /// platform, or names what it is about. One that states no platform at all is an image.
    pub fn is_attestation(&self) -> bool {
        let nowhere = self.platform.as_ref().is_some_and(|platform| platform.os == "unknown");
        nowhere || self.annotation("vnd.docker.reference.type").is_some()
    }

    /// The annotation of this name.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(name).map(String::as_str)
    }
}

/// The platform as a descriptor in an index states it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescriptorPlatform {
    pub architecture: String,
    pub os: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    #[serde(rename = "os.features", default, skip_serializing_if = "Option::is_none")]
    pub os_features: Option<Vec<String>>,
}

impl From<&Platform> for DescriptorPlatform {
    fn from(platform: &Platform) -> Self {
        Self {
            architecture: platform.architecture().to_owned(),
            os: platform.os().to_owned(),
            variant: platform.variant().map(str::to_owned),
            os_version: None,
            os_features: None,
        }
    }
}

impl From<&DescriptorPlatform> for Platform {
    fn from(platform: &DescriptorPlatform) -> Self {
        Self::new(&platform.os, &platform.architecture, platform.variant.as_deref())
    }
}

/// One image: a config and its layers, lowest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<MediaType>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// Several manifests under one digest, usually one a platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    pub schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<MediaType>,
    pub manifests: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

impl Index {
    /// The entry that serves `platform` best. An entry without a platform serves everyone, after
    /// all that name one; attestations (`unknown/unknown`) serve no one.
    pub fn select(&self, platform: &Platform) -> Option<&Descriptor> {
        self.manifests
            .iter()
            .filter_map(|entry| {
                let rank = match &entry.platform {
                    Some(stated) => Platform::from(stated).preference(platform)?,
                    None => u8::MAX,
                };
                Some((rank, entry))
            })
            .min_by_key(|(rank, _)| *rank)
            .map(|(_, entry)| entry)
    }
}

/// What a manifest's bytes can be.
#[expect(clippy::large_enum_variant, reason = "one exists at a time, and not for long")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    Manifest(Manifest),
    Index(Index),
}

/// Why bytes are neither a manifest nor an index.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    #[error("the manifest is no JSON document of the expected form")]
    Json(#[from] serde_json::Error),
    #[error("the manifest has both `layers` and `manifests`, so what it means depends on the reader")]
    Ambiguous,
    #[error("the manifest has neither `layers` nor `manifests`")]
    Neither,
    #[error("the manifest calls itself `{stated}` but was sent as `{sent}`")]
    Contradiction { stated: String, sent: String },
    #[error("manifests of the kind `{0}` are not supported")]
    Unsupported(String),
    #[error("the manifest names {count} {what}; the limit is {limit}")]
    TooMany { what: &'static str, count: usize, limit: usize },
}

impl Document {
    /// Reads a manifest or an index, whichever the bytes are. `sent` is the media type that came
    /// with them (a Content-Type, a descriptor's mediaType), if any did.
    ///
    /// # Errors
    /// [`DocumentError`]: among others for bytes that one reader takes for a manifest and another
    /// for an index (CVE-2021-41190), and for a stated media type that contradicts `sent`.
    pub fn parse(bytes: &[u8], sent: Option<&str>) -> Result<Self, DocumentError> {
        let value: serde_json::Value = serde_json::from_slice(bytes)?;
        let has = |key: &str| value.get(key).is_some_and(|v| !v.is_null());
        let stated = value.get("mediaType").and_then(|v| v.as_str()).filter(|s| !s.is_empty());
        let sent = sent
            .map(|s| s.split(';').next().unwrap_or(s).trim())
            .filter(|s| is_manifest_type(s) || is_index_type(s));
        if let (Some(stated), Some(sent)) = (stated, sent)
            && stated != sent
        {
            return Err(DocumentError::Contradiction { stated: stated.to_owned(), sent: sent.to_owned() });
        }
        let kind = stated.or(sent);
        match (has("layers") || has("config"), has("manifests")) {
            (true, true) => Err(DocumentError::Ambiguous),
            (true, false) => {
                if let Some(kind) = kind.filter(|kind| !is_manifest_type(kind)) {
                    return Err(DocumentError::Unsupported(kind.to_owned()));
                }
                let manifest: Manifest = serde_json::from_value(value)?;
                at_most("layers", manifest.layers.len(), LAYER_LIMIT)?;
                Ok(Self::Manifest(manifest))
            }
            (false, true) => {
                if let Some(kind) = kind.filter(|kind| !is_index_type(kind)) {
                    return Err(DocumentError::Unsupported(kind.to_owned()));
                }
                let index: Index = serde_json::from_value(value)?;
                at_most("manifests", index.manifests.len(), INDEX_LIMIT)?;
                Ok(Self::Index(index))
            }
            (false, false) if has("fsLayers") => {
                Err(DocumentError::Unsupported("Docker manifest, schema 1".to_owned()))
            }
            (false, false) => Err(DocumentError::Neither),
        }
    }
}

fn at_most(what: &'static str, count: usize, limit: usize) -> Result<(), DocumentError> {
    if count > limit { Err(DocumentError::TooMany { what, count, limit }) } else { Ok(()) }
}

/// OCI's manifest type.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI's index type.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Docker's manifest type, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's name for an index.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// Whether a layer of this type is kept by no registry: its URLs say where it is to be had.
///
/// Source: OCI image specification, layer.md, "Non-Distributable Layers"; Docker's `foreign` layers.
pub fn is_foreign(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.oci.image.layer.nondistributable.")
        || media_type.starts_with("application/vnd.docker.image.rootfs.foreign.")
}

fn is_manifest_type(kind: &str) -> bool {
    matches!(kind, OCI_MANIFEST | DOCKER_MANIFEST)
}

fn is_index_type(kind: &str) -> bool {
    matches!(kind, OCI_INDEX | DOCKER_LIST)
}

/// An image's config: the document whose digest is the image's id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub created: Option<OffsetDateTime>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    #[serde(default)]
    pub architecture: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    #[serde(default)]
    pub os: String,
    #[serde(default, rename = "os.version", skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    #[serde(
        default,
        rename = "os.features",
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub os_features: Vec<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub config: ContainerConfig,
    #[serde(default)]
    pub rootfs: RootFs,
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub history: Vec<History>,
}

impl ImageConfig {
    /// The config of an image from scratch for `platform`.
    pub fn scratch(platform: &Platform) -> Self {
        Self {
            created: None,
            author: None,
            architecture: platform.architecture().to_owned(),
            variant: platform.variant().map(str::to_owned),
            os: platform.os().to_owned(),
            os_version: None,
            os_features: Vec::new(),
            config: ContainerConfig::default(),
            rootfs: RootFs::default(),
            history: Vec::new(),
        }
    }

    /// The platform that the config states.
    pub fn platform(&self) -> Platform {
        Platform::new(&self.os, &self.architecture, self.variant.as_deref())
    }

    /// The config's bytes as they are stored, and the id that they give the image.
    pub fn to_bytes(&self) -> (ImageId, Vec<u8>) {
        let bytes = serde_json::to_vec(self).expect("a config has no map with other keys than strings");
        (ImageId(Digest::of(&bytes)), bytes)
    }
}

/// How containers of an image run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerConfig {
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub user: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub exposed_ports: BTreeMap<String, Empty>,
    /// `NAME=value` each, in the order of their first setting.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub env: Vec<String>,
    #[serde(skip_serializing_if = "lists_nothing")]
    pub entrypoint: Option<Vec<String>>,
    #[serde(skip_serializing_if = "lists_nothing")]
    pub cmd: Option<Vec<String>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub volumes: BTreeMap<String, Empty>,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub working_dir: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub on_build: Vec<String>,
    #[serde(skip_serializing_if = "lists_nothing")]
    pub shell: Option<Vec<String>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub args_escaped: bool,
}

/// An empty list and none are the same, and written the same way: not at all.
fn lists_nothing(list: &Option<Vec<String>>) -> bool {
    list.as_ref().is_none_or(Vec::is_empty)
}

/// `{}`: the value of maps that are sets. Some tools write `null`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Empty {}

impl<'de> Deserialize<'de> for Empty {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde::de::IgnoredAny::deserialize(deserializer).map(|_| Self {})
    }
}

/// HEALTHCHECK. Times are nanoseconds; zero means inherited or default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", args…]` or `["CMD-SHELL", line]`.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub test: Vec<String>,
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: i64,
}

/// The layers by their uncompressed digests, lowest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default, deserialize_with = "null_is_default")]
    pub diff_ids: Vec<DiffId>,
}

impl Default for RootFs {
    fn default() -> Self {
        Self { kind: "layers".to_owned(), diff_ids: Vec::new() }
    }
}

/// One line of `history`: a step that made a layer, or one that changed only the config.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub created: Option<OffsetDateTime>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// Go writes empty lists and maps as `null`.
fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn descriptor(kind: &str) -> String {
        format!(r#"{{"mediaType":"{kind}","digest":"sha256:{HEX}","size":0}}"#)
    }

    #[test]
    fn configs_as_other_tools_write_them() {
        let text = r#"{"architecture":"amd64","os":"linux","os.version":"1.2","os.features":["f"],
            "config":{"Cmd":[],"Entrypoint":[],"Shell":[],"ExposedPorts":{"80/tcp":null},"Volumes":{"/a":{}},
            "Env":null},"rootfs":{"type":"layers","diff_ids":null},"history":null}"#;
        let config: ImageConfig = serde_json::from_str(text).unwrap();
        let written = String::from_utf8(config.to_bytes().1).unwrap();
        for kept in [r#""os.version":"1.2""#, r#""os.features":["f"]"#, r#""80/tcp":{}"#, r#""/a":{}"#] {
            assert!(written.contains(kept), "{kept}: {written}");
        }
        for gone in ["Cmd", "Entrypoint", "Shell", "null"] {
            assert!(!written.contains(gone), "{gone}: {written}");
        }
        let empty: ImageConfig =
            serde_json::from_str(r#"{"config":null,"rootfs":{"type":"layers"}}"#).unwrap();
        assert_eq!(empty.config, ContainerConfig::default());
    }

    #[test]
    fn layers_that_no_registry_keeps() {
        for kind in [
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        ] {
            assert!(is_foreign(kind), "{kind}");
        }
        for kind in [
            "application/vnd.oci.image.layer.v1.tar+gzip",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "application/vnd.example.foreign.thing",
            "",
        ] {
            assert!(!is_foreign(kind), "{kind}");
        }
    }

    #[test]
    fn manifests_and_indexes_are_told_apart() {
        let config = descriptor("application/vnd.oci.image.config.v1+json");
        let manifest = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[]}}"#);
        assert!(matches!(
            Document::parse(manifest.as_bytes(), Some(OCI_MANIFEST)),
            Ok(Document::Manifest(_))
        ));
        assert!(matches!(Document::parse(manifest.as_bytes(), None), Ok(Document::Manifest(_))));
        assert!(matches!(
            Document::parse(manifest.as_bytes(), Some(OCI_INDEX)),
            Err(DocumentError::Unsupported(_))
        ));
        let index = r#"{"schemaVersion":2,"manifests":[]}"#;
        assert!(matches!(Document::parse(index.as_bytes(), None), Ok(Document::Index(_))));
        let both = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[],"manifests":[]}}"#);
        assert!(matches!(Document::parse(both.as_bytes(), None), Err(DocumentError::Ambiguous)));
        let lying = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[]}}"#);
        assert!(matches!(
            Document::parse(lying.as_bytes(), Some(OCI_MANIFEST)),
            Err(DocumentError::Contradiction { .. })
        ));
        for size in ["-1", "1e30", "\"1\""] {
            let bad = manifest.replace("\"size\":0", &format!("\"size\":{size}"));
            assert!(Document::parse(bad.as_bytes(), None).is_err());
        }
    }

    #[test]
    fn configs_of_go_programs_are_read() {
        let config: ImageConfig = serde_json::from_str(
            r#"{"architecture":"amd64","os":"linux","created":"2024-01-02T03:04:05.678Z",
                "config":{"Env":null,"Cmd":["sh"],"Volumes":null,"Labels":null,"OnBuild":null,"Healthcheck":{"Test":["NONE"]}},
                "rootfs":{"type":"layers","diff_ids":null},"history":null}"#,
        )
        .unwrap();
        assert_eq!(config.config.cmd.as_deref(), Some(&["sh".to_owned()][..]));
        assert_eq!(config.platform().to_string(), "linux/amd64");
        let (id, bytes) = config.to_bytes();
        let again: ImageConfig = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(again.to_bytes().0, id);
    }
}
