//! The launcher: a process with one thread between the builder and the sandbox.
//!
//! It makes the namespaces and the mounts, starts the first process, and stays: when the builder
//! dies, the end of the socket says so and the sandbox is killed, so nothing outlives a build; when
//! the program ends, what was made for it is taken away. It prints nothing; what goes wrong travels
//! back over the socket.

pub(super) mod cgroup;
pub(super) mod device_filter;
mod foreign;
mod init;
pub(super) mod join;
pub(super) mod limits;
mod membership;
mod namespaces;
pub(super) mod network;
pub(super) mod point;
pub(super) mod program;
mod reaper;
mod tree;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::process::Signal;
use rustix::pty::OpenptFlags;
use rustix::thread::LinkNameSpaceType;

use super::monitor::{Monitor, Output, Probing, Program};
use super::network::Serving;
use super::plan::{Order, Plan, Stdio, Whose};
use super::seccomp;
use super::sys::{self, Forked};
use super::wire::{self, During, Failure, FailureKind, Message, Parcel, take};
use cgroup::{Begun, Group};
pub(super) use cgroup::{
    DEVICES, Freezer, sweep as sweep_cgroups, sweep_all_foreign as sweep_foreign_cgroups,
};
use init::Init;
pub(super) use init::{drop_bounding, enter, loopback_up, unshare};
use namespaces::Ahead;
use network::Network;
pub(super) use point::{Points, Shape};
use tree::{Ready, Tree};

const OVERLAY_MAGIC: rustix::fs::FsWord = 0x794c_7630;

/// Serves one sandbox and ends. `main` calls it before anything else when [`super::is_child`] says
/// so; standard input is then the builder's socket.
pub fn child_main() -> ! {
    let is = |name: &str| std::env::args_os().next().is_some_and(|called| called == name);
    if is(super::bundle::BUNDLE_NAME) {
        super::bundle::bundle_main();
    }
    if is(super::network::KEEPER_NAME) {
        super::network::keep();
    }
    // Executed by a descriptor, it would be listed under the number of that.
    let _ = rustix::thread::set_name(c"stave-sandbox");
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
    let mut ahead = None;
    let ended = loop {
        let Some((order, parcel)) = wire::receive::<Order>(socket)? else { return Ok(()) };
        break match order {
            // What went wrong is told to whoever waits for an answer.
            Order::Ahead(wanted) => {
                ahead = Some(Ahead::make(wanted));
                continue;
            }
            Order::Run(plan) => {
                ahead.transpose().and_then(|ahead| Sandbox::run(socket, &plan, parcel, ahead))
            }
            Order::Join(plan) => join::run(socket, &plan, parcel),
            Order::Foreign(plan) => foreign::run(socket, &plan, parcel),
            Order::Copy => {
                copy(socket, parcel)?;
                continue;
            }
        };
    };
    let message = match ended {
        Ok(message) => message,
        Err(failure) => Message::Failed(failure),
    };
    wire::send(socket, &message, &[], &[])
}

/// Makes another launcher, which is the builder's child as we are, and whose socket is the one that came along. Returns
/// in both: where one waits for its next order, the other does for its first.
fn copy(socket: BorrowedFd<'_>, parcel: wire::Parcel) -> io::Result<()> {
    let theirs = parcel.fds.into_iter().next().ok_or(io::ErrorKind::InvalidData)?;
    // SAFETY: this process never makes a thread.
    match unsafe { sys::fork(libc::CLONE_PARENT) }? {
        Forked::Child => {
            // Standard input is the socket of either.
            rustix::stdio::dup2_stdin(theirs)?;
            let _ = rustix::process::setsid();
            Ok(())
        }
        Forked::Parent { pidfd, .. } => {
            drop(theirs);
            wire::send(socket, &Message::Copied, &[], &[pidfd.as_fd()])
        }
    }
}

/// What has to be taken away in the end, however it comes.
struct Sandbox {
    host: OwnedFd,
    network: Network,
    serving: Option<Serving>,
    points: Points,
    group: Option<Group>,
}

