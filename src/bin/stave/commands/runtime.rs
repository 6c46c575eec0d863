//! `stave runtime`: an OCI runtime, with the command line that callers of `runc` use.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use stave::runtime::bundle::{BundleError, Runtime};

use super::context::Context;
use crate::ambient;
use crate::failure::Failure;

mod create;
mod exec;
mod foreground;
mod manage;
mod show;
mod update;

/// Run OCI bundles: an OCI runtime for containerd, podman and their kin
#[derive(Debug, clap::Args)]
#[command(version = concat!(env!("CARGO_PKG_VERSION"), "\nspec: 1.2.0"), name = "stave-runtime")]
pub struct Args {
    /// Where containers are remembered [default: /run/stave/runtime, or $XDG_RUNTIME_DIR/stave/runtime for an
    /// ordinary user]
    #[arg(long = "root", value_name = "DIR", id = "runtime-root")]
    root: Option<PathBuf>,
    /// A file that errors are written to, besides standard error
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// How they are written there
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
    /// runc's; there is nothing more to tell
    #[arg(long, hide = true)]
    debug: bool,
    /// Ask systemd for cgroups; refused, since groups are made as directories
    #[arg(long)]
    systemd_cgroup: bool,
    /// Who makes cgroups: `cgroupfs`, or `disabled` for none
    #[arg(long, value_enum, default_value = "cgroupfs")]
    cgroup_manager: CgroupManager,
    /// runc's; whether it is an ordinary user is found out
    #[arg(long, hide = true, value_parser = ["true", "false", "auto"])]
    rootless: Option<String>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CgroupManager {
    Cgroupfs,
    Systemd,
    Disabled,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a container, which waits for `start`
    Create(create::CreateArgs),
    /// Start a container that was made
    Start(manage::One),
    /// Make a container, start it, and wait for its end
    Run(create::RunArgs),
    /// Print what a container does
    State(manage::One),
    /// Send a container a signal
    Kill(manage::KillArgs),
    /// Remove a container that has ended
    Delete(manage::DeleteArgs),
    /// List containers
    List(show::ListArgs),
    /// Run one more program in a container
    Exec(exec::ExecArgs),
    /// List the processes of a container
    Ps(show::PsArgs),
    /// Freeze all processes of a container
    Pause(manage::One),
    /// Let a paused container go on
    Resume(manage::One),
    /// Change the limits of a container
    Update(update::UpdateArgs),
    /// Print what a container uses
    Events(show::EventsArgs),
    /// Print what this runtime knows
    Features,
    /// Write a configuration to begin with
    Spec(show::SpecArgs),
}

/// What went wrong: the runtime's own failure, or another.
pub(super) enum Wrong {
    Bundle(BundleError),
    Other(Failure),
}

impl From<BundleError> for Wrong {
    fn from(error: BundleError) -> Self {
        Self::Bundle(error)
    }
}

impl From<Failure> for Wrong {
    fn from(failure: Failure) -> Self {
        Self::Other(failure)
    }
}

impl From<std::io::Error> for Wrong {
    fn from(error: std::io::Error) -> Self {
        Self::Other(error.into())
    }
}

pub fn run(_: &Context, args: Args) -> Result<ExitCode, Failure> {
    let log = args.log.clone().map(|file| Log { file, format: args.log_format });
    let outcome = dispatch(args, log.as_ref());
    outcome.map_err(|wrong| {
        let failure = match wrong {
            Wrong::Bundle(error) => Failure::from_error(&error),
            Wrong::Other(failure) => failure,
        };
        if let Some(log) = &log {
            log.write("error", failure.message());
        }
        failure
    })
}

fn dispatch(args: Args, log: Option<&Log>) -> Result<ExitCode, Wrong> {
    if args.systemd_cgroup || args.cgroup_manager == CgroupManager::Systemd {
        return Err(Failure::usage("cgroups are made as directories, and not asked of systemd")
            .hint("podman has `--cgroup-manager=cgroupfs`, containerd `SystemdCgroup = false`")
            .with_code(1)
            .into());
    }
    let mut runtime = Runtime::new(match (args.root, &args.verb) {
        (Some(root), _) => std::path::absolute(root)?,
        // What needs no containers needs no place for them.
        (None, Verb::Features | Verb::Spec(_)) => PathBuf::new(),
        (None, _) => default_root()?,
    });
    runtime.cgroups = args.cgroup_manager == CgroupManager::Cgroupfs;
    match args.verb {
        Verb::Create(args) => create::create(&runtime, args, log),
        Verb::Start(args) => manage::start(&runtime, &args),
        Verb::Run(args) => create::run(&runtime, args, log),
        Verb::State(args) => show::state(&runtime, &args),
        Verb::Kill(args) => manage::kill(&runtime, &args),
        Verb::Delete(args) => manage::delete(&runtime, &args),
        Verb::List(args) => show::list(&runtime, &args),
        Verb::Exec(args) => exec::exec(&runtime, args, log),
        Verb::Ps(args) => show::ps(&runtime, &args),
        Verb::Pause(args) => manage::pause(&runtime, &args, true),
        Verb::Resume(args) => manage::pause(&runtime, &args, false),
        Verb::Update(args) => update::update(&runtime, &args),
        Verb::Events(args) => show::events(&runtime, &args),
        Verb::Features => show::features(),
        Verb::Spec(args) => show::spec(&args),
    }
}

fn default_root() -> Result<PathBuf, Failure> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/run/stave/runtime"));
    }
    let folder = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    // `su` and cron set no variable, while the folder of a login may be there.
    let login = || {
        let folder = PathBuf::from(format!("/run/user/{}", rustix::process::geteuid().as_raw()));
        folder.is_dir().then_some(folder)
    };
    folder.or_else(login).map(|folder| folder.join("stave/runtime")).ok_or_else(|| {
        Failure::usage("cannot find a place for containers: XDG_RUNTIME_DIR is not set")
            .hint("pass --root DIR")
    })
}

/// Where callers look for what went wrong.
pub(super) struct Log {
    file: PathBuf,
    format: LogFormat,
}

impl Log {
    /// Adds a line; a log that cannot be written changes nothing, since standard error says the same.
    fn write(&self, level: &str, message: &str) {
        let time = timestamp();
        let line = match self.format {
            LogFormat::Json => {
                serde_json::json!({ "level": level, "msg": message, "time": time }).to_string()
            }
            LogFormat::Text => format!("time=\"{time}\" level={level} msg={message:?}"),
        };
        let mut options = std::fs::File::options();
        if let Ok(mut file) = options.append(true).create(true).mode(0o600).open(&self.file) {
            let _ = writeln!(file, "{line}");
        }
    }
}

/// Tells of what is no failure.
pub(super) fn warn(log: Option<&Log>, warnings: &[String]) {
    for warning in warnings {
        tell_line!("warning: {warning}");
        if let Some(log) = log {
            log.write("warning", warning);
        }
    }
}

/// Now, as RFC 3339 has it.
pub(super) fn timestamp() -> String {
    let nanoseconds = i128::from(ambient::now());
    time::OffsetDateTime::from_unix_timestamp_nanos(nanoseconds)
        .ok()
        .and_then(|now| now.format(&time::format_description::well_known::Rfc3339).ok())
        .unwrap_or_default()
}
