//! What is wrong in a text that a person wrote, with the words in question underlined.
//!
//! Rendered by annotate-snippets, rustc's own renderer; readable without colour.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde::{Deserialize, Serialize};

/// A range of bytes in a [`SourceText`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Span {
    pub start: usize,
    pub end: usize,
}

impl Span {
    /// The bytes from `start` up to, not including, `end`.
    pub const fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }

    /// The smallest span that holds both.
    pub fn to(self, other: Self) -> Self {
        Self { start: self.start.min(other.start), end: self.end.max(other.end) }
    }
}

/// A text that was read, and the name it goes by. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceText {
    name: Arc<str>,
    text: Arc<str>,
}

impl SourceText {
    /// `text`, read from what people know as `name`.
    pub fn new(name: impl Into<Arc<str>>, text: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), text: text.into() }
    }

    /// What the text was read from.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The text itself.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The line, from 1, that holds the byte at `offset`.
    pub fn line(&self, offset: usize) -> usize {
        let offset = offset.min(self.text.len());
        self.text.as_bytes()[..offset].iter().filter(|&&c| c == b'\n').count() + 1
    }

    /// `span` moved into the text and onto character boundaries.
    fn clamp(&self, span: Span) -> Range<usize> {
        let mut start = span.start.min(self.text.len());
        while !self.text.is_char_boundary(start) {
            start -= 1;
        }
        let mut end = span.end.clamp(start, self.text.len());
        while !self.text.is_char_boundary(end) {
            end += 1;
        }
        start..end
    }
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Error,
    Warning,
}

/// The name of a rule. Findings refer to it, so that errors stay small enough to be returned by value.
#[derive(Debug, PartialEq, Eq)]
pub struct Code(pub &'static str);

/// One finding: what is wrong, where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    /// The rule that found it, if one did.
    pub code: Option<&'static Code>,
    pub message: String,
    pub source: Option<SourceText>,
    /// The words in question, with what to say at them (may be empty). The first is the main one.
    pub labels: Vec<(Span, String)>,
    pub hints: Vec<String>,
}

impl Diagnostic {
    /// An error; places and hints are added with the methods below.
    pub fn error(message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            code: None,
            message: message.into(),
            source: None,
            labels: Vec::new(),
            hints: Vec::new(),
        }
    }

    /// A warning; see [`Diagnostic::error`].
    pub fn warning(message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(message) }
    }

    /// Underlines `span` of `source`.
    pub fn at(mut self, source: &SourceText, span: Span) -> Self {
        self.source = Some(source.clone());
        self.labels.push((span, String::new()));
        self
    }

    /// Underlines `span` of the same source and says `label` there.
    pub fn label(mut self, span: Span, label: impl Into<String>) -> Self {
        self.labels.push((span, label.into()));
        self
    }

    /// Says what to do.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// The line, from 1, of the main place.
    pub fn line(&self) -> Option<usize> {
        Some(self.source.as_ref()?.line(self.labels.first()?.0.start))
    }

    /// The finding as a person reads it, without a final newline.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut title = level.primary_title(printable(&self.message));
        if let Some(code) = &self.code {
            title = title.id(code.0);
        }
        let group = match &self.source {
            Some(source) if !self.labels.is_empty() => {
                let mut snippet = Snippet::source(source.text().to_owned()).path(source.name().to_owned());
                for (number, (span, label)) in self.labels.iter().enumerate() {
                    let kind = if number == 0 { AnnotationKind::Primary } else { AnnotationKind::Context };
                    let annotation = kind.span(source.clamp(*span));
                    snippet = snippet.annotation(if label.is_empty() {
                        annotation
                    } else {
                        annotation.label(printable(label))
                    });
                }
                title.element(snippet)
            }
            _ => Group::with_title(title),
        };
        let mut text = renderer.render(&[group]).to_string();
        for hint in &self.hints {
            text.push_str("\nhint: ");
            text.push_str(&printable(hint));
        }
        text
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostic {}

/// `text` with control characters, newlines aside, made visible, so that no name out of an image
/// or a Dockerfile steers the reader's terminal.
pub fn printable(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        if c.is_control() && c != '\n' && c != '\t' {
            out.extend(c.escape_default())
        } else {
            out.push(c)
        }
        out
    })
}

/// A text of somebody else's on one line, printable, and at most this many characters of it.
pub fn one_line(text: &str, limit: usize) -> String {
    let blank = |c| if matches!(c, '\n' | '\r' | '\t') { ' ' } else { c };
    let mut line: String = text.chars().take(limit).map(blank).collect();
    if text.chars().nth(limit).is_some() {
        line.push('…');
    }
    printable(&line)
}

/// An error and all of its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        // Transparent errors repeat the message of their source.
        if !text.ends_with(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = error.source();
    }
    text
}

/// The candidate that `word` is most likely a misspelling of, if one is near enough.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (distance(&word, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.chars().count().max(3) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replace = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replace.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_and_texts_of_others_on_one_line() {
        assert_eq!(one_line("a\n\tb\u{1b}[31m", 20), "a  b\\u{1b}[31m");
        assert_eq!(one_line("abcd", 4), "abcd");
        assert_eq!(one_line("abcde", 4), "abcd…");
        let inner = std::io::Error::other("deep");
        assert_eq!(chain(&inner), "deep");
        #[derive(Debug, thiserror::Error)]
        #[error("shallow")]
        struct Outer(#[source] std::io::Error);
        assert_eq!(chain(&Outer(inner)), "shallow: deep");
    }

    #[test]
    fn rendering_underlines_and_hints() {
        let source = SourceText::new("Dockerfile", "FROM busybox\nCOPY config.json /etc/\n");
        let diagnostic = Diagnostic::error("cannot copy `config.json`: not in the build context")
            .at(&source, Span::new(18, 29))
            .hint("`.dockerignore` line 3 excludes `*.json`");
        let text = diagnostic.render(false);
        assert!(text.starts_with("error: cannot copy `config.json`"), "{text}");
        assert!(text.contains("--> Dockerfile:2:6"), "{text}");
        assert!(text.contains("^^^^^^^^^^^"), "{text}");
        assert!(text.ends_with("\nhint: `.dockerignore` line 3 excludes `*.json`"), "{text}");
        assert_eq!(diagnostic.line(), Some(2));
    }

    #[test]
    fn spans_outside_the_text_do_not_panic() {
        let source = SourceText::new("D", "é");
        for (start, end) in [(0, 1), (1, 1), (1, 9), (7, 9), (9, 7)] {
            Diagnostic::error("x\u{1b}[31m").at(&source, Span::new(start, end)).render(false);
        }
    }

    #[test]
    fn misspellings() {
        assert_eq!(nearest("FORM", ["FROM", "RUN", "COPY"]), Some("FROM"));
        assert_eq!(nearest("chwon", ["chmod", "chown", "link"]), Some("chown"));
        assert_eq!(nearest("zebra", ["FROM", "RUN"]), None);
    }
}
