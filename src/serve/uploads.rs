//! Blobs on their way in.
//!
//! ```text
//! POST   uploads/?mount=&from=   taken over from another repository
//! POST   uploads/?digest=        whole, in one request
//! POST   uploads/                an upload begins
//! PATCH  its Location            more of it, at its end
//! GET    its Location            how much there is
//! PUT    its Location?digest=    the rest of it, if any, and its end
//! DELETE its Location            never mind
//! ```
//!
//! What arrived before a connection broke stays, so the next request goes on there. A client that
//! lost its connection may be back before we have noticed: the newest request of an upload has it,
//! and the one before gives up. The sha256 is taken while the bytes arrive; after a restart it is
//! taken of the file, up to where that stands.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, LOCATION, RANGE};
use hyper::{Response, StatusCode};
use tokio::sync::watch;

use super::answer::{Body, Call, Registry, empty, header, joined};
use super::name::Repository;
use super::refusal::Refusal;
use super::route::query;
use super::storage::StorageError;
use super::upload_files::{Opened, UploadId};
use crate::digest::{BlobDigest, Digest, Hasher};

/// How long a client may be silent in the middle of a body.
const SILENCE: Duration = Duration::from_secs(60);
/// So much is written at once.
const PIECE: usize = 1 << 20;

/// The uploads that this process has a hand on.
#[derive(Debug, Default)]
pub(super) struct Desk {
    slots: Mutex<HashMap<UploadId, Arc<Slot>>>,
}

/// One upload: whose turn it is, and how far it is hashed.
#[derive(Debug, Default)]
struct Slot {
    turn: watch::Sender<u64>,
    hashed: tokio::sync::Mutex<Hashed>,
}

#[derive(Debug, Clone, Default)]
struct Hashed {
    hasher: Hasher,
    bytes: u64,
}

impl Desk {
    fn slot(&self, id: &UploadId) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(slots.entry(id.clone()).or_default())
    }

    fn forget(&self, id: &UploadId) {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// Forgets what is hashed of uploads that nobody writes to; it can be read again.
    pub fn tidy(&self) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|_, slot| Arc::strong_count(slot) > 1);
    }
}

/// What a request says of its place in the upload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Place {
    start: Option<u64>,
    length: Option<u64>,
}

impl Place {
    fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        let stated = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
        let length = stated(CONTENT_LENGTH).map(|text| text.parse::<u64>().ok());
        let length = length.map(|length| length.ok_or_else(|| Refusal::size("the Content-Length is none")));
        let length = length.transpose()?;
        let Some(range) = stated(CONTENT_RANGE) else { return Ok(Self { start: None, length }) };
        let (start, end) = content_range(range)
            .ok_or_else(|| Refusal::size("the Content-Range is none: expected `<first>-<last>`"))?;
        let long = end - start + 1;
        match length {
            Some(length) if length != long => Err(Refusal::size(format!(
                "the Content-Range says {long} bytes, the Content-Length {length}"
            ))),
            _ => Ok(Self { start: Some(start), length: Some(long) }),
        }
    }
}

/// `0-99`, as the specification has it, or `bytes 0-99/*`, as HTTP has it.
fn content_range(text: &str) -> Option<(u64, u64)> {
    let text = text.trim().strip_prefix("bytes").unwrap_or(text).trim_start_matches([' ', '=']);
    let text = text.split('/').next()?;
    let (start, end) = text.split_once('-')?;
    let (start, end): (u64, u64) = (start.parse().ok()?, end.parse().ok()?);
    (start <= end && end < u64::MAX).then_some((start, end))
}

impl Registry {
    /// POST: an upload begins, or need not.
    pub(super) async fn begin_upload(&self, name: Repository, call: Call) -> Result<Response<Body>, Refusal> {
        let [mount, from, digest] = query(call.query(), ["mount", "from", "digest"])?;
        if let (Some(mount), Some(from)) = (&mount, from) {
            let mount = parse_digest(mount)?;
            let from = Repository::parse(&from).ok_or_else(|| {
                Refusal::new(StatusCode::BAD_REQUEST, "NAME_INVALID", "`from` is no name of a repository")
            })?;
            let to = name.clone();
            if self.on_disk(move |storage| storage.mount_blob(&from, &to, mount)).await? {
                return Ok(created(&name, mount));
            }
        }
        let digest = digest.as_deref().map(parse_digest).transpose()?;
        let id = UploadId::new(self.random(), &name);
        let new = id.clone();
        self.on_disk(move |storage| storage.uploads().create(&new)).await?;
        let Some(digest) = digest else { return Ok(accepted(StatusCode::ACCEPTED, &name, &id, 0)) };
        let outcome = self.end(&name, &id, call, digest).await;
        if outcome.is_err() {
            // Nobody knows its name.
            let id = id.clone();
            self.desk.forget(&id);
            let _ = self.on_disk(move |storage| storage.uploads().remove(&id)).await;
        }
        outcome
    }

