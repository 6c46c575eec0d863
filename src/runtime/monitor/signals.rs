//! Signals that the monitor itself gets: from who shuts the machine or a session down, or from a person.
//!
//! Dying of one would kill the container at once and without a word. So what asks a process to end (SIGTERM, SIGINT,
//! SIGQUIT) is passed on as `stop` is, the container's own signal first and SIGKILL when its time is up, and the
//! monitor ends with the container. That is nobody's wish for this container: `unless-stopped` holds after it. SIGHUP
//! means nothing to who has no terminal, and is left alone.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

/// Signals that are read here instead of doing what they do.
const TAKEN: [libc::c_int; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGHUP];

/// The signals that came and were not looked at yet.
pub(super) struct Signals(File);

impl Signals {
    /// From here on signals wait to be read. What was forked before is not concerned; who forks later, or executes
    /// something, resets them first.
    pub(super) fn take() -> io::Result<Self> {
        let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset initialises the set, which the other calls then read; the monitor has one thread. The
        // new descriptor is ours alone.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in TAKEN {
                libc::sigaddset(set.as_mut_ptr(), signal);
            }
            if libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
            match libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
                -1 => Err(io::Error::last_os_error()),
                fd => Ok(Self(File::from(OwnedFd::from_raw_fd(fd)))),
            }
        }
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Whether one came that asks for the end.
    pub(super) fn ask_for_end(&mut self) -> bool {
        let mut asked = false;
        let mut one = [0; size_of::<libc::signalfd_siginfo>()];
        while self.0.read_exact(&mut one).is_ok() {
            // Its first field is the number.
            let number = u32::from_ne_bytes([one[0], one[1], one[2], one[3]]);
            asked |= i32::try_from(number) != Ok(libc::SIGHUP);
        }
        asked
    }
}
