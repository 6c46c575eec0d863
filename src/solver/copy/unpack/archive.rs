//! Reading a tar stream, member by member, in bounded memory.
//!
//! The fields of a header are read by the `tar` crate; going from header to header is done here,
//! since that crate's iterator reads a long name of any length into memory, and an archive may claim
//! ten gigabytes for one. Understood are v7, ustar, PAX (size, path, linkpath, owners, time, extended
//! attributes) and GNU (long names, sparse files). A PAX size takes precedence over the header's own,
//! as POSIX says: readers that disagree about it see different members (CVE-2025-62518).

use std::ffi::{CString, OsString};
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;

use tar::{EntryType, Header};

use super::UnpackError;
use crate::cache::content::blocks;
use crate::cache::content::xattrs::{self, Xattrs};

/// Everything in a tar is a multiple of this.
pub(super) const BLOCK: usize = 512;
/// The longest extended header.
const LONGEST_EXTENSION: u64 = 1 << 20;
/// How many pieces a sparse file may have.
const PIECES: usize = 1 << 20;

/// A member without its data.
pub(super) struct Member {
    pub(super) path: Vec<u8>,
    pub(super) form: Form,
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
    pub(super) modified: (i64, u32),
    /// A file's size, its holes included.
    pub(super) size: u64,
    pub(super) xattrs: Xattrs,
    /// Offsets and lengths of the data of a sparse file.
    pieces: Option<Vec<(u64, u64)>>,
}

/// What a member is.
pub(super) enum Form {
    File,
    Directory,
    Link(OsString),
    HardLink(OsString),
    Fifo,
    CharDevice((u32, u32)),
    BlockDevice((u32, u32)),
}

impl Member {
    pub(super) fn shown(&self) -> String {
        String::from_utf8_lossy(&self.path).into_owned()
    }
}

/// What extended headers said about the member that follows.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    modified: Option<(i64, u32)>,
    xattrs: Xattrs,
    sparse: bool,
}

/// A tar stream.
pub(super) struct Archive<R> {
    input: R,
    limit: u64,
    /// How much was read.
    position: u64,
    /// What of the current member's data was not read, padding included.
    rest: u64,
    /// How much of that is data.
    data: u64,
}

/// Whether the block is a header: its checksum is right.
pub(super) fn is_header(block: &[u8; BLOCK]) -> bool {
    let sum: u32 = block.iter().enumerate().map(|(at, byte)| checked(at, *byte)).sum();
    block.iter().any(|byte| *byte != 0)
        && Header::from_byte_slice(block).cksum().is_ok_and(|said| said == sum)
}

/// A number of a header. A field that was left blank is zero, as all other readers take it.
fn number<N: Default>(
    block: &[u8; BLOCK],
    field: std::ops::Range<usize>,
    parsed: io::Result<N>,
    at: u64,
) -> Result<N, UnpackError> {
    if block[field].iter().all(|byte| matches!(byte, 0 | b' ')) {
        return Ok(N::default());
    }
    parsed.map_err(|_| UnpackError::Header(at))
}

/// The checksum's own field counts as blanks.
fn checked(at: usize, byte: u8) -> u32 {
    if (148..156).contains(&at) { u32::from(b' ') } else { u32::from(byte) }
}

impl<R: Read> Archive<R> {
    pub(super) fn new(input: R, limit: u64) -> Self {
        Self { input, limit, position: 0, rest: 0, data: 0 }
    }

    /// The next member; what was not read of the one before is passed over.
    pub(super) fn next(&mut self) -> Result<Option<Member>, UnpackError> {
        let mut extensions = Extensions::default();
        loop {
            self.skip_rest()?;
            let at = self.position;
            let Some(block) = self.read_header()? else { return Ok(None) };
            if !is_header(&block) {
                return Err(UnpackError::Header(at));
            }
            let header = Header::from_byte_slice(&block);
            let size = number(&block, 124..136, header.entry_size(), at)?;
            match header.entry_type() {
                EntryType::GNULongName => extensions.path = Some(self.read_name(size)?),
                EntryType::GNULongLink => extensions.link = Some(self.read_name(size)?),
                EntryType::XHeader => self.read_pax(size, &mut extensions)?,
                EntryType::XGlobalHeader => self.begin_data(size),
                _ => {
                    let member = self.member(&block, size, extensions, at)?;
                    return Ok(Some(member));
                }
            }
        }
    }

