//! From stages to the build graph and the image's config.

use std::collections::{BTreeMap, BTreeSet};

use crate::diagnostic::{Diagnostic, nearest};
use crate::digest::{ImageId, VertexId};
use crate::image::{History, ImageConfig, RootFs};
use crate::llb::{
    CopyAction, CopySource, Definition, DefinitionError, FileAction, FileOp, Metadata, Op, SourceOp,
};
use crate::parser::ERROR_LIMIT;
use crate::parser::ast::Dockerfile;
use crate::parser::instruction::Kind;
use crate::parser::options::{BuildOptions, ImageNeed, NoCache, ResolvedImage};
use crate::parser::plan::{self, Plan, StageBase};
use crate::parser::stage::{Build, Finished, StageBuild, State, numbered, source_of};
use crate::parser::variables::Environment;
use crate::parser::word::Variables;
use crate::platform::Platform;
use crate::reference::Reference;

/// What was found for the images that a build needs, by name and wanted platform.
pub(crate) type Images = BTreeMap<(Reference, Platform), ResolvedImage>;

/// `PATH` where an image states none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What lowering came to.
#[derive(Debug)]
pub enum Lowering {
    /// It has to know these images first.
    Needs(Vec<ImageNeed>),
    Done(Box<Lowered>),
}

/// A build, ready to be solved.
#[derive(Debug)]
pub struct Lowered {
    pub definition: Definition,
    /// The vertex whose tree is the image's.
    pub target: VertexId,
    /// The image's config, without rootfs, history and time.
    pub config: ImageConfig,
    /// The image at the bottom, if there is one.
    pub base: Option<Base>,
    /// The image's history, the base's lines first.
    pub history: Vec<HistoryStep>,
    pub warnings: Vec<Diagnostic>,
    /// What `SOURCE_DATE_EPOCH` says: nothing that the build makes is younger.
    pub epoch: Option<time::OffsetDateTime>,
    /// Build arguments that nothing declares.
    pub unused_build_args: Vec<UnusedBuildArg>,
}

/// A build argument that was given and that no ARG declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnusedBuildArg {
    pub name: String,
    /// What is declared by a name much like it, and was not given itself.
    pub near: Option<String>,
}

/// The image that another is built on.
#[derive(Debug, Clone)]
pub struct Base {
    pub image: ImageId,
    pub reference: Reference,
    /// As it is, rootfs and history included.
    pub config: ImageConfig,
}

/// One line of history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryStep {
    pub created_by: String,
    pub comment: Option<String>,
    /// The vertex whose topmost layer the step made; none if it changed only the config.
    pub vertex: Option<VertexId>,
    /// The line as the base image has it, for one that came from there.
    pub base: Option<History>,
}

/// What preparing came to.
#[derive(Debug)]
pub enum Preparation<'a> {
    /// It has to know these images first.
    Needs(Vec<ImageNeed>),
    Done(Box<Prepared<'a>>),
}

/// A Dockerfile with all images that it is built on.
#[derive(Debug)]
pub struct Prepared<'a> {
    plan: Plan<'a>,
    reachable: Vec<bool>,
    dockerfile: &'a Dockerfile,
    options: &'a BuildOptions,
    images: &'a Images,
}

/// Makes the graph of `dockerfile`. `images` are those found so far, by reference and platform as
/// an earlier round's [`ImageNeed`] named them.
///
/// # Errors
/// All that is wrong with the reachable stages in view of the given arguments: substitutions that
/// fail, unknown stages and targets, bad values.
pub fn lower(
    dockerfile: &Dockerfile,
    options: &BuildOptions,
    images: &BTreeMap<(Reference, Platform), ResolvedImage>,
) -> Result<Lowering, Vec<Diagnostic>> {
    lower_stages(dockerfile, options, images, false)
}

/// The first half of [`lower`], which asks for images; the other is [`Prepared::lower`].
///
/// # Errors
/// As [`lower`].
pub fn prepare<'a>(
    dockerfile: &'a Dockerfile,
    options: &'a BuildOptions,
    images: &'a BTreeMap<(Reference, Platform), ResolvedImage>,
) -> Result<Preparation<'a>, Vec<Diagnostic>> {
    prepare_stages(dockerfile, options, images, false)
}

