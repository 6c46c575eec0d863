//! The places of caches that the command line can name, as readers and writers.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Engine;
use super::cache::{CacheExport, Caches};
use crate::cache::remote::{
    Azblob, CacheReader, CacheSource, CacheSpecError, CacheTarget, CacheWriter, Form, Gha, LocalCache, Place,
    RegistryCache, S3, Surroundings,
};
use crate::exporter::LayerFormat;
use crate::platform::Platform;
use crate::reference::Reference;

/// The settings of a store, by name.
type Given = BTreeMap<String, String>;

impl Engine<'_> {
    /// Opens the caches of a build for these platforms, whose images bear these names. Nothing is
    /// asked yet. GitHub's cache is left out, with a warning, where its service is not.
    ///
    /// # Errors
    /// [`CacheSpecError`] if the settings of a store are no good.
    pub fn caches(
        &self,
        from: &[CacheSource],
        to: &[CacheTarget],
        platforms: &[Platform],
        names: &[Reference],
        surroundings: &Surroundings,
    ) -> Result<Caches, CacheSpecError> {
        let mut caches = Caches::default();
        for source in from {
            caches.from.extend(self.cache_readers(&source.0, platforms, surroundings)?);
        }
        // Layers of a cache that was read are in its repository; those of the image soon in the image's.
        let known = caches.from.iter().filter_map(|cache| cache.repository());
        let names: Vec<Reference> = known.chain(names).cloned().collect();
        for target in to {
            if target.place == Place::Inline {
                caches.inline = true;
                continue;
            }
            let writer = self.cache_writer(target, platforms, &names, surroundings)?;
            caches.to.extend(writer.map(|writer| CacheExport {
                writer,
                mode: target.mode,
                format: LayerFormat { compression: target.compression, force: target.force_compression },
                required: target.ignore_error == Some(false),
            }));
        }
        Ok(caches)
    }

    fn cache_readers(
        &self,
        place: &Place,
        platforms: &[Platform],
        surroundings: &Surroundings,
    ) -> Result<Vec<Arc<dyn CacheReader>>, CacheSpecError> {
        Ok(match place {
            Place::Registry(reference) => {
                let (client, platforms) = (self.registry.clone(), platforms.to_vec());
                vec![Arc::new(RegistryCache::new(client, reference.clone(), platforms))]
            }
            Place::Local { folder, tag, digest } => {
                vec![Arc::new(LocalCache::new(folder.clone(), tag.clone(), *digest))]
            }
            // A source of this kind was refused when it was parsed.
            Place::Inline => Vec::new(),
            Place::S3(settings) => vec![Arc::new(self.s3(settings, surroundings)?)],
            Place::Azblob(settings) => vec![Arc::new(self.azblob(settings, surroundings)?)],
            Place::Gha(settings) => {
                self.gha(settings, surroundings)?.map(|cache| cache.readers()).unwrap_or_default()
            }
        })
    }

    fn s3(&self, settings: &Given, surroundings: &Surroundings) -> Result<S3, CacheSpecError> {
        let cache = S3::new(settings, surroundings, &self.registry)?;
        cache.warning().inspect(|warning| self.progress.warn(*warning));
        Ok(cache)
    }

    fn azblob(&self, settings: &Given, surroundings: &Surroundings) -> Result<Azblob, CacheSpecError> {
        let cache = Azblob::new(settings, surroundings, &self.registry)?;
        cache.warning().inspect(|warning| self.progress.warn(*warning));
        Ok(cache)
    }

    /// GitHub's cache. A command that is made for a workflow also works at home, where its service is
    /// not: as with buildx, the build does without.
    fn gha(&self, settings: &Given, surroundings: &Surroundings) -> Result<Option<Gha>, CacheSpecError> {
        match Gha::new(settings, surroundings, &self.registry) {
            Ok(cache) => {
                cache.warning().inspect(|warning| self.progress.warn(warning));
                Ok(Some(cache))
            }
            Err(CacheSpecError::Missing { name: name @ ("token" | "url" | "url_v2"), .. }) => {
                self.progress.warn(format!(
                    "the cache of the type `gha` needs `{name}=…`, which the runner of a workflow hands to \
                     actions but not to scripts; the build does without"
                ));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn cache_writer(
        &self,
        target: &CacheTarget,
        platforms: &[Platform],
        names: &[Reference],
        surroundings: &Surroundings,
    ) -> Result<Option<Arc<dyn CacheWriter>>, CacheSpecError> {
        let form = match (target.image_manifest, target.oci_types) {
            (true, _) => Form::Manifest,
            (false, true) => Form::Index,
            (false, false) => Form::DockerIndex,
        };
        Ok(match &target.place {
            Place::Registry(reference) => {
                let (client, platforms) = (self.registry.clone(), platforms.to_vec());
                let cache = RegistryCache::new(client, reference.clone(), platforms);
                Some(Arc::new(cache.written_as(form, names.to_vec())))
            }
            Place::Local { folder, tag, .. } => {
                Some(Arc::new(LocalCache::new(folder.clone(), tag.clone(), None).written_as(form)))
            }
            Place::Inline => None,
            Place::S3(settings) => Some(Arc::new(self.s3(settings, surroundings)?)),
            Place::Azblob(settings) => Some(Arc::new(self.azblob(settings, surroundings)?)),
            Place::Gha(settings) => {
                self.gha(settings, surroundings)?.map(|cache| Arc::new(cache) as Arc<dyn CacheWriter>)
            }
        })
    }
}
