//! A process that joins a sandbox: `exec`, and what asks a container for its health.
//!
//! Three processes of ours, so that none of them can be seen from inside while it holds something of the host:
//!
//! ```text
//! launcher   stays on the host; puts the new process into the cgroup, waits for it
//!   |  fork
//! scout      lets go of everything of the host, enters the namespaces, forks and ends
//!   |  clone(CLONE_PARENT): the launcher's child, born in the sandbox's process namespace
//! program    waits until it is in its cgroup; ids, capabilities, filter, exec
//! ```
//!
//! The program's memory is closed to other processes until it is executed, and its file is the sealed copy
//! (CVE-2019-5736).

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags, Uid};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Signal;
use rustix::pty::OpenptFlags;
use serde::{Deserialize, Serialize};

use super::{init, membership, program};
use crate::root;
use crate::runtime::plan::{JoinPlan, Stdio};
use crate::runtime::seccomp;
use crate::runtime::sys::{self, Forked};
use crate::runtime::wire::{self, During, Failure, FailureKind, Message, Parcel, take};

/// What the caller says before it hangs up and the process goes on.
pub(in crate::runtime) const LET_GO: &[u8] = b"go on";

const DEVPTS_MAGIC: rustix::fs::FsWord = 0x1cd1;

/// What the scout tells the launcher.
#[derive(Debug, Serialize, Deserialize)]
enum Report {
    /// With it come a handle on the program and, if there is one, the terminal.
    Born(i32),
    Failed(Failure),
}

/// From the plan to the last message.
pub(super) fn run(socket: BorrowedFd<'_>, plan: &JoinPlan, parcel: Parcel) -> Result<Message, Failure> {
    let Parcel { fds, bytes } = parcel;
    let mut fds: Vec<Option<OwnedFd>> = fds.into_iter().map(Some).collect();
    let target = take(&mut fds, plan.target)?;
    let stdio = match &plan.stdio {
        Stdio::Fds([stdin, stdout, stderr]) => {
            Some([take(&mut fds, *stdin)?, take(&mut fds, *stdout)?, take(&mut fds, *stderr)?])
        }
        Stdio::Terminal { .. } | Stdio::Pipes { .. } => None,
    };
    drop(fds);
    let filter = plan.seccomp.map(|range| seccomp::decode(wire::slice(&bytes, range)));
    sys::hide_memory().during(|| "hiding memory".to_owned())?;
    let process = membership::Seen::of(&target)?;
    let entrances = process.entrances()?;
    let namespaces = process.other_namespaces()?;
    let pipe = || pipe_with(PipeFlags::CLOEXEC).during(|| "making a pipe".to_owned());
    let ((status, their_status), (their_go, go)) = (pipe()?, pipe()?);
    let (ours, theirs) = UnixStream::pair().during(|| "making a socket".to_owned())?;
    // SAFETY: this process never makes a thread.
    let scout = match unsafe { sys::fork(0) }.during(|| "making a process".to_owned())? {
        Forked::Child => {
            // Nothing of the host goes along but what the program shall have.
            drop((ours, status, go, entrances, process));
            // Standard input is the caller's socket, standard output the null device.
            // SAFETY: nothing of this process owns or uses the socket from here on.
            unsafe { libc::dup2(1, 0) };
            let scout = Scout { plan, target, stdio, namespaces, status: their_status, go: their_go };
            scout.run(theirs, filter.as_deref())
        }
        Forked::Parent { pid, .. } => pid,
    };
    drop((theirs, their_status, their_go, stdio, target));
    let report = wire::receive::<Report>(ours.as_fd()).during(|| "listening to the scout".to_owned());
    reap(scout);
    let (pid, mut handles) = match report? {
        Some((Report::Born(pid), parcel)) => (pid, parcel.fds.into_iter()),
        Some((Report::Failed(failure), _)) => return Err(failure),
        None => return Err(Failure::new(FailureKind::Setup, "the scout died", 0)),
    };
    let pidfd = handles.next().ok_or_else(|| Failure::new(FailureKind::Setup, "no process handle", 0))?;
    let program = Program { socket, pid, pidfd, terminal: handles.next(), detached: plan.detached };
    let admitted = membership::admit(&entrances, pid)
        .and_then(|()| membership::set_oom_score(&process, pid, plan.process.oom_score_adj));
    drop((entrances, process));
    if let Err(failure) = admitted {
        program.kill();
        reap(pid);
        return Err(failure);
    }
    let _ = rustix::io::write(&go, b"x");
    drop(go);
    program.wait(File::from(status))
}

