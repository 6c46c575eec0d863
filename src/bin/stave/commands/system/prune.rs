//! `stave system prune`

use std::process::ExitCode;

use stave::store::prune::{PruneOptions, Pruned};

use super::super::container::{self, say_deleted};
use super::super::context::Context;
use super::super::filter::Filters;
use super::super::{confirm, image, network, volume};
use crate::failure::Failure;
use crate::progress::human_size;

/// Remove containers that do not run, networks that no container uses, images without a name and the build cache
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Remove all images that no container uses, named or not
    #[arg(short, long)]
    all: bool,
    /// Remove anonymous volumes that no container uses too, and what is in cache mounts
    #[arg(long)]
    volumes: bool,
    /// Only those that match: `until=24h`, `label=…`, `label!=…`
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let filters = Filters::parse(&args.filter, &["until", "label", "label!"])?;
    let until = filters.until()?;
    let networks = network::filters(&args.filter)?;
    if args.volumes && until.is_some() {
        return Err(Failure::usage("`--filter until` cannot be used with `--volumes`")
            .hint("nobody knows when a volume was last needed"));
    }
    let images = if args.all { "all images that no container uses" } else { "all images without a name" };
    let volumes = if args.volumes { ", anonymous volumes that no container uses" } else { "" };
    let question = format!(
        "This removes all containers that do not run, all networks that no container uses{volumes}, {images} \
         and the build cache."
    );
    if !args.force && !confirm(&question)? {
        return Ok(ExitCode::SUCCESS);
    }
    let store = context.store()?;
    let removed = container::prune(&store, &filters)?;
    say_deleted("Containers", &removed.ids);
    // What they alone used is unused now.
    network::prune(&store, &networks)?;
    let mut pruned = Pruned { bytes: removed.bytes, ..Pruned::default() };
    if args.volumes {
        pruned.bytes += volume::prune(&store, false, &filters)?;
    }
    let lines = image::prune(&store, args.all, &filters, &mut pruned)?;
    say_deleted("Images", &lines);
    // Labels say nothing of the build cache; then it stays, as nobody asked for it.
    if filters.values("label").is_empty() && filters.values("label!").is_empty() {
        let options = PruneOptions {
            build_cache: true,
            cache_mounts: args.volumes,
            unused_since: until,
            ..PruneOptions::default()
        };
        let cache = store.prune(options)?;
        pruned.bytes += cache.bytes;
        if cache.records > 0 {
            say_line!("Deleted build cache: {} records\n", cache.records);
        }
    }
    say_line!("Total reclaimed space: {}", human_size(pruned.bytes));
    Ok(ExitCode::SUCCESS)
}
