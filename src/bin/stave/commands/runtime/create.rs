//! `create` and `run`.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use stave::runtime::bundle::{Bundle, CreateRequest, Runtime, Streams};

use super::foreground::{self, Foreground};
use super::{Log, Wrong, timestamp, warn};
use crate::failure::Failure;

/// What `create` and `run` share.
#[derive(Debug, clap::Args)]
pub struct BundleArgs {
    /// The bundle's folder [default: this one]
    #[arg(short, long, value_name = "DIR")]
    bundle: Option<PathBuf>,
    /// Another file than `config.json` of the bundle
    #[arg(short = 'f', long, value_name = "FILE", default_value = "config.json")]
    config: PathBuf,
    /// A socket that gets the outer end of the terminal
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// A file for the number of the first process
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Move the root instead of pivoting to it, for systems that run from an initial RAM disk
    #[arg(long)]
    no_pivot: bool,
    /// Give the container the caller's session keyring
    #[arg(long)]
    no_new_keyring: bool,
    /// How many descriptors from 3 on are passed on
    #[arg(long, value_name = "N", default_value = "0")]
    preserve_fds: usize,
    /// What the container is called
    #[arg(value_name = "ID")]
    id: String,
}

#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    #[command(flatten)]
    bundle: BundleArgs,
}

#[derive(Debug, clap::Args)]
pub struct RunArgs {
    #[command(flatten)]
    bundle: BundleArgs,
    /// Leave it running
    #[arg(short, long)]
    detach: bool,
    /// Leave it in the list when it has ended
    #[arg(long)]
    keep: bool,
    /// runc's: become the reaper of orphans; a foreground `run` always is
    #[arg(long, hide = true)]
    no_subreaper: bool,
}

pub(super) fn create(runtime: &Runtime, args: CreateArgs, log: Option<&Log>) -> Result<ExitCode, Wrong> {
    let preserved = preserved(args.bundle.preserve_fds)?;
    let streams = streams(args.bundle.console_socket.as_deref())?;
    make(runtime, &args.bundle, streams, preserved, log)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn run(runtime: &Runtime, args: RunArgs, log: Option<&Log>) -> Result<ExitCode, Wrong> {
    if args.no_subreaper && !args.detach {
        return Err(Failure::usage(
            "`--no-subreaper` goes with `--detach`: how a container ended is its reaper's to know",
        )
        .into());
    }
    let preserved = preserved(args.bundle.preserve_fds)?;
    let id = args.bundle.id.clone();
    if args.detach {
        let streams = streams(args.bundle.console_socket.as_deref())?;
        make(runtime, &args.bundle, streams, preserved, log)?;
        start(runtime, &id)?;
        return Ok(ExitCode::SUCCESS);
    }
    let foreground = Foreground::new()?;
    let (streams, console) = if args.bundle.console_socket.is_some() || !wants_terminal(&args.bundle) {
        (streams(args.bundle.console_socket.as_deref())?, None)
    } else {
        let (ours, theirs) = UnixStream::pair()?;
        (Streams::Console(theirs.into()), Some(ours))
    };
    let pid = make(runtime, &args.bundle, streams, preserved, log)?;
    let terminal = console.map(|console| foreground::receive_terminal(&console)).transpose()?;
    let handle =
        runtime.handle(&id)?.ok_or_else(|| Failure::new("the container ended before it was started"))?;
    start(runtime, &id)?;
    let code = foreground.wait(pid, &handle, terminal)?;
    if !args.keep {
        runtime.delete(&id, true)?;
    }
    Ok(code)
}

/// Starts what was just made; what could not be started goes.
fn start(runtime: &Runtime, id: &str) -> Result<(), Wrong> {
    runtime.start(id).map_err(|error| {
        let _ = runtime.delete(id, true);
        error.into()
    })
}

fn make(
    runtime: &Runtime,
    args: &BundleArgs,
    streams: Streams,
    preserved: Vec<OwnedFd>,
    log: Option<&Log>,
) -> Result<i32, Wrong> {
    if args.no_new_keyring {
        return Err(Failure::usage(
            "`--no-new-keyring` is refused: the caller's keys are not the container's",
        )
        .into());
    }
    let request = CreateRequest {
        id: args.id.clone(),
        bundle: folder(args.bundle.as_deref())?,
        config: args.config.clone(),
        streams,
        preserved,
        listening: listening(),
        no_pivot: args.no_pivot,
        now: timestamp(),
    };
    let created = runtime.create(request)?;
    warn(log, &created.warnings);
    if let Some(file) = &args.pid_file
        && let Err(error) = write_pid(file, created.pid)
    {
        let _ = runtime.delete(&args.id, true);
        return Err(error.into());
    }
    Ok(created.pid)
}

fn folder(given: Option<&Path>) -> Result<PathBuf, Failure> {
    let path = given.unwrap_or(Path::new("."));
    path.canonicalize()
        .map_err(|error| Failure::new(format!("cannot open the bundle `{}`: {error}", path.display())))
}

/// Whoever waits for the file finds it whole.
pub(super) fn write_pid(file: &Path, pid: i32) -> Result<(), Failure> {
    let mut new = file.as_os_str().to_owned();
    new.push(".new");
    std::fs::write(&new, pid.to_string())
        .and_then(|()| std::fs::rename(&new, file))
        .map_err(|error| Failure::new(format!("cannot write `{}`: {error}", file.display())))
}

/// A terminal is the configuration's to ask for; reading it again to find out is cheap.
fn wants_terminal(args: &BundleArgs) -> bool {
    let folder = args.bundle.clone().unwrap_or_default();
    let text = std::fs::read(folder.join(&args.config)).unwrap_or_default();
    let bundle: Option<Bundle> = serde_json::from_slice(&text).ok();
    bundle.and_then(|bundle| bundle.process).is_some_and(|process| process.terminal)
}

pub(super) fn streams(console: Option<&Path>) -> Result<Streams, Failure> {
    match console {
        Some(path) => {
            let socket = UnixStream::connect(path).map_err(|error| {
                Failure::new(format!("cannot connect to the console socket `{}`: {error}", path.display()))
            })?;
            Ok(Streams::Console(socket.into()))
        }
        None => Ok(Streams::Fds([
            std::io::stdin().as_fd().try_clone_to_owned()?,
            std::io::stdout().as_fd().try_clone_to_owned()?,
            std::io::stderr().as_fd().try_clone_to_owned()?,
        ])),
    }
}

/// How many descriptors systemd has opened for us.
fn listening() -> usize {
    std::env::var("LISTEN_FDS").ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The descriptors that the container gets from 3 on: as many as were asked for, and those of `LISTEN_FDS`.
pub(super) fn preserved(count: usize) -> Result<Vec<OwnedFd>, Failure> {
    let count = count.saturating_add(listening());
    if count > 1024 {
        return Err(Failure::usage("no more than 1024 descriptors can be passed on"));
    }
    (3..3 + count as i32)
        .map(|number| {
            // SAFETY: the call takes numbers, and gives a new descriptor that is ours alone.
            let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3 + count as i32) };
            if copy < 0 {
                return Err(Failure::usage(format!(
                    "the descriptor {number} that is to be passed on is not open"
                )));
            }
            // SAFETY: as above.
            Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(copy) })
        })
        .collect()
}
