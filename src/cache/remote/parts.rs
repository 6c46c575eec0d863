//! A blob cut into parts that fit in memory, for stores that take large things piece by piece.
//!
//! A thread reads ahead, since sources block, and hashes what it reads: a store believes us about the
//! digest that its key names, so the last part comes only if the bytes are what the digest says.

use std::io::{self, Read};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::digest::Hasher;
use crate::image::Descriptor;
use crate::registry::{Failure, Source};

/// How large a part is, as long as that makes not too many of them.
const PART: u64 = 8 << 20;
/// The most parts of one blob. S3 takes 10,000 and Azure 50,000.
const MOST: u64 = 9_000;

/// One part of a blob.
pub(super) struct Part {
    /// From 0.
    pub(super) number: usize,
    /// Where in the blob it begins.
    pub(super) offset: u64,
    pub(super) bytes: Bytes,
}

/// The parts of a blob, in order. At most two are held here that were not asked for.
pub(super) struct Parts(mpsc::Receiver<io::Result<Part>>);

/// How large the parts of a blob are.
pub(super) fn part_size(blob: u64) -> u64 {
    let least = blob.div_ceil(MOST);
    PART.max(least.div_ceil(1 << 20) << 20)
}

impl Parts {
    /// Begins to read a blob; an empty one has one empty part.
    ///
    /// # Errors
    /// [`Failure::Source`] if it cannot be opened.
    pub(super) fn of(descriptor: &Descriptor, source: &dyn Source) -> Result<Self, Failure> {
        let mut reader = source(0).map_err(Failure::Source)?;
        let (size, wanted) = (descriptor.size, descriptor.digest);
        let (give, take) = mpsc::channel(1);
        tokio::task::spawn_blocking(move || {
            let part = part_size(size);
            let (mut offset, mut number, mut hasher) = (0, 0, Hasher::new());
            loop {
                let length = part.min(size - offset);
                let is_last = offset + length == size;
                let read = read(&mut reader, length).and_then(|bytes| {
                    hasher.update(&bytes);
                    if is_last && hasher.clone().finish() != wanted {
                        let reason = format!("it is not what its digest `{wanted}` says");
                        return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
                    }
                    Ok(Part { number, offset, bytes })
                });
                let is_end = is_last || read.is_err();
                // Nobody takes more if the upload failed meanwhile.
                if give.blocking_send(read).is_err() || is_end {
                    return;
                }
                (offset, number) = (offset + length, number + 1);
            }
        });
        Ok(Self(take))
    }

    /// The next part, or nothing after the last.
    ///
    /// # Errors
    /// [`Failure::Source`].
    pub(super) async fn next(&mut self) -> Result<Option<Part>, Failure> {
        self.0.recv().await.transpose().map_err(Failure::Source)
    }
}

fn read(reader: &mut dyn Read, length: u64) -> io::Result<Bytes> {
    let mut bytes = Vec::with_capacity(usize::try_from(length).map_err(io::Error::other)?);
    reader.take(length).read_to_end(&mut bytes)?;
    if (bytes.len() as u64) < length {
        let reason = "it ends before its stated size";
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, reason));
    }
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    async fn parts(bytes: &'static [u8], stated: &[u8]) -> Result<Vec<(usize, u64, usize)>, Failure> {
        let source = move |offset: u64| -> io::Result<Box<dyn Read + Send>> {
            Ok(Box::new(&bytes[usize::try_from(offset).unwrap()..]))
        };
        let descriptor = Descriptor::new("x/y".into(), Digest::of(stated), stated.len() as u64);
        let mut parts = Parts::of(&descriptor, &source)?;
        let mut found = Vec::new();
        while let Some(part) = parts.next().await? {
            found.push((part.number, part.offset, part.bytes.len()));
        }
        Ok(found)
    }

    #[tokio::test]
    async fn a_blob_in_parts() {
        const PART: usize = 8 << 20;
        let large: &'static [u8] = Vec::leak(vec![7; PART + 3]);
        assert_eq!(parts(large, large).await.unwrap(), [(0, 0, PART), (1, PART as u64, 3)]);
        assert_eq!(parts(&large[..PART], &large[..PART]).await.unwrap(), [(0, 0, PART)]);
        assert_eq!(parts(b"", b"").await.unwrap(), [(0, 0, 0)]);
    }

    #[tokio::test]
    async fn bytes_that_are_not_the_blob() {
        let kind = |outcome: Result<_, Failure>| match outcome {
            Err(Failure::Source(error)) => error.kind(),
            other => panic!("{other:?}"),
        };
        assert_eq!(kind(parts(b"rotten", b"layer!").await), io::ErrorKind::InvalidData);
        assert_eq!(kind(parts(b"lay", b"layer").await), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn there_are_never_too_many() {
        assert_eq!(part_size(0), PART);
        assert_eq!(part_size(9_000 * PART), PART);
        for size in [9_000 * PART + 1, 5 << 40, 1 << 42] {
            assert!(size.div_ceil(part_size(size)) <= MOST, "{size}");
            assert_eq!(part_size(size) % (1 << 20), 0);
        }
    }
}
