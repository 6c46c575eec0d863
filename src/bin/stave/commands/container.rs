//! `stave container`: what only this spelling has; the rest is in `spellings.rs`.

use std::process::ExitCode;

use stave::engine::container::{self, Seen};
use stave::event::Kind;
use stave::store::Store;
use stave::store::containers::Stay;

use super::context::Context;
use super::filter::Filters;
use super::{confirm, spellings};
use crate::failure::Failure;
use crate::progress::human_size;

/// Containers: `ls`, `run`, `rm` and all the verbs there are for them, and `prune`
#[derive(Debug, clap::Args)]
#[command(after_help = spellings::of_group("container"))]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Prune(PruneArgs),
}

/// Remove all containers that do not run
#[derive(Debug, clap::Args)]
struct PruneArgs {
    /// Only those that match: `until=24h`, `label=…`, `label!=…`
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let Verb::Prune(args) = args.verb;
    let filters = Filters::parse(&args.filter, &["until", "label", "label!"])?;
    filters.until()?;
    if !args.force && !confirm("This removes all containers that do not run.")? {
        return Ok(ExitCode::SUCCESS);
    }
    let store = context.store()?;
    let removed = prune(&store, &filters)?;
    say_deleted("Containers", &removed.ids);
    say_line!("Total reclaimed space: {}", human_size(removed.bytes));
    Ok(ExitCode::SUCCESS)
}

/// What was removed.
#[derive(Debug, Default)]
pub struct Removed {
    pub ids: Vec<String>,
    pub bytes: u64,
}

/// Removes containers that do not run and match.
pub fn prune(store: &Store, filters: &Filters) -> Result<Removed, Failure> {
    stave::runtime::sweep_cgroups();
    let mut removed = Removed::default();
    for seen in container::see_all(store)? {
        if seen.is_up() || !filters.admits_for_prune(&seen)? {
            continue;
        }
        let bytes = store.container_size(&seen.row.id);
        // Somebody may have started it, or removed it, since it was looked at.
        if remove(store, &seen)? {
            removed.bytes += bytes;
            removed.ids.push(seen.row.id.to_string());
        }
    }
    store.event(Kind::Container, "prune", "", [("reclaimed", removed.bytes.to_string())]);
    Ok(removed)
}

fn remove(store: &Store, seen: &Seen) -> Result<bool, Failure> {
    let Some(lock) = store.try_lock_container(&seen.row.id)? else { return Ok(false) };
    let is_there = matches!(
        store.container(seen.row.id.as_str())?,
        stave::store::containers::Named::One(row) if row.id == seen.row.id
    );
    if is_there {
        store.remove_container(&seen.row.id, Stay::Lasting, &lock)?;
    }
    Ok(is_there)
}

/// Says what was removed, in Docker's way: nothing if nothing was.
pub fn say_deleted(what: &str, names: &[String]) {
    if !names.is_empty() {
        say_line!("Deleted {what}:");
        names.iter().for_each(|name| crate::say::text(name));
        say_line!();
    }
}
