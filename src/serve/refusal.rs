//! What is answered to a request that is not granted: a status, a code of the specification's, and
//! words for a person.

use http_body_util::{BodyExt, Full};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use super::answer::Body;
use super::storage::StorageError;

/// A refusal.
#[derive(Debug)]
pub(super) struct Refusal {
    pub status: StatusCode,
    code: &'static str,
    message: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// What went wrong here, for the log.
    pub cause: Option<Box<StorageError>>,
}

impl Refusal {
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), headers: Vec::new(), cause: None }
    }

    pub fn header(mut self, name: HeaderName, value: &str) -> Self {
        // Values are made of parsed names and numbers.
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((name, value));
        }
        self
    }

    pub fn unknown_repository(name: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NAME_UNKNOWN", format!("there is no repository `{name}`"))
    }

    pub fn unknown_manifest() -> Self {
        Self::new(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", "manifest unknown")
    }

    pub fn unknown_blob() -> Self {
        Self::new(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", "blob unknown to registry")
    }

    pub fn unknown_upload() -> Self {
        Self::new(StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
    }

    pub fn manifest(reason: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "MANIFEST_INVALID", format!("manifest invalid: {reason}"))
    }

    pub fn digest(reason: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "DIGEST_INVALID", reason.to_string())
    }

    pub fn size(reason: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "SIZE_INVALID", reason.to_string())
    }

    pub fn denied(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "DENIED", reason)
    }

    pub fn unsupported(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", reason)
    }

    /// The answer; without its body if none may have one.
    pub fn respond(self) -> Response<Body> {
        let text =
            serde_json::json!({"errors": [{"code": self.code, "message": self.message, "detail": null}]});
        let bytes = text.to_string().into_bytes();
        let mut response =
            Response::new(Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync());
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.extend(self.headers);
        response
    }
}

impl From<StorageError> for Refusal {
    fn from(error: StorageError) -> Self {
        match &error {
            StorageError::Foreign { .. } => Self::denied(error.to_string()),
            StorageError::InUse { .. } => Self::unsupported(error.to_string()),
            StorageError::Unavailable { .. } => {
                Self::new(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", error.to_string())
            }
            StorageError::Io { .. }
            | StorageError::Occupied { .. }
            | StorageError::Newer { .. }
            | StorageError::Store(_)
            | StorageError::Export(_) => {
                let full = error.is_full_disk();
                let status =
                    if full { StatusCode::INSUFFICIENT_STORAGE } else { StatusCode::INTERNAL_SERVER_ERROR };
                // Paths of this machine are nobody else's business.
                let message = if full {
                    "no space left on the registry's disk"
                } else {
                    "the registry failed; its log says more"
                };
                Self { cause: Some(Box::new(error)), ..Self::new(status, "UNKNOWN", message) }
            }
        }
    }
}
