//! An index from a registry with all that it names, so that it can be given out again as it came.

use super::Engine;
use super::pull::{Layers, Origin, Policy, PullError, Pulled, Remotes};
use super::pull_find::check_is_image;
use crate::digest::BlobDigest;
use crate::image::{Descriptor, Document, Manifest};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::store::Lease;

impl Engine<'_> {
    /// Has the images of all platforms here, and the index above them under its name. Gives the image
    /// for `main`, or the first. A name that is no index is pulled as it is.
    ///
    /// # Errors
    /// [`PullError`]; then the name stays what it was.
    pub fn pull_all(&self, reference: &Reference, main: &Platform) -> Result<Pulled, PullError> {
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
                check_is_image(reference, &manifest)?;
                let bytes = self.wait(self.find_config(reference, &manifest))??;
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
        let before = self.store.index_named(reference)?;
        self.store.tag_index(reference, digest, &members, main)?;
        let image = self.store.image_named_for(reference, main)?;
        let image = image.ok_or_else(|| PullError::Absent { reference: reference.familiar() })?;
        let is_new = before.is_none_or(|before| before.digest != digest);
        self.tell_of_pull(reference, image.id);
        Ok(Pulled { image, digest: Some(digest.0), is_new })
    }

    fn fetch_member(
        &self,
        remotes: &Remotes,
        at: &Reference,
        manifest: &Manifest,
        digest: BlobDigest,
        lease: &Lease<'_>,
    ) -> Result<crate::digest::ImageId, PullError> {
        check_is_image(at, manifest)?;
        let bytes = self.wait(self.find_config(at, manifest))??;
        let found = self.remote(remotes, at, manifest, &bytes, digest)?;
        Layers { engine: self, remotes }.fetch_all(&found.config.rootfs.diff_ids, lease)?;
        self.sync_without_blobs(&found.config.rootfs.diff_ids)?;
        Ok(self.store.put_image(&bytes, Some(digest))?.id)
    }

    /// What an attestation names: kept as it is.
    fn fetch_blobs(&self, at: &Reference, manifest: &Manifest) -> Result<(), PullError> {
        let fetch = |descriptor: &Descriptor| -> Result<(), PullError> {
            if self.store.claim_blob(BlobDigest(descriptor.digest))? {
                return Ok(());
            }
            let step = self.progress.step(format!("pull {}", descriptor.digest.short()));
            self.bring_blob(&Origin::Image(at.clone()), descriptor, &step)?;
            step.done();
            Ok(())
        };
        manifest.layers.iter().chain([&manifest.config]).try_for_each(fetch)
    }
}
