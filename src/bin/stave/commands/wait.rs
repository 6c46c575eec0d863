//! `stave wait`: until containers end.

use std::process::ExitCode;

use stave::engine::container;

use super::context::{Context, each_quietly, find_container};
use crate::failure::Failure;

/// Wait until containers have ended, and print their exit codes
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Names, ids or the beginnings of ids
    #[arg(required = true)]
    containers: Vec<String>,
    /// For what: `not-running`, `next-exit` or `removed`
    #[arg(long, default_value = "not-running", value_parser = ["not-running", "next-exit", "removed"])]
    condition: String,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let store = context.store()?;
    each_quietly(&args.containers, |name| {
        let container = find_container(&store, name)?;
        let code = match args.condition.as_str() {
            "removed" => container::wait_for_removal(&store, &container.id)?,
            condition => container::wait(&store, &container.id, condition == "next-exit")?,
        };
        say_line!("{code}");
        Ok(())
    })
}
