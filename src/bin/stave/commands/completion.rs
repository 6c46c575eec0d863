//! `stave completion`

use std::process::ExitCode;

use clap::CommandFactory;

use super::context::Context;
use crate::failure::Failure;

/// Print completions for a shell
#[derive(Debug, clap::Args)]
pub struct Args {
    shell: clap_complete::Shell,
}

pub fn run(_: &Context, args: Args) -> Result<ExitCode, Failure> {
    clap_complete::generate(args.shell, &mut super::Arguments::command(), "stave", &mut std::io::stdout());
    Ok(ExitCode::SUCCESS)
}
