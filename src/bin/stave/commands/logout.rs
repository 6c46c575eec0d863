//! `stave logout`

use std::process::ExitCode;

use stave::registry::erase_login;

use super::context::{Context, program_folders};
use crate::failure::Failure;

/// Forget the credentials for a registry
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The registry's host, with its port if it has one
    #[arg(default_value = "docker.io")]
    registry: String,
}

pub fn run(_: &Context, args: Args) -> Result<ExitCode, Failure> {
    let registry = super::login::host_of(&args.registry)?;
    let Some(file) = crate::ambient::login_file() else { return Ok(ExitCode::SUCCESS) };
    let erased =
        erase_login(&file, &program_folders(), &registry).map_err(|error| Failure::from_error(&error))?;
    if erased {
        say_line!("Removed the credentials for {registry}");
    } else {
        say_line!("Not logged in to {registry}");
    }
    Ok(ExitCode::SUCCESS)
}
