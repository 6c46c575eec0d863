//! A Dockerfile as its lines: what rules look at before anything is known of its meaning.
//!
//! Comments stand between the logical lines, so they are read from the text there: what is written
//! above an instruction describes it, or changes which rules count for it.

use std::sync::Arc;

use crate::diagnostic::{Diagnostic, SourceText, Span};
use crate::parser::ast::Dockerfile;
use crate::parser::lines::{self, LogicalLine};
use crate::parser::syntax;

use super::Config;

/// Where something stands: the bytes to underline, and the lines of the whole instruction, which is
/// how BuildKit places its findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    pub span: Span,
    /// From 1.
    pub first: usize,
    pub last: usize,
}

impl Location {
    /// The same instruction, with other bytes underlined.
    pub fn at(self, span: Span) -> Self {
        Self { span, ..self }
    }
}

/// A comment above an instruction, without its `#` and blanks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Comment {
    pub text: String,
    pub span: Span,
}

impl Comment {
    /// What it asks of the rules, as it is written: `check=…`, up to the first blank.
    fn config(&self) -> Option<&str> {
        let (name, value) = self.text.split_once('=')?;
        let is_check = name.trim().eq_ignore_ascii_case("check");
        is_check.then(|| value.split_whitespace().next().unwrap_or_default())
    }

    /// Whether it asks anything of the rules.
    pub fn is_config(&self) -> bool {
        self.config().is_some()
    }
}

/// An instruction's line.
#[derive(Debug)]
pub(crate) struct Line {
    /// Which of the file's lines it is.
    number: usize,
    /// The name as it is written.
    pub keyword: String,
    pub location: Location,
    /// Those above it, without directives and without all that stands before an empty comment.
    pub comments: Vec<Comment>,
    /// Whether the last comment stands right above, with no blank line between.
    pub commented: bool,
    /// What the comments ask of the rules.
    pub config: Config,
}

impl Line {
    /// Whether the instruction is this one, given in upper case.
    pub fn is(&self, keyword: &str) -> bool {
        self.keyword.eq_ignore_ascii_case(keyword)
    }

    /// The place of the instruction's name.
    pub fn keyword_span(&self) -> Span {
        Span::new(self.location.span.start, self.location.span.start + self.keyword.len())
    }
}

/// The lines of a Dockerfile.
#[derive(Debug)]
pub(crate) struct File {
    pub source: SourceText,
    logical: Arc<Vec<LogicalLine>>,
    pub lines: Vec<Line>,
    /// The places of empty lines within instructions.
    pub gaps: Vec<Span>,
    /// The `# check=` directive.
    pub check: Option<lines::Directive>,
    starts: Vec<usize>,
}

impl File {
    /// Reads the lines; none if the text has none that can be told apart, which is an error that
    /// parsing tells.
    pub fn read(source: &SourceText) -> Option<Self> {
        let read = lines::read(source).ok()?;
        Some(Self::of(source, Arc::new(read.lines), &read.directives, &read.warnings))
    }

    /// The lines of a file that was parsed.
    pub fn of_parsed(dockerfile: &Dockerfile) -> Self {
        let lines = Arc::clone(&dockerfile.lines);
        Self::of(&dockerfile.source, lines, &dockerfile.directives, &dockerfile.warnings)
    }

    fn of(
        source: &SourceText,
        logical: Arc<Vec<LogicalLine>>,
        directives: &lines::Directives,
        warnings: &[Diagnostic],
    ) -> Self {
        let text = source.text();
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        let mut file = Self {
            source: source.clone(),
            logical: Arc::clone(&logical),
            lines: Vec::with_capacity(logical.len()),
            gaps: warnings.iter().filter_map(|warning| Some(warning.labels.first()?.0)).collect(),
            check: directives.check.clone(),
            starts,
        };
        let directives: Vec<Span> = [&directives.syntax, &directives.escape, &directives.check]
            .into_iter()
            .flatten()
            .map(|directive| directive.span)
            .collect();
        let mut before = 0;
        for (number, logical) in logical.iter().enumerate() {
            let (comments, commented) =
                comments(&text[before..logical.span.start.max(before)], before, &directives);
            let end = logical.heredocs.last().map_or(logical.span.end, |heredoc| heredoc.span.end);
            // The line of a here-document's mark belongs to it and holds no comment.
            before = match logical.heredocs.is_empty() {
                true => end,
                false => text[end..].find('\n').map_or(text.len(), |at| end + at + 1),
            };
            let location =
                Location { span: logical.span, first: file.line(logical.span.start), last: file.line(end) };
            let keyword = logical.text.split_whitespace().next().unwrap_or_default().to_owned();
            let config = config(&comments);
            file.lines.push(Line { number, keyword, location, comments, commented, config });
        }
        file
    }

