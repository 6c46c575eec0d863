//! One upload, from its first byte to its last, over whatever goes wrong between.
//!
//! A blob goes out in chunks, since what a registry acknowledged is not lost with the connection or
//! the process: some registries drop the chunk that was under way, and Debian's (distribution 2.8)
//! drops the whole upload then. Registries that take a blob in one piece only are found out by what
//! they answer to the second chunk, and get the next try in one piece.
//!
//! After a failure the registry is asked, in this order, whether it has the blob (the answer alone may
//! have been lost), and how much it has of the upload; if it knows nothing of it the upload begins
//! anew. Only bytes beyond all earlier ones count as progress, so no registry keeps us busy for ever.

use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderValue, RANGE};
use reqwest::{Method, StatusCode, Url};
use tokio::sync::watch;

use crate::image::Descriptor;
use crate::progress::Step;
use crate::reference::Reference;

use super::super::client::{Ask, Client, Target, push};
use super::super::download::wait;
use super::super::endpoint::Endpoint;
use super::super::error::Failure;
use super::super::transport::{Answer, Body};
use super::body::body;
use super::{Growth, Source, Unfinished, location};

/// Blobs up to this size are sent with the request that also ends the upload. For larger ones a
/// request more is cheap, and what arrived before a cut is not lost.
const SINGLE_PUT: u64 = 4 << 20;
/// How much goes out in one request, if nothing else is configured: little enough to lose, and much
/// enough for its answer to be worth waiting for.
const CHUNK: u64 = 32 << 20;
/// Less than this is not tried where a registry or a proxy before it finds requests too large.
const SMALLEST_CHUNK: u64 = 64 << 10;

/// An upload that a registry waits for.
#[derive(Debug, Clone)]
pub(super) struct Session {
    pub at: Url,
    /// How much the registry has.
    pub offset: u64,
    /// The shortest chunk that it takes, the last apart.
    pub shortest: u64,
}

/// How much there is to send.
pub(super) enum Extent {
    Known(Descriptor),
    Growing { growth: watch::Receiver<Growth>, part: String },
}

impl Extent {
    /// Waits until `chunk` bytes more than `offset` can be read, or the blob is whole; gives how many
    /// can be read in all, and what the blob is if it is whole.
    async fn ready(&mut self, offset: u64, chunk: u64) -> Result<(u64, Option<Descriptor>), Failure> {
        match self {
            Self::Known(descriptor) => Ok((descriptor.size, Some(descriptor.clone()))),
            Self::Growing { growth, .. } => {
                let enough =
                    |growth: &Growth| growth.whole.is_some() || growth.size.saturating_sub(offset) >= chunk;
                let ready = growth
                    .wait_for(enough)
                    .await
                    .map_err(|_| Failure::Source(io::Error::other("the layer could not be made")))?;
                Ok((ready.size, ready.whole.clone()))
            }
        }
    }

    /// What the blob is, if that is known yet.
    fn whole(&self) -> Option<Descriptor> {
        match self {
            Self::Known(descriptor) => Some(descriptor.clone()),
            Self::Growing { growth, .. } => growth.borrow().whole.clone(),
        }
    }

    fn part(&self) -> String {
        match self {
            Self::Known(descriptor) => descriptor.digest.short(),
            Self::Growing { part, .. } => part.clone(),
        }
    }
}

/// A blob that is being uploaded.
pub(super) struct Upload<'a> {
    client: &'a Client,
    endpoint: &'a Endpoint,
    to: &'a Reference,
    scope: String,
    extent: Extent,
    source: &'a dyn Source,
    step: &'a Step,
    unfinished: Option<&'a dyn Unfinished>,
    /// The most that one request holds.
    chunk: u64,
    /// Whether some of what the registry has was not acknowledged to this upload.
    resumed: bool,
    /// Whether the size of a request is somebody's wish.
    is_bounded: bool,
    /// How often a chunk that was not the first was refused.
    refusals: u32,
}

/// What a request that failed tried to do.
struct Failed {
    failure: Failure,
    /// How many bytes it held.
    length: u64,
    /// Whether it was a chunk, and not the first.
    is_later_chunk: bool,
}

impl<'a> Upload<'a> {
    pub(super) fn new(
        client: &'a Client,
        endpoint: &'a Endpoint,
        to: &'a Reference,
        extent: Extent,
        source: &'a dyn Source,
        step: &'a Step,
    ) -> Self {
        let stated = client.settings().registry(to.registry()).and_then(|stated| stated.upload_chunk);
        let chunk = stated.unwrap_or(if client.takes_chunks(endpoint) { CHUNK } else { u64::MAX });
        Self {
            client,
            endpoint,
            to,
            scope: push(&endpoint.repository(to)),
            extent,
            source,
            step,
            unfinished: None,
            chunk,
            resumed: false,
            is_bounded: stated.is_some(),
            refusals: 0,
        }
    }

    /// Remembers where it stands, if it is large enough for that to help.
    pub(super) fn remember_in(&mut self, unfinished: Option<&'a dyn Unfinished>) {
        let is_large = self.extent.whole().is_none_or(|whole| whole.size > SINGLE_PUT);
        self.unfinished = unfinished.filter(|_| is_large);
    }

