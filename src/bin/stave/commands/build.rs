//! `stave build`: what was typed becomes a request; the engine does the rest.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use stave::diagnostic::SourceText;
use stave::engine::{BuildError, BuildRequest, Engine};
use stave::exporter::output::{Output, OutputKind};
use stave::llb::Network;
use stave::parser::{BuildOptions, NoCache};
use stave::platform::Platform;
use stave::reference::Reference;

use super::context::Context;
use crate::ambient;
use crate::failure::Failure;
use crate::progress::Form;

mod deliver;
mod dockerfile;
mod values;

use deliver::deliver;
use dockerfile::{DOCKERFILE_LIMIT, archived_files, ignore_file, read_context, read_dockerfile};
pub use values::extra_host;
use values::{build_args, named_context, pair, secret, split};

/// Build an image from a Dockerfile
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The build context: a directory, or `-` for a tar archive or a Dockerfile on standard input
    #[arg(value_name = "PATH | -")]
    path: PathBuf,
    /// The Dockerfile [default: PATH/Dockerfile]; `-` is standard input
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Name the image; may be given several times
    #[arg(short, long, value_name = "NAME[:TAG]")]
    tag: Vec<Reference>,
    /// Build this stage instead of the last
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// Set a variable that an ARG declares; without a value, to that of the environment
    #[arg(long, value_name = "NAME[=VALUE]")]
    build_arg: Vec<String>,
    /// One more context: a directory, or `docker-image://NAME`
    #[arg(long, value_name = "NAME=PATH")]
    build_context: Vec<String>,
    /// Label the image
    #[arg(long, value_name = "NAME=VALUE")]
    label: Vec<String>,
    /// Give RUN --mount=type=secret a secret: `id=NAME,src=FILE` or `id=NAME,env=VARIABLE`
    #[arg(long, value_name = "SPEC")]
    secret: Vec<String>,
    /// Build for this platform [default: this machine's]
    #[arg(long)]
    platform: Option<Platform>,
    /// Add a line to /etc/hosts of RUN steps
    #[arg(long, value_name = "HOST:IP")]
    add_host: Vec<String>,
    /// The network of RUN steps
    #[arg(long, default_value = "default", value_parser = ["default", "host", "none"])]
    network: String,
    /// Run every step, whatever is cached
    #[arg(long)]
    no_cache: bool,
    /// Run every step of these stages
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    no_cache_filter: Vec<String>,
    /// Ask registries for newer base images
    #[arg(long, num_args = 0..=1, default_missing_value = "true", default_value = "false", require_equals = true)]
    pull: bool,
    /// How to show progress
    #[arg(long, value_enum, default_value = "auto", env = "BUILDKIT_PROGRESS")]
    progress: Form,
    /// Where the image goes: `type=image|oci|docker|tar|local|registry`, with `dest=` and more
    #[arg(short, long, value_name = "SPEC")]
    output: Vec<String>,
    /// Write the image's id to this file
    #[arg(long, value_name = "FILE")]
    iidfile: Option<PathBuf>,
    /// Write what was built to this file, as JSON
    #[arg(long, value_name = "FILE")]
    metadata_file: Option<PathBuf>,
    /// Print nothing but the image's id
    #[arg(short, long)]
    quiet: bool,
    /// Put the image into the store, which is the default
    #[arg(long, num_args = 0..=1, default_missing_value = "true", default_value = "false", require_equals = true)]
    load: bool,
    /// Push the image to the registries of its names
    #[arg(long, num_args = 0..=1, default_missing_value = "true", default_value = "false", require_equals = true)]
    push: bool,
    /// Only `false`: provenance attestations are not made yet
    #[arg(long, value_name = "false", value_parser = ["false"])]
    provenance: Option<String>,
    /// Only `false`: SBOM attestations are not made yet
    #[arg(long, value_name = "false", value_parser = ["false"])]
    sbom: Option<String>,
    /// Docker's; intermediate containers are always removed here
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    rm: Option<bool>,
    /// Docker's; intermediate containers are always removed here
    #[arg(long, hide = true)]
    force_rm: bool,
}

/// Options with nothing given.
pub fn plain_options(platform: &Platform) -> BuildOptions {
    BuildOptions { platform: Some(platform.clone()), ..BuildOptions::new(Platform::host()) }
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    let outputs = outputs(&args)?;
    context
        .with_engine(form(&args), |engine| {
            let (request, _unpacked) = request(engine, &args)?;
            let built = engine.build(&request).map_err(|error| match error {
                BuildError::Findings(findings) => Failure::from_diagnostics(&findings),
                BuildError::Canceled => Failure::new("canceled"),
                BuildError::Store(error) => error.into(),
            })?;
            deliver(engine, &args, &outputs, &built)?;
            Ok((built.image.id, built.warnings))
        })
        .map(|(id, warnings)| {
            if args.quiet {
                say_line!("{id}");
            } else {
                for warning in warnings {
                    tell_line!("{}", warning.render(false));
                }
            }
            ExitCode::SUCCESS
        })
}

