//! The sandbox's network namespace, and who goes into it.
//!
//! Root's launcher visits it, for what must be made inside (`/sys` shows the namespace of whoever mounts it), and goes
//! back. An ordinary user's cannot: the way back leads into a namespace that is not the user's. There a scout goes in
//! its place, a fork of the launcher that hands out what was made and ends, and the first process joins by itself.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::thread::LinkNameSpaceType;
use serde::{Deserialize, Serialize};

use super::init;
use super::tree::new_mount;
use crate::runtime::network::user::{Program, UserNetwork};
use crate::runtime::plan::{NetworkPlan, Plan};
use crate::runtime::sys::{ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID};
use crate::runtime::wire::{self, During, Failure, FailureKind, take};

/// How long a program has to connect a network.
const PATIENCE: Duration = Duration::from_secs(20);
/// As much as is kept of what such a program says.
const SAID: u64 = 8 << 10;

/// Where the sandbox's network is, as seen from the launcher.
#[derive(Default)]
pub(super) struct Network {
    /// The launcher is in it, and this is the way back.
    host: Option<OwnedFd>,
    /// The launcher is not in it, the first process goes there.
    apart: Option<OwnedFd>,
    /// A `/sys` that was mounted inside.
    pub sys: Option<OwnedFd>,
    /// What connects it, for as long as the sandbox lives.
    _connection: Option<Connection>,
}

impl Network {
    /// Makes one of the sandbox's own, where the launcher can visit it.
    pub(super) fn ahead() -> Result<Option<Self>, Failure> {
        let host = own().during(|| "opening the network namespace".to_owned())?;
        if join(&host).is_err() {
            return Ok(None);
        }
        make_or_join(None)?;
        Ok(Some(Self { host: Some(host), ..Self::default() }))
    }

    /// Makes or joins what the plan says.
    pub(super) fn enter(plan: &Plan, fds: &mut [Option<OwnedFd>]) -> Result<Self, Failure> {
        let namespace = match plan.network {
            NetworkPlan::Host => return Ok(Self::default()),
            NetworkPlan::New | NetworkPlan::User => None,
            NetworkPlan::Join(index) => Some(take(fds, index)?),
        };
        let host = own().during(|| "opening the network namespace".to_owned())?;
        // Joining what one is in changes nothing, and takes the right to come back to it.
        if plan.network != NetworkPlan::User && join(&host).is_ok() {
            make_or_join(namespace.as_ref())?;
            return Ok(Self { host: Some(host), ..Self::default() });
        }
        let scout = Scout::send(namespace.as_ref())?;
        let connection = plan
            .user_network
            .as_ref()
            .filter(|_| plan.network == NetworkPlan::User)
            .map(|network| Connection::new(network, scout.pid))
            .transpose()?;
        let (apart, sys) = scout.recall();
        Ok(Self { host: None, apart: Some(apart), sys, _connection: connection })
    }

    /// Takes the first process there, if it is not there by its birth.
    pub(super) fn join_apart(&self) -> Result<(), Failure> {
        self.apart.as_ref().map_or(Ok(()), join).during(joining)
    }

    /// Takes the launcher back to the host's.
    pub(super) fn leave(&self) -> Result<(), Failure> {
        let back = self.host.as_ref().map_or(Ok(()), join);
        back.during(|| "leaving the sandbox's network".to_owned())
    }
}

fn joining() -> String {
    "joining the network".to_owned()
}

fn own() -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::open("/proc/self/ns/net", flags, Mode::empty())?)
}

fn join(namespace: &OwnedFd) -> io::Result<()> {
    Ok(rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?)
}

fn make_or_join(namespace: Option<&OwnedFd>) -> Result<(), Failure> {
    match namespace {
        Some(namespace) => join(namespace).during(joining),
        None => {
            init::unshare(libc::CLONE_NEWNET).during(|| "making a network namespace".to_owned())?;
            init::loopback_up().during(|| "bringing up the loopback device".to_owned())
        }
    }
}

