//! Locks on names, across processes.
//!
//! A name is a byte of the one file `lock`, far beyond its end, and its lock a lock of an open file description
//! (`F_OFD_SETLK`, fcntl(2)) on that byte. So nothing is made to take a lock and nothing is left of it, and the kernel
//! drops it with the last copy of its CLOEXEC descriptor, however the process ended.
//!
//! Where a name's byte is, a hash says: two names that met at one byte would only wait for each other, and with 62 bits
//! they do not meet.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use nix::fcntl::{FcntlArg, fcntl};

use super::{Store, StoreError};

/// The file, in the store's folder.
const FILE: &str = "lock";

/// A lock that is held.
#[derive(Debug)]
pub struct NameLock {
    file: File,
    /// Whether other descriptors go on with it.
    handed_over: bool,
}

/// Who else may have the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    /// Whoever takes it as this too.
    Shared,
    /// Nobody.
    Exclusive,
}

impl Hold {
    fn kind(self) -> libc::c_int {
        match self {
            Self::Shared => libc::F_RDLCK,
            Self::Exclusive => libc::F_WRLCK,
        }
    }
}

impl NameLock {
    /// Another descriptor of the same lock: it is held until the last of them is closed.
    ///
    /// # Errors
    /// What the kernel gives where there are too many descriptors.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        Ok(self.file.try_clone()?.into())
    }

    /// Gives the lock up without ending it: it goes on as long as the descriptor and its copies are open, in
    /// whichever process.
    ///
    /// # Errors
    /// As [`NameLock::duplicate`]; then the lock has ended.
    pub fn hand_over(mut self) -> io::Result<OwnedFd> {
        let copy = self.duplicate()?;
        self.handed_over = true;
        Ok(copy)
    }

    /// A lock from a descriptor that holds it: one that [`NameLock::duplicate`] gave, perhaps to another process.
    pub fn adopt(held: OwnedFd) -> Self {
        Self { file: held.into(), handed_over: false }
    }
}

impl Drop for NameLock {
    /// Ends it for all copies of the descriptor: who started a program meanwhile may have left it one.
    fn drop(&mut self) {
        if !self.handed_over {
            let all = bytes(libc::F_UNLCK, 0, 0);
            let _ = fcntl(&self.file, FcntlArg::F_OFD_SETLK(&all));
        }
    }
}

impl Store {
    /// Waits for the lock of a name, which other processes take too. It ends with its value, or with the process.
    ///
    /// # Errors
    /// What the file system gives.
    pub fn lock_name(&self, name: &str) -> Result<NameLock, StoreError> {
        let lock = self.take_lock(name, Hold::Exclusive)?;
        // Whoever had it may have written what is looked up next.
        drop(self.lock());
        Ok(lock)
    }

    /// As [`Store::lock_name`], but gives nothing at once if somebody else has it.
    ///
    /// # Errors
    /// What the file system gives.
    pub fn try_lock_name(&self, name: &str) -> Result<Option<NameLock>, StoreError> {
        let file = self.lock_file()?;
        let wanted = byte(name, Hold::Exclusive);
        loop {
            match fcntl(&file, FcntlArg::F_OFD_SETLK(&wanted)) {
                Ok(_) => return Ok(Some(NameLock { file, handed_over: false })),
                Err(nix::Error::EAGAIN | nix::Error::EACCES) => return Ok(None),
                Err(nix::Error::EINTR) => {}
                Err(error) => return Err(self.lock_failed()(error.into())),
            }
        }
    }

    /// Waits for a lock that may be shared.
    pub(super) fn take_lock(&self, name: &str, hold: Hold) -> Result<NameLock, StoreError> {
        let file = self.lock_file()?;
        let wanted = byte(name, hold);
        loop {
            match fcntl(&file, FcntlArg::F_OFD_SETLKW(&wanted)) {
                Ok(_) => return Ok(NameLock { file, handed_over: false }),
                Err(nix::Error::EINTR) => {}
                Err(error) => return Err(self.lock_failed()(error.into())),
            }
        }
    }

