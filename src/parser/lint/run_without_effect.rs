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
        if !commands.iter().all(script::Command::is_of_the_shell) {
            continue;
        }
        // `true` sets nothing, so what is said is about the first command that does.
        let mut programs = commands.iter().map(script::Command::program).filter(|name| !name.is_empty());
        let Some(first) = programs.clone().next() else { continue };
        let setting = programs.find(|name| !matches!(*name, "true" | ":"));
        let forgotten = |what| format!("this RUN has no effect: {what} is forgotten when its shell ends");
        let (message, hint) = match setting {
            Some("cd") => (forgotten("the directory"), "use WORKDIR"),
            Some("export") => (forgotten("the variable"), "use ENV, or ARG for the build alone"),
            Some(_) => (forgotten("what it sets"), "put it into the RUN that needs it"),
            None => ("this RUN has no effect: it does nothing".to_owned(), "leave it out"),
        };
        found.add_hinted(step.find(setting.unwrap_or(first)), message, hint);
    }
}
