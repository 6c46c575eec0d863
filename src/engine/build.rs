//! `build`: a Dockerfile and its contexts become an image.

use std::collections::BTreeMap;
use std::path::PathBuf;

use time::OffsetDateTime;

use crate::diagnostic::{Diagnostic, SourceText, chain, nearest};
use crate::digest::VertexId;
use crate::exporter::{self, Image, ImageLayer, LayerFormat, Whereabouts};
use crate::image::History;
use crate::llb::Definition;
use crate::parser::lint::Report;
use crate::parser::{self, BuildOptions, Lowered, Preparation, ResolvedImage};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::runtime::network::user::UserNetwork;
use crate::solver::{Cause, ChainLayer, Observer, Solver, source};
use crate::spelling;
use crate::store::{Lease, StoreError};

use super::Engine;
use super::cache::Beside;
use super::findings;
use super::layout::Layout;
use super::lint;
use super::pull::{Layers, Policy, PullError, Remotes};
use super::push::{EarlyPush, Sent, early};

/// How long a Dockerfile is, in bytes, that a second thread is of use for.
const WORTH_A_THREAD: usize = 8 << 10;

/// What to build, and from what.
#[derive(Debug)]
pub struct BuildRequest {
    pub dockerfile: SourceText,
    /// The `.dockerignore` that applies, if there is one.
    pub ignore: Option<SourceText>,
    /// Directories by name; the main one is `context`.
    pub contexts: BTreeMap<String, PathBuf>,
    pub options: BuildOptions,
    /// What to build for, an image each, with one graph for all; none leaves it to `options`.
    pub platforms: Vec<Platform>,
    pub secrets: BTreeMap<String, Vec<u8>>,
    /// SSH agents by id, for steps that mount one.
    pub agents: BTreeMap<String, crate::solver::ssh::Agent>,
    /// Limits of steps that are no part of what a step is.
    pub resources: crate::runtime::Resources,
    /// Folders that describe devices, the first preferred.
    pub device_folders: Vec<PathBuf>,
    /// What fetching sources takes from the machine.
    pub sources: source::Settings,
    /// OCI layouts, by the names that stand for their images.
    pub layouts: BTreeMap<Reference, Layout>,
    /// Ask registries for newer images.
    pub pull: bool,
    /// What steps have for a network unless they say so; none for the host's.
    pub network: Option<crate::solver::StepNetwork>,
    /// The host's `/etc/resolv.conf`.
    pub resolv_conf: Vec<u8>,
    /// For an ordinary user: what connects the steps, or why nothing can and they share the host's network.
    pub user_network: Option<Result<UserNetwork, String>>,
    /// Whoever shows progress shows what steps write, and errors need not say it again.
    pub output_is_shown: bool,
    /// What of the image is needed here when the build ends.
    pub needed: Needed,
    /// Where its layers go as soon as they are there.
    pub pushes: Vec<EarlyPush>,
}

/// What of an image is needed when its build ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Needed {
    /// Nothing: the build cache is filled, and that is all.
    Nothing,
    /// Its layers as blobs in these formats, here or where they can be had: what is at a registry is
    /// not fetched.
    Blobs(Vec<LayerFormat>),
    /// Its files.
    Files,
}

impl BuildRequest {
    /// What each image is built for, none for what the options say; and whether an index is wanted.
    /// `BUILDKIT_MULTI_PLATFORM` makes one of a single image too.
    ///
    /// # Errors
    /// [`BuildError::Findings`] if that argument makes no sense.
    pub fn targets(&self) -> Result<(Vec<Option<Platform>>, bool), BuildError> {
        const SWITCH: &str = "BUILDKIT_MULTI_PLATFORM";
        let mut platforms: Vec<Platform> = Vec::new();
        for platform in &self.platforms {
            if !platforms.contains(platform) {
                platforms.push(platform.clone());
            }
        }
        let several = platforms.len() > 1;
        let wrong = |message: String| BuildError::Findings(vec![Diagnostic::error(message)]);
        let given = self.options.build_args.get(SWITCH).and_then(Option::as_deref);
        let indexed = match given.unwrap_or_default() {
            "" => several,
            text => match spelling::boolean(text) {
                Some(false) if several => {
                    return Err(wrong(format!(
                        "`{SWITCH}` forbids to build for {} platforms",
                        platforms.len()
                    )));
                }
                Some(indexed) => indexed,
                None => return Err(wrong(format!("`{SWITCH}={text}`: expected `true` or `false`"))),
            },
        };
        match platforms.is_empty() {
            true => Ok((vec![self.options.platform.clone()], indexed)),
            false => Ok((platforms.into_iter().map(Some).collect(), indexed)),
        }
    }
}

