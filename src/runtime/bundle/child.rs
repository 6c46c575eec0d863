//! The launcher and the first process of a container, or of an `exec`.
//!
//! The launcher enters what a process cannot be born into, forks, and ends: the first process is the caller's from
//! then on. Until it waits for `start` it ends with the socket, that is with whoever told it what to do.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{FsWord, Gid, Mode, OFlags, Uid};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::pty::OpenptFlags;
use serde::{Deserialize, Serialize};

use super::error::BundleError;
use super::hooks;
use super::plan::{CreatePlan, JoinPlan, ProcessPlan, StdioPlan, Task};
use super::process;
use super::tree::{self, Sources};
use crate::root;
use crate::runtime::child;
use crate::runtime::seccomp;
use crate::runtime::sys::{self, Forked};
use crate::runtime::wire::{self, During, Failure, FailureKind, Parcel, slice, take};

/// `argv[0]` of the sealed copy that serves a bundle.
pub(in crate::runtime) const BUNDLE_NAME: &str = "stave-bundle";

const DEVPTS_MAGIC: FsWord = 0x1cd1;

/// From the launcher and from the first process.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Said {
    /// The user namespace is there and has no ids yet.
    Map,
    /// Comes with a handle on the first process, which waits for a word.
    Forked {
        pid: i32,
    },
    /// Everything is mounted; it is the time of hooks.
    Tree,
    /// Nothing is left to do but to wait, or to execute.
    Ready,
    Failed(Failure),
}

/// The only word from the other side: go on.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Go;

/// Serves one task and ends; standard input is the socket.
pub(in crate::runtime) fn bundle_main() -> ! {
    // Nothing owns a descriptor yet; what was leaked must not reach the container.
    let _ = sys::close_from(3, false);
    rustix::process::umask(Mode::empty());
    let _ = rustix::process::chdir("/");
    let socket = rustix::stdio::stdin();
    let code = match serve(socket) {
        Ok(()) => 0,
        Err(failure) => {
            // Nobody who could read it is a fine reason to end, too.
            let _ = wire::send(socket, &Said::Failed(failure), &[], &[]);
            1
        }
    };
    std::process::exit(code)
}

fn serve(socket: BorrowedFd<'_>) -> Result<(), Failure> {
    let Some((task, Parcel { fds, bytes })) =
        wire::receive::<Task>(socket).during(|| "reading the plan".to_owned())?
    else {
        return Ok(());
    };
    let fds: Vec<Option<OwnedFd>> = fds.into_iter().map(Some).collect();
    match task {
        Task::Create(plan) => create(socket, &plan, fds, &bytes),
        Task::Exec(plan) => join(socket, &plan, fds, &bytes),
    }
}

fn create(
    socket: BorrowedFd<'_>,
    plan: &CreatePlan,
    mut fds: Vec<Option<OwnedFd>>,
    bytes: &[u8],
) -> Result<(), Failure> {
    process::set_oom_score(&plan.process)?;
    let new = plan.namespaces.new;
    // What is bound from the host is opened with the caller's rights, not with those of root inside.
    let early = match Sources::open(plan) {
        Ok(sources) => Some(sources),
        Err(failure) if new & libc::CLONE_NEWUSER != 0 && failure.errno == libc::EPERM => None,
        Err(failure) => return Err(failure),
    };
    for (index, kind) in &plan.namespaces.joined {
        let namespace = take(&mut fds, *index)?;
        // SAFETY: the call takes a descriptor that we own, and a number.
        if unsafe { libc::setns(namespace.as_raw_fd(), *kind) } != 0 {
            return Err(io::Error::last_os_error()).during(|| "joining a namespace".to_owned());
        }
        if *kind == libc::CLONE_NEWUSER {
            become_root();
        }
    }
    let during = || "making namespaces".to_owned();
    if new & libc::CLONE_NEWUSER != 0 {
        child::unshare(libc::CLONE_NEWUSER).during(during)?;
        tell(socket, &Said::Map, &[])?;
        await_go(socket)?;
        become_root();
    }
    child::unshare(new & !(libc::CLONE_NEWUSER | libc::CLONE_NEWPID)).during(during)?;
    if !plan.namespaces.offsets.is_empty() {
        let text = plan.namespaces.offsets.join("\n");
        std::fs::write("/proc/self/timens_offsets", text)
            .during(|| "setting the clocks' offsets".to_owned())?;
    }
    let sources = match early {
        Some(sources) => sources,
        None => Sources::open(plan)?,
    };
    // SAFETY: this process never makes a thread.
    let forked = unsafe { sys::fork(new & libc::CLONE_NEWPID) };
    match forked.during(|| "making the first process".to_owned())? {
        Forked::Child => first(
            socket,
            |line, filter| prepare(line, plan, sources, &mut fds, filter),
            plan.process.seccomp.map(|range| seccomp::decode(slice(bytes, range))),
        ),
        Forked::Parent { pid, pidfd } => tell(socket, &Said::Forked { pid }, &[pidfd.as_fd()]),
    }
}

