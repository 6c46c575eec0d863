//! `stave commit`: a container becomes an image.

use std::process::ExitCode;

use stave::engine::container;
use stave::engine::container::diff::{self, CommitRequest, DiffError};
use stave::image::{ContainerConfig, ImageConfig};
use stave::parser::{BuildOptions, Lowering, ResolvedImage, lower, parse};
use stave::platform::Platform;
use stave::reference::Reference;

use super::context::{Context, find_container};
use crate::failure::Failure;

/// Make an image of a container and what it wrote; what is mounted in it is no part of that
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A name, an id or the beginning of one
    container: String,
    /// The image's name
    name: Option<Reference>,
    /// Who made it
    #[arg(short, long)]
    author: Option<String>,
    /// What the history says
    #[arg(short, long)]
    message: Option<String>,
    /// A Dockerfile instruction for the image's config: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD,
    /// STOPSIGNAL, USER, VOLUME or WORKDIR
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// Hold the container while its files are read, where it has a cgroup to hold it by
    #[arg(short, long, value_name = "BOOL", default_value = "true", num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pause: bool,
}

/// Docker's list.
const ALLOWED: [&str; 11] = [
    "CMD",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "HEALTHCHECK",
    "LABEL",
    "ONBUILD",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let store = context.store()?;
    let container = find_container(&store, &args.container)?;
    let image = store.image(container.image)?;
    let platform = image.map_or_else(Platform::host, |image| image.platform);
    let request =
        CommitRequest { author: args.author, message: args.message, name: args.name, pause: args.pause };
    let id = diff::commit(&store, &container, &request, |config| changed(config, &args.change, &platform))?;
    let about = [("imageID", id.to_string()), ("comment", request.message.unwrap_or_default())];
    let about: Vec<(&str, &str)> = about.iter().map(|(key, value)| (*key, value.as_str())).collect();
    container::tell(&store, &container.id, "commit", &about);
    say_line!("{id}");
    Ok(ExitCode::SUCCESS)
}

impl From<DiffError> for Failure {
    fn from(error: DiffError) -> Self {
        Self::from_error(&error)
    }
}

/// The config that these instructions make of another, read as a Dockerfile on an image that has it.
fn changed(
    config: ContainerConfig,
    changes: &[String],
    platform: &Platform,
) -> Result<ContainerConfig, Failure> {
    if changes.is_empty() {
        return Ok(config);
    }
    let name = Reference::parse("container").expect("the name is a constant");
    let text = format!("FROM container\n{}\n", changes.join("\n"));
    let source = stave::diagnostic::SourceText::new("--change", text);
    let dockerfile = parse(&source).map_err(|findings| Failure::from_diagnostics(&findings))?;
    let [stage] = &dockerfile.stages[..] else {
        return Err(Failure::usage("--change: FROM is no change of a config"));
    };
    for instruction in &stage.instructions {
        let keyword = instruction.keyword();
        if !ALLOWED.contains(&keyword) {
            return Err(Failure::usage(format!("--change: {keyword} is no change of a config"))
                .hint(format!("there are {}", ALLOWED.join(", "))));
        }
    }
    let base = ImageConfig { config, ..ImageConfig::scratch(platform) };
    let options: BuildOptions = super::build::plain_options(platform);
    let resolved = ResolvedImage { reference: name.clone(), id: base.to_bytes().0, config: base };
    let images = [((name, platform.clone()), resolved)].into_iter().collect();
    match lower(&dockerfile, &options, &images).map_err(|findings| Failure::from_diagnostics(&findings))? {
        Lowering::Done(lowered) => Ok(lowered.config.config),
        Lowering::Needs(_) => Err(Failure::usage("--change: FROM is no change of a config")),
    }
}
