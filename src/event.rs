//! What happened, as a line of a log that many processes write and read: a noun, so that a container's monitor, which
//! knows no store, writes the same lines as everybody else.
//!
//! ```text
//! ROOT/events.log     one JSON object a line, in the form of Docker's API
//! ROOT/events.log.1   the one before, for who asks for the past
//! ```
//!
//! A line is one `write` to a file that is open for appending, so lines of several writers stay whole. Whoever makes
//! the file too long renames it; the file's own lock sees to it that only one does. Nobody waits for anybody. What
//! could not be told (a full disk) is not told: no verb fails for its event.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};

/// The log's name in the store.
pub const LOG: &str = "events.log";
/// The log before that one.
pub const EARLIER: &str = "events.log.1";

/// Bytes after which a new log begins.
const ROTATE_AT: u64 = 4 << 20;

/// Longer lines lose attributes; a reader takes none that is longer.
pub const LINE_LIMIT: usize = 32 << 10;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    #[serde(rename = "Type")]
    pub kind: Kind,
    /// Docker's word, with a colon and more behind it in some: `exec_create: sh`, `health_status: healthy`.
    #[serde(rename = "Action")]
    pub action: String,
    #[serde(rename = "Actor")]
    pub actor: Actor,
    /// Seconds since the epoch.
    pub time: i64,
    /// Nanoseconds since the epoch.
    #[serde(rename = "timeNano")]
    pub time_nano: i64,
}

/// What it happened to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    #[serde(rename = "ID")]
    pub id: String,
    #[serde(rename = "Attributes", default)]
    pub attributes: BTreeMap<String, String>,
}

/// Kinds of things that events happen to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Container,
    Image,
    Volume,
    Network,
    Builder,
}

impl Kind {
    /// Docker's word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Image => "image",
            Self::Volume => "volume",
            Self::Network => "network",
            Self::Builder => "builder",
        }
    }
}

impl Event {
    /// An event of this moment, which is given in nanoseconds since the epoch.
    pub fn new<K: Into<String>, V: Into<String>>(
        kind: Kind,
        action: impl Into<String>,
        id: impl Into<String>,
        attributes: impl IntoIterator<Item = (K, V)>,
        now: i64,
    ) -> Self {
        let attributes = attributes.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        Self {
            kind,
            action: action.into(),
            actor: Actor { id: id.into(), attributes },
            time: now.div_euclid(1_000_000_000),
            time_nano: now,
        }
    }

    /// Reads a line of the log; nothing of one that is torn or not of this form.
    pub fn read(line: &[u8]) -> Option<Self> {
        if line.len() > LINE_LIMIT { None } else { serde_json::from_slice(line).ok() }
    }

    /// The line, with its end.
    fn line(&self) -> Option<String> {
        let mut line = serde_json::to_string(self).ok()?;
        if line.len() >= LINE_LIMIT {
            // Labels can be of any length; who it was must be told.
            let mut short = self.clone();
            short.actor.attributes.retain(|key, value| key.len() + value.len() < 256);
            while serde_json::to_string(&short).ok()?.len() >= LINE_LIMIT {
                short.actor.attributes.pop_last()?;
            }
            line = serde_json::to_string(&short).ok()?;
        }
        line.push('\n');
        Some(line)
    }
}

/// Adds an event to the log in `folder`, the store's root.
///
/// # Errors
/// What the file system gives; whoever tells of something that was done has nothing better to do than to go on.
pub fn write(folder: impl AsFd, event: &Event) -> io::Result<()> {
    let Some(line) = event.line() else { return Ok(()) };
    let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(&folder, LOG, flags, Mode::from_raw_mode(0o600))?;
    let length = rustix::fs::fstat(&file)?.st_size.unsigned_abs();
    // What a full disk tore shall not take this line with it.
    let mut last = [b'\n'];
    if length > 0 {
        rustix::io::pread(&file, &mut last, length - 1)?;
    }
    let torn = if last == *b"\n" { "" } else { "\n" };
    rustix::io::write(&file, format!("{torn}{line}").as_bytes())?;
    if length + line.len() as u64 > ROTATE_AT {
        rotate(folder, &file)?;
    }
    Ok(())
}

/// Who a container is in its events, in its own folder: so its monitor can tell, which has no database.
const ACTOR: &str = "actor.json";

/// Writes down who a container is, in its folder.
///
/// # Errors
/// What the file system gives.
pub fn write_actor(folder: impl AsFd, actor: &Actor) -> io::Result<()> {
    const NEW: &str = "actor.json.new";
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut file = File::from(rustix::fs::openat(&folder, NEW, flags, Mode::from_raw_mode(0o600))?);
    file.write_all(&serde_json::to_vec(actor)?)?;
    Ok(rustix::fs::renameat(&folder, NEW, &folder, ACTOR)?)
}

/// Who the container is whose folder this is; nobody if that was never written down.
pub fn read_actor(folder: impl AsFd) -> Option<Actor> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = File::from(rustix::fs::openat(&folder, ACTOR, flags, Mode::empty()).ok()?);
    let mut bytes = Vec::new();
    // Labels are as long as a command line at most.
    file.take(4 << 20).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// Adds an event of the container whose folder this is to the log of the store that it lies in. Nothing fails for
