//! `stave attach`: a person in front of a container that runs.

use std::process::ExitCode;

use stave::engine::container;
use stave::runtime::monitor::Streams;

use super::context::{Context, find_container};
use crate::attached::{self, Attachment, DETACH_KEYS};
use crate::failure::Failure;
use crate::signals;

/// Attach to a running container's input and output
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A name, an id or the beginning of one
    container: String,
    /// Leave its input alone
    #[arg(long)]
    no_stdin: bool,
    /// The keys that leave a terminal without ending the container
    #[arg(long, value_name = "KEYS", default_value = DETACH_KEYS)]
    detach_keys: String,
    /// Pass signals on to the container
    #[arg(long, value_name = "BOOL", default_value = "true", num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    sig_proxy: bool,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let forwarder = signals::Forwarder::new();
    let store = context.store()?;
    let container = find_container(&store, &args.container)?;
    let config = container::config(&container)?;
    let streams = Streams { stdin: !args.no_stdin && config.process.stdin_open, stdout: true, stderr: true };
    let keys = attached::detach_keys(&args.detach_keys)
        .map_err(|what| Failure::usage(format!("--detach-keys `{}`: {what}", args.detach_keys)))?;
    let attachment = Attachment { streams, tty: config.process.tty, proxy: args.sig_proxy, keys };
    attachment.check()?;
    let Some(mut monitor) = container::connect(&store, &container.id)? else {
        return Err(Failure::new(format!("container `{}` is not running", args.container))
            .hint("`stave start -a` starts it and attaches to it"));
    };
    attached::attach(&mut monitor, streams)?;
    let outcome = attachment.hold(&store, &container.id, monitor, &forwarder)?;
    attached::conclude(&store, &container.id, &config, outcome, None).map(ExitCode::from)
}