    fn member(
        &mut self,
        block: &[u8; BLOCK],
        size: u64,
        extensions: Extensions,
        at: u64,
    ) -> Result<Member, UnpackError> {
        let header = Header::from_byte_slice(block);
        let path = extensions.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let shown = || String::from_utf8_lossy(&path).into_owned();
        if extensions.sparse {
            return Err(UnpackError::Sparse(shown()));
        }
        let link = || {
            let link = extensions.link.clone();
            link.or_else(|| header.link_name_bytes().map(|link| link.into_owned())).unwrap_or_default()
        };
        let device = || -> Result<(u32, u32), UnpackError> {
            let major = number(block, 329..337, header.device_major(), at)?;
            let minor = number(block, 337..345, header.device_minor(), at)?;
            Ok((major.unwrap_or_default(), minor.unwrap_or_default()))
        };
        let mut stored = extensions.size.unwrap_or(size);
        let mut pieces = None;
        let form = match header.entry_type() {
            // An old tar says a directory by its slash.
            EntryType::Regular if path.ends_with(b"/") => Form::Directory,
            EntryType::Directory => Form::Directory,
            EntryType::Symlink => Form::Link(OsString::from_vec(link())),
            EntryType::Link => Form::HardLink(OsString::from_vec(link())),
            EntryType::Fifo => Form::Fifo,
            EntryType::Char => Form::CharDevice(device()?),
            EntryType::Block => Form::BlockDevice(device()?),
            // What is unknown is a file, as POSIX says.
            _ => Form::File,
        };
        let mut size = 0;
        if let Form::File = form {
            size = stored;
            if header.entry_type() == EntryType::GNUSparse {
                let (map, real) = self.read_sparse(header, at)?;
                let held = map.iter().try_fold(0_u64, |sum, piece| sum.checked_add(piece.1));
                let ordered = map.windows(2).all(|two| two[0].0 + two[0].1 <= two[1].0);
                let ends = map.last().map_or(0, |last| last.0 + last.1);
                if held != Some(stored) || !ordered || ends > real {
                    return Err(UnpackError::Header(at));
                }
                (pieces, size) = (Some(map), real);
            }
        } else {
            // What is no file has no data, whatever its header says.
            stored = 0;
        }
        self.begin_data(stored);
        Ok(Member {
            form,
            mode: number(block, 100..108, header.mode(), at)?,
            uid: match extensions.uid {
                Some(uid) => uid,
                None => number(block, 108..116, header.uid(), at)?,
            },
            gid: match extensions.gid {
                Some(gid) => gid,
                None => number(block, 116..124, header.gid(), at)?,
            },
            modified: match extensions.modified {
                Some(modified) => modified,
                // A negative time is stored as such a large number.
                None => (number(block, 136..148, header.mtime(), at)? as i64, 0),
            },
            size,
            xattrs: extensions.xattrs,
            pieces,
            path,
        })
    }

    /// Gives the data of the member that [`Archive::next`] gave last, in pieces with their offsets.
    pub(super) fn copy_data<E: From<UnpackError>>(
        &mut self,
        member: &Member,
        mut with: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let whole = [(0, member.size)];
        let pieces = member.pieces.as_deref().unwrap_or(&whole);
        let mut buffer = vec![0; blocks::BLOCK];
        for &(mut offset, length) in pieces {
            let mut left = length;
            while left > 0 {
                let length = left.min(buffer.len() as u64) as usize;
                self.read_data(&mut buffer[..length])?;
                with(offset, &buffer[..length])?;
                offset += length as u64;
                left -= length as u64;
            }
        }
        Ok(())
    }

    fn begin_data(&mut self, size: u64) {
        self.data = size;
        self.rest = size.checked_next_multiple_of(BLOCK as u64).unwrap_or(u64::MAX);
    }

    fn read_data(&mut self, buffer: &mut [u8]) -> Result<(), UnpackError> {
        let length = buffer.len() as u64;
        if length > self.data {
            return Err(UnpackError::Read(io::ErrorKind::UnexpectedEof.into()));
        }
        self.fill(buffer)?;
        self.data -= length;
        self.rest -= length;
        Ok(())
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), UnpackError> {
        self.position = self.position.saturating_add(buffer.len() as u64);
        if self.position > self.limit {
            return Err(UnpackError::TooLarge(self.limit));
        }
        Ok(self.input.read_exact(buffer)?)
    }

    fn skip_rest(&mut self) -> Result<(), UnpackError> {
        let mut buffer = [0; 4096];
        while self.rest > 0 {
            let length = self.rest.min(buffer.len() as u64) as usize;
            self.fill(&mut buffer[..length])?;
            self.rest -= length as u64;
        }
        self.data = 0;
        Ok(())
    }

