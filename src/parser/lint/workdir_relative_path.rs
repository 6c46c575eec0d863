//! WorkdirRelativePath: the first WORKDIR of a stage does not depend on that of its base.

use crate::parser::instruction::Kind;

use super::{Check, Definition, Family, Findings, Stage};

pub(super) const RULE: Definition = Definition {
    family: Family::BuildKit,
    experimental: false,
    summary: "the first WORKDIR of a build is absolute",
    check: Check::Stage(check),
};

fn check(stage: &Stage, found: &mut Findings) {
    for step in &stage.steps {
        let (Kind::Workdir(workdir), false) = (&step.instruction.kind, step.has_workdir) else { continue };
        let Some(path) = step.words.first().map(|word| word.text.as_str()) else { continue };
        if path.starts_with('/') || is_of_windows(path) {
            continue;
        }
        // The base image may not be known, nor then what its variables come to; quotes mean nothing in
        // the advice.
        let written = &workdir.path.text;
        let path = if written.contains('$') { written } else { path };
        let hint = match path.trim_start_matches("./").trim_start_matches('.') {
            "" => "begin with an absolute WORKDIR, such as `/app`".to_owned(),
            _ => format!("write `/{}`, or begin with an absolute WORKDIR", path.trim_start_matches("./")),
        };
        let message =
            format!("the working directory `{written}` is relative to one that the base image chose");
        found.add_hinted(step.place(workdir.path.span), message, hint);
    }
}

/// `C:/…`, for images of Windows.
fn is_of_windows(path: &str) -> bool {
    let mut letters = path.chars();
    letters.next().is_some_and(|c| c.is_ascii_alphabetic()) && letters.next() == Some(':')
}
