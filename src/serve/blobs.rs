//! Blobs on their way out: whole, by range, or as a head.
//!
//! The bytes of one that is read whole are hashed as they go by. If they are not what its digest says,
//! the connection breaks before the last of them, so nobody takes a damaged blob for a whole one, and
//! the blob is removed, so that it can be pushed again.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::header::{ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, RANGE};
use hyper::{Method, Response, StatusCode};

use super::answer::{Body, Call, Registry, empty, header, is_known};
use super::name::Repository;
use super::refusal::Refusal;
use super::storage::Storage;
use crate::digest::{BlobDigest, Hasher};

/// So much is read at once.
const PIECE: u64 = 256 << 10;

impl Registry {
    /// GET and HEAD.
    pub(super) async fn blob(
        &self,
        name: Repository,
        digest: BlobDigest,
        call: Call,
    ) -> Result<Response<Body>, Refusal> {
        let head = *call.request.method() == Method::HEAD;
        // Who only asks whether it is here does so to leave it out of a push.
        let keep = head && !self.options.read_only;
        let found = self.on_disk(move |storage| {
            let found = storage.blob(&name, digest)?;
            match keep && found.is_some() && !storage.keep_blob(&name, digest)? {
                true => Ok(None),
                false => Ok(found),
            }
        });
        let (file, size) = found.await?.ok_or_else(Refusal::unknown_blob)?;
        let mut response = empty(StatusCode::OK);
        header(&mut response, ETAG.as_str(), &format!("\"{digest}\""));
        header(&mut response, CACHE_CONTROL.as_str(), "max-age=31536000, immutable");
        header(&mut response, "docker-content-digest", &digest.to_string());
        if is_known(&call, digest) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return Ok(response);
        }
        header(&mut response, ACCEPT_RANGES.as_str(), "bytes");
        header(&mut response, CONTENT_TYPE.as_str(), "application/octet-stream");
        let stated = call.request.headers().get(RANGE).and_then(|value| value.to_str().ok());
        let (start, end) = match Wanted::of(stated, size) {
            Wanted::Whole => (0, size),
            Wanted::Part(start, end) => {
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                header(&mut response, CONTENT_RANGE.as_str(), &format!("bytes {start}-{}/{size}", end - 1));
                (start, end)
            }
            Wanted::Nothing => {
                let status = StatusCode::RANGE_NOT_SATISFIABLE;
                return Err(Refusal::new(status, "RANGE_INVALID", format!("the blob has {size} bytes"))
                    .header(CONTENT_RANGE, &format!("bytes */{size}")));
            }
        };
        header(&mut response, CONTENT_LENGTH.as_str(), &(end - start).to_string());
        if !head && end > start {
            let whole = (start, end) == (0, size);
            let check = whole.then(|| (Hasher::new(), digest));
            *response.body_mut() = body(Arc::clone(&self.storage), file, start, end, check);
        }
        Ok(response)
    }

    /// DELETE.
    pub(super) async fn delete_blob(
        &self,
        name: Repository,
        digest: BlobDigest,
    ) -> Result<Response<Body>, Refusal> {
        match self.on_disk(move |storage| storage.delete_blob(&name, digest)).await? {
            true => Ok(empty(StatusCode::ACCEPTED)),
            false => Err(Refusal::unknown_blob()),
        }
    }
}

/// Which bytes of a blob are asked for; the end is behind the last one.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    Whole,
    Part(u64, u64),
    /// None that there are.
    Nothing,
}

impl Wanted {
    /// Several ranges in one request may be answered with the whole, and are.
    fn of(range: Option<&str>, size: u64) -> Self {
        let Some((first, last)) =
            range.and_then(|text| text.trim().strip_prefix("bytes=")).and_then(|text| text.split_once('-'))
        else {
            return Self::Whole;
        };
        match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
            (Ok(first), Ok(last)) if first <= last && first < size => {
                Self::Part(first, last.saturating_add(1).min(size))
            }
            (Ok(first), Ok(last)) if first <= last => Self::Nothing,
            (Ok(first), Err(_)) if last.trim().is_empty() && first < size => Self::Part(first, size),
            (Ok(_), Err(_)) if last.trim().is_empty() => Self::Nothing,
            (Err(_), Ok(length)) if first.trim().is_empty() && length > 0 && size > 0 => {
                Self::Part(size.saturating_sub(length), size)
            }
            (Err(_), Ok(_)) if first.trim().is_empty() => Self::Nothing,
            _ => Self::Whole,
        }
    }
}

/// What is being sent of a file.
struct Reading {
    storage: Arc<dyn Storage>,
    file: File,
    at: u64,
    end: u64,
    check: Option<(Hasher, BlobDigest)>,
}

/// A file's bytes. No thread waits for a client that is slow: each piece is read when it is wanted.
fn body(
    storage: Arc<dyn Storage>,
    file: File,
    at: u64,
    end: u64,
    check: Option<(Hasher, BlobDigest)>,
) -> Body {
    let reading = Reading { storage, file, at, end, check };
    let pieces = futures_util::stream::unfold(Some(reading), |reading| async {
        let reading = reading.filter(|reading| reading.at < reading.end)?;
        let read = tokio::task::spawn_blocking(move || reading.piece()).await;
        Some(match read {
            Ok(Ok((bytes, reading))) => (Ok(Frame::data(bytes)), Some(reading)),
            Ok(Err(error)) => (Err(error), None),
            Err(panic) => (Err(io::Error::other(panic)), None),
        })
    });
    StreamBody::new(pieces).boxed_unsync()
}

impl Reading {
    fn piece(mut self) -> io::Result<(Bytes, Self)> {
        let length = usize::try_from(PIECE.min(self.end - self.at)).expect("a piece is small");
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, self.at)?;
        self.at += length as u64;
        if let Some((hasher, _)) = &mut self.check {
            hasher.update(&bytes);
        }
        if self.at == self.end
            && let Some((hasher, digest)) = self.check.take()
            && BlobDigest(hasher.finish()) != digest
        {
            self.storage.drop_damaged_blob(digest).map_err(io::Error::other)?;
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the blob is damaged"));
        }
        Ok((bytes.into(), self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        for (text, want) in [
            ("bytes=0-4", Wanted::Part(0, 5)),
            ("bytes=5-", Wanted::Part(5, 10)),
            ("bytes=-3", Wanted::Part(7, 10)),
            ("bytes=-30", Wanted::Part(0, 10)),
            ("bytes=9-18446744073709551615", Wanted::Part(9, 10)),
            ("bytes=10-", Wanted::Nothing),
            ("bytes=10-11", Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=5-4", Wanted::Whole),
            ("bytes=0-1,3-4", Wanted::Whole),
            ("bytes=x", Wanted::Whole),
            ("lines=0-1", Wanted::Whole),
            ("bytes=99999999999999999999-", Wanted::Whole),
        ] {
            assert_eq!(Wanted::of(Some(text), 10), want, "{text}");
        }
        assert_eq!(Wanted::of(None, 10), Wanted::Whole);
        assert_eq!(Wanted::of(Some("bytes=0-"), 0), Wanted::Nothing);
        assert_eq!(Wanted::of(Some("bytes=-5"), 0), Wanted::Nothing);
    }
}