/// its event.
pub fn of_container(folder: impl AsFd, action: &str, more: &[(&str, &str)], now: i64) {
    let Some(Actor { id, mut attributes }) = read_actor(&folder) else { return };
    attributes.extend(more.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    beside_container(folder, &Event::new(Kind::Container, action, id, attributes, now));
}

/// Adds an event to the log of the store that a container's folder lies in. Nothing fails for its event.
pub fn beside_container(folder: impl AsFd, event: &Event) {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // `ROOT/containers/<id>`: a folder of ours, whose parents nobody else can exchange.
    if let Ok(root) = rustix::fs::openat(&folder, "../..", flags, Mode::empty()) {
        let _ = write(root, event);
    }
}

/// Renames the log, unless somebody else does or did.
fn rotate(folder: impl AsFd, file: &OwnedFd) -> io::Result<()> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(()),
        other => other?,
    }
    let ours = rustix::fs::fstat(file)?;
    let named = match rustix::fs::statat(&folder, LOG, AtFlags::SYMLINK_NOFOLLOW) {
        // Renamed by somebody else, and nobody has begun the next one.
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        other => other?,
    };
    if (ours.st_dev, ours.st_ino) == (named.st_dev, named.st_ino) {
        rustix::fs::renameat(&folder, LOG, &folder, EARLIER)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(number: i64) -> Event {
        Event::new(Kind::Container, "start", "abc", [("name", format!("n{number}"))], number * 1_000_000_000)
    }

    fn lines(path: &std::path::Path) -> Vec<Option<Event>> {
        let bytes = std::fs::read(path).unwrap_or_default();
        bytes.split_inclusive(|byte| *byte == b'\n').map(|line| Event::read(line.trim_ascii())).collect()
    }

    #[test]
    fn the_form_is_that_of_dockers_api() {
        let line = event(3).line().unwrap();
        assert_eq!(
            line,
            "{\"Type\":\"container\",\"Action\":\"start\",\"Actor\":{\"ID\":\"abc\",\"Attributes\":{\"name\":\"n3\"}},\
             \"time\":3,\"timeNano\":3000000000}\n"
        );
        assert_eq!(Event::read(line.trim_end().as_bytes()), Some(event(3)));
    }

    #[test]
    fn a_torn_line_takes_no_other_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let root = std::fs::File::open(folder.path()).unwrap();
        std::fs::write(folder.path().join(LOG), "{\"Type\":\"cont").unwrap();
        write(&root, &event(1)).unwrap();
        write(&root, &event(2)).unwrap();
        assert_eq!(lines(&folder.path().join(LOG)), [None, Some(event(1)), Some(event(2))]);
    }

    #[test]
    fn attributes_of_any_length_leave_a_line_that_can_be_read() {
        let many = (0..9_000).map(|number| (format!("label{number}"), "x".repeat(200)));
        let large = [("a".to_owned(), "x".repeat(1 << 20)), ("name".to_owned(), "n".to_owned())];
        let attributes = many.chain(large);
        let line = Event::new(Kind::Container, "die", "abc", attributes, 0).line().unwrap();
        assert!(line.len() <= LINE_LIMIT, "{}", line.len());
        assert_eq!(Event::read(line.trim_end().as_bytes()).unwrap().actor.id, "abc");
        let large = [("a", "x".repeat(1 << 20)), ("name", "n".to_owned())];
        let kept =
            Event::read(Event::new(Kind::Image, "tag", "i", large, 0).line().unwrap().trim_end().as_bytes());
        assert_eq!(kept.unwrap().actor.attributes.into_keys().collect::<Vec<_>>(), ["name"]);
    }

    #[test]
    fn a_monitor_tells_by_its_folder_alone() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("containers/abc");
        std::fs::create_dir_all(&path).unwrap();
        let folder = File::open(&path).unwrap();
        of_container(&folder, "start", &[], 1);
        assert!(lines(&root.path().join(LOG)).is_empty(), "nobody knows who it is");
        let actor =
            Actor { id: "abc".to_owned(), attributes: [("name".to_owned(), "web".to_owned())].into() };
        write_actor(&folder, &actor).unwrap();
        assert_eq!(read_actor(&folder), Some(actor));
        of_container(&folder, "die", &[("exitCode", "3")], 5);
        let expected = Event::new(Kind::Container, "die", "abc", [("name", "web"), ("exitCode", "3")], 5);
        assert_eq!(lines(&root.path().join(LOG)), [Some(expected)]);
    }

    #[test]
    fn many_writers_rotate_once_and_lose_nothing_between() {
        let folder = tempfile::tempdir().unwrap();
        let root = std::fs::File::open(folder.path()).unwrap();
        std::fs::write(folder.path().join(LOG), "\n".repeat(ROTATE_AT as usize - 20_000)).unwrap();
        std::thread::scope(|scope| {
            for writer in 0..8 {
                let root = &root;
                scope.spawn(move || {
                    (0..100).for_each(|number| write(root, &event(writer * 100 + number)).unwrap());
                });
            }
        });
        let mut seen: Vec<i64> = [EARLIER, LOG]
            .iter()
            .flat_map(|name| lines(&folder.path().join(name)))
            .flatten()
            .map(|event| event.time)
            .collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..800).collect::<Vec<i64>>());
        assert!(std::fs::metadata(folder.path().join(LOG)).unwrap().len() < ROTATE_AT);
    }
}
