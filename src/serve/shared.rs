//! A registry over the store: what is built here can be pulled, and what is pushed is here.
//!
//! | asked for | is in the store |
//! |---|---|
//! | `team/app:1`, to be read | `REGISTRY/team/app:1` or `team/app:1`, whichever was given that name later |
//! | `team/app:1`, pushed or deleted | `REGISTRY/team/app:1` |
//!
//! REGISTRY is a name that the owner chooses, `localhost` if none. So a push makes an image of the store
//! that the owner can run and build on; but nobody makes it `docker.io/library/debian`, which builds here
//! may stand on, and nobody takes the owner's names away. Images of other registries are not served.
//!
//! A pushed image is one of the store only if its layers are what its config says; that is checked by
//! unpacking them into a hash. What is none, an artifact, a chart, a build cache, is served all the same.
//! An image that was built here and never left is compressed when somebody first asks for it, and has that
//! manifest from then on.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;

use super::layers::is_layer;
use super::name::{Repository, Tag, Target};
use super::storage::{Pushed, Storage, StorageError, Stored, parts};
use super::upload_files::UploadFiles;
use crate::digest::{BlobDigest, Digest, ImageId};
use crate::exporter::{self, ExportError, Packing};
use crate::image::{
    CONFIG_LIMIT, Descriptor, Document, ImageConfig, Index, MANIFEST_LIMIT, Manifest, OCI_INDEX, OCI_MANIFEST,
};
use crate::platform::Platform;
use crate::reference::{DEFAULT_REGISTRY, Reference};
use crate::store::served::{Named, Served, Tagging};
use crate::store::{Store, StoreError};

/// So many manifests are kept in memory as what they name.
const REMEMBERED: usize = 4096;

/// The store as a registry.
pub struct Shared {
    store: Store,
    /// What claims blobs does so under the session of a store, for as long as that is open. This process
    /// may run for months, so such work has a store of its own, and lets go when it is done.
    open: Box<dyn Fn() -> Result<Store, StoreError> + Send + Sync>,
    registry: String,
    platform: Platform,
    uploads: UploadFiles,
    named: Mutex<HashMap<BlobDigest, Arc<Contents>>>,
}

/// What a manifest names.
struct Contents {
    media_type: String,
    parts: HashSet<Digest>,
    is_index: bool,
}

impl Shared {
    /// The store that `open` opens, again and again. Names that are pushed begin with `registry`. Where
    /// nobody says which image of an index is meant, it is the one for `platform`.
    ///
    /// # Errors
    /// What opening the store gives.
    pub fn new(
        open: impl Fn() -> Result<Store, StoreError> + Send + Sync + 'static,
        registry: &str,
        platform: Platform,
    ) -> Result<Self, StorageError> {
        let store = open()?;
        let uploads = UploadFiles::new(store.uploads());
        let registry = registry.to_owned();
        Ok(Self { store, open: Box::new(open), registry, platform, uploads, named: Mutex::default() })
    }

    /// Where pushes go.
    fn own(&self, repository: &Repository) -> Result<Reference, StorageError> {
        let name = repository.at(&self.registry);
        name.ok_or_else(|| StorageError::Unavailable { name: repository.to_string() })
    }

    /// The owner's short names, unless pushes go there.
    fn short(&self, repository: &Repository) -> Option<Reference> {
        if self.registry == DEFAULT_REGISTRY { None } else { repository.at(DEFAULT_REGISTRY) }
    }

    /// All names that a repository shows.
    fn names(&self, repository: &Repository) -> Result<Vec<Named>, StorageError> {
        let mut names = self.store.names_in(&self.own(repository)?)?;
        if let Some(short) = self.short(repository) {
            names.extend(self.store.names_in(&short)?);
        }
        names.retain(|named| named.name.tag().is_some());
        Ok(names)
    }

    /// What a manifest of the store names; nothing if it is not there or cannot be read.
    fn named_by(&self, manifest: BlobDigest) -> Option<Arc<Contents>> {
        let lock = || self.named.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lock().get(&manifest) {
            return Some(Arc::clone(known));
        }
        let bytes = self.store.read_blob(manifest, MANIFEST_LIMIT).ok()?;
        let document = Document::parse(&bytes, None).ok()?;
        let (stated, usual) = match &document {
            Document::Manifest(manifest) => (&manifest.media_type, OCI_MANIFEST),
            Document::Index(index) => (&index.media_type, OCI_INDEX),
        };
        let named = Arc::new(Contents {
            media_type: stated.as_ref().map_or_else(|| usual.to_owned(), ToString::to_string),
            parts: parts(&document).iter().map(|part| part.digest).collect(),
            is_index: matches!(document, Document::Index(_)),
        });
        let mut known = lock();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(manifest, Arc::clone(&named));
        Some(named)
    }

