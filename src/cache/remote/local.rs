//! A cache in a folder: an OCI layout, whose index names it by a tag.
//!
//! Whatever else the layout holds stays. Blobs and documents are written beside their places and
//! renamed, and the index changes under a lock of the folder, so two builds may write at a time and a
//! reader sees one cache or the other.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use futures_util::future::BoxFuture;
use oci_spec::image::MediaType;

use super::artifact::{self, Form, Stored};
use super::inline::{self, BUILDKIT_NOTE, Inline};
use super::{CacheReader, CacheWriter, PlaceError, RECORDS_LIMIT};
use crate::digest::{Digest, Hasher};
use crate::image::{CONFIG_LIMIT, Descriptor, Document, Index, MANIFEST_LIMIT, OCI_INDEX};
use crate::progress::Step;
use crate::registry::{Sink, Source};
use crate::root;

const REF_NAME: &str = "org.opencontainers.image.ref.name";
const DEFAULT_TAG: &str = "latest";
/// How many bytes are read between two reports.
const REPORT: usize = 1 << 20;

/// A folder that holds a cache.
#[derive(Debug, Clone)]
pub struct LocalCache {
    folder: PathBuf,
    tag: String,
    /// The document that is read, whatever the tag says.
    digest: Option<Digest>,
    form: Form,
}

impl LocalCache {
    /// The cache under this tag (`latest` if none), or the one with this digest.
    pub fn new(folder: PathBuf, tag: Option<String>, digest: Option<Digest>) -> Self {
        let tag = tag.unwrap_or_else(|| DEFAULT_TAG.to_owned());
        Self { folder, tag, digest, form: Form::Manifest }
    }

    /// The same, written in this form.
    pub fn written_as(mut self, form: Form) -> Self {
        self.form = form;
        self
    }

    fn place(&self, reason: impl Into<String>) -> PlaceError {
        PlaceError::Place { place: self.folder.display().to_string(), reason: reason.into() }
    }

    fn io(&self, doing: &'static str) -> impl FnOnce(std::io::Error) -> PlaceError {
        let place = self.folder.display().to_string();
        move |source| PlaceError::Io { place, doing, source }
    }

