//! Blobs to repositories, each by the cheapest way there is.
//!
//! ```text
//! this process brought it there                      nothing is asked
//! the registry has it, or mounts it                  its bytes are not even here, perhaps
//! its file is here                                   sent
//! it is at another registry, or in a build cache     relayed, or fetched and sent
//! the layer is here, the blob was removed            compressed again and sent
//! a layer that was never compressed                  compressed; a large one is sent meanwhile
//! ```
//!
//! Layers are compressed one at a time, each with all processors, and sent a few at a time.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, watch};

use super::super::pull::{Origin, PullError};
use super::super::{Canceled, Engine};
use super::PushError;
use crate::digest::{BlobDigest, Digest};
use crate::exporter::{self, ExportError, ImageLayer, LayerFormat, Place, Whereabouts, Written};
use crate::image::Descriptor;
use crate::progress::{Step, Stream};
use crate::reference::Reference;
use crate::registry::{Failure, Growth, Help, Pushed, RegistryError, Unfinished};
use crate::store::Store;
use crate::store::uploads::PendingUpload;

/// Layers whose files take as much are sent while they are compressed.
const STREAMED: u64 = 32 << 20;
/// Blobs of this size and more go a few at a time only: some registries keep nothing of an upload that
/// was cut off, and what is whole by then is all that is not sent again.
const LARGE: u64 = 64 << 20;
const LARGE_AT_ONCE: usize = 2;

/// What a process has seen to be in which repositories.
#[derive(Debug, Default)]
pub struct Sent(Mutex<HashSet<(String, String, Digest)>>);

impl Sent {
    fn key(to: &Reference, blob: Digest) -> (String, String, Digest) {
        (to.registry().to_owned(), to.repository().to_owned(), blob)
    }

    fn has(&self, to: &Reference, blob: Digest) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&Self::key(to, blob))
    }

    fn add(&self, to: &Reference, blob: Digest) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(Self::key(to, blob));
    }
}

/// Where an upload is remembered.
struct Memory<'s>(Mutex<PendingUpload<'s>>);

impl<'s> Memory<'s> {
    fn pending(&self) -> MutexGuard<'_, PendingUpload<'s>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Unfinished for Memory<'_> {
    fn recall(&self) -> Option<String> {
        self.pending().recall()
    }

    fn remember(&self, location: &str) {
        self.pending().remember(location);
    }

    fn forget(&self) {
        self.pending().forget();
    }
}

/// What brings blobs to some repositories.
pub(super) struct Sender<'s> {
    engine: &'s Engine<'s>,
    /// One name a repository.
    to: Vec<Reference>,
    format: LayerFormat,
    elsewhere: &'s dyn Whereabouts,
    /// Names of the images, whose repositories may have the blobs.
    names: Vec<Reference>,
    sent: &'s Sent,
    /// Held by whoever compresses.
    compressing: Mutex<()>,
    /// Held by whoever sends a large blob.
    large: Semaphore,
    /// Uploads that the work's end cut off.
    cut: Mutex<Vec<(Reference, Memory<'s>)>>,
}

impl<'s> Sender<'s> {
    /// What sends to the repositories of `to`.
    pub(super) fn new(
        engine: &'s Engine<'s>,
        to: &[Reference],
        format: LayerFormat,
        elsewhere: &'s dyn Whereabouts,
        names: &[Reference],
        sent: &'s Sent,
    ) -> Self {
        let mut repositories: Vec<Reference> = Vec::new();
        for name in to {
            let same = |other: &Reference| {
                (other.registry(), other.repository()) == (name.registry(), name.repository())
            };
            if !repositories.iter().any(same) {
                repositories.push(name.clone());
            }
        }
        let (names, large) = (names.to_vec(), Semaphore::new(LARGE_AT_ONCE));
        let (compressing, cut) = (Mutex::default(), Mutex::default());
        Self { engine, to: repositories, format, elsewhere, names, sent, compressing, large, cut }
    }

