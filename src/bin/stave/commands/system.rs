//! `stave system`

use std::process::ExitCode;

use super::context::Context;
use super::spellings;
use crate::failure::Failure;

pub mod df;
pub mod info;
mod prune;

/// The store as a whole: how much it takes, what the machine can, and tidying up
#[derive(Debug, clap::Args)]
#[command(after_help = spellings::of_group("system"))]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Df(df::Args),
    Prune(prune::Args),
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    match args.verb {
        Verb::Df(args) => df::run(context, args),
        Verb::Prune(args) => prune::run(context, args),
    }
}
