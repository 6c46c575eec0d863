//! InvalidDefaultArgInFrom: FROM makes sense with the defaults of its arguments.

use std::collections::BTreeMap;

use crate::parser::options::BuildOptions;
use crate::reference::Reference;

use super::{Check, Definition, Family, Findings, Whole, from};

pub(super) const RULE: Definition = Definition {
    family: Family::BuildKit,
    experimental: false,
    summary: "the defaults of arguments in FROM name an image",
    check: Check::Whole(check),
};

fn check(whole: &Whole, found: &mut Findings) {
    let options = BuildOptions { build_args: BTreeMap::new(), ..whole.options.clone() };
    let Some(globals) = from::globals(whole.dockerfile, &options) else { return };
    for stage in &whole.dockerfile.stages {
        let word = &stage.base.image;
        let Some(line) = whole.file.at(stage.span.start) else { continue };
        // A name without variables has no defaults that could be wrong.
        let Some(expanded) = from::expand(whole.dockerfile, word, &globals) else { return };
        let varies = !expanded.set.is_empty() || !expanded.unset.is_empty();
        if varies && Reference::parse(&expanded.text).is_err() {
            let became = match expanded.text.as_str() {
                "" => "nothing".to_owned(),
                text => format!("`{text}`, which is no image"),
            };
            found.add_hinted(
                line.location.at(word.span),
                format!("without build arguments `{}` becomes {became}", word.text),
                "give the ARG before the first FROM a default",
            );
        }
    }
}
