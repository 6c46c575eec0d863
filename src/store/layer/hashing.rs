//! A sha256 that is computed in a second thread, while the first reads or writes files.
//!
//! sha256 is the slowest part of both directions (1.7 GB/s where reading gives more), and a layer is one
//! stream: a second thread is all the parallelism there is. Short streams never start it.

use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use crate::digest::{Digest, Hasher};

const CHUNK: usize = 256 << 10;

/// A sha256 of everything written to it.
pub(super) struct BackgroundHash {
    chunk: Vec<u8>,
    size: u64,
    worker: Option<(SyncSender<Vec<u8>>, JoinHandle<Hasher>)>,
}

impl BackgroundHash {
    pub(super) fn new() -> Self {
        Self { chunk: Vec::new(), size: 0, worker: None }
    }

    /// How many bytes were written.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Adds `bytes`; waits while the thread is eight chunks behind.
    pub(super) fn update(&mut self, mut bytes: &[u8]) {
        self.size += bytes.len() as u64;
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK - self.chunk.len()));
            self.chunk.extend_from_slice(now);
            bytes = later;
            if self.chunk.len() == CHUNK {
                let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK));
                let (sender, _) = self.worker.get_or_insert_with(start);
                sender.send(chunk).expect("the thread receives until the sender is dropped");
            }
        }
    }

    /// The digest of all bytes.
    pub(super) fn finish(self) -> Digest {
        let mut hasher = match self.worker {
            None => Hasher::new(),
            Some((sender, thread)) => {
                drop(sender);
                thread.join().expect("hashing does not panic")
            }
        };
        hasher.update(&self.chunk);
        hasher.finish()
    }
}

fn start() -> (SyncSender<Vec<u8>>, JoinHandle<Hasher>) {
    let (sender, receiver) = sync_channel::<Vec<u8>>(8);
    let thread = std::thread::spawn(move || {
        let mut hasher = Hasher::new();
        while let Ok(chunk) = receiver.recv() {
            hasher.update(&chunk);
        }
        hasher
    });
    (sender, thread)
}

/// A reader that hashes what is read from it.
pub(super) struct HashingReader<R> {
    pub(super) inner: R,
    pub(super) hash: BackgroundHash,
}

impl<R: io::Read> io::Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hash.update(&buffer[..read]);
        Ok(read)
    }
}
