//! `stave start`: containers that were created, or that ended, run.

use std::process::ExitCode;

use stave::engine::container;
use stave::engine::container::config::RestartPolicy;
use stave::runtime::monitor::{Status, Streams};
use stave::store::Store;

use super::context::{Context, each, find_container};
use crate::attached::{self, Attachment, DETACH_KEYS};
use crate::failure::Failure;
use crate::{signals, terminal};

/// Start containers
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Names, ids or the beginnings of ids
    #[arg(required_unless_present = "all")]
    containers: Vec<String>,
    /// Every container whose restart policy wants it to run after the machine has started: `always`, and
    /// `unless-stopped` that nobody stopped
    #[arg(long, conflicts_with_all = ["containers", "attach", "interactive"])]
    all: bool,
    /// With --all, those of one policy only: `restart-policy=always`
    #[arg(long, value_name = "restart-policy=POLICY", requires = "all", value_parser = policy)]
    filter: Vec<String>,
    /// Attach to its output, and leave with its exit code
    #[arg(short, long)]
    attach: bool,
    /// Pass standard input on
    #[arg(short, long)]
    interactive: bool,
    /// The keys that leave a terminal without ending the container
    #[arg(long, value_name = "KEYS", default_value = DETACH_KEYS)]
    detach_keys: String,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    if args.attach || args.interactive {
        let [name] = &args.containers[..] else {
            return Err(Failure::usage("one container at most can be attached to"));
        };
        return attended(context, &args, name);
    }
    let store = context.store()?;
    let names = if args.all { wanted(&store, &args.filter)? } else { args.containers };
    each(&names, |name| {
        let container = find_container(&store, name)?;
        if container::state(&store, &container.id)?.status.is_live() {
            return Ok(());
        }
        context.start(&store, &container.id, None, None, terminal::size(), None).map(drop)
    })
}

/// Reads a filter: there is one kind.
fn policy(text: &str) -> Result<String, String> {
    let known = ["no", "on-failure", "always", "unless-stopped"];
    match text.strip_prefix("restart-policy=") {
        Some(policy) if known.contains(&policy) => Ok(policy.to_owned()),
        Some(policy) => Err(format!("`{policy}` is none of `{}`", known.join("`, `"))),
        None => Err("expected `restart-policy=POLICY`".to_owned()),
    }
}

/// The containers that `--all` means, by name; with filters those of these policies, stopped by hand or not.
fn wanted(store: &Store, filters: &[String]) -> Result<Vec<String>, Failure> {
    let mut names = Vec::new();
    for stored in store.containers()? {
        let policy = container::config(&stored)?.life.restart;
        let state = container::state(store, &stored.id)?;
        let word = match policy {
            RestartPolicy::No => "no",
            RestartPolicy::OnFailure(_) => "on-failure",
            RestartPolicy::Always => "always",
            RestartPolicy::UnlessStopped => "unless-stopped",
        };
        let after_boot = match policy {
            RestartPolicy::Always => true,
            RestartPolicy::UnlessStopped => !state.stopped_by_hand,
            RestartPolicy::No | RestartPolicy::OnFailure(_) => false,
        };
        let asked = if filters.is_empty() { after_boot } else { filters.iter().any(|filter| filter == word) };
        // One that was only created was never meant to run yet, unless its policy is asked for by name.
        let ran = state.status != Status::Created || !filters.is_empty();
        if asked && ran && !state.status.is_live() {
            names.push(stored.name);
        }
    }
    // The oldest first: others may count on it.
    names.reverse();
    Ok(names)
}

fn attended(context: &Context, args: &Args, name: &str) -> Result<ExitCode, Failure> {
    let forwarder = signals::Forwarder::new();
    let store = context.store()?;
    let container = find_container(&store, name)?;
    let config = container::config(&container)?;
    let streams =
        Streams { stdin: args.interactive && config.process.stdin_open, stdout: true, stderr: true };
    let keys = attached::detach_keys(&args.detach_keys)
        .map_err(|what| Failure::usage(format!("--detach-keys `{}`: {what}", args.detach_keys)))?;
    let attachment = Attachment { streams, tty: config.process.tty, proxy: true, keys };
    attachment.check()?;
    let mut started = context.start(&store, &container.id, None, Some(streams), terminal::size(), None)?;
    let monitor = started.live.client.take().expect("something was to be attached");
    let connection = monitor.writer()?;
    let outcome = attachment.hold(&store, &container.id, monitor, &forwarder)?;
    attached::conclude(&store, &container.id, &config, outcome, started.lock.zip(Some(connection)))
        .map(ExitCode::from)
}
