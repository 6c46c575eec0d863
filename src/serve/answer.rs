//! From a request to its answer: who may, what is asked, and a line of the log.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::header::{
    ALLOW, CONNECTION, CONTENT_LENGTH, HOST, HeaderName, HeaderValue, IF_NONE_MATCH, TRANSFER_ENCODING,
};
use hyper::{Method, Request, Response, StatusCode, Version};
use tokio::sync::Semaphore;

use super::refusal::Refusal;
use super::route::Route;
use super::storage::{Storage, StorageError};
use super::uploads::Desk;
use super::{Entry, Options};
use crate::digest::{BlobDigest, Digest, Hasher};

/// The body of an answer.
pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A request that is being answered.
pub(super) struct Call {
    pub request: Request<Incoming>,
}

impl Call {
    pub fn query(&self) -> Option<&str> {
        self.request.uri().query()
    }

    /// The body, if it has at most `limit` bytes. Of one that has more, so many are read on and
    /// forgotten: a client that is still sending would not hear why it is refused.
    ///
    /// # Errors
    /// 400 for a body that breaks off, 408 for one that does not come.
    pub async fn collect(self, limit: u64, read_on: u64) -> Result<Option<Vec<u8>>, Refusal> {
        let mut body = self.request.into_body();
        let (mut bytes, mut size) = (Vec::new(), 0_u64);
        let deadline = tokio::time::Instant::now() + MANIFEST_TIME;
        loop {
            let frame = match tokio::time::timeout_at(deadline, body.frame()).await {
                Err(_) => {
                    let status = StatusCode::REQUEST_TIMEOUT;
                    return Err(Refusal::new(status, "MANIFEST_INVALID", "the manifest takes too long"));
                }
                Ok(None) => return Ok((size <= limit).then_some(bytes)),
                Ok(Some(Err(_))) => return Err(Refusal::manifest("the body broke off")),
                Ok(Some(Ok(frame))) => frame,
            };
            let data = frame.into_data().unwrap_or_default();
            size += data.len() as u64;
            if size > limit + read_on {
                return Ok(None);
            }
            match size > limit {
                true => bytes = Vec::new(),
                false => bytes.extend_from_slice(&data),
            }
        }
    }
}

/// A registry: what it serves, and to whom.
pub(super) struct Registry {
    pub storage: Arc<dyn Storage>,
    pub options: Options,
    pub desk: Desk,
    /// Who may hold a manifest in memory.
    pub manifests: Semaphore,
    drawn: AtomicU64,
}

/// So many manifests are being read at once: they are kept in memory until they are whole.
const MANIFESTS: usize = 64;
/// How long one may take to come, all in all.
const MANIFEST_TIME: Duration = Duration::from_secs(120);

impl Registry {
    pub fn new(storage: Arc<dyn Storage>, options: Options) -> Self {
        let (desk, manifests) = (Desk::default(), Semaphore::new(MANIFESTS));
        Self { storage, options, desk, manifests, drawn: AtomicU64::new(0) }
    }

