//! ReservedStageName: no stage is called `scratch` or `context`, which mean something else.

use super::{Check, Definition, Family, Findings, Whole};

pub(super) const RULE: Definition = Definition {
    family: Family::BuildKit,
    experimental: false,
    summary: "stages are not called `scratch` or `context`",
    check: Check::Whole(check),
};

fn check(whole: &Whole, found: &mut Findings) {
    for stage in &whole.dockerfile.stages {
        let (Some(name), Some(line)) = (&stage.base.name, whole.file.at(stage.span.start)) else { continue };
        if matches!(name.text.as_str(), "scratch" | "context") {
            found.add_hinted(
                line.location.at(name.span),
                format!("the stage name `{}` is reserved", name.text),
                "`scratch` is the empty image, `context` the build context: give the stage another name",
            );
        }
    }
}
