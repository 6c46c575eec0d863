//! Blobs on their way to a registry.
//!
//! ```text
//! HEAD blob                          there already: done
//! POST uploads/?mount=&from=         another repository of the registry has it: done
//! POST uploads/                      an upload session, at a Location
//! PUT  Location?digest=              small blobs, in one request
//! PATCH Location ... PUT ?digest=    others; after a failure, GET Location says where to go on
//! ```
//!
//! A Location may be relative, and each answer may name another. One on another host is gone to
//! without credentials. The registry checks the digest; what is pushed under it is what it names.

use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderValue, LOCATION, RANGE};
use reqwest::{Method, StatusCode, Url};
use tokio::sync::mpsc;

use crate::digest::Digest;
use crate::image::Descriptor;
use crate::progress::Step;
use crate::reference::Reference;

use super::client::{Ask, Client, Target, protocol, pull, push, shown_name};
use super::download::wait;
use super::endpoint::{Endpoint, follow};
use super::error::{Failure, RegistryError};
use super::transport::{Answer, Body};

/// Blobs up to this size are sent with the request that also ends the upload. For larger ones a
/// request more is cheap, and what arrived before a cut is not lost.
const SINGLE_PUT: u64 = 4 << 20;
/// How much is read at a time.
const PIECE: usize = 256 << 10;

/// How a blob came to be at the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It was there.
    Existed,
    /// It was taken from another repository of the same registry.
    Mounted,
    /// Its bytes were sent.
    Uploaded,
}

/// Opens the bytes of a blob from this offset on; called again for each try.
pub trait Source: Fn(u64) -> io::Result<Box<dyn Read + Send>> + Send + Sync {}

impl<F: Fn(u64) -> io::Result<Box<dyn Read + Send>> + Send + Sync> Source for F {}

/// What the answer to beginning an upload was.
enum Begun {
    Mounted,
    Session(Url),
}

/// A blob that is being uploaded.
struct Upload<'a> {
    client: &'a Client,
    endpoint: &'a Endpoint,
    scopes: Vec<String>,
    descriptor: &'a Descriptor,
    source: &'a dyn Source,
    step: &'a Step,
    chunk: u64,
}

impl Client {
    /// Whether the reference's repository has a blob.
    ///
    /// # Errors
    /// What kept the registry from saying: [`Failure`].
    pub async fn has_blob(&self, reference: &Reference, digest: Digest) -> Result<bool, RegistryError> {
        let ask = async {
            let endpoint = self.origin(reference.registry())?;
            self.has_blob_at(&endpoint, reference, digest, pull(&endpoint.repository(reference))).await
        };
        ask.await.map_err(|failure| {
            failure.of(format!("look for the blob `{digest}` of `{}`", shown_name(reference)))
        })
    }

