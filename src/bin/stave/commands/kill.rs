//! `stave kill`: a signal to containers.

use std::process::ExitCode;

use stave::engine::container::{self, ControlError};

use super::container_flags::signal_number;
use super::context::{Context, each, find_container};
use crate::failure::Failure;

/// Kill containers, or send them another signal
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Names, ids or the beginnings of ids
    #[arg(required = true)]
    containers: Vec<String>,
    /// The signal
    #[arg(short, long, default_value = "KILL", value_parser = signal_number)]
    signal: i32,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let store = context.store()?;
    each(&args.containers, |name| {
        let container = find_container(&store, name)?;
        container::signal(&store, &container.id, args.signal).map_err(|error| match error {
            ControlError::NotRunning => Failure::new(format!("container `{name}` is not running")),
            error => error.into(),
        })
    })
}
