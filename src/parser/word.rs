//! Words: variables put in, quotes taken off, and the result split at blanks.
//!
//! This is the shell's expansion as BuildKit has it: `$name`, `${name}`, `:-` `-` `:+` `+` `:?` `?`
//! `#` `##` `%` `%%` `/` `//`, nested to any sane depth. A word, what it may grow to and how deep it
//! may nest are bounded, since names and values come from whoever wrote the Dockerfile.

use std::collections::BTreeSet;

use crate::parser::wildcard::{Pattern, PatternError, Template};

/// The most that one word may expand to, in bytes.
pub(crate) const WORD_LIMIT: usize = 1 << 20;
/// How deep `${a:-${b:-…}}` may nest.
const DEPTH_LIMIT: usize = 64;

/// Where values come from.
pub(crate) trait Variables {
    /// The value of `name`, none if it is not set.
    fn get(&self, name: &str) -> Option<&str>;
}

/// No variable is set.
pub(crate) struct Nothing;

impl Variables for Nothing {
    fn get(&self, _: &str) -> Option<&str> {
        None
    }
}

/// How a word is read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    pub escape: char,
    /// Quotes group words but stay in the text.
    pub raw_quotes: bool,
    /// Escape characters stay in the text.
    pub raw_escapes: bool,
    /// Quotes are ordinary characters.
    pub plain_quotes: bool,
    /// What names a variable that is not set stays as it was written.
    pub keep_unset: bool,
    /// The result is split at blanks, too.
    pub split: bool,
}

impl Style {
    /// Quotes and escapes go, unset variables are empty.
    pub fn new(escape: char) -> Self {
        Self {
            escape,
            raw_quotes: false,
            raw_escapes: false,
            plain_quotes: false,
            keep_unset: false,
            split: false,
        }
    }

    /// As [`Style::new`], and split.
    pub fn splitting(escape: char) -> Self {
        Self { split: true, ..Self::new(escape) }
    }
}

/// What a word became.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Expansion {
    pub text: String,
    /// The text split at blanks that were not quoted, if it was to be.
    pub words: Vec<String>,
    /// Names that it asked for and that were not set.
    pub unset: BTreeSet<String>,
}