    /// The manifests of the names of a repository, those below an index too.
    fn manifests(&self, repository: &Repository) -> Result<HashSet<BlobDigest>, StorageError> {
        let mut found = HashSet::new();
        for named in self.names(repository)? {
            let mut todo: Vec<BlobDigest> = named.manifest.into_iter().chain(named.image.manifest).collect();
            while let Some(manifest) = todo.pop() {
                if found.insert(manifest)
                    && let Some(named) = self.named_by(manifest).filter(|named| named.is_index)
                {
                    todo.extend(named.parts.iter().copied().map(BlobDigest));
                }
            }
        }
        Ok(found)
    }

    /// What a name of the store is as a manifest, made now if it never was one.
    fn of_name(&self, named: &Named) -> Result<Stored, StorageError> {
        for manifest in named.manifest.into_iter().chain(named.image.manifest) {
            if let Some(stored) = self.whole(manifest)? {
                return Ok(stored);
            }
        }
        let _lock = self.store.lock_name(&format!("pack-{}", named.image.id.0.hex()))?;
        // Somebody else may have made it while we waited.
        if let Some(manifest) = self.store.image(named.image.id)?.and_then(|image| image.manifest)
            && let Some(stored) = self.whole(manifest)?
        {
            self.store.remember_manifest(&named.name, named.image.id, manifest)?;
            return Ok(stored);
        }
        let store = (self.open)()?;
        let whole = exporter::stored(&store, &named.image)?;
        let packed =
            exporter::pack_here(&store, &whole, &Packing::default()).map_err(|error| match error {
                ExportError::Store(StoreError::MissingLayer(_) | StoreError::MissingBlob(_)) => {
                    StorageError::Unavailable { name: named.name.familiar() }
                }
                error => error.into(),
            })?;
        let digest = store.put_blob(&packed.bytes)?;
        store.put_image(&whole.bytes, Some(digest))?;
        store.remember_manifest(&named.name, named.image.id, digest)?;
        let media_type = packed.descriptor.media_type.to_string();
        Ok(Stored { digest, media_type, bytes: packed.bytes })
    }

    /// A manifest of the store, if all that it names is here.
    fn whole(&self, manifest: BlobDigest) -> Result<Option<Stored>, StorageError> {
        let Some(named) = self.named_by(manifest) else { return Ok(None) };
        for part in &named.parts {
            let here = match named.is_index {
                true => self.named_by(BlobDigest(*part)).is_some_and(|below| {
                    below.parts.iter().all(|part| self.store.has_blob(BlobDigest(*part)))
                }),
                false => self.store.has_blob(BlobDigest(*part)),
            };
            if !here {
                return Ok(None);
            }
        }
        self.stored(manifest, named.media_type.clone())
    }