    async fn has_blob_at(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        digest: Digest,
        scope: String,
    ) -> Result<bool, Failure> {
        let target = Target::Path(format!("{}/blobs/{digest}", endpoint.repository(reference)));
        let answer = self.call(endpoint, &Ask::new(Method::HEAD, target, vec![scope])).await?;
        match answer.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(answer.failure(&endpoint.account, "such repository").await),
        }
    }

    /// Has the registry take a blob from another of its repositories, and gives whether it did.
    /// Nothing is asked if `from` is on another registry or is the same repository.
    ///
    /// # Errors
    /// What kept the registry from saying: [`Failure`]. That it does not do this, or that we may not
    /// read `from`, is no failure.
    pub async fn mount_blob(
        &self,
        to: &Reference,
        from: &Reference,
        digest: Digest,
    ) -> Result<bool, RegistryError> {
        let mount = async {
            if !can_mount(to, from) {
                return Ok(false);
            }
            let endpoint = self.origin(to.registry())?;
            match self.begin(&endpoint, to, Some((from, digest))).await? {
                Begun::Mounted => Ok(true),
                Begun::Session(location) => {
                    // Instead of mounting it began an upload, which nobody will go on with.
                    let scopes = vec![push(&endpoint.repository(to))];
                    let ask = Ask::new(Method::DELETE, Target::Location(location), scopes);
                    if let Ok(answer) = self.call_once(&endpoint, &ask).await {
                        answer.finish().await;
                    }
                    Ok(false)
                }
            }
        };
        mount.await.map_err(|failure: Failure| {
            let (to, from) = (shown_name(to), shown_name(from));
            failure.of(format!("mount the blob `{digest}` of `{from}` in `{to}`"))
        })
    }

    /// Brings a blob into the reference's repository, unless it is there: by mounting it from `from`
    /// if that is on the same registry and the registry can, else by sending the bytes of `source`.
    ///
    /// # Errors
    /// [`Failure::Source`] if the bytes cannot be read or are fewer than the descriptor says;
    /// otherwise what the registry says.
    pub async fn push_blob(
        &self,
        to: &Reference,
        descriptor: &Descriptor,
        from: Option<&Reference>,
        source: &impl Source,
        step: &Step,
    ) -> Result<Pushed, RegistryError> {
        let push = async {
            let endpoint = self.origin(to.registry())?;
            let repository = endpoint.repository(to);
            let digest = descriptor.digest;
            if self.has_blob_at(&endpoint, to, digest, push(&repository)).await? {
                return Ok(Pushed::Existed);
            }
            let from = from.filter(|from| can_mount(to, from)).map(|from| (from, digest));
            let session = match self.begin(&endpoint, to, from).await? {
                Begun::Mounted => return Ok(Pushed::Mounted),
                Begun::Session(session) => session,
            };
            let chunk = self.settings().registry(to.registry()).and_then(|stated| stated.upload_chunk);
            let upload = Upload {
                client: self,
                endpoint: &endpoint,
                scopes: vec![push(&repository)],
                descriptor,
                source,
                step,
                chunk: chunk.unwrap_or(u64::MAX),
            };
            upload.run(to, session).await?;
            Ok(Pushed::Uploaded)
        };
        push.await.map_err(|failure: Failure| {
            failure.of(format!("push the blob `{}` to `{}`", descriptor.digest, shown_name(to)))
        })
    }

    /// Begins an upload, or mounts.
    async fn begin(
        &self,
        endpoint: &Endpoint,
        to: &Reference,
        mount: Option<(&Reference, Digest)>,
    ) -> Result<Begun, Failure> {
        let repository = endpoint.repository(to);
        if let Some((from, digest)) = mount {
            let from = endpoint.repository(from);
            let target = Target::Path(format!("{repository}/blobs/uploads/?mount={digest}&from={from}"));
            let scopes = vec![push(&repository), pull(&from)];
            match self.call(endpoint, &Ask::new(Method::POST, target, scopes)).await {
                Ok(answer) if answer.status() == StatusCode::CREATED => {
                    answer.finish().await;
                    return Ok(Begun::Mounted);
                }
                Ok(answer) if answer.status() == StatusCode::ACCEPTED => {
                    return Ok(Begun::Session(location(endpoint, &answer)?));
                }
                // It cannot, or we may not read the other repository: the bytes can still be sent.
                Ok(answer) => answer.finish().await,
                Err(
                    Failure::NoCredentials { .. } | Failure::Unauthorized { .. } | Failure::Denied { .. },
                ) => {}
                Err(failure) => return Err(failure),
            }
        }
        let target = Target::Path(format!("{repository}/blobs/uploads/"));
        let answer = self.call(endpoint, &Ask::new(Method::POST, target, vec![push(&repository)])).await?;
        if answer.status() != StatusCode::ACCEPTED {
            return Err(answer.failure(&endpoint.account, "such repository").await);
        }
        let session = location(endpoint, &answer)?;
        answer.finish().await;
        Ok(Begun::Session(session))
    }
}

fn can_mount(to: &Reference, from: &Reference) -> bool {
    to.registry() == from.registry() && to.repository() != from.repository()
}

