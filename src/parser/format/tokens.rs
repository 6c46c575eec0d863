//! The words of an instruction, as far as they may be moved apart or together.
//!
//! A token is what has to stay as it is written. Where the arguments are a text of their own, for a
//! shell or as one value, they are a single token.

use crate::parser::ast;
use crate::parser::syntax::{self, Piece};

/// A part of a logical line, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token {
    pub start: usize,
    pub end: usize,
    pub kind: TokenKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// A keyword of the language.
    Keyword,
    Word,
    /// A text whose lines go on by the rules of its reader.
    Text,
    /// `[`, `,` and `]` of an array.
    Open,
    Comma,
    Close,
}

/// Takes the logical line `text` apart.
pub(super) fn tokens(text: &str, escape: char) -> Vec<Token> {
    let Some(command) = syntax::command(text) else { return Vec::new() };
    let mut out = Tokens { text, tokens: Vec::new() };
    out.piece(command.keyword, TokenKind::Keyword);
    for flag in &command.flags {
        out.piece(*flag, TokenKind::Word);
    }
    // The end of the flags; without it the arguments might begin with one.
    let head = out.tokens.last().map_or(0, |token| token.end);
    if let Some(at) = text[head..command.arguments.start].find("--") {
        out.add(head + at, head + at + 2, TokenKind::Word);
    }
    let arguments = command.arguments;
    match command.keyword.text.to_ascii_uppercase().as_str() {
        "FROM" => {
            let words = syntax::list(arguments.text);
            for (number, word) in words.iter().enumerate() {
                let is_as = number == 1 && words.len() == 3;
                out.piece(inside(arguments, *word), if is_as { TokenKind::Keyword } else { TokenKind::Word });
            }
        }
        "ADD" | "COPY" | "VOLUME" => {
            // What only looks like an array might become one with other blanks.
            if arguments.text.starts_with('[') {
                out.command_line(arguments);
            } else if opens_by_rules_of_the_shell(arguments.text) {
                out.piece(arguments, TokenKind::Text);
            } else {
                out.list(arguments);
            }
        }
        "EXPOSE" => out.list(arguments),
        "ARG" => out.words(arguments, escape),
        "ENV" | "LABEL" => out.pairs(arguments, escape),
        "CMD" | "ENTRYPOINT" | "RUN" | "SHELL" => out.command_line(arguments),
        "HEALTHCHECK" => {
            if let Some(kind) = syntax::list(arguments.text).first() {
                out.piece(inside(arguments, *kind), TokenKind::Keyword);
                let rest = arguments.text[kind.end()..].trim_start();
                out.command_line(Piece { text: rest, start: arguments.end() - rest.len() });
            }
        }
        // The trigger is kept to the end of the line, blanks included.
        "ONBUILD" => out.add(arguments.start, text.len(), TokenKind::Text),
        _ => out.piece(arguments, TokenKind::Text),
    }
    out.tokens
}

/// Whether quotes or escapes in a list have a say in which of its words open here-documents, which
/// is found out by other rules than those of the list.
fn opens_by_rules_of_the_shell(list: &str) -> bool {
    list.contains("<<") && syntax::words(list, '\\') != syntax::list(list)
}

/// A piece of `outer` as one of the whole line.
fn inside<'a>(outer: Piece, piece: Piece<'a>) -> Piece<'a> {
    Piece { text: piece.text, start: outer.start + piece.start }
}

struct Tokens<'a> {
    text: &'a str,
    tokens: Vec<Token>,
}

impl Tokens<'_> {
    fn add(&mut self, start: usize, end: usize, kind: TokenKind) {
        if start < end {
            self.tokens.push(Token { start, end, kind });
        }
    }

    fn piece(&mut self, piece: Piece, kind: TokenKind) {
        self.add(piece.start, piece.end(), kind);
    }

    fn list(&mut self, arguments: Piece) {
        for word in syntax::list(arguments.text) {
            self.piece(inside(arguments, word), TokenKind::Word);
        }
    }

    fn words(&mut self, arguments: Piece, escape: char) {
        for word in syntax::words(arguments.text, escape) {
            self.piece(inside(arguments, word), TokenKind::Word);
        }
    }

    /// `NAME=VALUE …`, or `NAME` and all the rest as its value.
    fn pairs(&mut self, arguments: Piece, escape: char) {
        let text = arguments.text;
        let first = syntax::words(text, escape).first().copied();
        let Some(first) = first.filter(|first| !first.text.contains('=')) else {
            return self.words(arguments, escape);
        };
        let name = syntax::list(text).first().map_or(text.len(), Piece::end);
        if first.text.len() != name {
            // The name is cut at a blank that is quoted or escaped. With another one there, all of
            // it might be read the other way.
            return self.piece(arguments, TokenKind::Text);
        }
        self.add(arguments.start, arguments.start + name, TokenKind::Word);
        let value = text[name..].trim_start_matches([' ', '\t', '\u{B}', '\u{C}', '\r']);
        self.add(arguments.end() - value.len(), arguments.end(), TokenKind::Text);
    }

    fn command_line(&mut self, arguments: Piece) {
        if !self.array(arguments) {
            self.piece(arguments, TokenKind::Text);
        }
    }

    /// Adds the parts of an array of strings; gives whether it is one.
    fn array(&mut self, arguments: Piece) -> bool {
        if !matches!(ast::array(arguments.text), Some(Ok(_))) {
            return false;
        }
        let bytes = &self.text.as_bytes()[..arguments.end()];
        let mut at = arguments.start;
        while let Some(&byte) = bytes.get(at) {
            let start = at;
            at += 1;
            let kind = match byte {
                b'[' => TokenKind::Open,
                b',' => TokenKind::Comma,
                b']' => TokenKind::Close,
                b'"' => {
                    while bytes.get(at).is_some_and(|&byte| byte != b'"') {
                        at += if bytes[at] == b'\\' { 2 } else { 1 };
                    }
                    at += 1;
                    TokenKind::Word
                }
                _ => continue,
            };
            self.add(start, at, kind);
        }
        true
    }
}