struct Scout<'a> {
    plan: &'a JoinPlan,
    target: OwnedFd,
    stdio: Option<[OwnedFd; 3]>,
    namespaces: libc::c_int,
    status: OwnedFd,
    go: OwnedFd,
}

impl Scout<'_> {
    fn run(self, launcher: UnixStream, filter: Option<&[libc::sock_filter]>) -> ! {
        if let Err(failure) = self.go_in(&launcher, filter) {
            let _ = wire::send(launcher.as_fd(), &Report::Failed(failure), &[], &[]);
        }
        // SAFETY: it ends the process at once, without running what the launcher had registered.
        unsafe { libc::_exit(0) }
    }

    fn go_in(self, launcher: &UnixStream, filter: Option<&[libc::sock_filter]>) -> Result<(), Failure> {
        let Self { plan, target, stdio, namespaces, status, go } = self;
        sys::setns(target.as_fd(), namespaces).during(|| "entering the container".to_owned())?;
        drop(target);
        // The root is the sandbox's since the mount namespace is; what was the working directory is not.
        rustix::process::chdir("/").during(|| "entering the container's root".to_owned())?;
        let (stdio, master) = match (stdio, &plan.stdio) {
            (Some(stdio), _) => (stdio, None),
            (None, Stdio::Terminal { rows, columns }) => {
                let during = || "making a terminal in the container's `/dev/pts`".to_owned();
                let (master, slave) = terminal(*rows, *columns, plan.process.uid).during(during)?;
                let copy = || slave.try_clone().during(during);
                ([copy()?, copy()?, copy()?], Some(master))
            }
            (None, Stdio::Fds(_) | Stdio::Pipes { .. }) => {
                return Err(Failure::new(FailureKind::Setup, "no standard streams", libc::EBADF));
            }
        };
        // SAFETY: this process never makes a thread.
        match unsafe { sys::fork(libc::CLONE_PARENT) }
            .during(|| "making a process in the container".to_owned())?
        {
            Forked::Child => {
                drop(master);
                become_program(plan, stdio, filter, status, go, launcher)
            }
            Forked::Parent { pid, pidfd } => {
                let fds: Vec<_> =
                    [Some(&pidfd), master.as_ref()].into_iter().flatten().map(AsFd::as_fd).collect();
                wire::send(launcher.as_fd(), &Report::Born(pid), &[], &fds)
                    .during(|| "telling the launcher".to_owned())
            }
        }
    }
}

/// The program's end of it: it goes on only when the launcher has put it into its cgroup.
fn become_program(
    plan: &JoinPlan,
    stdio: [OwnedFd; 3],
    filter: Option<&[libc::sock_filter]>,
    status: OwnedFd,
    go: OwnedFd,
    launcher: &UnixStream,
) -> ! {
    // The socket is the launcher's and the scout's alone.
    // SAFETY: this process executes or ends, so nothing uses or closes that descriptor again.
    unsafe { libc::close(launcher.as_raw_fd()) };
    let exit = || {
        // SAFETY: as in the scout.
        unsafe { libc::_exit(1) }
    };
    let mut status = File::from(status);
    if File::from(go).read(&mut [0]).ok() != Some(1) {
        exit();
    }
    let terminal = matches!(plan.stdio, Stdio::Terminal { .. });
    let failure = match init::become_user(&plan.process, &stdio, terminal, filter, !plan.detached) {
        Ok(init::Ready { args, env, .. }) => {
            if status.write_all(b"x").is_err() {
                exit();
            }
            program::execute(&args, &env)
        }
        Err(failure) => failure,
    };
    if let Ok(text) = serde_json::to_vec(&failure) {
        let _ = status.write_all(&text);
    }
    exit()
}

