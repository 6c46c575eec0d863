//! The builder's side: a launcher is started, told its plan, and listened to.
//!
//! The launcher is our own program, executed from a file that cannot be written through it (`executable`);
//! forking the builder itself, with its threads and its memory, would cost more than everything else together.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::Signal;

use super::ahead::{Ahead, Launched};
use super::bundle::Foreign;
use super::executable::{self, Protected};
use super::monitor::{Client, Life, LifePlan};
use super::plan::{self, Order, PlanError, plan};
use super::seccomp::Filters;
use super::spec::{Join, MadeAhead, Sandbox};
use super::sys;
use super::wire::{self, Failure, FailureKind, Message, Parcel};

const THIS_PROGRAM: &str = "/proc/self/exe";

/// `argv[0]` of the launcher.
pub(super) const CHILD_NAME: &str = "stave-sandbox";

/// The program that becomes the launcher, ready to be executed any number of times.
#[derive(Debug)]
pub struct Launcher {
    program: OwnedFd,
    filters: Filters,
    ahead: Ahead,
    chores: Mutex<Option<Chores>>,
}

/// What has time until a launcher is at work, and we would only wait.
#[derive(Debug)]
struct Chores {
    mount: Option<OwnedFd>,
}

impl Chores {
    fn done(self) {
        drop(self.mount);
        // Of launchers that were killed.
        super::child::sweep_cgroups();
    }
}

/// Why a sandbox did not come to run its program.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    #[error("cannot prepare the sandbox")]
    Plan(#[from] PlanError),
    #[error("cannot start the sandbox's launcher")]
    Launch(#[source] io::Error),
    #[error("the sandbox's launcher ended unexpectedly ({0})")]
    LauncherDied(ExitStatus),
    #[error("cannot set up the sandbox: {what}{}", errno_text(*errno))]
    Setup { what: String, errno: i32 },
    #[error("{what}{}", errno_text(*errno))]
    NotFound { what: String, errno: i32 },
    #[error("{what}{}", errno_text(*errno))]
    NotExecutable { what: String, errno: i32 },
    /// A program for an architecture that this machine does not run.
    #[error("{what}")]
    Foreign { what: String },
}

fn errno_text(errno: i32) -> String {
    if errno == 0 {
        return String::new();
    }
    let text = io::Error::from_raw_os_error(errno).to_string();
    let text = text.rsplit_once(" (os error").map_or(text.as_str(), |(text, _)| text);
    format!(": {}", text.to_lowercase())
}

impl SpawnError {
    /// The exit code that Docker's `run` gives for it: 127 for a program that is not there, 126 for
    /// one that cannot be executed, 125 for what is our own doing.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotFound { .. } => 127,
            Self::NotExecutable { .. } | Self::Foreign { .. } => 126,
            Self::Plan(_) | Self::Launch(_) | Self::LauncherDied(_) | Self::Setup { .. } => 125,
        }
    }
}

impl From<Failure> for SpawnError {
    fn from(Failure { kind, what, errno }: Failure) -> Self {
        match kind {
            FailureKind::Setup => Self::Setup { what, errno },
            FailureKind::Foreign => Self::Foreign { what },
            FailureKind::NotFound => Self::NotFound { what, errno },
            FailureKind::NotExecutable => Self::NotExecutable { what, errno },
        }
    }
}

impl Launcher {
    /// Makes launchers of the running program. With the first go the cgroups of those that were killed. It must call
    /// [`super::child_main`] first thing in its `main` when [`super::is_child`] says so.
    ///
    /// # Errors
    /// Reading the program, or memory.
    pub fn of_this_program() -> io::Result<Self> {
        Self::of_program(Path::new(THIS_PROGRAM))
    }

    /// Makes launchers of another program that does so.
    ///
    /// # Errors
    /// As [`Launcher::of_this_program`].
    pub fn of_program(path: &Path) -> io::Result<Self> {
        let Protected { program, mount } = executable::protected(path)?;
        let chores = Mutex::new(Some(Chores { mount }));
        Ok(Self { program, filters: Filters::default(), ahead: Ahead::Nothing, chores })
    }

    /// As [`Launcher::of_this_program`], for one sandbox, whose launcher is begun already and makes these namespaces. A
    /// sandbox that has others gets another launcher.
    ///
    /// # Errors
    /// As [`Launcher::of_this_program`].
    pub fn begun(made: Option<MadeAhead>) -> io::Result<Self> {
        let mut launcher = Self::of_this_program()?;
        let launched = Launched::execute(&launcher.program)?;
        made.as_ref().map_or(Ok(()), |made| launched.make_ahead(made))?;
        launcher.ahead = Ahead::One(Mutex::new(Some((launched, made))));
        Ok(launcher)
    }

    /// As [`Launcher::of_this_program`], for many sandboxes: their launchers are copies of one.
    ///
    /// # Errors
    /// As [`Launcher::of_this_program`].
    pub fn for_many() -> io::Result<Self> {
        let mut launcher = Self::of_this_program()?;
        launcher.ahead = Ahead::Many(Mutex::new(Some(Launched::execute(&launcher.program)?)));
        Ok(launcher)
    }

