//! `stave build`: what was typed becomes a request; the engine does the rest.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;
use stave::cache::content::{Selector, Tree, list};
use stave::diagnostic::SourceText;
use stave::engine::{BuildError, BuildRequest, Built, Engine};
use stave::exporter::output::{Destination, Output, OutputKind, split_csv};
use stave::exporter::{self, layout, tree};
use stave::llb::{CopyAction, CopySource, Network};
use stave::parser::{BuildOptions, NamedContext, NoCache};
use stave::pattern::Patterns;
use stave::platform::Platform;
use stave::reference::Reference;
use stave::solver::copy;
use stave::store::Store;

use super::context::Context;
use super::save::write_file;
use crate::ambient;
use crate::failure::Failure;
use crate::progress::Form;

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
            let unpacked = Unpacked::default();
            let request = request(engine, &args, &unpacked)?;
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

/// A context that came over standard input, unpacked for as long as the build lasts.
#[derive(Debug, Default)]
struct Unpacked(std::cell::RefCell<Option<tempfile::TempDir>>);

fn request(engine: &Engine<'_>, args: &Args, unpacked: &Unpacked) -> Result<BuildRequest, Failure> {
    let from_stdin = |path: &Path| path.as_os_str() == "-";
    let mut piped = None;
    let folder = if from_stdin(&args.path) {
        if args.file.as_deref().is_some_and(from_stdin) {
            return Err(Failure::usage("the context and the Dockerfile cannot both be standard input"));
        }
        let folder = engine.store.temporary()?;
        piped = read_context(engine.store, folder.path())?;
        let path = folder.path().to_owned();
        *unpacked.0.borrow_mut() = Some(folder);
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
    Ok(BuildRequest {
        dockerfile,
        ignore,
        contexts,
        options,
        secrets: secrets.into_iter().flatten().collect(),
        pull: args.pull,
        resolv_conf: ambient::resolv_conf(),
        output_is_shown: form(args).shows_output(),
        layers_needed: true,
    })
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

const DOCKERFILE_LIMIT: u64 = 16 << 20;

/// `inside` is where a file given with -f would be if it were relative to the context.
fn unreadable(file: &Path, inside: Option<&Path>, error: &std::io::Error) -> Failure {
    let failure = Failure::new(format!("cannot read the Dockerfile `{}`: {error}", file.display()));
    if error.kind() == std::io::ErrorKind::NotFound {
        match inside {
            Some(inside) if inside.is_file() => {
                failure.hint(format!("-f is relative to the working directory: pass -f {}", inside.display()))
            }
            Some(_) => failure,
            None => failure.hint("pass -f FILE if it has another name or place"),
        }
    } else {
        failure
    }
}

fn text_of(file: &Path, bytes: Vec<u8>) -> Result<String, Failure> {
    String::from_utf8(bytes).map_err(|error| {
        Failure::new(format!(
            "the Dockerfile `{}` is not UTF-8 at byte {}",
            file.display(),
            error.utf8_error().valid_up_to()
        ))
    })
}

fn read_dockerfile(file: &Path, inside: Option<&Path>) -> Result<SourceText, Failure> {
    let bytes = std::fs::metadata(file)
        .and_then(|metadata| {
            if metadata.is_dir() {
                return Err(std::io::Error::from(std::io::ErrorKind::IsADirectory));
            }
            let mut bytes = Vec::new();
            std::fs::File::open(file)?.take(DOCKERFILE_LIMIT).read_to_end(&mut bytes)?;
            Ok(bytes)
        })
        .map_err(|error| unreadable(file, inside, &error))?;
    Ok(SourceText::new(file.display().to_string(), text_of(file, bytes)?))
}

/// The Dockerfile of a context that came as an archive, and its `.dockerignore`. Whoever made the
/// archive may have put links there: they are followed inside it only.
fn archived_files(folder: &Path, file: Option<&Path>) -> Result<(SourceText, Option<SourceText>), Failure> {
    let root = stave::root::open_ambient_dir(folder)?;
    let read = |file: &Path| stave::root::read(&root, file, DOCKERFILE_LIMIT);
    let found = match file {
        Some(file) => read(file).map(|bytes| (file, bytes)),
        None => {
            let lower = Path::new("dockerfile");
            let upper = Path::new("Dockerfile");
            read(upper).map(|bytes| (upper, bytes)).or_else(|error| {
                let missing = error.kind() == std::io::ErrorKind::NotFound;
                read(lower).map(|bytes| (lower, bytes)).map_err(|other| if missing { other } else { error })
            })
        }
    };
    let (file, bytes) =
        found.map_err(|error| unreadable(file.unwrap_or(Path::new("Dockerfile")), None, &error))?;
    let dockerfile = SourceText::new(file.display().to_string(), text_of(file, bytes)?);
    let own = format!("{}.dockerignore", file.display());
    for name in [own.as_str(), ".dockerignore"] {
        if let Ok(bytes) = read(Path::new(name)) {
            let text = text_of(Path::new(name), bytes)?;
            return Ok((dockerfile, Some(SourceText::new(name, text))));
        }
    }
    Ok((dockerfile, None))
}

/// `NAME.dockerignore` beside the Dockerfile, or else `.dockerignore` of the context.
fn ignore_file(context: &Path, dockerfile: Option<&Path>) -> Result<Option<SourceText>, Failure> {
    let own = dockerfile.map(|file| {
        let mut name = file.as_os_str().to_owned();
        name.push(".dockerignore");
        PathBuf::from(name)
    });
    let mut candidates: Vec<PathBuf> = own.into_iter().collect();
    candidates.push(context.join(".dockerignore"));
    for file in candidates {
        if file.is_file() {
            let text = std::fs::read_to_string(&file)
                .map_err(|error| Failure::new(format!("cannot read `{}`: {error}", file.display())))?;
            return Ok(Some(SourceText::new(file.display().to_string(), text)));
        }
    }
    Ok(None)
}

/// Standard input as a context: an archive is unpacked into `folder`; anything else is a Dockerfile,
/// which is given.
fn read_context(store: &Store, folder: &Path) -> Result<Option<String>, Failure> {
    // The copier that unpacks for ADD decides what an archive is, and copies what is none.
    const NAME: &str = ".standard-input";
    let received = store.temporary()?;
    let mut file = std::fs::File::create(received.path().join(NAME))?;
    std::io::copy(&mut std::io::stdin(), &mut file)?;
    drop(file);
    let failed = |error: &(dyn std::error::Error + 'static)| Failure::from_error(error);
    let tree = Tree::local(stave::root::open_ambient_dir(received.path())?, Patterns::default());
    let listing = list(&tree, &Selector::path(NAME)).map_err(|error| failed(&error))?;
    let action = CopyAction {
        from: CopySource::Tree { input: 0, path: NAME.to_owned(), optional: false },
        destination: "/".to_owned(),
        owner: None,
        mode: None,
        excludes: Vec::new(),
        parents: false,
        unpack: true,
    };
    // Whoever owns a context's files, in the build they are root's.
    let spec = copy::Spec::of(&action, Some((0, 0))).map_err(|error| failed(&error))?;
    let target = stave::root::open_ambient_dir(folder)?;
    copy::copy(copy::Source::Tree { tree: &tree, listing: &listing }, target.as_fd(), &spec)
        .map_err(|error| failed(&error))?;
    match stave::root::read(&target, NAME, DOCKERFILE_LIMIT) {
        Ok(bytes) => {
            std::fs::remove_file(folder.join(NAME))?;
            String::from_utf8(bytes)
                .map(Some)
                .map_err(|_| Failure::new("standard input is neither a tar archive nor a Dockerfile"))
        }
        Err(_) => Ok(None),
    }
}

fn split(text: &str) -> (String, String) {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    (name.to_owned(), value.to_owned())
}

fn pair(flag: &str, text: &str) -> Result<(String, String), Failure> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => {
            Ok((name.to_owned(), value.to_owned()))
        }
        _ => Err(Failure::usage(format!("{flag} `{text}`: expected NAME=VALUE"))),
    }
}

/// The last of equal names counts; one without a value has that of the environment, or none.
fn build_args(texts: &[String]) -> BTreeMap<String, Option<String>> {
    let mut args = BTreeMap::new();
    for text in texts {
        match text.split_once('=') {
            Some((name, value)) => {
                args.insert(name.to_owned(), Some(value.to_owned()));
            }
            None => {
                if let Ok(value) = std::env::var(text) {
                    args.insert(text.clone(), Some(value));
                }
            }
        }
    }
    args
}

fn named_context(
    name: &str,
    value: &str,
    contexts: &mut BTreeMap<String, PathBuf>,
) -> Result<NamedContext, Failure> {
    if let Some(image) = value.strip_prefix("docker-image://") {
        return Ok(NamedContext::Image(Reference::parse(image)?));
    }
    if value.contains("://") {
        return Err(Failure::usage(format!(
            "--build-context `{name}={value}`: only directories and docker-image:// are supported yet"
        )));
    }
    let folder = PathBuf::from(value);
    if !folder.is_dir() {
        return Err(Failure::new(format!("the build context `{name}` is no directory: `{value}`")));
    }
    let key = format!("named:{name}");
    contexts.insert(key.clone(), folder);
    Ok(NamedContext::Local { name: key })
}

pub fn extra_host(text: &str) -> Result<(String, IpAddr), Failure> {
    let wrong = || Failure::usage(format!("--add-host `{text}`: expected HOST:IP"));
    let (name, address) = text.split_once([':', '=']).ok_or_else(wrong)?;
    let address = if address == "host-gateway" { "127.0.0.1" } else { address.trim_matches(['[', ']']) };
    let fine = !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control());
    match address.parse() {
        Ok(address) if fine => Ok((name.to_owned(), address)),
        _ => Err(wrong()),
    }
}

