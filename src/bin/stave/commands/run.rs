//! `stave run`: what was typed becomes a container, and its exit code ours.

use std::io::Write;
use std::process::ExitCode;

use stave::engine::container::{self, Config, ControlError, Created};
use stave::runtime::monitor::Streams;
use stave::runtime::{Launcher, MadeAhead};
use stave::store::Store;
use stave::store::containers::ContainerId;

use super::container_flags::Flags;
use super::context::Context;
use crate::attached::{self, Attachment, DETACH_KEYS};
use crate::failure::Failure;
use crate::{ambient, enter, signals, terminal};

/// Run a command in a new container
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    flags: Flags,
    /// Leave it running, and print its id
    #[arg(short, long, conflicts_with = "attach")]
    detach: bool,
    /// The keys that leave a terminal without ending the container
    #[arg(long, value_name = "KEYS", default_value = DETACH_KEYS)]
    detach_keys: String,
    /// Pass signals on to the container
    #[arg(long, value_name = "BOOL", default_value = "true", num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    sig_proxy: bool,
}

impl Args {
    /// The image, and the command after it.
    pub fn image_and_command(self) -> (String, Vec<String>) {
        (self.flags.image, self.flags.command)
    }
}

/// Docker's code for what is the builder's failure and not the command's.
const OUR_FAULT: u8 = 125;

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    // Before any thread exists; who leaves the container alone needs none.
    let forwarder = (!args.detach).then(signals::Forwarder::new);
    let outcome = match forwarder {
        Some(forwarder) => attended(context, &args, &forwarder),
        None => detached(context, &args),
    };
    outcome.map_err(|failure| failure.with_least_code(OUR_FAULT))
}

fn detached(context: &Context, args: &Args) -> Result<ExitCode, Failure> {
    let id = new_id()?;
    let launcher = begin(&args.flags, &id)?;
    let store = context.store()?;
    let Created { id, config, lock, .. } = create(&store, &args.flags, id, false)?;
    let size = terminal::size();
    start_or_remove(&store, &id, &config, || {
        context.start(&store, &id, Some(lock), None, size, Some(launcher))
    })?;
    say_line!("{id}");
    Ok(ExitCode::SUCCESS)
}

fn attended(context: &Context, args: &Args, forwarder: &signals::Forwarder) -> Result<ExitCode, Failure> {
    let process = &args.flags.process;
    let streams = process.attached();
    let streams = Streams { stdin: streams.stdin, stdout: streams.stdout, stderr: streams.stderr };
    let keys = attached::detach_keys(&args.detach_keys)
        .map_err(|what| Failure::usage(format!("--detach-keys `{}`: {what}", args.detach_keys)))?;
    let attachment = Attachment { streams, tty: process.tty, proxy: args.sig_proxy, keys };
    attachment.check()?;
    let id = new_id()?;
    let launcher = begin(&args.flags, &id)?;
    let store = context.store()?;
    let Created { id, config, lock, .. } = create(&store, &args.flags, id, true)?;
    let size = terminal::size();
    let mut started = start_or_remove(&store, &id, &config, || {
        context.start(&store, &id, Some(lock), Some(streams), size, Some(launcher))
    })?;
    let monitor = started.live.client.take().expect("something was to be attached");
    let connection = monitor.writer()?;
    let outcome = attachment.hold(&store, &id, monitor, forwarder)?;
    attached::conclude(&store, &id, &config, outcome, started.lock.zip(Some(connection))).map(ExitCode::from)
}

/// Its launcher gets ready while we find out what is to run.
fn begin(flags: &Flags, id: &ContainerId) -> Result<Launcher, Failure> {
    let (ipc, uts) = flags.security.own_namespaces();
    let made = match flags.network.stands_alone() {
        // A program connects an ordinary user's network, from outside of what a launcher makes.
        None if enter::is_rootless() => None,
        alone => {
            let group = flags.has_usual_group().then(|| id.as_str().to_owned());
            Some(MadeAhead { ipc, uts, network: alone == Some("none"), group })
        }
    };
    Launcher::begun(made).map_err(|error| Failure::new(format!("cannot start containers: {error}")))
}

/// An id for a new container: of so many random digits none comes twice.
pub fn new_id() -> Result<ContainerId, Failure> {
    Ok(ContainerId::from_bytes(ambient::secret()?))
}

/// Creates the container, and says its id where that was asked for.
pub fn create(store: &Store, flags: &Flags, id: ContainerId, attached: bool) -> Result<Created, Failure> {
    let cidfile = flags.life.cidfile.as_ref().map(|path| {
        std::fs::File::create_new(path).map(|file| (file, path)).map_err(|error| {
            Failure::new(format!("cannot create the file `{}`: {error}", path.display()))
                .hint("it must not be there yet: two containers in one file would be one too many")
        })
    });
    let cidfile = cidfile.transpose()?;
    let made = flags.request(store, id, attached).and_then(|request| Ok(container::create(store, request)?));
    match (made, cidfile) {
        (Ok(created), Some((mut file, _))) => {
            file.write_all(created.id.as_str().as_bytes())?;
            Ok(created)
        }
        (Err(failure), Some((_, path))) => {
            // An empty file would stand in the way of the next try.
            let _ = std::fs::remove_file(path);
            Err(failure)
        }
        (made, None) => made,
    }
}

/// With `--rm`, a container that does not start is removed.
fn start_or_remove<T>(
    store: &Store,
    id: &ContainerId,
    config: &Config,
    start: impl FnOnce() -> Result<T, Failure>,
) -> Result<T, Failure> {
    start().inspect_err(|_| {
        if config.life.remove
            && let Err(error) = container::remove(store, id, false, true)
        {
            let _: ControlError = error;
            tell_line!("warning: the container {} could not be removed", id.short());
        }
    })
}
