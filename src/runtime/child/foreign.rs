//! The monitor of a container that another OCI runtime runs.
//!
//! ```text
//! monitor    the same loop as for containers of our own; never executes the runtime itself
//!   |  socket: a handle on the container, its terminal, its end
//! guard      first process of a namespace that everything else is in, killed with the monitor; reaps
//!   |  RUNTIME create, start, delete --force
//! container  its parent is the guard once the runtime has ended
//! ```
//!
//! A runtime ties its container to nobody. The guard's namespace does: it ends with the monitor, and all processes in
//! it with that. The bundle is in memory, in a mount namespace of the guard's, and so is the runtime's own state.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use serde::{Deserialize, Serialize};

use super::tree::new_mount;
use crate::root;
use crate::runtime::bundle::{ForeignPlan, Source};
use crate::runtime::monitor::{Monitor, Output, Probing, Program};
use crate::runtime::network::Serving;
use crate::runtime::plan::Stdio;
use crate::runtime::sys::{self, ATTR_NODEV, ATTR_NOSUID, Forked};
use crate::runtime::wire::{self, During, Failure, FailureKind, Message, Parcel, slice, take};

/// What the runtime finds its helpers by; it gets nothing else of the environment.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// From the guard.
#[derive(Debug, Serialize, Deserialize)]
enum Said {
    /// With a handle on the container's first process, and its terminal if it has one.
    Runs,
    Ended(i32),
    Failed(Failure),
}

/// Serves the container to its end.
pub(super) fn run(socket: BorrowedFd<'_>, plan: &ForeignPlan, parcel: Parcel) -> Result<Message, Failure> {
    let Parcel { fds, bytes } = parcel;
    let mut fds: Vec<Option<OwnedFd>> = fds.into_iter().map(Some).collect();
    let host = super::Ahead::nothing()?.host;
    let probe = Probing { process: &plan.process, seccomp: plan.seccomp, host: &host };
    let mut monitor = Monitor::new(&plan.life, probe, &mut fds, &bytes)?;
    monitor.network = plan.services.as_ref().map(|services| Serving::new(services, &mut fds)).transpose()?;
    let pipe =
        || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).during(|| "making a pipe".to_owned());
    let mut ours = None;
    let theirs = match &plan.stdio {
        Stdio::Terminal { .. } => None,
        Stdio::Fds(indices) => {
            Some([take(&mut fds, indices[0])?, take(&mut fds, indices[1])?, take(&mut fds, indices[2])?])
        }
        Stdio::Pipes { stdin } => {
            let (their_stdin, stdin) = match stdin {
                Some(index) => (take(&mut fds, *index)?, None),
                None => pipe().map(|(reader, writer)| (reader, Some(writer)))?,
            };
            let (stdout, their_stdout) = pipe()?;
            let (stderr, their_stderr) = pipe()?;
            ours = Some((stdin, stdout, stderr));
            Some([their_stdin, their_stdout, their_stderr])
        }
    };
    let (line, guards) = UnixStream::pair().during(|| "making a socket".to_owned())?;
    // SAFETY: this process never makes a thread.
    let forked = unsafe { sys::fork(libc::CLONE_NEWPID) };
    let (guard, pidfd) = match forked.during(|| "making the guard".to_owned())? {
        Forked::Child => {
            drop((line, ours, monitor));
            guard(plan, fds, &bytes, theirs, &guards)
        }
        Forked::Parent { pid, pidfd } => (pid, pidfd),
    };
    drop((guards, theirs, fds));
    let ran = attend(socket, &mut monitor, &line, ours, &plan.unmet);
    if ran.is_err() {
        let _ = rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL);
    }
    let mut unused = 0;
    // SAFETY: the status is a number of ours.
    unsafe { libc::waitpid(guard, &raw mut unused, 0) };
    monitor.end(ran?, None)
}

type Pipes = Option<(Option<OwnedFd>, OwnedFd, OwnedFd)>;

fn attend(
    socket: BorrowedFd<'_>,
    monitor: &mut Monitor,
    line: &UnixStream,
    pipes: Pipes,
    unmet: &[String],
) -> Result<i32, Failure> {
    let mut handed = match hear(line)? {
        (Said::Runs, parcel) => parcel.fds.into_iter(),
        (Said::Ended(_) | Said::Failed(_), _) => return Err(died()),
    };
    let pidfd = handed.next().ok_or_else(died)?;
    let during = || "preparing the monitor".to_owned();
    let (stdin, output) = match (handed.next(), pipes) {
        (Some(terminal), _) => (Some(terminal.try_clone().during(during)?), Output::Terminal(terminal)),
        (None, Some((stdin, stdout, stderr))) => (stdin, Output::Pipes { stdout, stderr }),
        (None, None) => return Err(died()),
    };
    let pid = number_of(&pidfd).during(during)?;
    monitor.started(Program { pid, pidfd, stdin, output }, socket, unmet.to_vec()).during(during)?;
    monitor.watch();
    match hear(line)? {
        (Said::Ended(status), _) => Ok(status),
        (Said::Runs | Said::Failed(_), _) => Err(died()),
    }
}