    /// Starts a container with a life of its own, by another runtime than ours.
    ///
    /// # Errors
    /// As [`Launcher::spawn`], and what a bundle has no word for.
    pub fn start_foreign(&self, foreign: Foreign, sandbox: Sandbox, life: Life) -> Result<Live, SpawnError> {
        super::child::sweep_foreign_cgroups();
        let attached = life.first.is_some();
        let id = life.id.clone();
        let (plan, parcel) = super::bundle::foreign_plan(foreign, id, sandbox, &self.filters, |parcel| {
            LifePlan::new(life, parcel)
        })?;
        let (mut launcher, Begun { pid, unmet, .. }) =
            self.launch(&Order::Foreign(Box::new(plan)), parcel)?;
        let socket = launcher.socket.take().filter(|_| attached);
        launcher.independent = true;
        Ok(Live { pid, unmet, client: socket.map(Client::over) })
    }

    /// Runs a sandbox. Returns once its program has been executed, or could not be.
    ///
    /// # Errors
    /// See [`SpawnError`]. Whatever had been made for the sandbox is gone again then.
    pub fn spawn(&self, sandbox: Sandbox) -> Result<Running, SpawnError> {
        let (plan, parcel) = plan(sandbox, &self.filters)?;
        self.run(&Order::Run(Box::new(plan)), parcel)
    }

    /// Runs a process in a sandbox that is there. Returns once its program has been executed, or could not be.
    ///
    /// # Errors
    /// See [`SpawnError`].
    pub fn join(&self, join: Join) -> Result<Running, SpawnError> {
        let (plan, parcel) = plan::join(join, &self.filters)?;
        self.run(&Order::Join(Box::new(plan)), parcel)
    }

    fn run(&self, order: &Order, parcel: Parcel) -> Result<Running, SpawnError> {
        let (launcher, Begun { pid, unmet, fds }) = self.launch(order, parcel)?;
        let mut fds = fds.into_iter();
        let pidfd = fds.next().ok_or_else(|| {
            SpawnError::Launch(io::Error::new(io::ErrorKind::InvalidData, "no process handle"))
        })?;
        let process = Process { pid, pidfd: Arc::new(pidfd) };
        Ok(Running { launcher, process, terminal: fds.next().map(Terminal), unmet, ended: None })
    }

    /// Starts a container, whose launcher becomes its monitor and outlives us. Returns once its program has been
    /// executed, or could not be.
    ///
    /// # Errors
    /// As [`Launcher::spawn`].
    pub fn start(&self, sandbox: Sandbox, life: Life) -> Result<Live, SpawnError> {
        let attached = life.first.is_some();
        let (mut plan, mut parcel) = plan(sandbox, &self.filters)?;
        plan.life = Some(LifePlan::new(life, &mut parcel));
        let (mut launcher, Begun { pid, unmet, .. }) = self.launch(&Order::Run(Box::new(plan)), parcel)?;
        let socket = launcher.socket.take().filter(|_| attached);
        launcher.independent = true;
        Ok(Live { pid, unmet, client: socket.map(Client::over) })
    }

    fn launch(&self, order: &Order, mut parcel: Parcel) -> Result<(Launched, Begun), SpawnError> {
        // No index leads to it: the launcher keeps what it is not told to use until it ends.
        parcel.fds.extend(super::keep::kept().map_err(SpawnError::Launch)?);
        let mut launcher = self.ahead.launcher(&self.program, order).map_err(SpawnError::Launch)?;
        let socket = launcher.socket.as_ref().expect("a launcher has one as long as it is not reaped");
        let fds: Vec<_> = parcel.fds.iter().map(AsFd::as_fd).collect();
        let sent = wire::send(socket.as_fd(), order, &parcel.bytes, &fds);
        drop(fds);
        // Our copies go now: an end of a pipe that stayed open here would keep its reader waiting.
        drop(parcel);
        let chores = self.chores.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(chores) = chores {
            chores.done();
        }
        let answer = match sent {
            Ok(()) => match wire::receive::<Message>(socket.as_fd()) {
                // It was killed while it answered.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
                received => received.map_err(SpawnError::Launch)?,
            },
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => None,
            Err(error) => return Err(SpawnError::Launch(error)),
        };
        match answer {
            Some((Message::Started { pid, unmet }, parcel)) => {
                Ok((launcher, Begun { pid, unmet, fds: parcel.fds }))
            }
            Some((Message::Failed(failure), _)) => {
                launcher.reap();
                Err(failure.into())
            }
            Some((Message::Exited { .. } | Message::Copied, _)) | None => {
                Err(SpawnError::LauncherDied(launcher.reap()))
            }
        }
    }
}

/// What a launcher says when its program runs.
struct Begun {
    pid: i32,
    unmet: Vec<String>,
    fds: Vec<OwnedFd>,
}

