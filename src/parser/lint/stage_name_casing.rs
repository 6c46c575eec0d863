//! StageNameCasing: the names of stages are in lower case, since case means nothing in them.

use super::{Check, Definition, Family, File, Findings};

pub(super) const RULE: Definition = Definition {
    family: Family::BuildKit,
    experimental: false,
    summary: "stage names are in lower case",
    check: Check::Lines(check),
};

fn check(file: &File, found: &mut Findings) {
    for line in file.lines.iter().filter(|line| line.is("FROM")) {
        if let [_, _, (name, span)] = &file.words(line)[..]
            && name.to_lowercase() != *name
        {
            found.add_hinted(
                line.location.at(*span),
                format!("the stage name `{name}` has capitals"),
                format!("write `{}`: case means nothing in the names of stages", name.to_lowercase()),
            );
        }
    }
}
