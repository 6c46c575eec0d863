//! `stave restart`: stop, then start.

use std::process::ExitCode;

use stave::engine::container;
use stave::event::Kind;

use super::context::{Context, each, find_container};
use super::stop::How;
use crate::failure::Failure;
use crate::terminal;

/// Restart containers
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Names, ids or the beginnings of ids
    #[arg(required = true)]
    containers: Vec<String>,
    #[command(flatten)]
    how: How,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let store = context.store()?;
    each(&args.containers, |name| {
        let container = find_container(&store, name)?;
        let _claim = store.claim_container(&container.id)?;
        container::stop_to_start(&store, &container.id, args.how.signal, args.how.timeout)?;
        context.start(&store, &container.id, None, None, terminal::size(), None)?;
        let attributes = container::attributes(&container::see(&store, container.clone())?);
        store.event(Kind::Container, "restart", container.id.as_str(), attributes);
        Ok(())
    })
}
