//! Blocks side by side, in order: filled by whoever writes, encoded by workers, written by a thread of its own.
//!
//! ```text
//! produce -> block -> worker -> encoded block -> writer -> out
//!              ^                     |
//!              +------- buffers -----+
//! ```
//!
//! Own threads rather than a shared pool: a pool's thread that waits for a slow reader (a tar being
//! streamed from disk) would hold up whatever else the pool is for. Buffers go round, since a fresh one costs
//! the kernel as much as filling it.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Compression, noise};

/// A block to encode and where its bytes shall go.
struct Job {
    block: Vec<u8>,
    done: SyncSender<io::Result<Vec<u8>>>,
}

/// What is encoded next, and what will be written next.
type Queues = (SyncSender<Job>, SyncSender<Receiver<io::Result<Vec<u8>>>>);

/// Compresses what `produce` writes into `out`. An empty input makes one empty block, so that the result is a
/// valid stream.
pub(super) fn blocks<T>(
    out: &mut (dyn Write + Send),
    compression: Compression,
    threads: usize,
    produce: impl FnOnce(&mut dyn Write) -> T,
) -> io::Result<T> {
    let threads = threads.clamp(1, 64);
    let buffers = &Buffers::default();
    let (jobs, queue) = sync_channel::<Job>(1);
    // As many as there are workers are being encoded, one waits for them and one is being written.
    let (order, ordered) = sync_channel(threads + 1);
    let queue = &Mutex::new(Some(queue));
    std::thread::scope(|scope| {
        let workers: Vec<_> =
            (0..threads).map(|_| scope.spawn(move || work(queue, compression, buffers))).collect();
        let writing = scope.spawn(move || {
            let written = write(ordered, out, buffers);
            if written.is_err() {
                // Whoever fills the queue still shall hear of it.
                lock(queue).take();
            }
            written
        });
        let (block, size) = (buffers.take(), compression.block());
        let mut sink = Sink { block, size, queues: Some((jobs, order)), buffers, sent: false };
        let made = produce(&mut sink);
        let ended = sink.end();
        drop(sink);
        for worker in workers {
            if let Err(panic) = worker.join() {
                std::panic::resume_unwind(panic);
            }
        }
        let written = writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        written.and(ended).map(|()| made)
    })
}

/// What the producer writes to.
struct Sink<'b> {
    block: Vec<u8>,
    /// How many bytes make a block.
    size: usize,
    /// None once the end was sent. With them the threads end.
    queues: Option<Queues>,
    buffers: &'b Buffers,
    /// Whether there was a block.
    sent: bool,
}

impl Sink<'_> {
    fn send(&mut self) -> io::Result<()> {
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        let (jobs, order) = self.queues.as_ref().ok_or_else(gone)?;
        let block = std::mem::replace(&mut self.block, self.buffers.take());
        let (done, result) = sync_channel(1);
        order.send(result).map_err(|_| gone())?;
        jobs.send(Job { block, done }).map_err(|_| gone())?;
        self.sent = true;
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        if !self.block.is_empty() || !self.sent {
            self.send()?;
        }
        Ok(())
    }
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(self.size - self.block.len());
        self.block.extend_from_slice(&bytes[..taken]);
        if self.block.len() == self.size {
            self.send()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write(
    ordered: Receiver<Receiver<io::Result<Vec<u8>>>>,
    out: &mut (dyn Write + Send),
    buffers: &Buffers,
) -> io::Result<()> {
    for result in ordered {
        let bytes = result.recv().map_err(|_| io::Error::other("a compressing thread ended early"))??;
        out.write_all(&bytes)?;
        buffers.give(bytes);
    }
    out.flush()
}

fn work(queue: &Mutex<Option<Receiver<Job>>>, compression: Compression, buffers: &Buffers) {
    // A short layer is one worker's alone, and the others need none.
    let mut encoder = None;
    loop {
        let job = lock(queue).as_ref().and_then(|queue| queue.recv().ok());
        let Some(Job { mut block, done }) = job else { break };
        let result = match encoder.get_or_insert_with(|| Encoder::new(compression)) {
            Ok(encoder) => {
                let mut encoded = buffers.take();
                encoder.encode(&mut block, &mut encoded).map(|()| encoded)
            }
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        buffers.give(block);
        // Nobody waits any more once writing failed.
        let _ = done.send(result);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Buffers that nobody uses now. There are never more than were in use at once.
#[derive(Default)]
struct Buffers(Mutex<Vec<Vec<u8>>>);

impl Buffers {
    fn take(&self) -> Vec<u8> {
        lock(&self.0).pop().unwrap_or_default()
    }

    fn give(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        lock(&self.0).push(buffer);
    }
}

enum Encoder {
    Plain,
    Gzip {
        usual: libdeflater::Compressor,
        /// For what would not become smaller.
        stored: libdeflater::Compressor,
        noise: noise::Detector,
    },
    Zstd(zstd::bulk::Compressor<'static>),
}

impl Encoder {
    fn new(compression: Compression) -> io::Result<Self> {
        match compression {
            Compression::Gzip { level } => {
                Ok(Self::Gzip { usual: gzip(level)?, stored: gzip(0)?, noise: noise::Detector::new()? })
            }
            Compression::Zstd { level } => Ok(Self::Zstd(zstd::bulk::Compressor::new(level as i32)?)),
            Compression::None => Ok(Self::Plain),
        }
    }

    /// Encodes a block into an empty buffer.
    fn encode(&mut self, block: &mut Vec<u8>, out: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::Plain => std::mem::swap(block, out),
            Self::Gzip { usual, stored, noise } => {
                let compressor = if noise.is_noise(block) { stored } else { usual };
                out.resize(compressor.gzip_compress_bound(block.len()), 0);
                let length = compressor.gzip_compress(block, out).map_err(io::Error::other)?;
                out.truncate(length);
            }
            Self::Zstd(compressor) => {
                out.resize(zstd::zstd_safe::compress_bound(block.len()), 0);
                let length = compressor.compress_to_buffer(block, &mut out[..])?;
                out.truncate(length);
            }
        }
        Ok(())
    }
}

/// A compressor of this level.
pub(super) fn gzip(level: u32) -> io::Result<libdeflater::Compressor> {
    let level = libdeflater::CompressionLvl::new(level as i32)
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    Ok(libdeflater::Compressor::new(level))
}
