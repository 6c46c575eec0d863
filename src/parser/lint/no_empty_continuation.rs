//! NoEmptyContinuation: no empty lines in the middle of an instruction.

use super::{Check, Definition, Family, File, Findings, Location};

pub(super) const RULE: Definition = Definition {
    family: Family::BuildKit,
    experimental: false,
    summary: "an instruction that is continued has no empty lines",
    check: Check::Lines(check),
};

fn check(file: &File, found: &mut Findings) {
    for gap in &file.gaps {
        let Some(line) = file.around(gap.start) else { continue };
        // BuildKit tells the instruction's last line, where it noticed.
        let last = file.line(line.location.span.end);
        found.add_hinted(
            Location { span: *gap, first: last, last },
            "an empty line continues the instruction",
            "remove the line, or make it a comment; one day this will be an error",
        );
    }
}