/// Makes a network namespace, or takes the one that is given, and has it connected by a program, if by any. What each of
/// the programs said comes beside it if none can do it.
pub(in crate::runtime) fn connected(
    namespace: Option<&OwnedFd>,
    network: Option<&UserNetwork>,
) -> Result<(OwnedFd, Option<Result<Connection, String>>), Failure> {
    let scout = Scout::send(namespace)?;
    let connection = network.map(|network| Connection::first(network, scout.pid));
    Ok((scout.recall().0, connection))
}

/// What the scout says, with the namespace and perhaps `/sys` beside it.
#[derive(Serialize, Deserialize)]
struct Report(Result<(), Failure>);

/// A fork of the launcher in the sandbox's network, until it is recalled.
struct Scout {
    pid: i32,
    socket: UnixStream,
    namespace: OwnedFd,
    sys: Option<OwnedFd>,
}

impl Scout {
    fn send(namespace: Option<&OwnedFd>) -> Result<Self, Failure> {
        let failed = || "visiting the sandbox's network".to_owned();
        let (socket, theirs) = UnixStream::pair().during(failed)?;
        // SAFETY: nothing is locked by another thread in the copy: the launcher has none, and the keeper's sleeps in
        // the kernel.
        let pid = unsafe { libc::fork() };
        if pid < 0 {
            return Err(io::Error::last_os_error()).during(failed);
        }
        if pid == 0 {
            drop(socket);
            scout(namespace, theirs);
        }
        drop(theirs);
        let report = wire::receive::<Report>(socket.as_fd());
        let (report, parcel) = match report {
            Ok(Some(received)) => received,
            other => {
                drop(socket);
                reap(pid);
                let error = other.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into());
                return Err(error).during(failed);
            }
        };
        if let Err(failure) = report.0 {
            drop(socket);
            reap(pid);
            return Err(failure);
        }
        let mut fds = parcel.fds.into_iter();
        let Some(namespace) = fds.next() else {
            drop(socket);
            reap(pid);
            return Err(Failure::new(FailureKind::Setup, failed(), libc::EBADF));
        };
        Ok(Self { pid, socket, namespace, sys: fds.next() })
    }

    fn recall(self) -> (OwnedFd, Option<OwnedFd>) {
        drop(self.socket);
        reap(self.pid);
        (self.namespace, self.sys)
    }
}

fn scout(namespace: Option<&OwnedFd>, mut socket: UnixStream) -> ! {
    let mut found = Vec::new();
    let report = make_or_join(namespace).and_then(|()| {
        found.push(own().during(|| "opening the network namespace".to_owned())?);
        // A network of somebody else's is not shown; then the launcher takes the host's.
        found.extend(new_mount("sysfs", &[], ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC));
        // The kernel shows the namespaces of a process to those with as many rights, and the program that connects
        // this one drops most of its own before it looks.
        let none = rustix::thread::CapabilitySets {
            effective: rustix::thread::CapabilitySet::empty(),
            permitted: rustix::thread::CapabilitySet::empty(),
            inheritable: rustix::thread::CapabilitySet::empty(),
        };
        rustix::thread::set_capabilities(None, none).during(|| "dropping capabilities".to_owned())
    });
    let fds: Vec<BorrowedFd<'_>> = found.iter().map(AsFd::as_fd).collect();
    if wire::send(socket.as_fd(), &Report(report), &[], &fds).is_ok() {
        // Until the launcher is done, or dead.
        let _ = socket.read(&mut [0]);
    }
    // SAFETY: it ends the process at once, without running what the launcher had registered.
    unsafe { libc::_exit(0) }
}

fn reap(pid: i32) {
    // SAFETY: the status of our own child, which nobody asks for.
    while unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) } < 0
        && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
    {}
}

