//! The members of a tar archive, as GNU tar would list them, or an error.
//!
//! Own code rather than the `tar` crate's iteration, because an archive is where attackers and bugs
//! live: extension headers have a ceiling here before they are read (a PAX header may claim 8 GiB), and
//! wherever readers are known to disagree about where the next header is, this one refuses (CVE-2025-62518
//! and RUSTSEC-2026-0112 were such disagreements): sizes of members that have no data, a global header
//! that sets sizes or names, two extension headers that set the same thing.
//!
//! Source: POSIX.1-2024 pax, "ustar Interchange Format"; the GNU tar manual, "Basic Tar Format" and
//! "Sparse Formats". Numbers in base 256 are GNU's.

use std::collections::BTreeMap;
use std::io::{self, Read};

use super::path::show;
use super::sparse::{self, Sparse};

pub(super) const BLOCK: usize = 512;

/// The most bytes of one extension header: names of 64 KiB, and a file's extended attributes, which the
/// kernel limits to 64 KiB each.
const EXTENSION: u64 = 1 << 20;
const NAME: u64 = 64 << 10;

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
    #[error("the archive ends in the middle of `{0}`")]
    Truncated(String),
    #[error("the archive is malformed after `{after}`: {reason}")]
    Malformed { after: String, reason: &'static str },
    #[error("`{path}` is of the unknown type `{kind}`")]
    UnknownType { path: String, kind: char },
}

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    HardLink,
    SymbolicLink,
    CharacterDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// One member, its extension headers applied.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
    pub(super) mtime: (i64, u32),
    /// How many bytes the file has once unpacked, holes included.
    pub(super) size: u64,
    pub(super) device: (u32, u32),
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: Option<Sparse>,
}

/// Reads an archive member by member.
pub(super) struct Archive<R> {
    reader: R,
    /// Bytes of the current member's data, and of the padding behind them, that were not read yet.
    data: u64,
    padding: u64,
    path: Vec<u8>,
}

