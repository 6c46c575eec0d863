//! A cache inside the image that was built: the records as one more member of its config.
//!
//! They name no blobs, since the manifest beside the config does: whoever reads them adds those. A
//! config with another member is another image, so the records go into what leaves, and the image in
//! the store stays what it is.

use serde::Deserialize;

use super::records::{Records, RecordsError, is_layer_type};
use crate::image::Manifest;

/// The member of the config.
const MEMBER: &str = "vnd.stave.cache.records.v1";
/// The most bytes of records that a config takes: half of what is read of one.
pub const INLINE_LIMIT: usize = 4 << 20;

/// What of a cache is in an image's config.
#[derive(Debug)]
pub enum Inline {
    Records(Records),
    /// Only BuildKit's, which says nothing to us.
    BuildKit,
    Nothing,
}

#[derive(Deserialize)]
struct Members {
    #[serde(rename = "vnd.stave.cache.records.v1")]
    ours: Option<serde_json::Value>,
    #[serde(rename = "moby.buildkit.cache.v0")]
    buildkits: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    rootfs: crate::image::RootFs,
}

/// The bytes of a config with these records in it; nothing if they are too many for that.
pub fn embed(config: &[u8], records: &Records) -> Option<Vec<u8>> {
    let json = Records { layers: Default::default(), ..records.clone() }.to_json();
    let open = config.strip_suffix(b"}").filter(|_| json.len() <= INLINE_LIMIT)?;
    let comma = if open.ends_with(b"{") { "" } else { "," };
    Some([open, comma.as_bytes(), b"\"", MEMBER.as_bytes(), b"\":", &json, b"}"].concat())
}

/// Reads the records in an image's config, with the layers of its manifest.
///
/// # Errors
/// [`RecordsError`] for records that make no sense, and a config that is none.
pub fn extract(config: &[u8], manifest: &Manifest) -> Result<Inline, RecordsError> {
    let members: Members = serde_json::from_slice(config)?;
    let Some(value) = members.ours else {
        return Ok(if members.buildkits.is_some() { Inline::BuildKit } else { Inline::Nothing });
    };
    let mut records = Records::parse(value.to_string().as_bytes())?;
    let diff_ids = &members.rootfs.diff_ids;
    // An image whose config and manifest differ in what they list has records, but no blobs.
    if diff_ids.len() == manifest.layers.len() {
        for (diff_id, layer) in diff_ids.iter().zip(&manifest.layers) {
            if is_layer_type(layer.media_type.as_ref()) {
                let mut blob = layer.clone();
                blob.annotations = None;
                records.layers.insert(*diff_id, vec![blob]);
            }
        }
    }
    Ok(Inline::Records(records))
}

/// What the person is told of an image that has only BuildKit's cache.
pub(super) const BUILDKIT_NOTE: &str =
    "it is a cache of BuildKit, which names steps in another way; export one with `stave build --cache-to`";

#[cfg(test)]
mod tests {
    use super::*;

    const BUILDKIT_MEMBER: &str = "moby.buildkit.cache.v0";

    #[test]
    fn the_members_are_called_what_they_are_called() {
        // Names in attributes cannot be constants.
        for name in [MEMBER, BUILDKIT_MEMBER] {
            let config = format!(r#"{{"rootfs":{{"type":"layers","diff_ids":[]}},"{name}":{{}}}}"#);
            let manifest = serde_json::from_str::<Manifest>(
                r#"{"schemaVersion":2,"config":{"mediaType":"a/b","size":0,"digest":
                "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},"layers":[]}"#,
            )
            .unwrap();
            let found = extract(config.as_bytes(), &manifest);
            assert!(!matches!(found, Ok(Inline::Nothing)), "{name}");
        }
    }

    #[test]
    fn a_config_keeps_what_it_had() {
        let config = crate::image::ImageConfig::scratch(&crate::platform::Platform::host()).to_bytes().1;
        let with = embed(&config, &Records::default()).unwrap();
        let text = String::from_utf8(with.clone()).unwrap();
        assert!(text.starts_with(std::str::from_utf8(&config).unwrap().trim_end_matches('}')), "{text}");
        let read: crate::image::ImageConfig = serde_json::from_slice(&with).unwrap();
        assert_eq!(read.to_bytes().1, config);
        assert_eq!(embed(b"{}", &Records::default()).unwrap()[..2], *b"{\"");
    }
}
