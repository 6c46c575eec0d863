//! The person's terminal: its size, and its raw mode while a container has it.

use std::io::{self, IsTerminal};
use std::sync::{Mutex, PoisonError};

use rustix::termios::{self, OptionalActions, Termios};

/// Rows and columns; 24 by 80 where there is no terminal.
pub fn size() -> (u16, u16) {
    termios::tcgetwinsize(io::stdout())
        .or_else(|_| termios::tcgetwinsize(io::stdin()))
        .map_or((24, 80), |size| (size.ws_row, size.ws_col))
}

/// Whether it is a terminal that understands more than text: neither a file nor a `dumb` one.
pub fn is_capable(stream: impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("TERM").is_none_or(|name| name != "dumb")
}

/// Whether colours are shown there, and wanted.
pub fn has_colours(stream: impl IsTerminal) -> bool {
    is_capable(stream) && std::env::var_os("NO_COLOR").is_none()
}

/// What the terminal was before a container had it.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Every key goes through as it is, until this is dropped.
pub struct Raw;

impl Raw {
    pub fn new() -> io::Result<Self> {
        if let Ok(before) = termios::tcgetattr(io::stdin()) {
            let mut raw = before.clone();
            raw.make_raw();
            termios::tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
            *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        }
        Ok(Self)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        give_back();
    }
}

/// Makes the terminal what it was, also where the program is about to end in the middle of something.
pub fn give_back() {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(before) = before {
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Drain, &before);
    }
}
