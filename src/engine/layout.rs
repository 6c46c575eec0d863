//! Images of OCI layouts in directories of the person's: `--build-context name=oci-layout://…`.
//!
//! Documents and blobs are read through a handle on the directory, so that no link in it leads out, and
//! are checked against the digests by which they are named. A layer's blob is taken into the store only
//! if the layer is not there yet.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};

use crate::digest::{BlobDigest, Digest, ImageId, LayerIdentity};
use crate::image::{CONFIG_LIMIT, Descriptor, Document, ImageConfig, Index, MANIFEST_LIMIT, Manifest};
use crate::platform::Platform;
use crate::root;
use crate::store::{Lease, StoreError, layer_blobs};

use super::Engine;
use super::pull::{PullError, Remotes, Resolved};

/// An image in a layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The directory.
    pub path: PathBuf,
    pub entry: LayoutEntry,
}

/// Which image of a layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayoutEntry {
    /// The one tagged `latest`, or the only one.
    Default,
    Tag(String),
    Digest(Digest),
}

/// An open layout.
struct Open<'a> {
    layout: &'a Layout,
    root: OwnedFd,
}

impl Open<'_> {
    fn fail(&self, reason: impl std::fmt::Display) -> PullError {
        PullError::Layout { path: self.layout.path.clone(), reason: reason.to_string() }
    }

    fn blob(&self, digest: Digest, limit: u64) -> Result<Vec<u8>, PullError> {
        let bytes = root::read(&self.root, format!("blobs/sha256/{}", digest.hex()), limit)
            .map_err(|error| self.fail(format!("cannot read its blob {digest}: {error}")))?;
        match Digest::of(&bytes) == digest {
            true => Ok(bytes),
            false => Err(self.fail(format!("its blob {digest} is damaged"))),
        }
    }

    fn document(&self, bytes: &[u8], kind: Option<&str>) -> Result<Document, PullError> {
        Document::parse(bytes, kind).map_err(|error| self.fail(error))
    }

    /// The entry of the index that is meant, for the platform.
    fn choose<'i>(&self, index: &'i Index, platform: &Platform) -> Result<&'i Descriptor, PullError> {
        let tag_of = |entry: &'i Descriptor| {
            let annotations = entry.annotations.as_ref()?;
            let name = annotations
                .get("org.opencontainers.image.ref.name")
                .or_else(|| annotations.get("io.containerd.image.name"))?;
            Some(name.rsplit_once(':').map_or(name.as_str(), |(_, tag)| tag))
        };
        let tagged = |tag: &str| -> Vec<&Descriptor> {
            index.manifests.iter().filter(|entry| tag_of(entry) == Some(tag)).collect()
        };
        let found = match &self.layout.entry {
            LayoutEntry::Digest(digest) => {
                index.manifests.iter().filter(|entry| entry.digest == *digest).collect()
            }
            LayoutEntry::Tag(tag) => tagged(tag),
            LayoutEntry::Default => match tagged("latest") {
                none if none.is_empty() => {
                    let mut tags: Vec<_> = index.manifests.iter().map(tag_of).collect();
                    tags.dedup();
                    // Several entries without a name are one image for several platforms.
                    if tags.len() == 1 { index.manifests.iter().collect() } else { Vec::new() }
                }
                latest => latest,
            },
        };
        let of_platform = found.iter().filter_map(|entry| {
            let rank = match &entry.platform {
                Some(stated) => Platform::from(stated).preference(platform)?,
                None => u8::MAX,
            };
            Some((rank, *entry))
        });
        if let Some((_, entry)) = of_platform.min_by_key(|(rank, _)| *rank) {
            return Ok(entry);
        }
        if !found.is_empty() {
            return Err(self.fail(format!("it has no image for {platform}")));
        }
        let what = match &self.layout.entry {
            LayoutEntry::Default => "`latest`".to_owned(),
            LayoutEntry::Tag(tag) => format!("`{tag}`"),
            LayoutEntry::Digest(digest) => digest.to_string(),
        };
        let there: Vec<String> =
            index.manifests.iter().filter_map(tag_of).take(20).map(|tag| format!("`{tag}`")).collect();
        Err(self.fail(match there.is_empty() {
            true => format!("it has no {what}"),
            false => format!("it has no {what}, but {}", there.join(", ")),
        }))
    }

    fn manifest(&self, platform: &Platform) -> Result<(Manifest, Vec<u8>), PullError> {
        let bytes = root::read(&self.root, "index.json", MANIFEST_LIMIT)
            .map_err(|error| self.fail(format!("cannot read its `index.json`: {error}")))?;
        let Document::Index(index) = self.document(&bytes, None)? else {
            return Err(self.fail("its `index.json` is no index"));
        };
        // A digest may be that of something that only an index below names.
        let mut at = match (&self.layout.entry, self.choose(&index, platform)) {
            (LayoutEntry::Digest(digest), Err(_)) => (*digest, None),
            (_, chosen) => {
                let chosen = chosen?;
                (chosen.digest, Some(chosen.media_type.to_string()))
            }
        };
        for _ in 0..4 {
            let bytes = self.blob(at.0, MANIFEST_LIMIT)?;
            match self.document(&bytes, at.1.as_deref())? {
                Document::Manifest(manifest) => return Ok((manifest, bytes)),
                Document::Index(index) => {
                    let chosen = index
                        .select(platform)
                        .ok_or_else(|| self.fail(format!("it has no image for {platform}")))?;
                    at = (chosen.digest, Some(chosen.media_type.to_string()));
                }
            }
        }
        Err(self.fail("it nests indexes too deeply"))
    }
}