/// Where an upload goes on.
fn location(endpoint: &Endpoint, answer: &Answer) -> Result<Url, Failure> {
    let stated =
        answer.header(LOCATION).ok_or_else(|| protocol(endpoint, "it names no location for the upload"))?;
    follow(&answer.url, stated).map_err(|reason| Failure::Redirect { host: answer.host(), reason })
}

impl Upload<'_> {
    async fn run(&self, to: &Reference, mut session: Url) -> Result<(), Failure> {
        let mut waits = self.client.waits(self.client.retry());
        let mut offset = 0;
        loop {
            let before = offset;
            let failure = match self.send(&mut session, &mut offset).await {
                Ok(()) => return Ok(()),
                Err(failure) if can_resume(&failure) => failure,
                Err(failure) => return Err(failure),
            };
            if offset > before {
                waits.progressed();
            }
            wait(&mut waits, failure).await?;
            // The registry may have taken all of it and only the answer got lost.
            let scope = self.scopes[0].clone();
            if self.client.has_blob_at(self.endpoint, to, self.descriptor.digest, scope).await? {
                return Ok(());
            }
            match self.status(&session).await {
                Some((at, location)) => {
                    if at > before {
                        waits.progressed();
                    }
                    (offset, session) = (at, location);
                }
                None => match self.client.begin(self.endpoint, to, None).await? {
                    Begun::Session(new) => (offset, session) = (0, new),
                    Begun::Mounted => return Ok(()),
                },
            }
        }
    }

    /// Sends what is missing from `offset` on, and ends the upload.
    async fn send(&self, session: &mut Url, offset: &mut u64) -> Result<(), Failure> {
        let size = self.descriptor.size;
        if *offset == 0 && size <= SINGLE_PUT.min(self.chunk) {
            return self.end(session, size).await;
        }
        while *offset < size {
            let length = self.chunk.min(size - *offset);
            let answer = self.request(Method::PATCH, session.clone(), *offset, length).await?;
            if !matches!(answer.status(), StatusCode::ACCEPTED | StatusCode::NO_CONTENT | StatusCode::CREATED)
            {
                return Err(answer.failure(&self.endpoint.account, "such upload").await);
            }
            // It may have taken less than was sent, and says so.
            let taken = answer.header(RANGE).and_then(range_end).filter(|end| *end > *offset);
            *offset = taken.map_or(*offset + length, |end| end.min(*offset + length));
            *session = location(self.endpoint, &answer)?;
            answer.finish().await;
        }
        self.end(session, 0).await
    }

    /// Ends the upload, `length` bytes going along.
    async fn end(&self, session: &Url, length: u64) -> Result<(), Failure> {
        let mut url = session.clone();
        url.query_pairs_mut().append_pair("digest", &self.descriptor.digest.to_string());
        let answer = self.request(Method::PUT, url, 0, length).await?;
        if !answer.status().is_success() {
            return Err(answer.failure(&self.endpoint.account, "such upload").await);
        }
        answer.finish().await;
        Ok(())
    }

    /// One request with bytes of the blob. A failure to read those outranks what it does to the
    /// connection.
    async fn request(&self, method: Method, url: Url, from: u64, length: u64) -> Result<Answer, Failure> {
        let sent = Arc::new(AtomicU64::new(0));
        let broken: Arc<Mutex<Option<io::Error>>> = Arc::default();
        let make = || {
            if length == 0 {
                return Ok(reqwest::Body::from(Vec::new()));
            }
            let reader = (self.source)(from).map_err(Failure::Source)?;
            Ok(body(reader, length, Arc::clone(&sent), Arc::clone(&broken)))
        };
        let report = |sent: u64| {
            let part = self.descriptor.digest.short();
            self.step.transfer(&part, from + sent, Some(self.descriptor.size));
        };
        let silent = |_| {};
        let report: &(dyn Fn(u64) + Send + Sync) = if length > 0 { &report } else { &silent };
        let body = Body { make: &make, length, sent: Arc::clone(&sent), report };
        let octets = HeaderValue::from_static("application/octet-stream");
        let mut ask =
            Ask::new(method, Target::Location(url), self.scopes.clone()).header(CONTENT_TYPE, octets);
        if length > 0 && length < self.descriptor.size {
            let range = format!("{from}-{}", from + length - 1);
            ask = ask.header(CONTENT_RANGE, HeaderValue::from_str(&range).expect("numbers are ASCII"));
        }
        ask.body = Some(&body);
        let outcome = self.client.call_once(self.endpoint, &ask).await;
        match broken.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(Failure::Source(error)),
            None => outcome,
        }
    }

    /// How much of the upload the registry has, and where to go on; nothing if it does not say.
    async fn status(&self, session: &Url) -> Option<(u64, Url)> {
        let ask = Ask::new(Method::GET, Target::Location(session.clone()), self.scopes.clone());
        let answer = self.client.call(self.endpoint, &ask).await.ok()?;
        if answer.status() != StatusCode::NO_CONTENT {
            return None;
        }
        let at = answer.header(RANGE).and_then(range_end)?;
        let location = location(self.endpoint, &answer).ok()?;
        (at < self.descriptor.size).then_some((at, location))
    }
}