/// A container that runs, whatever becomes of us.
#[derive(Debug)]
pub struct Live {
    /// The program's number, as the caller sees it.
    pub pid: i32,
    /// Limits that were asked for and that this machine, or this user, cannot set.
    pub unmet: Vec<String>,
    /// The connection to its monitor, if something was to be attached.
    pub client: Option<Client>,
}

/// A program that runs. Dropping it kills the program and everything it started, and waits.
#[derive(Debug)]
pub struct Running {
    launcher: Launched,
    process: Process,
    terminal: Option<Terminal>,
    unmet: Vec<String>,
    ended: Option<ExitStatus>,
}

/// Why it is not known how a program ended.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    #[error("cannot wait for the sandbox")]
    Wait(#[from] io::Error),
    #[error("the sandbox's launcher ended unexpectedly ({0})")]
    LauncherDied(ExitStatus),
    #[error("the program ended, but what was made for its mounts could not be removed: {0}")]
    CleanUp(String),
}

impl Running {
    /// Waits for the program's end, and for all that was made for it to be gone: its mounts, mount
    /// points and cgroups. May be called again.
    ///
    /// # Errors
    /// See [`WaitError`].
    pub fn wait(&mut self) -> Result<ExitStatus, WaitError> {
        if let Some(status) = self.ended {
            return Ok(status);
        }
        let answer = match &self.launcher.socket {
            Some(socket) => wire::receive::<Message>(socket.as_fd())?,
            None => None,
        };
        let launcher = self.launcher.reap();
        match answer {
            Some((Message::Exited { status, left: None }, _)) => {
                let status = ExitStatus::from_raw(status);
                self.ended = Some(status);
                Ok(status)
            }
            Some((Message::Exited { left: Some(left), .. }, _)) => Err(WaitError::CleanUp(left)),
            Some((Message::Started { .. } | Message::Failed(_) | Message::Copied, _)) | None => {
                Err(WaitError::LauncherDied(launcher))
            }
        }
    }

    /// A handle on the program, for use while another thread waits.
    pub fn process(&self) -> Process {
        self.process.clone()
    }

    /// Limits that were asked for and that this machine, or this user, cannot set.
    pub fn unmet_limits(&self) -> &[String] {
        &self.unmet
    }

    /// The program's number, as the caller sees it.
    pub fn pid(&self) -> i32 {
        self.process.pid
    }

    /// Lets go of a process that joined a sandbox: it goes on without us.
    pub fn let_go(mut self) {
        if let Some(socket) = self.launcher.socket.take() {
            LetGo(socket).say();
        }
        self.launcher.independent = true;
    }

    /// What lets go of such a process while another thread waits for it; nothing if it has ended.
    ///
    /// # Errors
    /// Too many descriptors.
    pub fn lets_go(&self) -> io::Result<Option<LetGo>> {
        self.launcher.socket.as_ref().map(|socket| socket.try_clone().map(LetGo)).transpose()
    }

    /// Sends a signal to the program.
    ///
    /// # Errors
    /// As [`Process::signal`].
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        self.process.signal(signal)
    }

    /// Kills the program and everything it started.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// The terminal, if it was asked for.
    pub fn terminal(&self) -> Option<&Terminal> {
        self.terminal.as_ref()
    }
}

/// Lets go of a process that joined a sandbox. Whoever waits for it must end then, without more ado.
#[derive(Debug)]
pub struct LetGo(UnixStream);

impl LetGo {
    /// Says that the process goes on when this one is gone.
    pub fn say(self) {
        // A launcher that is gone has nothing to let go of.
        let _ = rustix::net::send(&self.0, super::child::join::LET_GO, rustix::net::SendFlags::NOSIGNAL);
    }
}

/// A handle on a running program: never another that got its number later.
#[derive(Debug, Clone)]
pub struct Process {
    pid: i32,
    pidfd: Arc<OwnedFd>,
}

impl Process {
    /// Sends a signal by number. One to a program that has ended does nothing.
    ///
    /// # Errors
    /// `InvalidInput` for what is no signal.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        match sys::pidfd_signal(self.pidfd.as_fd(), signal) {
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => Err(error),
            _ => Ok(()),
        }
    }

    /// Kills the program; the kernel then kills everything it started.
    pub fn kill(&self) {
        // It cannot fail but for a program that has ended.
        let _ = rustix::process::pidfd_send_signal(&*self.pidfd, Signal::KILL);
    }

    /// The program's number, as the caller sees it.
    pub fn pid(&self) -> i32 {
        self.pid
    }
}

/// The outer end of a sandbox's terminal.
#[derive(Debug)]
pub struct Terminal(OwnedFd);

impl Terminal {
    /// Tells the program that its window changed.
    ///
    /// # Errors
    /// None but of the kernel's own.
    pub fn resize(&self, rows: u16, columns: u16) -> io::Result<()> {
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(rustix::termios::tcsetwinsize(&self.0, size)?)
    }
}

impl AsFd for Terminal {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}
