//! A process that stands for something: its number is in a file, which it has open as its standard input, and locked
//! for as long as it lives.
//!
//! Such a file is believed only as far as the kernel vouches for it: the lock says that somebody lives, and the process
//! of the written number must have the very file in its hands. So a number that is another process's by now, or that
//! is of another process namespace, is never taken for it.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};

/// No such file is longer.
const LIMIT: u64 = 4 << 10;

/// Takes a lock of flock(2), waiting for it unless `how` says otherwise.
///
/// # Errors
/// What the system gives; `WouldBlock` if it is another's and is not waited for.
pub fn lock(file: impl AsFd, how: FlockOperation) -> io::Result<()> {
    loop {
        match rustix::fs::flock(&file, how) {
            Err(Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Whether somebody has locked the file.
///
/// # Errors
/// What the system gives.
pub fn is_held(file: &File) -> io::Result<bool> {
    match lock(file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => lock(file, FlockOperation::Unlock).map(|()| false),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(error) => Err(error),
    }
}

/// Somebody who stands for something.
#[derive(Debug)]
pub struct Standing {
    pub pid: Pid,
    pub handle: OwnedFd,
    /// What is written after the number.
    pub said: String,
}

/// Who stands for what the file is about; nobody if it is not locked, or was locked by one who is gone now. Nobody
/// may be about to write it.
///
/// # Errors
/// `InvalidData` if it says nothing of whoever locked it, and what the system gives.
pub fn find(file: &mut File) -> io::Result<Option<Standing>> {
    if !is_held(file)? {
        return Ok(None);
    }
    let mut text = String::new();
    file.rewind()?;
    Read::by_ref(file).take(LIMIT).read_to_string(&mut text)?;
    let (number, said) = text.split_once('\n').unwrap_or((&text, ""));
    let Some(pid) = number.trim().parse().ok().and_then(Pid::from_raw) else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the number of the process is damaged"));
    };
    let handle = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(handle) => handle,
        Err(Errno::SRCH) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    // The number is of one that lived when we took the handle: of that one, if it lives still. In another process
    // namespace the number would be anybody's, so the file must be in its hands too.
    let path = rustix::fs::stat(format!("/proc/{pid}/fd/0"));
    let ours = rustix::fs::fstat(&*file)?;
    let same = path.is_ok_and(|stat| (stat.st_dev, stat.st_ino) == (ours.st_dev, ours.st_ino));
    let owner = rustix::fs::stat(format!("/proc/{pid}")).map(|stat| stat.st_uid);
    if !is_held(file)? || !same || owner != Ok(rustix::process::geteuid().as_raw()) {
        return Ok(None);
    }
    Ok(Some(Standing { pid, handle, said: said.to_owned() }))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A process that has the file as its standard input, and its lock.
    fn standing(file: &File) -> Child {
        lock(file, FlockOperation::LockExclusive).unwrap();
        Command::new("sleep")
            .arg("100")
            .stdin(file.try_clone().unwrap())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    #[test]
    fn only_who_holds_the_file_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("holder");
        let open =
            || File::options().create(true).truncate(false).read(true).write(true).open(&path).unwrap();
        assert!(find(&mut open()).unwrap().is_none());
        let theirs = open();
        let mut child = standing(&theirs);
        drop(theirs);
        assert_eq!(find(&mut open()).unwrap_err().kind(), io::ErrorKind::InvalidData);
        std::fs::write(&path, format!("{}\nmore", child.id())).unwrap();
        let found = find(&mut open()).unwrap().unwrap();
        assert_eq!((found.pid.as_raw_nonzero().get(), found.said.as_str()), (child.id() as i32, "more"));
        // Somebody else's number, who has another file in hand.
        std::fs::write(&path, format!("{}\n", std::process::id())).unwrap();
        assert!(find(&mut open()).unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(find(&mut open()).unwrap().is_none());
    }
}