/// What is wrong with a word, and the bytes of it that are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind}")]
pub(crate) struct WordError {
    pub kind: WordErrorKind,
    pub start: usize,
    pub end: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WordErrorKind {
    #[error("this {0} quote is not closed")]
    Quote(&'static str),
    #[error("bad substitution: missing `}}`")]
    Brace,
    #[error("bad substitution: missing `/` between pattern and replacement")]
    Slash,
    #[error("bad substitution: a name is missing after `${{`")]
    Name,
    #[error("bad substitution: `{0}` is not supported")]
    Modifier(String),
    #[error("{name}: {text}")]
    Required { name: String, text: String },
    #[error(transparent)]
    Pattern(PatternError),
    #[error("the word expands to more than {WORD_LIMIT} bytes")]
    Long,
    #[error("substitutions are nested more than {DEPTH_LIMIT} deep")]
    Deep,
}

/// Expands `word` and splits the result.
///
/// # Errors
/// [`WordError`] for quotes and braces that are not closed, bad substitutions, `${NAME:?text}` of a
/// name that is not set, and for what exceeds the limits.
pub(crate) fn expand(word: &str, style: Style, variables: &dyn Variables) -> Result<Expansion, WordError> {
    let means_something = |c: char| matches!(c, '$' | '\'' | '"' | '<') || c == style.escape;
    if word.len() <= WORD_LIMIT && !word.contains(means_something) {
        let words = match style.split {
            true => word.split_whitespace().map(str::to_owned).collect(),
            false => Vec::new(),
        };
        return Ok(Expansion { text: word.to_owned(), words, unset: BTreeSet::new() });
    }
    let mut reader = Reader { word, at: 0, style, variables, unset: BTreeSet::new(), depth: 0 };
    let (text, words) = reader.until(None, style.raw_escapes)?;
    Ok(Expansion { text, words, unset: reader.unset })
}

struct Reader<'a> {
    word: &'a str,
    at: usize,
    style: Style,
    variables: &'a dyn Variables,
    unset: BTreeSet<String>,
    depth: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.word[self.at..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn error(&self, start: usize, kind: WordErrorKind) -> WordError {
        WordError { kind, start, end: self.at.max(start + 1).min(self.word.len().max(start)) }
    }

    /// Reads up to `stop`, which is taken, or to the end if there is none.
    fn until(&mut self, stop: Option<char>, raw_escapes: bool) -> Result<(String, Vec<String>), WordError> {
        let start = self.at;
        self.depth += 1;
        if self.depth > DEPTH_LIMIT {
            return Err(self.error(start, WordErrorKind::Deep));
        }
        let mut text = String::with_capacity(if stop.is_none() { self.word.len() } else { 0 });
        let mut words = Words::new(self.style.split && stop.is_none());
        while let Some(c) = self.peek() {
            if text.len() > WORD_LIMIT {
                return Err(self.error(start, WordErrorKind::Long));
            }
            if Some(c) == stop {
                self.next();
                self.depth -= 1;
                return Ok((text, words.finish()));
            }
            match c {
                '\'' | '"' if !self.style.plain_quotes => {
                    let quoted =
                        if c == '"' { self.double_quoted(raw_escapes)? } else { self.single_quoted()? };
                    text.push_str(&quoted);
                    words.keep(&quoted);
                }
                '$' => {
                    let value = self.dollar()?;
                    text.push_str(&value);
                    value.chars().for_each(|c| words.push(c));
                }
                '<' if !self.style.plain_quotes => {
                    let opening = self.angle();
                    text.push_str(opening);
                    words.keep(opening);
                }
                c if c == self.style.escape => {
                    self.next();
                    if raw_escapes {
                        text.push(c);
                        words.keep_char(c);
                    }
                    let Some(escaped) = self.next() else { break };
                    text.push(escaped);
                    words.keep_char(escaped);
                }
                c => {
                    self.next();
                    text.push(c);
                    words.push(c);
                }
            }
        }
        if stop.is_some() {
            let kind = if stop == Some('/') { WordErrorKind::Slash } else { WordErrorKind::Brace };
            return Err(self.error(start, kind));
        }
        if text.len() > WORD_LIMIT {
            return Err(self.error(start, WordErrorKind::Long));
        }
        self.depth -= 1;
        Ok((text, words.finish()))
    }

    /// `<<` and the blanks after it belong to one word, so that `<< EOT` opens a here-document.
    fn angle(&mut self) -> &'static str {
        self.next();
        if self.peek() != Some('<') {
            return "<";
        }
        self.next();
        while self.peek().is_some_and(char::is_whitespace) {
            self.next();
        }
        "<<"
    }

    fn single_quoted(&mut self) -> Result<String, WordError> {
        let start = self.at;
        self.next();
        let rest = &self.word[self.at..];
        let Some(length) = rest.find('\'') else {
            self.at = self.word.len();
            return Err(self.error(start, WordErrorKind::Quote("single")));
        };
        let inner = &rest[..length];
        self.at += length + 1;
        Ok(if self.style.raw_quotes { format!("'{inner}'") } else { inner.to_owned() })
    }

    fn double_quoted(&mut self, raw_escapes: bool) -> Result<String, WordError> {
        let start = self.at;
        self.next();
        let mut text = String::new();
        if self.style.raw_quotes {
            text.push('"');
        }
        loop {
            if text.len() > WORD_LIMIT {
                return Err(self.error(start, WordErrorKind::Long));
            }
            match self.peek() {
                None => return Err(self.error(start, WordErrorKind::Quote("double"))),
                Some('"') => {
                    self.next();
                    if self.style.raw_quotes {
                        text.push('"');
                    }
                    return Ok(text);
                }
                Some('$') => text.push_str(&self.dollar()?),
                Some(c) if c == self.style.escape => {
                    self.next();
                    if raw_escapes {
                        text.push(c);
                    }
                    match self.peek() {
                        None => {}
                        // Only these can be escaped here; before anything else the escape
                        // character is one like any other.
                        Some(next) if next == '"' || next == '$' || next == self.style.escape => {
                            self.next();
                            text.push(next);
                        }
                        Some(_) => text.push(c),
                    }
                }
                Some(c) => {
                    self.next();
                    text.push(c);
                }
            }
        }
    }

    fn name(&mut self) -> String {
        let rest = &self.word[self.at..];
        let Some(first) = rest.chars().next() else { return String::new() };
        let length = if first.is_numeric() {
            rest.find(|c: char| !c.is_numeric()).unwrap_or(rest.len())
        } else if "@*#?-$!".contains(first) {
            1
        } else {
            rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
        };
        self.at += length;
        rest[..length].to_owned()
    }

    fn value(&mut self, name: &str) -> Option<String> {
        let value = self.variables.get(name);
        if value.is_none() {
            self.unset.insert(name.to_owned());
        }
        value.map(str::to_owned)
    }

    fn dollar(&mut self) -> Result<String, WordError> {
        let start = self.at;
        self.next();
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            return Ok(match self.value(&name) {
                None if self.style.keep_unset => self.word[start..self.at].to_owned(),
                value => value.unwrap_or_default(),
            });
        }
        self.next();
        match self.peek() {
            None => return Err(self.error(start, WordErrorKind::Brace)),
            Some('{' | '}' | ':') => {
                self.next();
                return Err(self.error(start, WordErrorKind::Name));
            }
            Some(_) => {}
        }
        let name = self.name();
        let Some(first) = self.next() else { return Err(self.error(start, WordErrorKind::Brace)) };
        let (operator, empty_is_unset) = match first {
            '}' => {
                return Ok(match self.value(&name) {
                    None if self.style.keep_unset => self.word[start..self.at].to_owned(),
                    value => value.unwrap_or_default(),
                });
            }
            ':' => match self.next() {
                Some(operator) => (operator, true),
                None => return Err(self.error(start, WordErrorKind::Brace)),
            },
            operator => (operator, false),
        };
        match operator {
            '-' | '+' | '?' => {
                let word = self.inner(start, '}', false)?;
                let value = self.value(&name);
                if value.is_none() && self.style.keep_unset {
                    let colon = if empty_is_unset { ":" } else { "" };
                    return Ok(format!("${{{name}{colon}{operator}{word}}}"));
                }
                let missing = match &value {
                    None => Some("is not allowed to be unset"),
                    Some(value) if empty_is_unset && value.is_empty() => Some("is not allowed to be empty"),
                    Some(_) => None,
                };
                match (operator, missing) {
                    ('-', None) | ('?', None) => Ok(value.unwrap_or_default()),
                    ('-', Some(_)) | ('+', None) => Ok(word),
                    ('+', Some(_)) => Ok(String::new()),
                    (_, missing) => {
                        let text =
                            if word.is_empty() { missing.unwrap_or_default().to_owned() } else { word };
                        Err(self.error(start, WordErrorKind::Required { name, text }))
                    }
                }
            }
            '#' | '%' if !empty_is_unset => {
                let word = self.inner(start, '}', true)?;
                let value = match self.value(&name) {
                    None if self.style.keep_unset => return Ok(format!("${{{name}{operator}{word}}}")),
                    value => value.unwrap_or_default(),
                };
                let longest = word.starts_with(operator);
                let pattern = self.pattern(start, if longest { &word[1..] } else { &word })?;
                let cut = match operator {
                    '#' => pattern.cut_prefix(&value, longest),
                    _ => pattern.cut_suffix(&value, longest),
                };
                cut.map(str::to_owned).map_err(|e| self.error(start, WordErrorKind::Pattern(e)))
            }
            '/' if !empty_is_unset => {
                let all = self.peek() == Some('/');
                if all {
                    self.next();
                }
                let pattern = self.inner(start, '/', true)?;
                let replacement = self.inner(start, '}', true)?;
                let value = match self.value(&name) {
                    None if self.style.keep_unset => {
                        let slashes = if all { "//" } else { "/" };
                        return Ok(format!("${{{name}{slashes}{pattern}/{replacement}}}"));
                    }
                    // As empty text, which a pattern such as `*` matches.
                    value => value.unwrap_or_default(),
                };
                let pattern = self.pattern(start, &pattern)?;
                let replaced = if all {
                    pattern.replace_all(&value, &Template::parse(&replacement), WORD_LIMIT)
                } else {
                    pattern.replace_first(&value, &replacement, WORD_LIMIT)
                };
                replaced.map_err(|e| self.error(start, WordErrorKind::Pattern(e)))
            }
            other => {
                let modifier = if empty_is_unset { format!(":{other}") } else { other.to_string() };
                Err(self.error(start, WordErrorKind::Modifier(modifier)))
            }
        }
    }

