//! Where an image comes from: the document at its top, and whatever that names.

use std::collections::HashMap;
use std::io::{self, Read};

use crate::digest::{BlobDigest, Digest};
use crate::image::{Descriptor, Document, Index, MANIFEST_LIMIT, OCI_INDEX};
use crate::platform::Platform;
use crate::progress::Step;
use crate::reference::Reference;
use crate::registry::{Client, Fetched, Sink};
use crate::store::Store;

use super::bundle::Bundle;
use super::content::Content;
use super::place::{Entry, Place};
use super::{Tools, TransferError, docker, stored};

/// How many indexes may be above an image.
pub(super) const DEPTH: usize = 4;
/// How much is read at a time.
const PIECE: usize = 256 << 10;

/// An image that is to be read.
pub struct Origin<'a> {
    /// As people wrote it.
    pub place: Place,
    /// What is at its top.
    pub root: Fetched,
    kind: Kind<'a>,
}

pub(super) enum Kind<'a> {
    Registry {
        client: &'a Client,
        name: Reference,
    },
    /// A layout's blobs, by their digests.
    Bundle(Bundle),
    /// Documents and blobs that were made for this.
    Made(HashMap<Digest, Content>),
    /// Documents that were put together, and blobs of the store.
    Store {
        store: &'a Store,
        documents: HashMap<Digest, Content>,
    },
}

impl<'a> Origin<'a> {
    /// Finds an image and reads the document at its top; for a platform, the one that an index has for
    /// it.
    ///
    /// # Errors
    /// [`TransferError`].
    pub async fn open(
        tools: &Tools<'a>,
        place: &Place,
        platform: Option<&Platform>,
    ) -> Result<Self, TransferError> {
        let (kind, root) = match place {
            Place::Registry(name) => {
                let client = tools.client;
                let root = client.manifest(name).await?;
                (Kind::Registry { client, name: name.clone() }, root)
            }
            Place::Store(text) => stored::open(tools.store()?, text, platform)?,
            Place::Layout { folder, entry } => layout(place, Bundle::folder(folder)?, entry)?,
            Place::OciArchive { file, entry } => {
                layout(place, Bundle::archive(file, tools.store()?)?, entry)?
            }
            Place::DockerArchive { file, entry } => {
                let bundle = Bundle::archive(file, tools.store()?)?;
                // Docker's own archives are layouts too since its version 25.
                match bundle.find("index.json").map_err(TransferError::reading(file))? {
                    Some(_) => layout(place, bundle, entry)?,
                    None => docker::open(place, bundle, entry, tools.store()?)?,
                }
            }
        };
        let mut origin = Self { place: place.clone(), root, kind };
        if let Some(platform) = platform {
            origin.root = origin.select(platform).await?;
        }
        Ok(origin)
    }

    /// The image for a platform, through the indexes above it. An image that is no index's entry is what
    /// it is.
    async fn select(&self, platform: &Platform) -> Result<Fetched, TransferError> {
        let mut found = self.root.clone();
        for _ in 0..DEPTH {
            let Document::Index(index) = &found.document else { return Ok(found) };
            let Some(entry) = index.select(platform) else {
                return Err(TransferError::Platform {
                    place: self.place.to_string(),
                    platform: platform.clone(),
                    there: platforms(index),
                });
            };
            let mut next = self.document(entry).await?;
            next.descriptor.platform.clone_from(&entry.platform);
            found = next;
        }
        Err(TransferError::Nested(self.place.to_string()))
    }

    /// The registry and the name there, if that is where it comes from.
    pub(super) fn remote(&self) -> Option<(&'a Client, &Reference)> {
        match &self.kind {
            Kind::Registry { client, name } => Some((client, name)),
            Kind::Bundle(_) | Kind::Made(_) | Kind::Store { .. } => None,
        }
    }

    /// The document that a descriptor names: bytes with its digest and size.
    ///
    /// # Errors
    /// [`TransferError`].
    pub(super) async fn document(&self, wanted: &Descriptor) -> Result<Fetched, TransferError> {
        if let Some((client, name)) = self.remote() {
            let found = client.manifest(&name.with_digest(wanted.digest)).await?;
            return match found.descriptor.size == wanted.size {
                true => Ok(found),
                false => Err(self.broken(format!("{} is not of the size that is stated", wanted.digest))),
            };
        }
        self.fetched(wanted)
    }

