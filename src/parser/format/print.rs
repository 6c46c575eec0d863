//! An instruction's tokens, written with one blank between them and with the line breaks that they
//! had.

use crate::parser::format::tokens::{Token, TokenKind};
use crate::parser::lines::{self, LogicalLine};

/// What continuation lines are indented by.
const INDENT: &str = "    ";

/// Writes one instruction.
pub(super) struct Printer<'a> {
    out: String,
    text: &'a str,
    /// Where in the text lines are joined, and the comments that stand at each.
    joins: Vec<(usize, &'a [String])>,
    next: usize,
    /// The comments behind the last line.
    trailing: Vec<&'a [String]>,
    last: Option<Token>,
    indent: &'a str,
    escape: char,
    newline: &'static str,
}

impl<'a> Printer<'a> {
    /// `comments` are those after each line of `line`.
    pub fn new(
        line: &'a LogicalLine,
        tokens: &[Token],
        comments: &'a [Vec<String>],
        escape: char,
        newline: &'static str,
    ) -> Self {
        let joins: Vec<(usize, &[String])> =
            line.joins().skip(1).zip(comments.iter().map(Vec::as_slice)).collect();
        let trailing = comments[joins.len().min(comments.len())..].iter().map(Vec::as_slice).collect();
        let indent = indent(&line.text, tokens, &joins);
        Self {
            out: String::new(),
            text: &line.text,
            joins,
            next: 0,
            trailing,
            last: None,
            indent,
            escape,
            newline,
        }
    }

    /// Writes a token, and before it a blank or, where a line ended, a line break.
    pub fn token(&mut self, token: &Token) {
        let mut comments: Vec<&[String]> = Vec::new();
        let mut broken = false;
        while let Some(&(_, notes)) = self.joins.get(self.next).filter(|join| join.0 <= token.start) {
            broken = true;
            comments.push(notes);
            self.next += 1;
        }
        let noted = comments.iter().any(|notes| !notes.is_empty());
        match self.last {
            // A continuation of nothing needs to stay only where comments are in it: outside they
            // might be directives.
            None if !noted => {}
            None => {
                self.out.push(self.escape);
                self.out.push_str(self.newline);
                self.comments(&comments, "");
            }
            Some(last) => {
                let apart = last.kind != TokenKind::Open
                    && !matches!(token.kind, TokenKind::Comma | TokenKind::Close);
                if broken || apart {
                    self.out.push(' ');
                }
                if broken {
                    self.out.push(self.escape);
                    self.out.push_str(self.newline);
                    self.comments(&comments, self.indent);
                    self.out.push_str(if token.kind == TokenKind::Close { "" } else { self.indent });
                }
            }
        }
        self.inside(token);
        self.last = Some(*token);
    }

    /// A token as it is, its line breaks included.
    fn inside(&mut self, token: &Token) {
        let mut from = token.start;
        while let Some(&(at, notes)) = self.joins.get(self.next).filter(|join| join.0 < token.end) {
            self.next += 1;
            if at > from {
                self.push(&self.text[from..at], token.kind);
                self.out.push(self.escape);
                self.out.push_str(self.newline);
                from = at;
            }
            self.comments(&[notes], blanks(&self.text[at..token.end]));
        }
        self.push(&self.text[from..token.end], token.kind);
    }

    fn push(&mut self, text: &str, kind: TokenKind) {
        match kind {
            TokenKind::Keyword => self.out.push_str(&text.to_ascii_uppercase()),
            _ => self.out.push_str(text),
        }
    }

    fn comments(&mut self, comments: &[&[String]], indent: &str) {
        for comment in comments.iter().copied().flatten() {
            self.out.push_str(indent);
            self.out.push_str(comment);
            self.out.push_str(self.newline);
        }
    }

    /// The whole instruction, ended.
    pub fn finish(mut self) -> String {
        let line = self.out.rfind('\n').map_or(0, |at| at + 1);
        let end = self.last.map_or(0, |token| token.end);
        let goes_on = |out: &str| lines::continuation(&out[line..], self.escape).1;
        if goes_on(&self.out) {
            // The blanks behind it are all that keeps this sign from continuing the line, or a
            // second such sign is, at the end of the file.
            self.out.push_str(&self.text[end..]);
            if goes_on(&self.out) {
                self.out.push(self.escape);
            }
        } else if !self.out.is_empty() && self.out[line..].trim().is_empty() {
            // Blanks that a trigger ends with: without this they would be a blank line.
            self.out.push(self.escape);
        }
        self.out.push_str(self.newline);
        let mut trailing: Vec<&[String]> = self.joins[self.next..].iter().map(|join| join.1).collect();
        trailing.append(&mut self.trailing);
        self.comments(&trailing, "");
        self.out
    }
}

/// What the lines of an instruction are indented by: a text of several lines keeps its own
/// indentation, and what stands before it follows suit.
fn indent<'a>(text: &'a str, tokens: &[Token], joins: &[(usize, &[String])]) -> &'a str {
    let mut texts = tokens.iter().filter(|token| token.kind == TokenKind::Text);
    let second_line = texts.find_map(|token| {
        let at = joins.iter().map(|join| join.0).find(|at| (token.start + 1..token.end).contains(at))?;
        Some(blanks(&text[at..token.end]))
    });
    second_line.filter(|indent| !indent.is_empty()).unwrap_or(INDENT)
}

/// What `text` is indented by.
fn blanks(text: &str) -> &str {
    &text[..text.len() - text.trim_start_matches([' ', '\t']).len()]
}
