//! `stave import`

use std::path::PathBuf;
use std::process::ExitCode;

use stave::event::Kind;
use stave::image::ImageConfig;
use stave::platform::Platform;
use stave::reference::Reference;

use super::context::Context;
use crate::failure::Failure;

/// Make an image of a root file system: a tar, compressed or not, such as mmdebstrap writes
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The archive; `-` is standard input
    file: PathBuf,
    /// The image's name
    name: Option<Reference>,
    /// Dockerfile instructions for the image's config: CMD, ENTRYPOINT, ENV, WORKDIR, USER, LABEL…
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// What the history says
    #[arg(short, long, default_value = "")]
    message: String,
    /// What the image runs on [default: this machine's]
    #[arg(long)]
    platform: Option<Platform>,
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let platform = args.platform.unwrap_or_else(Platform::host);
    let config = changed(ImageConfig::scratch(&platform), &args.change, &platform)?;
    let store = context.store()?;
    let message =
        if args.message.is_empty() { format!("Imported from {}", args.file.display()) } else { args.message };
    let id = store.import(super::load::open(Some(args.file))?, config, &message)?;
    let name = args.name.as_ref().map_or_else(|| id.to_string(), |name| name.familiar());
    if let Some(name) = args.name {
        store.tag(&name, id)?;
    }
    store.event(Kind::Image, "import", id.to_string(), [("name", name)]);
    say_line!("{id}");
    Ok(ExitCode::SUCCESS)
}

/// The config that these instructions give, read as a Dockerfile on an empty image.
fn changed(mut config: ImageConfig, changes: &[String], platform: &Platform) -> Result<ImageConfig, Failure> {
    use stave::parser::{Lowering, lower, parse};
    if changes.is_empty() {
        return Ok(config);
    }
    let text = format!("FROM scratch\n{}\n", changes.join("\n"));
    let source = stave::diagnostic::SourceText::new("--change", text);
    let dockerfile = parse(&source).map_err(|findings| Failure::from_diagnostics(&findings))?;
    let options = super::build::plain_options(platform);
    match lower(&dockerfile, &options, &Default::default())
        .map_err(|findings| Failure::from_diagnostics(&findings))?
    {
        Lowering::Done(lowered) if lowered.history.iter().all(|entry| entry.vertex.is_none()) => {
            config.config = lowered.config.config;
            Ok(config)
        }
        _ => Err(Failure::usage(
            "--change takes instructions that change the config alone, not RUN, COPY, ADD or FROM",
        )),
    }
}
