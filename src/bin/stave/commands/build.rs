//! `stave build`: what was typed becomes a request; the engine does the rest.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use stave::diagnostic::SourceText;
use stave::engine::{BuildError, BuildRequest, Built, Engine};
use stave::exporter::output::{Output, OutputKind};
use stave::llb::{Network, redacted};
use stave::parser::{BuildOptions, NoCache};
use stave::platform::Platform;
use stave::reference::Reference;
use stave::solver::StepNetwork;

use super::context::Context;
use crate::ambient;
use crate::failure::Failure;
use crate::progress::Form;

mod caches;
mod call;
mod deliver;
mod dockerfile;
mod images;
mod limits;
mod remote;
mod values;

use deliver::deliver;
use dockerfile::{archived_dockerfile, read_context};
pub(super) use dockerfile::{ignore_file, in_any_case, read_dockerfile, read_stdin};
pub(super) use values::build_args;
pub use values::extra_host;
use values::{named_context, pair, secret, split, switch};

/// Build an image from a Dockerfile
// As with Docker, the last of two values counts, so that a script's can be taken back.
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub struct Args {
    /// The build context: a directory, a URL, a git repository (`URL.git#REF:DIR`), or `-` for a tar
    /// archive or a Dockerfile on standard input
    #[arg(value_name = "PATH | URL | -")]
    path: PathBuf,
    /// The Dockerfile [default: PATH/Dockerfile]; `-` is standard input, and it may be a URL
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
    /// One more context: a directory, a URL, a git repository, `docker-image://NAME`,
    /// `oci-layout://PATH[:TAG]`, or `target:STAGE`
    #[arg(long, value_name = "NAME=PATH")]
    build_context: Vec<String>,
    /// Label the image
    #[arg(long, value_name = "NAME=VALUE")]
    label: Vec<String>,
    /// Give RUN --mount=type=secret a secret: `id=NAME,src=FILE` or `id=NAME,env=VARIABLE`
    #[arg(long, value_name = "SPEC")]
    secret: Vec<String>,
    /// Add a line to /etc/hosts of RUN steps
    #[arg(long, value_name = "HOST:IP")]
    add_host: Vec<String>,
    /// The network of RUN steps: `default`, a bridge; `host`, `none`, or a network's name
    #[arg(long, default_value = "default", value_name = "NETWORK")]
    network: String,
    /// Run every step, whatever is cached
    #[arg(long, num_args = 0..=1, default_missing_value = "true", default_value = "false", require_equals = true, value_parser = switch, hide_possible_values = true, hide_default_value = true, value_name = "BOOL")]
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
    #[arg(short, long, num_args = 0..=1, default_missing_value = "true", default_value = "false", require_equals = true, value_parser = switch, hide_default_value = true, value_name = "BOOL")]
    quiet: bool,
    /// Put the image into the store, which is the default
    #[arg(long, num_args = 0..=1, default_missing_value = "true", default_value = "false", require_equals = true)]
    load: bool,
    /// Push the image to the registries of its names
    #[arg(long, num_args = 0..=1, default_missing_value = "true", default_value = "false", require_equals = true)]
    push: bool,
    #[command(flatten)]
    images: images::ImageArgs,
    #[command(flatten)]
    caches: caches::CacheArgs,
    /// Docker's; intermediate containers are always removed here
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    rm: Option<bool>,
    /// Docker's; intermediate containers are always removed here
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_parser = switch)]
    force_rm: Option<bool>,
    /// Docker's; there is nothing more to tell
    #[arg(short = 'D', long, hide = true, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_parser = switch)]
    debug: Option<bool>,
    /// Docker's; only `false`, since nothing but this program builds
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true", default_value = "false", require_equals = true, value_parser = switch)]
    detach: bool,
    /// Docker's; refused, since policies of that kind are not evaluated
    #[arg(long, hide = true)]
    policy: Vec<String>,
    #[command(flatten)]
    limits: Box<limits::Limits>,
    #[command(flatten)]
    call: call::CallArgs,
}