fn died() -> Failure {
    Failure::new(FailureKind::Setup, "the guard of the container's runtime ended unexpectedly", 0)
}

fn hear(line: &UnixStream) -> Result<(Said, Parcel), Failure> {
    match wire::receive::<Said>(line.as_fd()).during(|| "listening to the guard".to_owned())? {
        Some((Said::Failed(failure), _)) => Err(failure),
        Some(said) => Ok(said),
        None => Err(died()),
    }
}

/// The number of a process as we count, by a handle that another namespace opened.
fn number_of(pidfd: &OwnedFd) -> io::Result<i32> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pid:"));
    line.and_then(|text| text.trim().parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the process has no number"))
}

fn guard(
    plan: &ForeignPlan,
    mut fds: Vec<Option<OwnedFd>>,
    bytes: &[u8],
    streams: Option<[OwnedFd; 3]>,
    line: &UnixStream,
) -> ! {
    // SAFETY: the call takes numbers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    let ended = serve(plan, &mut fds, bytes, streams, line);
    let said = ended.map_or_else(Said::Failed, Said::Ended);
    let _ = wire::send(line.as_fd(), &said, &[], &[]);
    // SAFETY: it ends the process at once, without running what the monitor had registered.
    unsafe { libc::_exit(0) }
}

fn serve(
    plan: &ForeignPlan,
    fds: &mut [Option<OwnedFd>],
    bytes: &[u8],
    streams: Option<[OwnedFd; 3]>,
    line: &UnixStream,
) -> Result<i32, Failure> {
    lay_out(plan, fds, bytes)?;
    let console = match plan.stdio {
        Stdio::Terminal { .. } => {
            Some(UnixListener::bind("console").during(|| "making the console's socket".to_owned())?)
        }
        Stdio::Fds(_) | Stdio::Pipes { .. } => None,
    };
    let mut arguments = vec!["create", "--bundle", ".", "--pid-file", "pid"];
    if console.is_some() {
        arguments.extend(["--console-socket", "console"]);
    }
    call(plan, &arguments, streams)?;
    let during = || "finding the container's first process".to_owned();
    let pid: i32 = std::fs::read_to_string("pid")
        .during(during)?
        .trim()
        .parse()
        .map_err(|_| Failure::new(FailureKind::Setup, during(), libc::EINVAL))?;
    let started = follow(plan, line, pid, console.as_ref());
    // Whatever happened, nothing of it stays.
    let deleted = call(plan, &["delete", "--force"], None);
    let status = started?;
    deleted?;
    Ok(status)
}

fn follow(
    plan: &ForeignPlan,
    line: &UnixStream,
    pid: i32,
    console: Option<&UnixListener>,
) -> Result<i32, Failure> {
    let during = || "finding the container's first process".to_owned();
    let number = rustix::process::Pid::from_raw(pid)
        .ok_or_else(|| Failure::new(FailureKind::Setup, during(), libc::EINVAL))?;
    let pidfd = rustix::process::pidfd_open(number, rustix::process::PidfdFlags::empty()).during(during)?;
    let terminal = match console {
        Some(listener) => {
            let (socket, _) = listener.accept().during(|| "getting the terminal".to_owned())?;
            Some(receive(&socket).during(|| "getting the terminal".to_owned())?)
        }
        None => None,
    };
    call(plan, &["start"], None)?;
    let handles: Vec<BorrowedFd<'_>> =
        [Some(&pidfd), terminal.as_ref()].into_iter().flatten().map(AsFd::as_fd).collect();
    wire::send(line.as_fd(), &Said::Runs, &[], &handles).during(|| "speaking to the monitor".to_owned())?;
    drop(terminal);
    let mut status = 0;
    loop {
        // SAFETY: the status is a number of ours. Whatever else is orphaned here is reaped too.
        let ended = unsafe { libc::waitpid(-1, &raw mut status, 0) };
        if ended == pid {
            return Ok(status);
        }
        let interrupted = io::Error::last_os_error().kind() == io::ErrorKind::Interrupted;
        if ended < 0 && !interrupted {
            return Err(Failure::new(FailureKind::Setup, "the container is not ours to wait for", 0));
        }
    }
}

fn receive(socket: &UnixStream) -> io::Result<OwnedFd> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut name = [0; 4096];
    let mut buffer = [io::IoSliceMut::new(&mut name)];
    rustix::net::recvmsg(socket, &mut buffer, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut fds) = message
            && let Some(fd) = fds.next()
        {
            return Ok(fd);
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "the runtime sent no terminal"))
}

