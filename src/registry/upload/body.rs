//! The bytes of a request: read by a thread of their own, a few pieces ahead of the connection.

use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

/// How much is read at a time.
const PIECE: usize = 256 << 10;

/// A request body of `length` bytes of `reader`, which may block: a thread of its own reads ahead.
/// `broken` is told why the reader failed, since the connection's own error would not say it.
pub(super) fn body(
    reader: Box<dyn Read + Send>,
    length: u64,
    sent: Arc<AtomicU64>,
    broken: Arc<Mutex<Option<io::Error>>>,
) -> reqwest::Body {
    let (give, mut take) = mpsc::channel::<io::Result<Vec<u8>>>(4);
    tokio::task::spawn_blocking(move || {
        let mut reader = reader.take(length);
        let mut left = length;
        while left > 0 {
            let mut piece = vec![0; PIECE.min(usize::try_from(left).unwrap_or(PIECE))];
            let read = loop {
                match reader.read(&mut piece) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    other => break other,
                }
            };
            let outcome = match read {
                Ok(0) => Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("it ends {left} bytes before its stated size"),
                )),
                Ok(count) => {
                    piece.truncate(count);
                    left -= count as u64;
                    Ok(piece)
                }
                Err(error) => Err(error),
            };
            let is_last = outcome.is_err();
            // The receiver is gone if the request failed meanwhile.
            if give.blocking_send(outcome).is_err() || is_last {
                return;
            }
        }
    });
    let pieces = futures_util::stream::poll_fn(move |context| {
        take.poll_recv(context).map(|piece| {
            piece.map(|piece| match piece {
                Ok(piece) => {
                    sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
                    Ok(piece)
                }
                Err(error) => {
                    let told = io::Error::new(error.kind(), "the source broke");
                    *broken.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    Err(told)
                }
            })
        })
    });
    reqwest::Body::wrap_stream(pieces)
}