    /// The folder's index; nothing where there is none.
    fn index(&self, folder: &OwnedFd) -> Result<Option<Index>, PlaceError> {
        let bytes = match root::read(folder, "index.json", MANIFEST_LIMIT) {
            Ok(bytes) if bytes.is_empty() => return Ok(None),
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.io("read `index.json`")(error)),
        };
        match Document::parse(&bytes, None) {
            Ok(Document::Index(index)) => Ok(Some(index)),
            Ok(Document::Manifest(_)) | Err(_) => {
                Err(self.place("its `index.json` is no index of an OCI layout"))
            }
        }
    }

    fn document(
        &self,
        folder: &OwnedFd,
        digest: Digest,
        limit: u64,
        doing: &'static str,
    ) -> Result<Vec<u8>, PlaceError> {
        let bytes = root::read(folder, blob_path(digest), limit).map_err(self.io(doing))?;
        match Digest::of(&bytes) == digest {
            true => Ok(bytes),
            false => Err(self.place(format!("the blob {digest} is damaged"))),
        }
    }

    fn read(&self) -> Result<Option<Vec<u8>>, PlaceError> {
        let folder = match root::open_ambient_dir(&self.folder) {
            Ok(folder) => folder,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.io("open it")(error)),
        };
        let digest = match self.digest {
            Some(digest) => digest,
            None => {
                let Some(index) = self.index(&folder)? else { return Ok(None) };
                match index.manifests.iter().find(|entry| self.is_tagged(entry)) {
                    Some(entry) => entry.digest,
                    None => return Ok(None),
                }
            }
        };
        let bytes = self.document(&folder, digest, MANIFEST_LIMIT, "read the manifest of the cache")?;
        match artifact::read(&bytes).map_err(|error| self.place(error.to_string()))? {
            Stored::Cache { data: Some(records), .. } => Ok(Some(records)),
            Stored::Cache { records, data: None } => self
                .document(&folder, records.digest, RECORDS_LIMIT, "read the records of the cache")
                .map(Some),
            Stored::Image(manifest) => {
                let config = manifest.config.digest;
                let config = self.document(&folder, config, CONFIG_LIMIT, "read the config of the image")?;
                let found = inline::extract(&config, &manifest);
                match found.map_err(|error| self.place(error.to_string()))? {
                    Inline::Records(records) => Ok(Some(records.to_json())),
                    Inline::BuildKit => Err(self.place(BUILDKIT_NOTE)),
                    Inline::Nothing => Ok(None),
                }
            }
            Stored::BuildKit => Err(self.place(BUILDKIT_NOTE)),
            Stored::Images(_) => Ok(None),
        }
    }

    fn is_tagged(&self, entry: &Descriptor) -> bool {
        entry.annotation(REF_NAME).unwrap_or(DEFAULT_TAG) == self.tag
    }

    async fn copy(&self, wanted: &Descriptor, sink: &mut dyn Sink, step: &Step) -> Result<(), PlaceError> {
        let folder = root::open_ambient_dir(&self.folder).map_err(self.io("open it"))?;
        // A FIFO in its place would wait for ever; that it is a file is checked before it is read.
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK;
        let file = root::open(&folder, blob_path(wanted.digest), flags, rustix::fs::Mode::empty());
        let file = std::fs::File::from(file.map_err(self.io("open a blob"))?);
        if !file.metadata().map_err(self.io("open a blob"))?.is_file() {
            return Err(self.place(format!("the blob {} is no file", wanted.digest)));
        }
        let (mut hasher, mut size, mut reported) = (Hasher::new(), 0_u64, 0);
        let mut limited = file.take(wanted.size.saturating_add(1));
        let mut buffer = vec![0; 256 << 10];
        loop {
            let length = limited.read(&mut buffer).map_err(self.io("read a blob"))?;
            if length == 0 {
                break;
            }
            hasher.update(&buffer[..length]);
            sink.write(&buffer[..length]).map_err(self.io("keep a blob"))?;
            size += length as u64;
            if size - reported >= REPORT as u64 {
                reported = size;
                step.transfer(&wanted.digest.short(), size, Some(wanted.size));
            }
            // Nothing here waits, and somebody may want to cancel.
            tokio::task::yield_now().await;
        }
        match size == wanted.size && hasher.finish() == wanted.digest {
            true => Ok(()),
            false => Err(self.place(format!("the blob {} is damaged", wanted.digest))),
        }
    }

    /// Writes a file of the folder: whole, or not at all.
    fn put(
        &self,
        path: &Path,
        fill: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        let path = self.folder.join(path);
        let parent = path.parent().unwrap_or(&self.folder);
        let readable = std::fs::Permissions::from_mode(0o644);
        let mut file = tempfile::Builder::new().permissions(readable).tempfile_in(parent)?;
        fill(&mut file)?;
        file.flush()?;
        file.as_file().sync_data()?;
        file.persist(&path).map_err(|error| error.error)?;
        Ok(())
    }

    fn prepare(&self) -> Result<(), PlaceError> {
        std::fs::create_dir_all(self.folder.join("blobs/sha256")).map_err(self.io("create it"))
    }

    fn has(&self, digest: Digest, size: u64) -> bool {
        let found = std::fs::symlink_metadata(self.folder.join(blob_path(digest)));
        found.is_ok_and(|found| found.is_file() && found.len() == size)
    }

    fn put_from(&self, wanted: &Descriptor, source: &dyn Source, step: &Step) -> Result<(), PlaceError> {
        if self.has(wanted.digest, wanted.size) {
            return Ok(());
        }
        self.prepare()?;
        let written = self.put(&blob_path(wanted.digest), |out| {
            let mut from = source(0)?;
            let (mut hasher, mut size) = (Hasher::new(), 0);
            let mut buffer = vec![0; 256 << 10];
            loop {
                let length = from.read(&mut buffer)?;
                if length == 0 {
                    break;
                }
                hasher.update(&buffer[..length]);
                out.write_all(&buffer[..length])?;
                size += length as u64;
                step.transfer(&wanted.digest.short(), size, Some(wanted.size));
            }
            match size == wanted.size && hasher.finish() == wanted.digest {
                true => Ok(()),
                false => Err(std::io::Error::other("the blob is not what its digest says")),
            }
        });
        written.map_err(self.io("write a blob"))
    }

    fn publish(&self, records: &[u8], layers: &[Descriptor]) -> Result<(), PlaceError> {
        self.prepare()?;
        let document = artifact::write(records, layers, self.form);
        let document = document.map_err(|error| self.place(error.to_string()))?;
        let folder = root::open_ambient_dir(&self.folder).map_err(self.io("open it"))?;
        // It goes with the handle.
        rustix::fs::flock(folder.as_fd(), rustix::fs::FlockOperation::LockExclusive)
            .map_err(|error| self.io("lock it")(error.into()))?;
        let mut index = self.index(&folder)?.unwrap_or_else(|| Index {
            schema_version: 2,
            media_type: Some(MediaType::from(OCI_INDEX)),
            manifests: Vec::new(),
            annotations: None,
        });
        index.manifests.retain(|entry| !self.is_tagged(entry));
        let digest = Digest::of(&document.bytes);
        let mut entry = Descriptor::new(document.media_type.into(), digest, document.bytes.len() as u64);
        entry.annotations = Some([(REF_NAME.to_owned(), self.tag.clone())].into());
        index.manifests.push(entry);
        let index = serde_json::to_vec(&index).expect("an index is JSON");
        let written = self
            .put(&blob_path(Digest::of(records)), |out| out.write_all(records))
            .and_then(|()| self.put(&blob_path(digest), |out| out.write_all(&document.bytes)))
            .and_then(|()| {
                self.put(Path::new("oci-layout"), |out| out.write_all(br#"{"imageLayoutVersion":"1.0.0"}"#))
            })
            .and_then(|()| self.put(Path::new("index.json"), |out| out.write_all(&index)));
        written.map_err(self.io("write the cache"))
    }
}

fn blob_path(digest: Digest) -> PathBuf {
    Path::new("blobs/sha256").join(digest.hex())
}

impl CacheReader for LocalCache {
    fn name(&self) -> String {
        format!("local:{}", self.folder.display())
    }

    fn records(&self) -> BoxFuture<'_, Result<Option<Vec<u8>>, PlaceError>> {
        Box::pin(async { self.read() })
    }

    fn blob<'a>(
        &'a self,
        descriptor: &'a Descriptor,
        sink: &'a mut dyn Sink,
        step: &'a Step,
    ) -> BoxFuture<'a, Result<(), PlaceError>> {
        Box::pin(self.copy(descriptor, sink, step))
    }
}

