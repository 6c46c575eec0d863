//! What a process of ours hands on to everything that outlives it.
//!
//! Containers of an ordinary user are of use to later commands only while their user namespace can be found, and
//! the process that stands for it goes when nobody holds this descriptor any more. It is a property of the process,
//! as the namespace is, so it is set once for all of its sandboxes.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use rustix::fs::Mode;

use super::sys;

static KEPT: OnceLock<OwnedFd> = OnceLock::new();

/// Has every launcher started from now on hold a duplicate of this descriptor for as long as it lives. Programs in
/// sandboxes never see it. The first call counts.
pub fn keep(fd: OwnedFd) {
    let _ = KEPT.set(fd);
}

/// A duplicate for a launcher, if there is anything to keep.
pub(super) fn kept() -> io::Result<Option<OwnedFd>> {
    KEPT.get().map(OwnedFd::try_clone).transpose()
}

/// Makes this process, which has just been executed, one that nobody's terminal, folder or pipe hangs on: it leaves
/// the session and the working directory, and closes all but the standard descriptors.
pub fn detach() {
    let _ = sys::close_from(3, false);
    let _ = rustix::process::setsid();
    rustix::process::umask(Mode::from_raw_mode(0o077));
    let _ = rustix::process::chdir("/");
}
