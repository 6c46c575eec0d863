//! `stave tag`

use std::process::ExitCode;

use stave::event::Kind;
use stave::reference::Reference;

use super::context::{Context, find_image, find_index};
use crate::failure::Failure;

/// Give an image one more name
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A name or an id
    image: String,
    /// The new name
    name: Reference,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let store = context.store()?;
    let image = find_image(&store, &args.image)?;
    let index = find_index(&store, &args.image)?;
    if args.name.digest().is_some() {
        return Err(Failure::usage(format!(
            "`{}` has a digest, which no one can choose",
            args.name.familiar()
        )));
    }
    match index {
        Some((from, _)) => store.copy_name(&from, &args.name)?,
        None => drop(store.tag(&args.name, image.id)?),
    }
    store.event(Kind::Image, "tag", image.id.to_string(), [("name", args.name.familiar())]);
    Ok(ExitCode::SUCCESS)
}