/// Ids of a user namespace that has root; in one that has none they stay as they are, and capabilities do too.
fn become_root() {
    // SAFETY: the calls take numbers.
    unsafe {
        libc::setgroups(0, std::ptr::null());
        libc::setresgid(0, 0, 0);
        libc::setresuid(0, 0, 0);
    }
}

fn tell(socket: BorrowedFd<'_>, said: &Said, fds: &[BorrowedFd<'_>]) -> Result<(), Failure> {
    wire::send(socket, said, &[], fds).during(|| "speaking to the caller".to_owned())
}

/// Whoever is gone wants no container any more.
fn await_go(socket: BorrowedFd<'_>) -> Result<(), Failure> {
    match wire::receive::<Go>(socket).during(|| "listening to the caller".to_owned())? {
        Some(_) => Ok(()),
        None => Err(Failure::new(FailureKind::Setup, "the caller is gone", 0)),
    }
}

/// What is left when everything is prepared.
struct Ready {
    program: process::Program,
    /// For programs that cannot gain privileges the filter comes last: nothing more is to be done then.
    late_filter: Option<Vec<libc::sock_filter>>,
    waiting: Option<Waiting>,
}

struct Waiting {
    start: OwnedFd,
    failure: OwnedFd,
    hooks: Vec<super::config::Hook>,
    state: hooks::HookState,
}

type Filter = Option<Vec<libc::sock_filter>>;

/// The life of the first process, which is never the launcher's code again.
fn first(
    socket: BorrowedFd<'_>,
    prepare: impl FnOnce(&mut OwnedFd, Filter) -> Result<Ready, Failure>,
    filter: Filter,
) -> Result<(), Failure> {
    // Who shares a namespace with us shall not reach what we still hold.
    // SAFETY: the call takes numbers.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0) };
    // The program's standard input takes the socket's place.
    let mut line = rustix::io::fcntl_dupfd_cloexec(socket, 3).during(|| "keeping the socket".to_owned())?;
    let prepared = await_go(line.as_fd()).and_then(|()| prepare(&mut line, filter));
    let failure = match prepared {
        Ok(Ready { program, late_filter, waiting: None }) => go(&program, late_filter.as_deref()),
        Ok(Ready { program, late_filter, waiting: Some(waiting) }) => {
            // Whatever comes now is for `start` to read; the caller of `create` is content.
            drop(line);
            let failure =
                wait(&waiting).map_or_else(|failure| failure, |()| go(&program, late_filter.as_deref()));
            if let Ok(text) = serde_json::to_vec(&failure) {
                let _ = rustix::io::write(&waiting.failure, &text);
            }
            end()
        }
        Err(failure) => failure,
    };
    let _ = wire::send(line.as_fd(), &Said::Failed(failure), &[], &[]);
    end()
}

fn end() -> ! {
    // SAFETY: it ends the process at once, without running what the launcher had registered.
    unsafe { libc::_exit(1) }
}