type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// The extension headers in front of a member.
#[derive(Default)]
struct Extensions {
    pax: Option<Records>,
    sparse: Vec<(Vec<u8>, Vec<u8>)>,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl<R: Read> Archive<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, data: 0, padding: 0, path: Vec::new() }
    }

    /// The reader, wherever it is.
    pub(super) fn into_inner(self) -> R {
        self.reader
    }

    fn malformed(&self, reason: &'static str) -> ArchiveError {
        ArchiveError::Malformed { after: show(&self.path), reason }
    }

    /// The next member, or `None` at the end of the archive.
    pub(super) fn next(&mut self) -> Result<Option<Member>, ArchiveError> {
        let mut extensions = Extensions::default();
        loop {
            self.skip(self.data + self.padding)?;
            (self.data, self.padding) = (0, 0);
            let Some(header) = self.header()? else {
                let pending =
                    extensions.pax.is_some() || extensions.path.is_some() || extensions.link.is_some();
                return match pending {
                    true => Err(self.malformed("it ends after an extension header")),
                    false => Ok(None),
                };
            };
            let size = self.number(&header[124..136])?;
            match header[156] {
                b'x' | b'X' => {
                    if extensions.pax.is_some() {
                        return Err(self.malformed("two extended headers for one member"));
                    }
                    let bytes = self.extension(size, EXTENSION)?;
                    let (records, sparse) = self.records(&bytes)?;
                    extensions.pax = Some(records);
                    extensions.sparse = sparse;
                }
                b'g' => {
                    // Readers disagree on whether these apply, so only harmless ones are let through.
                    let bytes = self.extension(size, EXTENSION)?;
                    let (records, sparse) = self.records(&bytes)?;
                    let harmful = |key: &Vec<u8>| matches!(&key[..], b"path" | b"linkpath" | b"size");
                    if !sparse.is_empty() || records.keys().any(harmful) {
                        return Err(self.malformed("a global header sets names or sizes"));
                    }
                }
                b'L' => extensions.path = Some(c_string(&self.extension(size, NAME + 1)?)),
                b'K' => extensions.link = Some(c_string(&self.extension(size, NAME + 1)?)),
                // A volume's label.
                b'V' => (self.data, self.padding) = (size, padding(size)),
                _ => return self.member(&header, size, extensions).map(Some),
            }
        }
    }

    /// The next header block, or `None` at the end: two blocks of zeros, or nothing more at all.
    fn header(&mut self) -> Result<Option<[u8; BLOCK]>, ArchiveError> {
        let mut block = [0; BLOCK];
        match self.fill(&mut block)? {
            0 => return Ok(None),
            BLOCK => {}
            _ => return Err(ArchiveError::Truncated(show(&self.path))),
        }
        if block == [0; BLOCK] {
            let mut second = [0; BLOCK];
            let read = self.fill(&mut second)?;
            // Go's reader refuses here too; GNU tar stops.
            if second[..read].iter().any(|byte| *byte != 0) {
                return Err(self.malformed("a lone block of zeros"));
            }
            return Ok(None);
        }
        let stated = self.number(&block[148..156])?;
        let (mut unsigned, mut signed) = (0_u64, 0_i64);
        for (at, byte) in block.iter().enumerate() {
            let byte = if (148..156).contains(&at) { b' ' } else { *byte };
            unsigned += u64::from(byte);
            signed += i64::from(byte as i8);
        }
        if stated != unsigned && i64::try_from(stated) != Ok(signed) {
            return Err(self.malformed("a header's checksum is wrong"));
        }
        Ok(Some(block))
    }

    fn member(
        &mut self,
        header: &[u8; BLOCK],
        header_size: u64,
        mut extensions: Extensions,
    ) -> Result<Member, ArchiveError> {
        let pax = extensions.pax.take().unwrap_or_default();
        if (extensions.path.is_some() && pax.contains_key(&b"path"[..]))
            || (extensions.link.is_some() && pax.contains_key(&b"linkpath"[..]))
        {
            return Err(self.malformed("two extension headers name one member"));
        }
        let text = |key: &[u8]| pax.get(key).cloned();
        let path = extensions.path.or_else(|| text(b"path")).unwrap_or_else(|| short_path(header));
        let link =
            extensions.link.or_else(|| text(b"linkpath")).unwrap_or_else(|| c_string(&header[157..257]));
        if path.contains(&0) || link.contains(&0) {
            return Err(self.malformed("a name with a zero byte"));
        }
        if path.len() as u64 > NAME || link.len() as u64 > NAME {
            return Err(self.malformed("a name longer than 64 KiB"));
        }
        self.path.clone_from(&path);
        let decimal = |key: &[u8], otherwise: &[u8]| match pax.get(key) {
            Some(value) => parse_decimal(value).ok_or_else(|| self.malformed("a number that is none")),
            None => self.number(otherwise),
        };
        let stored = match pax.get(&b"size"[..]) {
            Some(value) => parse_decimal(value).ok_or_else(|| self.malformed("a size that is none"))?,
            None => header_size,
        };
        if stored > i64::MAX as u64 / 2 {
            return Err(self.malformed("a size beyond all bounds"));
        }
        let kind = match header[156] {
            b'0' | 0 | b'7' | b'S' if path.ends_with(b"/") && header[156] != b'S' => Kind::Directory,
            b'0' | 0 | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::SymbolicLink,
            b'3' => Kind::CharacterDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => return Err(ArchiveError::UnknownType { path: show(&path), kind: other.into() }),
        };
        let mtime = match pax.get(&b"mtime"[..]) {
            Some(value) => parse_time(value).ok_or_else(|| self.malformed("a time that is none"))?,
            None => (signed_number(&header[136..148]).unwrap_or(0), 0),
        };
        let mut member = Member {
            mode: (self.number(&header[100..108])? & 0o7777) as u32,
            uid: decimal(b"uid", &header[108..116])?,
            gid: decimal(b"gid", &header[116..124])?,
            mtime,
            size: 0,
            device: (
                u32::try_from(self.number(&header[329..337]).unwrap_or(0)).unwrap_or(u32::MAX),
                u32::try_from(self.number(&header[337..345]).unwrap_or(0)).unwrap_or(u32::MAX),
            ),
            xattrs: pax
                .iter()
                .filter_map(|(key, value)| {
                    Some((key.strip_prefix(b"SCHILY.xattr.")?.to_vec(), value.clone()))
                })
                .collect(),
            path,
            link,
            kind,
            sparse: None,
        };
        if kind != Kind::File {
            // A hard link may state its file's size without having data; everybody agrees on that as
            // long as no extended header repeats it.
            let harmless = kind == Kind::HardLink && !pax.contains_key(&b"size"[..]);
            if stored != 0 && !harmless {
                return Err(self.malformed("a member that has no data states a size"));
            }
            return Ok(member);
        }
        (self.data, self.padding) = (stored, padding(stored));
        member.size = stored;
        let map = if header[156] == b'S' {
            Some(sparse::old_gnu(header, |block| match self.fill(block)? {
                BLOCK => Ok(()),
                _ => Err(io::ErrorKind::UnexpectedEof.into()),
            }))
        } else if extensions.sparse.is_empty() {
            None
        } else {
            let data = &mut self.data;
            let reader = &mut self.reader;
            Some(sparse::pax(&extensions.sparse, |block| {
                *data = data.checked_sub(BLOCK as u64).ok_or(io::ErrorKind::UnexpectedEof)?;
                reader.read_exact(block)
            }))
        };
        if let Some(map) = map {
            let map = map.map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => ArchiveError::Truncated(show(&self.path)),
                io::ErrorKind::InvalidData => self.malformed("a sparse file's map is wrong"),
                _ => ArchiveError::Read(error),
            })?;
            if map.stored() != self.data {
                return Err(self.malformed("a sparse file's map does not fit its data"));
            }
            member.size = map.size;
            if let Some(name) = &map.name {
                if name.is_empty() || name.contains(&0) {
                    return Err(self.malformed("a sparse file's name is wrong"));
                }
                member.path.clone_from(name);
            }
            member.sparse = Some(map);
        }
        Ok(member)
    }

    /// A reader of the file's bytes, holes as zeros. What is not read of it is skipped by [`Self::next`].
    pub(super) fn data<'a>(&'a mut self, member: &'a Member) -> impl Read + 'a {
        sparse::Filled::new(Stored { archive: self, left: &member.path }, member.sparse.as_ref())
    }

    fn number(&self, field: &[u8]) -> Result<u64, ArchiveError> {
        let number = signed_number(field).ok_or_else(|| self.malformed("a number that is none"))?;
        u64::try_from(number).map_err(|_| self.malformed("a negative number"))
    }

    fn extension(&mut self, size: u64, limit: u64) -> Result<Vec<u8>, ArchiveError> {
        if size > limit {
            return Err(self.malformed("an extension header beyond all bounds"));
        }
        let mut bytes = vec![0; size as usize];
        if self.fill(&mut bytes)? != bytes.len() {
            return Err(ArchiveError::Truncated(show(&self.path)));
        }
        self.skip(padding(size))?;
        Ok(bytes)
    }

    /// The records of an extended header, the last of a kind; and apart from them, in their order, the
    /// sparse ones, of which the oldest format repeats some.
    #[allow(clippy::type_complexity)]
    fn records(&self, mut bytes: &[u8]) -> Result<(Records, Vec<(Vec<u8>, Vec<u8>)>), ArchiveError> {
        let (mut records, mut sparse) = (Records::new(), Vec::new());
        let malformed = || self.malformed("an extended header's record is wrong");
        while !bytes.is_empty() {
            let space = bytes.iter().position(|byte| *byte == b' ').ok_or_else(malformed)?;
            let length = parse_decimal(&bytes[..space]).ok_or_else(malformed)?;
            let length = usize::try_from(length).ok().filter(|length| *length <= bytes.len());
            let length = length.filter(|length| *length > space + 2).ok_or_else(malformed)?;
            let (record, rest) = bytes.split_at(length);
            let record = record[space + 1..].strip_suffix(b"\n").ok_or_else(malformed)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(malformed)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            if key.is_empty() || key.contains(&0) {
                return Err(malformed());
            }
            if key.starts_with(b"GNU.sparse.") {
                sparse.push((key.to_vec(), value.to_vec()));
            } else if value.is_empty() && !key.starts_with(b"SCHILY.xattr.") {
                // POSIX: an empty value takes an earlier record back.
                records.remove(key);
            } else {
                records.insert(key.to_vec(), value.to_vec());
            }
            bytes = rest;
        }
        Ok((records, sparse))
    }

    fn skip(&mut self, bytes: u64) -> Result<(), ArchiveError> {
        let skipped =
            io::copy(&mut self.reader.by_ref().take(bytes), &mut io::sink()).map_err(ArchiveError::Read)?;
        match skipped == bytes {
            true => Ok(()),
            false => Err(ArchiveError::Truncated(show(&self.path))),
        }
    }

    /// Fills as much of `buffer` as there is.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, ArchiveError> {
        fill(&mut self.reader, buffer).map_err(ArchiveError::Read)
    }
}

