//! `.dockerignore` files: from text to patterns. What they match is decided elsewhere.
//!
//! Source: the Dockerfile reference, ".dockerignore file", and moby's `ignorefile` package.

use crate::diagnostic::{Diagnostic, SourceText, Span};
use crate::pattern::Patterns;

/// The largest file that is read, in bytes.
pub const FILE_LIMIT: usize = 16 << 20;

/// A pattern, and the line that it stands on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IgnorePattern {
    /// Cleaned; a leading `!` takes back what earlier patterns left out.
    pub pattern: String,
    /// From 1.
    pub line: usize,
    pub span: Span,
}

/// Reads a `.dockerignore`: one pattern a line, without comments, blank lines and blanks around.
/// Patterns are cleaned as paths are; a slash at their beginning means nothing, since all of them
/// begin at the context's root.
///
/// # Errors
/// A diagnostic for a file that is too large, for a lone `!`, and for a malformed pattern, whether
/// the build reads its context or not.
pub fn ignore(source: &SourceText) -> Result<Vec<IgnorePattern>, Diagnostic> {
    let text = source.text();
    if text.len() > FILE_LIMIT {
        return Err(Diagnostic::error(format!(
            "cannot read `{}`: it has {} bytes, the limit is {FILE_LIMIT}",
            source.name(),
            text.len()
        )));
    }
    let mut patterns = Vec::new();
    let mut start = 0;
    for (number, whole) in text.split_inclusive('\n').enumerate() {
        let at = start;
        start += whole.len();
        let mut line = whole;
        if number == 0 {
            line = line.strip_prefix('\u{FEFF}').unwrap_or(line);
        }
        // A comment's `#` is the very first character; behind a blank it is part of a name.
        if line.starts_with('#') {
            continue;
        }
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        let offset = at + whole.find(line).unwrap_or(0);
        let span = Span::new(offset, offset + line.len());
        let (negation, pattern) = match line.strip_prefix('!') {
            Some(rest) => ("!", rest.trim()),
            None => ("", line),
        };
        if pattern.is_empty() {
            return Err(
                Diagnostic::error("illegal exclusion pattern `!`: nothing follows it").at(source, span)
            );
        }
        let pattern = format!("{negation}{}", clean(pattern));
        Patterns::check(&pattern).map_err(|error| Diagnostic::error(error.to_string()).at(source, span))?;
        patterns.push(IgnorePattern { pattern, line: number + 1, span });
    }
    Ok(patterns)
}

/// A pattern without `.`, resolved `..`, repeated slashes and slashes at its ends. What would climb
/// above the root keeps its `..`, and so matches nothing.
fn clean(pattern: &str) -> String {
    let rooted = pattern.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in pattern.split('/') {
        match part {
            "" | "." => {}
            ".." => match parts.last() {
                Some(&last) if last != ".." => {
                    parts.pop();
                }
                _ if rooted => {}
                _ => parts.push(part),
            },
            part => parts.push(part),
        }
    }
    match parts.is_empty() {
        true if rooted => "/".to_owned(),
        true => ".".to_owned(),
        false => parts.join("/"),
    }
}
