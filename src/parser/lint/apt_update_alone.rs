//! AptUpdateAlone: package lists are fetched in the RUN that installs from them.

use super::{Check, Definition, Family, Findings, Stage, script};

pub(super) const RULE: Definition = Definition {
    family: Family::Stave,
    experimental: false,
    summary: "`apt-get update` and the install stand in one RUN",
    check: Check::Stage(check),
};

fn check(stage: &Stage, found: &mut Findings) {
    for step in &stage.steps {
        let Some(commands) = script::commands(step.instruction) else { continue };
        let apt = |verbs: &[&str]| commands.iter().any(|command| command.is_apt(verbs));
        if !apt(&["update"]) || apt(script::INSTALLING) {
            continue;
        }
        // Something else of the line may install; only a RUN for the lists alone is certain.
        let others = commands.iter().any(|command| !command.is_apt(&[]) && !command.is_setting());
        if others || script::mounts_over(step.instruction, "/var/lib/apt") {
            continue;
        }
        found.add_hinted(
            step.find("update"),
            "`apt-get update` in a RUN of its own is cached, and its lists grow stale",
            "join it with the install: `apt-get update && apt-get install -y … && rm -rf /var/lib/apt/lists/*`",
        );
    }
}
