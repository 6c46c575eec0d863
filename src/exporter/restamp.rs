//! `rewrite-timestamp`: no file of a layer is younger than the epoch.
//!
//! An archive is rewritten as it streams by: only the times in its headers change, and those that a
//! PAX header states. Everything else stays byte for byte, so an archive with nothing to change is
//! the same afterwards.

use std::io::{self, Read, Write};

const BLOCK: usize = 512;
/// The most that a PAX header may hold: far more than a path and its attributes can.
const PAX_LIMIT: u64 = 8 << 20;

/// Which times change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stamp {
    /// Those after this second become it.
    AtMost(i64),
    /// All of them become it.
    Exactly(i64),
}

impl Stamp {
    fn of(self, time: i64) -> i64 {
        match self {
            Self::AtMost(epoch) => time.min(epoch),
            Self::Exactly(epoch) => epoch,
        }
    }
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the archive cannot be rewritten: {what}"))
}

/// Copies an archive with other times.
///
/// # Errors
/// What reading and writing give; `InvalidData` for what is no tar archive.
pub fn restamp(mut input: impl Read, mut out: impl Write, stamp: Stamp) -> io::Result<()> {
    let mut block = [0; BLOCK];
    let mut stated = Stated::default();
    loop {
        match read_block(&mut input, &mut block)? {
            false => return out.flush(),
            true if block.iter().all(|byte| *byte == 0) => {
                // The end, and whatever padding follows it.
                out.write_all(&block)?;
                io::copy(&mut input, &mut out)?;
                return out.flush();
            }
            true => {}
        }
        let size = number(&block[124..136]).and_then(|size| u64::try_from(size).ok());
        let size = size.ok_or_else(|| bad("a member has no size"))?;
        match block[156] {
            b'x' | b'g' => {
                if size > PAX_LIMIT {
                    return Err(bad("an extended header is too long"));
                }
                let mut body = vec![0; padded(size) as usize];
                input.read_exact(&mut body)?;
                body.truncate(size as usize);
                let (body, found) = records(&body, stamp)?;
                if block[156] == b'x' {
                    stated = found;
                }
                set(&mut block[124..136], body.len() as i64)?;
                checksum(&mut block);
                out.write_all(&block)?;
                out.write_all(&body)?;
                out.write_all(&vec![0; (padded(body.len() as u64) - body.len() as u64) as usize])?;
            }
            kind => {
                let mut size = size;
                // Long names of GNU's kind come before the member that they are for.
                if !matches!(kind, b'L' | b'K') {
                    let stated = std::mem::take(&mut stated);
                    size = stated.size.unwrap_or(size);
                    let time = number(&block[136..148]).unwrap_or(0);
                    let new = stamp.of(if stated.changes { i64::MAX } else { time });
                    if new != time {
                        set(&mut block[136..148], new)?;
                        checksum(&mut block);
                    }
                }
                out.write_all(&block)?;
                let length = padded(size);
                if io::copy(&mut (&mut input).take(length), &mut out)? != length {
                    return Err(bad("it ends within a member"));
                }
            }
        }
    }
}

/// What the PAX header before a member says of it.
#[derive(Debug, Default)]
struct Stated {
    /// It had a time that changes, so the member's header has to say it.
    changes: bool,
    /// A size that does not fit a header.
    size: Option<u64>,
}