/// Makes the bundle, and stands in it. The runtime sees processes as this namespace numbers them.
fn lay_out(plan: &ForeignPlan, fds: &mut [Option<OwnedFd>], bytes: &[u8]) -> Result<(), Failure> {
    let during = || "laying out the bundle".to_owned();
    super::unshare(libc::CLONE_NEWNS).during(during)?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).during(during)?;
    let proc = new_mount("proc", &[], 0).during(during)?;
    sys::attach(&proc, root::open_ambient_dir("/proc").during(during)?).during(during)?;
    let memory = new_mount("tmpfs", &[("mode", "700")], ATTR_NOSUID | ATTR_NODEV).during(during)?;
    let point = root::open_ambient_dir(&plan.folder)
        .during(|| format!("opening the folder `{}`", plan.folder.display()))?;
    sys::attach(&memory, &point).during(during)?;
    rustix::process::fchdir(&memory).during(during)?;
    let directory = |name: &str| rustix::fs::mkdirat(CWD, name, Mode::from_raw_mode(0o700)).during(during);
    for name in ["rootfs", "mounts", "files", "state"] {
        directory(name)?;
    }
    let put = |mount: &OwnedFd, path: &str| -> Result<(), Failure> {
        let stat = rustix::fs::fstat(mount).during(during)?;
        if FileType::from_raw_mode(stat.st_mode).is_dir() {
            directory(path)?;
        } else {
            File::create_new(path).during(during)?;
        }
        let point = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).during(during)?;
        sys::attach(mount, &point).during(during)
    };
    let rootfs = take(fds, plan.rootfs)?;
    let point = rustix::fs::open("rootfs", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).during(during)?;
    sys::attach(&rootfs, &point).during(during)?;
    let mut bundle = plan.bundle.clone();
    let folder =
        plan.folder.to_str().ok_or_else(|| Failure::new(FailureKind::Setup, during(), libc::EILSEQ))?;
    for (place, source) in &plan.sources {
        let name = match source {
            Source::Handle(index) => {
                let name = format!("mounts/{place}");
                put(&take(fds, *index)?, &name)?;
                name
            }
            Source::File { contents, mode } => {
                let name = format!("files/{place}");
                let mut file =
                    File::options().write(true).create_new(true).mode(*mode).open(&name).during(during)?;
                file.write_all(slice(bytes, *contents)).during(during)?;
                name
            }
        };
        if let Some(mount) = bundle.mounts.get_mut(*place) {
            mount.source = format!("{folder}/{name}");
        }
    }
    for (place, index) in &plan.namespaces {
        // A namespace is bound to a path, as `ip netns` does it.
        let name = format!("files/namespace-{place}");
        File::create_new(&name).during(during)?;
        let handle = take(fds, *index)?;
        let path = CString::new(format!("/proc/self/fd/{}", handle.as_raw_fd())).during(during)?;
        rustix::mount::mount_bind(path.as_c_str(), name.as_str()).during(during)?;
        if let Some(namespace) = bundle.linux.namespaces.get_mut(*place) {
            namespace.path = format!("{folder}/{name}");
        }
    }
    let text = serde_json::to_vec(&bundle).during(during)?;
    std::fs::write("config.json", text).during(during)
}

/// Runs one command of the runtime. What it says goes wrong is in its log, as all of them have it.
fn call(plan: &ForeignPlan, arguments: &[&str], streams: Option<[OwnedFd; 3]>) -> Result<(), Failure> {
    let mut words = plan.program.iter();
    let program = words.next().ok_or_else(|| Failure::new(FailureKind::Setup, "no runtime is given", 0))?;
    let _ = std::fs::remove_file("log");
    let (name, value) = PATH.split_once('=').expect("it is a variable");
    let mut command = Command::new(program);
    command.args(words).args(["--root", "state", "--log", "log", "--log-format", "json"]).args(arguments);
    command.arg(&plan.id).env_clear().env(name, value);
    match streams {
        Some([stdin, stdout, stderr]) => command.stdin(stdin).stdout(stdout).stderr(stderr),
        None => {
            let null = || std::process::Stdio::null();
            command.stdin(null()).stdout(null()).stderr(null())
        }
    };
    let verb = arguments.first().copied().unwrap_or_default();
    let status = command.status().during(|| format!("running `{program} {verb}`"))?;
    if status.success() {
        return Ok(());
    }
    let said = log().unwrap_or_else(|| status.to_string());
    let lower = said.to_ascii_lowercase();
    // As podman tells them apart.
    let kind = if verb != "create" {
        FailureKind::Setup
    } else if lower.contains("executable file not found") || lower.contains("no such file or directory") {
        FailureKind::NotFound
    } else if lower.contains("permission denied") {
        FailureKind::NotExecutable
    } else {
        FailureKind::Setup
    };
    Err(Failure::new(kind, format!("`{program} {verb}` failed: {said}"), 0))
}

/// The last error of the runtime's log.
fn log() -> Option<String> {
    let mut text = String::new();
    File::open("log").ok()?.take(1 << 20).read_to_string(&mut text).ok()?;
    let line = |line: &str| -> Option<String> {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        (line["level"] == "error").then(|| line["msg"].as_str().map(str::to_owned))?
    };
    text.lines().rev().find_map(line)
}
