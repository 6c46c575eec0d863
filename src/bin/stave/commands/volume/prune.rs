//! `stave volume prune`

use std::process::ExitCode;

use stave::event::Kind;
use stave::store::Store;

use crate::commands::confirm;
use crate::commands::container::say_deleted;
use crate::commands::context::Context;
use crate::commands::filter::Filters;
use crate::failure::Failure;
use crate::progress::human_size;

/// Remove the volumes that no container uses
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Those too that somebody named
    #[arg(short, long)]
    all: bool,
    /// Those only that are so: `label=KEY[=VALUE]`, `label!=KEY[=VALUE]`; `all=true` is `-a`
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let filters = Filters::parse(&args.filter, &["all", "label", "label!"])?;
    let all = args.all || filters.truth("all")?.unwrap_or(false);
    let which = if all { "all volumes" } else { "all anonymous volumes" };
    if !args.force && !confirm(&format!("This removes {which} that no container uses."))? {
        return Ok(ExitCode::SUCCESS);
    }
    let freed = prune(&context.store()?, all, &filters)?;
    say_line!("Total reclaimed space: {}", human_size(freed));
    Ok(ExitCode::SUCCESS)
}

/// Removes volumes that no container uses and whose labels match, and says which; gives how many bytes that freed.
pub fn prune(store: &Store, all: bool, filters: &Filters) -> Result<u64, Failure> {
    let (removed, freed) = store.prune_volumes(all, |volume| filters.admits_labels(&volume.labels))?;
    say_deleted("Volumes", &removed);
    store.event(Kind::Volume, "prune", "", [("reclaimed", freed.to_string())]);
    Ok(freed)
}
