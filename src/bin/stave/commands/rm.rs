//! `stave rm`: containers and what they wrote go.

use std::process::ExitCode;

use stave::engine::container::{self, ControlError};
use stave::store::containers::Named;

use super::container_flags::refused::refuse;
use super::context::{Context, each, find_container};
use crate::failure::Failure;

/// Remove containers
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Names, ids or the beginnings of ids
    #[arg(required = true)]
    containers: Vec<String>,
    /// Kill those that run; say nothing of those that are not there
    #[arg(short, long)]
    force: bool,
    /// Remove the volumes too that nobody named
    #[arg(short, long)]
    volumes: bool,
    /// Docker's, of old: removes a link
    #[arg(short, long, hide = true)]
    link: bool,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    refuse(&[("link", args.link, "there are no links: a network is left with `stave network disconnect`")])?;
    let store = context.store()?;
    each(&args.containers, |name| {
        // As Docker: what shall not be there is not, and scripts go on.
        if args.force && store.container(name)? == Named::None {
            return Ok(());
        }
        let container = find_container(&store, name)?;
        container::remove(&store, &container.id, args.force, args.volumes).map_err(|error| match error {
            ControlError::Running => Failure::new(format!("container `{name}` is running"))
                .hint("stop it first with `stave stop`, or remove it with `stave rm --force`"),
            error => error.into(),
        })
    })
}
