//! Images from registries: first what they are, and their layers when somebody needs files.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::digest::{BlobDigest, DiffId, ImageId, LayerIdentity};
use crate::image::{Descriptor, Document, ImageConfig, Manifest};
use crate::platform::Platform;
use crate::progress::{Progress, Step};
use crate::reference::Reference;
use crate::registry::{RegistryError, Sink};
use crate::solver::LayerSource;
use crate::store::blobs::BlobWriter;
use crate::store::images::StoredImage;
use crate::store::{Lease, StoreError, layer_blobs};

use super::Engine;
use super::layout::Layout;

/// Why an image could not be had.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("`{reference}` has no image for {platform}; it has {}", there.join(", "))]
    Platform { reference: String, platform: Platform, there: Vec<String> },
    #[error("`{reference}` nests indexes too deeply")]
    Nested { reference: String },
    #[error("the manifest of `{reference}` lists {manifest} layers, its config {config}")]
    Layers { reference: String, manifest: usize, config: usize },
    #[error("cannot use the OCI layout `{}`: {reason}", path.display())]
    Layout { path: PathBuf, reason: String },
    #[error("`{reference}` is not in the store, and is not to be pulled")]
    Absent { reference: String },
    #[error(transparent)]
    Canceled(#[from] super::Canceled),
    #[error(
        "layer {0} of the image is neither here nor known to a registry; build, load or pull the image again"
    )]
    Lost(DiffId),
}

/// When a registry is asked for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Whatever is here.
    Always,
    /// If it is not here.
    Missing,
    /// Not at all.
    Never,
}

/// Where the layers of images that were resolved can be had.
#[derive(Debug, Default)]
pub(super) struct Remotes {
    images: Mutex<HashMap<ImageId, Vec<DiffId>>>,
    layers: Mutex<HashMap<DiffId, (Reference, Descriptor)>>,
    /// Images that are in directories of the person's, by the names that stand for them.
    layouts: BTreeMap<Reference, Layout>,
}

impl Remotes {
    /// Nothing but these layouts yet.
    pub(super) fn with_layouts(layouts: BTreeMap<Reference, Layout>) -> Self {
        Self { layouts, ..Self::default() }
    }

    pub(super) fn add(&self, image: ImageId, diff_ids: Vec<DiffId>) {
        self.images.lock().unwrap_or_else(PoisonError::into_inner).insert(image, diff_ids);
    }

    fn add_manifest(&self, reference: &Reference, config: &ImageConfig, manifest: &Manifest) {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        for (diff_id, descriptor) in config.rootfs.diff_ids.iter().zip(&manifest.layers) {
            layers.insert(*diff_id, (reference.clone(), descriptor.clone()));
        }
    }

    fn place(&self, layer: DiffId) -> Option<(Reference, Descriptor)> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner).get(&layer).cloned()
    }
}

/// An image that was found, here or at a registry.
#[derive(Debug, Clone)]
pub(super) struct Resolved {
    pub id: ImageId,
    pub config: ImageConfig,
    pub manifest: Option<BlobDigest>,
}

impl<'a> Engine<'a> {
    /// Finds out what a name means for a platform: the store, then what a registry said before,
    /// then the registry; in another order if `policy` says so. Fetches no layer.
    pub(super) fn resolve(
        &self,
        remotes: &Remotes,
        reference: &Reference,
        platform: &Platform,
        policy: Policy,
        lease: &Lease<'_>,
    ) -> Result<Resolved, PullError> {
        if let Some(layout) = remotes.layouts.get(reference) {
            return self.resolve_layout(remotes, layout, platform, lease);
        }
        if policy != Policy::Always {
            // One that a prune takes at this moment is not here.
            if let Some(image) = self.store.image_named_for(reference, platform)?
                && image.platform.serves(platform)
                && self.store.hold_image(&image, lease)?
            {
                return self.local(remotes, &image);
            }
            if let Some(found) = self.pinned(remotes, reference, platform)? {
                return Ok(found);
            }
        }
        if policy == Policy::Never {
            return Err(PullError::Absent { reference: reference.familiar() });
        }
        let (manifest, manifest_digest) = self.wait(self.find_manifest(reference, platform))??;
        let bytes = self.wait(self.registry.config(reference, &manifest))??;
        self.store.put_blob(&bytes)?;
        let found = self.remote(remotes, reference, &manifest, &bytes, manifest_digest)?;
        self.store.pin(reference, platform, found.id, manifest_digest)?;
        Ok(found)
    }

