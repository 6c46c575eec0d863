//! CopyBeforeInstall: dependencies are installed before the whole context is copied, so that they are cached.

use super::{Check, Definition, Family, Findings, Stage, Step, script};

pub(super) const RULE: Definition = Definition {
    family: Family::Stave,
    experimental: false,
    summary: "dependencies are installed before the whole context is copied",
    check: Check::Stage(check),
};

fn check(stage: &Stage, found: &mut Findings) {
    let mut copied: Option<&Step> = None;
    let mut installed_before: Vec<&'static str> = Vec::new();
    for step in stage.steps.iter().filter(|step| !step.on_build) {
        if step.copies_whole_context() {
            copied = copied.or(Some(step));
            continue;
        }
        let Some(commands) = script::commands(step.instruction) else { continue };
        let mut tools = commands.iter().filter_map(script::Command::installs_dependencies);
        match copied {
            None => installed_before.extend(tools),
            Some(copy) => {
                // What was installed before the copy as well has its cache there.
                let Some(tool) = tools.find(|tool| !installed_before.contains(tool)) else { continue };
                found.add_hinted(
                    copy.location,
                    format!("every change of any file runs `{tool}` in line {} again", step.location.first),
                    "copy first what names the dependencies, install them, and then copy the rest",
                );
                break;
            }
        }
    }
}
