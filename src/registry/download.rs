//! Blobs: streamed, resumed after a cut, and checked while they come.

use std::fs::File;
use std::io::{self, Seek, Write};

use futures_util::future::BoxFuture;
use reqwest::header::{CONTENT_RANGE, HeaderValue, RANGE};
use reqwest::{Method, StatusCode};

use crate::digest::{Digest, Hasher};
use crate::image::Descriptor;
use crate::progress::Step;
use crate::reference::Reference;

use super::client::{Ask, Client, Target, protocol, pull, shown_name};
use super::endpoint::Endpoint;
use super::error::{Failure, RegistryError};
use super::retry::Waits;

/// How much must arrive for a connection that then breaks to count as progress.
const PROGRESS: u64 = 1 << 20;
/// How much arrives between two reports.
const REPORT: u64 = 256 << 10;

/// Where a blob's bytes go. They are not to be used before the transfer is done: only then are they
/// known to be the right ones.
pub trait Sink: Send {
    /// Takes the next bytes. Called from asynchronous code, so it should not block for long.
    ///
    /// # Errors
    /// Whatever keeps it from taking them; the transfer ends with it.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Forgets all bytes so far, because a mirror sent wrong ones, and tells whether it did. One
    /// that cannot makes the transfer fail instead.
    ///
    /// # Errors
    /// Whatever went wrong with it; the transfer ends with it.
    fn restart(&mut self) -> io::Result<bool> {
        Ok(false)
    }

    /// How many of the blob's first bytes it has from an earlier transfer. Whoever asks goes on behind
    /// them; a sink that is not asked begins anew with the first write.
    ///
    /// # Errors
    /// Whatever went wrong with it; the transfer ends with it.
    fn resume(&mut self) -> io::Result<u64> {
        Ok(0)
    }

    /// The digest of all bytes so far, those of an earlier transfer among them, if it computes that
    /// anyway: then nobody else does. One that resumes must.
    fn digest(&self) -> Option<Digest> {
        None
    }

    /// Waits until the next bytes can be taken; nothing more is read from the connection before.
    ///
    /// # Errors
    /// Whatever keeps it from ever taking them; the transfer ends with it.
    fn ready(&mut self) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Told of the hash of all `received` bytes so far, for one that may have to go on from there; not
    /// if it computes the [digest](Sink::digest) itself.
    fn hashed(&mut self, _received: u64, _hasher: &Hasher) {}
}

impl<F: FnMut(&[u8]) -> io::Result<()> + Send> Sink for F {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self(bytes)
    }
}

impl Sink for &mut (dyn Sink + '_) {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        (**self).write(bytes)
    }

    fn restart(&mut self) -> io::Result<bool> {
        (**self).restart()
    }

    fn resume(&mut self) -> io::Result<u64> {
        (**self).resume()
    }

    fn digest(&self) -> Option<Digest> {
        (**self).digest()
    }

    fn ready(&mut self) -> BoxFuture<'_, io::Result<()>> {
        (**self).ready()
    }

    fn hashed(&mut self, received: u64, hasher: &Hasher) {
        (**self).hashed(received, hasher);
    }
}

impl Sink for Vec<u8> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.extend_from_slice(bytes);
        Ok(())
    }

    fn restart(&mut self) -> io::Result<bool> {
        self.clear();
        Ok(true)
    }
}

/// A file of the transfer's own: it is emptied if the transfer begins again.
impl Sink for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn restart(&mut self) -> io::Result<bool> {
        self.set_len(0)?;
        self.rewind()?;
        Ok(true)
    }
}

/// How one request for a blob failed.
enum Broken {
    /// There was no answer, after as many tries as there may be.
    Asking(Failure),
    /// The answer was not the right one, or broke off.
    Reading(Failure),
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        Self::Reading(failure)
    }
}

/// What of a blob is here.
struct Partial<'a, S> {
    wanted: &'a Descriptor,
    sink: &'a mut S,
    /// None if the sink hashes what it takes.
    hasher: Option<Hasher>,
    received: u64,
    /// Whether some of it was left by an earlier transfer, which nobody vouches for.
    resumed: bool,
    /// Whether some of it came from a mirror.
    from_mirror: bool,
    step: &'a Step,
    reported: u64,
}

