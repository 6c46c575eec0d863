//! `stave volume rm`

use std::process::ExitCode;

use stave::store::volumes::VolumeError;

use crate::commands::context::Context;
use crate::failure::Failure;

/// Remove volumes that no container uses
#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(required = true)]
    names: Vec<String>,
    /// It is no error if one is not there
    #[arg(short, long)]
    force: bool,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let store = context.store()?;
    let mut failed = None;
    for name in args.names {
        match store.remove_volume(&name) {
            Ok(()) => say_line!("{name}"),
            Err(VolumeError::Missing(_)) if args.force => say_line!("{name}"),
            Err(error) => {
                // Each is told; the last decides nothing more than that one failed.
                if let Some(before) = failed.replace(Failure::from_error(&error)) {
                    before.report();
                }
            }
        }
    }
    match failed {
        None => Ok(ExitCode::SUCCESS),
        Some(failure) => Err(failure),
    }
}
