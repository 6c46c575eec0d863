//! Layers on their way into caches while the build goes on, and the records when all of them are there.
//!
//! A few workers take layers as steps make them. One that a place has already is not even compressed;
//! one that another cache holds goes from there, past this disk between registries; the rest is
//! compressed once for all places and for the image. Nobody waits for the workers but [`Exports::finish`].

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::io::{Seek, SeekFrom};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Scope;

use tokio::sync::watch;

use super::Engine;
use super::cache::{CacheError, CacheExport};
use super::pull::Origin;
use crate::cache::Cache;
use crate::cache::remote::{Exchange, Held, Mode, Records};
use crate::diagnostic::chain;
use crate::digest::{BlobDigest, DiffId, VertexId};
use crate::exporter::{self, ExportError, Image, ImageLayer};
use crate::image::Descriptor;
use crate::progress::Step;
use crate::solver::{ChainLayer, Observer};
use crate::store::StoreError;

/// How many layers are in transfer at once, for all caches together.
const WORKERS: usize = 4;

/// The caches that a build writes.
pub(super) struct Exports<'e> {
    engine: &'e Engine<'e>,
    exchange: &'e Exchange,
    targets: &'e [CacheExport],
    state: Mutex<State>,
    changed: Condvar,
    /// Set when nobody wants the caches any more.
    abandoned: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<(usize, ImageLayer)>,
    /// What was queued, by target.
    seen: HashSet<(usize, DiffId)>,
    busy: usize,
    closed: bool,
    progress: Vec<Progress>,
}

/// How far one cache is.
#[derive(Default)]
struct Progress {
    sent: BTreeMap<DiffId, Descriptor>,
    /// The first failure: nothing more is sent then.
    failure: Option<String>,
    step: Option<Arc<Step>>,
}

/// A worker that is at a layer, until it is done with it or panics: somebody waits for either.
struct Busy<'b, 'e>(&'b Exports<'e>);

impl Drop for Busy<'_, '_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.busy -= 1;
        if std::thread::panicking() {
            // Too few workers may be left for what is queued.
            state.closed = true;
            state.queue.clear();
            for progress in &mut state.progress {
                progress.failure.get_or_insert_with(|| "the work on it panicked".to_owned());
            }
        }
        self.0.changed.notify_all();
    }
}

/// Ends the workers, however the build ends.
pub(super) struct Close<'c, 'e>(pub &'c Exports<'e>);

impl Drop for Close<'_, '_> {
    fn drop(&mut self) {
        self.0.abandoned.send_replace(true);
        let mut state = self.0.state();
        state.closed = true;
        state.queue.clear();
        self.0.changed.notify_all();
    }
}

impl Observer for Exports<'_> {
    fn layer(&self, _vertex: VertexId, layer: &ChainLayer, _made: bool) {
        let layer = ImageLayer { identity: layer.identity, diff_id: layer.diff_id, created: None };
        for (place, target) in self.targets.iter().enumerate() {
            if target.mode == Mode::Max {
                self.enqueue(place, layer);
            }
        }
    }
}

impl<'e> Exports<'e> {
    pub(super) fn new(engine: &'e Engine<'e>, exchange: &'e Exchange, targets: &'e [CacheExport]) -> Self {
        let state =
            State { progress: targets.iter().map(|_| Progress::default()).collect(), ..State::default() };
        let (abandoned, _) = watch::channel(false);
        Self { engine, exchange, targets, state: Mutex::new(state), changed: Condvar::new(), abandoned }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the workers, if there is anything for them.
    pub(super) fn start<'s>(&'s self, scope: &'s Scope<'s, '_>) {
        if !self.targets.is_empty() {
            for _ in 0..WORKERS {
                scope.spawn(|| self.work());
            }
        }
    }

    fn enqueue(&self, place: usize, layer: ImageLayer) {
        let mut state = self.state();
        if !state.closed && state.seen.insert((place, layer.diff_id)) {
            state.queue.push_back((place, layer));
            self.changed.notify_all();
        }
    }

