//! Logical lines: what is read before any grammar sees the text.
//!
//! A logical line is an instruction with its continuation lines joined; comments and blank lines
//! between them are gone. Parser directives, the byte order mark, line ends of both kinds and the
//! bodies of here-documents are dealt with here too. It is written by hand because `# escape=`
//! changes what a continuation is, and because the here-documents that a line opens follow it in
//! the order of their marks.
//!
//! Source: the Dockerfile reference, "Format", "Parser directives", "Here-documents".

use crate::diagnostic::{Diagnostic, SourceText, Span};
use crate::parser::layout::{Layout, Piece, PieceKind};
use crate::parser::syntax;
use crate::parser::word::{self, Nothing, Style};

/// The largest Dockerfile that is read, in bytes.
pub const FILE_LIMIT: usize = 16 << 20;
/// The most instructions that one Dockerfile may have.
pub const INSTRUCTION_LIMIT: usize = 1 << 16;
/// The most lines that one Dockerfile may have, those of here-documents aside.
pub const LINE_LIMIT: usize = 1 << 20;

/// A `# name=value` line at the top of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directive {
    pub value: String,
    /// The value's place.
    pub span: Span,
}

/// The directives that mean something; others are comments.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Directives {
    pub syntax: Option<Directive>,
    pub escape: Option<Directive>,
    pub check: Option<Directive>,
}

/// A here-document that an instruction opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// The end mark, quotes taken off.
    pub name: String,
    /// Whether a COPY expands variables in it: its mark is not quoted.
    pub expand: bool,
    /// Whether leading tabs go (`<<-`).
    pub dash: bool,
    /// The body as written, line ends and tabs included.
    pub body: String,
    /// The body's place.
    pub span: Span,
}

impl Heredoc {
    /// The body as it counts: without leading tabs if `<<-` opened it.
    pub fn text(&self) -> String {
        if !self.dash {
            return self.body.clone();
        }
        self.body.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
    }
}

/// One instruction's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogicalLine {
    /// The joined lines, without continuation characters and the first line's indentation.
    pub text: String,
    /// From the first byte to the last, continuations included, here-documents not.
    pub span: Span,
    pub heredocs: Vec<Heredoc>,
    /// (offset in `text`, offset in the source) wherever a joined line begins.
    joins: Vec<(usize, usize)>,
}

impl LogicalLine {
    /// The place in the source of `start..end` of the text.
    pub fn place(&self, start: usize, end: usize) -> Span {
        if self.joins.is_empty() {
            return Span::default();
        }
        let source = |offset: usize| {
            let join = self.joins.partition_point(|join| join.0 <= offset).saturating_sub(1);
            self.joins.get(join).map_or(offset, |(text, source)| source + (offset - text))
        };
        // The last byte is placed, not the one after it: that may begin another line.
        Span::new(source(start), if end > start { source(end - 1) + 1 } else { source(start) })
    }

    /// The line from `start` on: what follows ONBUILD.
    pub(crate) fn tail(&self, start: usize) -> Self {
        let begin = self.place(start, start).start;
        let behind = self.joins.iter().filter(|join| join.0 > start);
        let joins = behind.map(|(text, source)| (text - start, *source));
        let first = self.joins.first().map(|_| (0, begin));
        Self {
            text: self.text[start..].to_owned(),
            span: Span::new(begin, self.span.end),
            heredocs: self.heredocs.clone(),
            joins: first.into_iter().chain(joins).collect(),
        }
    }

    /// The same line without its places: what it says, wherever it stands.
    pub(crate) fn placeless(&self) -> Self {
        let heredocs = self.heredocs.iter().map(|doc| Heredoc { span: Span::default(), ..doc.clone() });
        Self {
            text: self.text.clone(),
            span: Span::default(),
            heredocs: heredocs.collect(),
            joins: Vec::new(),
        }
    }

    /// Where in the text each joined line begins, the first one included.
    pub(crate) fn joins(&self) -> impl Iterator<Item = usize> {
        self.joins.iter().map(|join| join.0)
    }
}

