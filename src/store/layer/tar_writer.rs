//! Canonical tar: of one list of facts there is one archive.
//!
//! Plain POSIX headers, and a PAX header only for what does not fit one: long names, large ids, sizes and
//! times, extended attributes. No access or change times, no user and group names: they say something
//! about the machine and not about the tree.

use std::io::{self, Write};

use super::archive::BLOCK;
use super::path::split;

/// What a header states.
pub(super) struct Header<'a> {
    /// A directory's ends with a slash.
    pub(super) path: &'a [u8],
    pub(super) link: &'a [u8],
    /// POSIX' type flag.
    pub(super) kind: u8,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    /// Whole seconds.
    pub(super) mtime: i64,
    /// 0 in layers.
    pub(super) nanoseconds: u32,
    pub(super) device: (u32, u32),
    pub(super) xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

/// Writes `header`, with a PAX header in front if it needs one.
pub(super) fn write_header(out: &mut dyn Write, header: &Header<'_>) -> io::Result<()> {
    let mut records: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut block = [0; BLOCK];
    let mut record = |key: &str, value: &[u8]| records.push((key.as_bytes().to_vec(), value.to_vec()));
    match fit(header.path) {
        Some((prefix, name)) => {
            block[..name.len()].copy_from_slice(name);
            block[345..345 + prefix.len()].copy_from_slice(prefix);
        }
        None => {
            record("path", header.path);
            block[..100].copy_from_slice(&header.path[..100]);
        }
    }
    if header.link.len() > 100 {
        record("linkpath", header.link);
    }
    let shown = header.link.len().min(100);
    block[157..157 + shown].copy_from_slice(&header.link[..shown]);
    let mut number = |range: std::ops::Range<usize>, key: &str, value: i64| {
        let digits = range.len() - 1;
        let fits = value >= 0 && value < 1 << (3 * digits);
        if !fits {
            record(key, value.to_string().as_bytes());
        }
        octal(&mut block[range], if fits { value as u64 } else { 0 });
    };
    number(100..108, "mode", header.mode.into());
    number(108..116, "uid", header.uid.into());
    number(116..124, "gid", header.gid.into());
    number(124..136, "size", header.size as i64);
    if header.nanoseconds == 0 {
        number(136..148, "mtime", header.mtime);
    }
    number(329..337, "devmajor", header.device.0.into());
    number(337..345, "devminor", header.device.1.into());
    if header.nanoseconds != 0 {
        // The sign is that of the whole: -0.25 is the second before 0, and 750 milliseconds.
        let (sign, seconds, nanoseconds) = match header.mtime {
            0.. => ("", header.mtime, header.nanoseconds),
            before => ("-", -(before + 1), 1_000_000_000 - header.nanoseconds),
        };
        records.push((b"mtime".to_vec(), format!("{sign}{seconds}.{nanoseconds:09}").into_bytes()));
        octal(&mut block[136..148], header.mtime.max(0) as u64);
    }
    for (name, value) in header.xattrs {
        records.push(([b"SCHILY.xattr.", &name[..]].concat(), value.clone()));
    }
    block[156] = header.kind;
    if !records.is_empty() {
        records.sort();
        write_records(out, header.path, &records)?;
    }
    finish(out, &mut block)
}

/// The blanks behind a file of `size` bytes.
pub(super) fn write_padding(out: &mut dyn Write, size: u64) -> io::Result<()> {
    out.write_all(&[0; BLOCK][..(size.wrapping_neg() % BLOCK as u64) as usize])
}

/// The two blocks at an archive's end.
pub(super) fn write_end(out: &mut dyn Write) -> io::Result<()> {
    out.write_all(&[0; 2 * BLOCK])
}

fn write_records(out: &mut dyn Write, path: &[u8], records: &[(Vec<u8>, Vec<u8>)]) -> io::Result<()> {
    let mut body = Vec::new();
    for (key, value) in records {
        // " key=value\n" and the digits of the whole length, which may add one.
        let rest = key.len() + value.len() + 3;
        let mut length = rest + rest.to_string().len();
        length = rest + length.to_string().len();
        write!(body, "{length} ")?;
        body.extend_from_slice(key);
        body.push(b'=');
        body.extend_from_slice(value);
        body.push(b'\n');
    }
    let mut block = [0; BLOCK];
    let base = split(path.strip_suffix(b"/").unwrap_or(path)).1;
    let name = [b"PaxHeaders.0/", &base[..base.len().min(80)]].concat();
    block[..name.len()].copy_from_slice(&name);
    octal(&mut block[100..108], 0o644);
    octal(&mut block[108..116], 0);
    octal(&mut block[116..124], 0);
    octal(&mut block[124..136], body.len() as u64);
    octal(&mut block[136..148], 0);
    octal(&mut block[329..337], 0);
    octal(&mut block[337..345], 0);
    block[156] = b'x';
    finish(out, &mut block)?;
    out.write_all(&body)?;
    write_padding(out, body.len() as u64)
}

fn finish(out: &mut dyn Write, block: &mut [u8; BLOCK]) -> io::Result<()> {
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    octal(&mut block[148..155], sum);
    out.write_all(block)
}

/// Octal digits that fill the field up to a zero byte.
fn octal(field: &mut [u8], mut value: u64) {
    let digits = field.len() - 1;
    for digit in field[..digits].iter_mut().rev() {
        *digit = b'0' + (value & 7) as u8;
        value >>= 3;
    }
    field[digits] = 0;
}

/// A path as prefix and name of a POSIX header, if there is a slash to part it at.
fn fit(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= 100 {
        return Some((b"", path));
    }
    // The first slash that leaves a short enough name: a prefix is as short as possible, and a
    // directory's own slash at the end parts nothing.
    let from = path.len().saturating_sub(101);
    let body = &path[..path.len() - 1];
    let at = from + body.get(from..)?.iter().position(|byte| *byte == b'/')?;
    (at <= 155 && at > 0).then(|| (&path[..at], &path[at + 1..]))
}
