//! The launcher: a process with one thread between the builder and the sandbox.
//!
//! It makes the namespaces and the mounts, starts the first process, and stays: when the builder
//! dies, the end of the socket says so and the sandbox is killed, so nothing outlives a build; when
//! the program ends, what was made for it is taken away. It prints nothing; what goes wrong travels
//! back over the socket.

mod cgroup;
mod init;
mod limits;
mod point;
mod program;
mod tree;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::process::Signal;
use rustix::pty::OpenptFlags;
use rustix::thread::LinkNameSpaceType;

use super::plan::{Plan, Stdio};
use super::sys::{self, Forked};
use super::wire::{self, During, Failure, FailureKind, Message, Parcel, take};
use super::{seccomp, sys::fork_into_pid_namespace};
use cgroup::Group;
pub(super) use cgroup::sweep as sweep_cgroups;
use init::Init;
use point::Points;
use tree::Tree;

/// Serves one sandbox and ends. `main` calls it before anything else when [`super::is_child`] says
/// so; standard input is then the builder's socket.
pub fn child_main() -> ! {
    // A descriptor that the builder leaked must not reach the sandbox. Nothing owns one yet.
    let _ = sys::close_from(3, false);
    // Interrupts typed at the builder's terminal are for the builder; it will hang up if need be.
    let _ = rustix::process::setsid();
    rustix::process::umask(Mode::empty());
    let _ = rustix::process::chdir("/");
    let socket = rustix::stdio::stdin();
    let code = match serve(socket) {
        Ok(()) => 0,
        Err(_) => 1,
    };
    std::process::exit(code)
}

fn serve(socket: BorrowedFd<'_>) -> io::Result<()> {
    let Some((plan, parcel)) = wire::receive::<Plan>(socket)? else { return Ok(()) };
    let message = match Sandbox::run(socket, &plan, parcel) {
        Ok(message) => message,
        Err(failure) => Message::Failed(failure),
    };
    wire::send(socket, &message, &[], &[])
}

/// What has to be taken away in the end, however it comes.
struct Sandbox {
    host: OwnedFd,
    points: Points,
    group: Option<Group>,
}

impl Sandbox {
    /// From the plan to the last message.
    fn run(socket: BorrowedFd<'_>, plan: &Plan, parcel: Parcel) -> Result<Message, Failure> {
        let Parcel { fds, bytes } = parcel;
        let mut fds: Vec<Option<OwnedFd>> = fds.into_iter().map(Some).collect();
        let host = rustix::fs::open("/proc/self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .during(|| "opening the mount namespace".to_owned())?;
        let mut namespaces = libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
        if plan.new_network {
            namespaces |= libc::CLONE_NEWNET;
        }
        init::unshare(namespaces).during(|| "making namespaces".to_owned())?;
        let points = Points::new(take(&mut fds, plan.rootfs)?, plan.read_only);
        let mut sandbox = Self { host, points, group: None };
        let ran = sandbox.start_and_wait(socket, plan, &mut fds, &bytes);
        // Descriptors that are left are the caller's; the mounts among them end with us.
        drop(fds);
        let left = sandbox.clean_up();
        match ran {
            Ok(status) => Ok(Message::Exited { status, left }),
            Err(failure) => Err(failure),
        }
    }

    fn start_and_wait(
        &mut self,
        socket: BorrowedFd<'_>,
        plan: &Plan,
        fds: &mut [Option<OwnedFd>],
        bytes: &[u8],
    ) -> Result<i32, Failure> {
        // Handles on cgroups must be of this mount namespace to be mounted in it.
        self.group = plan.cgroup.as_ref().map(Group::create).transpose()?;
        nix::unistd::sethostname(&plan.hostname).during(|| "setting the host name".to_owned())?;
        if plan.new_network {
            init::loopback_up().during(|| "bringing up the loopback device".to_owned())?;
        }
        let tree = tree::build(plan, &mut self.points, fds, bytes)?;
        let (stdio, master) = match &plan.stdio {
            Stdio::Fds([stdin, stdout, stderr]) => {
                ([take(fds, *stdin)?, take(fds, *stdout)?, take(fds, *stderr)?], None)
            }
            Stdio::Terminal { rows, columns } => {
                let (master, slave) = terminal(&tree, *rows, *columns, plan.process.uid)
                    .during(|| "making the terminal".to_owned())?;
                let copy = || slave.try_clone().during(|| "making the terminal".to_owned());
                ([copy()?, copy()?, copy()?], Some(master))
            }
        };
        let filter = plan.seccomp.map(|range| seccomp::decode(wire::slice(bytes, range)));
        let entrances = self.group.as_ref().map(Group::entrances).transpose()?;
        let (status, their_status) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .during(|| "making a pipe".to_owned())?;
        // SAFETY: this process never makes a thread.
        let forked = unsafe { fork_into_pid_namespace() };
        match forked.during(|| "making a process namespace".to_owned())? {
            Forked::Child => {
                drop(status);
                let terminal = master.is_some();
                drop(master);
                let group = self.group.as_ref().filter(|group| !group.is_empty()).zip(entrances);
                let root = self.points.root();
                init::run(Init { plan, root, tree: &tree, stdio, terminal, filter, group }, their_status)
            }
            Forked::Parent { pid, pidfd } => {
                drop((their_status, stdio, tree, entrances));
                let unmet = self.group.as_ref().map(|group| group.unmet.clone()).unwrap_or_default();
                let first = First { socket, pid, pidfd, master, unmet };
                first.wait(File::from(status))
            }
        }
    }

    /// Leaves the sandbox's mount namespace, which ends with that, and removes what was made.
    fn clean_up(&mut self) -> Option<String> {
        let moved =
            rustix::thread::move_into_link_name_space(self.host.as_fd(), Some(LinkNameSpaceType::Mount));
        if let Err(error) = moved {
            return Some(format!("leaving the mount namespace: {}", io::Error::from(error)));
        }
        let stubs = self.points.clean_up();
        let group = self.group.as_ref().and_then(Group::remove);
        stubs.or(group)
    }
}

/// The first process of the sandbox.
struct First<'a> {
    socket: BorrowedFd<'a>,
    pid: i32,
    pidfd: OwnedFd,
    master: Option<OwnedFd>,
    unmet: Vec<String>,
}

