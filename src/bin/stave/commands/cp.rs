//! `stave cp`: files into a container and out of one, running or not.

use std::io::{IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

use stave::engine::container::copy::{self, At, CpError};
use stave::engine::container::files::{self, Which};
use stave::root;
use stave::store::Store;
use stave::store::layer::{Extracted, Owner};

use super::context::{Context, find_container};
use crate::failure::Failure;
use crate::progress::human_size;

/// Copy files between a container and the host
///
/// Either SOURCE or DESTINATION is `CONTAINER:PATH`, the other a path of the host, or `-` for a tar archive on
/// standard input or output. A source that ends with `/.` is what the directory holds.
#[derive(Debug, clap::Args)]
pub struct Args {
    source: String,
    destination: String,
    /// Keep users and groups as they are [default: the files become root's in a container, and yours on the host]
    #[arg(short, long)]
    archive: bool,
    /// If the source is a link, copy what it leads to
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Say nothing but errors
    #[arg(short, long)]
    quiet: bool,
}

/// One end.
enum End {
    Container { name: String, path: String },
    Host(String),
    Stream,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let (from, to) = (end(&args.source), end(&args.destination));
    let owner = if args.archive { Owner::Keep } else { Owner::Is(0, 0) };
    match (from, to) {
        (End::Container { .. }, End::Container { .. }) => {
            Err(Failure::usage("cannot copy from one container to another")
                .hint("copy by way of the host: `stave cp A:PATH - | stave cp - B:PATH`"))
        }
        (End::Container { name, path }, End::Stream) => {
            if std::io::stdout().is_terminal() {
                return Err(Failure::usage("standard output is a terminal")
                    .hint("pipe the archive into another program, or name a file"));
            }
            let store = context.store()?;
            let files = open(&store, &name)?;
            let from = At { root: files.as_fd(), path: &path };
            let mut out = std::io::BufWriter::with_capacity(256 << 10, std::io::stdout().lock());
            copy::copy_out(from, args.follow_link, &mut out).map_err(|error| failed(error, &name))?;
            out.flush()?;
            Ok(ExitCode::SUCCESS)
        }
        (End::Container { name, path }, End::Host(host)) => {
            let store = context.store()?;
            let files = open(&store, &name)?;
            let local = Local::open(&host)?;
            let from = At { root: files.as_fd(), path: &path };
            let extracting = store.extracting_outside(owner);
            let copied = copy::copy(from, local.at(), args.follow_link, &extracting);
            let copied = copied.map_err(|error| failed(error, &name))?;
            told(&args, &copied, &args.destination);
            Ok(ExitCode::SUCCESS)
        }
        (End::Host(host), End::Container { name, path }) => {
            let local = Local::open(&host)?;
            let store = context.store()?;
            let files = open(&store, &name)?;
            let to = At { root: files.as_fd(), path: &path };
            let copied = copy::copy(local.at(), to, args.follow_link, &store.extracting(owner));
            let copied = copied.map_err(|error| failed(error, &name))?;
            told(&args, &copied, &args.destination);
            Ok(ExitCode::SUCCESS)
        }
        (End::Stream, End::Container { name, path }) => {
            let input: Box<dyn Read> = super::load::open(None)?;
            let store = context.store()?;
            let files = open(&store, &name)?;
            let to = At { root: files.as_fd(), path: &path };
            // An archive says whose its files are.
            let copied = copy::copy_in(input, to, &store.extracting(Owner::Keep));
            copied.map_err(|error| failed(error, &name))?;
            Ok(ExitCode::SUCCESS)
        }
        (End::Host(_) | End::Stream, End::Host(_) | End::Stream) => {
            Err(Failure::usage("either the source or the destination is a container's: `CONTAINER:PATH`"))
        }
    }
}

fn told(args: &Args, copied: &Extracted, to: &str) {
    if !args.quiet {
        tell_line!("Successfully copied {} to {}", human_size(copied.bytes), to);
        if copied.skipped > 0 {
            tell_line!(
                "warning: {} devices were left out: what a container made is no device of the host",
                copied.skipped
            );
        }
    }
}

fn failed(error: CpError, name: &str) -> Failure {
    let failure = Failure::from_error(&error);
    match error {
        CpError::Missing { .. } => failure.hint(format!("paths of `{name}` are those that it sees itself")),
        _ => failure,
    }
}

fn open<'a>(store: &'a Store, name: &str) -> Result<files::ContainerFiles<'a>, Failure> {
    let container = find_container(store, name)?;
    files::open(store, &container, Which::Seen).map_err(|error| Failure::from_error(&error))
}

/// Docker's rule: what begins with `/` or `.` is a path of the host, and so is what has no colon.
fn end(text: &str) -> End {
    if text == "-" {
        return End::Stream;
    }
    match text.split_once(':') {
        Some((name, path)) if !text.starts_with(['/', '.']) && !name.is_empty() => End::Container {
            name: name.to_owned(),
            path: if path.is_empty() { "/" } else { path }.to_owned(),
        },
        _ => End::Host(text.to_owned()),
    }
}

/// A path of the host: the whole file system, and an absolute path in it.
struct Local {
    root: std::os::fd::OwnedFd,
    path: String,
}

impl Local {
    fn open(text: &str) -> Result<Self, Failure> {
        let cwd = std::env::current_dir()?;
        let path = cwd.join(text);
        let mut path = path
            .to_str()
            .ok_or_else(|| Failure::usage(format!("`{}` is no UTF-8 text", path.display())))?
            .to_owned();
        if text == "." {
            path.push_str("/.");
        }
        Ok(Self { root: root::open_ambient_dir("/")?, path })
    }

    fn at(&self) -> At<'_> {
        At { root: self.root.as_fd(), path: &self.path }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_apart_as_docker_does() {
        for (text, want) in [
            ("-", "stream"),
            ("box:/etc", "box /etc"),
            ("box:etc", "box etc"),
            ("box:", "box /"),
            ("/a:b", "host /a:b"),
            ("./a:b", "host ./a:b"),
            ("file", "host file"),
            (":x", "host :x"),
        ] {
            let got = match end(text) {
                End::Stream => "stream".to_owned(),
                End::Container { name, path } => format!("{name} {path}"),
                End::Host(path) => format!("host {path}"),
            };
            assert_eq!(got, want);
        }
    }
}