/// A Dockerfile, line by line.
#[derive(Debug, Clone)]
pub struct Lines {
    pub directives: Directives,
    /// The character that continues lines and escapes others.
    pub escape: char,
    pub lines: Vec<LogicalLine>,
    /// Every byte of the file, comments and blank lines included.
    pub layout: Layout,
    pub warnings: Vec<Diagnostic>,
}

/// Reads `source` into logical lines.
///
/// # Errors
/// Diagnostics for a file that is too large or has too many instructions, for bad or repeated
/// directives, and for here-documents that do not end.
pub fn read(source: &SourceText) -> Result<Lines, Vec<Diagnostic>> {
    let text = source.text();
    if text.len() > FILE_LIMIT {
        let size = text.len();
        return Err(vec![Diagnostic::error(format!(
            "cannot read `{}`: it has {size} bytes, the limit is {FILE_LIMIT}",
            source.name()
        ))]);
    }
    let mut physical = Physical { text, at: 0, layout: Layout::default() };
    if text.starts_with('\u{FEFF}') {
        physical.at = 3;
        physical.mark(PieceKind::ByteOrderMark, None);
    }
    let mut out = Lines {
        directives: Directives::default(),
        escape: '\\',
        lines: Vec::new(),
        layout: Layout::default(),
        warnings: Vec::new(),
    };
    let count = text.as_bytes().iter().filter(|&&c| c == b'\n').count() + 1;
    physical.layout.reserve(count.min(LINE_LIMIT));
    out.lines.reserve(count.min(INSTRUCTION_LIMIT));
    let mut errors = Vec::new();
    read_directives(source, &mut physical, &mut out, &mut errors);
    while let Some((line, start)) = physical.next() {
        if let Some(kind) = trivia(line) {
            physical.mark(kind, None);
            continue;
        }
        physical.mark(PieceKind::Code, Some(out.lines.len()));
        if out.lines.len() == INSTRUCTION_LIMIT {
            errors.push(
                Diagnostic::error(format!("more than {INSTRUCTION_LIMIT} instructions"))
                    .at(source, Span::new(start, start + line.len())),
            );
            break;
        }
        let mut logical = join(source, &mut physical, line, start, &mut out);
        if logical.text.trim().is_empty() {
            // A lone continuation character at the end of the file.
            physical.layout.disown(out.lines.len());
            continue;
        }
        if let Err(error) = read_heredocs(source, &mut physical, &mut logical, out.lines.len()) {
            // Whatever follows may be meant as the body.
            errors.push(error);
            break;
        }
        out.lines.push(logical);
    }
    if physical.is_full() {
        let message = format!("`{}` has more than {LINE_LIMIT} lines", source.name());
        errors.push(Diagnostic::error(message));
    }
    out.layout = physical.layout;
    if errors.is_empty() { Ok(out) } else { Err(errors) }
}

/// Lines as they stand in the file.
struct Physical<'a> {
    text: &'a str,
    at: usize,
    layout: Layout,
}

impl<'a> Physical<'a> {
    /// Says what everything is that was read since this was said last.
    fn mark(&mut self, kind: PieceKind, instruction: Option<usize>) {
        let start = self.layout.end();
        if start < self.at {
            self.layout.push(Piece { kind, span: Span::new(start, self.at), instruction });
        }
    }

    /// Whether the file has more lines than are read.
    fn is_full(&self) -> bool {
        self.layout.pieces().len() > LINE_LIMIT
    }

    /// The next line without its end, and where it begins; none either if there are too many.
    fn next(&mut self) -> Option<(&'a str, usize)> {
        if self.is_full() {
            return None;
        }
        let (line, start) = self.next_whole()?;
        Some((line.trim_end_matches(['\r', '\n']), start))
    }

    /// The next line with its end, and where it begins.
    fn next_whole(&mut self) -> Option<(&'a str, usize)> {
        let (start, rest) = (self.at, &self.text[self.at..]);
        if rest.is_empty() {
            return None;
        }
        let length = rest.find('\n').map_or(rest.len(), |at| at + 1);
        self.at += length;
        Some((&rest[..length], start))
    }
}

