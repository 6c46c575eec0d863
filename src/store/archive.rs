//! Images out of archives: `docker save`'s format and OCI layouts, in a tar that may be compressed;
//! and `import`, a bare root file system.
//!
//! The archive is read once, as a stream. Everything that may be a blob goes into the blob store
//! under the digest that it really has; the few documents that say what is what stay in memory. An
//! archive that is both is read as the layout. Names that members have never become paths here.

use std::collections::HashMap;
use std::io::{Read, Write};

use super::lease::Lease;
use super::{Store, StoreError, StoreError::Archive, compress, images, layer_blobs};
use crate::digest::{BlobDigest, DiffId, Digest, Hasher, ImageId};
use crate::image::{
    CONFIG_LIMIT, Descriptor, Document, History, INDEX_LIMIT, Index, MANIFEST_LIMIT, Manifest,
};
use crate::platform::Platform;
use crate::reference::Reference;

/// An image that an archive brought, and the names it brought with it.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub id: ImageId,
    pub names: Vec<Reference>,
    /// Images that these names pointed at until now.
    pub replaced: Vec<(Reference, ImageId)>,
}

/// Which images of an archive are wanted, where one name has several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// The one that serves this platform.
    One(Platform),
    /// All that are there; this platform's is the one that is taken where nobody says which.
    All { main: Platform },
}

impl Wanted {
    fn main(&self) -> &Platform {
        match self {
            Self::One(platform) | Self::All { main: platform } => platform,
        }
    }
}

/// An image, or an index of several, that an archive brought.
#[derive(Debug)]
struct Found {
    id: ImageId,
    names: Vec<Reference>,
    index: Option<FoundIndex>,
}

/// An index, and its images with their manifests.
type FoundIndex = (BlobDigest, Vec<(ImageId, BlobDigest)>);

/// The members of an archive: documents by name, everything else as blobs.
#[derive(Debug, Default)]
struct Members {
    documents: HashMap<String, Vec<u8>>,
    blobs: HashMap<String, (BlobDigest, u64)>,
    links: HashMap<String, String>,
}

impl Members {
    /// The blob that member `name` is, links followed.
    fn blob(&self, name: &str) -> Option<(BlobDigest, u64)> {
        let mut name = normal(name);
        for _ in 0..8 {
            if let Some(found) = self.blobs.get(&name) {
                return Some(*found);
            }
            name = self.links.get(&name)?.clone();
        }
        None
    }
}

const DOCUMENT_LIMIT: u64 = 16 << 20;
const MEMBER_LIMIT: usize = 200_000;

impl Store {
    /// Loads the images of an archive that are wanted, and names them as the archive does.
    ///
    /// # Errors
    /// [`StoreError::Archive`] if it is no image archive or lacks a part, and as
    /// [`Store::unpack`]; then no name was changed.
    pub fn load(
        &self,
        archive: impl Read + Send + 'static,
        wanted: &Wanted,
    ) -> Result<Vec<Loaded>, StoreError> {
        let members = self.read_members(archive)?;
        let lease = self.lease()?;
        let found = if let Some(index) = members.documents.get("index.json") {
            self.load_layout(&members, index, wanted, &lease)?
        } else if let Some(list) = members.documents.get("manifest.json") {
            self.load_docker(&members, list, &lease)?
        } else {
            return Err(Archive(
                "the archive holds no image: it has neither `index.json` (OCI layout) nor `manifest.json` \
                 (docker archive); for a root file system use `stave import`"
                    .to_owned(),
            ));
        };
        let mut loaded = Vec::new();
        for Found { id, names, index } in found {
            let image =
                self.image(id)?.ok_or_else(|| Archive(format!("image {id} was removed meanwhile")))?;
            self.sync_layers(&image.diff_ids)?;
            let mut replaced = Vec::new();
            for name in &names {
                let before = match &index {
                    Some((index, members)) => self.tag_index(name, *index, members, wanted.main())?,
                    None => self.tag(name, id)?,
                };
                if let Some(before) = before {
                    replaced.push((name.clone(), before));
                }
            }
            loaded.push(Loaded { id, names, replaced });
        }
        Ok(loaded)
    }

