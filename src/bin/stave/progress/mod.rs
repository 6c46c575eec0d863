//! What a person, a log or a program sees of the work: one file a form.
//!
//! All of it goes to standard error; standard output is for data.

use std::sync::{Arc, Mutex, PoisonError};

use stave::diagnostic::printable;
use stave::progress::{Event, Finding, Progress};

mod json;
mod plain;
mod tty;

/// `--progress`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Form {
    /// A terminal gets `tty`, everything else `plain`.
    #[default]
    Auto,
    /// Lines for a log.
    Plain,
    /// Running steps, redrawn in place.
    Tty,
    /// One JSON object an event.
    Rawjson,
    /// Nothing but errors.
    Quiet,
}

impl Form {
    /// Whether a failed step's last lines stand right above the error. In a log they may be far up,
    /// between those of other stages, and are said again, as BuildKit does.
    pub fn shows_output(self) -> bool {
        match self.resolved() {
            Self::Tty => true,
            Self::Auto | Self::Plain | Self::Rawjson | Self::Quiet => false,
        }
    }

    /// What `auto` means here.
    fn resolved(self) -> Self {
        match self {
            Self::Auto if crate::terminal::is_capable(std::io::stderr()) => Self::Tty,
            Self::Auto => Self::Plain,
            other => other,
        }
    }
}

/// One way to show events.
trait Display: Send {
    fn event(&mut self, event: &Event);
    /// Draws again what changes with time alone, and shows what was held back.
    fn tick(&mut self) {}
    /// Nothing more will come.
    fn finish(&mut self) {}
}

/// A display in use. Dropped, it has shown everything.
pub struct Shown {
    pub progress: Progress,
    display: Arc<Mutex<Box<dyn Display>>>,
    ticker: Option<(std::sync::mpsc::Sender<()>, std::thread::JoinHandle<()>)>,
}

impl Shown {
    pub fn new(form: Form) -> Self {
        let form = form.resolved();
        let display: Box<dyn Display> = match form {
            Form::Plain | Form::Auto => Box::new(plain::Plain::new(std::io::stderr())),
            Form::Tty => Box::new(tty::Tty::new(std::io::stderr())),
            Form::Rawjson => Box::new(json::Json::new(std::io::stderr())),
            Form::Quiet => Box::new(Silent),
        };
        let display = Arc::new(Mutex::new(display));
        let ticks = match form {
            Form::Tty | Form::Plain | Form::Auto => true,
            Form::Rawjson | Form::Quiet => false,
        };
        let ticker = ticks.then(|| {
            let (stop, stopped) = std::sync::mpsc::channel();
            let display = Arc::clone(&display);
            let pause = std::time::Duration::from_millis(100);
            let thread = std::thread::spawn(move || {
                while stopped.recv_timeout(pause) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                    display.lock().unwrap_or_else(PoisonError::into_inner).tick();
                }
            });
            (stop, thread)
        });
        let sink = Arc::clone(&display);
        let progress =
            Progress::new(move |event| sink.lock().unwrap_or_else(PoisonError::into_inner).event(&event));
        Self { progress, display, ticker }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.ticker.take() {
            drop(stop);
            let _ = thread.join();
        }
        self.display.lock().unwrap_or_else(PoisonError::into_inner).finish();
    }
}

struct Silent;

impl Display for Silent {
    fn event(&mut self, _: &Event) {}
}

/// Bytes of output, cut into whole lines as they come in pieces.
#[derive(Default)]
struct Lines {
    rest: Vec<u8>,
}

/// A line that never ends is shown in pieces of this size.
const LINE_LIMIT: usize = 64 << 10;

impl Lines {
    fn push(&mut self, bytes: &[u8], mut line: impl FnMut(&str)) {
        for piece in bytes.split_inclusive(|&c| c == b'\n') {
            self.rest.extend_from_slice(piece);
            if self.rest.ends_with(b"\n") || self.rest.len() >= LINE_LIMIT {
                self.flush(&mut line);
            }
        }
    }

    fn flush(&mut self, mut line: impl FnMut(&str)) {
        if !self.rest.is_empty() {
            let text = String::from_utf8_lossy(&self.rest);
            line(text.trim_end_matches(['\n', '\r']));
            self.rest.clear();
        }
    }
}

/// What lint rules found, for the end of a log; nothing if they found nothing.
fn summary(found: &[Finding]) -> Vec<String> {
    let head = match found.len() {
        0 => return Vec::new(),
        1 => "1 warning found (`stave check` underlines it):".to_owned(),
        many => format!("{many} warnings found (`stave check` underlines them):"),
    };
    let line = |one: &Finding| format!(" - {}: {} (line {})", one.rule, printable(&one.message), one.line);
    std::iter::once(format!(" {head}")).chain(found.iter().map(line)).collect()
}

/// `1.2GB`, as Docker counts: powers of a thousand.
pub fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if bytes < 1000 {
        return format!("{bytes}B");
    }
    let mut value = bytes as f64;
    let mut unit = "";
    for name in UNITS {
        if value < 999.5 {
            break;
        }
        value /= 1000.0;
        unit = name;
    }
    if value < 9.995 {
        format!("{value:.2}{unit}")
    } else if value < 99.95 {
        format!("{value:.1}{unit}")
    } else {
        format!("{value:.0}{unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1.00kB"),
            (12_345, "12.3kB"),
            (999_999, "1.00MB"),
            (4_500_000_000, "4.50GB"),
        ] {
            assert_eq!(human_size(bytes), text);
        }
    }

    #[test]
    fn lines_come_whole() {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        for piece in [&b"one\ntw"[..], b"o\r\n", b"three"] {
            lines.push(piece, |line| seen.push(line.to_owned()));
        }
        lines.flush(|line| seen.push(line.to_owned()));
        assert_eq!(seen, ["one", "two", "three"]);
    }
}