/// `id=NAME,src=FILE`, `id=NAME,env=VARIABLE`; with neither, a variable or a file of that name.
fn secret(text: &str) -> Result<Option<(String, Vec<u8>)>, Failure> {
    let (mut id, mut source, mut variable, mut kind) = (None, None, None, None);
    for field in split_csv(text) {
        let (name, value) = field.split_once('=').unwrap_or((&field, ""));
        let place = match name.trim() {
            "id" => &mut id,
            "src" | "source" => &mut source,
            "env" => &mut variable,
            "type" => &mut kind,
            other => {
                return Err(Failure::usage(format!("--secret `{text}`: unknown field `{other}`"))
                    .hint("expected id, src, env or type"));
            }
        };
        *place = Some(value.to_owned());
    }
    let id = id.or_else(|| {
        source.as_ref().and_then(|path| Some(Path::new(path).file_name()?.to_string_lossy().into_owned()))
    });
    let id = id
        .filter(|id| !id.is_empty())
        .ok_or_else(|| Failure::usage(format!("--secret `{text}`: id= is missing")))?;
    match kind.as_deref() {
        None | Some("file" | "env") => {}
        Some(other) => return Err(Failure::usage(format!("--secret `{text}`: unknown type `{other}`"))),
    }
    if source.is_none() && variable.is_none() {
        if kind.as_deref() == Some("env") || (kind.is_none() && std::env::var_os(&id).is_some()) {
            variable = Some(id.clone());
        } else {
            source = Some(id.clone());
        }
    }
    if kind.as_deref() == Some("env") && variable.is_none() {
        variable = source.take();
    }
    if let Some(variable) = variable {
        use std::os::unix::ffi::OsStringExt;
        return Ok(std::env::var_os(&variable).map(|value| (id, value.into_vec())));
    }
    let path = PathBuf::from(source.unwrap_or_default());
    let failed = |error: &dyn std::fmt::Display| {
        Failure::new(format!("cannot read the secret `{id}` from `{}`: {error}", path.display()))
    };
    let mut bytes = Vec::new();
    std::fs::File::open(&path)
        .and_then(|file| file.take(SECRET_LIMIT + 1).read_to_end(&mut bytes))
        .map_err(|error| failed(&error))?;
    if bytes.len() as u64 > SECRET_LIMIT {
        return Err(failed(&"it is longer than 500 KiB"));
    }
    Ok(Some((id, bytes)))
}

