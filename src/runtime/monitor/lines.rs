//! A stream cut into what the log keeps: lines, and pieces of those that are too long.
//!
//! As Docker's: a line has its end in the log, a piece of 16 KiB and what the stream ends with have none.

/// Longer lines become several entries.
const LONGEST: usize = 16 << 10;

/// A stream on its way into the log.
#[derive(Debug, Default)]
pub(super) struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    /// Takes what came, and gives out what is complete.
    pub(super) fn add(&mut self, mut bytes: &[u8], mut entry: impl FnMut(&[u8])) {
        while !bytes.is_empty() {
            let room = LONGEST - self.begun.len();
            let end = bytes.iter().take(room).position(|byte| *byte == b'\n').map(|at| at + 1);
            let whole = end.or((bytes.len() >= room).then_some(room));
            let (part, rest) = bytes.split_at(whole.unwrap_or(bytes.len()));
            bytes = rest;
            match whole {
                // The usual case copies nothing.
                Some(_) if self.begun.is_empty() => entry(part),
                Some(_) => {
                    self.begun.extend_from_slice(part);
                    entry(&self.begun);
                    self.begun.clear();
                }
                None => self.begun.extend_from_slice(part),
            }
        }
    }

    /// The stream has ended.
    pub(super) fn end(&mut self, mut entry: impl FnMut(&[u8])) {
        let rest = std::mem::take(&mut self.begun);
        if !rest.is_empty() {
            entry(&rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        for piece in pieces {
            lines.add(piece, |entry| seen.push(entry.to_vec()));
        }
        lines.end(|entry| seen.push(entry.to_vec()));
        seen
    }

    #[test]
    fn lines_however_they_come() {
        let text = b"one\n\ntwo three\nfour";
        let expected: Vec<&[u8]> = vec![b"one\n", b"\n", b"two three\n", b"four"];
        for size in 1..=text.len() {
            let pieces: Vec<&[u8]> = text.chunks(size).collect();
            assert_eq!(entries(&pieces), expected, "in pieces of {size}");
        }
    }

    #[test]
    fn long_lines_are_cut() {
        let long = vec![b'x'; 2 * LONGEST + 5];
        for size in [1000, LONGEST, LONGEST + 1, long.len()] {
            let lengths: Vec<usize> =
                entries(&long.chunks(size).collect::<Vec<_>>()).iter().map(Vec::len).collect();
            assert_eq!(lengths, [LONGEST, LONGEST, 5], "in pieces of {size}");
        }
        let mut exact = vec![b'x'; LONGEST - 1];
        exact.push(b'\n');
        assert_eq!(entries(&[&exact]), [exact]);
    }
}
