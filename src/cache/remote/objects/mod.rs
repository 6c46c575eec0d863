//! A cache in an object store: a document of records by name, and blobs by digest.
//!
//! ```text
//! PREFIX/manifests/NAME.stave     the records
//! PREFIX/blobs/sha256:HEX         a layer's blob; the same key that BuildKit gives it
//! ```
//!
//! BuildKit keeps its own records under `manifests/NAME`. Ours have another form, so they have another
//! key, and both can use one bucket and one name.
//!
//! Stores know nothing of digests. What is read is checked here, and what is written is checked before
//! its last part goes out. A blob that is there with the right size is taken for the right one: keys
//! are written once and with one content.

mod connector;

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutPayload};
use tokio::sync::Semaphore;

use super::checked::Checked;
use super::parts::{Part, Parts, part_size};
use super::{PlaceError, RECORDS_LIMIT};
use crate::digest::Digest;
use crate::image::Descriptor;
use crate::progress::Step;
use crate::registry::{Client, Failure, Sink, Source};

pub(super) use connector::{Connector, failure_of};

/// How much must arrive for a connection that then breaks to count as progress.
const PROGRESS: u64 = 1 << 20;

/// What a store must do.
pub(super) trait Storage: ObjectStore + MultipartStore {}
impl<S: ObjectStore + MultipartStore> Storage for S {}

/// How a store makes an object look new, so that rules of its bucket do not drop it.
pub(super) trait Refresh: Send + Sync {
    /// Whether it is due for an object. The size matters: stores refuse to copy very large ones.
    fn is_due(&self, modified: i64) -> bool;

    /// Does it.
    fn refresh<'a>(&'a self, object: &'a ObjectMeta) -> BoxFuture<'a, Result<(), Failure>>;
}

/// Where things are in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Keys {
    pub(super) blobs: String,
    pub(super) manifests: String,
    /// At least one. The first is read, all are written.
    pub(super) names: Vec<String>,
}

impl Keys {
    fn blob(&self, digest: Digest) -> String {
        format!("{}{digest}", self.blobs)
    }

    fn records(&self) -> impl Iterator<Item = String> {
        self.names.iter().map(|name| format!("{}{name}.stave", self.manifests))
    }

    /// Whether all of them can be keys: no empty or relative segments.
    pub(super) fn are_valid(&self) -> bool {
        self.records().chain([self.blob(Digest::of(b""))]).all(|key| Path::parse(key).is_ok())
    }
}

/// A cache in a store.
pub(super) struct Objects {
    /// What people call it.
    pub(super) place: String,
    /// Its host, for errors.
    pub(super) host: String,
    pub(super) store: Arc<dyn Storage>,
    pub(super) client: Client,
    /// How often to try in all, if that is not the client's own number.
    pub(super) attempts: Option<u32>,
    pub(super) keys: Keys,
    /// How many parts are on their way at once, of all blobs together.
    pub(super) slots: Semaphore,
    pub(super) refresh: Option<Box<dyn Refresh>>,
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place)
    }
}

/// What is there under a key.
enum There {
    Nothing,
    /// It is to be written again: it has another size, or would be dropped soon.
    Stale,
    Fresh,
}