/// BuildKit's limit.
const SECRET_LIMIT: u64 = 500 << 10;

/// Brings the image where it shall go, and writes down what it is.
fn deliver(engine: &Engine<'_>, args: &Args, outputs: &[Output], built: &Built<'_>) -> Result<(), Failure> {
    let mut manifest = None;
    for output in outputs {
        let names: &[Reference] = if output.names.is_empty() { &args.tag } else { &output.names };
        if let Some(digest) = export(engine, output, names, built)? {
            manifest = Some(digest);
        }
    }
    if let Some(file) = &args.iidfile {
        let text = built.image.id.to_string();
        std::fs::write(file, text)
            .map_err(|error| Failure::new(format!("cannot write `{}`: {error}", file.display())))?;
    }
    if let Some(file) = &args.metadata_file {
        let mut metadata = json!({ "containerimage.config.digest": built.image.id.to_string() });
        if let Some(digest) = manifest {
            metadata["containerimage.digest"] = json!(digest.to_string());
        }
        if !args.tag.is_empty() {
            let names: Vec<String> = args.tag.iter().map(ToString::to_string).collect();
            metadata["image.name"] = json!(names.join(","));
        }
        let text = serde_json::to_string_pretty(&metadata).map_err(Failure::new)?;
        std::fs::write(file, text)
            .map_err(|error| Failure::new(format!("cannot write `{}`: {error}", file.display())))?;
    }
    Ok(())
}