    /// A document that the image names, or the one at its top.
    ///
    /// # Errors
    /// [`TransferError`].
    pub async fn find(&self, wanted: &Descriptor) -> Result<Fetched, TransferError> {
        match self.root.descriptor.digest == wanted.digest {
            true => Ok(self.root.clone()),
            false => self.document(wanted).await,
        }
    }

    fn fetched(&self, wanted: &Descriptor) -> Result<Fetched, TransferError> {
        let bytes = self.small(wanted, MANIFEST_LIMIT)?;
        let document = Document::parse(&bytes, Some(wanted.media_type.as_ref()))
            .map_err(|error| self.broken(format!("{}: {error}", wanted.digest)))?;
        Ok(Fetched { descriptor: wanted.clone(), bytes, document })
    }

    /// A blob that is kept in memory whole, a config for one.
    ///
    /// # Errors
    /// [`TransferError`].
    pub async fn small_blob(&self, wanted: &Descriptor, limit: u64) -> Result<Vec<u8>, TransferError> {
        if wanted.size > limit {
            return Err(self.broken(format!("{} is longer than {limit} bytes", wanted.digest)));
        }
        let Some((client, name)) = self.remote() else { return self.small(wanted, limit) };
        let mut bytes = Vec::new();
        let step = crate::progress::Progress::silent().step("blob");
        client.blob(name, wanted, &mut bytes, &step).await?;
        Ok(bytes)
    }

    fn small(&self, wanted: &Descriptor, limit: u64) -> Result<Vec<u8>, TransferError> {
        let bytes = self.content(wanted)?.bytes(limit);
        let bytes = bytes.map_err(|error| self.broken(format!("{}: {error}", wanted.digest)))?;
        match Digest::of(&bytes) == wanted.digest && bytes.len() as u64 == wanted.size {
            true => Ok(bytes),
            false => Err(self.broken(format!("{} is damaged", wanted.digest))),
        }
    }

    /// A blob that is at hand.
    ///
    /// # Errors
    /// [`TransferError::Lacks`].
    pub(super) fn content(&self, wanted: &Descriptor) -> Result<Content, TransferError> {
        let lacks = || TransferError::Lacks { place: self.place.to_string(), digest: wanted.digest };
        let found = match &self.kind {
            Kind::Registry { .. } => None,
            Kind::Bundle(bundle) => bundle
                .find(&format!("blobs/sha256/{}", wanted.digest.hex()))
                .map_err(|error| self.broken(format!("{}: {error}", wanted.digest)))?,
            Kind::Made(contents) => contents.get(&wanted.digest).cloned(),
            Kind::Store { store, documents } => match documents.get(&wanted.digest) {
                Some(document) => Some(document.clone()),
                None => {
                    let (file, _) = store.open_blob(BlobDigest(wanted.digest))?;
                    Some(Content::file(file).map_err(|error| self.broken(error.to_string()))?)
                }
            },
        };
        found.ok_or_else(lacks)
    }

    /// Writes a blob into a sink, which is not to use it before this is done.
    ///
    /// # Errors
    /// [`TransferError`].
    pub(super) async fn fetch(
        &self,
        blob: &Descriptor,
        sink: &mut impl Sink,
        step: &Step,
    ) -> Result<(), TransferError> {
        if let Some((client, name)) = self.remote() {
            return Ok(client.blob(name, blob, sink, step).await?);
        }
        let broken = |error: io::Error| self.broken(error.to_string());
        let mut reader = self.content(blob)?.checked(blob, 0).map_err(broken)?;
        let mut piece = vec![0; PIECE];
        let mut done = 0;
        loop {
            let read = match reader.read(&mut piece) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(broken(error)),
            };
            sink.write(&piece[..read]).map_err(TransferError::Sink)?;
            done += read as u64;
            step.transfer(&blob.digest.short(), done, Some(blob.size));
            // Nothing here waits, and somebody may want to cancel.
            tokio::task::yield_now().await;
        }
        match done == blob.size {
            true => Ok(()),
            false => Err(self.broken(format!("{} ends after {done} of {} bytes", blob.digest, blob.size))),
        }
    }

    pub(super) fn broken(&self, reason: impl Into<String>) -> TransferError {
        TransferError::Broken { place: self.place.to_string(), reason: reason.into() }
    }
}

/// The platforms that an index has images for.
pub(super) fn platforms(index: &Index) -> Vec<String> {
    let entries = index.manifests.iter().filter(|entry| !entry.is_attestation());
    entries.filter_map(|entry| entry.platform.as_ref()).map(|p| Platform::from(p).to_string()).collect()
}

