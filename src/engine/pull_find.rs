//! What a name stands for at its registry, and whether that is an image, for as few bytes as that takes.
//!
//! Documents that are here already are not sent again: a name that was asked for before is asked by HEAD
//! alone, which Docker Hub does not count. Whether a repository has what a digest names is always asked,
//! for the store knows the documents of all repositories, and not each may be read under every name.

use crate::diagnostic::printable;
use crate::digest::{BlobDigest, Digest};
use crate::image::{CONFIG_LIMIT, Document, MANIFEST_LIMIT, Manifest};
use crate::platform::Platform;
use crate::reference::Reference;

use super::Engine;
use super::pull::PullError;

/// The manifest for a platform.
pub(super) struct Found {
    pub manifest: Manifest,
    pub digest: BlobDigest,
    /// What the name itself stands for: this manifest, or the index that names it.
    pub root: Digest,
}

impl Engine<'_> {
    /// The manifest for a platform, through at most a few indexes; all of their bytes are kept.
    pub(super) async fn find_manifest(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Found, PullError> {
        let mut at = reference.clone();
        let mut root = None;
        for _ in 0..4 {
            let (document, digest) = self.document(&at, platform).await?;
            let root = *root.get_or_insert(digest.0);
            match document {
                Document::Manifest(manifest) => {
                    check_is_image(reference, &manifest)?;
                    return Ok(Found { manifest, digest, root });
                }
                Document::Index(index) => match index.select(platform) {
                    Some(entry) => at = reference.with_digest(entry.digest),
                    None => {
                        let there = index
                            .manifests
                            .iter()
                            .filter_map(|entry| entry.platform.as_ref())
                            .map(|platform| Platform::from(platform).to_string())
                            .collect();
                        return Err(PullError::Platform {
                            reference: reference.familiar(),
                            platform: platform.clone(),
                            there,
                        });
                    }
                },
            }
        }
        Err(PullError::Nested { reference: reference.familiar() })
    }

    /// What a name stands for; its bytes are in the store then.
    async fn document(
        &self,
        at: &Reference,
        platform: &Platform,
    ) -> Result<(Document, BlobDigest), PullError> {
        let known = match at.digest() {
            Some(digest) => self.store.has_blob(BlobDigest(digest)),
            None => self.store.pinned(at, platform)?.is_some(),
        };
        if known {
            let digest = BlobDigest(self.registry.resolve(at).await?.digest);
            if self.store.claim_blob(digest)?
                && let Ok(bytes) = self.store.read_blob(digest, MANIFEST_LIMIT)
                && let Ok(document) = Document::parse(&bytes, None)
            {
                return Ok((document, digest));
            }
        }
        let fetched = self.registry.manifest(at).await?;
        Ok((fetched.document, self.store.put_blob(&fetched.bytes)?))
    }

    /// The config that a manifest names.
    pub(super) async fn find_config(
        &self,
        reference: &Reference,
        manifest: &Manifest,
    ) -> Result<Vec<u8>, PullError> {
        let digest = BlobDigest(manifest.config.digest);
        if self.store.claim_blob(digest)?
            && let Ok(bytes) = self.store.read_blob(digest, CONFIG_LIMIT)
            && bytes.len() as u64 == manifest.config.size
        {
            return Ok(bytes);
        }
        Ok(self.registry.config(reference, manifest).await?)
    }

    /// The tags of a repository.
    ///
    /// # Errors
    /// [`PullError::Registry`].
    pub fn tags_of(&self, repository: &Reference) -> Result<Vec<String>, PullError> {
        Ok(self.wait(self.registry.tags(repository, None))??)
    }
}

/// Refuses a manifest that is not of an image with layers of files: charts, signatures, attestations and
/// whatever else registries hold.
pub(super) fn check_is_image(reference: &Reference, manifest: &Manifest) -> Result<(), PullError> {
    let refuse = |kind: &str| {
        let kind = printable(&kind.chars().take(200).collect::<String>());
        Err(PullError::NotAnImage { reference: reference.familiar(), kind })
    };
    let config = manifest.config.media_type.to_string();
    if !is_config(&config) {
        return refuse(manifest.artifact_type.as_deref().filter(|kind| !kind.is_empty()).unwrap_or(&config));
    }
    for layer in &manifest.layers {
        let kind = layer.media_type.to_string();
        if !is_layer(&kind) {
            return refuse(&kind);
        }
    }
    Ok(())
}

/// Whether configs of images go by this type. Docker takes the last ones too, which registries made of
/// it once (distribution/distribution#1621).
fn is_config(kind: &str) -> bool {
    matches!(
        kind,
        "application/vnd.oci.image.config.v1+json"
            | "application/vnd.docker.container.image.v1+json"
            | "application/octet-stream"
            | "application/json"
            | "text/html"
            | ""
    )
}

/// Whether a blob of this type can be unpacked. The bytes tell how it is compressed.
fn is_layer(kind: &str) -> bool {
    let tar = kind.contains(".tar") || kind.ends_with("/tar") || kind.contains("/tar+");
    matches!(kind, "" | "application/octet-stream" | "application/x-gzip" | "application/gzip")
        || (tar && !kind.contains("encrypted"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_of_configs_and_layers() {
        for kind in ["application/vnd.oci.image.config.v1+json", "application/octet-stream"] {
            assert!(is_config(kind), "{kind}");
        }
        for kind in ["application/vnd.oci.empty.v1+json", "application/vnd.cncf.helm.config.v1+json"] {
            assert!(!is_config(kind), "{kind}");
        }
        for kind in [
            "application/vnd.oci.image.layer.v1.tar",
            "application/vnd.oci.image.layer.v1.tar+zstd",
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        ] {
            assert!(is_layer(kind), "{kind}");
        }
        for kind in [
            "application/vnd.in-toto+json",
            "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
            "application/vnd.oci.empty.v1+json",
            "application/vnd.wasm.content.layer.v1+wasm",
        ] {
            assert!(!is_layer(kind), "{kind}");
        }
    }
}
