//! `--init`: a first process of ours, which starts the program, passes signals on to it, and reaps.
//!
//! Without one the program is the first process of its namespace: signals that it does not handle do nothing, and
//! orphans that it does not know stay zombies. What runs here is our own image, executed from a sealed copy, under
//! the program's ids, capabilities and filter.

use std::io;

use crate::runtime::sys;

/// Splits in two: the one that comes back is the program to be, the other ends with it.
///
/// # Errors
/// A fork that failed.
pub(super) fn split(terminal: bool) -> io::Result<()> {
    let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigfillset initialises the set; the process has one thread. Signals wait from here on, so that none is
    // lost between the fork and the loop.
    let all = unsafe {
        libc::sigfillset(all.as_mut_ptr());
        let all = all.assume_init();
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
        all
    };
    // SAFETY: one thread, so no lock is held by another.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            if terminal {
                // A group of its own in the foreground, for Ctrl-C is sent to that. SIGTTOU is blocked still.
                // SAFETY: both calls take numbers.
                unsafe {
                    libc::setpgid(0, 0);
                    libc::tcsetpgrp(0, libc::getpid());
                }
            }
            sys::reset_signals();
            Ok(())
        }
        program => {
            // Nothing of the launcher's stays open here, nor the pipe whose end says that the program runs.
            let _ = sys::close_from(3, false);
            reap(program, &all)
        }
    }
}

/// Serves as the first process until `program` ends, and ends as it did.
fn reap(program: i32, signals: &libc::sigset_t) -> ! {
    loop {
        // SAFETY: the set is a valid one, and nothing is to be written about the signal.
        let signal = unsafe { libc::sigwaitinfo(signals, std::ptr::null_mut()) };
        match signal {
            libc::SIGCHLD => {
                let mut status = 0;
                loop {
                    // SAFETY: the status is a number of ours.
                    let ended = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
                    if ended <= 0 {
                        break;
                    }
                    if ended == program {
                        let code = match libc::WIFEXITED(status) {
                            true => libc::WEXITSTATUS(status),
                            false => 128 + libc::WTERMSIG(status),
                        };
                        // SAFETY: it ends the process at once, and with it the namespace.
                        unsafe { libc::_exit(code) }
                    }
                }
            }
            signal if signal > 0 => {
                // SAFETY: the program is our child and was not waited for yet, so the number is its own.
                unsafe { libc::kill(program, signal) };
            }
            // Interrupted.
            _ => {}
        }
    }
}
