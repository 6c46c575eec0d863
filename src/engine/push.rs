//! Images to registries.

use crate::exporter::{self, ExportError, LayerFormat, Package, Packing, push};
use crate::image::Descriptor;
use crate::reference::Reference;
use crate::store::images::StoredImage;

use super::{Canceled, Engine};

/// Why an image was not sent.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    #[error(transparent)]
    Export(#[from] ExportError),
    #[error(transparent)]
    Canceled(#[from] Canceled),
}

impl From<crate::store::StoreError> for PushError {
    fn from(error: crate::store::StoreError) -> Self {
        Self::Export(error.into())
    }
}

impl Engine<'_> {
    /// Sends an image of the store to the registry of `name`; gives what the registry holds then.
    /// An image that came with a manifest goes with that one: nothing that is there moves again.
    ///
    /// # Errors
    /// [`PushError`]; then `name` at the registry is what it was.
    pub fn push(
        &self,
        image: &StoredImage,
        name: &Reference,
        format: LayerFormat,
    ) -> Result<Descriptor, PushError> {
        let step = self.progress.step(format!("push {}", name.familiar()));
        let outcome = self.push_with(image, name, format, &step);
        match &outcome {
            Ok(_) => step.done(),
            Err(error) => step.failed(error),
        }
        outcome
    }

    fn push_with(
        &self,
        image: &StoredImage,
        name: &Reference,
        format: LayerFormat,
        step: &crate::progress::Step,
    ) -> Result<Descriptor, PushError> {
        let original = match image.manifest.filter(|_| !format.force) {
            Some(manifest) => exporter::original(self.store, manifest)?,
            None => None,
        };
        let packed = match original {
            Some(packed) => packed,
            None => {
                let whole = exporter::stored(self.store, image)?;
                let packed = exporter::pack(self.store, &whole, &Packing { format, ..Packing::default() })?;
                let manifest = self.store.put_blob(&packed.bytes)?;
                self.store.put_image(&whole.bytes, Some(manifest))?;
                packed
            }
        };
        let sources = self.store.names_of(image.id)?;
        let package = Package::from(packed);
        Ok(self.wait(push::push(&self.registry, self.store, name, &package, &sources, step))??)
    }

    /// Sends a package whose blobs are all in the store to the registry of `name`: an index with all
    /// of its images. Layers that are there under one of the names `known` are not sent again.
    ///
    /// # Errors
    /// [`PushError`]; then `name` at the registry is what it was.
    pub fn push_package(
        &self,
        package: &Package,
        name: &Reference,
        known: &[Reference],
    ) -> Result<Descriptor, PushError> {
        let step = self.progress.step(format!("push {}", name.familiar()));
        let push = push::push(&self.registry, self.store, name, package, known, &step);
        let outcome = self.wait(push).map_err(PushError::from).and_then(|sent| Ok(sent?));
        match &outcome {
            Ok(_) => step.done(),
            Err(error) => step.failed(error),
        }
        outcome
    }
}
