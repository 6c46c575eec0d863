//! RunWithoutEffect: a RUN does more than change its own shell, which ends with it.

use super::{Check, Definition, Family, Findings, Stage, script};

pub(super) const RULE: Definition = Definition {
    family: Family::Stave,
    experimental: false,
    summary: "RUN does more than change the state of its own shell",
    check: Check::Stage(check),
};

fn check(stage: &Stage, found: &mut Findings) {
    for step in &stage.steps {
        let Some(commands) = script::commands(step.instruction) else { continue };
        let Some(first) = commands.iter().find(|command| !command.program().is_empty()) else { continue };
        if !commands.iter().all(script::Command::is_of_the_shell) {
            continue;
        }
        let (what, hint) = match first.program() {
            "cd" => ("the directory", "use WORKDIR"),
            "export" => ("the variable", "use ENV, or ARG for the build alone"),
            _ => ("what it sets", "put it into the RUN that needs it"),
        };
        found.add_hinted(
            step.find(first.program()),
            format!("this RUN has no effect: {what} is forgotten when its shell ends"),
            hint,
        );
    }
}
