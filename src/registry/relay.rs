//! Blobs from one repository to another, past the disk.
//!
//! ```text
//! HEAD at the target, mount                  as for every upload
//! GET at the source -> pieces -> upload      a few pieces in memory, hashed as they pass
//! ```
//!
//! The upload reads, the download writes, and each mends its own connection: a download that breaks
//! goes on by range while the upload waits; an upload that breaks goes on from what the target has,
//! and the download with it, from the last place at which the hash is known.
//!
//! The last piece is given out only when all bytes are known to be the right ones, so no upload of
//! wrong ones can end, whatever the target checks.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::digest::{Digest, Hasher};
use crate::image::Descriptor;
use crate::progress::{Progress, Step};
use crate::reference::Reference;

use super::client::{Client, shown_name};
use super::download::Sink;
use super::error::{Failure, RegistryError};
use super::upload::Pushed;

/// How many pieces wait to be sent. A piece is what the connection gives at once, some 100 KiB.
const DEPTH: usize = 8;
/// How far apart the places are at which the hash is kept.
const MARKS: u64 = 1 << 20;

impl Client {
    /// Brings a blob of `from`'s repository into `to`'s, unless it is there: by mounting it if both are
    /// on one registry that can, else by sending on what arrives. Nothing of it touches the disk, and
    /// little of it is in memory at once.
    ///
    /// # Errors
    /// As [`Client::blob`] and [`Client::push_blob`]; each names the registry that it is about. No
    /// upload of bytes with another digest is ever finished.
    pub async fn relay_blob(
        &self,
        from: &Reference,
        to: &Reference,
        descriptor: &Descriptor,
        step: &Step,
    ) -> Result<Pushed, RegistryError> {
        let fetching = || format!("fetch the blob `{}` of `{}`", descriptor.digest, shown_name(from));
        // No byte of it will pass by.
        let nothing = Digest::of(&[]);
        if descriptor.size == 0 && descriptor.digest != nothing {
            return Err(Failure::WrongDigest { wanted: descriptor.digest, found: nothing }.of(fetching()));
        }
        // A mirror whose bytes are wrong is found out only after they were sent on. It is not asked
        // again, so there are as many tries as there are places.
        let mut tries = self.readable(from).map_err(|failure| failure.of(fetching()))?.len();
        loop {
            tries -= 1;
            let relay = Arc::new(Relay {
                client: self.clone(),
                from: from.clone(),
                descriptor: descriptor.clone(),
                runtime: Handle::current(),
                known: Mutex::default(),
            });
            // Also if nobody waits for the upload any more.
            let ending = Ending(Arc::clone(&relay));
            let source = |offset| Ok(Box::new(Relay::open(&relay, offset)) as Box<dyn Read + Send>);
            let outcome = self.push_blob(to, descriptor, Some(from), &source, step).await.map_err(cause);
            drop(ending);
            match outcome {
                Err(error) if tries > 0 && is_wrong(&error) => {}
                outcome => return outcome,
            }
        }
    }
}

fn is_wrong(error: &RegistryError) -> bool {
    matches!(*error.failure, Failure::WrongDigest { .. } | Failure::WrongSize { .. })
}

/// The download's error, if it was what broke the upload.
fn cause(mut error: RegistryError) -> RegistryError {
    if let Failure::Source(source) = &mut *error.failure
        && source.get_ref().is_some_and(|inner| inner.is::<RegistryError>())
    {
        let source = std::mem::replace(source, io::ErrorKind::Other.into());
        return source.downcast().expect("it was looked at");
    }
    error
}

/// A blob on its way.
struct Relay {
    client: Client,
    from: Reference,
    descriptor: Descriptor,
    runtime: Handle,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Places in the blob with the hash of what is before them, in order.
    marks: Vec<(u64, Hasher)>,
    /// Which download counts; those before it may still be ending.
    current: u64,
    /// A download that nobody reads at the moment: the next chunk of the upload goes on with it.
    idle: Option<Download>,
    /// Whether the upload has ended, one way or another.
    over: bool,
}

