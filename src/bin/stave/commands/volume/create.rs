//! `stave volume create`

use std::process::ExitCode;

use stave::store::volumes::{NewVolume, VolumeError};

use crate::commands::context::Context;
use crate::failure::Failure;

/// Create a volume
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Its name [default: one of 64 digits]
    name: Option<String>,
    /// Its name, as Docker took it once
    #[arg(long = "name", hide = true, value_name = "NAME", conflicts_with = "name")]
    named: Option<String>,
    /// Who keeps it: `local`
    #[arg(short, long, default_value = "local")]
    driver: String,
    /// Add a label
    #[arg(long, value_name = "KEY[=VALUE]")]
    label: Vec<String>,
    /// What it is instead of a folder of the store: `type=none`, `o=bind`, `device=/a/folder`; or `type=tmpfs`,
    /// `device=tmpfs`, `o=size=64m,mode=1777,uid=0` for memory
    #[arg(short, long, value_name = "KEY=VALUE")]
    opt: Vec<String>,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    if args.driver != "local" {
        return Err(Failure::from_error(&VolumeError::Driver(args.driver)));
    }
    let store = context.store()?;
    // As in Docker, one that was named is kept by `volume prune` without `-a`, whatever its name looks like.
    let name = args.name.or(args.named);
    let anonymous = name.is_none();
    let name = match name {
        Some(name) => name,
        None => store.new_volume_name()?,
    };
    let new =
        NewVolume { name, labels: super::pairs(&args.label), options: super::pairs(&args.opt), anonymous };
    let volume = store.create_volume(&new).map_err(|error| Failure::from_error(&error))?;
    say_line!("{}", volume.name);
    Ok(ExitCode::SUCCESS)
}
