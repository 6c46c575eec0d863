//! Images to registries: blobs side by side, what is there already not at all, names last.
//!
//! `push/sender.rs` brings blobs to repositories, `push/early.rs` those of a build that still runs.

use std::sync::{Mutex, PoisonError};

use crate::digest::BlobDigest;
use crate::exporter::push::push_manifests;
use crate::exporter::{
    self, ExportError, Image, ImageLayer, LayerFormat, OnlyStore, Package, Packing, Whereabouts,
};
use crate::image::Descriptor;
use crate::progress::Step;
use crate::reference::Reference;
use crate::store::images::StoredImage;

use super::{Canceled, Engine};

pub(super) mod early;
mod sender;

pub use early::EarlyPush;
use sender::Sender;
pub use sender::Sent;

/// How many blobs are in transfer at once.
const TRANSFERS: usize = 4;

/// Why an image was not sent.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    #[error(transparent)]
    Export(#[from] ExportError),
    #[error(transparent)]
    Cache(crate::cache::remote::PlaceError),
    #[error(
        "the layer blob {blob} is neither here nor where it once was; build, load or pull the image again"
    )]
    Nowhere { blob: BlobDigest },
    #[error(transparent)]
    Canceled(#[from] Canceled),
}

impl From<crate::store::StoreError> for PushError {
    fn from(error: crate::store::StoreError) -> Self {
        Self::Export(error.into())
    }
}

impl From<crate::registry::RegistryError> for PushError {
    fn from(error: crate::registry::RegistryError) -> Self {
        Self::Export(error.into())
    }
}

/// What is pushed besides its bytes: what helps to send fewer of them.
#[derive(Clone, Copy)]
pub struct PushHelp<'h> {
    /// Names of the images, whose repositories may have their layers.
    pub names: &'h [Reference],
    /// Where layers are that are not here.
    pub elsewhere: &'h dyn Whereabouts,
    /// What is known to have arrived.
    pub sent: &'h Sent,
}