/// Ends a download with its upload.
struct Ending(Arc<Relay>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// A download that is under way.
struct Download {
    /// The place of the next byte to be read.
    at: u64,
    /// Bytes that come again, because the hash is not known just where the upload goes on.
    skip: u64,
    piece: Vec<u8>,
    /// How much of the piece was read.
    read: usize,
    pieces: mpsc::Receiver<Result<Vec<u8>, RegistryError>>,
    task: JoinHandle<()>,
}

impl Relay {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the download with the upload. It holds this, so it would not end by itself.
    fn end(&self) {
        let mut known = self.known();
        known.over = true;
        known.idle = None;
    }

    /// The blob's bytes from `offset` on.
    fn open(self: &Arc<Self>, offset: u64) -> Relayed {
        let mut known = self.known();
        let kept = known.idle.take().filter(|download| download.at == offset);
        let download = kept.unwrap_or_else(|| self.begin(&mut known, offset));
        Relayed { relay: Arc::clone(self), download: Some(download) }
    }

    fn begin(self: &Arc<Self>, known: &mut Known, offset: u64) -> Download {
        // What was hashed beyond the place is forgotten: it is what another connection said.
        known.marks.retain(|(place, _)| *place <= offset);
        known.current += 1;
        let begun = known.marks.last().cloned().unwrap_or((0, Hasher::new()));
        let skip = offset - begun.0;
        let (give, pieces) = mpsc::channel(DEPTH);
        let (relay, number) = (Arc::clone(self), known.current);
        let task = self.runtime.spawn(async move {
            let mut pipe = Pipe { relay: &relay, number, give: &give, permit: None, last: None };
            let step = Progress::silent().step("download");
            let Relay { client, from, descriptor, .. } = &*relay;
            let outcome = client.blob_from(from, descriptor, begun, &mut pipe, &step).await;
            step.done();
            let last = match outcome {
                Ok(()) => pipe.last.take().map(Ok),
                Err(error) => Some(Err(error)),
            };
            drop(pipe);
            if let Some(last) = last {
                // Nobody misses it where nobody reads any more.
                let _ = give.send(last).await;
            }
        });
        Download { at: offset, skip, piece: Vec::new(), read: 0, pieces, task }
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Where the download's bytes go.
struct Pipe<'a> {
    relay: &'a Relay,
    number: u64,
    give: &'a mpsc::Sender<Result<Vec<u8>, RegistryError>>,
    permit: Option<mpsc::Permit<'a, Result<Vec<u8>, RegistryError>>>,
    /// The piece that came last. It is kept back until it is known that there is none after it, or
    /// that the whole is right.
    last: Option<Vec<u8>>,
}

impl Sink for Pipe<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        if let Some(piece) = self.last.replace(bytes.to_vec()) {
            self.permit.take().ok_or(io::ErrorKind::BrokenPipe)?.send(Ok(piece));
        }
        Ok(())
    }

    fn ready(&mut self) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async {
            if self.permit.is_none() {
                self.permit = Some(self.give.reserve().await.map_err(|_| io::ErrorKind::BrokenPipe)?);
            }
            Ok(())
        })
    }

    fn hashed(&mut self, received: u64, hasher: &Hasher) {
        let mut known = self.relay.known();
        let last = known.marks.last().map_or(0, |(place, _)| *place);
        if known.current == self.number && received >= last + MARKS {
            known.marks.push((received, hasher.clone()));
        }
    }
}

/// A download as the upload reads it, in a thread that may block.
struct Relayed {
    relay: Arc<Relay>,
    download: Option<Download>,
}

impl Read for Relayed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(download) = &mut self.download else { return Ok(0) };
        loop {
            let piece = &download.piece[download.read..];
            let skipped = piece.len().min(usize::try_from(download.skip).unwrap_or(usize::MAX));
            let piece = &piece[skipped..];
            let count = piece.len().min(buffer.len());
            buffer[..count].copy_from_slice(&piece[..count]);
            download.skip -= skipped as u64;
            download.read += skipped + count;
            download.at += count as u64;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            match download.pieces.blocking_recv() {
                Some(Ok(piece)) => (download.piece, download.read) = (piece, 0),
                Some(Err(error)) => {
                    self.download = None;
                    return Err(io::Error::other(error));
                }
                None => return Ok(0),
            }
        }
    }
}

impl Drop for Relayed {
    fn drop(&mut self) {
        if let Some(download) = self.download.take() {
            let mut known = self.relay.known();
            known.idle = (!known.over).then_some(download);
        }
    }
}