impl Engine<'_> {
    /// The image of a layout for a platform, its layers in the store.
    pub(super) fn resolve_layout(
        &self,
        remotes: &Remotes,
        layout: &Layout,
        platform: &Platform,
        lease: &Lease<'_>,
    ) -> Result<Resolved, PullError> {
        let no_layout =
            |error: io::Error| PullError::Layout { path: layout.path.clone(), reason: error.to_string() };
        let open = Open { layout, root: root::open_ambient_dir(&layout.path).map_err(no_layout)? };
        let (manifest, manifest_bytes) = open.manifest(platform)?;
        let config_bytes = open.blob(manifest.config.digest, CONFIG_LIMIT)?;
        let config: ImageConfig = serde_json::from_slice(&config_bytes)
            .map_err(|error| open.fail(format!("its image's config cannot be read: {error}")))?;
        let diff_ids = &config.rootfs.diff_ids;
        if diff_ids.len() != manifest.layers.len() {
            let (layers, ids) = (manifest.layers.len(), diff_ids.len());
            return Err(open.fail(format!("its manifest lists {layers} layers, its config {ids}")));
        }
        self.store.put_blob(&config_bytes)?;
        let manifest_digest = self.store.put_blob(&manifest_bytes)?;
        for (layer, diff_id) in manifest.layers.iter().zip(diff_ids) {
            let blob = BlobDigest(layer.digest);
            let is_here = self.store.find_layers(&[LayerIdentity::of_diff(*diff_id)], lease)?.is_ok();
            if is_here || self.store.claim_blob(blob)? {
                continue;
            }
            let flags = OFlags::RDONLY | OFlags::NONBLOCK;
            let path = format!("blobs/sha256/{}", layer.digest.hex());
            let unreadable = |error: io::Error| open.fail(format!("cannot read its blob {blob}: {error}"));
            let file = File::from(root::open(&open.root, path, flags, Mode::empty()).map_err(unreadable)?);
            if !file.metadata().map_err(unreadable)?.is_file() {
                return Err(open.fail(format!("its blob {blob} is no file")));
            }
            let mut writer = self.store.blob_writer()?;
            io::copy(&mut file.take(layer.size.saturating_add(1)), &mut writer)
                .map_err(StoreError::io("store a blob of", &layout.path))?;
            writer.commit(Some(blob))?;
            let format = layer_blobs::format_of_media_type(layer.media_type.as_ref());
            // Every image that has such a layer would go out with it.
            self.store.check_blob(blob, *diff_id)?;
            self.store.remember_layer_blob(*diff_id, format, blob, layer.size)?;
        }
        let id = ImageId(manifest.config.digest);
        remotes.add(id, diff_ids.clone());
        Ok(Resolved { id, config, manifest: Some(manifest_digest), root: None })
    }
}
