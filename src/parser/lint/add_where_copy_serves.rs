//! AddWhereCopyServes: COPY copies; ADD also fetches and unpacks, and is for that.

use crate::diagnostic::Span;
use crate::parser::instruction::Kind;

use super::stages::Role;
use super::{Check, Definition, Family, Findings, Stage};

pub(super) const RULE: Definition = Definition {
    family: Family::Stave,
    experimental: false,
    summary: "ADD is used only for what COPY can not do",
    check: Check::Stage(check),
};

fn check(stage: &Stage, found: &mut Findings) {
    for step in stage.steps.iter().filter(|step| !step.on_build) {
        let Kind::Add(add) = &step.instruction.kind else { continue };
        // Flags that only ADD has say that it is meant.
        let has = |flag: &str| step.instruction.text.contains(flag);
        if add.transfer.sources.is_empty() || has("--checksum") || has("--keep-git-dir") || has("--unpack") {
            continue;
        }
        let mut sources = step.of(Role::Source);
        if sources.all(|source| source.unset.is_empty() && is_plain(&source.text)) {
            found.add_hinted(
                step.location.at(Span::new(step.location.span.start, step.location.span.start + 3)),
                "ADD does nothing here that COPY does not",
                "write COPY: it never unpacks or fetches, whatever the file turns out to be",
            );
        }
    }
}

/// Whether a source is a file or a directory that nobody would unpack.
fn is_plain(source: &str) -> bool {
    const ARCHIVES: &[&str] =
        &[".tgz", ".tbz", ".tbz2", ".txz", ".tzst", ".tlz", ".gz", ".bz2", ".xz", ".zst"];
    let name = source.to_lowercase();
    let remote = name.contains("://") || name.starts_with("git@");
    let archive = name.contains(".tar") || ARCHIVES.iter().any(|end| name.ends_with(end));
    // What a wildcard stands for may well be an archive, and so may a file whose name says nothing. Of a
    // directory the name ends in a slash, or is a dot.
    let last = name.rsplit('/').next().unwrap_or_default();
    let says_what = last.is_empty() || last == "." || last.trim_start_matches('.').contains('.');
    !remote && !archive && says_what && !name.contains(['*', '?', '['])
}
