//! What one build takes from caches elsewhere, and what it could give to one.
//!
//! Caches are asked beside everything else that a build begins with. Only a lookup that this store has
//! no answer for waits, for one cache after the other until one of them knows: what comes of it does not
//! depend on which answers first. A record that is used is remembered here as if the step had run; one
//! that is not leaves no trace. Names and images never come in this way.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use futures_util::future::join_all;

use super::records::{Action, Records, RecordsError};
use super::{CacheReader, PlaceError};
use crate::cache::{Reads, Record};
use crate::diagnostic::chain;
use crate::digest::{ActionKey, ContentDigest, DiffId, TreeIdentity};
use crate::image::Descriptor;
use crate::progress::{Progress, Step, Stream};

/// The two directions of one build.
#[derive(Debug)]
pub struct Exchange {
    sources: Vec<Asked>,
    /// None if nobody will be told.
    used: Option<Mutex<Records>>,
}

/// A cache and what it answered.
#[derive(Debug)]
struct Asked {
    cache: Arc<dyn CacheReader>,
    answer: OnceLock<Records>,
}

/// A layer's blob in a cache elsewhere.
#[derive(Debug, Clone)]
pub struct Held {
    pub cache: Arc<dyn CacheReader>,
    pub blob: Descriptor,
}

/// Why the records of a cache are not used.
#[derive(Debug, thiserror::Error)]
enum ImportError {
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error(transparent)]
    Records(#[from] RecordsError),
}

impl Exchange {
    /// An exchange with these caches, none of which was asked yet. Of two that know the same, the first
    /// counts. What the build uses is noted if it `is_told` to others.
    pub fn new(sources: &[Arc<dyn CacheReader>], is_told: bool) -> Self {
        let asked =
            |cache: &Arc<dyn CacheReader>| Asked { cache: Arc::clone(cache), answer: OnceLock::new() };
        Self { sources: sources.iter().map(asked).collect(), used: is_told.then(Mutex::default) }
    }

    /// Asks all of the caches at once. One that is not there or makes no sense is told of, and no more:
    /// a build goes on without it. `tell` learns where layers can be had before anybody can look up the
    /// steps that made them.
    ///
    /// Lookups wait for this, so [`Exchange::give_up`] must follow, whatever became of it.
    pub async fn ask(&self, progress: &Progress, tell: &(dyn Fn(DiffId, &Held) + Sync)) {
        join_all(self.sources.iter().map(|asked| async move {
            let records = ask_one(&*asked.cache, progress).await.unwrap_or_default();
            for (layer, blobs) in &records.layers {
                if let Some(blob) = blobs.first() {
                    tell(*layer, &Held { cache: Arc::clone(&asked.cache), blob: blob.clone() });
                }
            }
            // Nobody else answers for it, unless the build is over.
            let _ = asked.answer.set(records);
        }))
        .await;
    }

    /// Does without the caches that have not answered.
    pub fn give_up(&self) {
        for asked in &self.sources {
            asked.answer.get_or_init(Records::default);
        }
    }

    /// What the caches say, the first one first, each waited for.
    fn answers(&self) -> impl Iterator<Item = (&Asked, &Records)> {
        self.sources.iter().map(|asked| (asked, asked.answer.wait()))
    }

    /// Waits until every cache has answered.
    pub fn wait(&self) {
        self.answers().for_each(drop);
    }

    /// Where a layer can be had.
    pub fn held(&self, layer: DiffId) -> Vec<Held> {
        let of = |(asked, records): (&Asked, &Records)| {
            let blobs = records.layers.get(&layer).cloned().unwrap_or_default();
            let cache = Arc::clone(&asked.cache);
            blobs.into_iter().map(move |blob| Held { cache: Arc::clone(&cache), blob })
        };
        self.answers().flat_map(of).collect()
    }

    pub(in crate::cache) fn action(&self, key: ActionKey) -> Option<&Action> {
        self.answers().find_map(|(_, records)| records.actions.get(&key))
    }

    pub(in crate::cache) fn content(&self, tree: TreeIdentity, selector: &str) -> Option<ContentDigest> {
        let wanted = (tree, selector.to_owned());
        self.answers().find_map(|(_, records)| records.contents.get(&wanted).copied())
    }

    fn noted(&self) -> Option<MutexGuard<'_, Records>> {
        Some(self.used.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Forgets what was used: the build starts over, and uses it again.
    pub(in crate::cache) fn start_over(&self) {
        if let Some(mut noted) = self.noted() {
            *noted = Records::default();
        }
    }

    pub(in crate::cache) fn use_action(&self, key: ActionKey, step: &str, reads: &Reads, record: &Record) {
        if let Some(mut noted) = self.noted() {
            let action = Action { step: step.to_owned(), inputs: reads.named(), record: record.clone() };
            noted.actions.insert(key, action);
        }
    }

    pub(in crate::cache) fn use_content(&self, tree: TreeIdentity, selector: &str, digest: ContentDigest) {
        if let Some(mut noted) = self.noted() {
            noted.contents.insert((tree, selector.to_owned()), digest);
        }
    }

    /// The records of all steps of the build, run or not, without any blobs.
    pub fn used(&self) -> Records {
        self.noted().map(|noted| noted.clone()).unwrap_or_default()
    }
}

/// The step of an import, which counts as cached if the build ends before: nobody needed it.
struct Importing(Option<Step>);

impl Importing {
    fn done(mut self, said: &str) {
        if let Some(step) = self.0.take() {
            step.output(Stream::Stdout, said.as_bytes());
            step.done();
        }
    }
}

impl Drop for Importing {
    fn drop(&mut self) {
        if let Some(step) = self.0.take() {
            step.cached();
        }
    }
}

async fn ask_one(cache: &dyn CacheReader, progress: &Progress) -> Option<Records> {
    let name = cache.name();
    let importing = Importing(Some(progress.step(format!("importing cache manifest from {name}"))));
    let read = async {
        let bytes = cache.records().await?;
        Ok::<_, ImportError>(bytes.map(|bytes| Records::parse(&bytes)).transpose()?)
    };
    match read.await {
        Ok(Some(records)) => {
            importing.done("");
            Some(records)
        }
        Ok(None) => {
            importing.done("there is no cache yet\n");
            None
        }
        Err(error) => {
            importing.done("this cache is not used\n");
            progress.warn(format!("the cache {name} is not used: {}", chain(&error)));
            None
        }
    }
}
