//! `stave push`

use std::process::ExitCode;

use stave::exporter::{self, LayerFormat};
use stave::platform::Platform;
use stave::reference::Reference;

use super::context::{Context, find_image_for};
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
    /// Send the image for this platform alone, of a name that has several
    #[arg(long)]
    platform: Option<Platform>,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let form = if args.quiet { Form::Quiet } else { Form::Auto };
    context.with_engine(form, |engine| {
        let text = args.image.to_string();
        let index = match args.platform {
            None => engine.store.index_named(&args.image)?,
            Some(_) => None,
        };
        let pushed = match index {
            Some(index) => {
                let package = exporter::original_package(engine.store, index.digest)?;
                let mut known = Vec::new();
                for (image, _) in &index.members {
                    known.extend(engine.store.names_of(image.id)?);
                }
                engine.push_package(&package, &args.image, &known)?
            }
            None => {
                let image = find_image_for(engine.store, &text, args.platform.as_ref())?;
                engine.push(&image, &args.image, LayerFormat::default())?
            }
        };
        say_line!(
            "{}: digest: {} size: {}",
            args.image.tag().unwrap_or("latest"),
            pushed.digest,
            pushed.size
        );
        Ok(ExitCode::SUCCESS)
    })
}