    fn read_members(&self, archive: impl Read + Send + 'static) -> Result<Members, StoreError> {
        let unreadable = |error: std::io::Error| Archive(format!("cannot read the archive: {error}"));
        let plain = compress::decompress(archive).map_err(unreadable)?;
        let mut archive = tar::Archive::new(plain);
        let mut members = Members::default();
        for (number, entry) in archive.entries().map_err(unreadable)?.enumerate() {
            if number >= MEMBER_LIMIT {
                return Err(Archive(format!("the archive has more than {MEMBER_LIMIT} members")));
            }
            let mut entry = entry.map_err(unreadable)?;
            let name = normal(&String::from_utf8_lossy(&entry.path_bytes()));
            match entry.header().entry_type() {
                tar::EntryType::Regular | tar::EntryType::Continuous => {
                    let document = matches!(
                        name.as_str(),
                        "index.json" | "manifest.json" | "oci-layout" | "repositories"
                    );
                    if document {
                        let mut bytes = Vec::new();
                        entry.take(DOCUMENT_LIMIT + 1).read_to_end(&mut bytes).map_err(unreadable)?;
                        if bytes.len() as u64 > DOCUMENT_LIMIT {
                            return Err(Archive(format!("`{name}` is longer than {DOCUMENT_LIMIT} bytes")));
                        }
                        members.documents.insert(name, bytes);
                    } else {
                        let mut writer = self.blob_writer()?;
                        std::io::copy(&mut entry, &mut writer).map_err(unreadable)?;
                        let named = name.strip_prefix("blobs/sha256/").and_then(Digest::from_hex);
                        members.blobs.insert(name, writer.commit(named.map(BlobDigest))?);
                    }
                }
                tar::EntryType::Symlink | tar::EntryType::Link => {
                    let target = entry.link_name_bytes().unwrap_or_default();
                    let target = String::from_utf8_lossy(&target).into_owned();
                    let hard = entry.header().entry_type() == tar::EntryType::Link;
                    let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
                    let target = if hard { normal(&target) } else { normal(&format!("{folder}/{target}")) };
                    members.links.insert(name, target);
                }
                _ => {}
            }
        }
        Ok(members)
    }

    fn load_layout(
        &self,
        members: &Members,
        index: &[u8],
        wanted: &Wanted,
        lease: &Lease<'_>,
    ) -> Result<Vec<Found>, StoreError> {
        let platform = wanted.main();
        let Document::Index(index) = Document::parse(index, None)? else {
            return Err(Archive("`index.json` is no index".to_owned()));
        };
        let repo_tags = repo_tags(members);
        let mut found: Vec<Found> = Vec::new();
        let mut unnamed = Vec::new();
        for entry in &index.manifests {
            let names: Vec<Reference> = entry
                .annotation("io.containerd.image.name")
                .into_iter()
                .map(name_of)
                .collect::<Result<_, _>>()?;
            if names.is_empty() && entry.platform.as_ref().is_some_and(|p| p.os == "unknown") {
                continue;
            }
            unnamed.push((entry, names));
        }
        // Several entries without names are one image for several platforms.
        let flat = unnamed.iter().all(|(_, names)| names.is_empty()) && unnamed.len() > 1;
        if flat {
            let chosen = index.select(platform).ok_or_else(|| no_platform(platform, &index))?;
            unnamed.retain(|(entry, _)| *entry == chosen);
        }
        for (entry, mut names) in unnamed {
            let index = match wanted {
                Wanted::All { .. } => self.load_index(members, entry, lease)?,
                Wanted::One(_) => None,
            };
            let image = match &index {
                Some((_, images)) => self.main_of(images, platform)?,
                None => self.load_descriptor(members, entry, platform, lease)?,
            };
            if names.is_empty() {
                names = repo_tags.get(&image.0).cloned().unwrap_or_default();
            }
            if names.is_empty() {
                names.extend(ref_name(entry));
            }
            match found.iter_mut().find(|one| one.id == image && one.index == index) {
                Some(one) => one.names.append(&mut names),
                None => found.push(Found { id: image, names, index }),
            }
        }
        if found.is_empty() {
            return Err(Archive("the layout's index names no image".to_owned()));
        }
        Ok(found)
    }