fn go(program: &process::Program, filter: Option<&[libc::sock_filter]>) -> Failure {
    if let Some(filter) = filter
        && let Err(failure) =
            sys::install_filter(filter).during(|| "installing the system call filter".to_owned())
    {
        return failure;
    }
    child::program::execute(&program.args, &program.env)
}

/// Waits for `start`, and runs the hooks of that moment.
fn wait(waiting: &Waiting) -> Result<(), Failure> {
    let mut word = [0];
    let mut start = File::from(waiting.start.try_clone().during(|| "waiting for `start`".to_owned())?);
    start.read_exact(&mut word).during(|| "waiting for `start`".to_owned())?;
    if waiting.hooks.is_empty() {
        return Ok(());
    }
    let pid = std::process::id() as i32;
    hooks::run(&waiting.hooks, &waiting.state.with("created", pid)).map_err(hook_failure)
}

fn hook_failure(error: BundleError) -> Failure {
    Failure::new(FailureKind::Setup, error.to_string(), 0)
}

/// From a bare process in new namespaces to one that has nothing left to do but to wait.
fn prepare(
    line: &mut OwnedFd,
    plan: &CreatePlan,
    sources: Sources,
    fds: &mut [Option<OwnedFd>],
    filter: Filter,
) -> Result<Ready, Failure> {
    rustix::process::setsid().during(|| "starting a session".to_owned())?;
    if !plan.hostname.is_empty() {
        nix::unistd::sethostname(&plan.hostname).during(|| "setting the host name".to_owned())?;
    }
    if !plan.domainname.is_empty() {
        sys::set_domain_name(&plan.domainname).during(|| "setting the domain name".to_owned())?;
    }
    if plan.namespaces.new & libc::CLONE_NEWNET != 0 {
        child::loopback_up().during(|| "bringing up the loopback device".to_owned())?;
    }
    tree::set_sysctls(&plan.sysctls)?;
    let tree = tree::build(plan, sources)?;
    let stdio = stdio(&plan.process, tree.root(), fds, plan.own_dev)?;
    if plan.runtime_hooks {
        tell(line.as_fd(), &Said::Tree, &[])?;
        await_go(line.as_fd())?;
    }
    if !plan.create_container.is_empty() {
        let pid = std::process::id() as i32;
        hooks::run(&plan.create_container, &plan.state.with("creating", pid)).map_err(hook_failure)?;
    }
    let mut start = take(fds, plan.start)?;
    let mut failure = take(fds, plan.failure)?;
    tree.enter(plan)?;
    let late_filter = process::become_program(&plan.process, stdio, filter)?;
    let program = process::Program::find(&plan.process)?;
    process::place_preserved(&plan.process.preserved, fds, [line, &mut start, &mut failure])?;
    tell(line.as_fd(), &Said::Ready, &[])?;
    let hooks = plan.start_container.clone();
    let waiting = Waiting { start, failure, hooks, state: plan.state.clone() };
    Ok(Ready { program, late_filter, waiting: Some(waiting) })
}

fn join(
    socket: BorrowedFd<'_>,
    plan: &JoinPlan,
    mut fds: Vec<Option<OwnedFd>>,
    bytes: &[u8],
) -> Result<(), Failure> {
    process::set_oom_score(&plan.process)?;
    let target = take(&mut fds, plan.target)?;
    // From here on processes of the container could trace us.
    // SAFETY: the call takes numbers.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0) };
    // SAFETY: the call takes a descriptor that we own, and a number.
    if unsafe { libc::setns(target.as_raw_fd(), plan.namespaces) } != 0 {
        return Err(io::Error::last_os_error()).during(|| "joining the container's namespaces".to_owned());
    }
    drop(target);
    if plan.namespaces & libc::CLONE_NEWUSER != 0 {
        become_root();
    }
    // SAFETY: this process never makes a thread.
    let forked = unsafe { sys::fork(0) };
    match forked.during(|| "making the process".to_owned())? {
        Forked::Child => first(
            socket,
            |line, filter| prepare_join(line, plan, &mut fds, filter),
            plan.process.seccomp.map(|range| seccomp::decode(slice(bytes, range))),
        ),
        Forked::Parent { pid, pidfd } => tell(socket, &Said::Forked { pid }, &[pidfd.as_fd()]),
    }
}

