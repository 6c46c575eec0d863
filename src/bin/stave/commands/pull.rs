//! `stave pull`

use std::process::ExitCode;

use stave::engine::{Engine, Policy, PullError, Pulled};
use stave::platform::Platform;
use stave::reference::Reference;

use super::context::Context;
use crate::failure::Failure;
use crate::progress::Form;

/// Fetch an image from its registry
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The image's name
    image: String,
    /// Fetch the image for this platform [default: this machine's]
    #[arg(long)]
    platform: Option<Platform>,
    /// Fetch the images for all platforms, and the index above them
    #[arg(long, conflicts_with = "platform")]
    all_platforms: bool,
    /// Fetch every tag of the repository
    #[arg(short, long, conflicts_with = "all_platforms")]
    all_tags: bool,
    /// Print the id only
    #[arg(short, long)]
    quiet: bool,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let name = Reference::parse(&args.image)?;
    let form = if args.quiet { Form::Quiet } else { Form::Auto };
    context.with_engine(form, |engine| {
        let platform = args.platform.clone().unwrap_or_else(Platform::host);
        let fetch = |name: &Reference| match args.all_platforms {
            true => engine.pull_all(name, &platform),
            false => engine.pull(name, &platform, Policy::Always),
        };
        let failed = |error: PullError| Failure::from_error(&error);
        if !args.all_tags {
            say(&name, &fetch(&name).map_err(failed)?, args.quiet);
            return Ok(ExitCode::SUCCESS);
        }
        let mut fetched = 0;
        for tagged in tags(engine, &args.image, &name)? {
            match fetch(&tagged) {
                Ok(pulled) => {
                    fetched += 1;
                    say(&tagged, &pulled, args.quiet);
                }
                // Signatures lie beside images under tags of their own, and images may be for others.
                Err(error @ (PullError::NotAnImage { .. } | PullError::Platform { .. })) => {
                    engine.progress.warn(error.to_string());
                }
                Err(error) => return Err(failed(error)),
            }
        }
        match fetched {
            0 => Err(Failure::new(format!("`{}` has no image for {platform}", name.familiar_repository()))),
            _ => Ok(ExitCode::SUCCESS),
        }
    })
}

/// The names of a repository's tags.
fn tags(engine: &Engine<'_>, text: &str, name: &Reference) -> Result<Vec<Reference>, Failure> {
    let last = text.rsplit_once('/').map_or(text, |(_, last)| last);
    if last.contains([':', '@']) {
        return Err(Failure::usage(format!("--all-tags: `{text}` names one image"))
            .hint(format!("leave the tag out: `{}`", name.familiar_repository())));
    }
    let tags = engine.tags_of(name).map_err(|error| Failure::from_error(&error))?;
    Ok(tags.iter().filter_map(|tag| name.with_tag(tag).ok()).collect())
}

/// What came of it, in Docker's words.
fn say(name: &Reference, pulled: &Pulled, quiet: bool) {
    if quiet {
        say_line!("{}", pulled.image.id);
        return;
    }
    if let Some(digest) = pulled.digest {
        say_line!("Digest: {digest}");
    }
    match pulled.is_new {
        true => say_line!("Status: Downloaded newer image for {}", name.familiar()),
        false => say_line!("Status: Image is up to date for {}", name.familiar()),
    }
    say_line!("{name}");
}