impl Objects {
    async fn told<T>(
        &self,
        doing: impl FnOnce() -> String,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, PlaceError> {
        work.await.map_err(|failure| PlaceError::Place {
            place: self.place.clone(),
            reason: format!("cannot {}: {failure}", doing()),
        })
    }

    fn path(&self, key: &str) -> Result<Path, Failure> {
        Path::parse(key).map_err(|error| Failure::Setup(error.to_string()))
    }

    fn failure(&self, error: &object_store::Error) -> Failure {
        failure_of(error, &self.host)
    }

    /// What is known of an object, or nothing if there is none.
    async fn meta(&self, path: &Path) -> Result<Option<ObjectMeta>, Failure> {
        match self.store.head(path).await {
            Ok(meta) => Ok(Some(meta)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failure(&error)),
        }
    }

    async fn there(&self, path: &Path, size: u64) -> Result<There, Failure> {
        let Some(meta) = self.meta(path).await? else { return Ok(There::Nothing) };
        if meta.size != size {
            return Ok(There::Stale);
        }
        match self.refresh.as_ref().filter(|refresh| refresh.is_due(meta.last_modified.timestamp())) {
            None => Ok(There::Fresh),
            // Writing it again makes it new as well, and says what keeps us from it.
            Some(refresh) => match refresh.refresh(&meta).await {
                Ok(()) => Ok(There::Fresh),
                Err(_) => Ok(There::Stale),
            },
        }
    }

    /// One request for the records. After a cut they are asked for anew: they may be others now.
    async fn fetch_records(&self) -> Result<Option<Vec<u8>>, Failure> {
        let key = self.keys.records().next().expect("there is at least one name");
        let path = self.path(&key)?;
        let mut tries = self.client.tries(self.attempts);
        loop {
            let found = match self.store.get_opts(&path, GetOptions::default()).await {
                Ok(found) => found,
                Err(object_store::Error::NotFound { .. }) => return Ok(None),
                Err(error) => return Err(self.failure(&error)),
            };
            let too_large = Failure::TooLarge { what: "the document of records", limit: RECORDS_LIMIT };
            if found.meta.size > RECORDS_LIMIT {
                return Err(too_large);
            }
            let size = found.meta.size;
            let mut bytes = Vec::new();
            let mut chunks = found.into_stream();
            let failure = loop {
                match chunks.next().await {
                    Some(Ok(chunk)) => bytes.extend_from_slice(&chunk),
                    Some(Err(error)) => break self.failure(&error),
                    None if bytes.len() as u64 == size => return Ok(Some(bytes)),
                    None => break self.cut(bytes.len() as u64, size),
                }
                if bytes.len() as u64 > RECORDS_LIMIT {
                    return Err(too_large);
                }
            };
            tries.after(failure).await?;
        }
    }

    fn cut(&self, at: u64, size: u64) -> Failure {
        let reason = format!("it ended after {at} of {size} bytes");
        Failure::Interrupted { host: self.host.clone(), reason }
    }

    async fn fetch(&self, mut blob: Checked<'_>, descriptor: &Descriptor) -> Result<(), Failure> {
        let path = self.path(&self.keys.blob(descriptor.digest))?;
        let mut tries = self.client.tries(self.attempts);
        loop {
            let before = blob.received();
            match self.fetch_rest(&path, &mut blob, descriptor.size).await {
                Ok(()) => return blob.finish(),
                Err(failure) => {
                    if blob.received() - before >= PROGRESS {
                        tries.progressed();
                    }
                    tries.after(failure).await?;
                }
            }
        }
    }

    /// One request for what is still missing.
    async fn fetch_rest(&self, path: &Path, blob: &mut Checked<'_>, size: u64) -> Result<(), Failure> {
        let from = blob.received();
        if from == size && size > 0 {
            return Ok(());
        }
        let range = (from > 0).then_some(GetRange::Offset(from));
        let found = match self.store.get_opts(path, GetOptions { range, ..GetOptions::default() }).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => {
                let (registry, what, detail) = (self.place.clone(), "such blob".to_owned(), String::new());
                return Err(Failure::NotFound { registry, what, detail });
            }
            Err(error) => return Err(self.failure(&error)),
        };
        if found.meta.size != size {
            return Err(Failure::WrongSize { wanted: size, found: found.meta.size });
        }
        let mut chunks = found.into_stream();
        while let Some(chunk) = chunks.next().await {
            blob.take(&chunk.map_err(|error| self.failure(&error))?)?;
        }
        if blob.is_whole() { Ok(()) } else { Err(self.cut(blob.received(), size)) }
    }

    async fn send(&self, descriptor: &Descriptor, source: &dyn Source, step: &Step) -> Result<(), Failure> {
        let path = self.path(&self.keys.blob(descriptor.digest))?;
        if let There::Fresh = self.there(&path, descriptor.size).await? {
            return Ok(());
        }
        let mut parts = Parts::of(descriptor, source)?;
        let (name, size) = (descriptor.digest.short(), descriptor.size);
        if part_size(size) >= size {
            let part = parts.next().await?.expect("every blob has a part");
            self.put(&path, part.bytes.into()).await?;
            step.transfer(&name, size, Some(size));
            return Ok(());
        }
        let upload = Upload::begin(self, path).await?;
        let (mut sent, mut done) = (0, Vec::new());
        let mut under_way = FuturesUnordered::new();
        let mut next = Some(parts.next().await?).flatten();
        while next.is_some() || !under_way.is_empty() {
            // A part takes a slot before the one after it is read, which bounds what is in memory.
            tokio::select! {
                slot = self.slots.acquire(), if next.is_some() => {
                    let slot = slot.expect("the slots are never closed");
                    let part = next.take().expect("there is a part");
                    under_way.push(upload.part(part).map(move |outcome| { drop(slot); outcome }));
                    next = parts.next().await?;
                }
                Some(outcome) = under_way.next(), if !under_way.is_empty() => {
                    let (number, length, id) = outcome?;
                    done.push((number, id));
                    sent += length;
                    step.transfer(&name, sent, Some(size));
                }
            }
        }
        drop(under_way);
        done.sort_by_key(|(number, _)| *number);
        upload.complete(done.into_iter().map(|(_, id)| id).collect(), size).await
    }

    /// As [`CacheReader::records`](super::CacheReader::records).
    pub(super) async fn records(&self) -> Result<Option<Vec<u8>>, PlaceError> {
        self.told(|| "read the records".to_owned(), self.fetch_records()).await
    }

    /// As [`CacheReader::blob`](super::CacheReader::blob).
    pub(super) async fn blob(
        &self,
        descriptor: &Descriptor,
        sink: &mut dyn Sink,
        step: &Step,
    ) -> Result<(), PlaceError> {
        let fetch = self.fetch(Checked::new(descriptor, sink, step), descriptor);
        self.told(|| format!("fetch the blob `{}`", descriptor.digest), fetch).await
    }

