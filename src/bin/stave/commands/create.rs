//! `stave create`: a container that does not run yet.

use std::process::ExitCode;

use super::container_flags::Flags;
use super::context::Context;
use crate::failure::Failure;

/// Create a container without starting it
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    flags: Flags,
}

impl Args {
    /// The image, and the command after it.
    pub fn image_and_command(self) -> (String, Vec<String>) {
        (self.flags.image, self.flags.command)
    }
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let store = context.store()?;
    let created = super::run::create(&store, &args.flags, super::run::new_id()?, true)?;
    say_line!("{}", created.id);
    Ok(ExitCode::SUCCESS)
}