/// As [`lower`], with `all` for the stages too that the target does not need: whoever checks a file
/// wants to know of every mistake.
pub(crate) fn lower_stages(
    dockerfile: &Dockerfile,
    options: &BuildOptions,
    images: &BTreeMap<(Reference, Platform), ResolvedImage>,
    all: bool,
) -> Result<Lowering, Vec<Diagnostic>> {
    Ok(match prepare_stages(dockerfile, options, images, all)? {
        Preparation::Needs(needs) => Lowering::Needs(needs),
        Preparation::Done(prepared) => Lowering::Done(Box::new(prepared.lower()?)),
    })
}

fn prepare_stages<'a>(
    dockerfile: &'a Dockerfile,
    options: &'a BuildOptions,
    images: &'a Images,
    all: bool,
) -> Result<Preparation<'a>, Vec<Diagnostic>> {
    let mut plan = plan::plan(dockerfile, options)?;
    loop {
        let reachable = if all { vec![true; plan.stages.len()] } else { plan.reachable() };
        let needs = plan.needs(&reachable, images);
        if !needs.is_empty() {
            return Ok(Preparation::Needs(needs));
        }
        if !plan.add_triggers(&reachable, images)? {
            let prepared = Prepared { plan, reachable, dockerfile, options, images };
            return Ok(Preparation::Done(Box::new(prepared)));
        }
    }
}

