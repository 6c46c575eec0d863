//! A container at which a person looks: signals, keys and output pass, and its exit code becomes ours. One thread,
//! so that nothing but this loop gets signals.

use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use crate::failure::Failure;
use crate::terminal;

/// Signals of this process, held back from now on.
pub(super) struct Foreground {
    signals: SignalFd,
}

impl Foreground {
    /// From now on orphans of the container are ours to reap, and signals wait for [`Foreground::wait`]. Must be
    /// called before the container is made.
    pub(super) fn new() -> Result<Self, Failure> {
        let mut signals = SigSet::all();
        // Faults of our own, and what stops a person's job, stay what they are.
        for ours in [
            Signal::SIGSEGV,
            Signal::SIGBUS,
            Signal::SIGFPE,
            Signal::SIGILL,
            Signal::SIGABRT,
            Signal::SIGTSTP,
            Signal::SIGTTIN,
            Signal::SIGTTOU,
            Signal::SIGPIPE,
        ] {
            signals.remove(ours);
        }
        signals.thread_block().map_err(io::Error::from)?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&signals, flags).map_err(io::Error::from)?;
        // SAFETY: the call takes numbers.
        if unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) } != 0 {
            return Err(io::Error::last_os_error().into());
        }
        Ok(Self { signals })
    }

    /// Waits for the end of a process that is ours to reap.
    pub(super) fn wait(
        self,
        pid: i32,
        handle: &OwnedFd,
        console: Option<OwnedFd>,
    ) -> Result<ExitCode, Failure> {
        let raw = match &console {
            Some(console) => {
                resize(console);
                Some(terminal::Raw::new()?)
            }
            None => None,
        };
        let mut keys = console.is_some();
        let mut shown = console.is_some();
        loop {
            let mut polled =
                vec![PollFd::new(handle, PollFlags::IN), PollFd::new(&self.signals, PollFlags::IN)];
            if let (Some(console), true) = (&console, shown) {
                polled.push(PollFd::new(console, PollFlags::IN));
            }
            let stdin = io::stdin();
            if keys {
                polled.push(PollFd::new(&stdin, PollFlags::IN));
            }
            match rustix::event::poll(&mut polled, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            }
            let ready =
                |fd: i32| polled.iter().any(|one| one.as_fd().as_raw_fd() == fd && !one.revents().is_empty());
            let (ended, signalled) = (ready(handle.as_raw_fd()), ready(self.signals.as_raw_fd()));
            let output = console.as_ref().is_some_and(|console| shown && ready(console.as_raw_fd()));
            let typed = keys && ready(0);
            drop(polled);
            if let (Some(console), true) = (&console, output) {
                shown = pass(console, &mut io::stdout());
            }
            if let (Some(console), true) = (&console, typed) {
                keys = pass(&stdin, &mut std::fs::File::from(console.try_clone()?));
            }
            if signalled {
                self.forward(handle, console.as_ref());
            }
            // What the last process wrote is read before its end is believed.
            if ended && !output {
                drop(raw);
                return reap(pid);
            }
        }
    }

    fn forward(&self, handle: &OwnedFd, console: Option<&OwnedFd>) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            let number = signal.ssi_signo as i32;
            match (number, console) {
                (libc::SIGCHLD, _) => {}
                (libc::SIGWINCH, Some(console)) => resize(console),
                _ => {
                    // SAFETY: the call takes a descriptor that is open, a number, and no information.
                    unsafe {
                        libc::syscall(
                            libc::SYS_pidfd_send_signal,
                            handle.as_raw_fd(),
                            number,
                            std::ptr::null::<libc::siginfo_t>(),
                            0,
                        )
                    };
                }
            }
        }
    }
}

fn resize(console: &OwnedFd) {
    if io::stdin().is_terminal() || io::stdout().is_terminal() {
        let (ws_row, ws_col) = terminal::size();
        let size = rustix::termios::Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 };
        let _ = rustix::termios::tcsetwinsize(console, size);
    }
}

/// Passes on what is there; false at the end.
fn pass(from: impl AsFd, to: &mut impl Write) -> bool {
    let mut buffer = [0; 16 << 10];
    match rustix::io::read(from, &mut buffer) {
        Ok(0) => false,
        Ok(length) => to.write_all(&buffer[..length]).and_then(|()| to.flush()).is_ok(),
        Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => true,
        Err(_) => false,
    }
}

fn reap(pid: i32) -> Result<ExitCode, Failure> {
    let mut status = 0;
    loop {
        // SAFETY: the status is a number of ours.
        if unsafe { libc::waitpid(pid, &raw mut status, 0) } == pid {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(Failure::new(format!("cannot learn how the container ended: {error}")));
        }
    }
    let code = if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 128 + libc::WTERMSIG(status) };
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(255)))
}

/// The outer end of a container's terminal, as it comes over a console socket.
pub(super) fn receive_terminal(socket: &UnixStream) -> Result<OwnedFd, Failure> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut name = [0; 256];
    rustix::net::recvmsg(
        socket,
        &mut [io::IoSliceMut::new(&mut name)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )
    .map_err(io::Error::from)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut fds) = message
            && let Some(fd) = fds.next()
        {
            return Ok(fd);
        }
    }
    Err(Failure::new("the container sent no terminal"))
}
