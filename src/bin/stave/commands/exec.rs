//! `stave exec`: another process in a container that runs.

use std::io::{IsTerminal, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags};
use stave::engine::container::exec::{ExecRequest, exec};
use stave::runtime::{Io, LetGo};

use super::container_flags::process::{lines, variable};
use super::context::{Context, find_container};
use crate::attached::{self, DETACH_KEYS, Keys};
use crate::failure::Failure;
use crate::{ambient, signals, terminal};

/// Run a command in a running container
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Do not wait for its end
    #[arg(short, long)]
    detach: bool,
    /// Pass standard input on
    #[arg(short, long)]
    interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
    /// The user: `NAME|UID[:GROUP|GID]` [default: the container's]
    #[arg(short, long)]
    user: Option<String>,
    /// The working directory [default: the container's]
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Set a variable; without a value, to that of the environment
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Read variables from a file, one a line
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Give the command every capability
    #[arg(long)]
    privileged: bool,
    /// The keys that leave a terminal without ending the command
    #[arg(long, value_name = "KEYS", default_value = DETACH_KEYS)]
    detach_keys: String,
    /// A name, an id or the beginning of one
    container: String,
    /// The command
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let keys = attached::detach_keys(&args.detach_keys)
        .map_err(|what| Failure::usage(format!("--detach-keys `{}`: {what}", args.detach_keys)))?;
    if args.tty && args.interactive && !args.detach && !std::io::stdin().is_terminal() {
        return Err(Failure::new("-t with -i needs a terminal, and standard input is none")
            .hint("leave -t out to pass standard input on"));
    }
    let store = context.store()?;
    let container = find_container(&store, &args.container)?;
    let mut env = Vec::new();
    if args.tty
        && let Ok(term) = std::env::var("TERM")
    {
        env.push(("TERM".to_owned(), term));
    }
    for file in &args.env_file {
        for line in lines("--env-file", file)? {
            env.extend(variable("--env-file", &line)?);
        }
    }
    for text in &args.env {
        env.extend(variable("-e", text)?);
    }
    let null = || std::fs::File::options().read(true).write(true).open("/dev/null").map(OwnedFd::from);
    let mut input = None;
    let mut outputs = Vec::new();
    let io = if args.tty {
        let (rows, columns) = terminal::size();
        Io::Terminal { rows, columns }
    } else if args.detach {
        Io::Fds { stdin: null()?, stdout: null()?, stderr: null()? }
    } else {
        // Pipes, never our own streams: through a terminal of the host a program inside could type on it.
        let stdin = match args.interactive {
            true => {
                let (theirs, ours) = std::io::pipe()?;
                input = Some(OwnedFd::from(ours));
                theirs.into()
            }
            false => null()?,
        };
        let (stdout, their_stdout) = std::io::pipe()?;
        let (stderr, their_stderr) = std::io::pipe()?;
        outputs = vec![(Stream::Out, OwnedFd::from(stdout)), (Stream::Err, stderr.into())];
        Io::Fds { stdin, stdout: their_stdout.into(), stderr: their_stderr.into() }
    };
    let request = ExecRequest {
        command: args.command,
        env,
        cwd: args.workdir,
        user: args.user,
        privileged: args.privileged,
        detached: args.detach,
        io,
        kernel: ambient::kernel(),
    };
    let mut started = exec(&store, &container, request)
        .map_err(|error| Failure::from_error(&error).with_code(error.exit_code()))?;
    if args.detach {
        started.running.let_go();
        return Ok(ExitCode::SUCCESS);
    }
    let running = &mut started.running;
    let raw = match running.terminal() {
        Some(master) => {
            let copy = || master.as_fd().try_clone_to_owned();
            outputs.push((Stream::Out, copy()?));
            let resized = copy()?;
            signals::on_resize(move || follow_size(&resized));
            follow_size(&copy()?);
            if args.interactive {
                input = Some(copy()?);
            }
            args.interactive.then(terminal::Raw::new).transpose()?
        }
        None => None,
    };
    if let Some(to) = input {
        let (keys, leave) = if args.tty { (keys, running.lets_go()?) } else { (Vec::new(), None) };
        // It may wait for a key for ever; it ends with this program.
        std::thread::spawn(move || send_input(to, &keys, leave));
    }
    let (over, ended) = std::io::pipe()?;
    let output = std::thread::spawn(move || pass_on(outputs, &over.into()));
    let status = running.wait().map_err(|error| Failure::from_error(&error))?;
    drop(ended);
    let passed = output.join();
    drop(raw);
    if let Ok(Err(error)) = passed
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        return Err(Failure::new(format!("cannot pass output on: {error}")));
    }
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    started.tell_of_end(&store, code);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
}

fn follow_size(terminal: &OwnedFd) {
    let (ws_row, ws_col) = terminal::size();
    let size = rustix::termios::Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 };
    // One that has ended has no size.
    let _ = rustix::termios::tcsetwinsize(terminal, size);
}

fn send_input(to: OwnedFd, keys: &[u8], mut leave: Option<LetGo>) {
    let mut to = std::fs::File::from(to);
    let mut buffer = [0; 32 << 10];
    let mut watch = Keys::new(keys);
    while let Ok(count @ 1..) = std::io::stdin().read(&mut buffer) {
        let (through, detach) = watch.pass(&buffer[..count]);
        if to.write_all(&through).is_err() {
            return;
        }
        if let (true, Some(leave)) = (detach, leave.take()) {
            leave.say();
            terminal::give_back();
            std::process::exit(0);
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Stream {
    Out,
    Err,
}

/// Passes on what comes until all ends are closed, or until the command has ended and nothing is left: others that it
/// started may keep its streams open for ever.
fn pass_on(mut from: Vec<(Stream, OwnedFd)>, over: &OwnedFd) -> std::io::Result<()> {
    let mut buffer = vec![0; 32 << 10];
    let mut ended = false;
    while !from.is_empty() {
        let mut polled: Vec<PollFd<'_>> = from.iter().map(|(_, fd)| PollFd::new(fd, PollFlags::IN)).collect();
        if !ended {
            polled.push(PollFd::new(over, PollFlags::IN));
        }
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        match rustix::event::poll(&mut polled, ended.then_some(&now)) {
            Ok(0) => return Ok(()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<bool> = polled.iter().map(|polled| !polled.revents().is_empty()).collect();
        drop(polled);
        ended = ended || ready.get(from.len()) == Some(&true);
        for place in (0..from.len()).rev().filter(|place| ready[*place]) {
            let (stream, fd) = &from[place];
            match rustix::io::read(fd, &mut buffer) {
                // The end of a terminal is an error.
                Ok(0) | Err(rustix::io::Errno::IO) => drop(from.remove(place)),
                Ok(count) => match stream {
                    Stream::Out => write(std::io::stdout(), &buffer[..count])?,
                    Stream::Err => write(std::io::stderr(), &buffer[..count])?,
                },
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

fn write(mut to: impl Write, bytes: &[u8]) -> std::io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}
