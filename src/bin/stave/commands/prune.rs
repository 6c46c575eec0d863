//! `stave prune`

use std::process::ExitCode;

use stave::store::prune::PruneOptions;

use super::confirm;
use super::context::Context;
use crate::failure::Failure;
use crate::progress::human_size;

/// Remove what nobody needs: ended containers, images without a name, the build cache, leftovers of crashes
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Remove all images that no container uses, named or not
    #[arg(short, long)]
    all: bool,
    /// Remove what is in cache mounts too
    #[arg(long)]
    volumes: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let images = if args.all { "all images" } else { "all images without a name" };
    if !args.force && !confirm(&format!("This removes ended containers, {images} and the build cache."))? {
        return Ok(ExitCode::SUCCESS);
    }
    let options = PruneOptions {
        containers: true,
        unnamed_images: true,
        all_images: args.all,
        build_cache: true,
        cache_mounts: args.volumes,
        unused_since: None,
    };
    stave::runtime::sweep_cgroups();
    let pruned = context.store()?.prune(options)?;
    for container in &pruned.containers {
        say_line!("Deleted container: {container}");
    }
    for image in &pruned.images {
        say_line!("Deleted: {image}");
    }
    say_line!(
        "Removed {} images, {} layers, {} blobs and {} cache records",
        pruned.images.len(),
        pruned.layers,
        pruned.blobs,
        pruned.records
    );
    say_line!("Total reclaimed space: {}", human_size(pruned.bytes));
    Ok(ExitCode::SUCCESS)
}
