//! `stave image`: what only this spelling has; the rest is in `spellings.rs`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use stave::digest::ImageId;
use stave::event::Kind;
use stave::store::Store;
use stave::store::prune::{PruneOptions, Pruned};

use super::container::say_deleted;
use super::context::Context;
use super::filter::Filters;
use super::{confirm, spellings};
use crate::failure::Failure;
use crate::progress::human_size;

/// Images: `ls`, `build`, `rm` and all the verbs there are for them, and `prune`
#[derive(Debug, clap::Args)]
#[command(after_help = spellings::of_group("image"))]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Prune(PruneArgs),
}

/// Remove images that have no name
#[derive(Debug, clap::Args)]
struct PruneArgs {
    /// Remove all that no container uses, named or not
    #[arg(short, long)]
    all: bool,
    /// Only those that match: `until=24h`, `label=…`, `label!=…`
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let Verb::Prune(args) = args.verb;
    let filters = Filters::parse(&args.filter, &["until", "label", "label!", "dangling"])?;
    filters.until()?;
    let all = args.all || filters.truth("dangling")? == Some(false);
    let what = if all { "all images that no container uses" } else { "all images without a name" };
    if !args.force && !confirm(&format!("This removes {what}."))? {
        return Ok(ExitCode::SUCCESS);
    }
    let store = context.store()?;
    let mut pruned = Pruned::default();
    let lines = prune(&store, all, &filters, &mut pruned)?;
    say_deleted("Images", &lines);
    say_line!("Total reclaimed space: {}", human_size(pruned.bytes));
    Ok(ExitCode::SUCCESS)
}

/// Removes images that no container uses, and have no name unless `all`; gives what is to be said of it.
pub fn prune(
    store: &Store,
    all: bool,
    filters: &Filters,
    pruned: &mut Pruned,
) -> Result<Vec<String>, Failure> {
    let mut lines = Vec::new();
    let mut forgotten: Vec<ImageId> = Vec::new();
    let until = filters.until()?;
    let used: Vec<ImageId> = store.containers()?.into_iter().map(|row| row.image).collect();
    for listed in store.images()? {
        let image = &listed.image;
        let members = match &listed.name {
            Some(name) => store.index_named(name)?.map(|index| index.members).unwrap_or_default(),
            None => Vec::new(),
        };
        let ids: Vec<ImageId> =
            std::iter::once(image.id).chain(members.iter().map(|(member, _)| member.id)).collect();
        if listed.name.is_some() && !all || ids.iter().any(|id| used.contains(id)) {
            continue;
        }
        let labels: BTreeMap<String, String> =
            store.image_config(image.id).map(|(config, _)| config.config.labels).unwrap_or_default();
        if until.is_some_and(|until| image.created >= until) || !filters.admits_labels(&labels) {
            continue;
        }
        if let Some(name) = &listed.name {
            store.untag(name)?;
            lines.push(format!("untagged: {}", name.familiar()));
            store.event(Kind::Image, "untag", image.id.to_string(), [("name", image.id.to_string())]);
        }
        forgotten.extend(ids);
    }
    for id in forgotten {
        if store.forget_image(id)? {
            lines.push(format!("deleted: {id}"));
            store.event(Kind::Image, "delete", id.to_string(), [("name", id.to_string())]);
        }
    }
    let before = pruned.bytes;
    store.sweep(pruned)?;
    store.event(Kind::Image, "prune", "", [("reclaimed", (pruned.bytes - before).to_string())]);
    Ok(lines)
}

/// `stave builder`: the build cache.
pub mod builder {
    use super::*;

    /// The build cache: `prune`; and `build`
    #[derive(Debug, clap::Args)]
    #[command(after_help = spellings::of_group("builder"))]
    pub struct Args {
        #[command(subcommand)]
        verb: Verb,
    }

    #[derive(Debug, clap::Subcommand)]
    enum Verb {
        Prune(PruneArgs),
    }

    /// Remove the build cache
    #[derive(Debug, clap::Args)]
    struct PruneArgs {
        /// Remove what is in cache mounts too
        #[arg(short, long)]
        all: bool,
        /// Only what was not used since: `until=24h`
        #[arg(long, value_name = "KEY=VALUE")]
        filter: Vec<String>,
        /// Do not ask
        #[arg(short, long)]
        force: bool,
    }

    pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
        let Verb::Prune(args) = args.verb;
        let filters = Filters::parse(&args.filter, &["until"])?;
        let unused_since = filters.until()?;
        if !args.force && !confirm("This removes the build cache.")? {
            return Ok(ExitCode::SUCCESS);
        }
        let options = PruneOptions {
            build_cache: true,
            cache_mounts: args.all,
            unused_since,
            ..PruneOptions::default()
        };
        let store = context.store()?;
        let pruned = store.prune(options)?;
        store.event(Kind::Builder, "prune", "", [("reclaimed", pruned.bytes.to_string())]);
        say_line!("Removed {} cache records", pruned.records);
        say_line!("Total reclaimed space: {}", human_size(pruned.bytes));
        Ok(ExitCode::SUCCESS)
    }
}
