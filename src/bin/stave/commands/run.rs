//! `stave run`: what was typed becomes a container, and its exit code ours.

use std::io::{IsTerminal, Read, Write};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitCode;

use stave::engine::{Bind, Engine, Policy, RunError, RunRequest};
use stave::platform::Platform;
use stave::reference::Reference;
use stave::runtime::{Io, Network};
use stave::solver::Cancel;
use stave::store::images::StoredImage;

use super::context::Context;
use crate::failure::Failure;
use crate::progress::Form;
use crate::{ambient, signals, terminal};

/// Run a command in a new container
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A name or an id
    image: String,
    /// The command; without one, the image's
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
    /// Pass standard input on
    #[arg(short, long)]
    interactive: bool,
    /// Give the container a terminal
    #[arg(short, long)]
    tty: bool,
    /// Remove the container when it ends
    #[arg(long)]
    rm: bool,
    /// Set a variable; without a value, to that of the environment
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Mount a directory or file of the host: `/host/path:/container/path[:ro]`
    #[arg(short, long, value_name = "SPEC")]
    volume: Vec<String>,
    /// Mount memory there
    #[arg(long, value_name = "PATH")]
    tmpfs: Vec<String>,
    /// The working directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// The user: `NAME|UID[:GROUP|GID]`
    #[arg(short, long)]
    user: Option<String>,
    /// Another program than the image's entrypoint; empty for none
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// The container's name
    #[arg(long)]
    name: Option<String>,
    /// `host` or `none`
    #[arg(long, alias = "net", default_value = "host", value_parser = ["host", "none"])]
    network: String,
    /// The container's host name
    #[arg(short = 'H', long)]
    hostname: Option<String>,
    /// Add a line to /etc/hosts
    #[arg(long, value_name = "HOST:IP")]
    add_host: Vec<String>,
    /// Refuse writes to the image's files
    #[arg(long)]
    read_only: bool,
    /// When to ask the registry: `missing`, `always` or `never`
    #[arg(long, default_value = "missing", value_parser = ["missing", "always", "never"])]
    pull: String,
    /// The platform of the image [default: this machine's]
    #[arg(long)]
    platform: Option<Platform>,
}

/// Docker's code for what is the builder's failure and not the command's.
const OUR_FAULT: u8 = 125;

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let forwarder = signals::Forwarder::new();
    context
        .with_cancel(Form::Auto, Cancel::new(), |engine| start(engine, args, forwarder))
        .map_err(|failure| failure.with_least_code(OUR_FAULT))
}

fn start(engine: &Engine<'_>, args: Args, forwarder: signals::Forwarder) -> Result<ExitCode, Failure> {
    if args.tty && args.interactive && !std::io::stdin().is_terminal() {
        return Err(Failure::new("-t with -i needs a terminal, and standard input is none")
            .hint("leave -t out to pass standard input on"));
    }
    let image = find(engine, &args)?;
    let io = if args.tty {
        let (rows, columns) = terminal::size();
        Io::Terminal { rows, columns }
    } else {
        let duplicate = |fd: std::io::Result<std::os::fd::OwnedFd>| fd.map_err(Failure::from);
        let stdin = if args.interactive {
            duplicate(std::io::stdin().as_fd().try_clone_to_owned())?
        } else {
            std::fs::File::open("/dev/null")?.into()
        };
        Io::Fds {
            stdin,
            stdout: duplicate(std::io::stdout().as_fd().try_clone_to_owned())?,
            stderr: duplicate(std::io::stderr().as_fd().try_clone_to_owned())?,
        }
    };
    let mut env: Vec<(String, String)> = Vec::new();
    if args.tty
        && let Ok(term) = std::env::var("TERM")
    {
        env.push(("TERM".to_owned(), term));
    }
    for text in &args.env {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => env.push((name.to_owned(), value.to_owned())),
            Some(_) => return Err(Failure::usage(format!("-e `{text}`: the name is missing"))),
            None => env.extend(std::env::var(text).ok().map(|value| (text.clone(), value))),
        }
    }
    let request = RunRequest {
        image,
        entrypoint: args.entrypoint.map(|program| if program.is_empty() { vec![] } else { vec![program] }),
        command: args.command,
        env,
        binds: args.volume.iter().map(|text| bind(text)).collect::<Result<_, _>>()?,
        tmpfs: args.tmpfs,
        workdir: args.workdir,
        user: args.user,
        name: args.name,
        keep: !args.rm,
        network: if args.network == "none" { Network::None } else { Network::Host },
        hostname: args.hostname,
        extra_hosts: args
            .add_host
            .iter()
            .map(|text| super::build::extra_host(text))
            .collect::<Result<Vec<(String, IpAddr)>, _>>()?,
        read_only: args.read_only,
        io,
        resolv_conf: ambient::resolv_conf(),
        host_name: ambient::host_name(),
    };
    let mut started = engine.start(request).map_err(|error| {
        let code = match &error {
            RunError::Spawn(error) => error.exit_code(),
            _ => OUR_FAULT,
        };
        Failure::from_error(&error).with_code(code)
    })?;
    let raw = match started.running.terminal() {
        Some(inside) => {
            forwarder.resize(inside.as_fd().try_clone_to_owned()?);
            Some(attach(inside.as_fd().try_clone_to_owned()?, args.interactive)?)
        }
        None => None,
    };
    forwarder.forward_to(started.running.process());
    let status = started.wait().map_err(|error| Failure::from_error(&error))?;
    if let Some(attached) = raw {
        attached.finish();
    }
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(OUR_FAULT)))
}