    fn store(&self) -> &'s Store {
        self.engine.store
    }

    /// Has a layer in all repositories, compressed now if it never was.
    ///
    /// # Errors
    /// [`PushError`].
    pub(super) fn layer(&self, layer: &ImageLayer, step: &Step) -> Result<Descriptor, PushError> {
        let known = || exporter::known_blob(self.store(), layer, self.format, self.elsewhere);
        let blob = match known()? {
            Some(known) => known,
            None => {
                let turn = self.compressing.lock().unwrap_or_else(PoisonError::into_inner);
                // An image may hold one layer twice.
                match known()? {
                    Some(known) => known,
                    None => self.compress(layer, turn, step)?,
                }
            }
        };
        self.blob(&blob, Some(layer), step)?;
        Ok(blob)
    }

    /// Compresses a layer; a large one is on its way to the first repository meanwhile.
    /// The next one may be compressed while the last of it is sent.
    fn compress(
        &self,
        layer: &ImageLayer,
        turn: MutexGuard<'_, ()>,
        step: &Step,
    ) -> Result<Descriptor, PushError> {
        let (store, compression) = (self.store(), self.format.compression);
        let is_large = store.layer_size(layer.diff_id)? >= STREAMED;
        let Some(to) = self.to.first().filter(|_| is_large) else {
            return Ok(exporter::compress_layer(store, layer, compression, &mut |_| {})?);
        };
        let memory = store.pending_layer(to, layer.diff_id, &compression.version())?;
        let memory = memory.map(|pending| Memory(Mutex::new(pending)));
        let (grow, growth) = watch::channel(Growth::default());
        let file: Mutex<Option<File>> = Mutex::default();
        let source = |offset: u64| {
            let file = file.lock().unwrap_or_else(PoisonError::into_inner);
            let file = file.as_ref().ok_or(std::io::ErrorKind::NotFound)?;
            Ok(Box::new(At { file: file.try_clone()?, offset }) as Box<dyn Read + Send>)
        };
        let part = layer.diff_id.0.short();
        let (made, sent) = std::thread::scope(|scope| {
            let sending = scope.spawn(|| {
                let unfinished = memory.as_ref().map(|memory| memory as &dyn Unfinished);
                let push = self.engine.registry.push_growing(to, &part, growth, unfinished, &source, step);
                self.engine.wait(push)
            });
            let made = exporter::compress_layer(store, layer, compression, &mut |written| match written {
                Written::File(written) => {
                    *file.lock().unwrap_or_else(PoisonError::into_inner) = written.try_clone().ok();
                }
                Written::Bytes(size) => {
                    grow.send_if_modified(|growth| {
                        growth.size = size;
                        true
                    });
                }
                Written::Whole(blob) => {
                    let whole = Some(blob.clone());
                    grow.send_modify(|growth| *growth = Growth { size: blob.size, whole });
                }
            });
            // Without a whole blob the upload ends now.
            drop(grow);
            drop(turn);
            (made, sending.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        let blob = made?;
        match sent {
            Ok(Ok(how)) => self.arrived(to, &blob, Some(layer), how, step)?,
            // The blob is whole now and is sent as any other; that says what is wrong, if it still is.
            Ok(Err(_)) => {}
            Err(Canceled) => {
                self.keep_cut(to, memory);
                return Err(Canceled.into());
            }
        }
        Ok(blob)
    }

    /// Whether a layer is known to be in all repositories.
    ///
    /// # Errors
    /// What the store gives.
    pub(super) fn is_sent(&self, layer: &ImageLayer) -> Result<bool, PushError> {
        let known = exporter::known_blob(self.store(), layer, self.format, self.elsewhere)?;
        Ok(known.is_some_and(|blob| self.to.iter().all(|to| self.sent.has(to, blob.digest))))
    }

    /// Has a blob in all repositories; `layer` is what it holds.
    ///
    /// # Errors
    /// [`PushError`].
    pub(super) fn blob(
        &self,
        blob: &Descriptor,
        layer: Option<&ImageLayer>,
        step: &Step,
    ) -> Result<(), PushError> {
        self.to.iter().try_for_each(|to| {
            if self.sent.has(to, blob.digest) {
                return Ok(());
            }
            let how = self.bring(to, blob, layer, step)?;
            self.arrived(to, blob, layer, how, step)
        })
    }

    fn arrived(
        &self,
        to: &Reference,
        blob: &Descriptor,
        layer: Option<&ImageLayer>,
        how: Pushed,
        step: &Step,
    ) -> Result<(), PushError> {
        self.sent.add(to, blob.digest);
        let short = blob.digest.short();
        let said = match how {
            Pushed::Existed => "Layer already exists",
            Pushed::Mounted => "Mounted from another repository",
            Pushed::Uploaded => "Pushed",
        };
        if how != Pushed::Uploaded {
            step.transfer(&short, blob.size, Some(blob.size));
        }
        if let Some(layer) = layer {
            step.output(Stream::Stdout, format!("{short}: {said}\n").as_bytes());
            self.store().remember_places(to, [(layer.diff_id, blob)])?;
        }
        Ok(())
    }

    fn bring(
        &self,
        to: &Reference,
        blob: &Descriptor,
        layer: Option<&ImageLayer>,
        step: &Step,
    ) -> Result<Pushed, PushError> {
        let (engine, digest) = (self.engine, BlobDigest(blob.digest));
        let places = self.places(blob, layer)?;
        let mounts = self.mounts(to, blob, &places);
        if !self.store().claim_blob(digest)? {
            let claim = engine.registry.claim_blob(to, blob.digest, &mounts);
            if let Some(how) = engine.wait(claim)?? {
                return Ok(how);
            }
            // What can be made here need not come over a network.
            if !self.remake(blob, layer)? {
                if let Some(how) = self.relay(to, blob, &places, step)? {
                    return Ok(how);
                }
                let caches: Vec<Place> = places.into_iter().filter(is_cache).collect();
                self.fetch(blob, layer, &caches, step)?;
            }
        }
        let memory = self.memory(to, digest, layer)?;
        let source = |offset: u64| {
            let (mut file, _) = self.store().open_blob(digest).map_err(std::io::Error::other)?;
            file.seek(SeekFrom::Start(offset))?;
            Ok(Box::new(file) as Box<dyn Read + Send>)
        };
        let unfinished = memory.as_ref().map(|memory| memory as &dyn Unfinished);
        let help = Help { mounts: &mounts, unfinished };
        let push = async {
            // Never closed, so that it is always given.
            let _turn = match blob.size >= LARGE {
                true => self.large.acquire().await.ok(),
                false => None,
            };
            engine.registry.push_blob_with(to, blob, help, &source, step).await
        };
        match engine.wait(push) {
            Ok(Err(error)) if self.was_damaged(&error, digest) => Err(ExportError::Damaged(digest).into()),
            Ok(sent) => Ok(sent?),
            Err(Canceled) => {
                self.keep_cut(to, memory);
                Err(Canceled.into())
            }
        }
    }

    /// Whether a registry refused a blob because the one here is damaged; then it is removed, so that
    /// the next push makes or fetches it anew.
    fn was_damaged(&self, error: &RegistryError, blob: BlobDigest) -> bool {
        let is_about_bytes =
            matches!(*error.failure, Failure::Status { status: 400, .. } | Failure::Source(_));
        is_about_bytes && self.store().drop_damaged_blob(blob).unwrap_or(false)
    }

    /// Where the upload of a blob is remembered: under its own name, or under that of the layer, if it
    /// was begun while that was being compressed.
    fn memory(
        &self,
        to: &Reference,
        blob: BlobDigest,
        layer: Option<&ImageLayer>,
    ) -> Result<Option<Memory<'s>>, PushError> {
        let pending = self.store().pending_upload(to, blob)?;
        if let (Some(layer), Some(own)) = (layer, &pending)
            && own.recall().is_none()
        {
            for version in self.store().compressions_of(layer.diff_id, blob)? {
                if let Some(begun) = self.store().pending_layer(to, layer.diff_id, &version)? {
                    own.take_over(&begun);
                }
            }
        }
        Ok(pending.map(|pending| Memory(Mutex::new(pending))))
    }

    /// Where a blob is besides here.
    fn places(&self, blob: &Descriptor, layer: Option<&ImageLayer>) -> Result<Vec<Place>, PushError> {
        let Some(layer) = layer else { return Ok(Vec::new()) };
        let built_on = self.elsewhere.place(layer.diff_id);
        let built_on = built_on.filter(|(_, there)| there.digest == blob.digest).map(|(place, _)| place);
        let remembered = self.store().places(layer.diff_id)?.into_iter();
        let remembered = remembered.filter(|place| place.blob.0 == blob.digest);
        Ok(built_on.into_iter().chain(remembered.map(|place| Place::Repository(place.repository))).collect())
    }

    /// The repositories of the same registry that may have a blob, the likeliest first.
    fn mounts(&self, to: &Reference, blob: &Descriptor, places: &[Place]) -> Vec<Reference> {
        let there = places.iter().filter_map(|place| match place {
            Place::Repository(repository) => Some(repository),
            Place::Cache(_) => None,
        });
        let there = there.chain(self.to.iter().filter(|other| self.sent.has(other, blob.digest)));
        // A name may never have been pushed; it is a guess where nothing better is known.
        let guesses = if places.is_empty() { self.names.as_slice() } else { &[] };
        let mut mounts: Vec<Reference> = Vec::new();
        let repository = |name: &Reference| (name.registry().to_owned(), name.repository().to_owned());
        for name in there.chain(guesses) {
            let is_new = mounts.iter().all(|other| repository(other) != repository(name));
            if is_new && name.registry() == to.registry() && name.repository() != to.repository() {
                mounts.push(name.clone());
            }
        }
        mounts
    }

    /// From another registry past this disk, if one has it. One that cannot be asked is passed over.
    ///
    /// # Errors
    /// What kept the first such registry from saying, if no other has the blob and no build cache may.
    fn relay(
        &self,
        to: &Reference,
        blob: &Descriptor,
        places: &[Place],
        step: &Step,
    ) -> Result<Option<Pushed>, PushError> {
        let mut unreachable = None;
        for place in places {
            let Place::Repository(from) = place else { continue };
            // Asked first: an upload that waits for bytes that never come ends badly and late.
            match self.engine.wait(self.engine.registry.has_blob(from, blob.digest))? {
                Ok(true) => {}
                Ok(false) => {
                    self.store().forget_place(from, BlobDigest(blob.digest))?;
                    continue;
                }
                Err(error) => {
                    unreachable.get_or_insert(error);
                    continue;
                }
            }
            match self.engine.wait(self.engine.registry.relay_blob(from, to, blob, step))? {
                Ok(how) => return Ok(Some(how)),
                // It is asked no more; another place may have it.
                Err(error) if error.is_not_found() => {
                    self.store().forget_place(from, BlobDigest(blob.digest))?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        match unreachable {
            Some(error) if !places.iter().any(is_cache) => Err(error.into()),
            _ => Ok(None),
        }
    }

    /// Compresses a layer again into a blob that was here once, if that is possible.
    fn remake(&self, blob: &Descriptor, layer: Option<&ImageLayer>) -> Result<bool, PushError> {
        let Some(layer) = layer else { return Ok(false) };
        let _turn = self.compressing.lock().unwrap_or_else(PoisonError::into_inner);
        let digest = BlobDigest(blob.digest);
        Ok(self.store().claim_blob(digest)? || exporter::compress_again(self.store(), layer, digest)?)
    }

    /// Has a blob in the store, from a repository or a build cache; of a layer's it is checked that the
    /// layer is in it.
    fn fetch(
        &self,
        blob: &Descriptor,
        layer: Option<&ImageLayer>,
        places: &[Place],
        step: &Step,
    ) -> Result<(), PushError> {
        let digest = BlobDigest(blob.digest);
        let mut failure = None;
        for place in places {
            let origin = match place {
                Place::Repository(from) => Origin::Image(from.clone()),
                Place::Cache(cache) => Origin::Cache(Arc::clone(cache)),
            };
            let brought = match layer {
                Some(layer) => self.engine.bring_packed_layer(&origin, blob, layer.diff_id, step),
                None => self.engine.bring_blob(&origin, blob, step),
            };
            let error = match (brought, place) {
                (Ok(()), _) => return Ok(()),
                (Err(PullError::Registry(error)), Place::Repository(from)) if error.is_not_found() => {
                    self.store().forget_place(from, digest)?;
                    continue;
                }
                (Err(PullError::Registry(error)), _) => error.into(),
                (Err(PullError::Cache(error)), _) => PushError::Cache(error),
                (Err(PullError::Store(error)), _) => return Err(error.into()),
                (Err(PullError::Canceled(canceled)), _) => return Err(canceled.into()),
                // What else can be wrong with an image is not wrong with a blob.
                (Err(_), _) => return Err(PushError::Nowhere { blob: digest }),
            };
            // Another place may have it.
            failure.get_or_insert(error);
        }
        Err(failure.unwrap_or(PushError::Nowhere { blob: digest }))
    }

    /// Has all layers of a package in the store.
    ///
    /// # Errors
    /// [`PushError::Nowhere`] if one cannot be had any more.
    pub(super) fn obtain_all(
        &self,
        layers: &[(Descriptor, Option<ImageLayer>)],
        step: &Step,
    ) -> Result<(), PushError> {
        super::side_by_side(layers, |(blob, layer)| {
            if self.store().claim_blob(BlobDigest(blob.digest))? {
                return Ok(());
            }
            match self.remake(blob, layer.as_ref())? {
                true => Ok(()),
                false => self.fetch(blob, layer.as_ref(), &self.places(blob, layer.as_ref())?, step),
            }
        })
    }

    fn keep_cut(&self, to: &Reference, memory: Option<Memory<'s>>) {
        if let Some(memory) = memory {
            self.cut.lock().unwrap_or_else(PoisonError::into_inner).push((to.clone(), memory));
        }
    }

    /// Tells registries that nobody goes on with the uploads that were cut off. Given up after a
    /// moment: they find out by themselves some day.
    pub(super) fn take_back(&self) {
        let cut = std::mem::take(&mut *self.cut.lock().unwrap_or_else(PoisonError::into_inner));
        for (to, memory) in cut {
            let cancel = self.engine.registry.cancel_upload(&to, &memory);
            self.engine.runtime.block_on(async {
                let _ = tokio::time::timeout(std::time::Duration::from_secs(5), cancel).await;
            });
        }
    }
}

fn is_cache(place: &Place) -> bool {
    matches!(place, Place::Cache(_))
}

/// Reads a file that somebody else writes to, from a place of its own.
struct At {
    file: File,
    offset: u64,
}

impl Read for At {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        use std::os::unix::fs::FileExt;
        let length = self.file.read_at(buffer, self.offset)?;
        self.offset += length as u64;
        Ok(length)
    }
}

/// The bytes count only once the blob is committed, so they may begin anew.
impl crate::registry::Sink for crate::store::blobs::BlobWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        std::io::Write::write_all(self, bytes)
    }

    fn restart(&mut self) -> std::io::Result<bool> {
        crate::store::blobs::BlobWriter::restart(self)?;
        Ok(true)
    }
}
