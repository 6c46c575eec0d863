//! InvalidBaseImagePlatform: the base image is for the platform that was asked for.

use super::{Check, Definition, Family, Findings, Stage};

pub(super) const RULE: Definition = Definition {
    family: Family::BuildKit,
    experimental: false,
    summary: "base images are for the platform of the build",
    check: Check::Stage(check),
};

fn check(stage: &Stage, found: &mut Findings) {
    let (Some((reference, expected)), Some(config)) = (stage.image, stage.config) else { return };
    let actual = config.platform();
    let differs = actual.os() != expected.os() || actual.architecture() != expected.architecture();
    if differs && !config.architecture.is_empty() {
        found.add_hinted(
            stage.location.at(stage.from.base.image.span),
            format!("the image `{}` is for {actual}, but the build is for {expected}", reference.familiar()),
            format!("pull it for {expected}, or write `FROM --platform={actual}` if it is meant"),
        );
    }
}
