//! One way to write a Dockerfile, without changing what it says.
//!
//! Only what has no meaning is written anew: blanks between words, the case of keywords, comments,
//! blank lines, line ends. What a shell reads, what stands in quotes, the bodies of here-documents
//! and the triggers of ONBUILD reach the image byte for byte, so they stay as they are, the
//! indentation of their continuation lines included. docs/format.md states the rules for people.
//!
//! `tokens` finds the words that an instruction is made of, `print` writes them; here the lines
//! come together.

use crate::diagnostic::{Diagnostic, SourceText};
use crate::parser::layout::{Piece, PieceKind};
use crate::parser::lines::{self, Lines};
use crate::parser::meaning::meaning;
use crate::parser::{parse, syntax};

mod print;
mod tokens;

/// Writes `source` the one way.
///
/// # Errors
/// What is wrong with the text: only what can be read whole can be written again safely. Should
/// the result say anything else than the text did, that is an error too, and no text is given.
pub fn format(source: &SourceText) -> Result<String, Vec<Diagnostic>> {
    parse(source)?;
    let before = meaning(source)?;
    let formatted = write(source, &lines::read(source)?);
    let after = meaning(&SourceText::new(source.name(), formatted.as_str()));
    if after.is_ok_and(|after| after == before) {
        return Ok(formatted);
    }
    let message = format!("`{}` can not be formatted without changing what it says", source.name());
    Err(vec![Diagnostic::error(message).hint("this is a defect of stave, please report the file")])
}

/// Lines that stay together.
struct Item {
    text: String,
    kind: ItemKind,
    /// Whether a blank line stands before it.
    blank: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ItemKind {
    Comment,
    From,
    Other,
}

fn write(source: &SourceText, lines: &Lines) -> String {
    let newline = newline(source.text());
    let mut items = items(source.text(), lines, newline);
    part_stages(&mut items);
    if let Some(first) = items.first_mut() {
        // At the very top a comment may mean something. One that a blank line kept from it is kept
        // from it still.
        first.blank &= first.kind == ItemKind::Comment
            && (first.text.starts_with("#!") || lines::is_directive(&first.text));
    }
    let mut out = String::with_capacity(source.text().len());
    for item in items {
        if item.blank {
            out.push_str(newline);
        }
        out.push_str(&item.text);
    }
    out
}

/// How the first line of `text` ends. All others but those of here-documents end so too.
fn newline(text: &str) -> &'static str {
    match text.find('\n') {
        Some(at) if text[..at].ends_with('\r') => "\r\n",
        _ => "\n",
    }
}

fn items(text: &str, lines: &Lines, newline: &'static str) -> Vec<Item> {
    let mut items: Vec<Item> = Vec::new();
    let (mut blank, mut rest) = (false, lines.layout.pieces());
    while let Some(piece) = rest.first() {
        let first = items.is_empty();
        let mut add = |kind, text| items.push(Item { text, kind, blank: std::mem::take(&mut blank) });
        let written = &text[piece.span.start..piece.span.end];
        let line = written.trim();
        let mut taken = 1;
        match (piece.kind, piece.instruction) {
            (_, Some(number)) => {
                taken = rest.iter().take_while(|piece| piece.instruction == Some(number)).count();
                let kind = instruction_kind(&lines.lines[number].text);
                add(kind, instruction(text, lines, number, &rest[..taken], newline));
            }
            (PieceKind::Blank, None) => blank = true,
            (PieceKind::Comment, None) => {
                // Moved to the first column of the first line, it would be for the kernel.
                let indented = first && !written.starts_with('#');
                let comment = match line.strip_prefix("#!") {
                    Some(rest) if indented => format!("# !{rest}"),
                    _ => comment(line),
                };
                add(ItemKind::Comment, comment + newline);
            }
            (PieceKind::Interpreter, None) => add(ItemKind::Other, format!("{line}{newline}")),
            (PieceKind::Directive, None) => {
                let text = match lines::directive(line, 0) {
                    Some((name, directive)) => format!("# {name}={}{newline}", directive.value),
                    None => format!("{line}{newline}"),
                };
                add(ItemKind::Other, text);
            }
            // The mark is no part of the text, and a continuation of nothing is nothing.
            (PieceKind::ByteOrderMark | PieceKind::Code | PieceKind::Body | PieceKind::Mark, None) => {}
        }
        rest = &rest[taken..];
    }
    items
}

fn instruction_kind(line: &str) -> ItemKind {
    match syntax::command(line) {
        Some(command) if command.keyword.text.eq_ignore_ascii_case("FROM") => ItemKind::From,
        _ => ItemKind::Other,
    }
}

/// A blank line before each stage but the first, above the comments that belong to it.
fn part_stages(items: &mut [Item]) {
    let stages: Vec<usize> = (0..items.len()).filter(|&item| items[item].kind == ItemKind::From).collect();
    for &stage in stages.iter().skip(1) {
        let mut top = stage;
        while !items[top].blank && items[top - 1].kind == ItemKind::Comment {
            top -= 1;
        }
        items[top].blank = true;
    }
}

/// An instruction with its here-documents.
fn instruction(text: &str, lines: &Lines, number: usize, pieces: &[Piece], newline: &'static str) -> String {
    let line = &lines.lines[number];
    let written = |piece: &Piece| &text[piece.span.start..piece.span.end];
    // The comments before each line that is joined, and those behind the last.
    let mut comments = vec![Vec::new()];
    let mut documents = String::new();
    for piece in pieces {
        match piece.kind {
            PieceKind::Code => comments.push(Vec::new()),
            PieceKind::Comment => {
                let last = comments.last_mut().expect("it begins with one");
                last.push(comment(written(piece).trim()));
            }
            PieceKind::Body => documents.push_str(written(piece)),
            PieceKind::Mark => {
                documents.push_str(written(piece).trim_end_matches(['\r', '\n']));
                documents.push_str(newline);
            }
            PieceKind::Blank | PieceKind::ByteOrderMark | PieceKind::Interpreter | PieceKind::Directive => {}
        }
    }
    let tokens = tokens::tokens(&line.text, lines.escape);
    let mut printer = print::Printer::new(line, &tokens, &comments[1..], lines.escape, newline);
    tokens.iter().for_each(|token| printer.token(token));
    printer.finish() + &documents
}

/// A comment of its own line: no indentation, and a blank before its first word. `#!` and lines of
/// other signs are somebody's mark or drawing.
fn comment(line: &str) -> String {
    match line.strip_prefix('#') {
        Some(words) if words.starts_with(char::is_alphanumeric) => format!("# {words}"),
        _ => line.to_owned(),
    }
}

#[cfg(test)]
mod tests;