/// Finds an image in a layout.
fn layout<'a>(place: &Place, bundle: Bundle, entry: &Entry) -> Result<(Kind<'a>, Fetched), TransferError> {
    let broken = |reason: String| TransferError::Broken { place: place.to_string(), reason };
    let index = bundle.find("index.json").map_err(|error| broken(format!("`index.json`: {error}")))?;
    let Some(index) = index else {
        let docker = matches!(bundle.find("manifest.json"), Ok(Some(_)));
        return Err(broken(match docker {
            true => "it is no OCI layout but an archive of Docker's: write docker-archive:".to_owned(),
            false => "it has no `index.json`, so it is no OCI layout".to_owned(),
        }));
    };
    let bytes = index.bytes(MANIFEST_LIMIT).map_err(|error| broken(format!("`index.json`: {error}")))?;
    let Ok(Document::Index(index)) = Document::parse(&bytes, Some(OCI_INDEX)) else {
        return Err(broken("its `index.json` is no index".to_owned()));
    };
    let origin = |root| Origin { place: place.clone(), root, kind: Kind::Bundle(bundle) };
    let whole = Fetched {
        descriptor: Descriptor::new(OCI_INDEX.into(), Digest::of(&bytes), bytes.len() as u64),
        bytes,
        document: Document::Index(index.clone()),
    };
    let origin = origin(whole);
    let named = |name: &str| index.manifests.iter().find(|entry| is_named(entry, name));
    let found = match entry {
        Entry::Digest(digest) => {
            let named = index.manifests.iter().find(|entry| entry.digest == *digest).cloned();
            // Or what an index below it names: whatever it is, it has this digest.
            let below = || {
                let nothing = Descriptor::new(OCI_INDEX.into(), *digest, 0);
                let bytes = origin.content(&nothing)?.bytes(MANIFEST_LIMIT);
                let bytes = bytes.map_err(|error| broken(error.to_string()))?;
                let kind = serde_json::from_slice::<Kinded>(&bytes).ok().and_then(|it| it.media_type);
                let kind = kind.unwrap_or_else(|| crate::image::OCI_MANIFEST.to_owned());
                Ok::<_, TransferError>(Descriptor::new(kind.as_str().into(), *digest, bytes.len() as u64))
            };
            named.map_or_else(below, Ok)?
        }
        Entry::Named(name) => named(name).cloned().ok_or_else(|| not_there(place, &index, name))?,
        Entry::Default => match (named("latest"), &index.manifests[..]) {
            (Some(latest), _) => latest.clone(),
            (None, [only]) => only.clone(),
            // One image for several platforms, whose index is the layout's own.
            (None, entries) if !entries.is_empty() && entries.iter().all(is_nameless) => {
                let root = origin.root.clone();
                return Ok((origin.kind, root));
            }
            (None, _) => return Err(not_there(place, &index, "latest")),
        },
    };
    let mut root = origin.fetched(&found)?;
    // What a layout says about an image is its name there.
    root.descriptor.annotations = None;
    Ok((origin.kind, root))
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kinded {
    media_type: Option<String>,
}

pub(super) const IMAGE_NAME: &str = "io.containerd.image.name";
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";

fn is_nameless(entry: &Descriptor) -> bool {
    entry.annotation(REF_NAME).or(entry.annotation(IMAGE_NAME)).is_none() && entry.platform.is_some()
}

/// Whether an entry has this name: just so, as a tag, or as an image's name.
fn is_named(entry: &Descriptor, name: &str) -> bool {
    let wanted = Reference::parse(name).ok();
    [REF_NAME, IMAGE_NAME].iter().filter_map(|key| entry.annotation(key)).any(|stated| {
        let tag = stated.rsplit_once(':').map(|(_, tag)| tag).filter(|tag| !tag.contains('/'));
        stated == name
            || tag == Some(name)
            || (name.contains([':', '/']) && wanted.is_some() && Reference::parse(stated).ok() == wanted)
    })
}

fn not_there(place: &Place, index: &Index, name: &str) -> TransferError {
    let names = index
        .manifests
        .iter()
        .filter_map(|entry| entry.annotation(REF_NAME).or(entry.annotation(IMAGE_NAME)).map(str::to_owned));
    TransferError::NoEntry {
        place: place.to_string(),
        name: name.to_owned(),
        there: names.take(50).collect(),
    }
}
