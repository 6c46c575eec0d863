//! Blocks side by side, in order: read here, encoded by workers, written here.
//!
//! Own threads rather than a shared pool: a pool's thread that waits for a slow reader (a tar being
//! streamed from disk) would hold up whatever else the pool is for.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

use super::Compression;

/// A block to encode and where its bytes shall go.
struct Job {
    block: Vec<u8>,
    done: SyncSender<io::Result<Vec<u8>>>,
}

/// Encodes `reader` block by block. An empty input makes one empty block, so that the result is a
/// valid stream.
pub(super) fn blocks(
    reader: &mut dyn Read,
    writer: &mut dyn Write,
    compression: Compression,
    threads: usize,
) -> io::Result<()> {
    let threads = threads.clamp(1, 64);
    let (jobs, queue) = sync_channel::<Job>(threads);
    let queue = &Mutex::new(queue);
    std::thread::scope(move |scope| {
        // Moved in, so that the queue closes when this closure ends, and the workers end with it.
        let jobs = jobs;
        for _ in 0..threads {
            scope.spawn(move || work(queue, compression));
        }
        let mut pending: VecDeque<Receiver<io::Result<Vec<u8>>>> = VecDeque::new();
        let mut first = true;
        loop {
            let mut block = Vec::with_capacity(compression.block());
            reader.take(compression.block() as u64).read_to_end(&mut block)?;
            if block.is_empty() && !first {
                break;
            }
            first = false;
            let last = block.len() < compression.block();
            let (done, result) = sync_channel(1);
            jobs.send(Job { block, done }).map_err(|_| io::Error::other("the compressing threads ended"))?;
            pending.push_back(result);
            if pending.len() > 2 * threads {
                write_next(&mut pending, writer)?;
            }
            if last {
                break;
            }
        }
        while !pending.is_empty() {
            write_next(&mut pending, writer)?;
        }
        Ok(())
    })
}

fn write_next(
    pending: &mut VecDeque<Receiver<io::Result<Vec<u8>>>>,
    writer: &mut dyn Write,
) -> io::Result<()> {
    let Some(result) = pending.pop_front() else { return Ok(()) };
    let bytes = result.recv().map_err(|_| io::Error::other("a compressing thread ended early"))??;
    writer.write_all(&bytes)
}

fn work(queue: &Mutex<Receiver<Job>>, compression: Compression) {
    let mut encoder = Encoder::new(compression);
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { block, done }) = job else { break };
        let result = match &mut encoder {
            Ok(encoder) => encoder.encode(&block),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        // Nobody waits any more once writing failed.
        let _ = done.send(result);
    }
}

enum Encoder {
    Gzip(libdeflater::Compressor),
    Zstd(zstd::bulk::Compressor<'static>),
}

impl Encoder {
    fn new(compression: Compression) -> io::Result<Self> {
        match compression {
            Compression::Gzip { level } => {
                let level = libdeflater::CompressionLvl::new(level as i32)
                    .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
                Ok(Self::Gzip(libdeflater::Compressor::new(level)))
            }
            Compression::Zstd { level } => Ok(Self::Zstd(zstd::bulk::Compressor::new(level as i32)?)),
            Compression::None => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    fn encode(&mut self, block: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Self::Gzip(compressor) => {
                let mut out = vec![0; compressor.gzip_compress_bound(block.len())];
                let length = compressor.gzip_compress(block, &mut out).map_err(io::Error::other)?;
                out.truncate(length);
                Ok(out)
            }
            Self::Zstd(compressor) => compressor.compress(block),
        }
    }
}
