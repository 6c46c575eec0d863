//! UndefinedVar: a variable is set before it is used.

use super::stages::Role;
use super::{Check, Definition, Family, Findings, Stage};

pub(super) const RULE: Definition = Definition {
    family: Family::BuildKit,
    experimental: false,
    summary: "variables are set before they are used",
    check: Check::Stage(check),
};

fn check(stage: &Stage, found: &mut Findings) {
    for step in &stage.steps {
        // BuildKit says nothing of the ports of EXPOSE.
        for word in step.words.iter().filter(|word| word.role != Role::Port) {
            for unset in &word.unset {
                // The variables of images are in capitals by convention, so of a base image that is
                // not known only such a name may come.
                let may_come = unset.unsure && !unset.name.chars().any(char::is_lowercase);
                if may_come || BUILDERS_OWN.contains(&unset.name.as_str()) {
                    continue;
                }
                let message = format!("the variable `{}` is not set", unset.name);
                let place = step.place(word.word.span);
                // `${name-…}` and `${name:-…}`.
                let has_default = ["-", ":-"]
                    .iter()
                    .any(|sign| word.word.text.contains(&format!("{{{}{sign}", unset.name)));
                let hint = match &unset.near {
                    Some(near) => format!("did you mean `${near}`?"),
                    None if has_default => "it always has its default here: declare it with ARG".to_owned(),
                    None => "declare it with ARG, or set it with ENV, above this line".to_owned(),
                };
                found.add_hinted(place, message, hint);
            }
        }
    }
}

/// Arguments that are declared and still no variables.
const BUILDERS_OWN: &[&str] = &["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];
