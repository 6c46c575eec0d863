//! What can go wrong with a registry, told to the person who asked.
//!
//! An error says what was being done to which image, what stopped it, and (apart, in
//! [`RegistryError::hint`]) what to do. Its text is complete: causes are in it, so nothing needs to
//! walk a chain. Whatever a registry wrote is bounded and made printable first, and no URL is
//! repeated with its query, which is where upload tokens and presigned signatures are.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::diagnostic::one_line;
use crate::digest::Digest;
use crate::image::DocumentError;

use super::credentials::CredentialError;
use super::endpoint::registry_of;
use super::trust::TrustError;

/// An operation on a registry that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing}: {failure}")]
pub struct RegistryError {
    /// What was being done: `pull the manifest of ...`.
    pub doing: String,
    /// What stopped it.
    pub failure: Box<Failure>,
}

/// What stopped an operation on a registry.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("`{registry}` asks for credentials, and there are none for it{}", Detail(detail))]
    NoCredentials { registry: String, detail: String },
    #[error("`{registry}` does not accept the credentials for it{}", Detail(detail))]
    Unauthorized { registry: String, detail: String },
    #[error("`{registry}` denies access{}", Detail(detail))]
    Denied { registry: String, detail: String },
    #[error("`{registry}` has no {what}{}", Detail(detail))]
    NotFound { registry: String, what: String, detail: String },
    #[error("`{host}` asks for fewer requests{}{}", Pause(retry_after), Detail(detail))]
    TooManyRequests { host: String, retry_after: Option<Duration>, detail: String },
    #[error("`{host}` answered {status}{}{}", Pause(retry_after), Detail(detail))]
    Status { host: String, status: u16, retry_after: Option<Duration>, detail: String },
    #[error("cannot connect to `{host}`: {reason}")]
    Connect { host: String, reason: String },
    #[error("cannot set up TLS with `{host}`: {reason}")]
    Tls { host: String, reason: String },
    #[error("`{host}` sent nothing for {} seconds", after.as_secs_f32())]
    TimedOut { host: String, after: Duration },
    #[error("`{host}` took more than {} seconds to send {what}", after.as_secs_f32())]
    Slow { host: String, what: &'static str, after: Duration },
    #[error("the connection to `{host}` broke: {reason}")]
    Interrupted { host: String, reason: String },
    #[error("`{host}` sends elsewhere: {reason}")]
    Redirect { host: String, reason: String },
    #[error("`{host}` broke the protocol: {reason}")]
    Protocol { host: String, reason: String },
    #[error("cannot get a token from `{host}`: {reason}")]
    Token { host: String, reason: String },
    #[error("what arrived has the digest `{found}` instead of `{wanted}`")]
    WrongDigest { wanted: Digest, found: Digest },
    #[error("`{registry}` stored something else than was sent: it has the digest `{found}`")]
    Altered { registry: String, found: Digest },
    #[error("what arrived has {found} bytes or more instead of {wanted}")]
    WrongSize { wanted: u64, found: u64 },
    #[error("{what} is longer than {limit} bytes")]
    TooLarge { what: &'static str, limit: u64 },
    #[error("{}", Why(.0))]
    Document(DocumentError),
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error("`{registry}` deletes no {what}")]
    Unsupported { registry: String, what: &'static str },
    #[error("cannot set up the HTTP client: {0}")]
    Setup(String),
    #[error("cannot write what arrived: {0}")]
    Sink(io::Error),
    #[error("cannot read what is to be sent: {0}")]
    Source(io::Error),
}

impl Failure {
    /// This failure of what was being done.
    pub(super) fn of(self, doing: impl Into<String>) -> RegistryError {
        RegistryError { doing: doing.into(), failure: Box::new(self) }
    }

    /// Whether the same request may well succeed a little later.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::TimedOut { .. }
            | Self::Interrupted { .. }
            | Self::TooManyRequests { .. } => true,
            Self::Status { status, .. } => is_transient_status(*status),
            // Trying again what took that long would take as long again.
            Self::Slow { .. }
            | Self::NoCredentials { .. }
            | Self::Unauthorized { .. }
            | Self::Denied { .. }
            | Self::NotFound { .. }
            | Self::Tls { .. }
            | Self::Redirect { .. }
            | Self::Protocol { .. }
            | Self::Token { .. }
            | Self::WrongDigest { .. }
            | Self::WrongSize { .. }
            | Self::Altered { .. }
            | Self::TooLarge { .. }
            | Self::Document(_)
            | Self::Credentials(_)
            | Self::Trust(_)
            | Self::Unsupported { .. }
            | Self::Setup(_)
            | Self::Sink(_)
            | Self::Source(_) => false,
        }
    }

    /// How long the registry asked us to wait, if it did.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } | Self::TooManyRequests { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

pub(super) fn is_transient_status(status: u16) -> bool {
    // Beside those of the standard: nginx's for a client that went away, which a proxy makes of its
    // own cuts, and Cloudflare's for an origin that did not answer it.
    matches!(status, 408 | 429 | 499 | 500 | 502 | 503 | 504 | 520..=524)
}

