//! Linting: the rules beside a build, and by themselves.

use std::collections::BTreeMap;

use crate::diagnostic::SourceText;
use crate::parser::lint::{self, Config, Input, Report, Scope};
use crate::parser::{BuildOptions, ImageNeed, ResolvedImage};
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

/// The image of this name as it is here, for whatever platform: one for another is a finding.
fn stored(store: &Store, need: &ImageNeed) -> Option<ResolvedImage> {
    let image = store.image_named(&need.reference).ok()??;
    let (config, _) = store.image_config(image.id).ok()?;
    Some(ResolvedImage { id: image.id, config, reference: need.reference.clone() })
}

impl Engine<'_> {
    /// Runs the rules of a build, and tells what they find.
    pub(super) fn tell_findings(
        &self,
        request: &BuildRequest,
        options: &BuildOptions,
        images: &BTreeMap<(Reference, Platform), ResolvedImage>,
    ) -> Report {
        let report = lint::check(&Input {
            dockerfile: &request.dockerfile,
            ignore: request.ignore.as_ref(),
            options,
            images,
            scope: Scope::Build,
            extra: &Config::default(),
        });
        for finding in &report.findings {
            self.progress.finding(progress::Finding {
                rule: finding.rule.name.to_owned(),
                message: finding.message.clone(),
                file: finding.source.name().to_owned(),
                line: finding.location.first,
                reference: finding.rule.reference(),
            });
        }
        report
    }
}