/// What a line is that is no part of any instruction's text; none for all others.
fn trivia(line: &str) -> Option<PieceKind> {
    let text = line.trim_start();
    match text.starts_with('#') {
        true => Some(PieceKind::Comment),
        false => text.is_empty().then_some(PieceKind::Blank),
    }
}

/// Directives stand before everything else, blank lines included; the first line that is none ends
/// them. A first line `#!…` is for the kernel and skipped, but `escape` does not count behind one: in
/// BuildKit whoever looks for `syntax` and `check` skips the line, and the parser of lines does not.
fn read_directives(
    source: &SourceText,
    physical: &mut Physical,
    out: &mut Lines,
    errors: &mut Vec<Diagnostic>,
) {
    let shebang = physical.text[physical.at..].starts_with("#!");
    if shebang {
        physical.next();
        physical.mark(PieceKind::Interpreter, None);
    }
    loop {
        let before = physical.at;
        let Some((line, start)) = physical.next() else { return };
        let Some((name, directive)) = directive(line, start) else {
            physical.at = before;
            return;
        };
        // The names are those of `is_directive`.
        let place = match name.as_str() {
            "syntax" => &mut out.directives.syntax,
            "escape" => &mut out.directives.escape,
            "check" => &mut out.directives.check,
            _ => {
                physical.at = before;
                return;
            }
        };
        physical.mark(PieceKind::Directive, None);
        let span = directive.span;
        if place.is_some() {
            errors.push(
                Diagnostic::error(format!("the directive `{name}` is given twice"))
                    .at(source, Span::new(start, start + line.len())),
            );
        } else if name == "escape" && !shebang {
            match directive.value.as_str() {
                "\\" => {}
                "`" => out.escape = '`',
                value => errors.push(
                    Diagnostic::error(format!("invalid escape character `{value}`"))
                        .at(source, span)
                        .hint("the directive `escape` takes a backslash or a backtick"),
                ),
            }
        }
        *place = Some(directive);
    }
}

/// `# name = value`.
pub(crate) fn directive(line: &str, start: usize) -> Option<(String, Directive)> {
    let (name, value) = line.trim_start().strip_prefix('#')?.split_once('=')?;
    let name = name.trim();
    let fine = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric());
    let (at, value) = (line.len() - value.trim_start().len(), value.trim());
    if !fine || value.is_empty() {
        return None;
    }
    let span = Span::new(start + at, start + at + value.len());
    Some((name.to_ascii_lowercase(), Directive { value: value.to_owned(), span }))
}

/// Whether `line` would be a directive at the top of a file.
pub(crate) fn is_directive(line: &str) -> bool {
    directive(line, 0).is_some_and(|(name, _)| matches!(name.as_str(), "syntax" | "escape" | "check"))
}

/// Joins `first` with the lines that continue it.
fn join(
    source: &SourceText,
    physical: &mut Physical,
    first: &str,
    start: usize,
    out: &mut Lines,
) -> LogicalLine {
    let trimmed = first.trim_start();
    let start = start + (first.len() - trimmed.len());
    let mut logical = LogicalLine {
        text: String::new(),
        span: Span::new(start, start + trimmed.trim_end().len()),
        heredocs: Vec::new(),
        joins: vec![(0, start)],
    };
    let mut empty = None;
    let instruction = Some(out.lines.len());
    let (content, mut goes_on) = continuation(trimmed, out.escape);
    logical.text.push_str(content);
    while goes_on {
        let Some((line, start)) = physical.next() else { break };
        if let Some(kind) = trivia(line) {
            physical.mark(kind, instruction);
            if kind == PieceKind::Blank {
                empty.get_or_insert(Span::new(start, start + line.len()));
            }
            continue;
        }
        physical.mark(PieceKind::Code, instruction);
        let content;
        (content, goes_on) = continuation(line, out.escape);
        logical.joins.push((logical.text.len(), start));
        logical.text.push_str(content);
        logical.span.end = start + line.trim_end().len();
    }
    if let Some(span) = empty {
        out.warnings.push(Diagnostic::warning("empty continuation line").at(source, span));
    }
    logical
}

