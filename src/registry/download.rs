//! Blobs: streamed, resumed after a cut, and checked while they come.

use std::fs::File;
use std::io::{self, Seek, Write};

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
}

impl<F: FnMut(&[u8]) -> io::Result<()> + Send> Sink for F {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self(bytes)
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

/// What of a blob is here.
struct Partial<'a, S> {
    wanted: &'a Descriptor,
    sink: &'a mut S,
    hasher: Hasher,
    received: u64,
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
    /// begins anew elsewhere if the sink can [restart](Sink::restart).
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
        let (hasher, received, reported) = (Hasher::new(), 0, 0);
        let mut partial =
            Partial { wanted: descriptor, sink, hasher, received, from_mirror: false, step, reported };
        self.blob_anywhere(reference, &mut partial).await.map_err(|failure| {
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
                Err(failure) if !failure.is_transient() => return Err(failure),
                Err(failure) => failure,
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
    ) -> Result<(), Failure> {
        let (size, from) = (partial.wanted.size, partial.received);
        if from == size && size > 0 {
            return Ok(());
        }
        let repository = endpoint.repository(reference);
        let target = Target::Path(format!("{repository}/blobs/{}", partial.wanted.digest));
        let mut ask = Ask::new(Method::GET, target, vec![pull(&repository)]);
        if from > 0 {
            let range = HeaderValue::from_str(&format!("bytes={from}-")).expect("numbers are ASCII");
            ask = ask.header(RANGE, range);
        }
        let mut answer = self.call(endpoint, &ask).await?;
        // A registry that knows no ranges sends everything again; what is here already is skipped.
        let mut skip = match answer.status() {
            StatusCode::OK => from,
            StatusCode::PARTIAL_CONTENT if from > 0 => {
                if answer.header(CONTENT_RANGE).and_then(range_start) != Some(from) {
                    return Err(protocol(endpoint, "it sent another range than was asked for"));
                }
                0
            }
            _ => return Err(answer.failure(&endpoint.account, "such blob").await),
        };
        let expected = size - from + skip;
        if let Some(found) = answer.length().filter(|length| *length != expected) {
            return Err(Failure::WrongSize { wanted: size, found: found.saturating_add(size - expected) });
        }
        while let Some(chunk) = answer.chunk().await? {
            let bytes = chunk.as_ref();
            let skipped = skip.min(bytes.len() as u64);
            skip -= skipped;
            partial.from_mirror |= endpoint.is_mirror;
            partial.take(&bytes[skipped as usize..])?;
        }
        if partial.received < size {
            let reason = format!("it ended after {} of {size} bytes", partial.received);
            return Err(Failure::Interrupted { host: answer.host(), reason });
        }
        Ok(())
    }
}

impl<S: Sink> Partial<'_, S> {
    fn take(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let after = self.received + bytes.len() as u64;
        if after > self.wanted.size {
            return Err(Failure::WrongSize { wanted: self.wanted.size, found: after });
        }
        self.sink.write(bytes).map_err(Failure::Sink)?;
        self.hasher.update(bytes);
        self.received = after;
        if after >= self.reported + REPORT || after == self.wanted.size {
            self.reported = after;
            self.step.transfer(&self.wanted.digest.short(), after, Some(self.wanted.size));
        }
        Ok(())
    }

    fn check(&self) -> Result<(), Failure> {
        let (wanted, found): (Digest, Digest) = (self.wanted.digest, self.hasher.clone().finish());
        if wanted == found { Ok(()) } else { Err(Failure::WrongDigest { wanted, found }) }
    }

    fn restart(&mut self) -> Result<bool, Failure> {
        if !self.sink.restart().map_err(Failure::Sink)? {
            return Ok(false);
        }
        (self.hasher, self.received, self.reported, self.from_mirror) = (Hasher::new(), 0, 0, false);
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