impl<'a> Prepared<'a> {
    /// The stages, with what their bases add to them.
    pub fn plan(&self) -> &Plan<'a> {
        &self.plan
    }

    /// Makes the graph.
    ///
    /// # Errors
    /// As [`lower`].
    pub fn lower(&self) -> Result<Lowered, Vec<Diagnostic>> {
        let Self { plan, reachable, dockerfile, options, images } = self;
        let mut build = Build::new(plan, options, images);
        let mut errors = Vec::new();
        for index in (0..plan.stages.len()).filter(|index| reachable[*index]) {
            lower_stage(&mut build, dockerfile, index, &mut errors);
            if errors.len() >= ERROR_LIMIT {
                errors.truncate(ERROR_LIMIT);
                break;
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        finish(dockerfile, build).map_err(|error| vec![error])
    }
}

/// Lowers one stage. An instruction that is wrong is told, and those behind it are looked at as if it
/// were not there. After an ENV or ARG that is wrong they are not, as what they say may only be wrong
/// for want of a variable; and what is built on such a stage, or takes from it, is left out with it.
fn lower_stage(build: &mut Build, dockerfile: &Dockerfile, index: usize, errors: &mut Vec<Diagnostic>) {
    let plan = build.plan;
    let stage = &plan.stages[index];
    // A directory that stands in for the base is announced under its own name.
    let is_image = matches!(stage.base, StageBase::Image(_));
    let steps = stage.steps.iter().filter(|step| step.instruction.kind.is_step()).count();
    let steps = steps + usize::from(is_image);
    let (state, history) = match &stage.base {
        StageBase::Stage(base) if build.failed[*base] => {
            build.failed[index] = true;
            return;
        }
        _ => match begin(build, dockerfile, index, steps) {
            Ok(begun) => begun,
            Err(error) => {
                build.failed[index] = true;
                errors.push(error);
                return;
            }
        },
    };
    let mut lowering = StageBuild {
        state,
        index,
        history,
        cmd_is_set: false,
        on_build: false,
        ignore_cache: ignores_cache(build.options, stage.name.as_deref()),
        steps,
        step: usize::from(is_image),
        build,
    };
    for step in &stage.steps {
        lowering.on_build = step.on_build;
        let Err(error) = step.instruction.lower(&mut lowering) else { continue };
        errors.push(error);
        let sets_variables = matches!(step.instruction.kind, Kind::Env(_) | Kind::Arg(_));
        if sets_variables || errors.len() >= ERROR_LIMIT || lowering.build.is_full() {
            lowering.build.failed[index] = true;
            return;
        }
    }
    let StageBuild { state, history, build, .. } = lowering;
    let tree = state.tree;
    let ground = build.is_ground[index].then(|| Box::new((state, history)));
    build.finished[index] = Some(Finished { tree, ground });
}

/// The state that a stage of so many steps begins with, and its first lines of history.
fn begin(
    build: &mut Build,
    dockerfile: &Dockerfile,
    index: usize,
    steps: usize,
) -> Result<(State, Vec<HistoryStep>), Diagnostic> {
    let plan = build.plan;
    let stage = &plan.stages[index];
    let fail = |error: &dyn std::fmt::Display| {
        Diagnostic::error(format!("cannot build on this base: {error}")).at(&dockerfile.source, stage.span)
    };
    let mut history = Vec::new();
    let mut state = match &stage.base {
        StageBase::Stage(base) => {
            let ground = build.finished[*base].as_ref().and_then(|finished| finished.ground.as_ref());
            let ground = &ground.expect("a base precedes its stage, and is reachable").0;
            let State { env, image_env, args, .. } = ground;
            let size = env.bytes() + 2 * image_env.bytes() + args.bytes();
            let state = ground.clone();
            build.charge(&dockerfile.source, stage.span, size)?;
            state
        }
        base => {
            let Some((source, mut name)) = source_of(base, &stage.platform, build.images) else {
                return Err(fail(&"it was not resolved"));
            };
            if matches!(base, StageBase::Image(_)) {
                name = numbered(&build.title(index, &Environment::default()), 1, steps, &name);
            }
            let metadata = Metadata { name, span: Some(stage.span), ignore_cache: false };
            let tree = build.definition.add(Op::Source(source), Vec::new(), metadata);
            let tree = tree.map_err(|error| fail(&error))?;
            let key = match base {
                StageBase::Image(reference) => Some((reference.clone(), stage.platform.clone())),
                _ => None,
            };
            let image = key.as_ref().and_then(|key| build.images.get(key));
            let config = match image {
                Some(image) => ImageConfig {
                    created: None,
                    history: Vec::new(),
                    rootfs: RootFs::default(),
                    ..image.config.clone()
                },
                // `FROM --platform=… scratch` is still for the target's platform.
                None => ImageConfig::scratch(build.options.target_platform()),
            };
            let image_env = Environment::of_image(&config.config.env);
            State {
                tree,
                env: Environment::default(),
                image_env,
                args: Environment::default(),
                config,
                image: key,
                loose: match base {
                    StageBase::Local { name, .. } | StageBase::Remote { name, .. } => Some(name.clone()),
                    _ => None,
                },
            }
        }
    };
    let is_built_on =
        matches!(stage.base, StageBase::Stage(_)) || !stage.steps.is_empty() || index == plan.target;
    if let Some(name) = state.loose.take_if(|_| is_built_on) {
        let metadata = Metadata { span: Some(stage.span), ..Metadata::default() };
        let tree = as_layer(&mut build.definition, state.tree, metadata).map_err(|error| fail(&error))?;
        let comment = Some("buildkit.exporter.image.v0".to_owned());
        history.push(HistoryStep {
            created_by: format!("context {name}"),
            comment,
            vertex: Some(tree),
            base: None,
        });
        state.tree = tree;
    }
    let config = &mut state.config.config;
    config.on_build = Vec::new();
    if !config.working_dir.is_empty() {
        config.working_dir = crate::parser::path::join("/", &config.working_dir);
    }
    if state.image_env.get("PATH").is_none() && state.config.os != "windows" {
        state.image_env.set("PATH", DEFAULT_PATH);
    }
    // What the image sets wins over arguments that the base stage declared.
    for (name, value) in state.image_env.entries() {
        state.env.set(name, value);
    }
    Ok((state, history))
}

/// A tree that is no image's, as the one layer of an image: what a stage can be built on.
fn as_layer(
    definition: &mut Definition,
    tree: VertexId,
    metadata: Metadata,
) -> Result<VertexId, DefinitionError> {
    let scratch = definition.add(Op::Source(SourceOp::Scratch), Vec::new(), Metadata::default())?;
    let copy = CopyAction {
        from: CopySource::Tree { input: 1, path: "/".to_owned(), optional: false },
        destination: "/".to_owned(),
        owner: None,
        mode: None,
        excludes: Vec::new(),
        parents: false,
        unpack: false,
    };
    let op = Op::File(FileOp { actions: vec![FileAction::Copy(copy)] });
    definition.add(op, vec![scratch, tree], metadata)
}

fn ignores_cache(options: &BuildOptions, name: Option<&str>) -> bool {
    match &options.no_cache {
        NoCache::None => false,
        NoCache::All => true,
        NoCache::Stages(names) => {
            name.is_some_and(|name| names.iter().any(|wanted| wanted.eq_ignore_ascii_case(name)))
        }
    }
}

fn finish(dockerfile: &Dockerfile, build: Build) -> Result<Lowered, Diagnostic> {
    let Build { plan, options, images, definition, mut finished, warnings, .. } = build;
    let mut history = Vec::new();
    // From the target down to the stage that has an own base.
    let mut next = Some(plan.target);
    let mut parts = Vec::new();
    while let Some(stage) = next {
        parts.push(stage);
        next = match plan.stages[stage].base {
            StageBase::Stage(base) => Some(base),
            _ => None,
        };
    }
    let mut ground = |stage: usize| finished[stage].as_mut().and_then(|finished| finished.ground.take());
    let (target, own) = *ground(plan.target).expect("the target is reachable and was lowered");
    let State { tree, image_env, mut config, image, .. } = target;
    let image = image.and_then(|key| images.get(&key));
    for line in image.iter().flat_map(|image| &image.config.history) {
        history.push(HistoryStep {
            created_by: line.created_by.clone().unwrap_or_default(),
            comment: line.comment.clone(),
            vertex: None,
            base: Some(line.clone()),
        });
    }
    // The first of them is the target.
    for stage in parts.into_iter().skip(1).rev() {
        history.extend(ground(stage).map(|ground| ground.1).unwrap_or_default());
    }
    history.extend(own);
    config.config.env = image_env.to_image();
    config.config.labels.extend(options.labels.iter().cloned());
    let platform = options.platform.clone().unwrap_or_else(|| config.platform());
    if (config.os.as_str(), config.architecture.as_str()) != (platform.os(), platform.architecture()) {
        // The base's version is that of another system.
        config.os_version = None;
    }
    config.os = platform.os().to_owned();
    config.architecture = platform.architecture().to_owned();
    config.variant = platform.variant().map(str::to_owned);
    let epoch = super::epoch::epoch(dockerfile, options, &plan.globals)?;
    Ok(Lowered {
        definition,
        target: tree,
        config,
        base: image.map(|image| Base {
            image: image.id,
            reference: image.reference.clone(),
            config: image.config.clone(),
        }),
        history,
        warnings,
        epoch,
        unused_build_args: unused_build_args(plan, dockerfile, options),
    })
}

/// Given arguments that no ARG declares and that mean nothing by themselves.
fn unused_build_args(plan: &Plan, dockerfile: &Dockerfile, options: &BuildOptions) -> Vec<UnusedBuildArg> {
    let in_stages =
        plan.stages.iter().flat_map(|stage| &stage.steps).filter_map(|step| match &step.instruction.kind {
            Kind::Arg(arg) => Some(arg),
            _ => None,
        });
    let declared: BTreeSet<&str> = dockerfile
        .globals
        .iter()
        .map(|global| &global.0)
        .chain(in_stages)
        .flat_map(|arg| &arg.declarations)
        .map(|declaration| declaration.0.text.as_str())
        .collect();
    let predefined = |name: &str| {
        let proxies = ["http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"];
        proxies.iter().any(|proxy| name.eq_ignore_ascii_case(proxy))
            || name.starts_with("BUILDKIT_")
            || name == "SOURCE_DATE_EPOCH"
            || plan.globals.get(name).is_some()
    };
    let names = options.build_args.keys();
    let unused = names.filter(|name| !declared.contains(name.as_str()) && !predefined(name));
    let missed = || declared.iter().copied().filter(|name| !options.build_args.contains_key(*name));
    let unused = unused
        .map(|name| UnusedBuildArg { name: name.clone(), near: nearest(name, missed()).map(str::to_owned) });
    unused.collect()
}
