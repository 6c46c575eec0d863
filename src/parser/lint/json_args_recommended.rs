//! JSONArgsRecommended: CMD and ENTRYPOINT are arrays, so that signals reach the program and not a shell.

use crate::parser::ast::CommandLine;
use crate::parser::instruction::Kind;

use super::{Check, Definition, Family, Findings, Stage};

pub(super) const RULE: Definition = Definition {
    family: Family::BuildKit,
    experimental: false,
    summary: "CMD and ENTRYPOINT have the form of an array",
    check: Check::Stage(check),
};

fn check(stage: &Stage, found: &mut Findings) {
    for step in &stage.steps {
        let line = match &step.instruction.kind {
            Kind::Cmd(cmd) => &cmd.command,
            Kind::Entrypoint(entrypoint) => &entrypoint.command,
            _ => continue,
        };
        // Whoever sets a SHELL wants it to run.
        let CommandLine::Shell(line) = line else { continue };
        if step.has_shell {
            continue;
        }
        let keyword = step.instruction.keyword();
        let hint = match line.text.starts_with('[') {
            true => {
                "this is no JSON array: its strings need double quotes, and nothing may follow it".to_owned()
            }
            false => format!("write `{keyword} [\"program\", \"argument\"]`; a shell passes no signals on"),
        };
        found.add_hinted(step.place(line.span), format!("{keyword} runs its program in a shell"), hint);
    }
}