fn prepare_join(
    line: &mut OwnedFd,
    plan: &JoinPlan,
    fds: &mut [Option<OwnedFd>],
    filter: Filter,
) -> Result<Ready, Failure> {
    rustix::process::setsid().during(|| "starting a session".to_owned())?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open("/", flags, Mode::empty()).during(|| "opening `/`".to_owned())?;
    let stdio = stdio(&plan.process, &root, fds, false)?;
    drop(root);
    let late_filter = process::become_program(&plan.process, stdio, filter)?;
    let program = process::Program::find(&plan.process)?;
    process::place_preserved(&plan.process.preserved, fds, [line])?;
    tell(line.as_fd(), &Said::Ready, &[])?;
    Ok(Ready { program, late_filter, waiting: None })
}

/// Standard input, output and error, and whether they are a terminal.
pub(super) struct Streams {
    pub fds: [OwnedFd; 3],
    pub terminal: bool,
}

fn stdio(
    plan: &ProcessPlan,
    root: &OwnedFd,
    fds: &mut [Option<OwnedFd>],
    console_device: bool,
) -> Result<Streams, Failure> {
    match plan.stdio {
        StdioPlan::Fds([stdin, stdout, stderr]) => {
            let fds = [take(fds, stdin)?, take(fds, stdout)?, take(fds, stderr)?];
            Ok(Streams { fds, terminal: false })
        }
        StdioPlan::Terminal { console, rows, columns } => {
            let console = take(fds, console)?;
            let during = || "making the terminal".to_owned();
            let slave = terminal(root, &console, plan.uid, (rows, columns)).during(during)?;
            if console_device {
                bind_console(root, &slave).during(during)?;
            }
            let copy = || slave.try_clone().during(during);
            Ok(Streams { fds: [copy()?, copy()?, copy()?], terminal: true })
        }
    }
}

/// A terminal of the container's `/dev/pts`, whose outer end goes to `console`. The inner end is had from the outer
/// one and not by its name, which somebody could have replaced (CVE-2025-52565).
fn terminal(root: &OwnedFd, console: &OwnedFd, uid: u32, (rows, columns): (u16, u16)) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let master = root::open(root, "/dev/pts/ptmx", flags, Mode::empty())
        .or_else(|_| root::open(root, "/dev/ptmx", flags, Mode::empty()))?;
    if rustix::fs::fstatfs(&master)?.f_type != DEVPTS_MAGIC {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "`/dev/pts/ptmx` of the container is no terminal",
        ));
    }
    rustix::pty::unlockpt(&master)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    if (rows, columns) != (0, 0) {
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&slave, size)?;
    }
    let _ = rustix::fs::fchown(&slave, Some(Uid::from_raw(uid)), None::<Gid>);
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [master.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    // The bytes are its name, for whoever shows it: `runc` sends the same.
    let name = [io::IoSlice::new(b"/dev/ptmx")];
    rustix::net::sendmsg(console, &name, &mut control, SendFlags::NOSIGNAL)?;
    Ok(slave)
}

/// Shows the terminal as `/dev/console`. A link there would be followed by nobody.
fn bind_console(root: &OwnedFd, slave: &OwnedFd) -> io::Result<()> {
    let dev = root::open_dir(root, "/dev")?;
    let flags = OFlags::CREATE | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    drop(rustix::fs::openat(&dev, "console", flags, Mode::from_raw_mode(0o600))?);
    let point = root::open_no_links(&dev, "console", OFlags::PATH, Mode::empty())?;
    sys::attach(sys::clone_tree(slave, c"", false)?, point)
}
