//! Images from registries: first what they are, and their layers when somebody needs files.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::cache::remote::CacheReader;
use crate::digest::{BlobDigest, DiffId, Digest, ImageId, LayerIdentity};
use crate::event::Kind;
use crate::exporter::{Place, Whereabouts};
use crate::image::{Descriptor, Document, ImageConfig, Manifest};
use crate::platform::Platform;
use crate::progress::Progress;
use crate::reference::Reference;
use crate::registry::RegistryError;
use crate::solver::LayerSource;
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
    #[error(transparent)]
    Cache(#[from] crate::cache::remote::PlaceError),
    #[error("`{reference}` has no image for {platform}; it has {}", first_of(there))]
    Platform { reference: String, platform: Platform, there: Vec<String> },
    #[error("`{reference}` nests indexes too deeply")]
    Nested { reference: String },
    #[error("the manifest of `{reference}` lists {manifest} layers, its config {config}")]
    Layers { reference: String, manifest: usize, config: usize },
    #[error("`{reference}` is no image: it holds `{kind}`")]
    NotAnImage { reference: String, kind: String },
    #[error(
        "layer {digest} of `{reference}` is a foreign one: it may be had from elsewhere, by whoever is allowed to, and the registry does not have it"
    )]
    Foreign { reference: String, digest: Digest },
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

/// What an index has, which may be any number of things.
fn first_of(there: &[String]) -> String {
    const SHOWN: usize = 20;
    let shown = there[..there.len().min(SHOWN)].join(", ");
    match there.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
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

/// Where a layer that is not here can be had.
#[derive(Debug, Clone)]
pub(super) enum Origin {
    /// In the repository of an image.
    Image(Reference),
    /// In a build cache.
    Cache(Arc<dyn CacheReader>),
}

impl Origin {
    fn name(&self) -> String {
        match self {
            Self::Image(reference) => reference.familiar_repository(),
            Self::Cache(cache) => cache.name(),
        }
    }
}

/// Where the layers of images that were resolved can be had.
#[derive(Debug, Default)]
pub(super) struct Remotes {
    images: Mutex<HashMap<ImageId, Vec<DiffId>>>,
    layers: Mutex<HashMap<DiffId, (Origin, Descriptor)>>,
    /// Layers that two images say are different blobs: one of them may lie.
    disputed: Mutex<HashSet<DiffId>>,
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
            let before = layers.insert(*diff_id, (Origin::Image(reference.clone()), descriptor.clone()));
            if before.is_some_and(|(_, before)| before.digest != descriptor.digest) {
                self.disputed.lock().unwrap_or_else(PoisonError::into_inner).insert(*diff_id);
            }
        }
    }

    /// A layer that a build cache holds; what an image's registry has is not replaced.
    pub(super) fn add_cached(&self, layer: DiffId, cache: &Arc<dyn CacheReader>, descriptor: &Descriptor) {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        layers.entry(layer).or_insert_with(|| (Origin::Cache(Arc::clone(cache)), descriptor.clone()));
    }

    /// Where a layer can be had, and what its blob is there.
    pub(super) fn place(&self, layer: DiffId) -> Option<(Origin, Descriptor)> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner).get(&layer).cloned()
    }
}

/// A layer can go into an image as the blob that its place says it is, unread, if nobody else says
/// otherwise: then the worst that a lie does is to break the image of who built on the liar's.
impl Whereabouts for Remotes {
    fn place(&self, layer: DiffId) -> Option<(Place, Descriptor)> {
        if self.disputed.lock().unwrap_or_else(PoisonError::into_inner).contains(&layer) {
            return None;
        }
        let (origin, blob) = Self::place(self, layer)?;
        Some(match origin {
            Origin::Image(reference) => (Place::Repository(reference), blob),
            // A cache at a registry is a repository like others, and one that blobs are mounted from.
            Origin::Cache(cache) => match cache.repository().cloned() {
                Some(repository) => (Place::Repository(repository), blob),
                None => (Place::Cache(cache), blob),
            },
        })
    }
}

/// An image that was found, here or at a registry.
#[derive(Debug, Clone)]
pub(super) struct Resolved {
    pub id: ImageId,
    pub config: ImageConfig,
    pub manifest: Option<BlobDigest>,
    /// What a registry has under the name, if one was asked.
    pub root: Option<Digest>,
}