/// The program that connects the network. Dropped, it ends; the kernel ends it with the thread that started it.
pub(in crate::runtime) struct Connection(Child);

impl Connection {
    /// Starts one for the namespace that `pid` is in, and waits until it says that all is ready.
    fn new(network: &UserNetwork, pid: i32) -> Result<Self, Failure> {
        Self::first(network, pid)
            .map_err(|why| Failure::new(FailureKind::Setup, format!("connecting the network: {why}"), 0))
    }

    /// As [`Connection::new`], with what each of the programs said if none can do it.
    fn first(network: &UserNetwork, pid: i32) -> Result<Self, String> {
        let mut failures = Vec::new();
        for program in &network.programs {
            if !network.forwards.is_empty() && !program.forwards() {
                failures.push(format!("{} publishes no ports", program.name()));
                continue;
            }
            match Self::start(program, network, pid) {
                Ok(connection) => return Ok(connection),
                Err(why) => failures.push(format!("{}: {why}", program.name())),
            }
        }
        if failures.is_empty() {
            failures.push("there is neither pasta nor slirp4netns".to_owned());
        }
        Err(failures.join("; "))
    }

    /// Waits until it has ended, by whatever.
    pub(in crate::runtime) fn wait(&mut self) {
        let _ = self.0.wait();
    }

    fn start(program: &Program, network: &UserNetwork, pid: i32) -> Result<Self, String> {
        let text = |error: io::Error| error.to_string();
        let (ready, theirs) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|error| text(error.into()))?;
        let said = scratch().map_err(text)?;
        let namespace = format!("/proc/{pid}/ns/net");
        let mut command = Command::new(program.path());
        command
            .args(program.arguments(&namespace, &network.forwards))
            .env_clear()
            .stdin(Stdio::null())
            .stdout(theirs)
            .stderr(said.try_clone().map_err(text)?);
        let parent = rustix::process::getpid();
        // SAFETY: what runs between fork and exec makes system calls only.
        unsafe {
            command.pre_exec(move || {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                    return Err(io::Error::last_os_error());
                }
                // It may have died before it could be a signal.
                match rustix::process::getppid() {
                    Some(ours) if ours == parent => Ok(()),
                    _ => Err(io::ErrorKind::BrokenPipe.into()),
                }
            });
        }
        let child = command.spawn().map_err(text)?;
        // The command holds the other end until it goes.
        drop(command);
        let mut connection = Self(child);
        match wait_for(&ready) {
            Ok(true) => Ok(connection),
            Ok(false) => {
                let _ = connection.0.kill();
                let status = connection.0.wait().map_err(text)?;
                Err(last_words(said).unwrap_or_else(|| format!("it ended ({status})")))
            }
            Err(error) => Err(text(error)),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A file in memory that cannot grow: a program may complain for as long as it lives.
fn scratch() -> io::Result<File> {
    let memory = rustix::fs::memfd_create(c"said", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&memory, SAID)?;
    rustix::fs::fcntl_add_seals(&memory, SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(memory.into())
}

/// Whether something was said before the end came.
fn wait_for(ready: &OwnedFd) -> io::Result<bool> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let mut polled = [PollFd::new(ready, PollFlags::IN)];
        match rustix::event::poll(&mut polled, Some(&timeout)) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::TimedOut, "it did not say that it is ready")),
            Ok(_) => return Ok(rustix::io::read(ready, &mut [0; 64])? > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The last line that says something about the network.
fn last_words(said: File) -> Option<String> {
    let mut text = vec![0; SAID as usize];
    let length = rustix::io::pread(&said, &mut text, 0).ok()?;
    let text = String::from_utf8_lossy(&text[..length]).replace('\0', "");
    let telling =
        |line: &&str| !line.is_empty() && !line.contains("syslog") && !line.starts_with("Don't run as root");
    text.lines().map(str::trim).rfind(telling).map(|line| line.chars().take(300).collect())
}