impl RegistryError {
    /// What the person can do about it.
    pub fn hint(&self) -> Option<String> {
        match &*self.failure {
            Failure::NoCredentials { registry, .. } | Failure::Unauthorized { registry, .. } => {
                Some(format!(
                    "`stave login {registry}` stores credentials; a private repository looks like a missing one without them"
                ))
            }
            Failure::Denied { registry, .. } => Some(format!(
                "the account that `stave login {registry}` stored may lack the right to do this"
            )),
            Failure::Unsupported { what: "tags", .. } => Some(
                "a name with a digest, as `stave digest --full-ref` prints it, deletes the image, and all of its tags with it"
                    .to_owned(),
            ),
            Failure::NotFound { .. } => Some("check the spelling of repository and tag".to_owned()),
            Failure::TooManyRequests { host, .. } => Some(format!(
                "`stave login {}` often raises the limit; a mirror in the configuration avoids it",
                registry_of(host)
            )),
            Failure::Tls { host, .. } => Some(format!(
                "put the authority's certificate into `certs.d/{host}/ca.crt`, or set `insecure = true` under `[registry.\"{host}\"]`"
            )),
            Failure::Connect { host, .. } => Some(format!(
                "check that `{host}` is right and can be reached; proxies are taken from `HTTPS_PROXY` and `HTTP_PROXY`"
            )),
            Failure::TimedOut { host, .. } | Failure::Slow { host, .. } | Failure::Interrupted { host, .. } => {
                Some(format!("`{host}` or the way to it is in trouble; what was transferred whole is kept for the next try"))
            }
            Failure::Status { host, status, .. } if is_transient_status(*status) => {
                Some(format!("`{host}` or a proxy before it is in trouble; try again later"))
            }
            Failure::WrongDigest { .. } | Failure::WrongSize { .. } => Some(
                "nothing of it was kept; either its copy there is damaged, or something on the way changes what is sent"
                    .to_owned(),
            ),
            Failure::Altered { .. } => Some(
                "something on the way changes what is sent, and the name now stands for what arrived; push again to mend that"
                    .to_owned(),
            ),
            Failure::Credentials(CredentialError::HelperMissing { .. } | CredentialError::Helper { .. }) => Some(
                "`credsStore` and `credHelpers` of docker's config.json name the helpers; without them the file itself is asked"
                    .to_owned(),
            ),
            _ => None,
        }
    }

    /// Whether the registry says that the thing does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(*self.failure, Failure::NotFound { .. })
    }
}

/// How long a registry wants to be left alone, if it says so.
struct Pause<'a>(&'a Option<Duration>);

impl fmt::Display for Pause<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.map(|pause| pause.as_secs()) {
            None | Some(0) => Ok(()),
            Some(seconds) => write!(f, "; it wants a pause of {seconds} s"),
        }
    }
}

/// What is wrong with a document, and where it is its JSON, what with that: it may repeat the document's own words.
struct Why<'a>(&'a DocumentError);

impl fmt::Display for Why<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            DocumentError::Json(error) => write!(f, "{}: {}", self.0, shown(&error.to_string())),
            other => other.fmt(f),
        }
    }
}

/// `: detail` unless it is empty.
struct Detail<'a>(&'a str);

impl fmt::Display for Detail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, ": {}", self.0) }
    }
}

/// The longest text of a registry's that an error repeats.
const SHOWN: usize = 500;

/// What a registry's error body says: its `errors`, else the beginning of a plain text.
pub(super) fn detail(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Body {
        errors: Vec<Entry>,
    }
    #[derive(serde::Deserialize)]
    struct Entry {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    if let Ok(body) = serde_json::from_slice::<Body>(body) {
        let told: Vec<String> = body
            .errors
            .iter()
            .take(5)
            .map(|entry| match (entry.message.trim(), entry.code.trim()) {
                ("", code) => code.to_owned(),
                (message, "") => message.to_owned(),
                (message, code) => format!("{message} ({code})"),
            })
            .filter(|told| !told.is_empty())
            .collect();
        return shown(&told.join("; "));
    }
    let text = String::from_utf8_lossy(body);
    let text = text.trim();
    // Pages of proxies, and JSON that is no error list, help nobody.
    if text.starts_with(['<', '{', '[']) { String::new() } else { shown(text) }
}

/// A registry's text on one line, bounded and printable.
pub(super) fn shown(text: &str) -> String {
    one_line(text, SHOWN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_bodies_are_bounded_and_printable() {
        let body = br#"{"errors":[{"code":"DENIED","message":"no\u001b[31m\nway"},{"code":"X"}]}"#;
        assert_eq!(detail(body), "no\\u{1b}[31m way (DENIED); X");
        assert_eq!(detail(b"<html>proxy</html>"), "");
        assert_eq!(detail(b"{\"errors\":7}"), "");
        assert_eq!(detail(b"plain\x07"), "plain\\u{7}");
        assert!(detail(&[b'x'; 100_000]).len() < 600);
        assert_eq!(detail(b""), "");
    }

    #[test]
    fn texts_and_hints() {
        let error = Failure::NoCredentials { registry: "r.example".into(), detail: String::new() }
            .of("pull `r.example/a:b`");
        assert_eq!(
            error.to_string(),
            "cannot pull `r.example/a:b`: `r.example` asks for credentials, and there are none for it"
        );
        assert!(error.hint().unwrap().contains("`stave login r.example`"));
    }
}