fn export(
    engine: &Engine<'_>,
    output: &Output,
    names: &[Reference],
    built: &Built<'_>,
) -> Result<Option<stave::digest::Digest>, Failure> {
    let (store, image) = (engine.store, &built.image);
    let path = |to: &Destination| match to {
        Destination::Stdout => None,
        Destination::File(path) => Some(path.clone()),
    };
    match &output.kind {
        OutputKind::Image { push } => {
            let step = engine.progress.step("exporting to image");
            let diff_ids: Vec<_> = image.layers.iter().map(|layer| layer.diff_id).collect();
            store.sync_layers(&diff_ids)?;
            let stored = store.put_image(&image.bytes, None)?;
            let mut said = format!("writing image {}\n", image.id);
            for name in names {
                store.tag(name, image.id)?;
                said.push_str(&format!("naming to {name}\n"));
            }
            step.output(stave::progress::Stream::Stdout, said.as_bytes());
            step.done();
            let mut digest = None;
            if *push {
                for name in names {
                    digest = Some(engine.push(&stored, name, output.format)?.digest);
                }
            }
            Ok(digest)
        }
        OutputKind::Oci { to, tar } | OutputKind::Docker { to, tar } => {
            let docker = matches!(output.kind, OutputKind::Docker { .. });
            let step = engine.progress.step(if docker {
                "exporting to docker image format"
            } else {
                "exporting to oci image format"
            });
            let packed = exporter::pack(store, image, output.format, &output.annotations)?;
            let entry = layout::Entry { packed: &packed, config: &image.bytes, names };
            match (to, tar) {
                (Destination::File(folder), false) => layout::write_folder(store, &[entry], docker, folder)?,
                (to, _) => write_file(path(to), |out| Ok(layout::write_tar(store, &[entry], docker, out)?))?,
            }
            step.done();
            Ok(Some(packed.descriptor.digest))
        }
        OutputKind::Tar { to } => {
            let step = engine.progress.step("exporting to tar");
            write_file(path(to), |out| Ok(tree::write_tar(store, image, out)?))?;
            step.done();
            Ok(None)
        }
        OutputKind::Local { folder } => {
            let step = engine.progress.step("exporting to a directory");
            engine.export_folder(image, folder)?;
            step.done();
            Ok(None)
        }
    }
}