    fn local(&self, remotes: &Remotes, image: &StoredImage) -> Result<Resolved, PullError> {
        let (config, _) = self.store.image_config(image.id)?;
        remotes.add(image.id, config.rootfs.diff_ids.clone());
        Ok(Resolved { id: image.id, config, manifest: image.manifest })
    }

    /// What a registry said before, as long as all that it said is still here.
    fn pinned(
        &self,
        remotes: &Remotes,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Option<Resolved>, PullError> {
        let Some((image, manifest, _)) = self.store.pinned(reference, platform)? else { return Ok(None) };
        let (Ok(config), Ok(manifest_bytes)) = (
            self.store.read_blob(BlobDigest(image.0), crate::image::CONFIG_LIMIT),
            self.store.read_blob(manifest, crate::image::MANIFEST_LIMIT),
        ) else {
            return Ok(None);
        };
        match Document::parse(&manifest_bytes, None) {
            Ok(Document::Manifest(parsed)) => {
                self.remote(remotes, reference, &parsed, &config, manifest).map(Some)
            }
            Ok(Document::Index(_)) | Err(_) => Ok(None),
        }
    }

    pub(super) fn remote(
        &self,
        remotes: &Remotes,
        reference: &Reference,
        manifest: &Manifest,
        config_bytes: &[u8],
        manifest_digest: BlobDigest,
    ) -> Result<Resolved, PullError> {
        let config: ImageConfig = serde_json::from_slice(config_bytes).map_err(|source| {
            StoreError::Document { what: format!("of the config of `{}`", reference.familiar()), source }
        })?;
        if config.rootfs.diff_ids.len() != manifest.layers.len() {
            return Err(PullError::Layers {
                reference: reference.familiar(),
                manifest: manifest.layers.len(),
                config: config.rootfs.diff_ids.len(),
            });
        }
        let id = ImageId(manifest.config.digest);
        remotes.add(id, config.rootfs.diff_ids.clone());
        remotes.add_manifest(reference, &config, manifest);
        Ok(Resolved { id, config, manifest: Some(manifest_digest) })
    }

    /// The manifest for a platform, through at most a few indexes; its bytes are kept.
    async fn find_manifest(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<(Manifest, BlobDigest), PullError> {
        let mut at = reference.clone();
        for _ in 0..4 {
            let fetched = self.registry.manifest(&at).await?;
            match fetched.document {
                Document::Manifest(manifest) => {
                    return Ok((manifest, self.store.put_blob(&fetched.bytes)?));
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

    /// Has an image with all of its layers here, under its name.
    ///
    /// # Errors
    /// [`PullError`]; then the name stays what it was.
    pub fn pull(
        &self,
        reference: &Reference,
        platform: &Platform,
        policy: Policy,
    ) -> Result<StoredImage, PullError> {
        let remotes = Remotes::default();
        let step = self.progress.step(format!("resolve {}", reference.familiar()));
        let lease = self.store.lease()?;
        let resolved = match self.resolve(&remotes, reference, platform, policy, &lease) {
            Ok(resolved) => {
                step.done();
                resolved
            }
            Err(error) => {
                step.failed(&error);
                return Err(error);
            }
        };
        let layers = Layers { engine: self, remotes: &remotes };
        layers.fetch_all(&resolved.config.rootfs.diff_ids, &lease)?;
        let (_, bytes) = self.store.image_config(resolved.id)?;
        self.store.sync_layers(&resolved.config.rootfs.diff_ids)?;
        let image = self.store.put_image(&bytes, resolved.manifest)?;
        // An index that has the image stays one.
        let index = self.store.index_named(reference)?;
        if index.is_none_or(|index| index.members.iter().all(|(member, _)| member.id != image.id)) {
            self.store.tag(reference, image.id)?;
        }
        Ok(image)
    }
}

/// The layers of resolved images, for a solver.
pub(super) struct Layers<'a> {
    pub engine: &'a Engine<'a>,
    pub remotes: &'a Remotes,
}

/// How many layers are in transfer at once.
const TRANSFERS: usize = 4;

impl Layers<'_> {
    /// Fetches and unpacks what is missing of these, several side by side.
    pub fn fetch_all(&self, diff_ids: &[DiffId], lease: &Lease<'_>) -> Result<(), PullError> {
        let todo = Mutex::new(diff_ids.iter().copied());
        let failure = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..TRANSFERS.min(diff_ids.len()) {
                scope.spawn(|| {
                    loop {
                        let next = todo.lock().unwrap_or_else(PoisonError::into_inner).next();
                        let Some(diff_id) = next else { return };
                        let outcome = match self.fetch_one(diff_id, lease, &self.engine.progress) {
                            Ok(true) => continue,
                            Ok(false) => PullError::Lost(diff_id),
                            Err(error) => error,
                        };
                        failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(outcome);
                        return;
                    }
                });
            }
        });
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn fetch_one(&self, diff_id: DiffId, lease: &Lease<'_>, progress: &Progress) -> Result<bool, PullError> {
        let store = self.engine.store;
        if store.find_layers(&[LayerIdentity::of_diff(diff_id)], lease)?.is_ok() {
            return Ok(true);
        }
        for format in layer_blobs::FOREIGN_FORMATS {
            if let Some((blob, _)) = store.layer_blob(diff_id, format)? {
                match store.unpack_blob(blob, diff_id, lease) {
                    Ok(_) => return Ok(true),
                    // It was damaged; perhaps the registry has a whole one.
                    Err(StoreError::MissingBlob(_)) if self.remotes.place(diff_id).is_some() => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        let Some((reference, descriptor)) = self.remotes.place(diff_id) else { return Ok(false) };
        // Two processes that need one layer fetch it once.
        let _lock = store.lock_name(&format!("fetch-{}", diff_id.0.hex()))?;
        if store.find_layers(&[LayerIdentity::of_diff(diff_id)], lease)?.is_ok() {
            return Ok(true);
        }
        let step =
            progress.step(format!("pull {} {}", reference.familiar_repository(), descriptor.digest.short()));
        let outcome = self.transfer(&reference, &descriptor, diff_id, lease, &step);
        match outcome {
            Ok(()) => {
                step.done();
                Ok(true)
            }
            Err(error) => {
                step.failed(&error);
                Err(error)
            }
        }
    }

    fn transfer(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        diff_id: DiffId,
        lease: &Lease<'_>,
        step: &Step,
    ) -> Result<(), PullError> {
        let store = self.engine.store;
        let blob = BlobDigest(descriptor.digest);
        if !store.claim_blob(blob)? {
            let mut writer = store.blob_writer()?;
            let fetch = self.engine.registry.blob(reference, descriptor, &mut writer, step);
            self.engine.wait(fetch)??;
            writer.commit(Some(blob))?;
        }
        store.unpack_blob(blob, diff_id, lease)?;
        let format = layer_blobs::format_of_media_type(descriptor.media_type.as_ref());
        store.remember_layer_blob(diff_id, format, blob, descriptor.size)?;
        Ok(())
    }
}

impl LayerSource for Layers<'_> {
    fn layers(&self, image: ImageId) -> Result<Vec<DiffId>, String> {
        let images = self.remotes.images.lock().unwrap_or_else(PoisonError::into_inner);
        images.get(&image).cloned().ok_or_else(|| format!("image {image} was never resolved"))
    }

    fn fetch(&self, layer: DiffId, lease: &Lease<'_>, progress: &Progress) -> Result<bool, String> {
        self.fetch_one(layer, lease, progress).map_err(|error| super::build::chain(&error))
    }
}

/// The bytes count only once the blob is committed, so they may begin anew.
impl Sink for BlobWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn restart(&mut self) -> io::Result<bool> {
        BlobWriter::restart(self)?;
        Ok(true)
    }
}