/// Images that were built. Their layers stay for as long as this lives.
#[derive(Debug)]
pub struct Built<'a> {
    /// One for each platform, in the order in which they were asked for.
    pub images: Vec<Image>,
    /// Whether they are to be one index, which one image can be too.
    pub indexed: bool,
    /// What `SOURCE_DATE_EPOCH` says.
    pub epoch: Option<OffsetDateTime>,
    pub warnings: Vec<Diagnostic>,
    /// The records of the build, if images that leave shall hold them.
    pub inline: Option<crate::cache::remote::Records>,
    /// What early pushes brought to registries.
    pub sent: Sent,
    remotes: Remotes,
    _lease: Lease<'a>,
}

impl Built<'_> {
    /// Where layers can be had that are not here.
    pub fn elsewhere(&self) -> &dyn Whereabouts {
        &self.remotes
    }
}

/// Why a build failed.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The Dockerfile is wrong, or a step failed; each finding says where.
    #[error("the build failed")]
    Findings(Vec<Diagnostic>),
    #[error("canceled")]
    Canceled,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl<'a> Engine<'a> {
    /// Builds an image. Nothing is named or exported yet.
    ///
    /// # Errors
    /// [`BuildError`]. What was built by then is cached.
    pub fn build(&self, request: &BuildRequest) -> Result<Built<'a>, BuildError> {
        self.build_beside(request, &Beside::default())
    }

    /// Builds while caches elsewhere are read, and tells observers of layers.
    pub(super) fn build_beside(
        &self,
        request: &BuildRequest,
        beside: &Beside<'_>,
    ) -> Result<Built<'a>, BuildError> {
        let remotes = Remotes::with_layouts(request.layouts.clone());
        let mut built =
            self.import_beside(beside, &remotes, || self.build_from(request, beside, &remotes))?;
        built.remotes = remotes;
        Ok(built)
    }

    fn build_from(
        &self,
        request: &BuildRequest,
        beside: &Beside<'_>,
        remotes: &Remotes,
    ) -> Result<Built<'a>, BuildError> {
        let lease = self.store.lease()?;
        let mut options = request.options.clone();
        let mut excluded = Vec::new();
        let dockerfile = self
            .read(&format!("load build definition from {}", request.dockerfile.name()), || {
                parser::parse(&request.dockerfile)
            })
            .inspect_err(|_| {
                let report = lint::of_build(request, None, None, &request.options, &BTreeMap::new());
                self.tell_findings(&report, &mut Vec::new());
            })?;
        if let Some(ignore) = &request.ignore {
            excluded =
                self.read("load .dockerignore", || parser::ignore::ignore(ignore).map_err(|one| vec![one]))?;
            options.excludes = excluded.iter().map(|one| one.pattern.clone()).collect();
        }
        let (platforms, indexed) = request.targets()?;
        options.multi_platform = indexed;
        let mut graph = Definition::new();
        let mut all: Vec<Lowered> = Vec::with_capacity(platforms.len());
        let mut found = BTreeMap::new();
        let mut warnings: Vec<Diagnostic> = Vec::new();
        let (mut failed, mut violation, mut told) = (None, None, Vec::new());
        for platform in platforms {
            options.platform = platform;
            let mut report = None;
            let lowered =
                self.lower(request, &dockerfile, &options, &mut found, remotes, &lease, &mut report);
            let report =
                report.unwrap_or_else(|| lint::of_build(request, Some(&dockerfile), None, &options, &found));
            self.tell_findings(&report, &mut told);
            violation = violation.or_else(|| report.failure());
            let mut lowered = match lowered {
                Ok(lowered) => lowered,
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            };
            graph.absorb(std::mem::take(&mut lowered.definition));
            for warning in std::mem::take(&mut lowered.warnings) {
                if !warnings.contains(&warning) {
                    warnings.push(warning);
                }
            }
            all.push(lowered);
        }
        if let Some(error) = failed {
            return Err(error);
        }
        if let Some(violation) = violation {
            return Err(BuildError::Findings(vec![violation]));
        }
        for unused in all.first().iter().flat_map(|lowered| &lowered.unused_build_args) {
            let advice = unused.near.as_ref().map(|near| format!(": did you mean `{near}`?"));
            let advice = advice.unwrap_or_default();
            self.progress.warn(format!("no ARG declares the build argument `{}`{advice}", unused.name));
        }
        if dockerfile.source.text().len() >= WORTH_A_THREAD {
            // Thousands of instructions take as long to let go of as a hundred steps to look up.
            // Where there is no thread for it, it goes with what would have run there.
            let _ = std::thread::Builder::new().spawn(move || drop(dockerfile));
        }
        let layers = Layers { engine: self, remotes };
        let sent = Sent::default();
        let targets: Vec<VertexId> = all.iter().map(|lowered| lowered.target).collect();
        let work = |pushes: &[&dyn Observer]| {
            let observers: Vec<&dyn Observer> = beside.observers.iter().chain(pushes).copied().collect();
            let environment = crate::solver::Environment {
                store: self.store,
                progress: &self.progress,
                images: &layers,
                contexts: &request.contexts,
                secrets: &request.secrets,
                agents: &request.agents,
                resources: &request.resources,
                device_folders: &request.device_folders,
                network: request.network.as_ref(),
                resolv_conf: &request.resolv_conf,
                user_network: request
                    .user_network
                    .as_ref()
                    .map(|network| network.as_ref().map_err(String::as_str)),
                cancel: &self.cancel,
                fetcher: self.fetcher(&request.sources, &request.secrets),
                observers: &observers,
                exchange: beside.exchange,
                lease: &lease,
            };
            let solver = Solver::new(environment);
            solver.solve(&graph, &targets, &|layer| self.is_needed(&request.needed, layer, remotes)).map_err(
                |error| {
                    let all = match &error.cause {
                        Cause::Content(_) => solver.missing_sources(&graph, &targets),
                        _ => Vec::new(),
                    };
                    findings::of(request, &excluded, *error, all)
                },
            )
        };
        let is_failure = |error: &BuildError| !matches!(error, BuildError::Canceled);
        let solved = early::beside(self, &request.pushes, leaving(&all), remotes, &sent, work, is_failure)?;
        let images = all.iter().map(|lowered| assemble(lowered, &solved)).collect();
        let epoch = all.first().and_then(|lowered| lowered.epoch);
        let remotes = Remotes::default();
        Ok(Built { images, indexed, epoch, warnings, inline: None, sent, remotes, _lease: lease })
    }

    /// Whether a layer of the image has to be on this disk when the build ends.
    fn is_needed(&self, needed: &Needed, layer: &ChainLayer, remotes: &Remotes) -> bool {
        let formats = match needed {
            Needed::Nothing => return false,
            Needed::Files => return true,
            Needed::Blobs(formats) => formats,
        };
        let layer = ImageLayer { identity: layer.identity, diff_id: layer.diff_id, created: None };
        // What is on this disk is held there. A store that fails is found out by whoever asks next.
        self.store.has_layer(layer.identity).unwrap_or(true)
            || formats.iter().any(|format| {
                !matches!(exporter::known_blob(self.store, &layer, *format, remotes), Ok(Some(_)))
            })
    }

    /// What brings sources over the network here.
    pub fn fetcher<'f>(
        &'f self,
        settings: &'f source::Settings,
        secrets: &'f BTreeMap<String, Vec<u8>>,
    ) -> source::Fetcher<'f> {
        source::Fetcher {
            store: self.store,
            client: &self.registry,
            runtime: &self.runtime,
            progress: &self.progress,
            cancel: &self.cancel,
            secrets,
            settings,
        }
    }

    /// A step that reads something of the person's.
    fn read<T>(
        &self,
        what: &str,
        read: impl FnOnce() -> Result<T, Vec<Diagnostic>>,
    ) -> Result<T, BuildError> {
        let step = self.progress.step(format!("[internal] {what}"));
        match read() {
            Ok(value) => {
                step.done();
                Ok(value)
            }
            Err(findings) => {
                step.failed(findings.first().map_or("", |finding| finding.message.as_str()));
                Err(BuildError::Findings(findings))
            }
        }
    }

    /// Lowers, finding the images that it asks for, until it asks for no more. Of a long file, what rules find is
    /// looked for beside that.
    #[expect(
        clippy::too_many_arguments,
        reason = "it is a part of `build_from`, and these are its variables"
    )]
    fn lower(
        &self,
        request: &BuildRequest,
        dockerfile: &parser::Dockerfile,
        options: &BuildOptions,
        images: &mut BTreeMap<(Reference, Platform), ResolvedImage>,
        remotes: &Remotes,
        lease: &Lease<'_>,
        report: &mut Option<Report>,
    ) -> Result<Lowered, BuildError> {
        loop {
            let known = &*images;
            let needs = match parser::prepare(dockerfile, options, known).map_err(BuildError::Findings)? {
                Preparation::Needs(needs) => needs,
                Preparation::Done(prepared) => {
                    let lint =
                        || lint::of_build(request, Some(dockerfile), Some(prepared.plan()), options, known);
                    let lowered = std::thread::scope(|scope| {
                        let beside = dockerfile.source.text().len() >= WORTH_A_THREAD;
                        let beside =
                            beside.then(|| std::thread::Builder::new().spawn_scoped(scope, lint).ok());
                        let lowered = prepared.lower();
                        // Where there was no thread for it, it is done now.
                        *report = match beside.flatten().map(std::thread::ScopedJoinHandle::join) {
                            Some(Ok(linted)) => Some(linted),
                            Some(Err(panic)) => std::panic::resume_unwind(panic),
                            None => Some(lint()),
                        };
                        lowered
                    });
                    return lowered.map_err(BuildError::Findings);
                }
            };
            let mut missing = Vec::new();
            for need in needs {
                let step = self.progress.step(format!("[internal] load metadata for {}", need.reference));
                let policy = if request.pull { Policy::Always } else { Policy::Missing };
                match self.resolve(remotes, &need.reference, &need.platform, policy, lease) {
                    Ok(found) => {
                        step.done();
                        let image = ResolvedImage {
                            id: found.id,
                            config: found.config,
                            reference: need.reference.clone(),
                        };
                        images.insert((need.reference, need.platform), image);
                    }
                    Err(PullError::Canceled(_)) => return Err(BuildError::Canceled),
                    Err(error) => {
                        step.failed(&error);
                        missing.push(self.missing_image(dockerfile, &need, &error));
                        // A registry that knows one image not may know the next; one that could not
                        // be reached is not waited for again.
                        if !matches!(&error, PullError::Registry(error) if error.is_not_found()) {
                            return Err(BuildError::Findings(missing));
                        }
                    }
                }
            }
            if !missing.is_empty() {
                return Err(BuildError::Findings(missing));
            }
        }
    }

    fn missing_image(
        &self,
        dockerfile: &parser::Dockerfile,
        need: &parser::ImageNeed,
        error: &PullError,
    ) -> Diagnostic {
        let (source, stages) = (&dockerfile.source, &dockerfile.stages);
        let name = need.reference.familiar();
        if let PullError::Layout { .. } = error {
            return Diagnostic::error(chain(error)).at(source, need.span);
        }
        let finding = Diagnostic::error(format!("cannot get the image `{name}`: {}", chain(error)))
            .at(source, need.span);
        let known: Vec<String> = self
            .store
            .images()
            .unwrap_or_default()
            .into_iter()
            .filter_map(|listed| Some(listed.name?.familiar()))
            .collect();
        // The name stands where a stage's could, and is more often a misspelt stage than an image.
        let written = source.text().get(need.span.start..need.span.end).unwrap_or_default();
        // In quotes the span is that of a mount as a whole.
        let written = match written.split_once("from=") {
            Some((_, from)) => from.split([',', '"', '\'']).next(),
            None => written.split_whitespace().next(),
        };
        let stages =
            stages.iter().filter_map(|stage| stage.base.name.as_ref()).map(|name| name.text.as_str());
        if let Some(stage) = written.and_then(|written| nearest(written, stages)) {
            return finding.hint(format!("there is a stage `{stage}`"));
        }
        if let PullError::Registry(error) = error
            && !error.is_not_found()
            && let Some(hint) = error.hint()
        {
            return finding.hint(hint);
        }
        match nearest(&name, known.iter().map(String::as_str)) {
            Some(near) if near == name => {
                finding.hint(format!("the store has `{near}`, but not for {}", need.platform))
            }
            Some(near) => finding.hint(format!("the store has an image `{near}`")),
            None => finding,
        }
    }
}

