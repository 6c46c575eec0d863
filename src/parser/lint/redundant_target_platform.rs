//! RedundantTargetPlatform: a stage is for the target's platform without saying so.

use crate::parser::word::Variables;

use super::{Check, Definition, Family, Findings, Whole, from};

pub(super) const RULE: Definition = Definition {
    family: Family::BuildKit,
    experimental: false,
    summary: "FROM does not ask for the target's platform, which it gets anyway",
    check: Check::Whole(check),
};

fn check(whole: &Whole, found: &mut Findings) {
    const TARGET: &str = "TARGETPLATFORM";
    let Some(globals) = from::globals(whole.dockerfile, whole.options) else { return };
    for stage in &whole.dockerfile.stages {
        let (Some(word), Some(line)) = (&stage.base.platform, whole.file.at(stage.span.start)) else {
            continue;
        };
        let Some(expanded) = from::expand(whole.dockerfile, word, &globals) else { continue };
        let alone = expanded.set.iter().eq([TARGET]) && expanded.unset.is_empty();
        if alone && globals.get(TARGET) == Some(&expanded.text) {
            found.add_hinted(
                line.location.at(word.span),
                format!("`--platform={}` is what FROM does by itself", word.text),
                "remove the flag",
            );
        }
    }
}