    /// Loads all images of an index, if it is one and all that it names is in the archive.
    fn load_index(
        &self,
        members: &Members,
        descriptor: &Descriptor,
        lease: &Lease<'_>,
    ) -> Result<Option<FoundIndex>, StoreError> {
        let has = |digest: &Digest| members.blob(&format!("blobs/sha256/{}", digest.hex())).is_some();
        if !has(&descriptor.digest) {
            return Ok(None);
        }
        let digest = BlobDigest(descriptor.digest);
        let bytes = self.read_blob(digest, MANIFEST_LIMIT)?;
        let Document::Index(index) = Document::parse(&bytes, Some(descriptor.media_type.as_ref()))? else {
            return Ok(None);
        };
        let mut manifests = Vec::with_capacity(index.manifests.len());
        for entry in &index.manifests {
            if !has(&entry.digest) {
                return Ok(None);
            }
            let bytes = self.read_blob(BlobDigest(entry.digest), MANIFEST_LIMIT)?;
            match Document::parse(&bytes, Some(entry.media_type.as_ref()))? {
                Document::Manifest(manifest)
                    if manifest.layers.iter().chain([&manifest.config]).all(|blob| has(&blob.digest)) =>
                {
                    manifests.push((entry, manifest));
                }
                Document::Manifest(_) | Document::Index(_) => return Ok(None),
            }
        }
        let mut images = Vec::with_capacity(manifests.len());
        for (entry, manifest) in manifests {
            // Attestations are kept with the index, but are no images.
            if !entry.is_attestation() {
                let manifest_digest = BlobDigest(entry.digest);
                let image = self.load_manifest(members, manifest_digest, &manifest, lease)?;
                images.push((image, manifest_digest));
            }
        }
        Ok((!images.is_empty()).then_some((digest, images)))
    }

    /// The image of several that serves a platform best, or the first.
    fn main_of(&self, images: &[(ImageId, BlobDigest)], platform: &Platform) -> Result<ImageId, StoreError> {
        let mut best = (u16::MAX, images[0].0);
        for (id, _) in images {
            let found = self.image(*id)?;
            let rank =
                found.and_then(|image| image.platform.preference(platform)).map_or(u16::MAX, u16::from);
            if rank < best.0 {
                best = (rank, *id);
            }
        }
        Ok(best.1)
    }

    /// Loads what a descriptor of an index points at; an index below it is resolved for `platform`.
    fn load_descriptor(
        &self,
        members: &Members,
        descriptor: &Descriptor,
        platform: &Platform,
        lease: &Lease<'_>,
    ) -> Result<ImageId, StoreError> {
        let mut descriptor = descriptor.clone();
        // An index of indexes is legal; a chain of them is somebody's joke.
        for _ in 0..4 {
            let digest = BlobDigest(descriptor.digest);
            if members.blob(&format!("blobs/sha256/{}", digest.0.hex())).is_none() {
                return Err(Archive(format!("the layout lacks its manifest {digest}")));
            }
            let bytes = self.read_blob(digest, MANIFEST_LIMIT)?;
            match Document::parse(&bytes, Some(descriptor.media_type.as_ref()))? {
                Document::Manifest(manifest) => return self.load_manifest(members, digest, &manifest, lease),
                Document::Index(index) => {
                    descriptor = index.select(platform).ok_or_else(|| no_platform(platform, &index))?.clone();
                }
            }
        }
        Err(Archive("the layout nests indexes too deeply".to_owned()))
    }

    fn load_manifest(
        &self,
        members: &Members,
        digest: BlobDigest,
        manifest: &Manifest,
        lease: &Lease<'_>,
    ) -> Result<ImageId, StoreError> {
        let member = |descriptor: &Descriptor| {
            members
                .blob(&format!("blobs/sha256/{}", descriptor.digest.hex()))
                .filter(|(_, size)| *size == descriptor.size)
                .map(|(blob, _)| blob)
                .ok_or_else(|| {
                    Archive(format!("the layout lacks {}, or has it in another size", descriptor.digest))
                })
        };
        let config = self.read_blob(member(&manifest.config)?, CONFIG_LIMIT)?;
        let parsed = images::parse_config(&config)?;
        if parsed.rootfs.diff_ids.len() != manifest.layers.len() {
            return Err(Archive(format!(
                "the manifest {digest} has {} layers, its config {}",
                manifest.layers.len(),
                parsed.rootfs.diff_ids.len()
            )));
        }
        for (layer, diff_id) in manifest.layers.iter().zip(&parsed.rootfs.diff_ids) {
            let blob = member(layer)?;
            let format = layer_blobs::format_of_media_type(layer.media_type.as_ref());
            self.unpack_claimed(*diff_id, format, blob, layer.size, lease)?;
        }
        Ok(self.put_image(&config, Some(digest))?.id)
    }

