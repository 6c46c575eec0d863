//! MaintainerDeprecated: MAINTAINER is a label by now.

use super::{Check, Definition, Family, File, Findings};

pub(super) const RULE: Definition = Definition {
    family: Family::BuildKit,
    experimental: false,
    summary: "authors are named by a label, not by MAINTAINER",
    check: Check::Lines(check),
};

fn check(file: &File, found: &mut Findings) {
    for line in file.lines.iter().filter(|line| line.is("MAINTAINER")) {
        found.add_hinted(
            line.location,
            "MAINTAINER is deprecated",
            "write `LABEL org.opencontainers.image.authors=\"name\"`",
        );
    }
}
