//! AptListsKept: a layer that installs packages does not keep the package lists.

use super::{Check, Definition, Family, Findings, Stage, script};

pub(super) const RULE: Definition = Definition {
    family: Family::Stave,
    experimental: false,
    summary: "RUN removes the package lists that it fetched",
    check: Check::Stage(check),
};

fn check(stage: &Stage, found: &mut Findings) {
    // What other stages keep is in no image.
    if !stage.in_image {
        return;
    }
    for step in &stage.steps {
        let Some(commands) = script::commands(step.instruction) else { continue };
        let apt = |verbs: &[&str]| commands.iter().any(|command| command.is_apt(verbs));
        let removes = commands.iter().any(|command| {
            let names_lists = |word: &String| {
                let texts = if step.expands_braces { script::braces(word) } else { vec![word.clone()] };
                texts.iter().any(|text| text.contains("/var/lib/apt"))
            };
            command.words.iter().any(names_lists) && !command.is_apt(&[])
        });
        if !apt(&["update"]) || !apt(script::INSTALLING) {
            continue;
        }
        if removes
            || apt(&["distclean", "dist-clean"])
            || script::mounts_over(step.instruction, "/var/lib/apt")
        {
            continue;
        }
        found.add_hinted(
            step.find("update"),
            "the lists that `apt-get update` fetches stay in the image",
            "end the same RUN with `&& rm -rf /var/lib/apt/lists/*`, or mount a cache there",
        );
    }
}