impl First<'_> {
    /// Tells the builder when the program runs, and waits for its end. When the builder is gone the
    /// process is killed, and with it all of its namespace.
    fn wait(self, mut status: File) -> Result<i32, Failure> {
        let mut builder_is_there = true;
        let mut status_is_open = true;
        let mut said = Vec::new();
        loop {
            let mut polled = vec![PollFd::new(&self.pidfd, PollFlags::IN)];
            if builder_is_there {
                polled.push(PollFd::from_borrowed_fd(self.socket, PollFlags::IN));
            }
            if status_is_open {
                polled.push(PollFd::new(&status, PollFlags::IN));
            }
            match rustix::event::poll(&mut polled, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    self.kill();
                    self.reap();
                    return Err(error).during(|| "waiting for the program".to_owned());
                }
            }
            let ready = |fd: BorrowedFd<'_>| {
                use std::os::fd::AsRawFd;
                let same = |polled: &&PollFd<'_>| polled.as_fd().as_raw_fd() == fd.as_raw_fd();
                polled.iter().find(same).is_some_and(|polled| !polled.revents().is_empty())
            };
            let (ended, hung_up, spoke) =
                (ready(self.pidfd.as_fd()), ready(self.socket), ready(status.as_fd()));
            if builder_is_there && hung_up {
                // The builder sends one plan and then nothing: this is its end.
                builder_is_there = false;
                self.kill();
            }
            if status_is_open && (spoke || ended) {
                // All that is written comes at once before the end: the program's exec, or ours.
                let mut more = [0; 4096];
                match status.read(&mut more) {
                    Ok(0) | Err(_) => {
                        status_is_open = false;
                        if said == b"x" {
                            self.started();
                        }
                    }
                    Ok(count) => said.extend_from_slice(&more[..count]),
                }
                continue;
            }
            if ended {
                let code = self.reap();
                return match said.as_slice() {
                    b"x" => Ok(code),
                    said => {
                        let text = said.strip_prefix(b"x").unwrap_or(said);
                        Err(serde_json::from_slice(text).unwrap_or_else(|_| {
                            let what = format!("the first process died (wait status {code})");
                            Failure::new(FailureKind::Setup, what, 0)
                        }))
                    }
                };
            }
        }
    }

    fn started(&self) {
        let fds: Vec<_> =
            [Some(&self.pidfd), self.master.as_ref()].into_iter().flatten().map(AsFd::as_fd).collect();
        // If the builder is gone the next poll will say so.
        let started = Message::Started { pid: self.pid, unmet: self.unmet.clone() };
        let _ = wire::send(self.socket, &started, &[], &fds);
    }

    fn kill(&self) {
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// The wait status. All other processes of the namespace are gone when it is there.
    fn reap(&self) -> i32 {
        let mut status = 0;
        // SAFETY: the status is a number of ours.
        while unsafe { libc::waitpid(self.pid, &raw mut status, 0) } < 0
            && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
        {}
        status
    }
}

/// A terminal of the sandbox's own devpts, both ends, also as its `/dev/console`. The inner end is
/// had from the outer one and not by its name, which somebody could have replaced (CVE-2025-52565).
fn terminal(tree: &Tree, rows: u16, columns: u16, uid: u32) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = rustix::fs::openat(&tree.pts, "ptmx", flags, Mode::empty())?;
    rustix::pty::unlockpt(&master)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&slave, size)?;
    // Unmapped ids are reported when the process takes them.
    let _ = rustix::fs::fchown(&slave, Some(Uid::from_raw(uid)), None::<Gid>);
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDONLY | OFlags::CLOEXEC;
    let point = rustix::fs::openat(&tree.dev, "console", flags, Mode::from_raw_mode(0o600))?;
    sys::attach(sys::clone_tree(&slave, c"", false)?, point)?;
    Ok((master, slave))
}