    fn work(&self) {
        loop {
            let mut state = self.state();
            let (place, layer) = loop {
                if let Some(job) = state.queue.pop_front() {
                    break job;
                }
                if state.closed {
                    return;
                }
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            };
            if state.progress[place].failure.is_some() {
                // Whoever waits for the queue to be empty has to look again.
                self.changed.notify_all();
                continue;
            }
            state.busy += 1;
            drop(state);
            let _busy = Busy(self);
            let step = self.step(place);
            let outcome = self.send(&self.targets[place], &layer, &step);
            // The last holder ends the step, and that is not to be this one.
            drop(step);
            let mut state = self.state();
            let progress = &mut state.progress[place];
            match outcome {
                Ok(sent) => progress.sent.extend(sent),
                Err(reason) => {
                    progress.failure.get_or_insert(reason);
                }
            }
        }
    }

    /// The step of a cache, which begins with its first layer.
    fn step(&self, place: usize) -> Arc<Step> {
        let mut state = self.state();
        let step = state.progress[place].step.get_or_insert_with(|| {
            let name = self.targets[place].writer.name();
            Arc::new(self.engine.progress.step(format!("exporting cache to {name}")))
        });
        Arc::clone(step)
    }

    fn wait<T, E: std::error::Error + 'static>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, String> {
        let mut abandoned = self.abandoned.subscribe();
        let waited = self.engine.wait(async {
            tokio::select! {
                value = work => Some(value),
                _ = abandoned.wait_for(|abandoned| *abandoned) => None,
            }
        });
        match waited {
            Ok(Some(value)) => value.map_err(|error| chain(&error)),
            Ok(None) | Err(super::Canceled) => Err("canceled".to_owned()),
        }
    }

    /// Has a layer in a cache. Nothing if it cannot be had anywhere: the record of its step is of use
    /// without it.
    fn send(
        &self,
        target: &CacheExport,
        layer: &ImageLayer,
        step: &Step,
    ) -> Result<Option<(DiffId, Descriptor)>, String> {
        let store = self.engine.store;
        let here = store.diff_id_of(layer.identity).map_err(|error| chain(&error))?;
        let layer = ImageLayer { diff_id: here.unwrap_or(layer.diff_id), ..*layer };
        let held = match target.format.force {
            true => Vec::new(),
            false => self.exchange.held(layer.diff_id),
        };
        for Held { blob, .. } in &held {
            if self.wait(target.writer.has_blob(blob.digest, blob.size))? {
                return self.sent(target, layer.diff_id, blob.clone());
            }
        }
        let blob = match exporter::layer_blob(store, &layer, target.format) {
            Ok(blob) => blob,
            Err(ExportError::Store(StoreError::MissingLayer(_) | StoreError::MissingBlob(_))) => {
                let repositories = |held: &Held| {
                    Some((held.cache.repository()?.clone(), target.writer.repository()?.clone()))
                };
                for held in &held {
                    let Some((from, to)) = repositories(held) else { continue };
                    let relay = self.engine.registry.relay_blob(&from, &to, &held.blob, step);
                    if self.wait(relay).is_ok() {
                        return self.sent(target, layer.diff_id, held.blob.clone());
                    }
                }
                let fetched = held.iter().find_map(|held| self.fetch(held, step).ok());
                let Some(blob) = fetched else { return Ok(None) };
                blob
            }
            Err(error) => return Err(chain(&error)),
        };
        let source = |offset: u64| {
            let (mut file, _) = store.open_blob(BlobDigest(blob.digest)).map_err(std::io::Error::other)?;
            file.seek(SeekFrom::Start(offset))?;
            Ok(Box::new(file) as Box<dyn std::io::Read + Send>)
        };
        self.wait(target.writer.put_blob(&blob, &source, step))?;
        self.sent(target, layer.diff_id, blob)
    }

    /// Remembers which repository has a layer now: an image that goes to the same registry takes it from
    /// there.
    fn sent(
        &self,
        target: &CacheExport,
        diff_id: DiffId,
        blob: Descriptor,
    ) -> Result<Option<(DiffId, Descriptor)>, String> {
        if let Some(repository) = target.writer.repository() {
            let remembered = self.engine.store.remember_places(repository, [(diff_id, &blob)]);
            remembered.map_err(|error| chain(&error))?;
        }
        Ok(Some((diff_id, blob)))
    }

    /// Brings a blob from the cache that has it into the store, where nothing holds it for long.
    fn fetch(&self, held: &Held, step: &Step) -> Result<Descriptor, String> {
        let origin = Origin::Cache(Arc::clone(&held.cache));
        self.engine.bring_blob(&origin, &held.blob, step).map_err(|error| chain(&error))?;
        Ok(held.blob.clone())
    }

    /// The records of all steps of the build, with the layers as they are here.
    pub(super) fn records(&self) -> Records {
        let mut records = self.exchange.used();
        let cache = Cache::new(self.engine.store);
        for (key, action) in &mut records.actions {
            // What the database does not say now, the record does.
            if let Ok(Some(known)) = cache.own_action(*key)
                && known.layer == action.record.layer
            {
                action.record.diff_id = known.diff_id;
            }
        }
        records
    }

    /// Sends what is left, waits for all of it, and publishes the records.
    ///
    /// # Errors
    /// [`CacheError`] for the first cache that is required and could not be written. Others are warned
    /// of.
    pub(super) fn finish(&self, images: &[Image]) -> Result<(), CacheError> {
        if self.targets.is_empty() {
            return Ok(());
        }
        let records = self.records();
        for (place, target) in self.targets.iter().enumerate() {
            match target.mode {
                Mode::Min => {
                    let own = images.iter().flat_map(|image| image.layers.iter().skip(image.inherited));
                    own.for_each(|layer| self.enqueue(place, *layer));
                }
                Mode::Max => {
                    for record in records.actions.values().map(|action| &action.record) {
                        let (identity, diff_id) = (record.layer, record.diff_id);
                        self.enqueue(place, ImageLayer { identity, diff_id, created: None });
                    }
                }
            }
        }
        let mut state = self.state();
        while state.busy > 0 || !state.queue.is_empty() {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.closed = true;
        self.changed.notify_all();
        let progress = std::mem::take(&mut state.progress);
        drop(state);
        let mut outcome = Ok(());
        for (target, progress) in self.targets.iter().zip(progress) {
            if let Err(error) = self.publish(target, progress, &records) {
                match target.required {
                    true if outcome.is_ok() => outcome = Err(error),
                    _ => self.engine.progress.warn(error.to_string()),
                }
            }
        }
        outcome
    }

    fn publish(&self, target: &CacheExport, progress: Progress, records: &Records) -> Result<(), CacheError> {
        let name = target.writer.name();
        let begun = progress.step.and_then(Arc::into_inner);
        let step = begun.unwrap_or_else(|| self.engine.progress.step(format!("exporting cache to {name}")));
        let publish = || -> Result<(), String> {
            if let Some(failure) = progress.failure {
                return Err(failure);
            }
            let mut records = records.clone();
            let made: HashSet<DiffId> =
                records.actions.values().map(|action| action.record.diff_id).collect();
            // A solve that started over may have left some that no step of the build made in the end.
            let sent = progress.sent.into_iter().filter(|(diff_id, _)| made.contains(diff_id));
            records.layers = sent.map(|(diff_id, blob)| (diff_id, vec![blob])).collect();
            let mut blobs: Vec<Descriptor> = Vec::with_capacity(records.layers.len());
            let mut known = HashSet::new();
            for blob in records.layers.values().flatten() {
                if known.insert(blob.digest) {
                    blobs.push(blob.clone());
                }
            }
            let bytes = records.to_bytes().map_err(|error| chain(&error))?;
            self.wait(target.writer.put_records(&bytes, &blobs, &step))
        };
        match publish() {
            Ok(()) => {
                step.done();
                Ok(())
            }
            Err(reason) => {
                step.failed(&reason);
                Err(CacheError { name, reason })
            }
        }
    }
}

#[cfg(test)]
mod tests;