    /// The session that an earlier process left, if the registry still knows it.
    pub(super) async fn take_up(&mut self) -> Option<Session> {
        let unfinished = self.unfinished?;
        let at = location_of(&unfinished.recall()?)?;
        let found = match self.status(&Session { at, offset: 0, shortest: 0 }).await {
            Ok(found) => found,
            // It may be on a host that is gone for good. If it is the registry that cannot be reached,
            // whoever begins anew finds out, and the note stays.
            Err(_) => return None,
        };
        match &found {
            Some(session) => self.resumed = session.offset > 0,
            None => unfinished.forget(),
        }
        found
    }

    /// Sends everything.
    pub(super) async fn run(&mut self, mut session: Session) -> Result<(), Failure> {
        self.unfinished.inspect(|unfinished| unfinished.remember(session.at.as_str()));
        let outcome = self.tries(&mut session).await;
        match &outcome {
            Ok(()) => self.forget(),
            // A bad network may be better later, and the upload goes on then.
            Err(failure) if failure.is_transient() && self.unfinished.is_some() => {}
            Err(_) => {
                self.forget();
                self.client.drop_session(self.endpoint, self.to, session.at.clone()).await;
            }
        }
        outcome
    }

    fn forget(&self) {
        self.unfinished.inspect(|unfinished| unfinished.forget());
    }

    async fn tries(&mut self, session: &mut Session) -> Result<(), Failure> {
        let mut waits = self.client.waits(self.client.retry());
        let mut furthest = session.offset;
        loop {
            let failed = match self.send(session).await {
                Ok(()) => return Ok(()),
                Err(failed) => failed,
            };
            if session.offset > furthest {
                furthest = session.offset;
                waits.progressed();
            }
            let mut afresh = false;
            match self.verdict(&failed, session) {
                Verdict::Over => return Err(failed.failure),
                Verdict::Smaller(chunk) => {
                    self.chunk = chunk;
                    self.is_bounded = true;
                }
                Verdict::Whole => {
                    self.client.takes_no_chunks(self.endpoint);
                    self.chunk = u64::MAX;
                    afresh = true;
                }
                Verdict::Afresh => {
                    wait(&mut waits, failed.failure).await?;
                    afresh = true;
                }
                Verdict::Ask => wait(&mut waits, failed.failure).await?,
            }
            // The registry may have taken all of it and only the answer got lost.
            if let Some(whole) = self.extent.whole() {
                let scope = self.scope.clone();
                if self.client.has_blob_at(self.endpoint, self.to, whole.digest, scope).await? {
                    return Ok(());
                }
            }
            let known = if afresh { None } else { self.status(session).await? };
            *session = match known {
                Some(known) => {
                    self.resumed |= known.offset > 0;
                    known
                }
                None => {
                    self.client.drop_session(self.endpoint, self.to, session.at.clone()).await;
                    self.resumed = false;
                    self.client.begin(self.endpoint, self.to).await?
                }
            };
            if session.offset > furthest {
                furthest = session.offset;
                waits.progressed();
            }
        }
    }

    /// What to do about a failure.
    fn verdict(&mut self, failed: &Failed, session: &Session) -> Verdict {
        let has_one_piece = self.chunk == u64::MAX || self.is_bounded;
        match &failed.failure {
            Failure::Status { status: 413, .. } => {
                let half = (failed.length / 2).min(self.chunk / 2);
                match half >= SMALLEST_CHUNK.max(session.shortest) {
                    true => Verdict::Smaller(half),
                    false => Verdict::Over,
                }
            }
            // We disagree about where it stands, another upload of the same blob was faster, or the
            // session is gone. Twice so, it is that chunks are not taken.
            Failure::Status { status: 404 | 409 | 416, .. } | Failure::NotFound { .. } => {
                self.refusals += u32::from(failed.is_later_chunk);
                match self.refusals > 1 && failed.is_later_chunk && !has_one_piece {
                    true => Verdict::Whole,
                    false => Verdict::Ask,
                }
            }
            // What it had before was not what we thought.
            Failure::Status { status: 400, .. } if self.resumed => Verdict::Afresh,
            Failure::Status { .. }
                if failed.is_later_chunk && !has_one_piece && !failed.failure.is_transient() =>
            {
                Verdict::Whole
            }
            failure if failure.is_transient() => Verdict::Ask,
            _ => Verdict::Over,
        }
    }

    /// Sends what is missing, and ends the upload.
    async fn send(&mut self, session: &mut Session) -> Result<(), Failed> {
        loop {
            let chunk = self.chunk.max(session.shortest);
            let before = |failure| Failed { failure, length: 0, is_later_chunk: false };
            let (available, whole) = self.extent.ready(session.offset, chunk).await.map_err(before)?;
            if let Some(whole) = &whole {
                let ends = session.offset == 0 && whole.size <= SINGLE_PUT.min(chunk);
                if ends || session.offset >= whole.size {
                    let length = whole.size.saturating_sub(session.offset);
                    return self.end(session, whole, length).await.map_err(|failure| Failed {
                        failure,
                        length,
                        is_later_chunk: false,
                    });
                }
            }
            let length = chunk.min(available.saturating_sub(session.offset));
            let total = whole.map(|whole| whole.size);
            let is_later_chunk = session.offset > 0;
            let sent = self.patch(session, length, total).await;
            sent.map_err(|failure| Failed { failure, length, is_later_chunk })?;
            if let Some(unfinished) = self.unfinished {
                unfinished.remember(session.at.as_str());
            }
        }
    }

