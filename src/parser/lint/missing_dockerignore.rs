//! MissingDockerignore: a context that is copied whole has a `.dockerignore`.

use super::{Check, Definition, Family, Findings, Stage};

pub(super) const RULE: Definition = Definition {
    family: Family::Stave,
    experimental: false,
    summary: "a context that is copied whole has a `.dockerignore`",
    check: Check::Stage(check),
};

fn check(stage: &Stage, found: &mut Findings) {
    // One word about it is enough for a file.
    if stage.has_ignore_file || !found.found.is_empty() {
        return;
    }
    let Some(step) = stage.steps.iter().find(|step| !step.on_build && step.copies_whole_context()) else {
        return;
    };
    found.add_hinted(
        step.location,
        "the whole context is copied, and there is no `.dockerignore`",
        "write one that leaves out what the image does not need: `.git`, build outputs, secrets",
    );
}
