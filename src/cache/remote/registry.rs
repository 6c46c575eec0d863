//! A cache at a registry: an artifact of its own under a name, or inside an image that was pushed.

use futures_util::future::BoxFuture;

use super::artifact::{self, Form, Stored};
use super::inline::{self, BUILDKIT_NOTE, Inline};
use super::records::Records;
use super::{CacheReader, CacheWriter, PlaceError, RECORDS_LIMIT};
use crate::digest::Digest;
use crate::image::{Descriptor, Index, Manifest};
use crate::platform::Platform;
use crate::progress::{Progress, Step};
use crate::reference::Reference;
use crate::registry::{Client, Sink, Source};

/// How many repositories are tried before a layer counts as nowhere at the registry.
const MOUNTS: usize = 4;

/// A name at a registry that holds a cache.
#[derive(Debug, Clone)]
pub struct RegistryCache {
    client: Client,
    reference: Reference,
    /// Which images of an index are looked into.
    platforms: Vec<Platform>,
    form: Form,
    /// Repositories that may have the layers already.
    mounts: Vec<Reference>,
}

impl RegistryCache {
    /// The cache under this name, for builds of these platforms.
    pub fn new(client: Client, reference: Reference, platforms: Vec<Platform>) -> Self {
        Self { client, reference, platforms, form: Form::Manifest, mounts: Vec::new() }
    }

    /// The same, written in this form; layers that a repository of `mounts` has are taken from there.
    pub fn written_as(mut self, form: Form, mounts: Vec<Reference>) -> Self {
        (self.form, self.mounts) = (form, mounts);
        self
    }

    fn place(&self, reason: impl Into<String>) -> PlaceError {
        PlaceError::Place { place: self.reference.familiar(), reason: reason.into() }
    }

    async fn read(&self) -> Result<Option<Vec<u8>>, PlaceError> {
        let fetched = match self.client.manifest(&self.reference).await {
            Ok(fetched) => fetched,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match artifact::read(&fetched.bytes).map_err(|error| self.place(error.to_string()))? {
            Stored::Cache { data: Some(records), .. } => Ok(Some(records)),
            Stored::Cache { records, data: None } => Ok(Some(self.document(&records).await?)),
            Stored::Image(manifest) => self.encoded(self.inline(&self.reference, &manifest).await?),
            Stored::Images(index) => self.encoded(self.inline_of_all(&index).await?),
            Stored::BuildKit => Err(self.place(BUILDKIT_NOTE)),
        }
    }

    async fn document(&self, records: &Descriptor) -> Result<Vec<u8>, PlaceError> {
        if records.size > RECORDS_LIMIT {
            return Err(self.place(format!("its records have more than {RECORDS_LIMIT} bytes")));
        }
        let mut bytes = Vec::new();
        let step = Progress::silent().step("records");
        self.client.blob(&self.reference, records, &mut bytes, &step).await?;
        step.done();
        Ok(bytes)
    }

    /// The records in one image.
    async fn inline(&self, at: &Reference, manifest: &Manifest) -> Result<Inline, PlaceError> {
        let config = self.client.config(at, manifest).await?;
        inline::extract(&config, manifest).map_err(|error| self.place(error.to_string()))
    }

    /// The records in the images of an index that are for our platforms, together.
    async fn inline_of_all(&self, index: &Index) -> Result<Inline, PlaceError> {
        let mut entries: Vec<&Descriptor> =
            self.platforms.iter().filter_map(|platform| index.select(platform)).collect();
        entries.dedup_by_key(|entry| entry.digest);
        let mut all: Option<Records> = None;
        let mut buildkits = false;
        for entry in entries {
            let at = self.reference.with_digest(entry.digest);
            let fetched = self.client.manifest(&at).await?;
            let stored = artifact::read(&fetched.bytes).map_err(|error| self.place(error.to_string()))?;
            let Stored::Image(manifest) = stored else { continue };
            match self.inline(&at, &manifest).await? {
                Inline::Records(records) => {
                    let all = all.get_or_insert_default();
                    all.actions.extend(records.actions);
                    all.contents.extend(records.contents);
                    all.layers.extend(records.layers);
                }
                Inline::BuildKit => buildkits = true,
                Inline::Nothing => {}
            }
        }
        Ok(match all {
            Some(records) => Inline::Records(records),
            None if buildkits => Inline::BuildKit,
            None => Inline::Nothing,
        })
    }

    fn encoded(&self, inline: Inline) -> Result<Option<Vec<u8>>, PlaceError> {
        match inline {
            Inline::Records(records) => Ok(Some(records.to_json())),
            Inline::BuildKit => Err(self.place(BUILDKIT_NOTE)),
            Inline::Nothing => Ok(None),
        }
    }

    /// Where a layer may be mounted from.
    fn mounts(&self) -> impl Iterator<Item = &Reference> {
        self.mounts.iter().filter(|from| {
            from.registry() == self.reference.registry() && from.repository() != self.reference.repository()
        })
    }

    async fn publish(&self, records: &[u8], layers: &[Descriptor], step: &Step) -> Result<(), PlaceError> {
        let document = artifact::write(records, layers, self.form);
        let document = document.map_err(|error| self.place(error.to_string()))?;
        let source = |offset: u64| {
            let rest = records.get(offset as usize..).unwrap_or_default();
            Ok(Box::new(std::io::Cursor::new(rest.to_vec())) as Box<dyn std::io::Read + Send>)
        };
        self.client.push_blob(&self.reference, &artifact::describe(records), None, &source, step).await?;
        let media_type = document.media_type.into();
        self.client.push_manifest(&self.reference, &media_type, &document.bytes).await?;
        Ok(())
    }
}

impl CacheReader for RegistryCache {
    fn repository(&self) -> Option<&Reference> {
        Some(&self.reference)
    }

    fn name(&self) -> String {
        self.reference.familiar()
    }

    fn records(&self) -> BoxFuture<'_, Result<Option<Vec<u8>>, PlaceError>> {
        Box::pin(self.read())
    }

    fn blob<'a>(
        &'a self,
        descriptor: &'a Descriptor,
        mut sink: &'a mut dyn Sink,
        step: &'a Step,
    ) -> BoxFuture<'a, Result<(), PlaceError>> {
        Box::pin(async move { Ok(self.client.blob(&self.reference, descriptor, &mut sink, step).await?) })
    }
}

impl CacheWriter for RegistryCache {
    fn repository(&self) -> Option<&Reference> {
        Some(&self.reference)
    }

    fn name(&self) -> String {
        format!("registry {}", self.reference.familiar())
    }

    fn has_blob(&self, digest: Digest, _size: u64) -> BoxFuture<'_, Result<bool, PlaceError>> {
        Box::pin(async move {
            if self.client.has_blob(&self.reference, digest).await? {
                return Ok(true);
            }
            for from in self.mounts().take(MOUNTS) {
                if self.client.mount_blob(&self.reference, from, digest).await? {
                    return Ok(true);
                }
            }
            Ok(false)
        })
    }

    fn put_blob<'a>(
        &'a self,
        descriptor: &'a Descriptor,
        source: &'a dyn Source,
        step: &'a Step,
    ) -> BoxFuture<'a, Result<(), PlaceError>> {
        Box::pin(async move {
            let from = self.mounts().next();
            self.client.push_blob(&self.reference, descriptor, from, &source, step).await?;
            Ok(())
        })
    }

    fn put_records<'a>(
        &'a self,
        records: &'a [u8],
        layers: &'a [Descriptor],
        step: &'a Step,
    ) -> BoxFuture<'a, Result<(), PlaceError>> {
        Box::pin(self.publish(records, layers, step))
    }
}