    /// What stands up to `stop`; where that is missing, the error is of the whole `${`.
    fn inner(&mut self, start: usize, stop: char, raw_escapes: bool) -> Result<String, WordError> {
        match self.until(Some(stop), raw_escapes) {
            Ok((text, _)) => Ok(text),
            Err(WordError { kind: kind @ (WordErrorKind::Brace | WordErrorKind::Slash), .. }) => {
                Err(self.error(start, kind))
            }
            Err(error) => Err(error),
        }
    }

    fn pattern(&self, start: usize, text: &str) -> Result<Pattern, WordError> {
        Pattern::parse(text).map_err(|e| self.error(start, WordErrorKind::Pattern(e)))
    }
}

/// Words as they grow.
struct Words {
    /// Whether anybody asks for them.
    wanted: bool,
    done: Vec<String>,
    word: String,
}

impl Words {
    fn new(wanted: bool) -> Self {
        Self { wanted, done: Vec::new(), word: String::new() }
    }

    /// A character that ends the word if it is a blank.
    fn push(&mut self, c: char) {
        if !self.wanted {
            return;
        }
        if !c.is_whitespace() {
            self.word.push(c);
        } else if !self.word.is_empty() {
            self.done.push(std::mem::take(&mut self.word));
        }
    }

    fn keep_char(&mut self, c: char) {
        if self.wanted {
            self.word.push(c);
        }
    }

    fn keep(&mut self, text: &str) {
        if self.wanted {
            self.word.push_str(text);
        }
    }

    fn finish(mut self) -> Vec<String> {
        if !self.word.is_empty() {
            self.done.push(self.word);
        }
        self.done
    }
}

#[cfg(test)]
mod tests;
