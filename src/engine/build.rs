//! `build`: a Dockerfile and its contexts become an image.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use time::OffsetDateTime;

use crate::cache::content::ContentError;
use crate::diagnostic::{Diagnostic, SourceText, Span, nearest};
use crate::exporter::{self, ExportError, Image, ImageLayer};
use crate::image::History;
use crate::parser::ignore::IgnorePattern;
use crate::parser::{self, BuildOptions, Lowered, Lowering, ResolvedImage};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::solver::{Cause, SolveError, Solver, copy};
use crate::store::{Lease, StoreError};

use super::Engine;
use super::pull::{Layers, Policy, PullError, Remotes};

/// What to build, and from what.
#[derive(Debug)]
pub struct BuildRequest {
    pub dockerfile: SourceText,
    /// The `.dockerignore` that applies, if there is one.
    pub ignore: Option<SourceText>,
    /// Directories by name; the main one is `context`.
    pub contexts: BTreeMap<String, PathBuf>,
    pub options: BuildOptions,
    pub secrets: BTreeMap<String, Vec<u8>>,
    /// Ask registries for newer images.
    pub pull: bool,
    /// The host's `/etc/resolv.conf`.
    pub resolv_conf: Vec<u8>,
    /// Whoever shows progress shows what steps write, and errors need not say it again.
    pub output_is_shown: bool,
    /// Whether the image's layers are needed here when the build ends.
    pub layers_needed: bool,
}

/// An image that was built. Its layers stay for as long as this lives.
#[derive(Debug)]
pub struct Built<'a> {
    pub image: Image,
    pub warnings: Vec<Diagnostic>,
    _lease: Lease<'a>,
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

/// An error and all of its causes, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.ends_with(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = error.source();
    }
    text
}

