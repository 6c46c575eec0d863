//! What is remembered of a container between two runs of the program: its folder and who may change it.

use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::cgroup::Groups;
use super::config::{self, Bundle};
use super::error::BundleError;

/// An OCI runtime over a folder of containers.
#[derive(Debug, Clone)]
pub struct Runtime {
    root: PathBuf,
    /// Whether containers get cgroups.
    pub cgroups: bool,
}

/// `state.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    pub oci_version: String,
    pub id: String,
    /// 0 while there is none.
    pub pid: i32,
    /// In ticks since the boot: another process that got the number started later.
    pub start_time: u64,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    /// RFC 3339.
    pub created: String,
    pub owner: u32,
    pub annotations: std::collections::BTreeMap<String, String>,
    pub groups: Groups,
    /// Whether processes of it are in a process namespace of their own, and so end with the first.
    pub own_pids: bool,
}

/// What a container does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    /// As the specification calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// A container's folder, changed by nobody else while this lives.
#[derive(Debug)]
pub(super) struct Entry {
    pub folder: PathBuf,
    _lock: OwnedFd,
}

impl Runtime {
    /// A runtime that keeps its containers in `root`, which is made when it is needed.
    pub fn new(root: PathBuf) -> Self {
        Self { root, cgroups: true }
    }

    /// The folder of all containers.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn folder(&self, id: &str) -> Result<PathBuf, BundleError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-.,".contains(&byte);
        if id.is_empty() || id.len() > 1024 || matches!(id, "." | "..") || !id.bytes().all(plain) {
            return Err(BundleError::Id(id.to_owned()));
        }
        Ok(self.root.join(id))
    }

    /// The ids of all containers, in order.
    pub(super) fn ids(&self) -> Result<Vec<String>, BundleError> {
        let entries = match std::fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(BundleError::Read { path: self.root.clone(), source }),
        };
        let mut ids: Vec<String> =
            entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        ids.sort();
        Ok(ids)
    }

    /// A new folder. One that a killed `create` left is taken away first.
    pub(super) fn add(&self, id: &str) -> Result<Entry, BundleError> {
        let folder = self.folder(id)?;
        let made = |source| BundleError::Io { what: format!("make `{}`", folder.display()), source };
        DirBuilder::new().recursive(true).mode(0o700).create(&self.root).map_err(made)?;
        loop {
            match DirBuilder::new().mode(0o700).create(&folder) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    let Some(entry) = Entry::open(&folder, false)? else {
                        return Err(BundleError::Exists(id.to_owned()));
                    };
                    match entry.record() {
                        Ok(record) if record.pid != 0 => return Err(BundleError::Exists(id.to_owned())),
                        Ok(record) => record.groups.remove(),
                        Err(_) => {}
                    }
                    entry.forget()?;
                    continue;
                }
                Err(error) => return Err(made(error)),
            }
            // A sweep of the kind above may have been quicker than our lock.
            if let Some(entry) = Entry::open(&folder, true)?
                && folder.exists()
            {
                return Ok(entry);
            }
        }
    }

    /// A folder that exists, once nobody else changes it.
    pub(super) fn lock(&self, id: &str) -> Result<Entry, BundleError> {
        let folder = self.folder(id)?;
        match Entry::open(&folder, true)? {
            Some(entry) if folder.exists() => Ok(entry),
            _ => Err(BundleError::NotFound(id.to_owned())),
        }
    }

    /// What is remembered of a container, whoever changes it.
    pub(super) fn record(&self, id: &str) -> Result<Record, BundleError> {
        let folder = self.folder(id)?;
        match read_record(&folder) {
            // A `create` that has only just begun has nothing to tell yet.
            Err(BundleError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Err(BundleError::NotFound(id.to_owned()))
            }
            read => read,
        }
    }
}

fn read_record(folder: &Path) -> Result<Record, BundleError> {
    read_json(&folder.join("state.json"))
}

/// A JSON document of bounded size.
pub(super) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, BundleError> {
    let text = read_bounded(path).map_err(|source| BundleError::Read { path: path.to_owned(), source })?;
    serde_json::from_slice(&text).map_err(|source| BundleError::Json { path: path.to_owned(), source })
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    // A FIFO must not hold us up; what is no file is refused.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let mut text = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, config::LIMIT + 1), &mut text)?;
    if text.len() as u64 > config::LIMIT {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it has more than 16 MiB"));
    }
    Ok(text)
}

