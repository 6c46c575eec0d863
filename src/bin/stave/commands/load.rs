//! `stave load`

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

use stave::event::Kind;
use stave::platform::Platform;
use stave::store::archive::Wanted;

use super::context::Context;
use crate::failure::Failure;

/// Load images from an archive: of `docker save`, or an OCI layout; plain, gzip, zstd, xz or bzip2
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Read this file instead of standard input
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// Load the image for this platform alone [default: all that a name has in the archive]
    #[arg(long)]
    platform: Option<Platform>,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let store = context.store()?;
    let archive = open(args.input)?;
    let wanted = match args.platform {
        Some(platform) => Wanted::One(platform),
        None => Wanted::All { main: Platform::host() },
    };
    for loaded in store.load(archive, &wanted)? {
        let name = loaded.names.first().map_or_else(|| loaded.id.to_string(), |name| name.familiar());
        store.event(Kind::Image, "load", loaded.id.to_string(), [("name", name)]);
        if args.quiet {
            continue;
        }
        for (name, before) in &loaded.replaced {
            say_line!("The image {} no longer has the name {}", before.0.short(), name.familiar());
        }
        if loaded.names.is_empty() {
            say_line!("Loaded image ID: {}", loaded.id);
        }
        for name in &loaded.names {
            say_line!("Loaded image: {}", name.familiar());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A file, or standard input.
pub fn open(path: Option<PathBuf>) -> Result<Box<dyn Read + Send>, Failure> {
    match path.filter(|path| path.as_os_str() != "-") {
        Some(path) => match std::fs::File::open(&path) {
            Ok(file) => Ok(Box::new(file)),
            Err(error) => Err(Failure::new(format!("cannot open `{}`: {error}", path.display()))),
        },
        None => {
            use std::io::IsTerminal;
            if std::io::stdin().is_terminal() {
                return Err(
                    Failure::usage("standard input is a terminal").hint("name a file, or pipe an archive in")
                );
            }
            Ok(Box::new(std::io::stdin()))
        }
    }
}