/// How progress is shown.
fn form(args: &Args) -> Form {
    if args.quiet { Form::Quiet } else { args.progress }
}

/// Where the image goes: the store unless something else was asked for.
fn outputs(args: &Args) -> Result<Vec<Output>, Failure> {
    let mut outputs: Vec<Output> = args
        .output
        .iter()
        .map(|text| Output::parse(text))
        .collect::<Result<_, _>>()
        .map_err(Failure::usage)?;
    if args.push {
        outputs.push(Output { kind: OutputKind::Image { push: true }, ..Output::image() });
    }
    if outputs.is_empty() || args.load {
        outputs.push(Output::image());
    }
    let pushes = |output: &Output| output.kind == OutputKind::Image { push: true };
    if outputs.iter().any(|output| pushes(output) && output.names.is_empty() && args.tag.is_empty()) {
        return Err(Failure::usage("nothing to push to: the image has no name").hint("pass -t NAME"));
    }
    Ok(outputs)
}

/// What to build, and, if the context came over standard input, where it lies unpacked: it must stay
/// for as long as the build lasts.
fn request(engine: &Engine<'_>, args: &Args) -> Result<(BuildRequest, Option<tempfile::TempDir>), Failure> {
    let from_stdin = |path: &Path| path.as_os_str() == "-";
    let mut piped = None;
    let mut unpacked = None;
    let folder = if from_stdin(&args.path) {
        if args.file.as_deref().is_some_and(from_stdin) {
            return Err(Failure::usage("the context and the Dockerfile cannot both be standard input"));
        }
        let folder = engine.store.temporary()?;
        piped = read_context(engine.store, folder.path())?;
        let path = folder.path().to_owned();
        unpacked = Some(folder);
        path
    } else {
        if !args.path.is_dir() {
            return Err(no_context(&args.path));
        }
        args.path.clone()
    };
    let (dockerfile, ignore) = match (&args.file, piped) {
        (None, Some(text)) => (SourceText::new("Dockerfile", text), None),
        (Some(file), _) if from_stdin(file) => {
            let mut text = String::new();
            std::io::stdin().take(DOCKERFILE_LIMIT).read_to_string(&mut text)?;
            (SourceText::new("-", text), ignore_file(&folder, None)?)
        }
        (file, None) if from_stdin(&args.path) => archived_files(&folder, file.as_deref())?,
        (Some(file), _) => {
            (read_dockerfile(file, Some(&folder.join(file)))?, ignore_file(&folder, Some(file))?)
        }
        (None, None) => {
            let upper = folder.join("Dockerfile");
            let lower = folder.join("dockerfile");
            let file = if !upper.exists() && lower.exists() { lower } else { upper };
            (read_dockerfile(&file, None)?, ignore_file(&folder, Some(&file))?)
        }
    };
    let mut contexts = BTreeMap::from([("context".to_owned(), folder)]);
    let mut named_contexts = BTreeMap::new();
    for text in &args.build_context {
        let (name, value) = pair("--build-context", text)?;
        let named = named_context(&name, &value, &mut contexts)?;
        named_contexts.insert(name, named);
    }
    let no_cache = if args.no_cache {
        NoCache::All
    } else if args.no_cache_filter.is_empty() {
        NoCache::None
    } else {
        NoCache::Stages(args.no_cache_filter.clone())
    };
    let options = BuildOptions {
        build_args: build_args(&args.build_arg),
        target: args.target.clone(),
        labels: args.label.iter().map(|text| split(text)).collect(),
        platform: args.platform.clone(),
        host: Platform::host(),
        named_contexts,
        extra_hosts: args.add_host.iter().map(|text| extra_host(text)).collect::<Result<_, _>>()?,
        network: match args.network.as_str() {
            "none" => Network::None,
            "host" => Network::Host,
            _ => Network::Default,
        },
        no_cache,
        excludes: Vec::new(),
    };
    let secrets = args.secret.iter().map(|text| secret(text)).collect::<Result<Vec<_>, _>>()?;
    let request = BuildRequest {
        dockerfile,
        ignore,
        contexts,
        options,
        secrets: secrets.into_iter().flatten().collect(),
        pull: args.pull,
        resolv_conf: ambient::resolv_conf(),
        output_is_shown: form(args).shows_output(),
        layers_needed: true,
    };
    Ok((request, unpacked))
}

/// Why a path is no context, and what the person may have meant.
fn no_context(path: &Path) -> Failure {
    let shown = path.display();
    if path.to_string_lossy().contains("://") {
        Failure::new(format!("the build context `{shown}` is not a directory"))
            .hint("contexts from a URL or from git are not supported yet: fetch it first")
    } else if path.is_file() {
        Failure::new(format!("the build context `{shown}` is a file, not a directory"))
            .hint("a Dockerfile is named with -f FILE, an archive is read with `-` from standard input")
    } else {
        Failure::new(format!("the build context `{shown}` does not exist"))
    }
}
