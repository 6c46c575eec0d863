//! Layers on this disk, from wherever they can be had: for steps that run and targets whose files are
//! wanted.
//!
//! A layer of an image is fetched or the build fails. One that a step made may be in a cache elsewhere,
//! whose word for it does not count: its content is digested before it stands for the step's. Whatever
//! is wrong with it, it can be made again.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::{Cause, ChainLayer, Environment, Solver};
use crate::digest::LayerIdentity;
use crate::store::layers::Layer;

/// How many layers are fetched at once.
const TRANSFERS: usize = 4;

impl Solver<'_> {
    /// Has these layers on this disk, fetching those of images that are not.
    pub(super) fn on_disk(&self, layers: &[ChainLayer]) -> Result<Vec<Layer>, Cause> {
        let (store, lease) = (self.environment.store, self.environment.lease);
        // What the build has found once it holds: a step does not ask for all that is below it again.
        let mut asked: Vec<LayerIdentity> = layers.iter().map(|layer| layer.identity).collect();
        let state = self.state();
        asked.retain(|identity| !state.here.contains_key(identity));
        drop(state);
        if !asked.is_empty() {
            let found = match store.find_layers(&asked, lease)? {
                Ok(found) => found,
                Err(missing) => {
                    self.bring_missing(layers, &missing)?;
                    store.find_layers(&asked, lease)?.map_err(|missing| Cause::Gone(missing[0]))?
                }
            };
            self.state().here.extend(asked.into_iter().zip(found));
        }
        let state = self.state();
        let here = layers.iter().map(|layer| state.here.get(&layer.identity).cloned());
        Ok(here.map(|layer| layer.expect("it was there, or was found just now")).collect())
    }

    fn bring_missing(&self, layers: &[ChainLayer], missing: &[LayerIdentity]) -> Result<(), Cause> {
        let mut wanted: Vec<&ChainLayer> = Vec::with_capacity(missing.len());
        for layer in layers.iter().filter(|layer| missing.contains(&layer.identity)) {
            if wanted.iter().all(|other| other.identity != layer.identity) {
                wanted.push(layer);
            }
        }
        self.bring_all(&wanted)
    }

    /// Fetches layers, several side by side. Tries all of them even where some are gone: whoever makes
    /// those again should not find out about the others later.
    fn bring_all(&self, wanted: &[&ChainLayer]) -> Result<(), Cause> {
        let next = AtomicUsize::new(0);
        let failure: Mutex<Option<Cause>> = Mutex::default();
        let work = || {
            while let Some(layer) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                let Err(cause) = self.bring(layer) else { continue };
                let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
                match &cause {
                    Cause::Gone(identity) => self.state().gone.push(*identity),
                    // What ends the build is told instead of what does not.
                    _ => *failure = None,
                }
                failure.get_or_insert(cause);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..TRANSFERS.min(wanted.len()) {
                scope.spawn(work);
            }
            work();
        });
        failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// Has one layer on this disk that is not. One that a step made, here or elsewhere, can be made
    /// again: whatever is wrong with it is no failure.
    fn bring(&self, layer: &ChainLayer) -> Result<(), Cause> {
        let Environment { store, images, lease, progress, cancel, .. } = &self.environment;
        let identity = layer.identity;
        if identity == LayerIdentity::of_diff(layer.diff_id) {
            return match images.fetch(layer.diff_id, lease, progress) {
                Ok(true) => Ok(()),
                Ok(false) => Err(Cause::Gone(identity)),
                Err(_) if cancel.is_canceled() => Err(Cause::Canceled),
                Err(error) => Err(Cause::Image(error)),
            };
        }
        if self.state().broken.contains(&identity) {
            return Err(Cause::Gone(identity));
        }
        if let Some(exchange) = self.environment.exchange {
            exchange.wait();
        }
        let problem = match images.fetch(layer.diff_id, lease, progress) {
            Ok(true) if store.identify_made(identity, layer.diff_id, lease)? => return Ok(()),
            Ok(true) => "it is not what its record says".to_owned(),
            Ok(false) => return Err(Cause::Gone(identity)),
            Err(_) if cancel.is_canceled() => return Err(Cause::Canceled),
            Err(error) => error,
        };
        let name = layer.diff_id.0.short();
        progress.warn(format!("the layer {name} of a cache cannot be used, and its step runs: {problem}"));
        self.state().broken.insert(identity);
        Err(Cause::Gone(identity))
    }
}