    /// Sends one chunk.
    async fn patch(&self, session: &mut Session, length: u64, total: Option<u64>) -> Result<(), Failure> {
        let from = session.offset;
        let answer = self.request(Method::PATCH, session.at.clone(), from, length, total).await?;
        if !matches!(answer.status(), StatusCode::ACCEPTED | StatusCode::NO_CONTENT | StatusCode::CREATED) {
            return Err(answer.failure(&self.endpoint.account, "such upload").await);
        }
        // It may have taken less than was sent, and says so.
        let taken = answer.header(RANGE).and_then(range_end).filter(|end| *end > from);
        session.offset = taken.map_or(from + length, |end| end.min(from + length));
        if let Some(next) = location(&answer) {
            session.at = next?;
        }
        answer.finish().await;
        Ok(())
    }

    /// Ends the upload, `length` bytes going along.
    async fn end(&self, session: &Session, whole: &Descriptor, length: u64) -> Result<(), Failure> {
        let mut url = session.at.clone();
        url.query_pairs_mut().append_pair("digest", &whole.digest.to_string());
        let answer = self.request(Method::PUT, url, session.offset, length, Some(whole.size)).await?;
        if !answer.status().is_success() {
            return Err(answer.failure(&self.endpoint.account, "such upload").await);
        }
        answer.finish().await;
        Ok(())
    }

    /// One request with bytes of the blob. A failure to read those outranks what it does to the
    /// connection.
    async fn request(
        &self,
        method: Method,
        url: Url,
        from: u64,
        length: u64,
        total: Option<u64>,
    ) -> Result<Answer, Failure> {
        let sent = Arc::new(AtomicU64::new(0));
        let broken: Arc<Mutex<Option<io::Error>>> = Arc::default();
        let make = || {
            if length == 0 {
                return Ok(reqwest::Body::from(Vec::new()));
            }
            let reader = (self.source)(from).map_err(Failure::Source)?;
            Ok(body(reader, length, Arc::clone(&sent), Arc::clone(&broken)))
        };
        let part = self.extent.part();
        let report = |sent: u64| self.step.transfer(&part, from + sent, total);
        let silent = |_| {};
        let report: &(dyn Fn(u64) + Send + Sync) = if length > 0 { &report } else { &silent };
        let body = Body { make: &make, length, sent: Arc::clone(&sent), report };
        let octets = HeaderValue::from_static("application/octet-stream");
        let mut ask =
            Ask::new(method, Target::Location(url), vec![self.scope.clone()]).header(CONTENT_TYPE, octets);
        if length > 0 && total != Some(length) {
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

    /// How much of the upload the registry has, and where to go on; nothing if it does not know it.
    async fn status(&self, session: &Session) -> Result<Option<Session>, Failure> {
        let target = Target::Location(session.at.clone());
        let ask = Ask::new(Method::GET, target, vec![self.scope.clone()]);
        let answer = match self.client.call(self.endpoint, &ask).await {
            Ok(answer) => answer,
            Err(failure) if failure.is_transient() => return Err(failure),
            // A session on another host may be over for other reasons than it says.
            Err(_) => return Ok(None),
        };
        if !answer.status().is_success() {
            answer.finish().await;
            return Ok(None);
        }
        let Some(offset) = answer.header(RANGE).and_then(range_end) else { return Ok(None) };
        let at = location(&answer).unwrap_or_else(|| Ok(session.at.clone()))?;
        answer.finish().await;
        // More than there is can only be another blob's. What is still growing may come to that.
        let fits = self.extent.whole().is_none_or(|whole| offset <= whole.size);
        Ok(fits.then_some(Session { at, offset, shortest: session.shortest }))
    }
}

/// What to do after a failure.
enum Verdict {
    /// Nothing helps.
    Over,
    /// Ask what the registry has, and go on from there.
    Ask,
    /// As [`Verdict::Ask`], with chunks of this size.
    Smaller(u64),
    /// Begin anew.
    Afresh,
    /// Begin anew, and send all in one request.
    Whole,
}

/// A Location that was kept as text. What leads elsewhere than to a web server is nothing.
pub(super) fn location_of(text: &str) -> Option<Url> {
    Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"))
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

    #[test]
    fn kept_locations_lead_to_web_servers() {
        assert!(location_of("https://r.example/v2/a/blobs/uploads/1?_state=x").is_some());
        for text in ["file:///etc/passwd", "/v2/a", "", "ftp://r.example/"] {
            assert!(location_of(text).is_none(), "{text}");
        }
    }
}
