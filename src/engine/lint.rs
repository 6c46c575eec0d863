//! Linting: the rules beside a build, and by themselves.

use std::collections::BTreeMap;

use crate::diagnostic::SourceText;
use crate::parser::lint::{self, Config, Finding, Input, Report, Scope};
use crate::parser::{BuildOptions, Dockerfile, ImageNeed, Plan, ResolvedImage};
use crate::platform::Platform;
use crate::progress;
use crate::reference::Reference;
use crate::store::Store;

use super::Engine;
use super::build::BuildRequest;

/// What to check.
#[derive(Debug)]
pub struct CheckRequest<'a> {
    pub dockerfile: &'a SourceText,
    /// The `.dockerignore` that applies, if there is one.
    pub ignore: Option<&'a SourceText>,
    pub options: &'a BuildOptions,
    /// What is asked of the rules besides what the file says.
    pub config: &'a Config,
}

/// Runs all rules. Base images are looked up in `store` if there is one, and nowhere else: a check
/// waits for no network, and says less about a file whose images are not here.
pub fn check(request: &CheckRequest, store: Option<&Store>) -> Report {
    let mut images = BTreeMap::new();
    loop {
        let report = lint::check(&Input {
            dockerfile: request.dockerfile,
            parsed: None,
            planned: None,
            ignore: request.ignore,
            options: request.options,
            images: &images,
            scope: Scope::Check,
            extra: request.config,
        });
        let known = images.len();
        for need in &report.unknown {
            if let Some(image) = store.and_then(|store| stored(store, need)) {
                images.insert((need.reference.clone(), need.platform.clone()), image);
            }
        }
        // The triggers of an image that was found may name others.
        if images.len() == known {
            return report;
        }
    }
}

/// The image that a build would take from here: one for the platform, or the one that a registry gave
/// when it was asked for that platform, which may say of itself that it is for another. Of an image that
/// is here for another platform only a registry can tell more, so it counts as not known.
fn stored(store: &Store, need: &ImageNeed) -> Option<ResolvedImage> {
    let named = store.image_named_for(&need.reference, &need.platform).ok()?;
    let id = match named.filter(|image| image.platform.serves(&need.platform)) {
        Some(image) => image.id,
        None => store.pinned(&need.reference, &need.platform).ok()??.0,
    };
    let (config, _) = store.image_config(id).ok()?;
    Some(ResolvedImage { id, config, reference: need.reference.clone() })
}

/// Runs the rules of a build for one platform.
pub(super) fn of_build(
    request: &BuildRequest,
    parsed: Option<&Dockerfile>,
    planned: Option<&Plan<'_>>,
    options: &BuildOptions,
    images: &BTreeMap<(Reference, Platform), ResolvedImage>,
) -> Report {
    lint::check(&Input {
        dockerfile: &request.dockerfile,
        parsed,
        planned,
        ignore: request.ignore.as_ref(),
        options,
        images,
        scope: Scope::Build,
        extra: &Config::default(),
    })
}

impl Engine<'_> {
    /// Tells what was found, but not what was found for another platform.
    pub(super) fn tell_findings(&self, report: &Report, told: &mut Vec<Finding>) {
        for finding in &report.findings {
            if told.contains(finding) {
                continue;
            }
            told.push(finding.clone());
            self.progress.finding(progress::Finding {
                rule: finding.rule.name.to_owned(),
                message: finding.message.clone(),
                file: finding.source.name().to_owned(),
                line: finding.location.first,
                reference: finding.rule.reference(),
            });
        }
    }
}
