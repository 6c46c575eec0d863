//! The log of a container, in the format of Docker's `json-file` driver.
//!
//! One object a line: `{"log":"text\n","stream":"stdout","time":"2024-01-02T03:04:05.123456789Z"}`. A file that has
//! grown to the size allowed becomes `….1`, the one before `….2`, and so on; where only one is kept it starts anew.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};

use super::LogSpec;

/// The log's name in the container's folder; older ones have `.1`, `.2`, … behind it.
pub fn log_name(id: &str) -> String {
    format!("{id}-json.log")
}

/// A log that is being written.
#[derive(Debug)]
pub(super) struct Log {
    folder: OwnedFd,
    name: String,
    spec: LogSpec,
    /// From the first entry on: many a program says nothing.
    file: Option<File>,
    size: u64,
    entry: Vec<u8>,
}

impl Log {
    /// The log in this folder, whether there is one yet or not.
    pub(super) fn new(folder: OwnedFd, id: &str, spec: LogSpec) -> Self {
        Self { folder, name: log_name(id), spec, file: None, size: 0, entry: Vec::new() }
    }

    /// Opens the log, after what is in it already.
    fn open(&mut self) -> io::Result<File> {
        let file = open(&self.folder, &self.name, OFlags::APPEND)?;
        self.size = file.metadata()?.len();
        Ok(file)
    }

    /// Adds an entry. What cannot be written (a full disk) is lost, and the container goes on.
    pub(super) fn write(&mut self, stream: &str, text: &[u8], now: i64) {
        if self.file.is_none() {
            self.file = self.open().ok();
        }
        if self.spec.max_size.is_some_and(|most| self.size >= most) {
            let _ = self.rotate();
        }
        self.entry.clear();
        self.entry.extend_from_slice(b"{\"log\":\"");
        escape(&mut self.entry, text);
        self.entry.extend_from_slice(b"\",\"stream\":\"");
        self.entry.extend_from_slice(stream.as_bytes());
        self.entry.extend_from_slice(b"\",\"time\":\"");
        self.entry.extend_from_slice(time(now).as_bytes());
        self.entry.extend_from_slice(b"\"}\n");
        if let Some(file) = &mut self.file {
            if file.write_all(&self.entry).is_ok() {
                self.size += self.entry.len() as u64;
            } else {
                // Half an entry would spoil the next one as well.
                let _ = file.set_len(self.size);
            }
        }
        if self.entry.capacity() > 4 << 10 {
            self.entry = Vec::new();
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        let numbered = |number: u32| match number {
            0 => self.name.clone(),
            number => format!("{}.{number}", self.name),
        };
        for number in (1..self.spec.max_files).rev() {
            match rustix::fs::renameat(&self.folder, numbered(number - 1), &self.folder, numbered(number)) {
                Ok(()) | Err(rustix::io::Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let emptied = if self.spec.max_files < 2 { OFlags::TRUNC } else { OFlags::EXCL };
        self.file = Some(open(&self.folder, &self.name, OFlags::APPEND | emptied)?);
        self.size = 0;
        Ok(())
    }
}

fn open(folder: &OwnedFd, name: &str, more: OFlags) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW | more;
    Ok(rustix::fs::openat(folder, name, flags, Mode::from_raw_mode(0o640))?.into())
}

/// Text as Docker's driver puts it into JSON: `<`, `>` and `&` escaped, what is no UTF-8 replaced.
fn escape(to: &mut Vec<u8>, text: &[u8]) {
    for chunk in text.utf8_chunks() {
        let bytes = chunk.valid().as_bytes();
        let mut plain = 0;
        for (at, byte) in bytes.iter().enumerate() {
            let special = match byte {
                b'"' | b'\\' => Some(format!("\\{}", char::from(*byte))),
                b'\n' => Some("\\n".to_owned()),
                b'\r' => Some("\\r".to_owned()),
                0..0x20 | b'<' | b'>' | b'&' => Some(format!("\\u{byte:04x}")),
                // U+2028 and U+2029 end lines in JavaScript.
                0xe2 if matches!(bytes.get(at + 1..at + 3), Some([0x80, 0xa8 | 0xa9])) => {
                    Some(format!("\\u202{}", bytes[at + 2] & 0xf))
                }
                _ => None,
            };
            if let Some(special) = special {
                to.extend_from_slice(&bytes[plain..at]);
                to.extend_from_slice(special.as_bytes());
                plain = at + if *byte == 0xe2 { 3 } else { 1 };
            }
        }
        to.extend_from_slice(&bytes[plain..]);
        if !chunk.invalid().is_empty() {
            to.extend_from_slice(b"\\ufffd");
        }
    }
}

/// RFC 3339 in UTC with as many digits as are needed, as Go writes it.
fn time(nanoseconds: i64) -> String {
    let (seconds, rest) = (nanoseconds.div_euclid(1_000_000_000), nanoseconds.rem_euclid(1_000_000_000));
    let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Years that begin in March, so that a leap day is the last: Howard Hinnant's `civil_from_days`.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    let fraction = match format!("{rest:09}").trim_end_matches('0') {
        "" => String::new(),
        digits => format!(".{digits}"),
    };
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(1_704_164_645_120_000_000), "2024-01-02T03:04:05.12Z");
        assert_eq!(time(951_782_399_000_000_001), "2000-02-28T23:59:59.000000001Z");
        assert_eq!(time(951_782_400_000_000_000), "2000-02-29T00:00:00Z");
        assert_eq!(time(-1), "1969-12-31T23:59:59.999999999Z");
    }

    #[test]
    fn text_as_docker_escapes_it() {
        let escaped = |text: &[u8]| {
            let mut to = Vec::new();
            escape(&mut to, text);
            String::from_utf8(to).unwrap()
        };
        assert_eq!(escaped(b"a\tb\"\\<&>\r\n"), "a\\u0009b\\\"\\\\\\u003c\\u0026\\u003e\\r\\n");
        assert_eq!(escaped(b"\xff\xfeok\xc3"), "\\ufffd\\ufffdok\\ufffd");
        assert_eq!(escaped("ä\u{2028}\u{2029}…".as_bytes()), "ä\\u2028\\u2029…");
    }

    #[test]
    fn files_rotate() {
        let folder = tempfile::tempdir().unwrap();
        let read = |suffix: &str| {
            let path = folder.path().join(format!("{}{suffix}", log_name("x")));
            std::fs::read_to_string(path).map(|text| text.lines().count()).ok()
        };
        for (files, expected) in [(1, [Some(1), None, None]), (3, [Some(1), Some(2), Some(2)])] {
            let spec = LogSpec { keep: true, max_size: Some(100), max_files: files };
            let mut log = Log::new(File::open(folder.path()).unwrap().into(), "x", spec);
            for _ in 0..9 {
                log.write("stdout", b"text\n", 1);
            }
            assert_eq!([read(""), read(".1"), read(".2")], expected, "of {files} files");
            assert_eq!(read(".3"), None);
            std::fs::remove_file(folder.path().join(log_name("x"))).unwrap();
        }
    }
}
