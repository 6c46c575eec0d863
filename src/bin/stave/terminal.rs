//! The person's terminal: its size, and its raw mode while a container has it.

use std::io::{self, IsTerminal};

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

/// Every key goes through as it is, until this is dropped.
pub struct Raw {
    before: Option<Termios>,
}

impl Raw {
    pub fn new() -> io::Result<Self> {
        let Ok(before) = termios::tcgetattr(io::stdin()) else {
            return Ok(Self { before: None });
        };
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self { before: Some(before) })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = termios::tcsetattr(io::stdin(), OptionalActions::Drain, before);
        }
    }
}
