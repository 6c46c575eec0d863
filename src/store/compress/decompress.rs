//! Whatever a layer came as, as plain bytes.
//!
//! The format is told by the first bytes, not by a media type, since registries mislabel layers.
//! Each decoder reads all members or frames, for they are one stream (`GzDecoder` would silently stop
//! after the first), and takes garbage after the last for an error: what is hashed and what is unpacked
//! must be the same bytes. Decoders are limited in memory; the length of what they give is limited by
//! [`Limited`], since a thousandfold ratio is legal gzip.

use std::io::{self, BufRead, BufReader, Cursor, Read};

/// The most memory a decoder may ask for: zstd's window (128 MiB), xz's dictionary and tables.
const WINDOW_LOG: u32 = 27;
const XZ_MEMORY: u64 = 160 << 20;

/// What a stream's first bytes say it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Plain,
    Gzip,
    Zstd,
    Xz,
    Bzip2,
}

impl Format {
    /// The format of a stream that begins with `start` (six bytes suffice).
    pub fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A skippable frame: estargz-like metadata may come first (RFC 8878, 3.1.2).
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Self::Bzip2,
            _ => Self::Plain,
        }
    }
}

/// A reader of what `reader` holds, decompressed if its first bytes say so.
///
/// # Errors
/// Those of reading the first bytes; the result's own errors are `InvalidData` or `InvalidInput` for
/// what does not decode, garbage after the end included, and `Other` for what would need more memory
/// than allowed.
pub fn decompress<'a>(mut reader: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut start = Vec::with_capacity(6);
    reader.by_ref().take(6).read_to_end(&mut start)?;
    let format = Format::of(&start);
    let reader = BufReader::with_capacity(1 << 16, Cursor::new(start).chain(reader));
    Ok(match format {
        Format::Plain => Box::new(reader),
        Format::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
        Format::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(reader)?;
            decoder.window_log_max(WINDOW_LOG)?;
            Box::new(decoder)
        }
        Format::Xz => {
            let stream =
                liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, liblzma::stream::CONCATENATED)
                    .map_err(io::Error::other)?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(reader, stream))
        }
        Format::Bzip2 => Box::new(Bzip2 { inner: bzip2::bufread::MultiBzDecoder::new(reader) }),
    })
}

/// bzip2's decoder gives a garbage tail as the end of the stream in some versions; so whatever is left
/// behind its end is looked at here.
struct Bzip2<R: BufRead> {
    inner: bzip2::bufread::MultiBzDecoder<R>,
}

impl<R: BufRead> Read for Bzip2<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        if read == 0 && !buffer.is_empty() && !self.inner.get_mut().fill_buf()?.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "garbage after the end of the bzip2 data",
            ));
        }
        Ok(read)
    }
}

/// More came out of a stream than was allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the data is longer than the limit of {limit} bytes")]
pub struct OutputLimit {
    pub limit: u64,
}

/// A reader that fails with [`OutputLimit`] (of kind `FileTooLarge`) as soon as more than `limit`
/// bytes come out of it; exactly `limit` are fine.
pub struct Limited<R> {
    inner: R,
    limit: u64,
    left: u64,
}

impl<R> Limited<R> {
    pub fn new(inner: R, limit: u64) -> Self {
        Self { inner, limit, left: limit }
    }
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let error = || io::Error::new(io::ErrorKind::FileTooLarge, OutputLimit { limit: self.limit });
        if self.left == 0 {
            // One byte more tells the end from the ceiling.
            return match self.inner.read(&mut [0])? {
                0 => Ok(0),
                _ => Err(error()),
            };
        }
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.inner.read(&mut buffer[..most])?;
        self.left -= read as u64;
        Ok(read)
    }
}
