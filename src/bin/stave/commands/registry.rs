//! `stave registry`: a registry of one's own.

use std::path::PathBuf;
use std::process::ExitCode;

use super::context::Context;
use crate::failure::Failure;
use crate::progress::human_size;

mod serve;

/// Be a registry: for the images of this store, or in a folder
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Serve(serve::Args),
    Gc(GcArgs),
}

/// Remove what no manifest of a registry's folder names any more
///
/// `stave registry serve --folder` does this too, when it begins and every hour. What nothing names is kept
/// for a day after it was last asked for, since a push names its blobs only in the end. The store needs no
/// such thing: `stave prune` knows what is served from it.
#[derive(Debug, clap::Args)]
struct GcArgs {
    /// The registry's folder
    #[arg(long, value_name = "DIR")]
    folder: PathBuf,
    /// Remove manifests too that no tag leads to, by an index or by being about one that is kept
    #[arg(long)]
    untagged: bool,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    match args.verb {
        Verb::Serve(args) => serve::run(context, args),
        Verb::Gc(args) => {
            if !args.folder.is_dir() {
                return Err(Failure::new(format!("there is no folder `{}`", args.folder.display())));
            }
            let folder = stave::serve::folder::Folder::open(&args.folder, crate::ambient::now)?;
            let collected = folder.collect(args.untagged)?;
            say_line!("Removed {} manifests and {} blobs", collected.manifests, collected.blobs);
            say_line!("Total reclaimed space: {}", human_size(collected.bytes));
            Ok(ExitCode::SUCCESS)
        }
    }
}