impl CacheWriter for LocalCache {
    fn name(&self) -> String {
        format!("client directory {}", self.folder.display())
    }

    fn has_blob(&self, digest: Digest, size: u64) -> BoxFuture<'_, Result<bool, PlaceError>> {
        Box::pin(async move { Ok(self.has(digest, size)) })
    }

    fn put_blob<'a>(
        &'a self,
        descriptor: &'a Descriptor,
        source: &'a dyn Source,
        step: &'a Step,
    ) -> BoxFuture<'a, Result<(), PlaceError>> {
        Box::pin(async move { self.put_from(descriptor, source, step) })
    }

    fn put_records<'a>(
        &'a self,
        records: &'a [u8],
        layers: &'a [Descriptor],
        _step: &'a Step,
    ) -> BoxFuture<'a, Result<(), PlaceError>> {
        Box::pin(async move { self.publish(records, layers) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Progress;

    #[tokio::test]
    async fn a_blob_is_read_in_a_way_that_can_be_given_up() {
        let place = tempfile::tempdir().unwrap();
        let cache = LocalCache::new(place.path().to_owned(), None, None);
        let step = Progress::silent().step("test");
        let bytes = vec![7_u8; 2 << 20];
        let blob = Descriptor::new("x/y".into(), Digest::of(&bytes), bytes.len() as u64);
        let source = |_| Ok(Box::new(std::io::Cursor::new(vec![7_u8; 2 << 20])) as Box<dyn Read + Send>);
        cache.put_blob(&blob, &source, &step).await.unwrap();
        let mut sink = Vec::new();
        let mut reading = CacheReader::blob(&cache, &blob, &mut sink, &step);
        assert!(futures_util::poll!(&mut reading).is_pending(), "whoever cancels has a turn");
        reading.await.unwrap();
        assert_eq!(sink, bytes);
        std::fs::write(place.path().join(blob_path(blob.digest)), vec![8_u8; 2 << 20]).unwrap();
        let error = CacheReader::blob(&cache, &blob, &mut Vec::new(), &step).await.unwrap_err();
        assert!(error.to_string().contains("damaged"), "{error}");
    }
}
