//! GNU's sparse files: which of a file's bytes an archive holds. Four formats, one map.
//!
//! Source: the GNU tar manual, appendix "Sparse Formats".

use std::io::{self, Read};

use super::archive::{BLOCK, parse_decimal, signed_number};

/// The most pieces of one file; its map takes 16 bytes each.
const PIECES: usize = 1 << 20;

/// A sparse file's map.
#[derive(Debug)]
pub(super) struct Sparse {
    /// Where its pieces lie: offset and length, ascending.
    pieces: Vec<(u64, u64)>,
    /// How long it is.
    pub(super) size: u64,
    /// Its real name; the header's is made up in PAX formats.
    pub(super) name: Option<Vec<u8>>,
}

fn wrong() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

impl Sparse {
    fn new(pieces: Vec<(u64, u64)>, size: u64, name: Option<Vec<u8>>) -> io::Result<Self> {
        let mut end = 0_u64;
        for (offset, length) in &pieces {
            if *offset < end {
                return Err(wrong());
            }
            end = offset.checked_add(*length).ok_or_else(wrong)?;
        }
        if end > size || size > i64::MAX as u64 {
            return Err(wrong());
        }
        Ok(Self { pieces, size, name })
    }

    /// How many bytes the archive holds.
    pub(super) fn stored(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.1).sum()
    }
}

/// The map of a member of type `S`: four pieces in its header, 21 in each block that follows.
pub(super) fn old_gnu(
    header: &[u8; BLOCK],
    mut next: impl FnMut(&mut [u8; BLOCK]) -> io::Result<()>,
) -> io::Result<Sparse> {
    let number =
        |field: &[u8]| signed_number(field).and_then(|number| u64::try_from(number).ok()).ok_or_else(wrong);
    let size = number(&header[483..495])?;
    let mut pieces = Vec::new();
    let mut add = |table: &[u8]| -> io::Result<()> {
        for piece in table.chunks_exact(24).filter(|piece| piece[0] != 0) {
            pieces.push((number(&piece[..12])?, number(&piece[12..])?));
        }
        if pieces.len() > PIECES { Err(wrong()) } else { Ok(()) }
    };
    add(&header[386..482])?;
    let mut extended = header[482] != 0;
    // Blocks without any piece add nothing to bound them by, so they are counted themselves.
    let mut blocks = 0;
    while extended {
        let mut block = [0; BLOCK];
        next(&mut block)?;
        add(&block[..504])?;
        extended = block[504] != 0;
        blocks += 1;
        if blocks > PIECES / 21 {
            return Err(wrong());
        }
    }
    Sparse::new(pieces, size, None)
}

/// The map that a PAX header's `GNU.sparse.*` records make: formats 0.0 and 0.1 hold it, 1.0 has it in
/// front of the data.
pub(super) fn pax(
    records: &[(Vec<u8>, Vec<u8>)],
    mut next: impl FnMut(&mut [u8; BLOCK]) -> io::Result<()>,
) -> io::Result<Sparse> {
    let find = |key: &str| {
        let key = key.as_bytes();
        records.iter().rev().find(|record| record.0.strip_prefix(b"GNU.sparse.") == Some(key))
    };
    let value = |key: &str| find(key).map(|record| record.1.as_slice());
    let number = |key: &str| value(key).map(|text| parse_decimal(text).ok_or_else(wrong)).transpose();
    let name = value("name").map(<[u8]>::to_vec);
    let size = match number("realsize")? {
        Some(size) => size,
        None => number("size")?.ok_or_else(wrong)?,
    };
    let mut numbers = Vec::new();
    if value("major") == Some(b"1") {
        let mut lines = Lines { block: [0; BLOCK], at: BLOCK };
        let count = lines.number(&mut next)?;
        if count > PIECES as u64 {
            return Err(wrong());
        }
        for _ in 0..count * 2 {
            numbers.push(lines.number(&mut next)?);
        }
    } else if let Some(map) = value("map") {
        for text in map.split(|byte| *byte == b',').filter(|_| !map.is_empty()) {
            numbers.push(parse_decimal(text).ok_or_else(wrong)?);
        }
    } else {
        // 0.0: one record each, in turn.
        for (key, value) in records {
            let wanted: &[u8] = if numbers.len() % 2 == 0 { b"offset" } else { b"numbytes" };
            match key.strip_prefix(b"GNU.sparse.") {
                Some(key) if key == wanted => numbers.push(parse_decimal(value).ok_or_else(wrong)?),
                Some(b"offset" | b"numbytes") => return Err(wrong()),
                _ => {}
            }
        }
    }
    if numbers.len() % 2 != 0 {
        return Err(wrong());
    }
    Sparse::new(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect(), size, name)
}

/// Decimal numbers, a line each, in blocks.
struct Lines {
    block: [u8; BLOCK],
    at: usize,
}

impl Lines {
    fn number(&mut self, next: &mut impl FnMut(&mut [u8; BLOCK]) -> io::Result<()>) -> io::Result<u64> {
        let mut digits = Vec::with_capacity(20);
        loop {
            if self.at == BLOCK {
                next(&mut self.block)?;
                self.at = 0;
            }
            let byte = self.block[self.at];
            self.at += 1;
            match byte {
                b'\n' => return parse_decimal(&digits).ok_or_else(wrong),
                b'0'..=b'9' if digits.len() < 20 => digits.push(byte),
                _ => return Err(wrong()),
            }
        }
    }
}

/// A file's bytes: the stored ones with zeros between them.
pub(super) struct Filled<'a, R> {
    stored: R,
    map: Option<&'a Sparse>,
    piece: usize,
    at: u64,
}

impl<'a, R: Read> Filled<'a, R> {
    pub(super) fn new(stored: R, map: Option<&'a Sparse>) -> Self {
        Self { stored, map, piece: 0, at: 0 }
    }
}

impl<R: Read> Read for Filled<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(map) = self.map else { return self.stored.read(buffer) };
        while map.pieces.get(self.piece).is_some_and(|piece| piece.0 + piece.1 <= self.at) {
            self.piece += 1;
        }
        let (inside, end) = match map.pieces.get(self.piece) {
            Some((offset, length)) if *offset <= self.at => (true, offset + length),
            Some((offset, _)) => (false, *offset),
            None => (false, map.size),
        };
        let most = buffer.len().min(usize::try_from(end - self.at).unwrap_or(usize::MAX));
        let read = match inside {
            true => self.stored.read(&mut buffer[..most])?,
            false => {
                buffer[..most].fill(0);
                most
            }
        };
        self.at += read as u64;
        Ok(read)
    }
}
