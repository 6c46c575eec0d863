//! Compression of layers: the same bytes from any machine, and decoders that a bomb cannot burst.
//!
//! A layer is compressed in blocks of a fixed size, each on its own: gzip as one member a block, zstd
//! as one frame a block. What gzip could not make smaller is stored as it is, in the same format. So the bytes depend on the input, the format and the level, and never on
//! how many threads there were. A golden test pins them; whoever changes the library, the block size
//! or the level's meaning changes [`Compression::version`] as well, which is part of the key under
//! which `(diffID, compression) -> blob` is remembered.
//!
//! Everything is done in this process: a helper program such as `unpigz` could come from an image
//! (CVE-2026-41567).

mod decompress;
mod encode;
mod noise;
#[cfg(test)]
mod tests;

use std::io::{self, Read, Write};

use crate::digest::{BlobDigest, Hasher};

pub use decompress::{Format, Limited, OutputLimit, decompress};

/// How a layer's blob is compressed. Levels out of range are refused by [`Compression::check`] and
/// by [`compress`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// The tar stream as it is.
    None,
    /// gzip, levels 0 to 12 (BuildKit's go to 9; 10 to 12 are slow and small).
    Gzip { level: u32 },
    /// zstd, levels 1 to 22.
    Zstd { level: u32 },
}

/// A compression level that the format lacks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no {format} level `{level}`: expected {expected}")]
pub struct LevelError {
    format: &'static str,
    level: u32,
    expected: &'static str,
}

/// Why a text names no compression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{attribute}={value}`: expected {expected}")]
pub struct NameError {
    pub attribute: &'static str,
    pub value: String,
    pub expected: &'static str,
}

impl Compression {
    /// gzip at its usual level.
    pub const GZIP: Self = Self::Gzip { level: 6 };
    /// zstd at its usual level.
    pub const ZSTD: Self = Self::Zstd { level: 3 };

    /// Whether the format has this level.
    ///
    /// # Errors
    /// [`LevelError`] names the levels there are.
    pub fn check(self) -> Result<(), LevelError> {
        match self {
            Self::None => Ok(()),
            Self::Gzip { level: 0..=12 } => Ok(()),
            Self::Gzip { level } => Err(LevelError { format: "gzip", level, expected: "0 to 12" }),
            Self::Zstd { level: 1..=22 } => Ok(()),
            Self::Zstd { level } => Err(LevelError { format: "zstd", level, expected: "1 to 22" }),
        }
    }

    /// The compression that people call `gzip`, `zstd` or `uncompressed`, at a level in digits.
    ///
    /// # Errors
    /// [`NameError`].
    pub fn named(name: &str, level: Option<&str>) -> Result<Self, NameError> {
        let in_range =
            |range: std::ops::RangeInclusive<u32>, default, expected| match level {
                None => Ok(default),
                Some(text) => text.parse().ok().filter(|level| range.contains(level)).ok_or_else(|| {
                    NameError { attribute: "compression-level", value: text.to_owned(), expected }
                }),
            };
        match name {
            "gzip" => Ok(Self::Gzip { level: in_range(0..=9, 6, "a number from 0 to 9")? }),
            "zstd" => Ok(Self::Zstd { level: in_range(1..=22, 3, "a number from 1 to 22")? }),
            "uncompressed" => Ok(Self::None),
            other => Err(NameError {
                attribute: "compression",
                value: other.to_owned(),
                expected: "gzip, zstd or uncompressed",
            }),
        }
    }

    /// Names the bytes that [`compress`] makes: two blobs of one diffID with equal versions are equal.
    pub fn version(self) -> String {
        match self {
            Self::None => "none".to_owned(),
            Self::Gzip { level } => format!("gzip-{level} libdeflate-1.26 members-2M noise-1"),
            Self::Zstd { level } => {
                format!("zstd-{level} libzstd-{} frames-4M", zstd::zstd_safe::version_string())
            }
        }
    }

    /// The compression whose version this is, if this program makes those bytes still.
    pub fn of_version(version: &str) -> Option<Self> {
        let level = || version.split_once('-')?.1.split(' ').next()?.parse().ok();
        let found = match version.split('-').next()? {
            "none" => Self::None,
            "gzip" => Self::Gzip { level: level()? },
            "zstd" => Self::Zstd { level: level()? },
            _ => return None,
        };
        (found.check().is_ok() && found.version() == version).then_some(found)
    }

    /// How many bytes make one block.
    fn block(self) -> usize {
        match self {
            // Beyond 2 MiB a member gains less than 0.1%: deflate looks back 32 KiB only.
            Self::None | Self::Gzip { .. } => 2 << 20,
            // Level 3 looks back 2 MiB, so a frame of 4 MiB costs about 1%.
            Self::Zstd { .. } => 4 << 20,
        }
    }
}

/// Compresses all of `reader` into `writer` with up to `threads` threads, and gives the digest and
/// size of what was written. The bytes are the same for any number of threads. Memory stays below
/// about two blocks a thread and four more.
///
/// # Errors
/// Those of reading and writing; `InvalidInput` around a [`LevelError`].
pub fn compress(
    reader: impl Read,
    writer: impl Write + Send,
    compression: Compression,
    threads: usize,
) -> io::Result<(BlobDigest, u64)> {
    let mut out = Counted { inner: writer, hasher: Hasher::new(), size: 0 };
    let mut reader = io::BufReader::with_capacity(256 << 10, reader);
    compress_into(&mut out, compression, threads, |sink| io::copy(&mut reader, sink))??;
    Ok((BlobDigest(out.hasher.finish()), out.size))
}

/// Compresses what `produce` writes, into a writer that hashes what it is given: once is enough. Gives what
/// `produce` gives.
///
/// # Errors
/// Those of `out`, of which `produce` only sees a broken pipe.
pub fn compress_into<T>(
    mut out: impl Write + Send,
    compression: Compression,
    threads: usize,
    produce: impl FnOnce(&mut dyn Write) -> T,
) -> io::Result<T> {
    compression.check().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    encode::blocks(&mut out, compression, threads, produce)
}

/// Hashes and counts what passes through it.
struct Counted<W> {
    inner: W,
    hasher: Hasher,
    size: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