impl Sandbox {
    /// From the plan to the last message.
    fn run(
        socket: BorrowedFd<'_>,
        plan: &Plan,
        parcel: Parcel,
        ahead: Option<Ahead>,
    ) -> Result<Message, Failure> {
        let Parcel { fds, bytes } = parcel;
        let mut fds: Vec<Option<OwnedFd>> = fds.into_iter().map(Some).collect();
        let mut ahead = ahead.map_or_else(Ahead::nothing, Ok)?;
        let probing = Probing { process: &plan.process, seccomp: plan.seccomp, host: &ahead.host };
        let mut monitor =
            plan.life.as_ref().map(|life| Monitor::new(life, probing, &mut fds, &bytes)).transpose()?;
        // On the host's network still, and before the program starts, whose first question may be a name.
        let serving = plan.services.as_ref().map(|services| Serving::new(services, &mut fds)).transpose()?;
        let network = ahead.network.take().map_or_else(|| Network::enter(plan, &mut fds), Ok)?;
        ahead.enter(plan, &mut fds)?;
        let mut points = Points::new(take(&mut fds, plan.rootfs)?, plan.read_only);
        if plan.life.as_ref().is_some_and(|life| life.passing) {
            leave_on_overlay(&mut points).during(|| "looking at the root file system".to_owned())?;
        }
        let made = (ahead.group.take(), ahead.mounts.take());
        let mut sandbox = Self { host: ahead.host, network, serving, points, group: None };
        let ran = sandbox.start_and_wait(socket, plan, made, (&mut fds, &bytes), monitor.as_mut());
        if plan.namespaces.pid != Whose::Own
            && let Some(group) = &sandbox.group
        {
            group.kill();
        }
        if let (Some(monitor), Some(group)) = (&mut monitor, &sandbox.group) {
            monitor.ran_out_of_memory(group.oom_kills() > 0);
        }
        // Descriptors that are left are the caller's; the mounts among them end with us.
        drop(fds);
        let left = sandbox.clean_up();
        match (ran, monitor) {
            (Ok(status), None) => Ok(Message::Exited { status, left }),
            (Ok(status), Some(monitor)) => {
                drop(sandbox);
                monitor.end(status, left)
            }
            (Err(failure), _) => Err(failure),
        }
    }

