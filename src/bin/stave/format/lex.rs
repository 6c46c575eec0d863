//! A template's text as tokens.
//!
//! Text between actions stays as it is; in actions, what stands right behind the token before it is told from what
//! has a blank between, because `.A.B` is one field of another and `.A .B` are two arguments (Go's text/template).

use serde_json::{Number, Value};
use stave::diagnostic::Span;

use super::Fault;

/// What a token is.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// What stands between actions.
    Text(String),
    Open,
    Close,
    /// A name without a dot: a keyword or a function.
    Word(String),
    /// `.Name`
    Field(String),
    /// `$` or `$name`, without the sign.
    Variable(String),
    /// A text, number or truth value.
    Literal(Value),
    Nil,
    Dot,
    Pipe,
    LeftParenthesis,
    RightParenthesis,
    Declare,
    Assign,
    Comma,
}

/// A token and where it stands.
#[derive(Debug, Clone)]
pub struct Token {
    pub kind: Kind,
    pub span: Span,
    /// Whether nothing is between it and the token before it.
    pub glued: bool,
}

/// Longer templates are somebody's mistake.
const LENGTH_LIMIT: usize = 64 << 10;

/// All tokens of `text`. With `escapes`, `\t` and `\n` between actions stand for a tab and a new line, as in
/// Docker's lists.
pub fn tokens(text: &str, escapes: bool) -> Result<Vec<Token>, Fault> {
    if text.len() > LENGTH_LIMIT {
        let span = Span::new(0, 0);
        return Err(Fault::new(span, format!("the template is longer than {LENGTH_LIMIT} bytes")));
    }
    let mut lexer = Lexer { text, at: 0, found: Vec::new() };
    let mut trim = false;
    loop {
        let rest = &text[lexer.at..];
        let begin = rest.find("{{").unwrap_or(rest.len());
        let opened = &rest[begin..];
        let mut between = &rest[..begin];
        if std::mem::take(&mut trim) {
            between = between.trim_start_matches(BLANKS);
        }
        let trims = opened.strip_prefix("{{-").is_some_and(|behind| behind.starts_with(BLANKS));
        if trims {
            between = between.trim_end_matches(BLANKS);
        }
        if !between.is_empty() {
            let between =
                if escapes { between.replace("\\t", "\t").replace("\\n", "\n") } else { between.into() };
            lexer.push(Kind::Text(between), lexer.at);
        }
        lexer.at += begin;
        if opened.is_empty() {
            return Ok(lexer.found);
        }
        let open = lexer.at;
        lexer.at += if trims { 3 } else { 2 };
        trim = match lexer.comment(open)? {
            Some(trim) => trim,
            None => {
                lexer.found.push(Token { kind: Kind::Open, span: Span::new(open, open + 2), glued: false });
                lexer.action(open)?
            }
        };
    }
}