impl Client {
    /// Fetches a blob of the reference's repository into `sink`. Size and digest are checked; no byte
    /// beyond the stated size is taken. A connection that breaks is taken up where it broke.
    ///
    /// Mirrors are asked first. One that sends wrong bytes is not asked again, and the transfer
    /// begins anew elsewhere if the sink can [restart](Sink::restart). What the sink
    /// [has](Sink::resume) from an earlier transfer is not fetched, unless the whole turns out wrong.
    ///
    /// # Errors
    /// [`Failure::WrongDigest`], [`Failure::WrongSize`], [`Failure::Sink`] and what else is in
    /// [`Failure`]. The sink then holds bytes that are to be thrown away.
    pub async fn blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        sink: &mut impl Sink,
        step: &Step,
    ) -> Result<(), RegistryError> {
        self.fetch_blob(reference, descriptor, None, sink, step).await
    }

    /// As [`Client::blob`], of which the first bytes, so many and with this hash, were taken before.
    pub(super) async fn blob_from(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        begun: (u64, Hasher),
        sink: &mut impl Sink,
        step: &Step,
    ) -> Result<(), RegistryError> {
        self.fetch_blob(reference, descriptor, Some(begun), sink, step).await
    }

    async fn fetch_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        begun: Option<(u64, Hasher)>,
        sink: &mut impl Sink,
        step: &Step,
    ) -> Result<(), RegistryError> {
        let fetch = async {
            let mut partial = Partial::begin(descriptor, begun, sink, step)?;
            self.blob_anywhere(reference, &mut partial).await
        };
        fetch.await.map_err(|failure| {
            failure.of(format!("fetch the blob `{}` of `{}`", descriptor.digest, shown_name(reference)))
        })
    }

    async fn blob_anywhere<S: Sink>(
        &self,
        reference: &Reference,
        partial: &mut Partial<'_, S>,
    ) -> Result<(), Failure> {
        let endpoints = self.readable(reference)?;
        let mut at = 0;
        loop {
            let endpoint = &endpoints[at];
            let failure = match self.blob_at(endpoint, reference, partial).await {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            };
            let wrong = matches!(failure, Failure::WrongDigest { .. } | Failure::WrongSize { .. });
            if matches!(failure, Failure::Sink(_)) || (!endpoint.is_mirror && !wrong) {
                return Err(failure);
            }
            if wrong && partial.resumed {
                // What was left is the first suspect: nobody here deserves less trust for it.
                match partial.restart()? {
                    true => continue,
                    false => return Err(failure),
                }
            }
            if wrong && endpoint.is_mirror {
                self.shun(endpoint);
            }
            if wrong && partial.received > 0 {
                // Bytes of a mirror may be what spoiled the whole; without any, nothing would change.
                if !partial.from_mirror || !partial.restart()? {
                    return Err(failure);
                }
            } else if !endpoint.is_mirror {
                return Err(failure);
            }
            at = (at + 1).min(endpoints.len() - 1);
        }
    }

    async fn blob_at<S: Sink>(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        partial: &mut Partial<'_, S>,
    ) -> Result<(), Failure> {
        let mut waits = self.waits(self.retry_for(endpoint));
        loop {
            let before = partial.received;
            let failure = match self.blob_piece(endpoint, reference, partial).await {
                Ok(()) => return partial.check(),
                // Asking was tried as often as it may be.
                Err(Broken::Asking(failure)) => return Err(failure),
                Err(Broken::Reading(failure)) if !failure.is_transient() => return Err(failure),
                Err(Broken::Reading(failure)) => failure,
            };
            if partial.received - before >= PROGRESS {
                waits.progressed();
            }
            wait(&mut waits, failure).await?;
        }
    }

    /// One request for what is still missing.
    async fn blob_piece<S: Sink>(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        partial: &mut Partial<'_, S>,
    ) -> Result<(), Broken> {
        let (size, from) = (partial.wanted.size, partial.received);
        if from == size && size > 0 {
            return Ok(());
        }
        let repository = endpoint.repository(reference);
        let target = Target::Path(format!("{repository}/blobs/{}", partial.wanted.digest));
        let ask = Ask::new(Method::GET, target.clone(), vec![pull(&repository)]);
        let mut answer = match from {
            0 => self.call(endpoint, &ask).await.map_err(Broken::Asking)?,
            _ => {
                let range = HeaderValue::from_str(&format!("bytes={from}-")).expect("numbers are ASCII");
                let ranged = Ask::new(Method::GET, target, vec![pull(&repository)]).header(RANGE, range);
                let answer = self.call(endpoint, &ranged).await.map_err(Broken::Asking)?;
                // Some storage behind a registry has no ranges, and says so in one of these ways.
                let other = answer.header(CONTENT_RANGE).and_then(range_start) != Some(from);
                match answer.status() {
                    StatusCode::PARTIAL_CONTENT if other => {
                        drop(answer);
                        self.call(endpoint, &ask).await.map_err(Broken::Asking)?
                    }
                    StatusCode::RANGE_NOT_SATISFIABLE => {
                        answer.finish().await;
                        self.call(endpoint, &ask).await.map_err(Broken::Asking)?
                    }
                    _ => answer,
                }
            }
        };
        // A registry that knows no ranges sends everything again; what is here already is skipped.
        let mut skip = match answer.status() {
            StatusCode::OK => from,
            StatusCode::PARTIAL_CONTENT if from > 0 => {
                if answer.header(CONTENT_RANGE).and_then(range_start) != Some(from) {
                    return Err(protocol(endpoint, "it sent another range than was asked for").into());
                }
                0
            }
            _ => return Err(answer.failure(&endpoint.account, "such blob").await.into()),
        };
        let expected = size - from + skip;
        if let Some(found) = answer.length().filter(|length| *length != expected) {
            let found = found.saturating_add(size - expected);
            return Err(Failure::WrongSize { wanted: size, found }.into());
        }
        loop {
            partial.sink.ready().await.map_err(Failure::Sink)?;
            let Some(chunk) = answer.chunk().await? else { break };
            let bytes = chunk.as_ref();
            let skipped = skip.min(bytes.len() as u64);
            skip -= skipped;
            partial.from_mirror |= endpoint.is_mirror;
            partial.take(&bytes[skipped as usize..])?;
        }
        if partial.received < size {
            let reason = format!("it ended after {} of {size} bytes", partial.received);
            return Err(Failure::Interrupted { host: answer.host(), reason }.into());
        }
        Ok(())
    }
}