    /// PATCH: more bytes.
    pub(super) async fn append_upload(
        &self,
        name: Repository,
        id: UploadId,
        call: Call,
    ) -> Result<Response<Body>, Refusal> {
        let slot = self.desk.slot(&id);
        let mut turn = slot.take_turn();
        let mut hashed = slot.hashed.lock().await;
        let (_, size) = self.receive(&name, &id, call, &mut hashed, &mut turn).await?;
        Ok(accepted(StatusCode::ACCEPTED, &name, &id, size))
    }

    /// PUT: the last bytes, if there are any more, and the digest.
    pub(super) async fn end_upload(
        &self,
        name: Repository,
        id: UploadId,
        call: Call,
    ) -> Result<Response<Body>, Refusal> {
        let [digest] = query(call.query(), ["digest"])?;
        let digest = digest.ok_or_else(|| Refusal::digest("the query states no digest"))?;
        let digest = parse_digest(&digest)?;
        self.end(&name, &id, call, digest).await
    }

    async fn end(
        &self,
        name: &Repository,
        id: &UploadId,
        call: Call,
        digest: BlobDigest,
    ) -> Result<Response<Body>, Refusal> {
        let slot = self.desk.slot(id);
        let mut turn = slot.take_turn();
        let mut hashed = slot.hashed.lock().await;
        let (file, _) = self.receive(name, id, call, &mut hashed, &mut turn).await?;
        let found = BlobDigest(hashed.hasher.clone().finish());
        let (to, upload) = (name.clone(), id.clone());
        if found != digest {
            self.on_disk(move |storage| storage.uploads().remove(&upload)).await?;
            self.desk.forget(id);
            return Err(Refusal::digest(format!("what was sent has the digest {found}, not {digest}")));
        }
        self.on_disk(move |storage| {
            let path = storage.uploads().path(&upload);
            file.sync_data().map_err(StorageError::io("write", &path))?;
            // The lock on it is held until it has its name.
            storage.adopt_blob(&to, digest, &path)
        })
        .await?;
        self.desk.forget(id);
        Ok(created(name, digest))
    }

    /// GET: how much there is.
    pub(super) async fn upload_status(
        &self,
        name: Repository,
        id: UploadId,
    ) -> Result<Response<Body>, Refusal> {
        let upload = id.clone();
        match self.on_disk(move |storage| storage.uploads().size(&upload)).await? {
            Some(size) => Ok(accepted(StatusCode::NO_CONTENT, &name, &id, size)),
            None => Err(Refusal::unknown_upload()),
        }
    }

    /// DELETE: never mind.
    pub(super) async fn cancel_upload(&self, id: UploadId) -> Result<Response<Body>, Refusal> {
        // Whoever is writing stops.
        drop(self.desk.slot(&id).take_turn());
        self.desk.forget(&id);
        match self.on_disk(move |storage| storage.uploads().remove(&id)).await? {
            true => Ok(empty(StatusCode::NO_CONTENT)),
            false => Err(Refusal::unknown_upload()),
        }
    }