/// The layers that will be in the images.
fn leaving(all: &[Lowered]) -> early::Leaving {
    let base = all.iter().flat_map(|lowered| &lowered.base).flat_map(|base| &base.config.rootfs.diff_ids);
    let base = base.map(|diff_id| ImageLayer {
        identity: crate::digest::LayerIdentity::of_diff(*diff_id),
        diff_id: *diff_id,
        created: None,
    });
    let steps = all.iter().flat_map(|lowered| &lowered.history).filter_map(|line| line.vertex);
    early::Leaving { base: base.collect(), steps: steps.collect() }
}

fn assemble(lowered: &Lowered, solved: &crate::solver::Solved) -> Image {
    let base = lowered.base.iter().flat_map(|base| &base.config.rootfs.diff_ids);
    let mut inherited = base.map(|diff_id| ImageLayer {
        identity: crate::digest::LayerIdentity::of_diff(*diff_id),
        diff_id: *diff_id,
        created: None,
    });
    let mut steps = Vec::new();
    for entry in &lowered.history {
        let layer = match entry.vertex {
            Some(vertex) => solved.top(vertex).map(|layer| ImageLayer {
                identity: layer.identity,
                diff_id: layer.diff_id,
                created: layer
                    .created
                    .and_then(|at| OffsetDateTime::from_unix_timestamp_nanos(i128::from(at)).ok()),
            }),
            None if entry.base.as_ref().is_some_and(|line| !line.empty_layer) => inherited.next(),
            None => None,
        };
        // The base keeps its times: it is what it is. Nothing that was made here is younger than the
        // epoch, and what has no time of its own was made then.
        let history = entry.base.clone().unwrap_or_else(|| History {
            created: lowered
                .epoch
                .map(|epoch| layer.and_then(|layer: ImageLayer| layer.created).unwrap_or(epoch).min(epoch)),
            created_by: Some(entry.created_by.clone()),
            comment: entry.comment.clone(),
            ..History::default()
        });
        steps.push(exporter::Step { history, layer });
    }
    // A base image whose history is shorter than its layers, or missing, keeps all of its layers.
    let rest: Vec<exporter::Step> =
        inherited.map(|layer| exporter::Step { history: History::default(), layer: Some(layer) }).collect();
    steps.splice(0..0, rest);
    let inherited = lowered.base.as_ref().map_or(0, |base| base.config.rootfs.diff_ids.len());
    exporter::assemble(lowered.config.clone(), steps, inherited)
}
