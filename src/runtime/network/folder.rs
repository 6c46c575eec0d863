//! Who is in which network, without a daemon that would know.
//!
//! ```text
//! RUNTIME/net/<namespace>/      0700; by the number of the network namespace that the bridges are in
//!   lock                        whoever changes anything waits for it
//!   bridges/<device>.json       a bridge that was made
//!   alive/<id>                  locked for as long as the member lives, by whoever lives as long
//!   members/<id>.json           its addresses, names and ports
//! ```
//!
//! An address is in use if a living member has it. The lock of `alive/<id>` is of the kind that belongs to an open
//! file and can be asked for without being taken: the kernel drops it with the monitor, however that ended, and the
//! next who changes something takes away what the dead one left. Documents are written whole and renamed, so that
//! resolvers read them without a lock.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::model::{Bridge, Member};

/// No document is longer; what is, is not ours.
const LIMIT: u64 = 1 << 20;

/// The folder of one network namespace.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
}

/// The folder, while nobody else changes it.
#[derive(Debug)]
pub(super) struct Locked<'a> {
    folder: &'a Folder,
    _lock: File,
}

impl Folder {
    /// The folder of the namespace of this number, whether it is there or not.
    pub(super) fn at(runtime: &Path, namespace: u64) -> Self {
        Self { path: runtime.join("net").join(namespace.to_string()) }
    }

    /// Opens, or makes, the folder of the namespace of this number.
    pub(super) fn open(runtime: &Path, namespace: u64) -> io::Result<Self> {
        let Self { path } = Self::at(runtime, namespace);
        if !path.join("members").is_dir() {
            let mut builder = std::fs::DirBuilder::new();
            std::os::unix::fs::DirBuilderExt::mode(builder.recursive(true), 0o700);
            for part in ["bridges", "alive", "members"] {
                builder.create(path.join(part))?;
            }
        }
        Ok(Self { path })
    }

    /// Whether somebody made it.
    pub(super) fn is_there(&self) -> io::Result<bool> {
        self.path.join("members").try_exists()
    }

    /// Whether anybody lives there.
    pub(super) fn has_living(&self) -> io::Result<bool> {
        if !self.is_there()? {
            return Ok(false);
        }
        let folder = self.handle()?;
        Ok(names(&self.path.join("alive"))?.iter().any(|id| is_alive(&folder, id)))
    }

    pub(super) fn lock(&self) -> io::Result<Locked<'_>> {
        let lock = File::options().create(true).truncate(false).write(true).open(self.path.join("lock"))?;
        loop {
            match rustix::fs::flock(&lock, FlockOperation::LockExclusive) {
                Ok(()) => return Ok(Locked { folder: self, _lock: lock }),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// A handle for those who only read.
    pub(super) fn handle(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::open(&self.path, flags, Mode::empty())?)
    }
}

/// What [`Locked::members`] finds.
#[derive(Debug, Default)]
pub(super) struct Members {
    pub living: Vec<Member>,
    /// Who is dead and still known, to be [forgotten](Locked::forget) when all that is left of them is gone.
    pub dead: Vec<Dead>,
}

/// Who was in networks.
#[derive(Debug)]
pub(super) struct Dead {
    pub id: String,
    /// None if it cannot be read.
    pub member: Option<Member>,
}

impl Dead {
    /// Its devices: the kernel takes them away, but takes its time.
    pub(super) fn devices(&self) -> impl Iterator<Item = &str> {
        self.member.iter().flat_map(|member| &member.endpoints).map(|endpoint| endpoint.outside.as_str())
    }

    /// Whether it had published ports. One that cannot be read may have had some too.
    pub(super) fn had_ports(&self) -> bool {
        self.member.as_ref().is_none_or(|member| !member.ports.is_empty())
    }
}

/// Whether an id can be the name of a file.
pub(super) fn is_id(id: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (1..=128).contains(&id.len()) && id.bytes().all(plain)
}

impl Locked<'_> {
    /// Says that `id` lives for as long as the descriptor is open anywhere. Nothing if it already does.
    pub(super) fn hold(&self, id: &str) -> io::Result<Option<OwnedFd>> {
        if !is_id(id) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "an id that is no name of a file"));
        }
        let path = self.folder.path.join("alive").join(id);
        let file = File::options().create(true).truncate(false).write(true).open(path)?;
        let wanted = WHOLE;
        // SAFETY: the structure is the kernel's own, and lives as long as the call.
        match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const wanted) } {
            0 => Ok(Some(file.into())),
            _ => match io::Error::last_os_error() {
                error if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(None),
                error => Err(error),
            },
        }
    }

    /// Everybody who lives, and what is known of the dead.
    pub(super) fn members(&self) -> io::Result<Members> {
        let folder = self.folder.handle()?;
        let mut found = Members::default();
        for id in names(&self.folder.path.join("members"))? {
            let Some(id) = id.strip_suffix(".json") else { continue };
            let member = read_member(&folder, id)?;
            if is_alive(&folder, id) {
                found.living.extend(member);
            } else {
                found.dead.push(Dead { id: id.to_owned(), member });
            }
        }
        for id in names(&self.folder.path.join("alive"))? {
            if !is_alive(&folder, &id) && !found.dead.iter().any(|dead| dead.id == id) {
                remove(&self.folder.path.join("alive").join(id))?;
            }
        }
        Ok(found)
    }

    pub(super) fn write_member(&self, member: &Member) -> io::Result<()> {
        self.write(&format!("members/{}.json", member.id), member)
    }

    /// Takes away what is known of a member.
    pub(super) fn forget(&self, id: &str) -> io::Result<()> {
        remove(&self.folder.path.join("members").join(format!("{id}.json")))?;
        remove(&self.folder.path.join("alive").join(id))
    }

    pub(super) fn bridge(&self, device: &str) -> io::Result<Option<Bridge>> {
        read(&self.folder.handle()?, &format!("bridges/{device}.json"))
    }

    pub(super) fn bridges(&self) -> io::Result<Vec<Bridge>> {
        let folder = self.folder.handle()?;
        let mut found = Vec::new();
        for name in names(&self.folder.path.join("bridges"))? {
            if name.ends_with(".json") {
                found.extend(read(&folder, &format!("bridges/{name}"))?);
            }
        }
        Ok(found)
    }

    pub(super) fn write_bridge(&self, bridge: &Bridge) -> io::Result<()> {
        self.write(&format!("bridges/{}.json", bridge.device), bridge)
    }

    pub(super) fn forget_bridge(&self, device: &str) -> io::Result<()> {
        remove(&self.folder.path.join("bridges").join(format!("{device}.json")))
    }

    fn write(&self, name: &str, value: &impl Serialize) -> io::Result<()> {
        let path = self.folder.path.join(name);
        // Under the lock one name is enough; what a crash leaves of it the next write replaces.
        let part = self.folder.path.join("part");
        std::fs::write(&part, serde_json::to_vec(value)?)?;
        std::fs::rename(part, path)
    }
}