/// Reads one block; false at the end.
fn read_block(input: &mut impl Read, block: &mut [u8; BLOCK]) -> io::Result<bool> {
    let mut filled = 0;
    while filled < BLOCK {
        match input.read(&mut block[filled..]) {
            Ok(0) if filled == 0 => return Ok(false),
            Ok(0) => return Err(bad("it ends within a header")),
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

fn padded(size: u64) -> u64 {
    size.next_multiple_of(BLOCK as u64)
}

/// A number of a header: octal digits, or GNU's binary form.
fn number(field: &[u8]) -> Option<i64> {
    if field[0] & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        let first = if negative { i128::from(field[0]) - 256 } else { i128::from(field[0] & 0x7f) };
        let value = field[1..].iter().fold(first, |value, byte| (value << 8) | i128::from(*byte));
        return i64::try_from(value).ok();
    }
    let text = std::str::from_utf8(field).ok()?.trim_matches(['\0', ' ']);
    if text.is_empty() { Some(0) } else { i64::from_str_radix(text, 8).ok() }
}

fn set(field: &mut [u8], value: i64) -> io::Result<()> {
    let digits = field.len() - 1;
    if value < 0 || value >= 1 << (3 * digits) {
        return Err(bad("a time before 1970 or after 2242"));
    }
    let text = format!("{value:0digits$o}\0");
    field.copy_from_slice(text.as_bytes());
    Ok(())
}

fn checksum(block: &mut [u8; BLOCK]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// The records of a PAX header without the times that change, and what the others say.
fn records(body: &[u8], stamp: Stamp) -> io::Result<(Vec<u8>, Stated)> {
    let wrong = || bad("an extended header is damaged");
    let mut kept = Vec::with_capacity(body.len());
    let mut stated = Stated::default();
    let mut rest = body;
    while !rest.is_empty() {
        let blank = rest.iter().position(|byte| *byte == b' ').ok_or_else(wrong)?;
        let length: usize =
            std::str::from_utf8(&rest[..blank]).ok().and_then(|text| text.parse().ok()).ok_or_else(wrong)?;
        let record = rest.get(..length).filter(|_| length > blank + 1).ok_or_else(wrong)?;
        rest = &rest[length..];
        let text = &record[blank + 1..length - 1];
        let equals = text.iter().position(|byte| *byte == b'=').ok_or_else(wrong)?;
        let value = String::from_utf8_lossy(&text[equals + 1..]);
        match &text[..equals] {
            b"mtime" if changes(&value, stamp).ok_or_else(wrong)? => {
                stated.changes = true;
                continue;
            }
            // When a file was last read or its inode changed says something of the build alone.
            b"atime" | b"ctime" if changes(&value, stamp).unwrap_or(true) => continue,
            b"size" => stated.size = Some(value.parse().map_err(|_| wrong())?),
            _ => {}
        }
        kept.extend_from_slice(record);
    }
    Ok((kept, stated))
}

/// Whether a time such as `1700000000.25` changes; nothing for what is no time.
fn changes(time: &str, stamp: Stamp) -> Option<bool> {
    let (whole, fraction) = time.split_once('.').unwrap_or((time, ""));
    let whole: i64 = whole.parse().ok()?;
    // A fraction of the epoch's own second is after it.
    let later = !fraction.is_empty() && stamp.of(whole.saturating_add(1)) == whole;
    Some(stamp.of(whole) != whole || later)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(time: u64, pax: &[(&str, &str)]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        let records: Vec<_> = pax.iter().map(|(key, value)| (*key, value.as_bytes())).collect();
        if !records.is_empty() {
            tar.append_pax_extensions(records).unwrap();
        }
        let mut header = tar::Header::new_ustar();
        header.set_size(3);
        header.set_mode(0o644);
        header.set_mtime(time);
        tar.append_data(&mut header, "file", &b"abc"[..]).unwrap();
        tar.into_inner().unwrap()
    }

    fn after(bytes: &[u8], stamp: Stamp) -> Vec<u8> {
        let mut out = Vec::new();
        restamp(bytes, &mut out, stamp).unwrap();
        out
    }

    fn time(bytes: &[u8]) -> (u64, Vec<String>) {
        let mut archive = tar::Archive::new(bytes);
        let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
        let mut keys = Vec::new();
        if let Some(extensions) = entry.pax_extensions().unwrap() {
            keys = extensions.map(|one| one.unwrap().key().unwrap().to_owned()).collect();
        }
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        assert_eq!(text, "abc");
        (entry.header().mtime().unwrap(), keys)
    }

    #[test]
    fn what_is_younger_changes_and_nothing_else() {
        let old = archive(100, &[]);
        assert!(after(&old, Stamp::AtMost(200)) == old);
        assert_eq!(time(&after(&old, Stamp::AtMost(50))).0, 50);
        assert_eq!(time(&after(&old, Stamp::Exactly(300))).0, 300);
    }

    #[test]
    fn times_of_extended_headers_change_too() {
        let long = "x".repeat(120);
        let of = |mtime: &str, stamp| {
            time(&after(&archive(7, &[("mtime", mtime), ("SCHILY.xattr.user.a", &long)]), stamp))
        };
        let kept = vec!["mtime".to_owned(), "SCHILY.xattr.user.a".to_owned()];
        assert_eq!(of("100.5", Stamp::AtMost(200)), (7, kept));
        let gone = vec!["SCHILY.xattr.user.a".to_owned()];
        assert_eq!(of("100.5", Stamp::AtMost(50)), (50, gone.clone()));
        assert_eq!(of("100.5", Stamp::AtMost(100)), (100, gone.clone()));
        assert_eq!(of("1", Stamp::Exactly(9)), (9, gone));
        let times = archive(7, &[("atime", "90"), ("ctime", "10")]);
        assert_eq!(time(&after(&times, Stamp::AtMost(50))), (7, vec!["ctime".to_owned()]));
    }

    #[test]
    fn numbers_in_either_form() {
        assert_eq!(number(b"00000000144\0"), Some(100));
        assert_eq!(number(b"         144"), Some(100));
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]), Some(256));
        assert_eq!(number(&[0xff; 12]), Some(-1));
        assert_eq!(number(b"nonsense\0\0\0\0"), None);
    }

    #[test]
    fn what_is_no_archive_is_an_error() {
        for bytes in [&b"short"[..], &[b'9'; 600], &archive(1, &[])[..700]] {
            let failed = restamp(bytes, io::sink(), Stamp::AtMost(0));
            assert!(failed.is_err(), "{} bytes", bytes.len());
        }
    }
}
