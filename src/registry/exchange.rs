//! One request to a service that is no registry, and its answer: the stores of a shared cache.
//!
//! The same connections, proxies, certificates and time limits as for registries. What such services
//! want differs in everything else, so nothing is added here: no credentials, no tries after the
//! first, and a redirect is an answer like any other, because a request may bear a token or a
//! signature for just the host that it goes to.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::StreamExt;
use reqwest::header::{CONTENT_LENGTH, HOST, HeaderMap};
use reqwest::{Method, StatusCode, Url};

use super::client::Client;
use super::download::wait;
use super::endpoint::check_target;
use super::error::{Failure, shown};
use super::retry::{Retry, Waits};
use super::transport::{Answer, Body, Request};

/// How much is handed to the connection at a time, so that a slow one is seen to move.
const PIECE: usize = 256 << 10;

/// A request to send.
#[derive(Debug)]
pub struct Outgoing {
    pub method: Method,
    pub url: Url,
    /// `Authorization` among them, if there shall be one. Length and host follow from the rest.
    pub headers: HeaderMap,
    pub body: Option<Vec<Bytes>>,
}

/// An answer whose body is still to be read.
pub struct Incoming(Answer);

/// How long to wait between the tries of one operation.
pub struct Tries<'a>(Waits<'a>);

impl Client {
    /// Sends a request once, and gives the answer, whatever its status.
    ///
    /// # Errors
    /// What kept an answer from coming: [`Failure`].
    pub async fn exchange(&self, outgoing: Outgoing) -> Result<Incoming, Failure> {
        let Outgoing { method, url, mut headers, body } = outgoing;
        headers.remove(CONTENT_LENGTH);
        headers.remove(HOST);
        let length = body.iter().flatten().map(|piece| piece.len() as u64).sum();
        let sent = Arc::new(AtomicU64::new(0));
        let make = || Ok(counted(body.clone().unwrap_or_default(), Arc::clone(&sent)));
        let sending = Body { make: &make, length, sent: Arc::clone(&sent), report: &|_| {} };
        let body = body.is_some().then_some(&sending);
        let request = Request { method, url, headers, authorization: None, body };
        Ok(Incoming(self.transport().send_here(request).await?))
    }

    /// The waits of one operation, with the client's number of tries or this one.
    pub fn tries(&self, attempts: Option<u32>) -> Tries<'_> {
        let own = self.retry();
        Tries(self.waits(Retry { attempts: attempts.unwrap_or(own.attempts), ..own }))
    }
}

/// Whether a service at `from` may send us to `to`: the rules for the redirects of registries.
///
/// # Errors
/// What speaks against it.
pub fn may_name(from: &Url, to: &Url) -> Result<(), String> {
    if from.scheme() == "https" && to.scheme() == "http" {
        return Err("it would leave HTTPS for plain HTTP".to_owned());
    }
    check_target(from, to)
}

impl Tries<'_> {
    /// Waits, if the failure is one that passes and there shall be another try.
    ///
    /// # Errors
    /// The failure itself, if there shall be none.
    pub async fn after(&mut self, failure: Failure) -> Result<(), Failure> {
        if failure.is_transient() { wait(&mut self.0, failure).await } else { Err(failure) }
    }

    /// Starts counting anew, because there was progress.
    pub fn progressed(&mut self) {
        self.0.progressed();
    }
}

impl Incoming {
    pub fn status(&self) -> StatusCode {
        self.0.status()
    }

    pub fn headers(&self) -> &HeaderMap {
        self.0.all_headers()
    }

    /// Who answered, as messages show it.
    pub fn host(&self) -> String {
        self.0.host()
    }

    /// The next piece of the body, or nothing at its end.
    ///
    /// # Errors
    /// [`Failure::Interrupted`] and [`Failure::TimedOut`].
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        self.0.chunk().await
    }

    /// The whole body.
    ///
    /// # Errors
    /// [`Failure::TooLarge`] if it is longer than `limit`, of which at most one piece more is read.
    pub async fn bytes(self, what: &'static str, limit: u64) -> Result<Vec<u8>, Failure> {
        self.0.bytes(what, limit).await
    }

    /// What an answer that says no means; `explain` finds the reason in the beginning of its body.
    pub async fn refusal(mut self, explain: impl FnOnce(&[u8]) -> String) -> Failure {
        let detail = shown(explain(&self.0.rest().await).trim());
        self.refused(detail)
    }

    /// What it means if this is why.
    pub fn refused(&self, detail: String) -> Failure {
        let (host, status) = (self.host(), self.status());
        let retry_after = self.0.retry_after();
        match status {
            StatusCode::TOO_MANY_REQUESTS => Failure::TooManyRequests { host, retry_after, detail },
            status if status.is_redirection() => {
                let mut reason = format!("it answered {}, and the request is for this host", status.as_u16());
                if !detail.is_empty() {
                    reason.push_str(&format!(": {detail}"));
                }
                Failure::Redirect { host, reason }
            }
            status => Failure::Status { host, status: status.as_u16(), retry_after, detail },
        }
    }

    /// The beginning of the body, which is as much as is worth reading of one that says no.
    pub async fn beginning(&mut self) -> Vec<u8> {
        self.0.rest().await
    }
}

/// A body that counts what the connection took of it.
fn counted(pieces: Vec<Bytes>, sent: Arc<AtomicU64>) -> reqwest::Body {
    let cut = pieces.into_iter().flat_map(|mut piece| {
        std::iter::from_fn(move || match piece.len() {
            0 => None,
            length => Some(piece.split_to(length.min(PIECE))),
        })
    });
    let stream = futures_util::stream::iter(cut).map(move |piece| {
        sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
        Ok::<_, Infallible>(piece)
    });
    reqwest::Body::wrap_stream(stream)
}