/// A terminal of the container's devpts. Whoever is root inside could have put something else in the way, so what is
/// opened is looked at (CVE-2025-52565).
fn terminal(rows: u16, columns: u16, uid: u32) -> io::Result<(OwnedFd, OwnedFd)> {
    let slash = root::open_ambient_dir("/")?;
    let point = root::open_no_links(&slash, "dev/pts/ptmx", OFlags::PATH, Mode::empty())?;
    let there = rustix::fs::fstatfs(&point)?.f_type == DEVPTS_MAGIC;
    if !there || rustix::fs::fstat(&point)?.st_rdev != rustix::fs::makedev(5, 2) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is another file system"));
    }
    // By its name again, in the directory's handle: a handle on a path alone cannot be opened anew without `/proc`.
    let folder = root::open_no_links(&slash, "dev/pts", OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
    if rustix::fs::fstatfs(&folder)?.f_type != DEVPTS_MAGIC {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is another file system"));
    }
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let master = rustix::fs::openat(&folder, "ptmx", flags, Mode::empty())?;
    rustix::pty::unlockpt(&master)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&slave, size)?;
    let _ = rustix::fs::fchown(&slave, Some(Uid::from_raw(uid)), None);
    Ok((master, slave))
}

struct Program<'a> {
    socket: BorrowedFd<'a>,
    pid: i32,
    pidfd: OwnedFd,
    terminal: Option<OwnedFd>,
    detached: bool,
}

impl Program<'_> {
    /// Tells the caller when the program runs, and waits for its end. When the caller is gone it is killed, unless it
    /// was to go on; the container goes on in any case.
    fn wait(mut self, mut status: File) -> Result<Message, Failure> {
        let mut said = Vec::new();
        // The end of the stream is the exec, or a death. All that is written comes at once.
        status.read_to_end(&mut said).during(|| "listening to the process".to_owned())?;
        if said != b"x" {
            let code = reap(self.pid);
            let text = said.strip_prefix(b"x").unwrap_or(&said);
            return Err(serde_json::from_slice(text).unwrap_or_else(|_| {
                Failure::new(FailureKind::Setup, format!("the process died (wait status {code})"), 0)
            }));
        }
        let fds: Vec<_> =
            [Some(&self.pidfd), self.terminal.as_ref()].into_iter().flatten().map(AsFd::as_fd).collect();
        let started = Message::Started { pid: self.pid, unmet: Vec::new() };
        let _ = wire::send(self.socket, &started, &[], &fds);
        let mut caller_is_there = true;
        loop {
            let mut polled = vec![PollFd::new(&self.pidfd, PollFlags::IN)];
            if caller_is_there {
                polled.push(PollFd::from_borrowed_fd(self.socket, PollFlags::IN));
            } else if let Some(terminal) = &self.terminal {
                polled.push(PollFd::new(terminal, PollFlags::IN));
            }
            match rustix::event::poll(&mut polled, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    self.kill();
                    reap(self.pid);
                    return Err(error).during(|| "waiting for the process".to_owned());
                }
            }
            let ready: Vec<bool> = polled.iter().map(|polled| !polled.revents().is_empty()).collect();
            if ready[0] {
                return Ok(Message::Exited { status: reap(self.pid), left: None });
            }
            if ready.get(1) != Some(&true) {
                continue;
            }
            if caller_is_there {
                self.detached |= self.was_let_go();
                caller_is_there = false;
                if !self.detached {
                    self.kill();
                }
                continue;
            }
            // Nobody reads the terminal any more, and nobody shall wait for that.
            let mut discarded = [0; 4096];
            if self.terminal.as_ref().is_some_and(|fd| rustix::io::read(fd, &mut discarded).is_err()) {
                self.terminal = None;
            }
        }
    }

    /// Whether the caller said that the process shall go on, before it hung up.
    fn was_let_go(&self) -> bool {
        let mut word = [0; LET_GO.len()];
        let read = rustix::net::recv(self.socket, &mut word, rustix::net::RecvFlags::DONTWAIT);
        read.is_ok_and(|(_, count)| word[..count] == *LET_GO)
    }

    fn kill(&self) {
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }
}

/// The wait status.
fn reap(pid: i32) -> i32 {
    let mut status = 0;
    // SAFETY: the status is a number of ours.
    while unsafe { libc::waitpid(pid, &raw mut status, 0) } < 0
        && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
    {}
    status
}
