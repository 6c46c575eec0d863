//! Patterns that mean something odd, because moby makes a regular expression of a pattern and does
//! not look at all of it: `\d` is a digit, `^` an anchor, and a `*` between brackets is spelled out
//! before anybody reads the brackets. A [`Glob`](super::glob::Glob) reads all others faster and to
//! the same end.
//!
//! Source: the behaviour of github.com/moby/patternmatcher, whose expressions are RE2's.

use regex::bytes::{Regex, RegexBuilder};

/// The most memory that a compiled pattern may take, in bytes.
const SIZE_LIMIT: usize = 1 << 20;

/// Whether a well-formed pattern is one of these.
pub(super) fn is_odd(pattern: &str) -> bool {
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '^' => return true,
            '\\' if chars.next().is_some_and(|c| c.is_ascii_alphanumeric()) => return true,
            '[' => {
                chars.next_if_eq(&'^');
                loop {
                    match chars.next() {
                        Some(']') | None => break,
                        Some('*' | '?' | '[' | '^') => return true,
                        Some('\\') if chars.next().is_some_and(|c| c.is_ascii_alphanumeric()) => return true,
                        Some(_) => {}
                    }
                }
            }
            _ => {}
        }
    }
    false
}

/// Whether such a pattern comes to an expression, as far as its letters tell.
pub(super) fn is_expression(pattern: &str) -> bool {
    dialect(&expression(pattern)).is_some()
}

/// The expression that such a pattern comes to; nothing where it comes to none.
pub(super) fn compile(pattern: &str) -> Option<Regex> {
    RegexBuilder::new(&dialect(&expression(pattern))?).size_limit(SIZE_LIMIT).build().ok()
}

/// A pattern as an expression of RE2's language.
fn expression(pattern: &str) -> String {
    let mut out = String::from("^");
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '*' if chars.next_if_eq(&'*').is_some() => {
                chars.next_if_eq(&'/');
                out.push_str(if chars.peek().is_none() { ".*" } else { "(.*/)?" });
            }
            '*' => out.push_str("[^/]*"),
            '?' => out.push_str("[^/]"),
            '.' | '+' | '(' | ')' | '|' | '{' | '}' | '$' => out.extend(['\\', c]),
            '\\' => {
                out.push('\\');
                out.extend(chars.next());
            }
            c => out.push(c),
        }
    }
    out.push('$');
    out
}

/// The same expression for the library at hand, whose brackets have operators that RE2's lack, and
/// whose `\d` and `\w` know more than ASCII. Nothing for an escape that RE2 refuses.
fn dialect(expression: &str) -> Option<String> {
    let mut out = String::from("(?s)");
    let mut rest = expression;
    let mut in_class = false;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match (c, in_class) {
            ('\\', _) => {
                let escaped = rest.chars().next()?;
                rest = &rest[escaped.len_utf8()..];
                match (escaped, in_class) {
                    ('d', true) => out.push_str("0-9"),
                    ('w', true) => out.push_str("0-9A-Za-z_"),
                    ('s', true) => out.push_str(r"\t\n\f\r "),
                    ('a' | 'f' | 't' | 'n' | 'r' | 'v', _) => out.extend(['\\', escaped]),
                    ('d' | 'D' | 's' | 'S' | 'w' | 'W' | 'b' | 'B' | 'A' | 'z', false) => {
                        out.push_str(&format!(r"(?-u:\{escaped})"));
                    }
                    (c, _) if c.is_ascii_alphanumeric() => return None,
                    (c, _) => literal(c, &mut out),
                }
            }
            ('[', false) => {
                in_class = true;
                out.push('[');
                if let Some(behind) = rest.strip_prefix('^') {
                    rest = behind;
                    out.push('^');
                }
            }
            ('[', true) => match rest.find(":]").filter(|_| rest.starts_with(':')) {
                Some(end) => {
                    out.push('[');
                    out.push_str(&rest[..end + 2]);
                    rest = &rest[end + 2..];
                }
                None => out.push_str(r"\["),
            },
            (']', _) => {
                out.push_str(if in_class { "]" } else { r"\]" });
                in_class = false;
            }
            ('-', true) => out.push('-'),
            (c, true) => literal(c, &mut out),
            (c, false) => out.push(c),
        }
    }
    (!in_class).then_some(out)
}

/// `c` itself, inside brackets and outside.
fn literal(c: char, out: &mut String) {
    if c.is_ascii_punctuation() {
        out.push('\\');
    }
    out.push(c);
}