/// An image that was pulled.
#[derive(Debug, Clone)]
pub struct Pulled {
    pub image: StoredImage,
    /// What the registry has under the name: the image's manifest, or an index.
    pub digest: Option<Digest>,
    /// Whether the name stood for something else here before, or for nothing.
    pub is_new: bool,
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
        let found = self.wait(self.find_manifest(reference, platform))??;
        let bytes = self.wait(self.find_config(reference, &found.manifest))??;
        self.store.put_blob(&bytes)?;
        let resolved = self.remote(remotes, reference, &found.manifest, &bytes, found.digest)?;
        self.store.pin(reference, platform, resolved.id, found.digest)?;
        let layers = resolved.config.rootfs.diff_ids.iter().copied().zip(&found.manifest.layers);
        self.store.remember_places(reference, layers)?;
        Ok(Resolved { root: Some(found.root), ..resolved })
    }

    fn local(&self, remotes: &Remotes, image: &StoredImage) -> Result<Resolved, PullError> {
        let (config, _) = self.store.image_config(image.id)?;
        remotes.add(image.id, config.rootfs.diff_ids.clone());
        Ok(Resolved { id: image.id, config, manifest: image.manifest, root: None })
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
        Ok(Resolved { id, config, manifest: Some(manifest_digest), root: None })
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
    ) -> Result<Pulled, PullError> {
        let remotes = Remotes::default();
        let before = self.store.image_named_for(reference, platform)?;
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
        self.sync_without_blobs(&resolved.config.rootfs.diff_ids)?;
        let image = self.store.put_image(&bytes, resolved.manifest)?;
        // An index that has the image stays one.
        let index = self.store.index_named(reference)?;
        if index.is_none_or(|index| index.members.iter().all(|(member, _)| member.id != image.id)) {
            self.store.tag(reference, image.id)?;
        }
        let digest = resolved.root.or(resolved.manifest.map(|manifest| manifest.0));
        let is_new = before.is_none_or(|before| before.id != image.id);
        self.tell_of_pull(reference, image.id);
        Ok(Pulled { image, digest, is_new })
    }
}

impl Engine<'_> {
    /// Tells that a name's image was fetched, or was here already.
    pub(super) fn tell_of_pull(&self, reference: &Reference, image: ImageId) {
        let name = reference.familiar();
        self.store.event(Kind::Image, "pull", image.to_string(), [("name", name)]);
    }

    /// Makes layers outlive a power cut. One whose blob is here does, since it is unpacked again from that,
    /// which costs less than to wait until the disk has written all files.
    pub(super) fn sync_without_blobs(&self, diff_ids: &[DiffId]) -> Result<(), StoreError> {
        let mut alone = Vec::new();
        for diff_id in diff_ids {
            let mut has_blob = false;
            for format in layer_blobs::FOREIGN_FORMATS {
                has_blob = has_blob || self.store.layer_blob(*diff_id, format)?.is_some();
            }
            if !has_blob {
                alone.push(*diff_id);
            }
        }
        if alone.is_empty() { Ok(()) } else { self.store.sync_layers(&alone) }
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
                        // What one layer lacks, the image lacks.
                        if failure.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
                            return;
                        }
                        let error = match self.fetch_one(diff_id, lease, &self.engine.progress) {
                            Ok(true) => continue,
                            Ok(false) => PullError::Lost(diff_id),
                            Err(error) => error,
                        };
                        failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
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

    /// A place of earlier builds, pulls and pushes that had the layer.
    fn remembered(&self, diff_id: DiffId) -> Result<Option<(Origin, Descriptor)>, StoreError> {
        let mut places = self.engine.store.places(diff_id)?;
        // The latest of the best, since the order of equals stays.
        places.sort_by_key(|place| !place.verified);
        Ok(places.first().map(|place| (Origin::Image(place.repository.clone()), place.descriptor())))
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
        let place = self.remotes.place(diff_id).map_or_else(|| self.remembered(diff_id), |it| Ok(Some(it)));
        let Some((origin, descriptor)) = place? else { return Ok(false) };
        // Two processes that need one layer fetch it once.
        let _lock = self.engine.lock(&format!("fetch-{}", diff_id.0.hex()))?;
        if store.find_layers(&[LayerIdentity::of_diff(diff_id)], lease)?.is_ok() {
            return Ok(true);
        }
        let step = progress.step(format!("pull {} {}", origin.name(), descriptor.digest.short()));
        let brought = self.engine.bring_layer(&origin, &descriptor, diff_id, lease, &step);
        match brought.map_err(|error| foreign(error, &origin, &descriptor)) {
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
}

/// Says of a layer that is not at its registry that this was to be expected, if it was.
fn foreign(error: PullError, origin: &Origin, descriptor: &Descriptor) -> PullError {
    match (&error, origin) {
        (PullError::Registry(cause), Origin::Image(reference))
            if cause.is_not_found() && crate::image::is_foreign(descriptor.media_type.as_ref()) =>
        {
            PullError::Foreign { reference: reference.familiar(), digest: descriptor.digest }
        }
        _ => error,
    }
}

impl LayerSource for Layers<'_> {
    fn layers(&self, image: ImageId) -> Result<Vec<DiffId>, String> {
        let images = self.remotes.images.lock().unwrap_or_else(PoisonError::into_inner);
        images.get(&image).cloned().ok_or_else(|| format!("image {image} was never resolved"))
    }

    fn fetch(&self, layer: DiffId, lease: &Lease<'_>, progress: &Progress) -> Result<bool, String> {
        self.fetch_one(layer, lease, progress).map_err(|error| crate::diagnostic::chain(&error))
    }
}
