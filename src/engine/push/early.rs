//! Layers that leave while later steps of the build still run.
//!
//! What will be in the image is known from the graph before any step has run: the layers of its base,
//! and of the steps that its history names. So each is compressed and sent as soon as it is known. All
//! of that is only a head start: what fails here is tried again when the image is pushed, which says
//! why. A build that fails leaves layers at the registry, as a push that is cut off does, and no name.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::super::Engine;
use super::sender::{Sender, Sent};
use super::{PushError, TRANSFERS};
use crate::digest::VertexId;
use crate::exporter::{ExportError, ImageLayer, LayerFormat, Whereabouts};
use crate::progress::Step;
use crate::reference::Reference;
use crate::solver::{ChainLayer, Observer};
use crate::store::StoreError;

/// Where the layers of a build go as soon as they are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EarlyPush {
    pub names: Vec<Reference>,
    pub format: LayerFormat,
}

/// What is to leave.
pub(in crate::engine) struct Leaving {
    /// The layers of base images.
    pub base: Vec<ImageLayer>,
    /// The steps whose layers are in an image.
    pub steps: HashSet<VertexId>,
}

struct Watcher {
    steps: HashSet<VertexId>,
    /// None once the build has ended.
    queue: Mutex<Option<mpsc::Sender<ImageLayer>>>,
}

impl Watcher {
    fn give(&self, layer: ImageLayer) {
        if let Some(queue) = &*self.queue.lock().unwrap_or_else(PoisonError::into_inner) {
            // Nobody takes it any more if sending failed for good.
            let _ = queue.send(layer);
        }
    }
}

/// Closes the queue when the build has ended, by a panic too: the threads behind it wait for that.
struct Open<'w>(&'w Watcher);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl Observer for Watcher {
    fn layer(&self, vertex: VertexId, layer: &ChainLayer, _made: bool) {
        if self.steps.contains(&vertex) {
            self.give(ImageLayer { identity: layer.identity, diff_id: layer.diff_id, created: None });
        }
    }
}

/// Does `work`, and sends the layers that its observer is told of meanwhile. All that was sent is
/// there when this returns, unless `work` failed; `is_failure` tells a build that failed from one that
/// the person ended and may go on with.
pub(in crate::engine) fn beside<T, E>(
    engine: &Engine<'_>,
    pushes: &[EarlyPush],
    leaving: Leaving,
    elsewhere: &dyn Whereabouts,
    sent: &Sent,
    work: impl FnOnce(&[&dyn Observer]) -> Result<T, E>,
    is_failure: impl FnOnce(&E) -> bool,
) -> Result<T, E> {
    if pushes.iter().all(|push| push.names.is_empty()) {
        return work(&[]);
    }
    let senders: Vec<Sender<'_>> = pushes
        .iter()
        .map(|push| Sender::new(engine, &push.names, push.format, elsewhere, &[], sent))
        .collect();
    let (give, take) = mpsc::channel();
    let watcher = Watcher { steps: leaving.steps, queue: Mutex::new(Some(give)) };
    leaving.base.into_iter().for_each(|layer| watcher.give(layer));
    let work_is_lost = AtomicBool::new(false);
    let queue = Mutex::new(take);
    let step = OnceLock::new();
    let outcome = std::thread::scope(|scope| {
        for _ in 0..TRANSFERS {
            scope.spawn(|| send_all(engine, &senders, &queue, &step, &work_is_lost));
        }
        let _open = Open(&watcher);
        let outcome = work(&[&watcher]);
        if outcome.is_err() {
            work_is_lost.store(true, Ordering::SeqCst);
        }
        outcome
    });
    if let (Some(step), Ok(_)) = (step.into_inner(), &outcome) {
        step.done();
    }
    if let Err(error) = &outcome
        && is_failure(error)
    {
        senders.iter().for_each(Sender::take_back);
    }
    outcome
}

/// Sends what comes, until nothing more does or it makes no sense.
fn send_all(
    engine: &Engine<'_>,
    senders: &[Sender<'_>],
    queue: &Mutex<Receiver<ImageLayer>>,
    step: &OnceLock<Step>,
    work_is_lost: &AtomicBool,
) {
    let mut gave_up = false;
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(layer) = next else { return };
        if gave_up || work_is_lost.load(Ordering::SeqCst) {
            continue;
        }
        let step = step.get_or_init(|| engine.progress.step("pushing layers"));
        let sent = senders.iter().try_for_each(|sender| sender.layer(&layer, step).map(drop));
        // A registry that refuses one refuses the next; the push says so in the end. A layer that is
        // gone is made again before that.
        gave_up = sent.is_err_and(|error| !is_gone(&error));
    }
}

fn is_gone(error: &PushError) -> bool {
    matches!(
        error,
        PushError::Nowhere { .. } | PushError::Export(ExportError::Store(StoreError::MissingLayer(_)))
    )
}