/// Options with nothing given.
pub fn plain_options(platform: &Platform) -> BuildOptions {
    BuildOptions { platform: Some(platform.clone()), ..BuildOptions::new(Platform::host()) }
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode, Failure> {
    if let Some(call) = args.call.wanted()? {
        return call::run(context, &args, call);
    }
    args.images.parse()?;
    let caches = args.caches.parse()?;
    refuse_dockers_own(&args)?;
    let outputs = outputs(&args)?;
    if let Some(file) = &args.iidfile {
        // Whoever reads it after a build that failed must not find the image of an earlier one.
        match std::fs::remove_file(file) {
            Err(error) if file.is_file() => {
                return Err(Failure::new(format!("cannot remove `{}`: {error}", file.display())));
            }
            _ => {}
        }
    }
    let quiet = form(&args) == Form::Quiet;
    context
        .with_engine(form(&args), |engine| {
            let (request, _unpacked) = request(engine, &args)?;
            let annotations = args.images.annotations()?;
            images::check(&request, &outputs, &annotations)?;
            for warning in args.images.warnings(&outputs, &annotations) {
                engine.progress.warn(warning);
            }
            let caches = caches.open(engine, &request, &names(&args, &outputs))?;
            let deliver = |built: &Built<'_>| deliver(engine, &args, &outputs, &annotations, built);
            let (id, built) = engine.build_with_caches(&request, &caches, deliver)?;
            Ok((id, built.warnings))
        })
        .map(|(id, warnings)| {
            if let (true, Some(id)) = (quiet, &id) {
                say_line!("{id}");
            } else if !quiet {
                for warning in warnings {
                    tell_line!("{}", warning.render(false));
                }
            }
            ExitCode::SUCCESS
        })
}

impl From<BuildError> for Failure {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::Findings(findings) => Self::from_diagnostics(&findings),
            BuildError::Canceled => Self::new("canceled"),
            BuildError::Store(error) => error.into(),
        }
    }
}

/// The names under which images leave.
fn names(args: &Args, outputs: &[Output]) -> Vec<Reference> {
    outputs.iter().flat_map(|output| &output.names).chain(&args.tag).cloned().collect()
}

/// What Docker takes and what would be a lie here, or makes no sense.
fn refuse_dockers_own(args: &Args) -> Result<(), Failure> {
    if args.detach {
        return Err(Failure::usage("--detach: there is nothing that would go on building without you")
            .hint("let your shell run it in the background: `stave build … &`"));
    }
    if let Some(policy) = args.policy.first() {
        return Err(Failure::usage(format!("--policy `{policy}`: policies of that kind are not evaluated"))
            .hint("name images and sources by their digests"));
    }
    if args.quiet && args.progress == Form::Rawjson {
        return Err(Failure::usage("--progress=rawjson and --quiet cannot be used together"));
    }
    Ok(())
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
        let mut pushes = false;
        for output in &mut outputs {
            if let OutputKind::Image(image) = &mut output.kind {
                image.push = true;
                pushes = true;
            }
        }
        if !pushes {
            outputs.push(Output::push());
        }
    }
    if outputs.is_empty() || args.load {
        outputs.push(Output::image());
    }
    let pushes = |output: &Output| matches!(&output.kind, OutputKind::Image(image) if image.push);
    if outputs.iter().any(|output| pushes(output) && output.names.is_empty() && args.tag.is_empty()) {
        return Err(Failure::usage("nothing to push to: the image has no name").hint("pass -t NAME"));
    }
    Ok(outputs)
}

/// The bridge of RUN steps; none where they have the host's network, or none at all.
fn step_network(engine: &Engine<'_>, name: &str) -> Result<Option<StepNetwork>, Failure> {
    let machine = ambient::machine();
    let bridge = match name {
        "host" | "none" => return Ok(None),
        "default" | "bridge" => None,
        name => {
            let found = stave::engine::network::find(engine.store, &machine, name);
            found.map_err(|error| super::network::failure(&error))?.spec.bridge
        }
    };
    Ok(Some(StepNetwork { machine, bridge, unable: std::sync::OnceLock::new() }))
}

