//! An index from a registry with all that it names, so that it can be given out again as it came.

use super::Engine;
use super::pull::{Layers, Policy, PullError, Remotes};
use crate::digest::BlobDigest;
use crate::image::{Descriptor, Document, Manifest};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::store::Lease;
use crate::store::images::StoredImage;

impl Engine<'_> {
    /// Has the images of all platforms here, and the index above them under its name. Gives the image
    /// for `main`, or the first. A name that is no index is pulled as it is.
    ///
    /// # Errors
    /// [`PullError`]; then the name stays what it was.
    pub fn pull_all(&self, reference: &Reference, main: &Platform) -> Result<StoredImage, PullError> {
        let step = self.progress.step(format!("resolve {}", reference.familiar()));
        let outcome = self.wait(self.registry.manifest(reference)).map_err(PullError::from);
        let fetched = match outcome.and_then(|fetched| Ok(fetched?)) {
            Ok(fetched) => {
                step.done();
                fetched
            }
            Err(error) => {
                step.failed(&error);
                return Err(error);
            }
        };
        let index = match fetched.document {
            Document::Index(index) => index,
            Document::Manifest(manifest) => {
                let bytes = self.wait(self.registry.config(reference, &manifest))??;
                let config: crate::image::ImageConfig = serde_json::from_slice(&bytes)
                    .map_err(crate::image::DocumentError::from)
                    .map_err(crate::store::StoreError::from)?;
                return self.pull(reference, &config.platform(), Policy::Always);
            }
        };
        let lease = self.store.lease()?;
        let remotes = Remotes::default();
        let mut members = Vec::with_capacity(index.manifests.len());
        for entry in &index.manifests {
            let at = reference.with_digest(entry.digest);
            let fetched = self.wait(self.registry.manifest(&at))??;
            let Document::Manifest(manifest) = fetched.document else {
                return Err(PullError::Nested { reference: reference.familiar() });
            };
            let digest = self.store.put_blob(&fetched.bytes)?;
            match entry.is_attestation() {
                false => {
                    let image = self.fetch_member(&remotes, &at, &manifest, digest, &lease)?;
                    members.push((image, digest));
                }
                true => self.fetch_blobs(&at, &manifest)?,
            }
        }
        let digest = self.store.put_blob(&fetched.bytes)?;
        self.store.tag_index(reference, digest, &members, main)?;
        let image = self.store.image_named_for(reference, main)?;
        image.ok_or_else(|| PullError::Absent { reference: reference.familiar() })
    }

    fn fetch_member(
        &self,
        remotes: &Remotes,
        at: &Reference,
        manifest: &Manifest,
        digest: BlobDigest,
        lease: &Lease<'_>,
    ) -> Result<crate::digest::ImageId, PullError> {
        let bytes = self.wait(self.registry.config(at, manifest))??;
        let found = self.remote(remotes, at, manifest, &bytes, digest)?;
        Layers { engine: self, remotes }.fetch_all(&found.config.rootfs.diff_ids, lease)?;
        self.store.sync_layers(&found.config.rootfs.diff_ids)?;
        Ok(self.store.put_image(&bytes, Some(digest))?.id)
    }

    /// What an attestation names: kept as it is.
    fn fetch_blobs(&self, at: &Reference, manifest: &Manifest) -> Result<(), PullError> {
        let fetch = |descriptor: &Descriptor| -> Result<(), PullError> {
            let blob = BlobDigest(descriptor.digest);
            if self.store.claim_blob(blob)? {
                return Ok(());
            }
            let step = self.progress.step(format!("pull {}", descriptor.digest.short()));
            let mut writer = self.store.blob_writer()?;
            self.wait(self.registry.blob(at, descriptor, &mut writer, &step))??;
            writer.commit(Some(blob))?;
            step.done();
            Ok(())
        };
        manifest.layers.iter().chain([&manifest.config]).try_for_each(fetch)
    }
}
