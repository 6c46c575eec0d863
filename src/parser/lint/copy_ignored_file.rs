//! CopyIgnoredFile: what COPY and ADD take is not left out by `.dockerignore`.

use crate::parser::instruction::Kind;

use super::stages::{Ignored, Role};
use super::{Check, Definition, Family, Findings, Stage};

pub(super) const RULE: Definition = Definition {
    family: Family::BuildKit,
    experimental: true,
    summary: "COPY and ADD take nothing that `.dockerignore` leaves out",
    check: Check::Stage(check),
};

fn check(stage: &Stage, found: &mut Findings) {
    let Some(ignored) = stage.ignored else { return };
    for step in &stage.steps {
        match &step.instruction.kind {
            Kind::Add(_) => {}
            Kind::Copy(copy) if copy.from.is_none() => {}
            _ => continue,
        }
        for source in step.of(Role::Source) {
            if source.text.contains("://") || source.text.starts_with("git@") {
                continue;
            }
            let path = clean(&source.text);
            if leaves_out(ignored, &path) {
                let pattern = ignored.patterns.hidden_by(path.as_bytes()).map_or("*", |pattern| pattern);
                found.add_hinted(
                    step.place(source.word.span),
                    format!("`{}` is left out of the build context", source.text),
                    format!("`.dockerignore` has `{pattern}`"),
                );
            }
        }
    }
}

/// Whether nothing of `path` is in the context, as far as the patterns alone can tell.
fn leaves_out(ignored: &Ignored, path: &str) -> bool {
    if path.is_empty() {
        // The root itself can not be left out, only all that is in it.
        let all = ignored.texts.iter().any(|text| matches!(text.as_str(), "*" | "**" | "**/*"));
        return all && !ignored.texts.iter().any(|text| text.starts_with('!'));
    }
    let taken_back = ignored.texts.iter().filter_map(|text| text.strip_prefix('!')).any(|pattern| {
        let wild = pattern.contains(['*', '?', '[']);
        let literal: Vec<&str> =
            pattern.split('/').take_while(|part| !part.contains(['*', '?', '['])).collect();
        let literal = literal.join("/");
        below(&literal, path) || (wild && below(path, &literal))
    });
    !taken_back && ignored.patterns.matches(path.as_bytes())
}

/// Whether `path` is `base` or in it.
fn below(path: &str, base: &str) -> bool {
    base.is_empty() || path == base || path.strip_prefix(base).is_some_and(|rest| rest.starts_with('/'))
}

/// A path relative to the context's root.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}
