//! A build between the caches that it reads and those that it writes: imports beside its beginning,
//! exports beside all of it, and the records when its result is where it shall be.

use std::sync::Arc;

use tokio::sync::Notify;

use super::Engine;
use super::build::{BuildError, BuildRequest, Built};
use super::cache_export::{Close, Exports};
use super::pull::Remotes;
use crate::cache::remote::{CacheReader, CacheWriter, Exchange, Held, Mode};
use crate::exporter::LayerFormat;
use crate::parser::NoCache;
use crate::solver::Observer;

/// The caches of a build.
#[derive(Debug, Default)]
pub struct Caches {
    /// Those that are read; of two that know the same, the first counts.
    pub from: Vec<Arc<dyn CacheReader>>,
    /// Those that are written.
    pub to: Vec<CacheExport>,
    /// Put the records into the images that leave.
    pub inline: bool,
}

/// A cache that a build writes.
#[derive(Debug, Clone)]
pub struct CacheExport {
    pub writer: Arc<dyn CacheWriter>,
    pub mode: Mode,
    pub format: LayerFormat,
    /// The build fails if this cache cannot be written.
    pub required: bool,
}

/// A cache that was required could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot export the cache to {name}: {reason}")]
pub struct CacheError {
    pub name: String,
    pub reason: String,
}

/// What goes on beside a build.
#[derive(Clone, Copy, Default)]
pub(super) struct Beside<'b> {
    pub exchange: Option<&'b Exchange>,
    pub observers: &'b [&'b dyn Observer],
}

/// Does something however its scope ends, for those who would wait for it for ever.
pub(super) struct Finally<F: Fn()>(pub F);

impl<F: Fn()> Drop for Finally<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

impl<'a> Engine<'a> {
    /// Builds with these caches. `deliver` brings the images where they shall go while the layers of
    /// caches are still leaving; the caches are complete, and others see them, after that.
    ///
    /// # Errors
    /// What building and `deliver` give, and [`CacheError`] for a cache that was required.
    pub fn build_with_caches<T, E>(
        &self,
        request: &BuildRequest,
        caches: &Caches,
        deliver: impl FnOnce(&Built<'a>) -> Result<T, E>,
    ) -> Result<(T, Built<'a>), E>
    where
        E: From<BuildError> + From<CacheError>,
    {
        // Nothing of elsewhere is wanted where every step shall run.
        let from: &[_] = match request.options.no_cache {
            NoCache::All => &[],
            NoCache::None | NoCache::Stages(_) => &caches.from,
        };
        let is_told = caches.inline || !caches.to.is_empty();
        if from.is_empty() && !is_told {
            let built = self.build(request)?;
            return Ok((deliver(&built)?, built));
        }
        let exchange = Exchange::new(from, is_told);
        let exports = Exports::new(self, &exchange, &caches.to);
        let observers: [&dyn Observer; 1] = [&exports];
        let beside = Beside { exchange: Some(&exchange), observers: &observers };
        std::thread::scope(|scope| {
            // However this ends, the workers do not outlive it.
            let close = Close(&exports);
            exports.start(scope);
            let mut built = self.build_beside(request, &beside)?;
            if caches.inline {
                built.inline = Some(exports.records());
            }
            let value = deliver(&built)?;
            exports.finish(&built.images)?;
            drop(close);
            Ok((value, built))
        })
    }

    /// Asks caches elsewhere while `work` goes on. `work` ends as soon as it can: caches that it did
    /// not need are not waited for.
    pub(super) fn import_beside<T>(
        &self,
        beside: &Beside<'_>,
        remotes: &Remotes,
        work: impl FnOnce() -> T,
    ) -> T {
        let Some(exchange) = beside.exchange else { return work() };
        let over = Notify::new();
        let tell = |layer, held: &Held| remotes.add_cached(layer, &held.cache, &held.blob);
        let import = || {
            let _answered = Finally(|| exchange.give_up());
            // Who cancels the build is told by the build.
            let _ = self.wait(async {
                tokio::select! {
                    // What answers without waiting, a folder for one, is heard however short the work was.
                    biased;
                    () = exchange.ask(&self.progress, &tell) => {},
                    () = over.notified() => {},
                }
            });
        };
        std::thread::scope(|scope| {
            scope.spawn(import);
            // A permit is kept if the import has not come to wait for it.
            let _over = Finally(|| over.notify_one());
            work()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn what_comes_finally_comes_after_a_panic_too() {
        let times = AtomicU32::new(0);
        let count = || {
            times.fetch_add(1, Ordering::Relaxed);
        };
        drop(Finally(count));
        let panics = || {
            let _counted = Finally(count);
            panic!("on purpose");
        };
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
        assert_eq!(times.into_inner(), 2);
    }
}
