//! `stave volume`: a file for each of its verbs.

use std::process::ExitCode;

use clap::Subcommand;

use super::context::Context;
use crate::failure::Failure;

mod create;
mod inspect;
mod ls;
mod prune;
mod rm;

/// Manage volumes: directories that outlive the containers that mount them
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Create(create::Args),
    #[command(visible_alias = "list")]
    Ls(ls::Args),
    Inspect(inspect::Args),
    #[command(visible_alias = "remove")]
    Rm(rm::Args),
    Prune(prune::Args),
}

pub use inspect::document;
pub use prune::prune;

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    match args.verb {
        Verb::Create(args) => create::run(context, args),
        Verb::Ls(args) => ls::run(context, args),
        Verb::Inspect(args) => inspect::run(context, args),
        Verb::Rm(args) => rm::run(context, args),
        Verb::Prune(args) => prune::run(context, args),
    }
}

/// `KEY=VALUE` texts as pairs; one without a value is empty.
fn pairs(texts: &[String]) -> std::collections::BTreeMap<String, String> {
    texts
        .iter()
        .map(|text| text.split_once('=').unwrap_or((text, "")))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// Whether labels are what a filter `KEY` or `KEY=VALUE` asks for.
fn has_label(labels: &std::collections::BTreeMap<String, String>, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|found| found == value),
        None => labels.contains_key(wanted),
    }
}