/// `line` without a continuation character at its end, and whether it had one. One that is itself
/// escaped does not count.
pub(crate) fn continuation(line: &str, escape: char) -> (&str, bool) {
    match line.trim_end_matches([' ', '\t']).strip_suffix(escape) {
        Some(rest) if !rest.ends_with(escape) => (rest, true),
        _ => (line, false),
    }
}

/// Reads the bodies of the here-documents that `logical` opens.
fn read_heredocs(
    source: &SourceText,
    physical: &mut Physical,
    logical: &mut LogicalLine,
    instruction: usize,
) -> Result<(), Diagnostic> {
    if !logical.text.contains("<<") || !takes_heredocs(&logical.text) {
        return Ok(());
    }
    for mark in marks(&logical.text) {
        let Some((name, expand, dash)) = opening(&mark) else { continue };
        let start = physical.at;
        let mut end = start;
        // A line that would end it but for blanks, which nobody sees.
        let mut near = None;
        loop {
            let Some((line, at)) = physical.next() else {
                let place =
                    logical.text.find(&mark).map_or(logical.span, |at| logical.place(at, at + mark.len()));
                let error =
                    Diagnostic::error(format!("unterminated here-document `{name}`")).at(source, place);
                let error = match near {
                    Some(span) => error.label(span, "blanks make this line another"),
                    None => error,
                };
                return Err(error.hint(format!("a line that is `{name}` and nothing else ends it")));
            };
            if near.is_none() && !name.is_empty() && line.trim() == name {
                near = Some(Span::new(at, at + line.len()));
            }
            if (if dash { line.trim_start_matches('\t') } else { line }) == name {
                let behind = std::mem::replace(&mut physical.at, at);
                physical.mark(PieceKind::Body, Some(instruction));
                physical.at = behind;
                physical.mark(PieceKind::Mark, Some(instruction));
                break;
            }
            end = physical.at;
        }
        let body = physical.text[start..end].to_owned();
        logical.heredocs.push(Heredoc { name, expand, dash, body, span: Span::new(start, end) });
    }
    Ok(())
}

/// Whether the instruction is one whose `<<` opens here-documents: RUN, COPY and ADD, also behind
/// ONBUILD, unless their arguments are an array.
fn takes_heredocs(text: &str) -> bool {
    let Some(command) = syntax::command(text) else { return false };
    let name = command.keyword.text.to_ascii_uppercase();
    match name.as_str() {
        "ONBUILD" => {
            let inner = syntax::command(command.arguments.text);
            inner.is_some_and(|inner| {
                !inner.keyword.text.eq_ignore_ascii_case("ONBUILD") && takes_heredocs(command.arguments.text)
            })
        }
        "RUN" | "COPY" | "ADD" => crate::parser::ast::array(command.arguments.text).is_none(),
        _ => false,
    }
}

/// The words of a line that may open here-documents.
fn marks(text: &str) -> Vec<String> {
    let style = Style { raw_quotes: true, raw_escapes: true, keep_unset: true, ..Style::splitting('\\') };
    // A line that the shell's rules cannot split opens nothing; it may well be fine for its own
    // instruction.
    word::expand(text, style, &Nothing).map(|expansion| expansion.words).unwrap_or_default()
}

/// The end mark of the here-document that `word` opens, whether it is expanded, and whether tabs
/// go. None if it opens none.
pub(crate) fn opening(word: &str) -> Option<(String, bool, bool)> {
    // Most words are none, and the grammar takes its time to say so.
    if !word.contains("<<") {
        return None;
    }
    let (dash, mark) = syntax::heredoc(word)?;
    let style = Style { keep_unset: true, ..Style::splitting('\\') };
    let mut plain = word::expand(mark, style, &Nothing).ok()?.words;
    let raw = word::expand(mark, Style { raw_quotes: true, ..style }, &Nothing).ok()?.text;
    if plain.len() != 1 {
        return None;
    }
    let name = plain.remove(0);
    let quotes = |text: &str| text.matches(['\'', '"']).count();
    let expand = quotes(&name) == quotes(&raw);
    Some((name, expand, dash))
}

#[cfg(test)]
mod tests;
