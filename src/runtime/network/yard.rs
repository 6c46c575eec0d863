//! The network namespace of an ordinary user's bridges: in it the user has the rights that root has on the machine's.
//!
//! ```text
//!   machine's network        the yard, kept by `stave-network`              a container's
//!   pasta ================== tap -- forwarding -- stave0 -- veth… ========= eth0
//!   sockets of published ports <----------------- the container's monitor -----+
//! ```
//!
//! It is made when the first container needs it, in the user namespace that all containers of a store share, and found
//! by files beside those of that one:
//!
//! ```text
//!   FOLDER/network.start   locked while somebody looks for the keeper (shared) or starts it (exclusively)
//!   FOLDER/network         its process number and what came of it; locked by it for as long as it lives
//!   FOLDER/users           locked, shared, by all who need it
//!   FOLDER/net/<inode>     who is in which network there
//! ```
//!
//! Monitors hold the namespace too. So when the keeper is killed the bridges stay, without their way out, until the next
//! container starts: it finds the namespace in the hands of a monitor, and starts a keeper in it.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::folder::Folder;
use super::keeper::{KEEPER_NAME, Keeping};
use super::user::Program;
use super::{NetworkError, doing};
use crate::runtime::standing::{self, lock};

/// No complaint of a keeper is longer.
const SAID: u64 = 4 << 10;

/// Where an ordinary user's bridges are, or will be.
#[derive(Debug, Clone)]
pub struct Yard {
    /// The folder that stands for the store's user namespace, which the calling process is in.
    pub folder: PathBuf,
    /// What may connect it to the machine's network, or why nothing can.
    pub uplink: Result<Vec<Program>, String>,
}

/// What the keeper writes down after its number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Written {
    /// The inode of the namespace.
    pub namespace: u64,
    /// As what the keeper has it open.
    pub descriptor: i32,
    /// Why it leads nowhere, if it does not.
    pub unconnected: Option<String>,
}

/// A yard that there is.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub namespace: Arc<OwnedFd>,
    pub unconnected: Option<String>,
}

impl Yard {
    /// The yard, if there is one.
    pub(super) fn find(&self) -> Result<Option<Found>, NetworkError> {
        self.look().map_err(doing(format!("use `{}`", self.folder.display())))
    }

    /// The yard, which is made if there is none.
    pub(super) fn make(&self) -> Result<Found, NetworkError> {
        let found = self.look().and_then(|found| match found {
            // Without a keeper its way out is lost, and it would go with the last container.
            Some(found) if self.is_kept()? => Ok(found),
            _ => self.begin(),
        });
        found.map_err(doing("make a network for the user's bridges"))
    }

    fn open(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o600);
        Ok(rustix::fs::open(self.folder.join(name), flags, mode)?.into())
    }

    fn is_kept(&self) -> io::Result<bool> {
        standing::is_held(&self.open("network")?)
    }

    fn look(&self) -> io::Result<Option<Found>> {
        if !self.folder.join("network").try_exists()? {
            return Ok(None);
        }
        let start = self.open("network.start")?;
        lock(&start, FlockOperation::LockShared)?;
        self.look_under_lock()
    }

    fn look_under_lock(&self) -> io::Result<Option<Found>> {
        let mut file = self.open("network")?;
        if let Some(keeper) = standing::find(&mut file)? {
            let pid = keeper.pid.as_raw_nonzero();
            let written: Written = serde_json::from_str(&keeper.said)?;
            let namespace = open(format!("/proc/{pid}/fd/{}", written.descriptor))?;
            // It may have died before that was opened, and its number be another's.
            if standing::is_held(&file)? && rustix::fs::fstat(&namespace)?.st_ino == written.namespace {
                let namespace = Arc::new(namespace);
                return Ok(Some(Found { namespace, unconnected: written.unconnected }));
            }
        }
        // The file still says which one it was, and whoever lives in it holds it.
        let mut text = String::new();
        io::Seek::rewind(&mut file)?;
        Read::by_ref(&mut file).take(SAID).read_to_string(&mut text)?;
        let said = text.split_once('\n').map(|(_, said)| serde_json::from_str::<Written>(said));
        let Some(Ok(written)) = said else { return Ok(None) };
        let unconnected = Some("the process that kept it was killed".to_owned());
        let held = match Folder::at(&self.folder, written.namespace).has_living()? {
            true => held_by_others(written.namespace)?,
            false => None,
        };
        Ok(held.map(|namespace| Found { namespace: Arc::new(namespace), unconnected }))
    }

    /// Starts a keeper, unless somebody else has meanwhile.
    fn begin(&self) -> io::Result<Found> {
        let start = self.open("network.start")?;
        lock(&start, FlockOperation::LockExclusive)?;
        let file = self.open("network")?;
        let found = self.look_under_lock()?;
        if lock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return found.ok_or_else(|| {
                io::Error::other("the process that keeps it cannot be reached (is it in another container?)")
            });
        }
        if found.is_none() {
            // Of those before nobody lives.
            let _ = std::fs::remove_dir_all(self.folder.join("net"));
        }
        self.start(file, found.as_ref())?;
        self.look_under_lock()?.ok_or_else(|| io::Error::other("the process that keeps it ended at once"))
    }

    /// `file` is locked; `found` the namespace to keep, or none for a new one.
    fn start(&self, file: File, found: Option<&Found>) -> io::Result<()> {
        // By way of us, who have it open until the keeper has.
        let path = |found: &Found| {
            PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), found.namespace.as_raw_fd()))
        };
        let keeping = Keeping { uplink: self.uplink.clone(), namespace: found.map(path) };
        let (mut report, theirs) = io::pipe()?;
        let mut command = Command::new("/proc/self/exe");
        command.arg0(KEEPER_NAME).arg(serde_json::to_string(&keeping)?).env_clear();
        command.stdin(file).stdout(self.open("users")?).stderr(theirs);
        let mut child = command.spawn()?;
        // It holds the pipe's other end until it goes.
        drop(command);
        let mut said = String::new();
        Read::by_ref(&mut report).take(SAID).read_to_string(&mut said)?;
        if said.is_empty() {
            return Ok(());
        }
        let _ = child.wait();
        Err(io::Error::other(said))
    }
}

fn open(path: impl AsRef<Path>) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path.as_ref(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// The namespace of this number, if a process of ours has it open.
fn held_by_others(inode: u64) -> io::Result<Option<OwnedFd>> {
    let kind = rustix::fs::stat("/proc/self/ns/net")?.st_dev;
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let is_process = entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit());
        let Ok(files) = std::fs::read_dir(entry.path().join("fd")) else { continue };
        for file in files.flatten().filter(|_| is_process) {
            let is_it = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino) == (kind, inode);
            if !rustix::fs::stat(file.path()).is_ok_and(is_it) {
                continue;
            }
            // Another file may have the descriptor's number by now.
            if let Ok(namespace) = open(file.path())
                && rustix::fs::fstat(&namespace).is_ok_and(is_it)
            {
                return Ok(Some(namespace));
            }
        }
    }
    Ok(None)
}
