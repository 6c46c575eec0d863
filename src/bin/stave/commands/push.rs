//! `stave push`

use std::process::ExitCode;

use stave::exporter::LayerFormat;
use stave::reference::Reference;

use super::context::{Context, find_image};
use crate::failure::Failure;
use crate::progress::Form;

/// Send an image to its registry
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The image's name, whose registry gets it
    image: Reference,
    /// Print nothing but the digest
    #[arg(short, long)]
    quiet: bool,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let form = if args.quiet { Form::Quiet } else { Form::Auto };
    context.with_engine(form, |engine| {
        let image = find_image(engine.store, &args.image.to_string())?;
        let pushed = engine.push(&image, &args.image, LayerFormat::default())?;
        say_line!(
            "{}: digest: {} size: {}",
            args.image.tag().unwrap_or("latest"),
            pushed.digest,
            pushed.size
        );
        Ok(ExitCode::SUCCESS)
    })
}