    /// Does something that may block.
    pub async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Storage) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, Refusal> {
        let storage = Arc::clone(&self.storage);
        Ok(joined(tokio::task::spawn_blocking(move || work(&*storage))).await??)
    }

    /// Something that nobody can guess, and that comes once.
    pub fn random(&self) -> Digest {
        let mut hasher = Hasher::new();
        hasher.field(&self.options.secret);
        hasher.update(&self.drawn.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        hasher.finish()
    }

    /// Answers a request.
    pub async fn answer(&self, peer: SocketAddr, request: Request<Incoming>) -> Response<Body> {
        let began = Instant::now();
        let (method, target) = (request.method().clone(), request.uri().clone());
        let target = target.path_and_query().map_or("", |target| target.as_str());
        // Who sends chunks may have stated a length too, which hyper leaves out. A proxy in front of us that
        // went by it would take what follows for somebody else's request: nothing follows (RFC 9112, 6.1).
        let in_chunks = request.headers().contains_key(TRANSFER_ENCODING);
        let mut user = None;
        let outcome = self.grant(Call { request }, &mut user).await;
        let mut response = outcome.unwrap_or_else(|refusal| {
            if let Some(error) = &refusal.cause {
                (self.options.log)(Entry::Failed { doing: target, error: &**error });
            }
            refusal.respond()
        });
        let headers = response.headers_mut();
        headers.insert("docker-distribution-api-version", HeaderValue::from_static("registry/2.0"));
        headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
        if in_chunks {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let length = length.or(hyper::body::Body::size_hint(response.body()).exact());
        if method == Method::HEAD {
            *response.body_mut() = nothing();
        }
        (self.options.log)(Entry::Answered {
            peer,
            user: user.as_deref(),
            method: method.as_str(),
            target,
            status: response.status().as_u16(),
            length,
            took: began.elapsed(),
        });
        response
    }

    async fn grant(&self, call: Call, user: &mut Option<String>) -> Result<Response<Body>, Refusal> {
        self.is_well_meant(&call)?;
        if let Some(users) = &self.options.users {
            *user = Some(users.check(call.request.headers(), &self.options.secret, &self.options.log).await?);
        }
        let route = Route::parse(call.request.uri().path())?;
        let method = call.request.method().clone();
        let reads = matches!(method, Method::GET | Method::HEAD);
        if self.options.read_only && !reads {
            return Err(Refusal::denied("this registry is served to be read only"));
        }
        // An upload that is given up is no deletion of something that is there.
        if self.options.keep && method == Method::DELETE && !matches!(route, Route::Upload(..)) {
            return Err(Refusal::unsupported("this registry deletes nothing"));
        }
        match (route, method) {
            (Route::Base, Method::GET | Method::HEAD) => {
                let mut response = empty(StatusCode::OK);
                header(&mut response, "content-type", "application/json");
                *response.body_mut() = full(b"{}".to_vec());
                Ok(response)
            }
            (Route::Catalog, Method::GET) => self.catalog(call).await,
            (Route::Tags(name), Method::GET) => self.tags(name, call).await,
            (Route::Referrers(name, digest), Method::GET) => self.referrers(name, digest, call).await,
            (Route::Manifest(name, target), Method::GET | Method::HEAD) => {
                self.manifest(name, target, call).await
            }
            (Route::Manifest(name, target), Method::PUT) => self.put_manifest(name, target, call).await,
            (Route::Manifest(name, target), Method::DELETE) => self.delete_manifest(name, target).await,
            (Route::Blob(name, digest), Method::GET | Method::HEAD) => self.blob(name, digest, call).await,
            (Route::Blob(name, digest), Method::DELETE) => self.delete_blob(name, digest).await,
            (Route::Uploads(name), Method::POST) => self.begin_upload(name, call).await,
            (Route::Upload(name, id), Method::GET) => self.upload_status(name, id).await,
            (Route::Upload(name, id), Method::PATCH) => self.append_upload(name, id, call).await,
            (Route::Upload(name, id), Method::PUT) => self.end_upload(name, id, call).await,
            (Route::Upload(_, id), Method::DELETE) => self.cancel_upload(id).await,
            (route, method) => {
                let message = format!("{method} is not possible here");
                Err(Refusal::unsupported(message).header(ALLOW, methods(&route)))
            }
        }
    }

    /// Refuses what no client of a registry sends.
    fn is_well_meant(&self, call: &Call) -> Result<(), Refusal> {
        let bad = |what: &str| Refusal::new(StatusCode::BAD_REQUEST, "UNSUPPORTED", what);
        let headers = call.request.headers();
        let stated = call.request.uri().authority().map(|authority| authority.as_str());
        let mut hosts = headers.get_all(HOST).iter();
        let named = hosts.next().map(|host| host.to_str().map_err(|_| bad("the Host header is no text")));
        let named = named.transpose()?;
        if hosts.next().is_some() || (named.is_none() && call.request.version() == Version::HTTP_11) {
            return Err(bad("the request states no host, or several"));
        }
        let Some(known) = &self.options.hosts else { return Ok(()) };
        match stated.or(named) {
            Some(host) if is_local(host, known) => Ok(()),
            _ => Err(Refusal::denied("this registry is not known under the host name of the request")),
        }
    }
}

/// Whether a request's host is an address, or a name that always means this machine, or a known one.
/// An address in a request cannot have been put there by somebody's name server.
fn is_local(host: &str, known: &[String]) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|c| c.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    let name = name.to_ascii_lowercase();
    bare.parse::<std::net::IpAddr>().is_ok()
        || name == "localhost"
        || name.ends_with(".localhost")
        || known.iter().any(|known| known.eq_ignore_ascii_case(host) || known.eq_ignore_ascii_case(&name))
}

fn methods(route: &Route) -> &'static str {
    match route {
        Route::Base => "GET, HEAD",
        Route::Catalog | Route::Tags(_) | Route::Referrers(..) => "GET",
        Route::Manifest(..) => "GET, HEAD, PUT, DELETE",
        Route::Blob(..) => "GET, HEAD, DELETE",
        Route::Uploads(_) => "POST",
        Route::Upload(..) => "GET, PATCH, PUT, DELETE",
    }
}

/// Whether the client has it already, by its ETag.
pub(super) fn is_known(call: &Call, digest: BlobDigest) -> bool {
    let tag = digest.to_string();
    let stated = call.request.headers().get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    stated
        .flat_map(|value| value.split(','))
        .any(|one| matches!(one.trim().trim_start_matches("W/").trim_matches('"'), known if known == tag || known == "*"))
}

/// What a thread gave, whose panic is no more than a failure of one request.
pub(super) async fn joined<T>(task: tokio::task::JoinHandle<T>) -> Result<T, Refusal> {
    task.await.map_err(|panic| {
        let source = io::Error::other(panic);
        StorageError::Io { doing: "end the work on", path: "a request".into(), source }.into()
    })
}

/// An answer without a body.
pub(super) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(nothing());
    *response.status_mut() = status;
    response
}

pub(super) fn nothing() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

pub(super) fn full(bytes: Vec<u8>) -> Body {
    Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed_unsync()
}

/// Sets a header. What is no header's value, which a media type in somebody's manifest can be, is left
/// out.
pub(super) fn header(response: &mut Response<Body>, name: &str, value: &str) {
    if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
        response.headers_mut().insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_that_can_only_be_us() {
        let known = ["registry.lan:5000".to_owned(), "other.lan".to_owned()];
        for host in [
            "127.0.0.1:5000",
            "10.0.0.1",
            "[::1]:5000",
            "[::1]",
            "localhost",
            "LOCALHOST:5000",
            "a.localhost:1",
            "registry.lan:5000",
            "other.lan:5000",
            "other.lan",
        ] {
            assert!(is_local(host, &known), "{host}");
        }
        for host in
            ["evil.example", "evil.example:5000", "localhost.evil.example", "127.0.0.1.nip.io", "", ":"]
        {
            assert!(!is_local(host, &known), "{host}");
        }
    }
}
