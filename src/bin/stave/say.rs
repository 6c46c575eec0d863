//! Printing that a reader may end.
//!
//! `println!` panics where its pipe is closed or the disk is full. A reader who has seen enough
//! (`stave images | head -1`) is no failure; what cannot be written for another reason is one, told
//! once when the program ends, by its exit code too.

use std::fmt::Arguments;
use std::io::{ErrorKind, IsTerminal, StdoutLock, Write};
use std::sync::Mutex;

use stave::diagnostic::printable;

use crate::failure::Failure;

/// The first thing that could not be written to standard output.
static LOST: Mutex<Option<std::io::Error>> = Mutex::new(None);

/// Writes to standard output.
pub fn out(text: Arguments<'_>) {
    write(|stdout| stdout.write_fmt(text));
}

/// Writes bytes to standard output as they are.
pub fn bytes(bytes: &[u8]) {
    write(|stdout| stdout.write_all(bytes));
}

/// Writes a line that came out of an image. Programs get what it is, a terminal nothing that steers it.
pub fn text(text: &str) {
    match std::io::stdout().is_terminal() {
        true => out(format_args!("{}\n", printable(text))),
        false => out(format_args!("{text}\n")),
    }
}

/// Writes JSON, with line breaks for people.
pub fn json(value: &serde_json::Value) {
    out(format_args!("{}\n", escaped(&format!("{value:#}"))));
}

/// Writes JSON on a line of its own.
pub fn json_line(value: &serde_json::Value) {
    out(format_args!("{}\n", escaped(&value.to_string())));
}

/// JSON on one line, as [`json_line`] writes it.
pub fn escaped_json(value: &serde_json::Value) -> String {
    escaped(&value.to_string())
}

/// JSON without the control characters that it lets stand, some of which steer terminals. They are in
/// texts, where an escape means the same.
fn escaped(json: &str) -> String {
    json.chars().fold(String::with_capacity(json.len()), |mut escaped, c| {
        match c.is_control() && c != '\n' {
            true => escaped.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => escaped.push(c),
        }
        escaped
    })
}

fn write(what: impl FnOnce(&mut StdoutLock<'_>) -> std::io::Result<()>) {
    let mut stdout = std::io::stdout().lock();
    let written = what(&mut stdout).and_then(|()| stdout.flush());
    if let (Err(error), Ok(mut lost)) = (written, LOST.lock()) {
        lost.get_or_insert(error);
    }
}

/// Writes to standard error; where that is closed nobody is left to tell.
pub fn err(text: Arguments<'_>) {
    let _ = std::io::stderr().write_fmt(text);
}

/// Whether nobody reads any more, so that who goes on and on can stop.
pub fn is_lost() -> bool {
    LOST.lock().is_ok_and(|lost| lost.is_some())
}

/// Whether all that was to be said was written, or is not missed.
pub fn outcome() -> Result<(), Failure> {
    match LOST.lock().ok().and_then(|mut lost| lost.take()) {
        Some(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// As `print!`, without its panics.
macro_rules! say {
    ($($text:tt)*) => { crate::say::out(format_args!($($text)*)) };
}

/// As `println!`, without its panics.
macro_rules! say_line {
    () => { crate::say::out(format_args!("\n")) };
    ($($text:tt)*) => { crate::say::out(format_args!("{}\n", format_args!($($text)*))) };
}

/// As `eprint!`, without its panics.
macro_rules! tell {
    ($($text:tt)*) => { crate::say::err(format_args!($($text)*)) };
}

/// As `eprintln!`, without its panics.
macro_rules! tell_line {
    () => { crate::say::err(format_args!("\n")) };
    ($($text:tt)*) => { crate::say::err(format_args!("{}\n", format_args!($($text)*))) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_steers_no_terminal_and_says_the_same() {
        for text in ["\u{1b}[31m", "\u{9b}31m", "\u{7f}", "\u{85}\n\t\"", "plain é"] {
            let value = serde_json::json!({ "label": [text] });
            let written = escaped(&format!("{value:#}"));
            assert!(!written.chars().any(|c| c.is_control() && c != '\n'), "{written:?}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&written).unwrap(), value);
        }
    }
}