    fn load_docker(
        &self,
        members: &Members,
        list: &[u8],
        lease: &Lease<'_>,
    ) -> Result<Vec<Found>, StoreError> {
        let entries = docker_entries(list)?;
        let mut found = Vec::new();
        for entry in &entries {
            let lacks =
                |what: &str| Archive(format!("the archive lacks `{what}`, which `manifest.json` names"));
            let (config, _) = members.blob(&entry.config).ok_or_else(|| lacks(&entry.config))?;
            let config = self.read_blob(config, CONFIG_LIMIT)?;
            let parsed = images::parse_config(&config)?;
            if parsed.rootfs.diff_ids.len() != entry.layers.len() {
                return Err(Archive(format!(
                    "`{}` and `manifest.json` differ in their layers",
                    entry.config
                )));
            }
            for (name, diff_id) in entry.layers.iter().zip(&parsed.rootfs.diff_ids) {
                let (blob, size) = members.blob(name).ok_or_else(|| lacks(name))?;
                let compression = layer_blobs::format_of_blob(self.open_blob(blob)?.0)
                    .map_err(StoreError::io("read", self.path()))?;
                self.unpack_claimed(*diff_id, compression, blob, size, lease)?;
            }
            let names =
                entry.repo_tags.iter().flatten().map(|name| name_of(name)).collect::<Result<_, _>>()?;
            found.push(Found { id: self.put_image(&config, None)?.id, names, index: None });
        }
        Ok(found)
    }

    /// Makes an image of one layer out of a root file system's tar, compressed or not.
    ///
    /// # Errors
    /// As [`Store::load`].
    pub fn import(
        &self,
        archive: impl Read + Send + 'static,
        mut config: crate::image::ImageConfig,
        message: &str,
    ) -> Result<ImageId, StoreError> {
        // The diffID must be known before the layer is unpacked, so the plain tar becomes a blob.
        let unreadable = |error: std::io::Error| Archive(format!("cannot read the archive: {error}"));
        let mut plain = compress::decompress(archive).map_err(unreadable)?;
        let mut writer = self.blob_writer()?;
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; 256 << 10];
        loop {
            let length = plain.read(&mut buffer).map_err(unreadable)?;
            if length == 0 {
                break;
            }
            hasher.update(&buffer[..length]);
            writer.write_all(&buffer[..length]).map_err(StoreError::io("write a blob to", self.path()))?;
        }
        let diff_id = DiffId(hasher.finish());
        let (blob, size) = writer.commit(Some(BlobDigest(diff_id.0)))?;
        let lease = self.lease()?;
        self.unpack_blob(blob, diff_id, &lease)?;
        self.remember_layer_blob(diff_id, "none", blob, size)?;
        let created = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.now())).ok();
        config.created = created;
        config.rootfs.diff_ids = vec![diff_id];
        config.history = vec![History { created, comment: Some(message.to_owned()), ..History::default() }];
        self.sync_layers(&[diff_id])?;
        Ok(self.put_image(&config.to_bytes().1, None)?.id)
    }
}

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

fn docker_entries(list: &[u8]) -> Result<Vec<DockerEntry>, StoreError> {
    let entries: Vec<DockerEntry> = serde_json::from_slice(list)
        .map_err(|source| StoreError::Document { what: "`manifest.json`".to_owned(), source })?;
    if entries.len() > INDEX_LIMIT {
        return Err(Archive(format!("`manifest.json` names more than {INDEX_LIMIT} images")));
    }
    Ok(entries)
}

/// The names that the docker half of an archive gives to configs.
fn repo_tags(members: &Members) -> HashMap<Digest, Vec<Reference>> {
    let Some(list) = members.documents.get("manifest.json") else { return HashMap::new() };
    docker_entries(list)
        .unwrap_or_default()
        .into_iter()
        .filter_map(|entry| {
            let (config, _) = members.blob(&entry.config)?;
            let names = entry.repo_tags?.iter().filter_map(|name| Reference::parse(name).ok()).collect();
            Some((config.0, names))
        })
        .collect()
}

/// skopeo and podman keep the whole name where the specification means a tag alone. A tag has neither
/// `/` nor `:`, so what has one is a name.
fn ref_name(entry: &Descriptor) -> Option<Reference> {
    let name = entry.annotation("org.opencontainers.image.ref.name")?;
    if name.contains(['/', ':']) { Reference::parse(name).ok() } else { None }
}

fn name_of(text: &str) -> Result<Reference, StoreError> {
    Reference::parse(text).map_err(|error| Archive(format!("the archive names its image badly: {error}")))
}

fn no_platform(platform: &Platform, index: &Index) -> StoreError {
    let there: Vec<String> = index
        .manifests
        .iter()
        .filter_map(|m| m.platform.as_ref())
        .map(|p| Platform::from(p).to_string())
        .collect();
    Archive(format!("the archive has no image for {platform}; it has {}", there.join(", ")))
}

/// A member's name without `./`, `..` and doubled slashes.
fn normal(name: &str) -> String {
    crate::root::clean(name).trim_start_matches('/').to_owned()
}
