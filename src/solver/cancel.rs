//! Giving up: one token that Ctrl-C, or another step's failure, sets, and that ends what runs.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Tells everything that holds a clone to end. Cheap to clone.
#[derive(Clone, Default)]
pub struct Cancel {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    canceled: bool,
    next: u64,
    hooks: HashMap<u64, Box<dyn Fn() + Send>>,
}

impl Cancel {
    /// A token that nobody has set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends what runs, and lets nothing start.
    pub fn cancel(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.canceled = true;
        state.hooks.values().for_each(|hook| hook());
    }

    /// Whether it is set.
    pub fn is_canceled(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).canceled
    }

    /// Waits for asynchronous work, or for the token: then there is no value.
    pub fn wait<T>(&self, runtime: &tokio::runtime::Handle, work: impl Future<Output = T>) -> Option<T> {
        let canceled = Arc::new(tokio::sync::Notify::new());
        let notify = Arc::clone(&canceled);
        // A permit is kept if it comes before anybody waits.
        let _hook = self.on_cancel(move || notify.notify_one());
        runtime.block_on(async {
            tokio::select! {
                value = work => Some(value),
                () = canceled.notified() => None,
            }
        })
    }

    /// Has `hook` called when the token is set, at once if it is already, for as long as the guard
    /// lives. The hook must be quick and must not touch the token.
    pub fn on_cancel(&self, hook: impl Fn() + Send + 'static) -> Hook {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.canceled {
            hook();
        }
        state.next += 1;
        let number = state.next;
        state.hooks.insert(number, Box::new(hook));
        Hook { cancel: self.clone(), number }
    }
}

impl fmt::Debug for Cancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cancel").field("canceled", &self.is_canceled()).finish()
    }
}

/// Keeps a hook registered.
#[derive(Debug)]
pub struct Hook {
    cancel: Cancel,
    number: u64,
}

impl Drop for Hook {
    fn drop(&mut self) {
        let mut state = self.cancel.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.hooks.remove(&self.number);
    }
}
