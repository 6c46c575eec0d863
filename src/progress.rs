//! What a build, a pull or a push tells while it works. The library sends events; who shows them,
//! and with what clock, is the caller's business.
//!
//! A [`Step`] is a guard: it ends exactly once, as done, cached or failed; one that is dropped
//! before that was canceled.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The number of a step, from 1, in the order in which steps were announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepId(pub u64);

/// Which of a process's two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A step began; its name is what people read, `[build 2/3] RUN make` for one.
    Started { step: StepId, name: String },
    /// A process of the step wrote these bytes: raw, cut anywhere.
    Output { step: StepId, stream: Stream, bytes: Vec<u8> },
    /// A part of the step, a layer in transfer for one, is at `current` of `total` bytes.
    Transfer { step: StepId, part: String, current: u64, total: Option<u64> },
    /// The step was not needed: its result was known.
    Cached { step: StepId },
    /// The step is done.
    Done { step: StepId },
    /// The step failed, and why.
    Failed { step: StepId, error: String },
    /// The step was given up because of something else.
    Canceled { step: StepId },
    /// Something that the person should know and that stops nothing.
    Warning { message: String },
    /// A lint rule found something.
    Finding(Finding),
}

/// What a lint rule found, as a log shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub rule: String,
    pub message: String,
    /// The file, as the person named it.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// Where to read more about the rule.
    pub reference: String,
}

/// Where events go. Cheap to clone.
#[derive(Clone)]
pub struct Progress {
    sink: Arc<dyn Fn(Event) + Send + Sync>,
    next: Arc<AtomicU64>,
}

impl Progress {
    /// Progress that hands every event to `sink`, from whichever thread it happens on.
    pub fn new(sink: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self { sink: Arc::new(sink), next: Arc::new(AtomicU64::new(1)) }
    }

    /// Progress that nobody watches.
    pub fn silent() -> Self {
        Self::new(|_| {})
    }

    /// Announces a step.
    pub fn step(&self, name: impl Into<String>) -> Step {
        let step = StepId(self.next.fetch_add(1, Ordering::Relaxed));
        (self.sink)(Event::Started { step, name: name.into() });
        Step { progress: self.clone(), id: step, ended: false }
    }

    /// Tells something that stops nothing.
    pub fn warn(&self, message: impl Into<String>) {
        (self.sink)(Event::Warning { message: message.into() });
    }

    /// Tells what a lint rule found.
    pub fn finding(&self, finding: Finding) {
        (self.sink)(Event::Finding(finding));
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress")
    }
}

/// A step that is under way.
#[derive(Debug)]
pub struct Step {
    progress: Progress,
    id: StepId,
    ended: bool,
}

impl Step {
    /// The step's number.
    pub fn id(&self) -> StepId {
        self.id
    }

    /// Passes on what a process of this step wrote.
    pub fn output(&self, stream: Stream, bytes: &[u8]) {
        self.send(Event::Output { step: self.id, stream, bytes: bytes.to_vec() });
    }

    /// Tells how far a part of the step has come, in bytes.
    pub fn transfer(&self, part: &str, current: u64, total: Option<u64>) {
        self.send(Event::Transfer { step: self.id, part: part.to_owned(), current, total });
    }

    /// Ends the step: its result was known.
    pub fn cached(mut self) {
        self.end(Event::Cached { step: self.id });
    }

    /// Ends the step: it is done.
    pub fn done(mut self) {
        self.end(Event::Done { step: self.id });
    }

    /// Ends the step: it failed.
    pub fn failed(mut self, error: impl fmt::Display) {
        self.end(Event::Failed { step: self.id, error: error.to_string() });
    }

    fn end(&mut self, event: Event) {
        self.ended = true;
        self.send(event);
    }

    fn send(&self, event: Event) {
        (self.progress.sink)(event);
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if !self.ended {
            self.end(Event::Canceled { step: self.id });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn a_step_ends_once() {
        let events = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&events);
        let progress = Progress::new(move |event| sink.lock().unwrap().push(event));
        progress.step("one").done();
        drop(progress.step("two"));
        let (one, two) = (StepId(1), StepId(2));
        assert_eq!(
            *events.lock().unwrap(),
            [
                Event::Started { step: one, name: "one".into() },
                Event::Done { step: one },
                Event::Started { step: two, name: "two".into() },
                Event::Canceled { step: two },
            ]
        );
    }
}
