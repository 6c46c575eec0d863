//! A file's bytes, in blocks, without its holes.
//!
//! Where a file's holes are is the file system's affair: one may store zeros that another leaves
//! out. So a block of zeros is a hole here whether it is stored or not, and fingerprints of equal
//! files are equal on all machines. A sparse terabyte costs what its data costs.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// How much is read at once.
pub const BLOCK: usize = 64 << 10;

static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// Calls `with` for each block that is not all zeros, with its offset (a multiple of [`BLOCK`]). All
/// blocks but the last of the `size` bytes are [`BLOCK`] long.
///
/// # Errors
/// `UnexpectedEof` if the file is shorter than `size`; what reading or `with` gives.
pub fn each(file: &File, size: u64, mut with: impl FnMut(u64, &[u8]) -> io::Result<()>) -> io::Result<()> {
    let block = BLOCK as u64;
    let mut buffer = vec![0; size.min(block) as usize];
    // Asking for holes costs two calls each; most files have none.
    let sparse = size > block && file.metadata()?.blocks().saturating_mul(512) < size;
    let mut offset = 0;
    let mut data_end = if sparse { 0 } else { size };
    while offset < size {
        if offset >= data_end {
            match rustix::fs::seek(file, SeekFrom::Data(offset)) {
                Ok(data) => {
                    offset = offset.max(data - data % block);
                    data_end = rustix::fs::seek(file, SeekFrom::Hole(data)).unwrap_or(size);
                }
                // No data up to the end, and no shorter than it should be.
                Err(Errno::NXIO) if file.metadata()?.len() >= size => break,
                Err(Errno::NXIO) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(_) => data_end = size,
            }
            continue;
        }
        let length = (size - offset).min(block) as usize;
        let bytes = &mut buffer[..length];
        file.read_exact_at(bytes, offset)?;
        if *bytes != ZEROS[..length] {
            with(offset, bytes)?;
        }
        offset += length as u64;
    }
    Ok(())
}

/// What [`each`] block adds to a fingerprint.
#[derive(Default)]
pub struct Fingerprinter(blake3::Hasher);

impl Fingerprinter {
    /// Adds a block.
    pub fn block(&mut self, offset: u64, bytes: &[u8]) {
        self.0.update(&offset.to_le_bytes());
        self.0.update(bytes);
    }

    /// The fingerprint of a file of this size with the blocks that were added.
    pub fn finish(mut self, size: u64) -> [u8; 32] {
        self.0.update(&size.to_le_bytes());
        *self.0.finalize().as_bytes()
    }
}

/// The fingerprint of a file's first `size` bytes.
///
/// # Errors
/// As [`each`].
pub fn fingerprint(file: &File, size: u64) -> io::Result<[u8; 32]> {
    let mut fingerprinter = Fingerprinter::default();
    each(file, size, |offset, bytes| {
        fingerprinter.block(offset, bytes);
        Ok(())
    })?;
    Ok(fingerprinter.finish(size))
}