    /// Nothing at the archive's end: a block of zeros, or no more bytes.
    fn read_header(&mut self) -> Result<Option<[u8; BLOCK]>, UnpackError> {
        let mut block = [0; BLOCK];
        let first = loop {
            match self.input.read(&mut block[..1]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        if first == 0 {
            return Ok(None);
        }
        self.position = self.position.saturating_add(1);
        self.fill(&mut block[1..])?;
        Ok((block != [0; BLOCK]).then_some(block))
    }

    fn read_extension(&mut self, size: u64) -> Result<Vec<u8>, UnpackError> {
        if size > LONGEST_EXTENSION {
            return Err(UnpackError::LongExtension(LONGEST_EXTENSION));
        }
        self.begin_data(size);
        let mut bytes = vec![0; size as usize];
        self.read_data(&mut bytes)?;
        Ok(bytes)
    }

    fn read_name(&mut self, size: u64) -> Result<Vec<u8>, UnpackError> {
        let mut name = self.read_extension(size)?;
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        name.truncate(end);
        Ok(name)
    }

    /// PAX records: `length key=value\n` each (POSIX pax, "pax Extended Header").
    fn read_pax(&mut self, size: u64, extensions: &mut Extensions) -> Result<(), UnpackError> {
        let bytes = self.read_extension(size)?;
        let mut left = bytes.as_slice();
        while !left.is_empty() {
            let malformed = || {
                UnpackError::Extension(String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned())
            };
            let (record, rest) = record(left).ok_or_else(malformed)?;
            left = rest;
            let at = record.iter().position(|byte| *byte == b'=').ok_or_else(malformed)?;
            let (key, value) = (&record[..at], &record[at + 1..]);
            let number = || std::str::from_utf8(value).ok()?.parse::<u64>().ok();
            match key {
                b"path" => extensions.path = Some(value.to_owned()),
                b"linkpath" => extensions.link = Some(value.to_owned()),
                b"size" => extensions.size = Some(number().ok_or_else(malformed)?),
                b"uid" => extensions.uid = Some(number().ok_or_else(malformed)?),
                b"gid" => extensions.gid = Some(number().ok_or_else(malformed)?),
                b"mtime" => extensions.modified = Some(time(value).ok_or_else(malformed)?),
                key if key.starts_with(b"GNU.sparse.") => extensions.sparse = true,
                key => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.")
                        && xattrs::is_carried(name)
                    {
                        let name = CString::new(name).map_err(|_| malformed())?;
                        extensions.xattrs.push((name, value.to_owned()));
                    }
                }
            }
        }
        Ok(())
    }

    /// The map of an old GNU sparse file, and its real size.
    fn read_sparse(&mut self, header: &Header, at: u64) -> Result<(Vec<(u64, u64)>, u64), UnpackError> {
        let damaged = |_| UnpackError::Header(at);
        let gnu = header.as_gnu().ok_or(UnpackError::Header(at))?;
        let mut map = Vec::new();
        let mut add = |pieces: &[tar::GnuSparseHeader]| -> Result<(), UnpackError> {
            for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
                let (offset, length) = (piece.offset().map_err(damaged)?, piece.length().map_err(damaged)?);
                if map.len() == PIECES || offset.checked_add(length).is_none() {
                    return Err(UnpackError::Header(at));
                }
                map.push((offset, length));
            }
            Ok(())
        };
        add(&gnu.sparse)?;
        let mut more = gnu.is_extended();
        while more {
            let mut extended = tar::GnuExtSparseHeader::new();
            let mut block = [0; BLOCK];
            self.fill(&mut block)?;
            extended.as_mut_bytes().copy_from_slice(&block);
            add(&extended.sparse)?;
            more = extended.is_extended();
        }
        Ok((map, gnu.real_size().map_err(damaged)?))
    }
}

/// The first record, without its length and line end, and what follows.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let blank = bytes.iter().take(20).position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&bytes[..blank]).ok()?.parse().ok()?;
    let record = bytes.get(blank + 1..length)?.strip_suffix(b"\n")?;
    Some((record, &bytes[length..]))
}

/// Decimal seconds since 1970, perhaps negative, perhaps with a fraction.
fn time(value: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanoseconds = fraction.bytes().chain(std::iter::repeat(b'0')).take(9);
    let nanoseconds = nanoseconds.fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    Some(match (whole.starts_with('-'), nanoseconds) {
        (true, 1..) => (seconds.checked_sub(1)?, 1_000_000_000 - nanoseconds),
        _ => (seconds, nanoseconds),
    })
}