impl From<ArchiveError> for io::Error {
    fn from(error: ArchiveError) -> Self {
        match error {
            ArchiveError::Read(error) => error,
            other => Self::other(other),
        }
    }
}

fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The bytes that the archive holds for the current member.
struct Stored<'a, R> {
    archive: &'a mut Archive<R>,
    left: &'a [u8],
}

impl<R: Read> Read for Stored<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.archive.data).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let read = self.archive.reader.read(&mut buffer[..most])?;
        if read == 0 {
            let error = ArchiveError::Truncated(show(self.left));
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, error));
        }
        self.archive.data -= read as u64;
        Ok(read)
    }
}

fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

fn c_string(field: &[u8]) -> Vec<u8> {
    field.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()
}

/// The name in the header itself. Only POSIX headers have a prefix (GNU's keep times there), and star's
/// is shorter.
fn short_path(header: &[u8; BLOCK]) -> Vec<u8> {
    let name = c_string(&header[..100]);
    if &header[257..263] != b"ustar\0" {
        return name;
    }
    let end = if &header[508..512] == b"tar\0" { 476 } else { 500 };
    let mut path = c_string(&header[345..end]);
    if path.is_empty() {
        return name;
    }
    path.push(b'/');
    path.extend_from_slice(&name);
    path
}

