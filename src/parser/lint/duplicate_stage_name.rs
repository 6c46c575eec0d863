//! DuplicateStageName: a name belongs to one stage; of two, only the later can be reached by it.

use std::collections::HashMap;

use super::{Check, Definition, Family, Findings, Whole};

pub(super) const RULE: Definition = Definition {
    family: Family::BuildKit,
    experimental: false,
    summary: "no two stages have the same name",
    check: Check::Whole(check),
};

fn check(whole: &Whole, found: &mut Findings) {
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for stage in &whole.dockerfile.stages {
        let (Some(name), Some(line)) = (&stage.base.name, whole.file.at(stage.span.start)) else { continue };
        if let Some(first) = seen.insert(&name.text, line.location.first) {
            found.add_hinted(
                line.location.at(name.span),
                format!("two stages are called `{}`", name.text),
                format!("the name was given in line {first} already: give one of them another"),
            );
        }
    }
}
