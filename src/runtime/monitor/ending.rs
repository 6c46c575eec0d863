//! After the program's end: what clients are told, whether it is started again, and who cleans up.
//!
//! What needs the store is not done here but by the program that the monitor becomes: the command line of its plan,
//! executed from the sealed copy that the monitor itself came from. A client that does it anyway (`run --rm`) is left
//! to, for as long as it is connected, but for removing the folder: that takes longest, and nobody waits for it.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

use super::frame::{Ended, Reply};
use super::now;
use super::serve::Monitor;
use super::spec::{CommandLine, Restart};
use super::state::Status;
use crate::runtime::sys;

/// How long a client that cleans up gets for that.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a state may say that a container runs which has ended and which a client is about to remove.
const MOMENT: Duration = Duration::from_millis(20);
/// Docker's back-off: the first wait, the longest, and after which time a container counts as started well.
const FIRST_WAIT: u64 = 100;
const LONGEST_WAIT: u64 = 60_000;
const STARTED_WELL: i64 = 10_000_000_000;

impl Monitor {
    /// The program has ended with this status of `wait`, and what was made for it is gone but for what `left` names.
    /// Does not come back.
    pub(in crate::runtime) fn end(mut self, status: i32, left: Option<String>) -> ! {
        let status = ExitStatus::from_raw(status);
        self.state.exit_code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        self.state.finished_at = now();
        self.state.pid = 0;
        self.state.error = left.unwrap_or_default();
        let mut restarts = self.restarts();
        self.state.status = if restarts { Status::Restarting } else { Status::Exited };
        if restarts {
            let well = self.state.finished_at.saturating_sub(self.state.started_at) >= STARTED_WELL;
            self.state.back_off = back_off(if well { 0 } else { self.state.back_off });
        }
        // Nobody asks how one ended that a client removes in a moment.
        let mut said = !(self.plan.passing && self.cleans(restarts) && self.a_client_cleans());
        if said {
            self.save();
        }
        self.event_of_end();
        self.tell_of_end();
        if restarts {
            let until = Instant::now() + Duration::from_millis(self.state.back_off);
            while !self.stopping && Instant::now() < until {
                self.turn(Some(until));
            }
            if self.stopping {
                restarts = false;
                self.state.status = Status::Exited;
                self.save();
                self.tell_of_end();
            }
        }
        let cleans = self.cleans(restarts);
        let begun = Instant::now();
        while cleans && self.a_client_cleans() && begun.elapsed() < PATIENCE {
            self.turn(Some(begun + if said { PATIENCE } else { MOMENT }));
            if !said && begun.elapsed() >= MOMENT {
                said = true;
                self.save();
            }
        }
        let comes_after = restarts || cleans && !self.cleaned;
        if comes_after && !said {
            self.save();
        }
        let sending = self.peers.iter().any(|peer| peer.has_queue());
        if comes_after && !sending {
            self.become_what_comes_after(restarts);
            std::process::exit(0)
        }
        if comes_after {
            // SAFETY: this process has one thread; the child only executes or ends.
            if unsafe { libc::fork() } == 0 {
                self.become_what_comes_after(restarts);
                // SAFETY: it ends the process at once: the connections are the parent's, and go on.
                unsafe { libc::_exit(1) }
            }
        }
        if self.cleaned {
            // If this fails, or comes to no end, a sweep takes it.
            let _ = self.remove_folder();
        }
        // What is left is for those who read slowly, or are stopped themselves. Nobody else waits for them.
        self.lock = None;
        while self.peers.iter().any(|peer| peer.has_queue()) {
            self.turn(None);
        }
        std::process::exit(0)
    }

    /// Whether there is anything to do after the end besides another start.
    fn cleans(&self, restarts: bool) -> bool {
        self.plan.cleans && !restarts && !self.kept
    }

    fn a_client_cleans(&self) -> bool {
        self.peers.iter().any(|peer| peer.cleans)
    }

    fn remove_folder(&self) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // Wherever it was set aside: a folder of ours, whose parent nobody else can exchange.
        let above = rustix::fs::openat(&self.folder, "..", flags, Mode::empty())?;
        crate::root::remove_all(&above, OsStr::new(&self.plan.id))
    }

    fn restarts(&self) -> bool {
        if self.stopping {
            return false;
        }
        match self.plan.restart {
            Restart::No => false,
            Restart::Always => true,
            Restart::OnFailure(most) => {
                self.state.exit_code != 0 && most.is_none_or(|most| self.state.restart_count < most)
            }
        }
    }

    /// How the program ended, for clients.
    pub(super) fn ended(&self) -> Ended {
        Ended {
            code: self.state.exit_code,
            restarts: self.state.status == Status::Restarting,
            kept: self.kept,
            left: Some(self.state.error.clone()).filter(|left| !left.is_empty()),
        }
    }

    fn tell_of_end(&mut self) {
        let ended = Reply::Ended(self.ended());
        for peer in &mut self.peers {
            if peer.attached.take().is_some() || std::mem::take(&mut peer.waits) {
                peer.tell(&ended);
            }
        }
    }

    /// Executes the command line for what comes after. If that fails, the next command finds a container that has
    /// ended and was not cleaned up, and does it.
    fn become_what_comes_after(&self, restarts: bool) {
        let Some(lock) = &self.lock else { return };
        let CommandLine { mut arguments, environment } = self.plan.after.clone();
        arguments.push(format!("--lock={}", lock.as_raw_fd()));
        if restarts {
            arguments.push("--restart".to_owned());
        }
        let strings = |texts: Vec<String>| texts.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>();
        let variables = environment.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        let (Ok(arguments), Ok(variables)) = (strings(arguments), strings(variables)) else { return };
        let flags = rustix::io::FdFlags::empty();
        if rustix::io::fcntl_setfd(lock, flags).is_err() {
            return;
        }
        // Standard input is still the starter's socket.
        if let Ok(null) = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
            let _ = rustix::stdio::dup2_stdin(null);
        }
        sys::reset_signals();
        let list = |strings: &[CString]| -> Vec<*const libc::c_char> {
            strings.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
        };
        let (argv, envp) = (list(&arguments), list(&variables));
        // SAFETY: both lists end with a null, what they point at lives as long as the call, and so does the empty
        // path that goes with the handle.
        unsafe {
            libc::syscall(
                libc::SYS_execveat,
                self.exe.as_raw_fd(),
                c"".as_ptr(),
                argv.as_ptr(),
                envp.as_ptr(),
                libc::AT_EMPTY_PATH,
            )
        };
    }
}

/// Milliseconds to wait after those that were waited before.
fn back_off(before: u64) -> u64 {
    match before {
        0 => FIRST_WAIT,
        before => before.saturating_mul(2).min(LONGEST_WAIT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double() {
        let waits: Vec<u64> =
            std::iter::successors(Some(0), |before| Some(back_off(*before))).take(13).collect();
        assert_eq!(waits, [0, 100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200, 60000, 60000]);
    }
}