    /// As [`CacheWriter::has_blob`](super::CacheWriter::has_blob).
    pub(super) async fn has_blob(&self, digest: Digest, size: u64) -> Result<bool, PlaceError> {
        let look = async {
            let path = self.path(&self.keys.blob(digest))?;
            Ok(matches!(self.there(&path, size).await?, There::Fresh))
        };
        self.told(|| format!("look for the blob `{digest}`"), look).await
    }

    /// As [`CacheWriter::put_blob`](super::CacheWriter::put_blob).
    pub(super) async fn put_blob(
        &self,
        descriptor: &Descriptor,
        source: &dyn Source,
        step: &Step,
    ) -> Result<(), PlaceError> {
        let send = self.send(descriptor, source, step);
        self.told(|| format!("send the blob `{}`", descriptor.digest), send).await
    }

    /// As [`CacheWriter::put_records`](super::CacheWriter::put_records).
    pub(super) async fn put_records(&self, records: &[u8]) -> Result<(), PlaceError> {
        let put = async {
            for key in self.keys.records() {
                self.put(&self.path(&key)?, PutPayload::from(records.to_vec())).await?;
            }
            Ok(())
        };
        self.told(|| "write the records".to_owned(), put).await
    }

    async fn put(&self, path: &Path, payload: PutPayload) -> Result<(), Failure> {
        let _slot = self.slots.acquire().await.expect("the slots are never closed");
        self.store.put(path, payload).await.map(drop).map_err(|error| self.failure(&error))
    }
}

/// A blob that goes out in parts. If it is given up, the store is told to forget them.
struct Upload<'a> {
    objects: &'a Objects,
    path: Path,
    id: String,
    is_done: bool,
}

impl<'a> Upload<'a> {
    async fn begin(objects: &'a Objects, path: Path) -> Result<Self, Failure> {
        let id = objects.store.create_multipart(&path).await.map_err(|error| objects.failure(&error))?;
        Ok(Self { objects, path, id, is_done: false })
    }

    async fn part(&self, part: Part) -> Result<(usize, u64, PartId), Failure> {
        let length = part.bytes.len() as u64;
        let sent = self.objects.store.put_part(&self.path, &self.id, part.number, part.bytes.into()).await;
        match sent {
            Ok(id) => Ok((part.number, length, id)),
            Err(error) => Err(self.objects.failure(&error)),
        }
    }

    async fn complete(mut self, parts: Vec<PartId>, size: u64) -> Result<(), Failure> {
        let Err(error) = self.objects.store.complete_multipart(&self.path, &self.id, parts).await else {
            self.is_done = true;
            return Ok(());
        };
        let failure = self.objects.failure(&error);
        // The answer to an earlier try may have got lost: then the upload is gone, and the blob there.
        match self.objects.meta(&self.path).await {
            Ok(Some(meta)) if meta.size == size => {
                self.is_done = true;
                Ok(())
            }
            _ => Err(failure),
        }
    }
}

impl Drop for Upload<'_> {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        // Parts of uploads that never end are kept, and paid for, until somebody looks.
        let (store, path, id) = (Arc::clone(&self.objects.store), self.path.clone(), self.id.clone());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { store.abort_multipart(&path, &id).await });
        }
    }
}

/// A place whose cache is in its field `objects`.
macro_rules! delegate_to_objects {
    ($place:ident) => {
        impl CacheReader for $place {
            fn name(&self) -> String {
                self.objects.place.clone()
            }

            fn records(&self) -> BoxFuture<'_, Result<Option<Vec<u8>>, PlaceError>> {
                Box::pin(self.objects.records())
            }

            fn blob<'a>(
                &'a self,
                descriptor: &'a Descriptor,
                sink: &'a mut dyn Sink,
                step: &'a Step,
            ) -> BoxFuture<'a, Result<(), PlaceError>> {
                Box::pin(self.objects.blob(descriptor, sink, step))
            }
        }

        impl CacheWriter for $place {
            fn name(&self) -> String {
                self.objects.place.clone()
            }

            fn has_blob(&self, digest: Digest, size: u64) -> BoxFuture<'_, Result<bool, PlaceError>> {
                Box::pin(self.objects.has_blob(digest, size))
            }

            fn put_blob<'a>(
                &'a self,
                descriptor: &'a Descriptor,
                source: &'a dyn Source,
                step: &'a Step,
            ) -> BoxFuture<'a, Result<(), PlaceError>> {
                Box::pin(self.objects.put_blob(descriptor, source, step))
            }

            fn put_records<'a>(
                &'a self,
                records: &'a [u8],
                _layers: &'a [Descriptor],
                _step: &'a Step,
            ) -> BoxFuture<'a, Result<(), PlaceError>> {
                Box::pin(self.objects.put_records(records))
            }
        }
    };
}
pub(super) use delegate_to_objects;
