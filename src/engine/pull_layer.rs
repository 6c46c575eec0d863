//! One blob on its way here, and the layer in it unpacked while it arrives.
//!
//! ```text
//! network -> partial/sha256/<hex> -> hashed                 this thread
//!                  |
//!                  +-> decompressed -> unpacked in tmp/     a second one
//!                            +-> hashed                     a third one
//! ```
//!
//! Blob and layer become visible when both digests were found right; otherwise neither does. Of
//! processes that want one blob, one fetches it and the others wait: if it dies, the next goes on where
//! it ended.

use std::io;
use std::time::Duration;

use super::Engine;
use super::pull::{Origin, PullError};
use crate::digest::{BlobDigest, DiffId};
use crate::image::Descriptor;
use crate::progress::Step;
use crate::registry::{Failure, Sink};
use crate::store::incoming::{Growing, Incoming, is_no_room};
use crate::store::lock::NameLock;
use crate::store::{Lease, StoreError, layer_blobs};

/// How often one who waits for another process looks again. Waiting in the kernel could not be
/// canceled.
const LOOK_AGAIN: Duration = Duration::from_millis(25);

impl Engine<'_> {
    /// Has a blob here, remembered as that of the layer in it, and the layer unpacked. In this order: who
    /// finds the layer counts on its blob.
    pub(super) fn bring_layer(
        &self,
        origin: &Origin,
        descriptor: &Descriptor,
        diff_id: DiffId,
        lease: &Lease<'_>,
        step: &Step,
    ) -> Result<(), PullError> {
        let (store, blob) = (self.store, BlobDigest(descriptor.digest));
        let unpacked = match self.incoming(descriptor)? {
            None => store.unpack_blob_aside(blob, diff_id, lease)?,
            Some(incoming) => {
                let unpack = |growing: &Growing| store.unpack_growing(growing, diff_id, lease);
                self.bring(origin, descriptor, incoming, step, unpack)?
            }
        };
        let format = layer_blobs::format_of_media_type(descriptor.media_type.as_ref());
        Ok(store.keep_claimed(unpacked, format, blob, descriptor.size, lease)?)
    }

    /// Has a blob here, with a layer in it of which only the digest is asked, and remembers it as that
    /// layer's.
    pub(super) fn bring_packed_layer(
        &self,
        origin: &Origin,
        descriptor: &Descriptor,
        diff_id: DiffId,
        step: &Step,
    ) -> Result<(), PullError> {
        let (store, blob) = (self.store, BlobDigest(descriptor.digest));
        match self.incoming(descriptor)? {
            None => store.check_blob(blob, diff_id)?,
            Some(incoming) => {
                let check = |growing: &Growing| store.check_growing(growing, diff_id);
                self.bring(origin, descriptor, incoming, step, check)?;
            }
        }
        let format = layer_blobs::format_of_media_type(descriptor.media_type.as_ref());
        Ok(store.remember_layer_blob(diff_id, format, blob, descriptor.size)?)
    }

    /// Fetches a blob while `follow` reads it; it is here if both say so, and what `follow` made of it is
    /// given.
    fn bring<T: Send>(
        &self,
        origin: &Origin,
        descriptor: &Descriptor,
        mut incoming: Incoming<'_>,
        step: &Step,
        follow: impl FnOnce(&Growing) -> Result<T, StoreError> + Send,
    ) -> Result<T, PullError> {
        let growing = incoming.growing().map_err(StoreError::from)?;
        std::thread::scope(|scope| {
            let following = scope.spawn(move || follow(&growing));
            let fetched = match self.fetch(origin, descriptor, &mut incoming, step) {
                Ok(()) => incoming.verify().map(|()| incoming).map_err(PullError::from),
                Err(error) => {
                    // What is made of it now comes to nothing.
                    drop(incoming);
                    Err(error)
                }
            };
            let followed = following.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            match (fetched, followed) {
                (Ok(incoming), Ok(made)) => incoming.commit().map(|()| made).map_err(PullError::from),
                (Ok(_), Err(error)) => Err(error.into()),
                (Err(error), _) => Err(error),
            }
        })
    }

    /// Has a blob here.
    pub(super) fn bring_blob(
        &self,
        origin: &Origin,
        descriptor: &Descriptor,
        step: &Step,
    ) -> Result<(), PullError> {
        let Some(mut incoming) = self.incoming(descriptor)? else { return Ok(()) };
        self.fetch(origin, descriptor, &mut incoming, step)?;
        incoming.verify()?;
        Ok(incoming.commit()?)
    }

    fn fetch(
        &self,
        origin: &Origin,
        descriptor: &Descriptor,
        incoming: &mut Incoming<'_>,
        step: &Step,
    ) -> Result<(), PullError> {
        let fetched = match origin {
            Origin::Image(reference) => self
                .wait(self.registry.blob(reference, descriptor, incoming, step))?
                .map_err(|error| match &*error.failure {
                    Failure::Sink(cause) if is_no_room(cause) => StoreError::NoSpace.into(),
                    _ => PullError::from(error),
                }),
            Origin::Cache(cache) => {
                self.wait(cache.blob(descriptor, incoming, step))?.map_err(PullError::from)
            }
        };
        fetched.map_err(|error| if is_no_room(&error) { StoreError::NoSpace.into() } else { error })
    }

    /// A place for a blob's bytes; nothing if it is here, by now perhaps.
    fn incoming(&self, descriptor: &Descriptor) -> Result<Option<Incoming<'_>>, PullError> {
        let (store, blob) = (self.store, BlobDigest(descriptor.digest));
        loop {
            if store.claim_blob(blob)? {
                return Ok(None);
            }
            if let Some(incoming) = store.try_incoming(blob, descriptor.size)? {
                return Ok(if store.has_blob(blob) { None } else { Some(incoming) });
            }
            self.wait(async { tokio::time::sleep(LOOK_AGAIN).await })?;
        }
    }

    /// A lock of the store, waited for in a way that can be canceled.
    pub(super) fn lock(&self, name: &str) -> Result<NameLock, PullError> {
        loop {
            if let Some(lock) = self.store.try_lock_name(name)? {
                return Ok(lock);
            }
            self.wait(async { tokio::time::sleep(LOOK_AGAIN).await })?;
        }
    }
}

/// The bytes count only once the blob is committed, so they may begin anew.
impl Sink for Incoming<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        Incoming::write(self, bytes)
    }

    fn restart(&mut self) -> io::Result<bool> {
        Incoming::restart(self)?;
        Ok(true)
    }

    fn resume(&mut self) -> io::Result<u64> {
        Incoming::resume(self)
    }

    fn digest(&self) -> Option<crate::digest::Digest> {
        Some(Incoming::digest(self))
    }
}