impl Entry {
    /// None if somebody else holds it (without `wait`), or if there is no folder.
    fn open(folder: &Path, wait: bool) -> Result<Option<Self>, BundleError> {
        let path = folder.join("lock");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let lock = match rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600)) {
            Ok(lock) => lock,
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(error) => return Err(BundleError::io(format!("open `{}`", path.display()))(error.into())),
        };
        let operation =
            if wait { FlockOperation::LockExclusive } else { FlockOperation::NonBlockingLockExclusive };
        match rustix::fs::flock(&lock, operation) {
            Ok(()) => Ok(Some(Self { folder: folder.to_owned(), _lock: lock })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(BundleError::io(format!("lock `{}`", path.display()))(error.into())),
        }
    }

    pub(super) fn record(&self) -> Result<Record, BundleError> {
        read_record(&self.folder)
    }

    /// Writes what is remembered, whole or not at all.
    pub(super) fn write(&self, record: &Record) -> Result<(), BundleError> {
        let text = serde_json::to_vec(record).expect("the record's types have JSON forms");
        self.write_file("state.json", &text)
    }

    pub(super) fn write_file(&self, name: &str, text: &[u8]) -> Result<(), BundleError> {
        let path = self.folder.join(name);
        let new = self.folder.join(format!("{name}.new"));
        let written = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .and_then(|mut file| file.write_all(text))
            .and_then(|()| std::fs::rename(&new, &path));
        written.map_err(BundleError::io(format!("write `{}`", path.display())))
    }

    /// The configuration as it was when the container was made.
    pub(super) fn config(&self) -> Result<Bundle, BundleError> {
        read_json(&self.folder.join("config.json"))
    }

    /// Removes the folder.
    pub(super) fn forget(self) -> Result<(), BundleError> {
        match std::fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(BundleError::io(format!("remove `{}`", self.folder.display()))(error))
            }
            _ => Ok(()),
        }
    }
}

impl Record {
    /// Whether the first process is there, as itself and not as its shell that nobody has reaped.
    pub(super) fn is_alive(&self) -> bool {
        self.pid != 0
            && process_stat(self.pid)
                .is_some_and(|(state, start)| start == self.start_time && !matches!(state, 'Z' | 'X'))
    }

    /// What the container does.
    pub(super) fn status(&self, folder: &Path) -> Status {
        if self.pid == 0 {
            return if is_locked(folder) { Status::Creating } else { Status::Stopped };
        }
        if !self.is_alive() {
            return Status::Stopped;
        }
        if waits(folder) {
            return Status::Created;
        }
        if self.groups.is_frozen() { Status::Paused } else { Status::Running }
    }

    /// A handle on the first process, if it is still that one.
    pub(super) fn process(&self) -> Option<OwnedFd> {
        let pid = rustix::process::Pid::from_raw(self.pid)?;
        let handle = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()?;
        // What is alive now is what the handle means.
        self.is_alive().then_some(handle)
    }
}

fn is_locked(folder: &Path) -> bool {
    File::open(folder.join("lock")).is_ok_and(|lock| {
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
    })
}

/// Whether somebody reads the FIFO: the first process, until it executes its program.
fn waits(folder: &Path) -> bool {
    open_start(folder).is_ok()
}

/// The FIFO's writing end; `ENXIO` if nobody waits at the other.
pub(super) fn open_start(folder: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(rustix::fs::open(folder.join("start"), flags, Mode::empty())?)
}

/// State and start time of a process.
pub(super) fn process_stat(pid: i32) -> Option<(char, u64)> {
    let text = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&text);
    // The name may hold anything, so fields are counted from its end.
    let mut fields = text.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_names() {
        let runtime = Runtime::new("/nowhere".into());
        for id in ["a", "a.b-c_d+e,f", "..."] {
            assert!(runtime.folder(id).is_ok(), "{id}");
        }
        for id in ["", ".", "..", "a/b", "a b", "ä", "a\n", &"x".repeat(1025)] {
            assert!(runtime.folder(id).is_err(), "{id}");
        }
    }

    #[test]
    fn a_process_is_known_by_its_start() {
        let pid = std::process::id() as i32;
        let (state, start) = process_stat(pid).unwrap();
        assert!(matches!(state, 'R' | 'S'));
        assert!(start > 0);
        assert!(process_stat(i32::MAX).is_none());
    }

    #[test]
    fn folders_are_had_once() {
        let dir = tempfile::tempdir().unwrap();
        let runtime = Runtime::new(dir.path().join("deep/root"));
        let entry = runtime.add("one").unwrap();
        assert!(matches!(runtime.add("one"), Err(BundleError::Exists(_))));
        drop(entry);
        // What a killed `create` left has no record, and goes.
        let entry = runtime.add("one").unwrap();
        assert_eq!(runtime.ids().unwrap(), ["one"]);
        entry.forget().unwrap();
        assert!(matches!(runtime.lock("one"), Err(BundleError::NotFound(_))));
        assert!(matches!(runtime.record("one"), Err(BundleError::NotFound(_))));
    }

    #[test]
    fn documents_are_bounded_files() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(read_json::<Record>(dir.path()), Err(BundleError::Read { .. })));
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        assert!(read_json::<Record>(&fifo).is_err());
        let large = dir.path().join("large");
        File::create(&large).unwrap().set_len(config::LIMIT + 1).unwrap();
        assert!(matches!(read_json::<Record>(&large), Err(BundleError::Read { .. })));
    }
}
