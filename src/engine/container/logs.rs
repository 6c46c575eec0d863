//! Reading a container's log, also while it is being written, and across the files that rotation leaves.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags, inotify};
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{folder, state};
use crate::runtime::monitor::log_name;
use crate::store::containers::ContainerId;
use crate::store::{Store, StoreError};

/// The monitor's entries are far shorter; what is longer is none of them.
const LONGEST: u64 = 1 << 20;
/// How long nothing may be heard of a container that was killed together with its monitor.
const GLANCE: Duration = Duration::from_millis(500);
/// More files than are ever kept.
const FILES: u32 = 1000;

/// Which entries are wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogRequest {
    /// Whether to go on as long as the container runs.
    pub follow: bool,
    /// Only so many of the last; none for all.
    pub tail: Option<u64>,
    /// Nanoseconds since the epoch: from the first on, up to the second.
    pub since: Option<i64>,
    pub until: Option<i64>,
}

/// A line, or a piece of a long one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    pub stderr: bool,
    /// Nanoseconds since the epoch.
    pub time: i64,
    /// With the end of the line, if it has one.
    pub text: String,
}

/// Why a log was not read to its end.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot read the log of the container")]
    Read(#[source] io::Error),
    #[error("cannot pass the log on")]
    Write(#[source] io::Error),
}

/// Gives the entries of a log to `emit`, in order.
///
/// # Errors
/// [`LogError`]; what `emit` gives is in [`LogError::Write`].
pub fn logs(
    store: &Store,
    id: &ContainerId,
    request: LogRequest,
    mut emit: impl FnMut(&LogEntry) -> io::Result<()>,
) -> Result<(), LogError> {
    let folder = folder(store, id)?;
    let name = log_name(id.as_str());
    // Watched before anything is read, so that nothing is missed in between.
    let watch = match request.follow {
        true => Some(watch(&folder).map_err(LogError::Read)?),
        false => None,
    };
    let mut files = open_all(&folder, &name).map_err(LogError::Read)?;
    if let Some(lines) = request.tail {
        seek_to_last(&mut files, lines).map_err(LogError::Read)?;
    }
    let mut reader = None;
    let mut pass = |reader: &mut Reader| -> Result<bool, LogError> {
        while let Some(entry) = reader.next().map_err(LogError::Read)? {
            if request.until.is_some_and(|until| entry.time > until) {
                return Ok(false);
            }
            if request.since.is_none_or(|since| entry.time >= since) {
                emit(&entry).map_err(LogError::Write)?;
            }
        }
        Ok(true)
    };
    for file in files {
        let mut next = Reader::new(file);
        if !pass(&mut next)? {
            return Ok(());
        }
        reader = Some(next);
    }
    let Some(watch) = watch else { return Ok(()) };
    loop {
        // Asked before reading: what was written before the end is read then, however quickly it came.
        let live = state(store, id).is_ok_and(|state| state.status.is_live());
        if let Some(reader) = &mut reader {
            reader.notice_truncation().map_err(LogError::Read)?;
            if !pass(reader)? {
                return Ok(());
            }
        }
        let before = reader.as_ref().map(|reader| reader.file.get_ref());
        let more = newer_than(&folder, &name, before).map_err(LogError::Read)?;
        if more.is_empty() {
            if !live {
                return Ok(());
            }
            wait(&watch).map_err(LogError::Read)?;
            continue;
        }
        // The old one may have got its last entries after it was read.
        if let Some(reader) = &mut reader
            && !pass(reader)?
        {
            return Ok(());
        }
        for file in more {
            let mut next = Reader::new(file);
            if !pass(&mut next)? {
                return Ok(());
            }
            reader = Some(next);
        }
    }
}

/// A watch on what is written and renamed in a folder.
fn watch(folder: &OwnedFd) -> io::Result<OwnedFd> {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    let flags =
        inotify::WatchFlags::MODIFY | inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::DELETE_SELF;
    inotify::add_watch(&watch, format!("/proc/self/fd/{}", folder.as_raw_fd()), flags)?;
    Ok(watch)
}

fn wait(watch: &OwnedFd) -> io::Result<()> {
    let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(GLANCE.subsec_nanos()) };
    match rustix::event::poll(&mut [PollFd::new(watch, PollFlags::IN)], Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let mut events = [0; 4096];
    while rustix::io::read(watch, &mut events).is_ok_and(|count| count > 0) {}
    Ok(())
}

fn open(folder: &OwnedFd, name: &str) -> io::Result<Option<File>> {
    match rustix::fs::openat(folder, name, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
    {
        Ok(file) => Ok(Some(file.into())),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// All files of the log, the oldest first.
fn open_all(folder: &OwnedFd, name: &str) -> io::Result<Vec<File>> {
    newer_than(folder, name, None)
}

/// The files of the log that came after this one, the oldest first. Opened from the newest on, so that a rotation in
/// between shows one twice, which is noticed, and none is left out.
fn newer_than(folder: &OwnedFd, name: &str, than: Option<&File>) -> io::Result<Vec<File>> {
    let identity = |file: &File| file.metadata().map(|metadata| (metadata.dev(), metadata.ino()));
    let than = than.map(identity).transpose()?;
    let mut seen = Vec::new();
    let mut files = VecDeque::new();
    let mut gap = false;
    for number in 0..=FILES {
        let path = if number == 0 { name.to_owned() } else { format!("{name}.{number}") };
        let Some(file) = open(folder, &path)? else {
            // While they are renamed, the oldest first, one number is nobody's.
            if std::mem::replace(&mut gap, true) {
                break;
            }
            continue;
        };
        gap = false;
        let this = identity(&file)?;
        if Some(this) == than {
            break;
        }
        if !seen.contains(&this) {
            seen.push(this);
            files.push_front(file);
        }
    }
    Ok(files.into())
}

/// Leaves out what is before the last `lines` lines.
fn seek_to_last(files: &mut Vec<File>, lines: u64) -> io::Result<()> {
    let mut missing = lines;
    for index in (0..files.len()).rev() {
        if missing == 0 {
            let last = &mut files[index];
            last.seek(SeekFrom::End(0))?;
            files.drain(..index);
            return Ok(());
        }
        let file = &mut files[index];
        if let Some(start) = start_of_last(file, &mut missing)? {
            file.seek(SeekFrom::Start(start))?;
            files.drain(..index);
            return Ok(());
        }
        file.seek(SeekFrom::Start(0))?;
    }
    Ok(())
}

/// Where the last `missing` lines of a file begin; if it has fewer, nothing, and `missing` says how many are left.
fn start_of_last(file: &mut File, missing: &mut u64) -> io::Result<Option<u64>> {
    const CHUNK: u64 = 64 << 10;
    let length = file.metadata()?.len();
    let mut buffer = vec![0; CHUNK as usize];
    let mut end = length;
    while end > 0 {
        let start = end.saturating_sub(CHUNK);
        let chunk = &mut buffer[..(end - start) as usize];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(chunk)?;
        for (at, byte) in chunk.iter().enumerate().rev() {
            let at = start + at as u64;
            // The end of a line is where the next one begins; the file's own end is no line.
            if *byte == b'\n' && at + 1 < length {
                *missing -= 1;
                if *missing == 0 {
                    return Ok(Some(at + 1));
                }
            }
        }
        end = start;
    }
    *missing = missing.saturating_sub(u64::from(length > 0));
    Ok(None)
}

/// Reads entries as far as they are complete.
struct Reader {
    file: BufReader<File>,
    begun: Vec<u8>,
    read: u64,
}

impl Reader {
    fn new(mut file: File) -> Self {
        let read = file.stream_position().unwrap_or(0);
        Self { file: BufReader::new(file), begun: Vec::new(), read }
    }

    fn next(&mut self) -> io::Result<Option<LogEntry>> {
        loop {
            let room = LONGEST - self.begun.len() as u64;
            let count = (&mut self.file).take(room).read_until(b'\n', &mut self.begun)?;
            self.read += count as u64;
            if self.begun.last() != Some(&b'\n') && (self.begun.len() as u64) < LONGEST {
                return Ok(None);
            }
            let entry = parse(&self.begun);
            self.begun.clear();
            if entry.is_some() {
                return Ok(entry);
            }
        }
    }

    /// Where only one file is kept, it starts anew.
    fn notice_truncation(&mut self) -> io::Result<()> {
        if self.file.get_ref().metadata()?.len() < self.read {
            self.file.seek(SeekFrom::Start(0))?;
            self.begun.clear();
            self.read = 0;
        }
        Ok(())
    }
}

/// One line of the file; nothing for what is none of ours, which a full disk can leave.
fn parse(line: &[u8]) -> Option<LogEntry> {
    #[derive(Deserialize)]
    struct Line {
        log: String,
        stream: String,
        time: String,
    }
    let line: Line = serde_json::from_slice(line).ok()?;
    let time = OffsetDateTime::parse(&line.time, &Rfc3339).ok()?;
    Some(LogEntry {
        stderr: line.stream == "stderr",
        time: i64::try_from(time.unix_timestamp_nanos()).ok()?,
        text: line.log,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> String {
        format!("{{\"log\":\"{text}\\n\",\"stream\":\"stdout\",\"time\":\"1970-01-01T00:00:01.5Z\"}}\n")
    }

    fn all(folder: &std::path::Path, tail: Option<u64>) -> Vec<String> {
        let handle = File::open(folder).unwrap().into();
        let mut files = open_all(&handle, "log").unwrap();
        if let Some(tail) = tail {
            seek_to_last(&mut files, tail).unwrap();
        }
        let mut texts = Vec::new();
        for file in files {
            let mut reader = Reader::new(file);
            while let Some(entry) = reader.next().unwrap() {
                assert_eq!((entry.time, entry.stderr), (1_500_000_000, false));
                texts.push(entry.text.trim_end().to_owned());
            }
        }
        texts
    }

    #[test]
    fn a_rotation_that_is_half_done_hides_no_file() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("log", "4"), ("log.1", "3"), ("log.2", "2"), ("log.3", "1")] {
            std::fs::write(folder.path().join(name), line(text)).unwrap();
        }
        for number in (0..4).rev() {
            let name = |number: u32| if number == 0 { "log".to_owned() } else { format!("log.{number}") };
            std::fs::rename(folder.path().join(name(number)), folder.path().join(name(number + 1))).unwrap();
            assert_eq!(all(folder.path(), None), ["1", "2", "3", "4"], "without {number}");
            assert_eq!(all(folder.path(), Some(3)), ["2", "3", "4"], "without {number}");
        }
    }

    #[test]
    fn the_last_lines_of_several_files() {
        let folder = tempfile::tempdir().unwrap();
        for (file, texts) in [("log.2", ["a", "b"]), ("log.1", ["c", "d"]), ("log", ["e", "f"])] {
            std::fs::write(folder.path().join(file), texts.map(line).concat()).unwrap();
        }
        let whole = ["a", "b", "c", "d", "e", "f"];
        assert_eq!(all(folder.path(), None), whole);
        for tail in 0..=8 {
            let expected = &whole[whole.len().saturating_sub(tail)..];
            assert_eq!(all(folder.path(), Some(tail as u64)), expected, "the last {tail}");
        }
        std::fs::write(folder.path().join("log"), "").unwrap();
        assert_eq!(all(folder.path(), Some(1)), ["d"], "a new file may be empty");
    }

    #[test]
    fn what_is_no_entry_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let half = &line("half")[..20];
        let text = [line("one"), "nonsense\n".to_owned(), format!("{half}\n"), line("two"), half.to_owned()];
        std::fs::write(folder.path().join("log"), text.concat()).unwrap();
        assert_eq!(all(folder.path(), None), ["one", "two"]);
        // The rest of an entry may come later.
        let mut reader = Reader::new(File::open(folder.path().join("log")).unwrap());
        while reader.next().unwrap().is_some() {}
        std::io::Write::write_all(
            &mut File::options().append(true).open(folder.path().join("log")).unwrap(),
            &line("half").as_bytes()[20..],
        )
        .unwrap();
        assert_eq!(reader.next().unwrap().unwrap().text, "half\n");
    }
}
