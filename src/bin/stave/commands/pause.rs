//! `stave pause`: containers stopped in their tracks.

use std::process::ExitCode;

use stave::engine::container::resources;

use super::context::{Context, each, find_container};
use crate::failure::Failure;

/// Stop all processes of containers where they are
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
        resources::pause(&store, &container).map_err(|error| Failure::from_error(&error))
    })
}