/// Whether asking the registry how much it has, and going on from there, may help.
fn can_resume(failure: &Failure) -> bool {
    match failure {
        // The session is gone, or we disagree about where it stands.
        Failure::NotFound { .. } | Failure::Status { status: 416, .. } => true,
        failure => failure.is_transient(),
    }
}

/// The bytes that `0-N` says are there. `0-0` is what registries say of an empty upload as well as of
/// one byte; it is read as empty, which is the one that occurs.
fn range_end(text: &str) -> Option<u64> {
    let text = text.trim().trim_start_matches("bytes").trim_start_matches(['=', ' ']);
    match text.strip_prefix("0-")?.parse::<u64>().ok()? {
        0 => Some(0),
        last => last.checked_add(1),
    }
}

/// A request body of `length` bytes of `reader`, which may block: a thread of its own reads ahead.
fn body(
    reader: Box<dyn Read + Send>,
    length: u64,
    sent: Arc<AtomicU64>,
    broken: Arc<Mutex<Option<io::Error>>>,
) -> reqwest::Body {
    let (give, mut take) = mpsc::channel::<io::Result<Vec<u8>>>(4);
    tokio::task::spawn_blocking(move || {
        let mut reader = reader.take(length);
        let mut left = length;
        while left > 0 {
            let mut piece = vec![0; PIECE.min(usize::try_from(left).unwrap_or(PIECE))];
            let read = loop {
                match reader.read(&mut piece) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    other => break other,
                }
            };
            let outcome = match read {
                Ok(0) => Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("it ends {left} bytes before its stated size"),
                )),
                Ok(count) => {
                    piece.truncate(count);
                    left -= count as u64;
                    Ok(piece)
                }
                Err(error) => Err(error),
            };
            let is_last = outcome.is_err();
            // The receiver is gone if the request failed meanwhile.
            if give.blocking_send(outcome).is_err() || is_last {
                return;
            }
        }
    });
    let pieces = futures_util::stream::poll_fn(move |context| {
        take.poll_recv(context).map(|piece| {
            piece.map(|piece| match piece {
                Ok(piece) => {
                    sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
                    Ok(piece)
                }
                Err(error) => {
                    let told = io::Error::new(error.kind(), "the source broke");
                    *broken.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    Err(told)
                }
            })
        })
    });
    reqwest::Body::wrap_stream(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upload_ranges() {
        for (text, want) in [
            ("0-0", Some(0)),
            ("0-9", Some(10)),
            ("bytes=0-9", Some(10)),
            ("1-9", None),
            ("", None),
            ("0-18446744073709551615", None),
        ] {
            assert_eq!(range_end(text), want, "{text}");
        }
    }
}