/// A lock on all of a file.
const WHOLE: libc::flock = libc::flock {
    l_type: libc::F_WRLCK as libc::c_short,
    l_whence: libc::SEEK_SET as libc::c_short,
    l_start: 0,
    l_len: 0,
    l_pid: 0,
};

/// Whether somebody holds a member's lock.
pub(super) fn is_alive(folder: &OwnedFd, id: &str) -> bool {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let path = format!("alive/{id}");
    let Ok(file) = rustix::fs::openat(folder, path, flags, Mode::empty()) else { return false };
    let mut asked = WHOLE;
    // SAFETY: as in `hold`; the kernel writes into the structure what is in the way.
    let answered = unsafe { libc::fcntl(file.as_fd().as_raw_fd(), libc::F_OFD_GETLK, &raw mut asked) } == 0;
    answered && asked.l_type != libc::F_UNLCK as libc::c_short
}

/// A member's document, or nothing if it is gone or cannot be read.
pub(super) fn read_member(folder: &OwnedFd, id: &str) -> io::Result<Option<Member>> {
    read(folder, &format!("members/{id}.json"))
}

fn read<T: DeserializeOwned>(folder: &OwnedFd, name: &str) -> io::Result<Option<T>> {
    use std::io::Read;
    let file = match rustix::fs::openat(folder, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut text = Vec::new();
    file.take(LIMIT).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text).ok())
}

fn names(folder: &Path) -> io::Result<Vec<String>> {
    std::fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: &str) -> Member {
        Member { id: id.to_owned(), name: "web".to_owned(), endpoints: Vec::new(), ports: Vec::new() }
    }

    #[test]
    fn members_are_there_for_as_long_as_somebody_holds_them() {
        let runtime = tempfile::tempdir().unwrap();
        let folder = Folder::open(runtime.path(), 7).unwrap();
        let locked = folder.lock().unwrap();
        let held = locked.hold("c1").unwrap().unwrap();
        assert!(locked.hold("c1").unwrap().is_none(), "it lives already");
        assert!(folder.has_living().unwrap() && !Folder::at(runtime.path(), 8).has_living().unwrap());
        locked.write_member(&member("c1")).unwrap();
        // Somebody died after the first step, and somebody after the second.
        drop(locked.hold("c2").unwrap());
        drop(locked.hold("c3").unwrap());
        locked.write_member(&member("c3")).unwrap();
        let found = locked.members().unwrap();
        assert_eq!(found.living, [member("c1")]);
        assert!(found.dead.iter().all(|dead| !dead.had_ports() && dead.devices().next().is_none()));
        // The second is known until whoever asked has taken away what it left.
        let dead = || locked.members().unwrap().dead.into_iter().map(|dead| dead.id).collect::<Vec<_>>();
        assert_eq!(dead(), ["c3"]);
        assert_eq!(dead(), ["c3"]);
        locked.forget("c3").unwrap();
        assert_eq!(dead(), [""; 0]);
        assert_eq!(names(&folder.path.join("alive")).unwrap(), ["c1"]);
        // A copy of the descriptor holds as well as the first.
        let copy = held.try_clone().unwrap();
        drop(held);
        assert_eq!(locked.members().unwrap().living.len(), 1);
        drop(copy);
        assert_eq!(locked.members().unwrap().living, []);
    }

    #[test]
    fn documents_that_are_none_are_taken_away_with_their_dead() {
        let runtime = tempfile::tempdir().unwrap();
        let folder = Folder::open(runtime.path(), 7).unwrap();
        let locked = folder.lock().unwrap();
        std::fs::write(folder.path.join("members/x.json"), b"{").unwrap();
        let found = locked.members().unwrap();
        assert!(found.living.is_empty() && found.dead[0].had_ports());
        for dead in &found.dead {
            locked.forget(&dead.id).unwrap();
        }
        assert!(names(&folder.path.join("members")).unwrap().is_empty());
        assert!(locked.hold("../x").is_err() && locked.hold("").is_err());
    }
}
