//! `stave unpause`: paused containers go on.

use std::process::ExitCode;

use stave::engine::container::resources;

use super::context::{Context, each, find_container};
use crate::failure::Failure;

/// Let the processes of paused containers go on
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Names, ids or the beginnings of ids
    #[arg(required = true)]
    containers: Vec<String>,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let store = context.store()?;
    each(&args.containers, |name| {
        let container = find_container(&store, name)?;
        resources::unpause(&store, &container).map_err(|error| Failure::from_error(&error))
    })
}
