//! Our own program as a file that nobody can write through what it runs as.
//!
//! What runs in a sandbox sees the launcher's and the first process's program as `/proc/<pid>/exe`, and could
//! overwrite stave on the host's disk through that link (CVE-2019-5736). A read-only mount of its own that is attached
//! nowhere takes the right away: files that are opened by way of it cannot be opened for writing again, and since it is
//! in no mount namespace, nobody can make it writable. It costs a handful of system calls, and all processes share the
//! pages of one file. Where it cannot be had, a sealed copy in memory does the same for more.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};

use super::sys::{self, ATTR_NOSUID, ATTR_RDONLY};

/// A program that can be executed and not written.
#[derive(Debug)]
pub(super) struct Protected {
    /// To execute it by.
    pub program: OwnedFd,
    /// Of the mount that it was opened by, which is in no namespace once this is closed. To close it takes the kernel
    /// a while, for which there are better moments than this one.
    pub mount: Option<OwnedFd>,
}

/// Protects `path`.
pub(super) fn protected(path: &Path) -> io::Result<Protected> {
    read_only_mount(path).or_else(|_| Ok(Protected { program: sealed_copy(path)?, mount: None }))
}

fn read_only_mount(path: &Path) -> io::Result<Protected> {
    let handle = |path: &Path| rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let mut program = handle(path)?;
    // What a link of `/proc` leads to is on a mount of the namespace in which the program was started, and only
    // mounts of our own can be cloned.
    if let Ok(named) = std::fs::read_link(path) {
        let there = handle(&named)?;
        let (wanted, found) = (rustix::fs::fstat(&program)?, rustix::fs::fstat(&there)?);
        if (wanted.st_dev, wanted.st_ino) != (found.st_dev, found.st_ino) {
            return Err(io::ErrorKind::NotFound.into());
        }
        program = there;
    }
    let mount = sys::clone_tree(&program, c"", false)?;
    sys::mount_setattr(mount.as_fd(), ATTR_RDONLY | ATTR_NOSUID, false)?;
    // With the last handle on the mount itself goes the anonymous namespace it is in; the mount stays for as long as
    // files that were opened by way of it.
    let through = format!("/proc/self/fd/{}", mount.as_raw_fd());
    let program = rustix::fs::open(through, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    Ok(Protected { program, mount: Some(mount) })
}

fn sealed_copy(path: &Path) -> io::Result<OwnedFd> {
    let mut source = File::open(path)?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels before 6.3 do not know the flag that says it will be executed, and need none.
    let copy = rustix::fs::memfd_create("stave", flags | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create("stave", flags))?;
    let mut copy = File::from(copy);
    io::copy(&mut source, &mut copy)?;
    copy.flush()?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&copy, seals)?;
    Ok(copy.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// Starts `sleep` from the descriptor, and tries what an attacker would.
    fn refuses_writes(program: &OwnedFd) {
        let path = format!("/proc/self/fd/{}", program.as_raw_fd());
        let mut child = Command::new(path).arg("100").spawn().unwrap();
        let exe = format!("/proc/{}/exe", child.id());
        for flags in [OFlags::WRONLY, OFlags::RDWR, OFlags::WRONLY | OFlags::TRUNC] {
            assert!(rustix::fs::open(&*exe, flags, Mode::empty()).is_err(), "{flags:?}");
        }
        let link = rustix::fs::open(&*exe, OFlags::PATH, Mode::empty()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        // Nothing executes it any more, so it is not busy.
        let through = format!("/proc/self/fd/{}", link.as_raw_fd());
        match rustix::fs::open(&*through, OFlags::WRONLY, Mode::empty()) {
            Ok(opened) => assert!(rustix::io::write(&opened, b"#!").is_err()),
            Err(error) => assert_eq!(error, rustix::io::Errno::ROFS),
        }
        assert!(std::fs::File::options().write(true).truncate(true).open(&through).is_err());
    }

    #[test]
    fn a_copy_cannot_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("sleep");
        std::fs::copy("/bin/sleep", &program).unwrap();
        refuses_writes(&sealed_copy(&program).unwrap());
    }

    #[test]
    fn a_mount_cannot_be_written_nor_made_writable() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("sleep");
        std::fs::copy("/bin/sleep", &program).unwrap();
        // Making mounts takes privileges that the tests of an ordinary user do not have.
        let Ok(protected) = read_only_mount(&program) else {
            assert!(!rustix::process::geteuid().is_root());
            return;
        };
        refuses_writes(&protected.program);
        drop(protected.mount);
        let mount = protected.program;
        refuses_writes(&mount);
        // It is in no namespace, so even its maker cannot change it any more.
        assert!(sys::mount_setattr(mount.as_fd(), ATTR_RDONLY, false).is_err());
        assert!(
            std::fs::OpenOptions::new().write(true).open(&program).is_ok(),
            "the file itself is as it was"
        );
    }
}
