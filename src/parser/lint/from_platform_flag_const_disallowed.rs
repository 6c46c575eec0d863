//! FromPlatformFlagConstDisallowed: the platform of a stage is not fixed, unless the stage is named for it.

use crate::platform::Platform;

use super::{Check, Definition, Family, Findings, Whole, from};

pub(super) const RULE: Definition = Definition {
    family: Family::BuildKit,
    experimental: false,
    summary: "FROM --platform has no constant value",
    check: Check::Whole(check),
};

fn check(whole: &Whole, found: &mut Findings) {
    let Some(globals) = from::globals(whole.dockerfile, whole.options) else { return };
    for stage in &whole.dockerfile.stages {
        let (Some(word), Some(line)) = (&stage.base.platform, whole.file.at(stage.span.start)) else {
            continue;
        };
        let Some(expanded) = from::expand(whole.dockerfile, word, &globals) else { continue };
        let varies = !expanded.set.is_empty() || !expanded.unset.is_empty();
        let (false, Ok(platform)) = (varies, Platform::parse(&expanded.text)) else { continue };
        let name = stage.base.name.as_ref().map(|name| name.text.as_str()).unwrap_or_default();
        if !name.contains(platform.os()) && !name.contains(platform.architecture()) {
            found.add_hinted(
                line.location.at(word.span),
                format!("the stage is always for `{}`, whatever is built", word.text),
                "use `$BUILDPLATFORM`, leave the flag to the command line, or name the stage for its platform",
            );
        }
    }
}
