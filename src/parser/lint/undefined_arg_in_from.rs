//! UndefinedArgInFrom: what FROM refers to was declared by an ARG before it.

use std::collections::HashSet;

use super::suggest::suggest;
use super::{Check, Definition, Family, Findings, Whole, from};

pub(super) const RULE: Definition = Definition {
    family: Family::BuildKit,
    experimental: false,
    summary: "FROM uses only declared arguments",
    check: Check::Whole(check),
};

fn check(whole: &Whole, found: &mut Findings) {
    let Some(globals) = from::globals(whole.dockerfile, whole.options) else { return };
    let declarations = whole.dockerfile.globals.iter().flat_map(|(arg, _)| &arg.declarations);
    let declared: HashSet<&str> = declarations.map(|(name, _)| name.text.as_str()).collect();
    // One suggestion is worth a look at so many names, in a file of whatever length.
    let mut comparisons = 1_usize << 20;
    for stage in &whole.dockerfile.stages {
        let Some(line) = whole.file.at(stage.span.start) else { continue };
        for word in [Some(&stage.base.image), stage.base.platform.as_ref()].into_iter().flatten() {
            let Some(expanded) = from::expand(whole.dockerfile, word, &globals) else { continue };
            for name in expanded.unset {
                // One that is declared without a value is empty on purpose.
                if declared.contains(name.as_str()) {
                    continue;
                }
                let names: Vec<&str> = declared.iter().copied().chain(globals.names()).collect();
                let message = format!("no ARG before the first FROM declares `{name}`");
                comparisons = comparisons.saturating_sub(names.len());
                let near = (comparisons > 0).then(|| suggest(&name, sorted(names))).flatten();
                match near {
                    Some(near) => {
                        found.add_hinted(
                            line.location.at(word.span),
                            message,
                            format!("did you mean `{near}`?"),
                        );
                    }
                    None => found.add(line.location.at(word.span), message),
                }
            }
        }
    }
}

/// Names in an order of their own, so that of equally near ones always the same is suggested.
fn sorted(mut names: Vec<&str>) -> Vec<&str> {
    names.sort_unstable();
    names
}