    /// An upload's file, locked, and its size. Whoever has the lock may be about to let go: a request that
    /// broke off, or another server on the same place.
    async fn open(&self, id: &UploadId) -> Result<(File, u64), Refusal> {
        for _ in 0..40 {
            let upload = id.clone();
            match self.on_disk(move |storage| storage.uploads().open(&upload)).await? {
                Opened::Here(file, size) => return Ok((file, size)),
                Opened::Gone => {
                    self.desk.forget(id);
                    return Err(Refusal::unknown_upload());
                }
                Opened::Busy => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        Err(taken_over())
    }

    /// Writes what a request brings to the end of an upload, and gives its file, locked, and its size.
    async fn receive(
        &self,
        name: &Repository,
        id: &UploadId,
        call: Call,
        hashed: &mut Hashed,
        turn: &mut watch::Receiver<u64>,
    ) -> Result<(File, u64), Refusal> {
        let place = Place::of(call.request.headers())?;
        let (file, size) = self.open(id).await?;
        if place.start.is_some_and(|start| start != size) {
            let status = StatusCode::RANGE_NOT_SATISFIABLE;
            return Err(Refusal::new(status, "BLOB_UPLOAD_INVALID", format!("the upload has {size} bytes"))
                .header(RANGE, &range(size))
                .header(LOCATION, &location(name, id)));
        }
        let mut writing = Writing { file, size, hashed: hashed.clone() };
        if writing.hashed.bytes != size {
            writing = joined(tokio::task::spawn_blocking(move || writing.catch_up())).await??;
        }
        let (mut body, limit) = (call.request.into_body(), place.length.map(|length| size + length));
        let mut waiting: Vec<Bytes> = Vec::new();
        let outcome = loop {
            let next = tokio::select! {
                next = tokio::time::timeout(SILENCE, body.frame()) => next,
                _ = turn.changed() => break Err(taken_over()),
            };
            let data = match next {
                Err(_) => {
                    let status = StatusCode::REQUEST_TIMEOUT;
                    break Err(Refusal::new(status, "BLOB_UPLOAD_INVALID", "nothing came for a minute"));
                }
                Ok(None) => break Ok(()),
                // The client is gone; this is for the log.
                Ok(Some(Err(_))) => break Err(Refusal::size("the body broke off")),
                Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
            };
            let held: usize = waiting.iter().map(Bytes::len).sum();
            if limit.is_some_and(|limit| writing.size + (held + data.len()) as u64 > limit) {
                break Err(Refusal::size("the body is longer than its Content-Range says"));
            }
            waiting.push(data);
            if held >= PIECE {
                let pieces = std::mem::take(&mut waiting);
                writing = joined(tokio::task::spawn_blocking(move || writing.write(&pieces))).await??;
            }
        };
        // What came before anything broke counts.
        writing = joined(tokio::task::spawn_blocking(move || writing.write(&waiting))).await??;
        let short = limit.filter(|limit| writing.size < *limit);
        *hashed = writing.hashed;
        outcome?;
        match short {
            Some(_) => Err(Refusal::size("the body is shorter than its Content-Range says")),
            None => Ok((writing.file, writing.size)),
        }
    }
}

impl Slot {
    /// From now on the upload is ours; whoever has it sees that.
    fn take_turn(&self) -> watch::Receiver<u64> {
        self.turn.send_modify(|turn| *turn += 1);
        self.turn.subscribe()
    }
}

/// An upload's file, and what is hashed of it.
struct Writing {
    file: File,
    size: u64,
    hashed: Hashed,
}

impl Writing {
    fn write(mut self, pieces: &[Bytes]) -> Result<Self, StorageError> {
        for piece in pieces {
            self.file.write_all(piece).map_err(StorageError::io("write to", "an upload"))?;
            self.size += piece.len() as u64;
            self.hashed.hasher.update(piece);
            self.hashed.bytes = self.size;
        }
        Ok(self)
    }

    /// Hashes what is in the file already.
    fn catch_up(mut self) -> Result<Self, StorageError> {
        let fail = || StorageError::io("read", "an upload");
        if self.hashed.bytes > self.size {
            self.hashed = Hashed::default();
        }
        let mut reader = &self.file;
        reader.seek(SeekFrom::Start(self.hashed.bytes)).map_err(fail())?;
        let mut buffer = vec![0; 256 << 10];
        while self.hashed.bytes < self.size {
            let left =
                usize::try_from(self.size - self.hashed.bytes).unwrap_or(buffer.len()).min(buffer.len());
            match reader.read(&mut buffer[..left]).map_err(fail())? {
                0 => return Err(fail()(std::io::ErrorKind::UnexpectedEof.into())),
                length => {
                    self.hashed.hasher.update(&buffer[..length]);
                    self.hashed.bytes += length as u64;
                }
            }
        }
        Ok(self)
    }
}

fn parse_digest(text: &str) -> Result<BlobDigest, Refusal> {
    Digest::parse(text).map(BlobDigest).map_err(Refusal::digest)
}

fn taken_over() -> Refusal {
    Refusal::new(StatusCode::CONFLICT, "BLOB_UPLOAD_INVALID", "another request goes on with this upload")
}

fn location(name: &Repository, id: &UploadId) -> String {
    format!("/v2/{name}/blobs/uploads/{}", id.as_str())
}

/// Of an upload with nothing in it this says `0-0`, as other registries do.
fn range(size: u64) -> String {
    format!("0-{}", size.saturating_sub(1))
}

/// Where an upload stands.
fn accepted(status: StatusCode, name: &Repository, id: &UploadId, size: u64) -> Response<Body> {
    let mut response = empty(status);
    header(&mut response, LOCATION.as_str(), &location(name, id));
    header(&mut response, RANGE.as_str(), &range(size));
    header(&mut response, "docker-upload-uuid", id.as_str());
    response
}

fn created(name: &Repository, digest: BlobDigest) -> Response<Body> {
    let mut response = empty(StatusCode::CREATED);
    header(&mut response, LOCATION.as_str(), &format!("/v2/{name}/blobs/{digest}"));
    header(&mut response, "docker-content-digest", &digest.to_string());
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_an_upload() {
        for (text, want) in [
            ("0-99", Some((0, 99))),
            ("5-5", Some((5, 5))),
            ("bytes 5-9/*", Some((5, 9))),
            ("bytes=5-9", Some((5, 9))),
            ("9-5", None),
            ("-5", None),
            ("5-", None),
            ("", None),
            ("0-18446744073709551615", None),
            ("0-99999999999999999999", None),
        ] {
            assert_eq!(content_range(text), want, "{text}");
        }
        let headers = |pairs: &[(&str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                let name = hyper::header::HeaderName::from_bytes(name.as_bytes()).unwrap();
                headers.insert(name, value.parse().unwrap());
            }
            Place::of(&headers)
        };
        assert_eq!(headers(&[]).unwrap(), Place::default());
        let place = headers(&[("content-range", "10-19"), ("content-length", "10")]).unwrap();
        assert_eq!(place, Place { start: Some(10), length: Some(10) });
        assert!(headers(&[("content-range", "10-19"), ("content-length", "11")]).is_err());
        assert!(headers(&[("content-range", "x")]).is_err());
    }
}