    /// Whether somebody has the lock of a name for himself at this moment. Gets in nobody's way.
    pub(super) fn is_locked(&self, name: &str) -> Result<bool, StoreError> {
        let file = self.lock_file()?;
        let mut seen = byte(name, Hold::Shared);
        fcntl(&file, FcntlArg::F_OFD_GETLK(&mut seen)).map_err(|error| self.lock_failed()(error.into()))?;
        Ok(libc::c_int::from(seen.l_type) != libc::F_UNLCK)
    }

    /// A lock that nobody had before and nobody will have again, and its name.
    pub(super) fn new_lock(&self, kind: &str) -> Result<(String, NameLock), StoreError> {
        let mut number = 0;
        loop {
            let id = format!("{kind}-{}-{}-{number}", std::process::id(), self.now());
            if let Some(lock) = self.try_lock_name(&id)? {
                return Ok((id, lock));
            }
            number += 1;
        }
    }

    /// A description of its own for each lock: those of one description do not see each other.
    fn lock_file(&self) -> Result<File, StoreError> {
        let options = File::options().read(true).write(true).create(true).truncate(false).to_owned();
        options.open(self.lock_path()).map_err(self.lock_failed())
    }

    fn lock_path(&self) -> PathBuf {
        self.path().join(FILE)
    }

    fn lock_failed(&self) -> impl Fn(io::Error) -> StoreError + use<> {
        let path = self.lock_path();
        move |error| StoreError::io("lock", &path)(error)
    }
}

fn byte(name: &str, hold: Hold) -> libc::flock {
    let hash = blake3::hash(name.as_bytes());
    let (first, _) = hash.as_bytes().split_first_chunk().expect("a hash has 32 bytes");
    bytes(hold.kind(), (u64::from_le_bytes(*first) >> 2) as libc::off_t, 1)
}

/// `length` bytes, or with 0 all.
fn bytes(kind: libc::c_int, start: libc::off_t, length: libc::off_t) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: length,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::store;
    use super::*;

    #[test]
    fn names_are_locked_apart_and_one_at_a_time() {
        let (_folder, store) = store();
        let one = store.try_lock_name("one").unwrap().unwrap();
        assert!(store.try_lock_name("one").unwrap().is_none(), "not by this process either");
        assert!(store.try_lock_name("another").unwrap().is_some());
        assert!(store.is_locked("one").unwrap() && !store.is_locked("another").unwrap());
        drop(one);
        assert!(!store.is_locked("one").unwrap());
        assert!(store.try_lock_name("one").unwrap().is_some());
    }

    #[test]
    fn a_shared_lock_is_had_by_several_and_by_none_for_himself() {
        let (_folder, store) = store();
        let first = store.take_lock("m", Hold::Shared).unwrap();
        let second = store.take_lock("m", Hold::Shared).unwrap();
        assert!(!store.is_locked("m").unwrap());
        drop(first);
        assert!(store.try_lock_name("m").unwrap().is_none());
        drop(second);
        assert!(store.try_lock_name("m").unwrap().is_some());
    }

    #[test]
    fn what_was_handed_over_lasts_as_long_as_its_copies() {
        let (_folder, store) = store();
        let lock = store.lock_name("x").unwrap();
        let copy = lock.duplicate().unwrap();
        let over = lock.hand_over().unwrap();
        drop(over);
        assert!(store.is_locked("x").unwrap());
        let adopted = NameLock::adopt(copy);
        let forgotten = adopted.duplicate().unwrap();
        assert!(store.is_locked("x").unwrap());
        drop(adopted);
        assert!(!store.is_locked("x").unwrap(), "its end is that of its copies");
        drop(forgotten);
    }

    #[test]
    fn whoever_waits_comes_next() {
        let (_folder, store) = store();
        let lock = store.lock_name("x").unwrap();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| store.lock_name("x").map(drop));
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert!(!waits.is_finished());
            drop(lock);
            waits.join().unwrap().unwrap();
        });
    }
}
