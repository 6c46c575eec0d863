//! Ctrl-C and its kin. A build is asked to end by the first and ends with the second; a container
//! gets what this program gets.

use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::signal::{SigSet, Signal};
use stave::runtime::monitor::{Client, Request};

/// How long the work may take to end in order. What it left in the store then is swept later.
const PATIENCE: Duration = Duration::from_millis(1500);

/// The signal that ended the work, if one did.
static RECEIVED: AtomicI32 = AtomicI32::new(0);

/// Has `react` called when the person or the system wants the work to end. Must be called before
/// any other thread exists, so that none of them gets the signals.
pub fn on_interrupt(react: impl Fn() + Send + 'static) {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    if signals.thread_block().is_err() {
        return;
    }
    std::thread::spawn(move || {
        let Ok(first) = signals.wait() else { return };
        RECEIVED.store(first as i32, Ordering::SeqCst);
        // Work that waits for others (standard input, a registry) may never look at what `react`
        // tells it. What we started hangs on a pipe to us and ends with us.
        std::thread::spawn(move || {
            std::thread::sleep(PATIENCE);
            tell_line!("error: interrupted");
            std::process::exit(128 + first as i32);
        });
        react();
        if let Ok(second) = signals.wait() {
            std::process::exit(128 + second as i32);
        }
    });
}

/// Has `react` called when a server is asked to end, which it does in its own time; the second signal ends
/// it at once. Must be called before any other thread exists.
pub fn on_stop(react: impl FnOnce() + Send + 'static) {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    if signals.thread_block().is_err() {
        return;
    }
    std::thread::spawn(move || {
        if signals.wait().is_ok() {
            react();
        }
        if let Ok(second) = signals.wait() {
            std::process::exit(128 + second as i32);
        }
    });
}

/// The exit code of whoever was interrupted: 130, 143.
pub fn exit_code() -> Option<u8> {
    match RECEIVED.load(Ordering::SeqCst) {
        0 => None,
        signal => u8::try_from(128 + signal).ok(),
    }
}

/// Has `react` called when the person's terminal changed its size. Must be called before any other thread exists.
pub fn on_resize(react: impl Fn() + Send + 'static) {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGWINCH);
    if signals.thread_block().is_ok() {
        std::thread::spawn(move || {
            while signals.wait().is_ok() {
                react();
            }
        });
    }
}

/// Passes signals on to a container.
pub struct Forwarder {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// A connection to its monitor, of our own.
    monitor: Option<Client>,
    /// Whether signals go to the container; else they end us, and it goes on.
    proxy: bool,
    /// Whether it has a terminal, whose size follows ours.
    terminal: bool,
    /// What came before there was a container.
    early: Vec<i32>,
    ends: u32,
}

/// How often a person asks before the container is killed.
const ASKED_OFTEN: u32 = 3;

impl Forwarder {
    /// Takes the signals from now on. Must be called before any other thread exists.
    pub fn new() -> Self {
        let mut signals = SigSet::empty();
        for signal in [
            Signal::SIGINT,
            Signal::SIGTERM,
            Signal::SIGHUP,
            Signal::SIGQUIT,
            Signal::SIGUSR1,
            Signal::SIGUSR2,
            Signal::SIGWINCH,
        ] {
            signals.add(signal);
        }
        let state = Arc::new(Mutex::new(State::default()));
        let ours = Arc::clone(&state);
        if signals.thread_block().is_ok() {
            std::thread::spawn(move || {
                while let Ok(signal) = signals.wait() {
                    ours.lock().unwrap_or_else(PoisonError::into_inner).take(signal);
                }
            });
        }
        Self { state }
    }

    /// Sends the container's monitor what comes, and with `proxy` what came already.
    pub fn forward_to(&self, monitor: Client, proxy: bool, terminal: bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.monitor, state.proxy, state.terminal) = (Some(monitor), proxy, terminal);
        state.follow_size();
        for signal in std::mem::take(&mut state.early) {
            state.signal(signal);
        }
    }
}

impl State {
    fn take(&mut self, signal: Signal) {
        if signal == Signal::SIGWINCH {
            self.follow_size();
            return;
        }
        self.ends += u32::from(matches!(signal, Signal::SIGINT | Signal::SIGTERM));
        match &self.monitor {
            Some(_) if !self.proxy => leave(signal),
            Some(_) if self.ends >= ASKED_OFTEN => self.signal(Signal::SIGKILL as i32),
            Some(_) => self.signal(signal as i32),
            // Nothing runs yet: the image is being fetched, perhaps.
            None if self.ends > 0 => leave(signal),
            None => self.early.push(signal as i32),
        }
    }

    fn signal(&mut self, signal: i32) {
        // One that cannot be sent any more has nobody to go to.
        let _ = self.monitor.as_mut().map(|monitor| monitor.ask(&Request::Signal(signal)));
    }

    fn follow_size(&mut self) {
        if let (Some(monitor), true) = (&mut self.monitor, self.terminal) {
            let (rows, columns) = crate::terminal::size();
            let _ = monitor.ask(&Request::Resize { rows, columns });
        }
    }
}

fn leave(signal: Signal) -> ! {
    crate::terminal::give_back();
    std::process::exit(128 + signal as i32)
}
