//! `stave stop`: containers are asked to end, and killed if they do not.

use std::process::ExitCode;

use stave::engine::container;

use super::container_flags::signal_number;
use super::context::{Context, each, find_container};
use crate::failure::Failure;

/// Stop containers
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Names, ids or the beginnings of ids
    #[arg(required = true)]
    containers: Vec<String>,
    #[command(flatten)]
    pub how: How,
}

/// How a container is stopped.
#[derive(Debug, clap::Args)]
pub struct How {
    /// Seconds until it is killed; -1 for never [default: the container's, or 10]
    #[arg(short, long, visible_alias = "time", value_name = "SECONDS", allow_negative_numbers = true)]
    pub timeout: Option<i64>,
    /// What is sent first [default: the container's, or SIGTERM]
    #[arg(short, long, value_name = "SIGNAL", value_parser = signal_number)]
    pub signal: Option<i32>,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let store = context.store()?;
    each(&args.containers, |name| {
        let container = find_container(&store, name)?;
        container::stop(&store, &container.id, args.how.signal, args.how.timeout)?;
        Ok(())
    })
}
