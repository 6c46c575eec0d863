//! One pattern, compiled, and the set-of-places matcher.

/// What two stars mean.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Span {
    /// The same as one.
    Name,
    /// Any number of directories; at the pattern's end, anything at all.
    Deep,
}

/// A compiled pattern.
#[derive(Debug, Clone)]
pub(super) struct Glob {
    tokens: Vec<Token>,
    /// Whether `[^a]` may be a slash: it may where moby makes a regular expression of it.
    class_takes_slash: bool,
}

#[derive(Debug, Clone)]
enum Token {
    Char(char),
    /// `?`: one character that is no slash.
    One,
    /// `*`: any characters that are no slash.
    Star,
    /// `**/`: nothing, or anything that ends in a slash.
    Deep,
    /// `**` at the end: anything.
    Rest,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

/// Whether Go's `filepath.Match` takes the pattern.
pub(super) fn is_well_formed(pattern: &str) -> bool {
    Glob::compile(pattern, Span::Name).is_some()
}

impl Glob {
    /// Nothing for a pattern that is malformed.
    pub(super) fn compile(pattern: &str, span: Span) -> Option<Self> {
        let mut tokens = Vec::new();
        let mut chars = pattern.chars().peekable();
        while let Some(c) = chars.next() {
            tokens.push(match c {
                '*' if span == Span::Deep && chars.peek() == Some(&'*') => {
                    chars.next();
                    if chars.peek() == Some(&'/') {
                        chars.next();
                    }
                    if chars.peek().is_none() { Token::Rest } else { Token::Deep }
                }
                '*' => {
                    if matches!(tokens.last(), Some(Token::Star)) {
                        continue;
                    }
                    Token::Star
                }
                '?' => Token::One,
                '\\' => Token::Char(chars.next()?),
                '[' => class(&mut chars)?,
                c => Token::Char(c),
            });
        }
        Some(Self { tokens, class_takes_slash: span == Span::Deep })
    }

    /// Whether the whole of `text` matches.
    pub(super) fn matches(&self, text: &[u8]) -> bool {
        self.places(text, false).is_some_and(|places| places[self.tokens.len()])
    }

    /// Whether the whole of `text` matches, or its beginning up to some slash.
    pub(super) fn matches_or_parent(&self, text: &[u8]) -> bool {
        self.places(text, true).is_some_and(|places| places[self.tokens.len()])
    }

    /// Whether some continuation of `text` matches.
    pub(super) fn may_continue(&self, text: &[u8]) -> bool {
        self.places(text, false).is_some()
    }

    /// The places in the pattern where one may stand when `text` is read; nothing if there is none.
    /// With `parents` it stops at the first slash before which the whole pattern is matched.
    fn places(&self, text: &[u8], parents: bool) -> Option<Vec<bool>> {
        let end = self.tokens.len();
        let mut here = vec![false; end + 1];
        let mut next = vec![false; end + 1];
        here[0] = true;
        self.skip_optional(&mut here);
        // Inside `**/` anything may stand, but it can only be left behind a slash.
        let mut inside = vec![false; end];
        for (at, token) in self.tokens.iter().enumerate() {
            inside[at] = here[at] && matches!(token, Token::Deep);
        }
        for c in characters(text) {
            if parents && c == Some('/') && here[end] {
                return Some(here);
            }
            next.fill(false);
            for (at, token) in self.tokens.iter().enumerate() {
                let slash = c == Some('/');
                if inside[at] {
                    // Behind a slash one may stand after it, and still be inside.
                    next[at + 1] |= slash;
                }
                if !here[at] {
                    continue;
                }
                match token {
                    Token::Char(wanted) => next[at + 1] |= c == Some(*wanted),
                    Token::One => next[at + 1] |= !slash,
                    Token::Star => next[at] |= !slash,
                    Token::Rest => next[at] = true,
                    Token::Deep => {}
                    Token::Class { negated, ranges } => {
                        let within =
                            c.is_some_and(|c| ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)));
                        let allowed = self.class_takes_slash || !slash;
                        next[at + 1] |= allowed && within != *negated;
                    }
                }
            }
            self.skip_optional(&mut next);
            std::mem::swap(&mut here, &mut next);
            let mut alive = here.contains(&true);
            for (at, inside) in inside.iter_mut().enumerate() {
                *inside |= here[at] && matches!(self.tokens[at], Token::Deep);
                alive |= *inside;
            }
            if !alive {
                return None;
            }
        }
        Some(here)
    }

    /// A star may stand for nothing.
    fn skip_optional(&self, places: &mut [bool]) {
        for (at, token) in self.tokens.iter().enumerate() {
            if places[at] && matches!(token, Token::Star | Token::Rest | Token::Deep) {
                places[at + 1] = true;
            }
        }
    }
}

/// What stands between brackets; the opening one is read. `]` cannot be among the characters unless
/// it is escaped, and there is at least one.
fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Token> {
    let negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        let mut one = |first: bool| match chars.next()? {
            ']' if first && !ranges.is_empty() => Some(None),
            ']' | '-' => None,
            '\\' => Some(Some(chars.next()?)),
            c => Some(Some(c)),
        };
        let Some(low) = one(true)? else {
            return Some(Token::Class { negated, ranges });
        };
        let high = if chars.next_if_eq(&'-').is_some() {
            let mut one = || match chars.next()? {
                ']' | '-' => None,
                '\\' => chars.next(),
                c => Some(c),
            };
            one()?
        } else {
            low
        };
        ranges.push((low, high));
    }
}

/// The text's characters; nothing for each byte that belongs to none.
fn characters(text: &[u8]) -> impl Iterator<Item = Option<char>> + '_ {
    text.utf8_chunks()
        .flat_map(|chunk| chunk.valid().chars().map(Some).chain(chunk.invalid().iter().map(|_| None)))
}
