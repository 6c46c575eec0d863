//! Launchers that are there before they are needed.
//!
//! To execute our own program, large as it is, takes about as long as all that is made for a small sandbox. So where
//! one sandbox is going to be started, its launcher begins while we still find out what shall run in it, and makes the
//! namespaces that are known by then: a network takes the kernel more than everything else. Where many
//! are, the first launcher stays a template, which copies itself for each of them: a copy has nothing to load. Both
//! wait at their socket for an order, and end when it does.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};

use rustix::process::{WaitId, WaitIdOptions};

use super::launch::CHILD_NAME;
use super::plan::Order;
use super::spec::MadeAhead;
use super::wire::{self, Message};

/// What was begun.
#[derive(Debug, Default)]
pub(super) enum Ahead {
    #[default]
    Nothing,
    /// The launcher of the next sandbox, if it was not used yet, and what it makes meanwhile, if anything.
    One(Mutex<Option<(Launched, Option<MadeAhead>)>>),
    /// The template, if it is well.
    Many(Mutex<Option<Launched>>),
}

impl Ahead {
    /// A launcher for an order: what was begun, or a new process.
    pub(super) fn launcher(&self, program: &OwnedFd, order: &Order) -> io::Result<Launched> {
        match self {
            Self::Nothing => Launched::execute(program),
            Self::One(slot) => match slot.lock().unwrap_or_else(PoisonError::into_inner).take() {
                Some((begun, made)) if made.as_ref().is_none_or(|made| order.suits(made)) => Ok(begun),
                _ => Launched::execute(program),
            },
            Self::Many(slot) => {
                let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
                let copied = slot.as_ref().map(Launched::copy);
                match copied {
                    Some(Ok(copy)) => Ok(copy),
                    // It was killed, perhaps. What keeps a process from being copied keeps it from being executed
                    // too, and says so better then.
                    Some(Err(_)) | None => {
                        *slot = None;
                        Launched::execute(program)
                    }
                }
            }
        }
    }
}

/// A launcher process. Dropping it closes the socket, which makes it kill its sandbox and clean up, and waits for that.
#[derive(Debug)]
pub(super) struct Launched {
    handle: Handle,
    pub socket: Option<UnixStream>,
    /// Whether it goes on without us.
    pub independent: bool,
}

/// A child of ours.
#[derive(Debug)]
enum Handle {
    Executed(Child),
    /// By a handle on the process: the template made it.
    Copied(OwnedFd),
}

impl Launched {
    pub(super) fn execute(program: &OwnedFd) -> io::Result<Self> {
        let (socket, theirs) = UnixStream::pair()?;
        // No pre_exec, working directory or ids: with those the standard library would fork instead
        // of using posix_spawn, and a fork copies the page tables of everything the builder holds.
        let child = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
            .arg0(CHILD_NAME)
            .env_clear()
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { handle: Handle::Executed(child), socket: Some(socket), independent: false })
    }

    /// Has it make what is known already until its order comes.
    pub(super) fn make_ahead(&self, made: &MadeAhead) -> io::Result<()> {
        let socket = self.socket.as_ref().expect("a launcher has one as long as it is not reaped");
        wire::send(socket.as_fd(), &Order::Ahead(made.clone()), &[], &[])
    }

    /// Has a template copy itself.
    fn copy(&self) -> io::Result<Self> {
        let gone = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let template = self.socket.as_ref().ok_or_else(gone)?;
        let (socket, theirs) = UnixStream::pair()?;
        wire::send(template.as_fd(), &Order::Copy, &[], &[theirs.as_fd()])?;
        drop(theirs);
        let Some((Message::Copied, parcel)) = wire::receive::<Message>(template.as_fd())? else {
            return Err(gone());
        };
        let handle = parcel.fds.into_iter().next().ok_or_else(gone)?;
        Ok(Self { handle: Handle::Copied(handle), socket: Some(socket), independent: false })
    }

    pub(super) fn reap(&mut self) -> ExitStatus {
        self.socket = None;
        let ended = match &mut self.handle {
            Handle::Executed(child) => child.wait(),
            Handle::Copied(handle) => wait(handle),
        };
        ended.unwrap_or_else(|_| ExitStatus::from_raw(0))
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        if !self.independent {
            self.reap();
        }
    }
}

fn wait(handle: &OwnedFd) -> io::Result<ExitStatus> {
    loop {
        match rustix::process::waitid(WaitId::PidFd(handle.as_fd()), WaitIdOptions::EXITED) {
            Ok(Some(status)) => {
                let code = status.exit_status().map(|code| code << 8);
                return Ok(ExitStatus::from_raw(code.or(status.terminating_signal()).unwrap_or(0)));
            }
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::plan;
    use crate::runtime::seccomp::Filters;
    use crate::runtime::spec::{Network, Sandbox};
    use rustix::fs::{Mode, OFlags};
    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

    fn program(path: &str) -> OwnedFd {
        rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap()
    }

    fn handle(child: &Child) -> OwnedFd {
        pidfd_open(Pid::from_child(child), PidfdFlags::empty()).unwrap()
    }

    #[test]
    fn what_was_begun_is_used_once() {
        let program = program("/bin/cat");
        let filters = Filters::default();
        let made = Some(MadeAhead { ipc: true, uts: true, network: true, group: None });
        let order = |network: Network| {
            let sandbox = Sandbox { network, ..plan::tests::sandbox(&["true"]) };
            Order::Run(Box::new(plan::plan(sandbox, &filters).unwrap().0))
        };
        let begun = || Ahead::One(Mutex::new(Some((Launched::execute(&program).unwrap(), made.clone()))));
        let pid = |launched: &Launched| match &launched.handle {
            Handle::Executed(child) => child.id(),
            Handle::Copied(_) => unreachable!("nobody copied it"),
        };
        for (network, used) in [(Network::None, true), (Network::Host, false)] {
            let ahead = begun();
            let Ahead::One(slot) = &ahead else { unreachable!("it was just made") };
            let number = pid(&slot.lock().unwrap().as_ref().unwrap().0);
            let order = order(network);
            let first = ahead.launcher(&program, &order).unwrap();
            assert_eq!(pid(&first) == number, used, "who made a network cannot go back to the host's");
            assert!(slot.lock().unwrap().is_none());
            let mut another = ahead.launcher(&program, &order).unwrap();
            // Both end with their sockets.
            assert!(another.reap().success());
            drop(first);
        }
    }

    #[test]
    fn a_template_that_died_is_done_without() {
        let program = program("/bin/true");
        let mut template = Launched::execute(&program).unwrap();
        if let Handle::Executed(child) = &mut template.handle {
            child.wait().unwrap();
        }
        let ahead = Ahead::Many(Mutex::new(Some(template)));
        for _ in 0..2 {
            assert!(ahead.launcher(&program, &Order::Copy).unwrap().reap().success());
        }
    }

    #[test]
    fn a_copy_tells_how_it_ended() {
        let mut child = Command::new("/bin/sh").args(["-c", "exit 3"]).spawn().unwrap();
        assert_eq!(wait(&handle(&child)).unwrap().code(), Some(3));
        assert!(child.wait().is_err(), "it was reaped by its handle");
        let mut child = Command::new("/bin/sleep").arg("100").spawn().unwrap();
        let handle = handle(&child);
        pidfd_send_signal(&handle, Signal::KILL).unwrap();
        assert_eq!(wait(&handle).unwrap().signal(), Some(9));
        assert!(child.wait().is_err(), "it was reaped by its handle");
    }
}