pub(super) fn parse_decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 20 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A header's number: octal digits between blanks and zero bytes, or base 256 if the first bit is set.
pub(super) fn signed_number(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 != 0 {
        let negative = first & 0x40 != 0;
        let mut value: i128 = if negative { -1 } else { 0 };
        for (at, byte) in field.iter().enumerate() {
            let byte = if at == 0 && !negative { byte & 0x7f } else { *byte };
            value = value.checked_mul(256)? | i128::from(byte);
        }
        return i64::try_from(value).ok();
    }
    let field = field.split(|byte| *byte == 0).next().unwrap_or_default().trim_ascii();
    let mut value: i64 = 0;
    for digit in field {
        let digit = char::from(*digit).to_digit(8)?;
        value = value.checked_mul(8)?.checked_add(digit.into())?;
    }
    Some(value)
}

/// A PAX time: seconds with a fraction, negative before 1970. Gives whole seconds rounded down and
/// nanoseconds; what the kernel cannot hold is cut to what it can.
fn parse_time(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, digits) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = match digits.iter().position(|byte| *byte == b'.') {
        Some(at) => (&digits[..at], &digits[at + 1..]),
        None => (digits, &b""[..]),
    };
    if whole.is_empty() || text.len() > 64 || !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let seconds = i64::try_from(parse_decimal(whole)?).unwrap_or(i64::MAX);
    let nanoseconds =
        (0..9).fold(0, |value, at| value * 10 + u32::from(fraction.get(at).map_or(0, |digit| digit - b'0')));
    Some(match (negative, nanoseconds) {
        (false, nanoseconds) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, nanoseconds) => ((-seconds).saturating_sub(1), 1_000_000_000 - nanoseconds),
    })
}
