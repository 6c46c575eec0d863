//! MultipleInstructionsDisallowed: of several CMDs, ENTRYPOINTs or HEALTHCHECKs of a stage only the last counts.

use std::collections::HashMap;

use crate::parser::instruction::Kind;

use super::{Check, Definition, Family, Findings, Stage};

pub(super) const RULE: Definition = Definition {
    family: Family::BuildKit,
    experimental: false,
    summary: "a stage has one CMD, one ENTRYPOINT and one HEALTHCHECK at most",
    check: Check::Stage(check),
};

fn check(stage: &Stage, found: &mut Findings) {
    let mut last = HashMap::new();
    for step in &stage.steps {
        if !matches!(step.instruction.kind, Kind::Cmd(_) | Kind::Entrypoint(_) | Kind::Healthcheck(_)) {
            continue;
        }
        let keyword = step.instruction.keyword();
        if let Some(earlier) = last.insert(keyword, step.location) {
            // BuildKit asks the later one's comment whether to tell; either will do.
            found.current = Some(step.location.span.start);
            found.add_hinted(
                earlier,
                format!("this {keyword} has no effect: a later one of the stage replaces it"),
                format!("the one that counts is in line {}", step.location.first),
            );
        }
    }
    found.current = None;
}
