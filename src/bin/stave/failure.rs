//! How a command ends when it does not end well: what is said, and the exit code.
//!
//! `build` and all other verbs: 1 failed, 2 wrong usage, 130 and 143 when interrupted. `run` has
//! Docker's 125, 126, 127 and 128+n besides.

use std::fmt::Write;
use std::process::ExitCode;

use stave::diagnostic::{Diagnostic, printable};
use stave::engine::{PullError, PushError};
use stave::exporter::ExportError;
use stave::registry::RegistryError;
use stave::transfer::TransferError;

/// What to say, and the code to leave with.
#[derive(Debug)]
pub struct Failure {
    text: String,
    code: u8,
}

impl Failure {
    /// Something failed.
    pub fn new(message: impl std::fmt::Display) -> Self {
        Self { text: format!("error: {}", printable(&message.to_string())), code: 1 }
    }

    /// The person asked for something that makes no sense.
    pub fn usage(message: impl std::fmt::Display) -> Self {
        Self { code: 2, ..Self::new(message) }
    }

    /// An error with all of its causes.
    pub fn from_error(error: &(dyn std::error::Error + 'static)) -> Self {
        let mut text = format!("error: {}", printable(&error.to_string()));
        let mut cause = error.source();
        while let Some(error) = cause {
            let message = printable(&error.to_string());
            // Transparent errors repeat the message of their source.
            if !text.ends_with(&message) {
                let _ = write!(text, ": {message}");
            }
            cause = error.source();
        }
        let failure = Self { text, code: 1 };
        match registry_error(error).and_then(RegistryError::hint) {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }

    /// Findings in a text of the person's.
    pub fn from_diagnostics(diagnostics: &[Diagnostic]) -> Self {
        let colour = crate::terminal::has_colours(std::io::stderr());
        let texts: Vec<String> = diagnostics.iter().map(|diagnostic| diagnostic.render(colour)).collect();
        Self { text: texts.join("\n\n"), code: 1 }
    }

    /// What to do about it.
    pub fn hint(mut self, hint: impl std::fmt::Display) -> Self {
        let _ = write!(self.text, "\nhint: {}", printable(&hint.to_string()));
        self
    }

    /// What is said, without the word in front of it.
    pub fn message(&self) -> &str {
        self.text.strip_prefix("error: ").unwrap_or(&self.text)
    }

    /// Leaves with this code instead.
    pub fn with_code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// Leaves with this code unless it has a higher one.
    pub fn with_least_code(mut self, code: u8) -> Self {
        self.code = self.code.max(code);
        self
    }

    /// Says it, and gives the code.
    pub fn report(self) -> ExitCode {
        if !self.text.is_empty() {
            tell_line!("{}", self.text);
        }
        ExitCode::from(self.code)
    }
}

/// The registry's error that this one is or wraps: transparent wrappers are no part of the chain of
/// sources, so each is known by name.
fn registry_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a RegistryError> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<RegistryError>() {
            return Some(found);
        }
        if let Some(TransferError::Registry(found)) = error.downcast_ref() {
            return Some(found);
        }
        let exported = match error.downcast_ref() {
            Some(PushError::Export(inner)) => Some(inner),
            _ => error.downcast_ref::<ExportError>(),
        };
        if let Some(ExportError::Registry(found)) = exported {
            return Some(found);
        }
        if let Some(PullError::Registry(found)) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

macro_rules! from_errors {
    ($($error:ty),* $(,)?) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::from_error(&error)
            }
        }
    )*};
}

from_errors! {
    std::io::Error,
    stave::store::StoreError,
    stave::exporter::ExportError,
    stave::registry::RegistryError,
    stave::transfer::TransferError,
    stave::engine::PushError,
    stave::serve::ServeError,
    stave::serve::StorageError,
    stave::serve::UsersError,
    stave::runtime::SpawnError,
    stave::runtime::users::UserError,
    stave::engine::container::CreateError,
    stave::engine::container::ControlError,
    stave::runtime::monitor::ReplyError,
}

impl From<stave::reference::ReferenceError> for Failure {
    fn from(error: stave::reference::ReferenceError) -> Self {
        Self::usage(error)
    }
}