/// A person's terminal while a container's is shown on it.
struct Attached {
    _raw: terminal::Raw,
    output: std::thread::JoinHandle<()>,
}

impl Attached {
    /// Shows the rest of what the container wrote, and gives the terminal back.
    fn finish(self) {
        let _ = self.output.join();
    }
}

fn attach(inside: std::os::fd::OwnedFd, interactive: bool) -> Result<Attached, Failure> {
    let raw = terminal::Raw::new()?;
    let mut reader = std::fs::File::from(inside.try_clone()?);
    let output = std::thread::spawn(move || {
        let mut buffer = [0; 16 << 10];
        let mut out = std::io::stdout();
        // The last process with the terminal open has ended when reading it fails.
        while let Ok(length @ 1..) = reader.read(&mut buffer) {
            if out.write_all(&buffer[..length]).and_then(|()| out.flush()).is_err() {
                break;
            }
        }
    });
    if interactive {
        let mut writer = std::fs::File::from(inside);
        // It may wait for a key for ever; it ends with this program.
        std::thread::spawn(move || {
            let mut buffer = [0; 4 << 10];
            while let Ok(length @ 1..) = std::io::stdin().read(&mut buffer) {
                if writer.write_all(&buffer[..length]).is_err() {
                    break;
                }
            }
        });
    }
    Ok(Attached { _raw: raw, output })
}

fn find(engine: &Engine<'_>, args: &Args) -> Result<StoredImage, Failure> {
    let policy = match args.pull.as_str() {
        "always" => Policy::Always,
        "never" => Policy::Never,
        _ => Policy::Missing,
    };
    if policy != Policy::Always
        && let Some(found) = engine.store.find_image(&args.image)?
        && args.platform.as_ref().is_none_or(|wanted| found.platform.serves(wanted))
    {
        return Ok(found);
    }
    if policy == Policy::Never {
        return super::context::find_image(engine.store, &args.image);
    }
    let name = Reference::parse(&args.image)?;
    let platform = args.platform.clone().unwrap_or_else(Platform::host);
    let pulled = engine.pull(&name, &platform, policy).map_err(|error| Failure::from_error(&error))?;
    Ok(pulled.image)
}

/// `/host:/container[:ro|rw]`
fn bind(text: &str) -> Result<Bind, Failure> {
    let wrong = |what: &str| {
        Failure::usage(format!("-v `{text}`: {what}")).hint("expected /host/path:/container/path[:ro]")
    };
    let mut fields = text.split(':');
    let (Some(source), Some(target)) = (fields.next(), fields.next()) else {
        return Err(wrong("volumes without a directory of the host are not supported yet"));
    };
    let mut read_only = false;
    for option in fields.next().unwrap_or("").split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => read_only = true,
            // Labels and propagation of Docker's that change nothing here.
            "rw" | "z" | "Z" => {}
            other => return Err(wrong(&format!("unknown option `{other}`"))),
        }
    }
    if fields.next().is_some() {
        return Err(wrong("too many colons"));
    }
    if !target.starts_with('/') {
        return Err(wrong("the container's path is not absolute"));
    }
    let source = match source {
        "" => return Err(wrong("the host's path is missing")),
        path if path.starts_with('/') => PathBuf::from(path),
        path if path.starts_with('.') => std::env::current_dir()?.join(path),
        _ => return Err(wrong("named volumes are not supported yet")),
    };
    Ok(Bind { source, target: target.to_owned(), read_only })
}
