//! ConsistentInstructionCasing: instructions are all in capitals, or all in lower case.

use super::{Check, Definition, Family, Findings, Whole};

pub(super) const RULE: Definition = Definition {
    family: Family::BuildKit,
    experimental: false,
    summary: "all instructions have the same case",
    check: Check::Whole(check),
};

fn check(whole: &Whole, found: &mut Findings) {
    // What stands before the first FROM has no say, as in BuildKit.
    let lines = || whole.file.lines.iter().skip_while(|line| !line.is("FROM"));
    let is_lower = |name: &str| name == name.to_lowercase();
    let is_upper = |name: &str| name == name.to_uppercase();
    let lower = lines().filter(|line| is_lower(&line.keyword)).count();
    let upper = lines().filter(|line| is_upper(&line.keyword)).count();
    for line in lines() {
        let name = &line.keyword;
        let (wanted, case) = match lower > upper {
            true => (name.to_lowercase(), "lower case"),
            false => (name.to_uppercase(), "capitals"),
        };
        if *name != wanted {
            found.add_hinted(
                line.location.at(line.keyword_span()),
                format!("`{name}` differs in case from most instructions of this file"),
                format!("most are in {case}: write `{wanted}`"),
            );
        }
    }
}
