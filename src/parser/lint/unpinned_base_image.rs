//! UnpinnedBaseImage: a base image is named by a version.

use super::{Check, Definition, Family, Findings, Stage};

pub(super) const RULE: Definition = Definition {
    family: Family::Stave,
    experimental: true,
    summary: "base images have a tag other than `latest`, or a digest",
    check: Check::Stage(check),
};

fn check(stage: &Stage, found: &mut Findings) {
    let Some((reference, _)) = stage.image else { return };
    let latest = reference.tag().is_none_or(|tag| tag == "latest");
    if latest && reference.digest().is_none() {
        found.add_hinted(
            stage.location.at(stage.from.base.image.span),
            format!("`{}` is another image whenever somebody pushes it", reference.familiar()),
            "name a version, or a digest where the very same image matters",
        );
    }
}