impl Engine<'_> {
    /// Sends an image of the store to the registries of `names`; gives what they hold then. An image
    /// that came with a manifest goes with that one: nothing that is there moves again.
    ///
    /// # Errors
    /// [`PushError`]; then the name at which it failed, and those behind it, are what they were.
    pub fn push(
        &self,
        image: &StoredImage,
        names: &[Reference],
        format: LayerFormat,
        sent: &Sent,
    ) -> Result<Descriptor, PushError> {
        // Its layers wait for their turn meanwhile, and a prune does not know what they wait for.
        let lease = self.store.lease()?;
        self.store.hold_image(image, &lease)?;
        let known = self.store.names_of(image.id)?;
        let help = PushHelp { names: &known, elsewhere: &OnlyStore, sent };
        let original = match image.manifest.filter(|_| !format.force) {
            Some(manifest) => exporter::described(self.store, manifest)?,
            None => None,
        };
        if let Some(packed) = original {
            match self.push_package(&packed.into(), names, help) {
                // Its blobs are lost, its files perhaps not.
                Err(PushError::Nowhere { .. }) => {}
                outcome => return outcome,
            }
        }
        let whole = exporter::stored(self.store, image)?;
        self.push_layers(std::slice::from_ref(&whole), names, format, help)?;
        let packing = Packing { format, ..Packing::default() };
        let packed = exporter::pack(self.store, &whole, &packing, help.elsewhere)?;
        let manifest = self.store.put_blob(&packed.bytes)?;
        self.store.put_image(&whole.bytes, Some(manifest))?;
        self.push_package(&packed.into(), names, help)
    }

    /// Has the layers of images in the repositories of `names`, compressing what never was, and large
    /// ones while they are sent. What is left of a push then is small.
    ///
    /// # Errors
    /// [`PushError`].
    pub fn push_layers(
        &self,
        images: &[Image],
        names: &[Reference],
        format: LayerFormat,
        help: PushHelp<'_>,
    ) -> Result<(), PushError> {
        let sender = Sender::new(self, names, format, help.elsewhere, help.names, help.sent);
        let mut layers: Vec<ImageLayer> = Vec::new();
        for layer in images.iter().flat_map(|image| &image.layers) {
            let is_new = layers.iter().all(|known| known.diff_id != layer.diff_id);
            if is_new && !sender.is_sent(layer)? {
                layers.push(*layer);
            }
        }
        if layers.is_empty() {
            return Ok(());
        }
        self.in_step(names, |step| side_by_side(&layers, |layer| sender.layer(layer, step).map(drop)))
    }

    /// Sends a package to the registries of `names`: an index with all of its images. Names of one
    /// repository cost one upload.
    ///
    /// # Errors
    /// [`PushError`]; then the name at which it failed, and those behind it, are what they were.
    pub fn push_package(
        &self,
        package: &Package,
        names: &[Reference],
        help: PushHelp<'_>,
    ) -> Result<Descriptor, PushError> {
        for packed in &package.images {
            self.store.put_blob(&packed.config_bytes)?;
        }
        let blobs = blobs_of(package, true);
        // Said of all before the first is sent, which may take long: a prune leaves those that wait.
        for (blob, _) in &blobs {
            self.store.claim_blob(BlobDigest(blob.digest))?;
        }
        let sender = Sender::new(self, names, LayerFormat::default(), help.elsewhere, help.names, help.sent);
        self.in_step(names, |step| {
            side_by_side(&blobs, |(blob, layer)| sender.blob(blob, layer.as_ref(), step))?;
            let mut pushed = package.descriptor.clone();
            for name in names {
                pushed = self.wait(push_manifests(&self.registry, name, package))??;
            }
            Ok(pushed)
        })
    }

    /// An image of the store with all of its blobs here, as a push would send it: what is not here is made
    /// again, or fetched from where it is.
    ///
    /// # Errors
    /// [`PushError`].
    pub fn whole(&self, image: &StoredImage) -> Result<Package, PushError> {
        let came = image.manifest.map_or(Ok(None), |manifest| exporter::described(self.store, manifest))?;
        if let Some(packed) = came {
            let package = Package::from(packed);
            match self.bring_blobs(&package, &OnlyStore) {
                // Its blobs are lost, its files perhaps not.
                Err(PushError::Nowhere { .. }) => {}
                outcome => return outcome.map(|()| package),
            }
        }
        let packed = exporter::pack(
            self.store,
            &exporter::stored(self.store, image)?,
            &Packing::default(),
            &OnlyStore,
        )?;
        let package = Package::from(packed);
        self.bring_blobs(&package, &OnlyStore)?;
        Ok(package)
    }

    /// Has all blobs of a package here that are elsewhere, for an archive. Nothing is unpacked.
    ///
    /// # Errors
    /// [`PushError`].
    pub fn bring_blobs(&self, package: &Package, elsewhere: &dyn Whereabouts) -> Result<(), PushError> {
        let missing: Vec<_> = blobs_of(package, false)
            .into_iter()
            .filter(|(blob, _)| !self.store.has_blob(BlobDigest(blob.digest)))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let sent = Sent::default();
        let sender = Sender::new(self, &[], LayerFormat::default(), elsewhere, &[], &sent);
        let step = self.progress.step("fetching layers");
        let outcome = sender.obtain_all(&missing, &step);
        end(step, outcome)
    }

    fn in_step<T>(
        &self,
        names: &[Reference],
        work: impl FnOnce(&Step) -> Result<T, PushError>,
    ) -> Result<T, PushError> {
        let names: Vec<String> = names.iter().map(Reference::familiar).collect();
        let step = self.progress.step(format!("push {}", names.join(", ")));
        let outcome = work(&step);
        end(step, outcome)
    }
}

fn end<T>(step: Step, outcome: Result<T, PushError>) -> Result<T, PushError> {
    match &outcome {
        Ok(_) => step.done(),
        Err(PushError::Canceled(_)) => drop(step),
        Err(error) => step.failed(error),
    }
    outcome
}

/// The blobs of a package, each once, with the layers that they hold.
fn blobs_of(package: &Package, with_configs: bool) -> Vec<(Descriptor, Option<ImageLayer>)> {
    let mut blobs: Vec<(Descriptor, Option<ImageLayer>)> = Vec::new();
    for packed in &package.images {
        let configs = with_configs.then_some(&packed.config);
        for blob in packed.layers.iter().chain(configs) {
            // An image may hold one layer twice, and images of an index share what they have in common.
            if !blobs.iter().any(|(known, _)| known.digest == blob.digest) {
                blobs.push((blob.clone(), packed.layer_of(blob.digest)));
            }
        }
    }
    blobs
}

/// Does `work` for each, a few at once, and gives the first failure; nothing new is begun after it.
fn side_by_side<T: Sync>(
    items: &[T],
    work: impl Fn(&T) -> Result<(), PushError> + Sync,
) -> Result<(), PushError> {
    let todo = Mutex::new(items.iter());
    let failure = Mutex::new(None);
    let lock =
        |failure: &Mutex<Option<PushError>>| failure.lock().unwrap_or_else(PoisonError::into_inner).is_some();
    std::thread::scope(|scope| {
        for _ in 0..TRANSFERS.min(items.len()) {
            scope.spawn(|| {
                while !lock(&failure) {
                    let next = todo.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some(item) = next else { return };
                    if let Err(error) = work(item) {
                        failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    }
                }
            });
        }
    });
    failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}