impl<'a, S: Sink> Partial<'a, S> {
    /// What was `begun`, or else what the sink has from before, as far as it can be a part of the blob.
    fn begin(
        wanted: &'a Descriptor,
        begun: Option<(u64, Hasher)>,
        sink: &'a mut S,
        step: &'a Step,
    ) -> Result<Self, Failure> {
        if let Some((received, hasher)) = begun {
            let (hasher, reported) = (Some(hasher), received);
            let (resumed, from_mirror) = (false, false);
            return Ok(Self { wanted, sink, hasher, received, resumed, from_mirror, step, reported });
        }
        let received = sink.resume().map_err(Failure::Sink)?;
        let hasher = sink.digest().is_none().then(Hasher::new);
        let mut partial = Self {
            wanted,
            sink,
            hasher,
            received,
            resumed: received > 0,
            from_mirror: false,
            step,
            reported: 0,
        };
        // The digest of bytes that nobody hashed is not known.
        if partial.resumed && (received > wanted.size || partial.hasher.is_some()) {
            let found = received;
            if !partial.restart()? {
                return Err(Failure::WrongSize { wanted: wanted.size, found });
            }
        }
        if partial.resumed {
            partial.report();
        }
        Ok(partial)
    }

    fn report(&mut self) {
        self.reported = self.received;
        self.step.transfer(&self.wanted.digest.short(), self.received, Some(self.wanted.size));
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let after = self.received + bytes.len() as u64;
        if after > self.wanted.size {
            return Err(Failure::WrongSize { wanted: self.wanted.size, found: after });
        }
        self.sink.write(bytes).map_err(Failure::Sink)?;
        self.received = after;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
            self.sink.hashed(after, hasher);
        }
        if after >= self.reported + REPORT || after == self.wanted.size {
            self.report();
        }
        Ok(())
    }

    fn check(&self) -> Result<(), Failure> {
        let wanted = self.wanted.digest;
        let found: Option<Digest> = match &self.hasher {
            Some(hasher) => Some(hasher.clone().finish()),
            None => self.sink.digest(),
        };
        // A sink that hashed before and does not now has not seen these bytes.
        let found = found.unwrap_or_else(|| Digest::of(b""));
        if wanted == found { Ok(()) } else { Err(Failure::WrongDigest { wanted, found }) }
    }

    fn restart(&mut self) -> Result<bool, Failure> {
        if !self.sink.restart().map_err(Failure::Sink)? {
            return Ok(false);
        }
        self.hasher = self.sink.digest().is_none().then(Hasher::new);
        (self.received, self.reported, self.resumed, self.from_mirror) = (0, 0, false, false);
        Ok(true)
    }
}

/// Waits before the next try, or fails with `failure` if there shall be none.
pub(super) async fn wait(waits: &mut Waits<'_>, failure: Failure) -> Result<(), Failure> {
    match waits.next(failure.retry_after()) {
        Some(wait) => {
            tokio::time::sleep(wait).await;
            Ok(())
        }
        None => Err(failure),
    }
}

/// The first byte of `bytes 5-9/10`.
fn range_start(text: &str) -> Option<u64> {
    text.trim().strip_prefix("bytes")?.trim_start().split('-').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        assert_eq!(range_start("bytes 5-9/10"), Some(5));
        for text in ["bytes */10", "5-9", "", "bytes x-1/2"] {
            assert_eq!(range_start(text), None, "{text}");
        }
    }
}