const BLANKS: [char; 4] = [' ', '\t', '\r', '\n'];

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    found: Vec<Token>,
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn push(&mut self, kind: Kind, start: usize) {
        let glued = self.found.last().is_some_and(|last| last.span.end == start);
        self.found.push(Token { kind, span: Span::new(start, self.at.max(start)), glued });
    }

    /// Skips a comment, which is an action of its own; gives whether it trims what follows.
    fn comment(&mut self, open: usize) -> Result<Option<bool>, Fault> {
        let rest = self.rest();
        let inside = rest.trim_start_matches(BLANKS);
        // A blank is allowed in front only behind a trim marker, as in Go.
        if !inside.starts_with("/*") || (inside.len() != rest.len() && self.at == open + 2) {
            return Ok(None);
        }
        let unclosed = || Fault::new(Span::new(open, open + 2), "this comment has no `*/}}`".to_owned());
        let end = inside.find("*/").ok_or_else(unclosed)?;
        let behind = &inside[end + 2..];
        let (trim, length) = match behind.trim_start_matches(BLANKS) {
            after if behind.starts_with("}}") && !after.is_empty() => (false, 2),
            after if after.starts_with("-}}") && after.len() < behind.len() => {
                (true, behind.len() - after.len() + 3)
            }
            _ => return Err(unclosed()),
        };
        self.at = self.text.len() - behind.len() + length;
        Ok(Some(trim))
    }

    /// The tokens up to the action's end; gives whether it trims what follows.
    fn action(&mut self, open: usize) -> Result<bool, Fault> {
        loop {
            let blanks = self.rest().len() - self.rest().trim_start_matches(BLANKS).len();
            self.at += blanks;
            let start = self.at;
            let rest = self.rest();
            if blanks > 0 && rest.starts_with("-}}") {
                self.at += 3;
                self.push(Kind::Close, start);
                return Ok(true);
            }
            if rest.starts_with("}}") {
                self.at += 2;
                self.push(Kind::Close, start);
                return Ok(false);
            }
            let Some(first) = rest.chars().next() else {
                let fault = Fault::new(Span::new(open, open + 2), "this action has no `}}`".to_owned());
                return Err(fault);
            };
            let kind = self.token(first, start)?;
            self.push(kind, start);
        }
    }

    fn token(&mut self, first: char, start: usize) -> Result<Kind, Fault> {
        let simple = match first {
            '|' => Some(Kind::Pipe),
            '(' => Some(Kind::LeftParenthesis),
            ')' => Some(Kind::RightParenthesis),
            ',' => Some(Kind::Comma),
            '=' => Some(Kind::Assign),
            _ => None,
        };
        if let Some(kind) = simple {
            self.at += 1;
            return Ok(kind);
        }
        match first {
            ':' if self.rest().starts_with(":=") => {
                self.at += 2;
                Ok(Kind::Declare)
            }
            '"' => self.quoted(start),
            '`' => self.raw(start),
            '$' => {
                self.at += 1;
                Ok(Kind::Variable(self.name()))
            }
            '.' => {
                self.at += 1;
                // A number may begin with a point.
                if self.rest().starts_with(|c: char| c.is_ascii_digit()) {
                    self.at = start;
                    return self.number(start);
                }
                let name = self.name();
                Ok(if name.is_empty() { Kind::Dot } else { Kind::Field(name) })
            }
            '+' | '-' => self.number(start),
            c if c.is_ascii_digit() => self.number(start),
            c if c.is_alphabetic() || c == '_' => Ok(match self.name() {
                word if word == "true" => Kind::Literal(true.into()),
                word if word == "false" => Kind::Literal(false.into()),
                word if word == "nil" => Kind::Nil,
                word => Kind::Word(word),
            }),
            _ => {
                self.at += first.len_utf8();
                Err(Fault::new(Span::new(start, self.at), format!("unexpected `{first}`")))
            }
        }
    }

    fn name(&mut self) -> String {
        let rest = self.rest();
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let name = rest[..end].to_owned();
        self.at += end;
        name
    }

    fn number(&mut self, start: usize) -> Result<Kind, Fault> {
        let rest = self.rest();
        let belongs = |(at, c): (usize, char)| {
            c.is_ascii_alphanumeric() || matches!(c, '.' | '_') || (at == 0 && matches!(c, '+' | '-'))
        };
        let end = rest.char_indices().find(|one| !belongs(*one)).map_or(rest.len(), |(at, _)| at);
        let text = rest[..end].replace('_', "");
        self.at += end;
        let plain = text.strip_prefix('+').unwrap_or(&text);
        let number = match plain.strip_prefix("0x") {
            Some(digits) => i64::from_str_radix(digits, 16).ok().map(Number::from),
            None => plain
                .parse::<i64>()
                .ok()
                .map(Number::from)
                .or_else(|| plain.parse::<f64>().ok().and_then(Number::from_f64)),
        };
        match number {
            Some(number) => Ok(Kind::Literal(Value::Number(number))),
            None => Err(Fault::new(Span::new(start, self.at), format!("`{text}` is no number"))),
        }
    }

    fn raw(&mut self, start: usize) -> Result<Kind, Fault> {
        let inside = &self.rest()[1..];
        match inside.find('`') {
            Some(end) => {
                let text = inside[..end].to_owned();
                self.at += end + 2;
                Ok(Kind::Literal(text.into()))
            }
            None => Err(unclosed_text(start)),
        }
    }

    /// A text in Go's quotes.
    fn quoted(&mut self, start: usize) -> Result<Kind, Fault> {
        let mut text = String::new();
        let inside = self.text;
        let mut characters = inside[start + 1..].char_indices().map(|(at, c)| (start + 1 + at, c));
        while let Some((at, c)) = characters.next() {
            match c {
                '"' => {
                    self.at = at + 1;
                    return Ok(Kind::Literal(text.into()));
                }
                '\n' => break,
                '\\' => {
                    let Some((_, kind)) = characters.next() else { break };
                    let mut code = |digits: usize| {
                        let hex: String = characters.by_ref().take(digits).map(|(_, c)| c).collect();
                        u32::from_str_radix(&hex, 16).ok().and_then(char::from_u32)
                    };
                    let character = match kind {
                        'n' => Some('\n'),
                        't' => Some('\t'),
                        'r' => Some('\r'),
                        '\\' | '"' | '\'' => Some(kind),
                        'x' => code(2),
                        'u' => code(4),
                        'U' => code(8),
                        _ => None,
                    };
                    let span = Span::new(at, at + 1 + kind.len_utf8());
                    text.push(character.ok_or_else(|| Fault::new(span, "unknown escape".to_owned()))?);
                }
                c => text.push(c),
            }
        }
        Err(unclosed_text(start))
    }
}

fn unclosed_text(start: usize) -> Fault {
    Fault::new(Span::new(start, start + 1), "this text has no end".to_owned())
}
