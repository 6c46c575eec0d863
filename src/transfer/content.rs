//! Bytes that are at hand: a file, a part of one, or memory.

use std::fs::File;
use std::io::{self, Cursor, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::digest::{Digest, Hasher};
use crate::image::Descriptor;

/// Bytes of known size that can be read from any place on, several times at once.
#[derive(Debug, Clone)]
pub(super) enum Content {
    Memory(Arc<[u8]>),
    Section { file: Arc<File>, from: u64, size: u64 },
}

impl Content {
    /// All of a file.
    pub(super) fn file(file: File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"));
        }
        Ok(Self::Section { file: Arc::new(file), from: 0, size: metadata.len() })
    }

    pub(super) fn size(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::Section { size, .. } => *size,
        }
    }

    /// The bytes from `offset` on.
    pub(super) fn reader(&self, offset: u64) -> Box<dyn Read + Send> {
        match self {
            Self::Memory(bytes) => {
                let mut cursor = Cursor::new(Arc::clone(bytes));
                cursor.set_position(offset);
                Box::new(cursor)
            }
            Self::Section { file, from, size } => {
                let at = from + offset.min(*size);
                Box::new(Section { file: Arc::clone(file), at, end: from + size })
            }
        }
    }

    /// The bytes of a blob from `offset` on. Read from their beginning, they end with an error instead of
    /// their last piece if they are not what the descriptor says.
    ///
    /// # Errors
    /// For another size.
    pub(super) fn checked(&self, blob: &Descriptor, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        if self.size() != blob.size {
            let message = format!("{} has {} bytes instead of {}", blob.digest, self.size(), blob.size);
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let inner = self.reader(offset);
        match offset {
            0 => Ok(Box::new(Checked { inner, hasher: Hasher::new(), left: blob.size, wanted: blob.digest })),
            // What was before has passed by already, and the whole is checked where it goes to.
            _ => Ok(inner),
        }
    }

    /// All of it, of which there is not more than `limit`.
    pub(super) fn bytes(&self, limit: u64) -> io::Result<Vec<u8>> {
        if self.size() > limit {
            let message = format!("it has {} bytes, and may have {limit}", self.size());
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        let mut bytes = Vec::with_capacity(self.size() as usize);
        self.reader(0).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

struct Section {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(usize::try_from(self.end - self.at).unwrap_or(usize::MAX));
        if length == 0 {
            return Ok(0);
        }
        let read = self.file.read_at(&mut buffer[..length], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

struct Checked {
    inner: Box<dyn Read + Send>,
    hasher: Hasher,
    left: u64,
    wanted: Digest,
}

impl Read for Checked {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        self.left = self.left.saturating_sub(read as u64);
        if self.left == 0 && read > 0 {
            let found = self.hasher.clone().finish();
            if found != self.wanted {
                let message = format!("{} is damaged: its bytes have the digest {found}", self.wanted);
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn sections_are_read_from_any_place_and_checked() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"abcdefgh").unwrap();
        let section = Content::Section { file: Arc::new(file), from: 2, size: 4 };
        assert_eq!(section.bytes(4).unwrap(), b"cdef");
        assert!(section.bytes(3).is_err());
        let read = |reader: io::Result<Box<dyn Read + Send>>| {
            let mut bytes = Vec::new();
            reader?.read_to_end(&mut bytes).map(|_| bytes)
        };
        let blob = |bytes: &[u8]| Descriptor::new("a/b".into(), Digest::of(bytes), bytes.len() as u64);
        for content in [section, Content::Memory(b"cdef".as_slice().into())] {
            assert_eq!(read(content.checked(&blob(b"cdef"), 0)).unwrap(), b"cdef");
            assert_eq!(read(content.checked(&blob(b"cdef"), 3)).unwrap(), b"f");
            assert_eq!(read(content.checked(&blob(b"cdef"), 9)).unwrap(), b"");
            for wrong in [b"cdeF".as_slice(), b"cde", b"cdefg"] {
                assert!(read(content.checked(&blob(wrong), 0)).is_err());
            }
        }
    }
}