    /// The words of a line's arguments, with their places. Blanks separate them, quotes mean nothing.
    pub fn words(&self, line: &Line) -> Vec<(String, Span)> {
        let logical = &self.logical[line.number];
        let Some(command) = syntax::command(&logical.text) else { return Vec::new() };
        let start = command.arguments.start;
        let place = |piece: syntax::Piece| {
            let start = start + piece.start;
            (piece.text.to_owned(), logical.place(start, start + piece.text.len()))
        };
        syntax::list(command.arguments.text).into_iter().map(place).collect()
    }

    /// The line, from 1, of a byte. Rules ask this often, and files are long: it is a search.
    pub fn line(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset)
    }

    /// The line of the instruction that begins at `start`.
    pub fn at(&self, start: usize) -> Option<&Line> {
        let index = self.lines.binary_search_by_key(&start, |line| line.location.span.start).ok()?;
        self.lines.get(index)
    }

    /// The line of the instruction that holds the byte at `offset`, or precedes it.
    pub fn around(&self, offset: usize) -> Option<&Line> {
        let after = self.lines.partition_point(|line| line.location.span.start <= offset);
        self.lines.get(after.checked_sub(1)?)
    }
}

/// The comments in the text between two instructions, and whether the last stands right above.
fn comments(text: &str, start: usize, directives: &[Span]) -> (Vec<Comment>, bool) {
    let (mut found, mut adjacent, mut at): (Vec<Comment>, bool, usize) = (Vec::new(), false, start);
    for line in text.split_inclusive('\n') {
        let span = Span::new(at, at + line.trim_end().len());
        at += line.len();
        let trimmed = line.trim_start_matches('\u{FEFF}').trim();
        match trimmed.strip_prefix('#') {
            _ if directives
                .iter()
                .any(|directive| span.start <= directive.start && directive.start < span.end) => {}
            Some(text) if text.trim().is_empty() => {
                found.clear();
                adjacent = false;
            }
            Some(text) => {
                found.push(Comment { text: text.trim().to_owned(), span });
                adjacent = true;
            }
            // The indentation of the instruction itself is no line.
            None => adjacent &= !line.ends_with('\n'),
        }
    }
    (found, adjacent)
}

/// What the first comment of the form `check=…` asks for; a text that is none asks for nothing, as
/// it is somebody's prose.
fn config(comments: &[Comment]) -> Config {
    let value = comments.iter().find_map(Comment::config).unwrap_or_default();
    Config::parse(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> File {
        File::read(&SourceText::new("Dockerfile", text)).unwrap()
    }

    #[test]
    fn comments_belong_to_what_follows() {
        let file = file(
            "# check=error=true\n# one\n#\n# two\n  # three\nFROM a\nRUN <<E\n# no\nE\n# five\n\nCOPY \\\n# inside\n a b\n",
        );
        let texts = |index: usize| -> Vec<&str> {
            file.lines[index].comments.iter().map(|comment| comment.text.as_str()).collect()
        };
        assert_eq!(texts(0), ["two", "three"]);
        assert!(file.lines[0].commented && texts(1).is_empty());
        assert_eq!(texts(2), ["five"]);
        assert!(!file.lines[2].commented);
        let places: Vec<_> =
            file.lines.iter().map(|line| (line.location.first, line.location.last)).collect();
        assert_eq!(places, [(6, 6), (7, 9), (12, 14)]);
    }

    #[test]
    fn a_comment_steers_the_rules() {
        let file = file(
            "FROM a\n# check=skip=UndefinedVar;error=1 since it is set elsewhere\nRUN b\n# check what\nRUN c\n",
        );
        let rule = crate::parser::lint::rule("UndefinedVar").unwrap();
        let admits: Vec<bool> = file.lines.iter().map(|line| line.config.admits(rule)).collect();
        assert_eq!(admits, [true, false, true]);
    }

    #[test]
    fn words_keep_their_places() {
        let file = file("FROM --platform=x a \\\n AS \\\n  b\n");
        let words = file.words(&file.lines[0]);
        let text = file.source.text();
        let shown: Vec<&str> = words.iter().map(|(_, span)| &text[span.start..span.end]).collect();
        assert_eq!(shown, ["a", "AS", "b"]);
    }
}
