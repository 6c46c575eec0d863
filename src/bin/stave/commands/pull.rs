//! `stave pull`

use std::process::ExitCode;

use stave::engine::Policy;
use stave::platform::Platform;
use stave::reference::Reference;

use super::context::Context;
use crate::failure::Failure;
use crate::progress::Form;

/// Fetch an image from its registry
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The image's name
    image: Reference,
    /// Fetch the image for this platform [default: this machine's]
    #[arg(long)]
    platform: Option<Platform>,
    /// Fetch the images for all platforms, and the index above them
    #[arg(long, conflicts_with = "platform")]
    all_platforms: bool,
    /// Print the id only
    #[arg(short, long)]
    quiet: bool,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let form = if args.quiet { Form::Quiet } else { Form::Auto };
    context.with_engine(form, |engine| {
        let platform = args.platform.unwrap_or_else(Platform::host);
        let image = match args.all_platforms {
            true => engine.pull_all(&args.image, &platform),
            false => engine.pull(&args.image, &platform, Policy::Always),
        };
        let image = image.map_err(|error| Failure::from_error(&error))?;
        say_line!("{}", if args.quiet { image.id.to_string() } else { args.image.to_string() });
        Ok(ExitCode::SUCCESS)
    })
}
