//! What can go wrong with a bundle, in words that callers know to read.
//!
//! podman tells a missing program (127) from one that may not be executed (126) by `executable file not found` and
//! `permission denied` in a runtime's message, so these words are kept.

use std::io;
use std::path::PathBuf;

use super::super::wire::{Failure, FailureKind};

/// Why a container could not be made, started or changed.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    #[error("invalid container id `{0}`: letters, digits, `_`, `+`, `-`, `.` and `,` are allowed")]
    Id(String),
    #[error("container with id `{0}` exists already")]
    Exists(String),
    #[error("container `{0}` does not exist")]
    NotFound(String),
    #[error("container `{id}` is {status}: {wanted}")]
    Status { id: String, status: &'static str, wanted: &'static str },
    #[error("cannot read `{path}`")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("`{path}` is not what the runtime specification says")]
    Json {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("`{property}` of the configuration is not supported: {why}")]
    Unsupported { property: String, why: &'static str },
    #[error("`{property}` of the configuration is wrong: {why}")]
    Invalid { property: String, why: String },
    #[error("cannot {what}")]
    Io {
        what: String,
        #[source]
        source: io::Error,
    },
    #[error("{0}")]
    Setup(String),
    #[error("{0}")]
    NotExecutable(String),
    #[error("{0}")]
    NoProgram(String),
    #[error("the container's first process ended before its program could be executed")]
    Died,
    #[error("the hook `{hook}` failed: {why}")]
    Hook { hook: PathBuf, why: String },
}

impl BundleError {
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    pub(super) fn invalid(property: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Invalid { property: property.into(), why: why.into() }
    }

    pub(super) fn unsupported(property: impl Into<String>, why: &'static str) -> Self {
        Self::Unsupported { property: property.into(), why }
    }
}

impl From<Failure> for BundleError {
    fn from(Failure { kind, what, errno }: Failure) -> Self {
        let why = if errno == 0 {
            String::new()
        } else {
            let text = io::Error::from_raw_os_error(errno).to_string();
            format!(": {}", text.split(" (os error").next().unwrap_or_default().to_lowercase())
        };
        match kind {
            FailureKind::Setup => Self::Setup(format!("{what}{why}")),
            FailureKind::NotFound if errno == 0 => {
                Self::NoProgram(format!("{what}: executable file not found in $PATH"))
            }
            FailureKind::NotFound => Self::NoProgram(format!("{what}{why}")),
            FailureKind::NotExecutable | FailureKind::Foreign => Self::NotExecutable(format!("{what}{why}")),
        }
    }
}
