//! `stave network`: networks of containers, a file for each verb.

use std::collections::BTreeMap;
use std::process::ExitCode;

use stave::engine::network::NetworkError;
use stave::runtime::network::{Machine, NetworkError as MachineError};

use super::context::Context;
use crate::ambient;
use crate::failure::Failure;

mod connect;
mod create;
mod disconnect;
mod inspect;
mod ls;
mod prune;
mod rm;

/// Manage networks
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Connect(connect::Args),
    Create(create::Args),
    Disconnect(disconnect::Args),
    Inspect(inspect::Args),
    #[command(alias = "list")]
    Ls(ls::Args),
    Prune(prune::Args),
    #[command(alias = "remove")]
    Rm(rm::Args),
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    match args.verb {
        Verb::Connect(args) => connect::run(context, args),
        Verb::Create(args) => create::run(context, args),
        Verb::Disconnect(args) => disconnect::run(context, args),
        Verb::Inspect(args) => inspect::run(context, args),
        Verb::Ls(args) => ls::run(context, args),
        Verb::Prune(args) => prune::run(context, args),
        Verb::Rm(args) => rm::run(context, args),
    }
}

/// Where bridges are made.
fn bridges() -> Result<Machine, Failure> {
    match ambient::has_bridges() {
        true => Ok(ambient::machine()),
        false => Err(Failure::from_error(&MachineError::NoNft).hint(
            "without it each container has a network of its own; `--network container:NAME` shares another container's",
        )),
    }
}

pub use inspect::inspected;
pub use prune::{filters, prune};

/// An error of networks, with what to do about it.
pub fn failure(error: &NetworkError) -> Failure {
    let failure = Failure::from_error(error);
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// `NAME=VALUE`, or a name alone for an empty value, as Docker reads labels.
fn pairs(texts: &[String]) -> BTreeMap<String, String> {
    texts
        .iter()
        .map(|text| {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            (name.to_owned(), value.to_owned())
        })
        .collect()
}

/// Does `work` for each, and fails in the end if one failed.
fn each(texts: &[String], mut work: impl FnMut(&str) -> Result<(), Failure>) -> Result<ExitCode, Failure> {
    let mut code = ExitCode::SUCCESS;
    for text in texts {
        if let Err(failure) = work(text) {
            code = failure.report();
        }
    }
    Ok(code)
}