    fn start_and_wait(
        &mut self,
        socket: BorrowedFd<'_>,
        plan: &Plan,
        (group, mounts): (Option<Begun>, Option<Ready>),
        (fds, bytes): (&mut [Option<OwnedFd>], &[u8]),
        monitor: Option<&mut Monitor>,
    ) -> Result<i32, Failure> {
        // Handles on cgroups must be of this mount namespace to be mounted in it.
        self.group = match (&plan.cgroup, group) {
            (Some(plan), Some(begun)) => Some(begun.become_group(plan)?),
            (Some(plan), None) => Some(Group::create(plan)?),
            (None, _) => None,
        };
        if plan.namespaces.uts == Whose::Own {
            nix::unistd::sethostname(&plan.hostname).during(|| "setting the host name".to_owned())?;
            if let Some(name) = &plan.domainname {
                sys::set_domain_name(name).during(|| "setting the domain name".to_owned())?;
            }
        }
        let tree = tree::build(plan, &mut self.points, (self.network.sys.take(), mounts), fds, bytes)?;
        let mut pipes = None;
        let (stdio, master) = match &plan.stdio {
            Stdio::Fds([stdin, stdout, stderr]) => {
                ([take(fds, *stdin)?, take(fds, *stdout)?, take(fds, *stderr)?], None)
            }
            Stdio::Pipes { stdin } => {
                let pipe = || {
                    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
                        .during(|| "making a pipe".to_owned())
                };
                let (theirs, stdin) = match stdin {
                    Some(index) => (take(fds, *index)?, None),
                    None => pipe().map(|(reader, writer)| (reader, Some(writer)))?,
                };
                let (stdout, their_stdout) = pipe()?;
                let (stderr, their_stderr) = pipe()?;
                pipes = Some((stdin, stdout, stderr));
                ([theirs, their_stdout, their_stderr], None)
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
        let cgroup_namespace = match plan.namespaces.cgroup {
            Some(Whose::Join(index)) => Some(take(fds, index)?),
            Some(Whose::Own | Whose::Host) | None => None,
        };
        if plan.namespaces.pid != Whose::Own {
            // Others than our own processes will see the first one before it is the program.
            sys::hide_memory().during(|| "hiding memory".to_owned())?;
        }
        // SAFETY: this process never makes a thread.
        let forked = unsafe { sys::fork(namespaces::of_first_process(plan)) };
        match forked.during(|| "making a process namespace".to_owned())? {
            Forked::Child => {
                drop((status, pipes));
                let terminal = master.is_some();
                drop(master);
                let group = self.group.as_ref().filter(|group| !group.is_empty()).zip(entrances);
                let root = self.points.root();
                let (tree, network) = (&tree, &self.network);
                let init =
                    Init { plan, root, tree, stdio, terminal, filter, group, network, cgroup_namespace };
                init::run(init, their_status)
            }
            Forked::Parent { pid, pidfd } => {
                drop((their_status, stdio, entrances, cgroup_namespace));
                self.network.leave()?;
                let unmet = self.group.as_ref().map(|group| group.unmet.clone()).unwrap_or_default();
                let serving = self.serving.take();
                let mut first = First { socket, pid, pidfd, master, serving, unmet, tree: Some(tree) };
                match monitor {
                    None => first.wait(File::from(status)),
                    Some(monitor) => {
                        monitor.network = first.serving.take();
                        monitor.freezer = self.group.as_ref().and_then(Group::freezer);
                        first.live(File::from(status), pipes, monitor)
                    }
                }
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

/// An overlay that ends with its container need not be tidied. Another root's device could be a volume's as well.
fn leave_on_overlay(points: &mut Points) -> io::Result<()> {
    let root = points.root().try_clone()?;
    if rustix::fs::fstatfs(&root)?.f_type == OVERLAY_MAGIC { points.leave_on(root) } else { Ok(()) }
}

/// The first process of the sandbox.
struct First<'a> {
    socket: BorrowedFd<'a>,
    pid: i32,
    pidfd: OwnedFd,
    master: Option<OwnedFd>,
    /// What is done for its network.
    serving: Option<Serving>,
    unmet: Vec<String>,
    /// Handles on mounts. Whoever closes the last one on a mount that is attached nowhere waits for the kernel, and the
    /// program shall not: its copies go as it is executed.
    tree: Option<Tree>,
}

/// Our ends of a program's standard input, output and error.
type Pipes = (Option<OwnedFd>, OwnedFd, OwnedFd);

impl First<'_> {
    /// Waits for the end of a container, whose monitor we are once its program runs.
    fn live(mut self, mut status: File, pipes: Option<Pipes>, monitor: &mut Monitor) -> Result<i32, Failure> {
        let mut said = Vec::new();
        // It ends with the program's exec, or with the process that did not get that far.
        let read = status.read_to_end(&mut said);
        if read.is_err() || said != b"x" {
            self.kill();
            let code = self.reap();
            return Err(failure_of(&said, code));
        }
        let tree = self.tree.take();
        let failed = || "preparing the monitor".to_owned();
        let duplicate = |fd: &OwnedFd| fd.try_clone().during(failed);
        let (stdin, output) = match (self.master.take(), pipes) {
            (Some(master), _) => (Some(duplicate(&master)?), Output::Terminal(master)),
            (None, Some((stdin, stdout, stderr))) => (stdin, Output::Pipes { stdout, stderr }),
            (None, None) => {
                self.kill();
                self.reap();
                return Err(Failure::new(FailureKind::Setup, "the plan of a monitor has no pipes", 0));
            }
        };
        let program = Program { pid: self.pid, pidfd: duplicate(&self.pidfd)?, stdin, output };
        let started = monitor.started(program, self.socket, std::mem::take(&mut self.unmet)).during(failed);
        if let Err(failure) = started {
            self.kill();
            self.reap();
            return Err(failure);
        }
        drop(tree);
        monitor.watch();
        Ok(self.reap())
    }

    /// Tells the builder when the program runs, and waits for its end. When the builder is gone the
    /// process is killed, and with it all of its namespace.
    fn wait(mut self, mut status: File) -> Result<i32, Failure> {
        let mut builder_is_there = true;
        let mut status_is_open = true;
        let mut said = Vec::new();
        loop {
            let mut polled = vec![PollFd::new(&self.pidfd, PollFlags::IN)];
            polled.extend(self.serving.as_ref().map(|serving| PollFd::new(serving, PollFlags::IN)));
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
            let asked = self.serving.as_ref().is_some_and(|serving| ready(serving.as_fd()));
            if let (true, Some(serving)) = (asked, &mut self.serving) {
                serving.ready();
            }
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
                        self.tree = None;
                    }
                    Ok(count) => said.extend_from_slice(&more[..count]),
                }
                continue;
            }
            if ended {
                let code = self.reap();
                return match said.as_slice() {
                    b"x" => Ok(code),
                    said => Err(failure_of(said, code)),
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

/// Why the first process did not become the program, from what it said before it died.
fn failure_of(said: &[u8], code: i32) -> Failure {
    let text = said.strip_prefix(b"x").unwrap_or(said);
    serde_json::from_slice(text).unwrap_or_else(|_| {
        let what = format!("the first process died (wait status {code})");
        Failure::new(FailureKind::Setup, what, 0)
    })
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
