//! `exec`: a program in a container that runs.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

use stave::runtime::bundle::config::{CapabilitySets, Process};
use stave::runtime::bundle::{ExecRequest, Runtime, Streams};

use super::create::{preserved, streams, write_pid};
use super::foreground::{self, Foreground};
use super::{Log, Wrong, warn};
use crate::failure::Failure;

/// runc's code for an `exec` that failed itself.
const OUR_FAULT: u8 = 255;

#[derive(Debug, clap::Args)]
pub struct ExecArgs {
    /// A socket that gets the outer end of the terminal
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// The working directory
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// Set a variable
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// The user
    #[arg(short, long, value_name = "UID[:GID]")]
    user: Option<String>,
    /// Groups besides the user's
    #[arg(short = 'g', long = "additional-gids", value_name = "GID")]
    groups: Vec<u32>,
    /// A file with the process in the form of `config.json`
    #[arg(short, long, value_name = "FILE")]
    process: Option<PathBuf>,
    /// Leave it running
    #[arg(short, long)]
    detach: bool,
    /// A file for its number
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Another SELinux label; refused, since none are set
    #[arg(long, value_name = "LABEL")]
    process_label: Option<String>,
    /// Its AppArmor profile
    #[arg(long, value_name = "PROFILE")]
    apparmor: Option<String>,
    /// Let it gain no privileges
    #[arg(long)]
    no_new_privs: bool,
    /// A capability besides those of the container
    #[arg(short, long, value_name = "CAP")]
    cap: Vec<String>,
    /// How many descriptors from 3 on are passed on
    #[arg(long, value_name = "N", default_value = "0")]
    preserve_fds: usize,
    /// Also in a container that is paused
    #[arg(long)]
    ignore_paused: bool,
    #[arg(value_name = "ID")]
    id: String,
    /// The program and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

pub(super) fn exec(runtime: &Runtime, args: ExecArgs, log: Option<&Log>) -> Result<ExitCode, Wrong> {
    run(runtime, args, log).map_err(|wrong| match wrong {
        Wrong::Bundle(error) => Wrong::Other(Failure::from_error(&error).with_code(OUR_FAULT)),
        Wrong::Other(failure) => Wrong::Other(failure.with_code(OUR_FAULT)),
    })
}

fn run(runtime: &Runtime, args: ExecArgs, log: Option<&Log>) -> Result<ExitCode, Wrong> {
    let preserved = preserved(args.preserve_fds)?;
    let process = process(runtime, &args)?;
    let foreground = if args.detach { None } else { Some(Foreground::new()?) };
    let (streams, console) = if process.terminal && args.console_socket.is_none() {
        if args.detach {
            return Err(Failure::usage("a terminal of a detached process needs `--console-socket`").into());
        }
        let (ours, theirs) = UnixStream::pair()?;
        (Streams::Console(theirs.into()), Some(ours))
    } else {
        (streams(args.console_socket.as_deref())?, None)
    };
    let id = args.id.clone();
    let request = ExecRequest { id, process, streams, preserved, paused: args.ignore_paused };
    let executed = runtime.exec(request)?;
    warn(log, &executed.warnings);
    if let Some(file) = &args.pid_file {
        write_pid(file, executed.pid)?;
    }
    let terminal = console.map(|console| foreground::receive_terminal(&console)).transpose()?;
    match foreground {
        Some(foreground) => Ok(foreground.wait(executed.pid, &executed.handle, terminal)?),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// The whole process of a file, or the container's own with what the command line changes.
fn process(runtime: &Runtime, args: &ExecArgs) -> Result<Process, Wrong> {
    if args.process_label.as_ref().is_some_and(|label| !label.is_empty()) {
        return Err(Failure::usage("no SELinux labels are set: `--process-label` is refused").into());
    }
    if let Some(file) = &args.process {
        let shown = file.display();
        let text =
            std::fs::read(file).map_err(|error| Failure::new(format!("cannot read `{shown}`: {error}")))?;
        let read = serde_json::from_slice(&text);
        return Ok(read.map_err(|error| Failure::new(format!("`{shown}` is no process: {error}")))?);
    }
    if args.command.is_empty() {
        return Err(Failure::usage("neither a program nor `--process` is given").into());
    }
    let mut process = runtime.process_of(&args.id)?;
    process.terminal = args.tty;
    process.console_size = None;
    process.args.clone_from(&args.command);
    if let Some(cwd) = &args.cwd {
        process.cwd.clone_from(cwd);
    }
    for variable in &args.env {
        let name = variable.split('=').next().unwrap_or_default();
        process.env.retain(|known| known.split('=').next() != Some(name));
        process.env.push(variable.clone());
    }
    if let Some(user) = &args.user {
        let wrong = || Failure::usage(format!("`{user}` is no `UID[:GID]`: a runtime takes numbers only"));
        let (uid, gid) = user.split_once(':').unwrap_or((user, ""));
        process.user.uid = uid.parse().map_err(|_| wrong())?;
        if !gid.is_empty() {
            process.user.gid = gid.parse().map_err(|_| wrong())?;
        }
    }
    process.user.additional_gids.extend(&args.groups);
    if let Some(profile) = &args.apparmor {
        process.apparmor_profile.clone_from(profile);
    }
    process.no_new_privileges |= args.no_new_privs;
    if !args.cap.is_empty() {
        let sets = process.capabilities.get_or_insert_with(CapabilitySets::default);
        for cap in &args.cap {
            let name = cap.to_ascii_uppercase();
            let name = if name.starts_with("CAP_") { name } else { format!("CAP_{name}") };
            for set in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted] {
                set.push(name.clone());
            }
        }
    }
    Ok(process)
}