/// What to build, and, if the context came over standard input, where it lies unpacked: it must stay
/// for as long as the build lasts.
fn request(engine: &Engine<'_>, args: &Args) -> Result<(BuildRequest, Option<tempfile::TempDir>), Failure> {
    let from_stdin = |path: &Path| path.as_os_str() == "-";
    let secrets = args.secret.iter().map(|text| secret(text)).collect::<Result<Vec<_>, _>>()?;
    let secrets: BTreeMap<String, Vec<u8>> = secrets.into_iter().flatten().collect();
    let build_args = build_args(&args.build_arg)?;
    let named = args.build_context.iter().filter_map(|text| Some(text.split_once('=')?.1));
    let agents = args.limits.agents()?;
    let places: Vec<&str> = args.path.to_str().into_iter().chain(named).collect();
    let sources = remote::settings(&places, agents.get("default"));
    let fetcher = engine.fetcher(&sources, &secrets);
    let mut piped = None;
    let mut unpacked = None;
    let mut fetched = None;
    let elsewhere = match args.file.as_deref() {
        Some(file) if from_stdin(file) => None,
        Some(file) => remote::dockerfile(&fetcher, file)?,
        None => None,
    };
    let folder = if let Some(found) = remote::detect_remote(&args.path)? {
        let folder = engine.store.temporary()?;
        let path = folder.path().to_owned();
        unpacked = Some(folder);
        let has_file = elsewhere.is_some() || args.file.as_deref().is_some_and(from_stdin);
        let keep = remote::is_on(build_args.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR"));
        fetched = Some(remote::context(&fetcher, found, args.file.as_deref(), has_file, keep, &path)?);
        path
    } else if from_stdin(&args.path) {
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
    let is_local = fetched.is_none() && !from_stdin(&args.path);
    let context_epoch = fetched.as_ref().and_then(|fetched| fetched.made);
    let (remote_context, in_context) =
        fetched.map_or((None, None), |fetched| (fetched.source, fetched.dockerfile));
    // As with BuildKit, ignore files leave nothing out of what is fetched or came as an archive.
    let own_ignore_file = |file: Option<&Path>| match is_local {
        true => ignore_file(&folder, file),
        false => Ok(None),
    };
    let (dockerfile, ignore) = match (&args.file, piped) {
        (None, Some(text)) => (SourceText::new("Dockerfile", text), None),
        (Some(file), _) if from_stdin(file) => (read_stdin()?, own_ignore_file(None)?),
        _ if elsewhere.is_some() || in_context.is_some() => {
            let dockerfile = elsewhere.or(in_context).expect("one of them is there");
            (dockerfile, own_ignore_file(None)?)
        }
        (file, None) if from_stdin(&args.path) => (archived_dockerfile(&folder, file.as_deref())?, None),
        (Some(file), _) => {
            let found = in_any_case(file.clone());
            (read_dockerfile(&found, Some(&folder.join(file)))?, ignore_file(&folder, Some(&found))?)
        }
        (None, None) => {
            let file = in_any_case(folder.join("Dockerfile"));
            (read_dockerfile(&file, None)?, ignore_file(&folder, Some(&file))?)
        }
    };
    let mut contexts = BTreeMap::from([("context".to_owned(), folder)]);
    let mut layouts = BTreeMap::new();
    let mut named_contexts = BTreeMap::new();
    // The last of equal names counts, and nobody looks at the others.
    let given = args.build_context.iter().map(|text| pair("--build-context", text));
    for (name, value) in given.collect::<Result<BTreeMap<_, _>, _>>()? {
        let named = named_context(&name, &value, &mut contexts, &mut layouts)?;
        named_contexts.insert(name, named);
    }
    let no_cache = if args.no_cache {
        NoCache::All
    } else if args.no_cache_filter.is_empty() {
        NoCache::None
    } else {
        NoCache::Stages(args.no_cache_filter.clone())
    };
    let hosts = args.add_host.iter().flat_map(|text| text.split(','));
    let options = BuildOptions {
        build_args: images::with_epoch(build_args),
        target: args.target.clone(),
        labels: args.label.iter().map(|text| split("--label", text)).collect::<Result<_, _>>()?,
        platform: None,
        host: Platform::host(),
        named_contexts,
        extra_hosts: hosts.map(extra_host).collect::<Result<_, _>>()?,
        network: match args.network.as_str() {
            "none" => Network::None,
            "host" => Network::Host,
            _ => Network::Default,
        },
        no_cache,
        excludes: Vec::new(),
        entitlements: args.limits.entitlements(args.network == "host")?,
        limits: args.limits.seen()?,
        remote_context,
        context_epoch: context_epoch.map(|seconds| seconds.to_string()).unwrap_or_default(),
        multi_platform: false,
    };
    let request = BuildRequest {
        dockerfile,
        ignore,
        contexts,
        options,
        platforms: args.images.platforms()?,
        secrets,
        agents,
        resources: args.limits.resources()?,
        device_folders: args.limits.device_folders(),
        sources,
        layouts,
        pull: args.pull,
        network: step_network(engine, &args.network)?,
        resolv_conf: ambient::resolv_conf(),
        user_network: ambient::user_network().map(|found| found.map_err(|why| why.to_string())),
        output_is_shown: form(args).shows_output(),
        needed: deliver::needed(&outputs(args)?),
        pushes: deliver::pushes(&outputs(args)?, &args.tag),
    };
    Ok((request, unpacked))
}

/// Why a path is no context, and what the person may have meant.
fn no_context(path: &Path) -> Failure {
    let shown = path.display();
    if path.to_string_lossy().contains("://") {
        Failure::new(format!("the build context `{}` is not a directory", redacted(&path.to_string_lossy())))
            .hint("a URL begins with http, https, ssh or git")
    } else if path.is_file() {
        Failure::new(format!("the build context `{shown}` is a file, not a directory"))
            .hint("a Dockerfile is named with -f FILE, an archive is read with `-` from standard input")
    } else {
        Failure::new(format!("the build context `{shown}` does not exist"))
    }
}