    fn stored(&self, manifest: BlobDigest, media_type: String) -> Result<Option<Stored>, StorageError> {
        match self.store.read_blob(manifest, MANIFEST_LIMIT) {
            Ok(bytes) => Ok(Some(Stored { digest: manifest, media_type, bytes })),
            Err(StoreError::MissingBlob(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The image that a manifest is, registered; nothing if it is none.
    fn image(
        &self,
        store: &Store,
        digest: BlobDigest,
        manifest: &Manifest,
    ) -> Result<Option<ImageId>, StorageError> {
        const CONFIGS: [&str; 2] =
            ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
        if !CONFIGS.contains(&manifest.config.media_type.as_ref()) {
            return Ok(None);
        }
        let bytes = store.read_blob(BlobDigest(manifest.config.digest), CONFIG_LIMIT)?;
        let Ok(config) = serde_json::from_slice::<ImageConfig>(&bytes) else { return Ok(None) };
        let diff_ids = &config.rootfs.diff_ids;
        if config.os.is_empty() || config.architecture.is_empty() || diff_ids.len() != manifest.layers.len() {
            return Ok(None);
        }
        let checked =
            manifest.layers.par_iter().zip(diff_ids).map(|(layer, diff_id)| is_layer(store, layer, *diff_id));
        let all = checked.try_reduce(|| true, |one, other| Ok(one && other))?;
        if !all {
            return Ok(None);
        }
        // An image that is here by another name keeps its manifest there.
        let id = ImageId(manifest.config.digest);
        let known = store.image(id)?.and_then(|image| image.manifest);
        let own = if known.is_none() { Some(digest) } else { None };
        Ok(Some(store.put_image(&bytes, own)?.id))
    }

    /// The images that an index has; none if one of its entries is neither image nor attestation.
    fn images(&self, store: &Store, index: &Index) -> Result<Vec<(ImageId, BlobDigest)>, StorageError> {
        let mut members = Vec::with_capacity(index.manifests.len());
        for entry in index.manifests.iter().filter(|entry| !entry.is_attestation()) {
            let digest = BlobDigest(entry.digest);
            let bytes = store.read_blob(digest, MANIFEST_LIMIT)?;
            let Ok(Document::Manifest(manifest)) = Document::parse(&bytes, None) else {
                return Ok(Vec::new());
            };
            match self.image(store, digest, &manifest)? {
                Some(image) => members.push((image, digest)),
                None => return Ok(Vec::new()),
            }
        }
        Ok(members)
    }
}

impl Storage for Shared {
    fn uploads(&self) -> &UploadFiles {
        &self.uploads
    }

    fn repositories(&self) -> Result<BTreeSet<String>, StorageError> {
        let mut found: BTreeSet<String> = self.store.repositories_of(&self.registry)?.into_iter().collect();
        if self.registry != DEFAULT_REGISTRY {
            // `library/debian` is what `debian` means, in both of which it can be asked for.
            let short = |name: String| match name.strip_prefix("library/") {
                Some(short) if !short.contains('/') => short.to_owned(),
                _ => name,
            };
            found.extend(self.store.repositories_of(DEFAULT_REGISTRY)?.into_iter().map(short));
        }
        Ok(found)
    }

    fn tags(&self, repository: &Repository) -> Result<Option<BTreeSet<String>>, StorageError> {
        let own = self.own(repository)?;
        let names = self.names(repository)?;
        let mut tags: BTreeSet<String> =
            names.iter().filter_map(|named| Some(named.name.tag()?.to_owned())).collect();
        tags.extend(self.store.served_tags(&own)?.into_iter().map(|(tag, ..)| tag));
        Ok((!tags.is_empty() || self.store.serves_any(&own)?).then_some(tags))
    }

    fn manifest(&self, repository: &Repository, target: &Target) -> Result<Option<Stored>, StorageError> {
        let own = self.own(repository)?;
        let served = |digest: BlobDigest| match self.store.served_media_type(&own, digest)? {
            Some(media_type) => self.stored(digest, media_type),
            None => Ok(None),
        };
        // A manifest that states no media type has the one that it was pushed with.
        let of_name = |name: &Named| {
            let mut stored = self.of_name(name)?;
            if let Some(media_type) = self.store.served_media_type(&own, stored.digest)? {
                stored.media_type = media_type;
            }
            Ok(Some(stored))
        };
        match target {
            Target::Digest(digest) => {
                if let Some(found) = served(*digest)? {
                    return Ok(Some(found));
                }
                match self.manifests(repository)?.contains(digest) {
                    true => self.whole(*digest),
                    false => Ok(None),
                }
            }
            Target::Tag(tag) => {
                let names = self.names(repository)?.into_iter();
                let name = names
                    .filter(|named| named.name.tag() == Some(tag.as_str()))
                    .max_by_key(|named| named.updated);
                let tags = self.store.served_tags(&own)?.into_iter();
                let artifact =
                    tags.filter(|(other, ..)| other == tag.as_str()).max_by_key(|(.., updated)| *updated);
                match (name, artifact) {
                    (Some(name), Some((_, _, updated))) if name.updated >= updated => of_name(&name),
                    (Some(name), None) => of_name(&name),
                    (_, Some((_, digest, _))) => served(digest),
                    (None, None) => Ok(None),
                }
            }
        }
    }

    fn put_manifest(
        &self,
        repository: &Repository,
        tag: Option<&Tag>,
        manifest: &Pushed,
    ) -> Result<(), StorageError> {
        let own = self.own(repository)?;
        let store = (self.open)()?;
        // The manifests of an index come before it, and have no tag until then.
        store.keep_served_blob(&own, manifest.digest)?;
        store.put_blob(&manifest.bytes)?;
        let members = match (&manifest.document, tag) {
            (_, None) => Vec::new(),
            (Document::Manifest(document), Some(_)) => {
                let image = self.image(&store, manifest.digest, document)?;
                image.into_iter().map(|image| (image, manifest.digest)).collect()
            }
            (Document::Index(index), Some(_)) => self.images(&store, index)?,
        };
        let name = tag.and_then(|tag| own.with_tag(tag.as_str()).ok());
        let rank = |(image, _): &&(ImageId, BlobDigest)| {
            let platform = store.image(*image).ok().flatten().map(|image| image.platform);
            platform.and_then(|platform| platform.preference(&self.platform)).map_or(u16::MAX, u16::from)
        };
        let tagging = match (tag, &name, members.iter().min_by_key(rank)) {
            (Some(_), Some(name), Some((image, _))) => {
                let is_index = matches!(manifest.document, Document::Index(_));
                Tagging::Image { name, image: *image, members: if is_index { &members } else { &[] } }
            }
            (Some(tag), ..) => Tagging::Artifact { tag: tag.as_str() },
            (None, ..) => Tagging::None,
        };
        let served = Served {
            manifest: manifest.digest,
            media_type: &manifest.media_type,
            subject: manifest.subject,
            descriptor: serde_json::to_string(&manifest.descriptor).expect("a descriptor's keys are strings"),
            parts: manifest.parts().iter().map(|part| part.digest).collect(),
        };
        Ok(store.serve_manifest(&own, &served, tagging)?)
    }

    fn delete_tag(&self, repository: &Repository, tag: &Tag) -> Result<bool, StorageError> {
        if self.store.unserve_tag(&self.own(repository)?, tag.as_str())? {
            return Ok(true);
        }
        let names = self.names(repository)?;
        match names.iter().find(|named| named.name.tag() == Some(tag.as_str())) {
            Some(named) => Err(StorageError::Foreign { name: named.name.familiar() }),
            None => Ok(false),
        }
    }

    fn delete_manifest(&self, repository: &Repository, digest: BlobDigest) -> Result<bool, StorageError> {
        if self.store.unserve_manifest(&self.own(repository)?, digest)? {
            return Ok(true);
        }
        let names = self.names(repository)?;
        match names.iter().find(|named| [named.manifest, named.image.manifest].contains(&Some(digest))) {
            Some(named) => Err(StorageError::Foreign { name: named.name.familiar() }),
            None => Ok(false),
        }
    }

    fn blob(&self, repository: &Repository, digest: BlobDigest) -> Result<Option<(File, u64)>, StorageError> {
        let mut here = self.store.serves_blob(&self.own(repository)?, digest)?;
        if !here {
            let named = |manifest: &BlobDigest| self.named_by(*manifest);
            here = self
                .manifests(repository)?
                .iter()
                .filter_map(named)
                .any(|named| named.parts.contains(&digest.0));
        }
        match here.then(|| self.store.open_blob(digest)) {
            None | Some(Err(StoreError::MissingBlob(_))) => Ok(None),
            Some(found) => Ok(Some(found?)),
        }
    }

    fn keep_blob(&self, repository: &Repository, digest: BlobDigest) -> Result<bool, StorageError> {
        self.store.keep_served_blob(&self.own(repository)?, digest)?;
        // A prune may have been faster than we were.
        Ok(self.store.has_blob(digest))
    }

    fn adopt_blob(
        &self,
        repository: &Repository,
        digest: BlobDigest,
        file: &Path,
    ) -> Result<(), StorageError> {
        Ok(self.store.adopt_blob(&self.own(repository)?, digest, file)?)
    }

    fn mount_blob(
        &self,
        from: &Repository,
        to: &Repository,
        digest: BlobDigest,
    ) -> Result<bool, StorageError> {
        if self.blob(from, digest)?.is_none() {
            return Ok(false);
        }
        self.keep_blob(to, digest)
    }

    fn delete_blob(&self, repository: &Repository, digest: BlobDigest) -> Result<bool, StorageError> {
        if self.blob(repository, digest)?.is_none() {
            return Ok(false);
        }
        let own = self.own(repository)?;
        let local = || -> Result<Option<BlobDigest>, StorageError> {
            let names = |manifest: &BlobDigest| {
                self.named_by(*manifest).is_some_and(|named| named.parts.contains(&digest.0))
            };
            Ok(self.manifests(repository)?.into_iter().find(names))
        };
        if let Some(manifest) =
            self.store.served_part_of(&own, digest)?.map_or_else(local, |found| Ok(Some(found)))?
        {
            return Err(StorageError::InUse { manifest });
        }
        Ok(self.store.unserve_blob(&own, digest)?)
    }

    fn drop_damaged_blob(&self, digest: BlobDigest) -> Result<(), StorageError> {
        match self.store.drop_damaged_blob(digest) {
            Ok(_) | Err(StoreError::MissingBlob(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn referrers(
        &self,
        repository: &Repository,
        subject: BlobDigest,
    ) -> Result<Vec<Descriptor>, StorageError> {
        let found = self.store.served_referrers(&self.own(repository)?, subject)?;
        Ok(found.iter().filter_map(|text| serde_json::from_str(text).ok()).collect())
    }

    fn tidy(&self) -> Result<(), StorageError> {
        self.uploads.sweep(self.store.now())
    }
}
