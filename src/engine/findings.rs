//! What a person is told when a step fails: which words of which line, and what to do.

use crate::cache::content::ContentError;
use crate::diagnostic::{Diagnostic, SourceText, Span, chain};
use crate::parser::ignore::IgnorePattern;
use crate::solver::{Cause, SolveError};

use super::build::{BuildError, BuildRequest};

/// The error of a failed solve. `all` are the sources that are missing, the one among them for which
/// the solve ended; none if it ended for another reason.
pub(super) fn of(
    request: &BuildRequest,
    excluded: &[IgnorePattern],
    error: SolveError,
    all: Vec<SolveError>,
) -> BuildError {
    if matches!(error.cause, Cause::Canceled) {
        return BuildError::Canceled;
    }
    let first = finding(request, excluded, &error);
    let mut findings: Vec<Diagnostic> = Vec::new();
    for missing in &all {
        let finding = finding(request, excluded, missing);
        // A step of two branches of the graph, and one source of two destinations, are told once.
        if !findings.contains(&finding) && findings.len() < LIMIT {
            findings.push(finding);
        }
    }
    if !findings.contains(&first) {
        findings.insert(0, first);
    }
    findings.sort_by_key(|finding| finding.labels.first().map(|label| label.0));
    BuildError::Findings(findings)
}

/// How many missing sources are told at most.
const LIMIT: usize = 20;

fn finding(request: &BuildRequest, excluded: &[IgnorePattern], error: &SolveError) -> Diagnostic {
    let mut finding = Diagnostic::error(chain(&error.cause));
    if let Some(span) = error.span {
        let span = match &error.cause {
            Cause::Content(cause) => word_of(&request.dockerfile, span, cause).unwrap_or(span),
            _ => span,
        };
        finding = finding.at(&request.dockerfile, span);
    }
    if matches!(error.cause, Cause::Foreign { .. }) {
        finding = finding.hint(
            "steps of other architectures run through an emulator that binfmt_misc names with the flag F: \
             install `qemu-user-static` and `binfmt-support`, or build this stage \
             `FROM --platform=$BUILDPLATFORM`",
        );
    }
    if let Cause::Fetch(error) = &error.cause
        && let Some(hint) = error.hint()
    {
        finding = finding.hint(hint);
    }
    if let Cause::Content(ContentError::NotFound { near, .. }) = &error.cause {
        let place = finding.labels.first().map(|label| label.0).zip(error.span);
        if let Some(near) = near {
            finding = finding.hint(format!("did you mean `{near}`?"));
        } else if let Some((word, line)) = place
            && let Some(hint) = outside(&request.dockerfile, word, line)
        {
            finding = finding.hint(hint);
        }
    }
    if let (Cause::Content(ContentError::Ignored { pattern, .. }), Some(ignore)) =
        (&error.cause, &request.ignore)
        && let Some(by) = excluded.iter().rfind(|one| one.pattern == *pattern)
    {
        finding = finding.hint(format!("`{}` line {} excludes it: `{pattern}`", ignore.name(), by.line));
    }
    if !error.output.is_empty() && !request.output_is_shown {
        finding = finding.hint(format!("the step's last output was:\n    {}", error.output.join("\n    ")));
    }
    finding
}

/// What to say of a source that is written as if it could be outside the context: nothing is.
fn outside(source: &SourceText, word: Span, line: Span) -> Option<&'static str> {
    let text = |span: Span| source.text().get(span.start..span.end);
    // What stages and images have begins at their root.
    if word == line || text(line)?.contains("from=") {
        return None;
    }
    match text(word)? {
        word if word.split('/').any(|part| part == "..") => {
            Some("`..` does not lead out of the build context: give a larger one, or `--build-context`")
        }
        word if word.starts_with('/') => {
            Some("sources are paths in the build context, with or without a `/` before them")
        }
        _ => None,
    }
}

/// The word of an instruction that names the path in question, if one does as it is written.
fn word_of(source: &SourceText, span: Span, cause: &ContentError) -> Option<Span> {
    let (ContentError::NotFound { path, .. }
    | ContentError::Ignored { path, .. }
    | ContentError::NoMatch { path }) = cause
    else {
        return None;
    };
    // As the copier reads them: `..` leads no higher than the root.
    let clean = |text: &str| {
        let mut parts = Vec::new();
        for part in text.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        parts.join("/")
    };
    let wanted = clean(path);
    let is_end = |c: char| c.is_whitespace() || matches!(c, '"' | ',' | '[' | ']' | '=');
    let text = source.text().get(span.start..span.end)?;
    let mut start = 0;
    for piece in text.split_inclusive(is_end) {
        let word = piece.trim_end_matches(is_end);
        if !wanted.is_empty() && clean(word) == wanted {
            return Some(Span::new(span.start + start, span.start + start + word.len()));
        }
        start += piece.len();
    }
    None
}
