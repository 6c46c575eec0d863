//! Names inside layers: bytes, not text; how they are cleaned, shown and kept.

use std::io;

/// What could not be done to which path of a layer.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} `{path}`")]
pub struct PathError {
    pub doing: &'static str,
    pub path: String,
    pub source: io::Error,
}

impl PathError {
    pub(super) fn new(doing: &'static str, path: &[u8], source: impl Into<io::Error>) -> Self {
        Self { doing, path: show(path), source: source.into() }
    }
}

/// `path` without leading slash, `.`, `..` and doubled slashes; `..` stops at the top, as in a chroot.
/// By its letters alone: a link on the way does not change where `..` leads, which is what containerd
/// does with the names in archives.
pub(super) fn clean(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                let parent = out.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                out.truncate(parent);
            }
            name => {
                if !out.is_empty() {
                    out.push(b'/');
                }
                out.extend_from_slice(name);
            }
        }
    }
    out
}

/// The parent and the last name of a cleaned path.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// A path for people: at most 200 characters, control characters escaped.
pub(super) fn show(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(&path[..path.len().min(1000)]);
    let mut shown: String = text
        .chars()
        .take(200)
        .flat_map(|c| {
            let escaped = c.is_control().then(|| c.escape_default());
            let plain = (!c.is_control()).then_some(c);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect();
    if text.chars().nth(200).is_some() {
        shown.push('…');
    }
    shown
}

/// A cleaned path as text that [`unescape`] turns back into the same bytes: `/` in front, a backslash
/// doubled, and each byte that is not UTF-8 as `\xNN`.
pub(super) fn escape(path: &[u8]) -> String {
    let mut text = String::from("/");
    for chunk in path.utf8_chunks() {
        text.push_str(&chunk.valid().replace('\\', "\\\\"));
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// The inverse of [`escape`]. Unknown escapes stand for themselves.
pub(super) fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = text.strip_prefix('/').unwrap_or(text).as_bytes();
    let mut path = Vec::with_capacity(bytes.len());
    while let Some((first, rest)) = bytes.split_first() {
        bytes = rest;
        match (first, rest) {
            (b'\\', [b'\\', rest @ ..]) => {
                path.push(b'\\');
                bytes = rest;
            }
            (b'\\', [b'x', high, low, rest @ ..]) if hex(*high).is_some() && hex(*low).is_some() => {
                path.extend(hex(*high).zip(hex(*low)).map(|(high, low)| high << 4 | low));
                bytes = rest;
            }
            (byte, _) => path.push(*byte),
        }
    }
    path
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaning_confines() {
        for (path, want) in [
            ("../../x", "x"),
            ("/abs/x", "abs/x"),
            ("./..//x", "x"),
            ("a/../../b/./c//", "b/c"),
            (".", ""),
            ("/", ""),
            ("..", ""),
        ] {
            assert_eq!(clean(path.as_bytes()), want.as_bytes(), "{path}");
        }
    }

    #[test]
    fn escaping_keeps_every_byte() {
        let paths: [&[u8]; 4] = [b"", b"a/b", b"dev-by\\x2duuid", b"\xff\\\xfeq\\x"];
        for path in paths {
            assert_eq!(unescape(&escape(path)), path, "{}", escape(path));
        }
        assert_eq!(escape(b"\xff"), "/\\xff");
    }

    #[test]
    fn nothing_long_or_raw_is_shown() {
        assert_eq!(show(b"a\x1b[31m"), "a\\u{1b}[31m");
        assert!(show(&[b'x'; 5000]).chars().count() < 210);
    }
}
