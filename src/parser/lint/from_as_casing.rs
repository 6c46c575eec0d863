//! FromAsCasing: FROM and its AS are both in capitals, or neither.

use super::{Check, Definition, Family, File, Findings};

pub(super) const RULE: Definition = Definition {
    family: Family::BuildKit,
    experimental: false,
    summary: "AS has the case of its FROM",
    check: Check::Lines(check),
};

fn check(file: &File, found: &mut Findings) {
    for line in file.lines.iter().filter(|line| line.is("FROM")) {
        let words = file.words(line);
        let [_, (word, span), ..] = &words[..] else { continue };
        let from = line.keyword.as_str();
        // FROM in mixed case is another rule's business.
        let wanted = if from == from.to_lowercase() {
            word.to_lowercase()
        } else if from == from.to_uppercase() {
            word.to_uppercase()
        } else {
            continue;
        };
        if words.len() >= 3 && *word != wanted {
            found.add_hinted(
                line.location.at(*span),
                format!("`{word}` and `{from}` differ in case"),
                format!("write `{wanted}`"),
            );
        }
    }
}