impl<'a> Engine<'a> {
    /// Builds an image. Nothing is named or exported yet.
    ///
    /// # Errors
    /// [`BuildError`]. What was built by then is cached.
    pub fn build(&self, request: &BuildRequest) -> Result<Built<'a>, BuildError> {
        let lease = self.store.lease()?;
        let mut options = request.options.clone();
        let mut excluded = Vec::new();
        let dockerfile = self
            .read(&format!("load build definition from {}", request.dockerfile.name()), || {
                parser::parse(&request.dockerfile)
            })?;
        if let Some(ignore) = &request.ignore {
            excluded =
                self.read("load .dockerignore", || parser::ignore::ignore(ignore).map_err(|one| vec![one]))?;
            options.excludes = excluded.iter().map(|one| one.pattern.clone()).collect();
        }
        let remotes = Remotes::default();
        let lowered = self.lower(&dockerfile, &options, &remotes, request.pull, &lease)?;
        if !lowered.unused_build_args.is_empty() {
            let names = lowered.unused_build_args.join(", ");
            self.progress.warn(format!("no ARG declares these build arguments: {names}"));
        }
        let layers = Layers { engine: self, remotes: &remotes };
        let environment = crate::solver::Environment {
            store: self.store,
            progress: &self.progress,
            images: &layers,
            contexts: &request.contexts,
            secrets: &request.secrets,
            resolv_conf: &request.resolv_conf,
            cancel: &self.cancel,
            lease: &lease,
        };
        let solver = Solver::new(environment);
        let solved = solver
            .solve(&lowered.definition, &[lowered.target], request.layers_needed)
            .map_err(|error| self.failed(request, &excluded, *error))?;
        drop(solver);
        let image = assemble(&lowered, &solved);
        Ok(Built { image, warnings: lowered.warnings, _lease: lease })
    }

    /// Writes the files of an image into a folder, as those of whoever runs this.
    ///
    /// # Errors
    /// What reading the layers and writing give.
    pub fn export_folder(&self, image: &Image, folder: &Path) -> Result<(), ExportError> {
        exporter::tree::write_folder(self.store, image, folder, |tree, listing, target| {
            let owner = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
            let spec = copy::Spec { owner: Some(owner), ..copy::Spec::to("/") };
            copy::copy(copy::Source::Tree { tree, listing }, target, &spec).map_err(|error| chain(&error))
        })
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

    /// Lowers, finding the images that it asks for, until it asks for no more.
    fn lower(
        &self,
        dockerfile: &parser::Dockerfile,
        options: &BuildOptions,
        remotes: &Remotes,
        pull: bool,
        lease: &Lease<'_>,
    ) -> Result<Lowered, BuildError> {
        let mut images: BTreeMap<(Reference, Platform), ResolvedImage> = BTreeMap::new();
        loop {
            let needs = match parser::lower(dockerfile, options, &images).map_err(BuildError::Findings)? {
                Lowering::Done(lowered) => return Ok(*lowered),
                Lowering::Needs(needs) => needs,
            };
            for need in needs {
                let step = self.progress.step(format!("[internal] load metadata for {}", need.reference));
                let policy = if pull { Policy::Always } else { Policy::Missing };
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
                        return Err(BuildError::Findings(vec![
                            self.missing_image(dockerfile, &need, &error),
                        ]));
                    }
                }
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
        let finding = Diagnostic::error(format!("cannot get the image `{name}`: {}", chain(error)))
            .at(source, need.span);
        if let PullError::Registry(error) = error
            && !error.is_not_found()
            && let Some(hint) = error.hint()
        {
            return finding.hint(hint);
        }
        let known: Vec<String> = self
            .store
            .images()
            .unwrap_or_default()
            .into_iter()
            .filter_map(|listed| Some(listed.name?.familiar()))
            .collect();
        // The name stands where a stage's could, and is more often a misspelt stage than an image.
        let written = &source.text()[need.span.start.min(source.text().len())..];
        let written = written.split_whitespace().find(|word| {
            !word.starts_with("--")
                && !matches!(word.to_ascii_uppercase().as_str(), "FROM" | "COPY" | "RUN" | "ADD")
        });
        let stages =
            stages.iter().filter_map(|stage| stage.base.name.as_ref()).map(|name| name.text.as_str());
        if let Some(stage) = written.and_then(|written| nearest(written, stages)) {
            return finding.hint(format!("there is a stage `{stage}`"));
        }
        match nearest(&name, known.iter().map(String::as_str)) {
            Some(near) if near == name => {
                finding.hint(format!("the store has `{near}`, but not for {}", need.platform))
            }
            Some(near) => finding.hint(format!("the store has an image `{near}`")),
            None => finding,
        }
    }

    fn failed(&self, request: &BuildRequest, excluded: &[IgnorePattern], error: SolveError) -> BuildError {
        if matches!(error.cause, Cause::Canceled) {
            return BuildError::Canceled;
        }
        let mut finding = Diagnostic::error(chain(&error.cause));
        if let Some(span) = error.span {
            let span = match &error.cause {
                Cause::Content(cause) => word_of(&request.dockerfile, span, cause).unwrap_or(span),
                _ => span,
            };
            finding = finding.at(&request.dockerfile, span);
        }
        if let Cause::Content(ContentError::NotFound { near: Some(near), .. }) = &error.cause {
            finding = finding.hint(format!("did you mean `{near}`?"));
        }
        if let (Cause::Content(ContentError::Ignored { pattern, .. }), Some(ignore)) =
            (&error.cause, &request.ignore)
            && let Some(by) = excluded.iter().rfind(|one| one.pattern == *pattern)
        {
            finding = finding.hint(format!("`{}` line {} excludes it: `{pattern}`", ignore.name(), by.line));
        }
        if !error.output.is_empty() && !request.output_is_shown {
            finding =
                finding.hint(format!("the step's last output was:\n    {}", error.output.join("\n    ")));
        }
        BuildError::Findings(vec![finding])
    }
}

/// The word of an instruction that names the path in question, if one does as it is written.
fn word_of(source: &SourceText, span: Span, cause: &ContentError) -> Option<Span> {
    let (ContentError::NotFound { path, .. }
    | ContentError::Ignored { path, .. }
    | ContentError::NoMatch { path }) = cause
    else {
        return None;
    };
    let clean = |text: &str| text.trim_start_matches("./").trim_matches('/').to_owned();
    let wanted = clean(path);
    let is_end = |c: char| c.is_whitespace() || matches!(c, '"' | ',' | '[' | ']' | '=');
    let text = source.text().get(span.start..span.end)?;
    let mut start = 0;
    for piece in text.split_inclusive(is_end) {
        let word = piece.trim_end_matches(is_end);
        if !wanted.is_empty() && clean(word) == wanted {
            return Some(Span::new(span.start + start, span.start + start + word.len()));
        }
        start += piece.len();
    }
    None
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
            Some(vertex) => solved.layers(vertex).and_then(<[_]>::last).map(|layer| ImageLayer {
                identity: layer.identity,
                diff_id: layer.diff_id,
                created: layer
                    .created
                    .and_then(|at| OffsetDateTime::from_unix_timestamp_nanos(i128::from(at)).ok()),
            }),
            None if entry.base.as_ref().is_some_and(|line| !line.empty_layer) => inherited.next(),
            None => None,
        };
        let history = entry.base.clone().unwrap_or_else(|| History {
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
    exporter::assemble(lowered.config.clone(), steps)
}
