//! Printing that a reader may end.
//!
//! `println!` panics where its pipe is closed or the disk is full. A reader who has seen enough
//! (`stave images | head -1`) is no failure; what cannot be written for another reason is one, told
//! once when the program ends, by its exit code too.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write};
use std::sync::Mutex;

use crate::failure::Failure;

/// The first thing that could not be written to standard output.
static LOST: Mutex<Option<std::io::Error>> = Mutex::new(None);

/// Writes to standard output.
pub fn out(text: Arguments<'_>) {
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_fmt(text).and_then(|()| stdout.flush());
    if let (Err(error), Ok(mut lost)) = (written, LOST.lock()) {
        lost.get_or_insert(error);
    }
}

/// Writes to standard error; where that is closed nobody is left to tell.
pub fn err(text: Arguments<'_>) {
    let _ = std::io::stderr().write_fmt(text);
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
