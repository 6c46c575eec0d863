//! Patterns over paths: what `.dockerignore` and `--exclude` leave out, and what a COPY source with
//! wildcards takes.
//!
//! The two languages differ. [`Patterns`] are moby's: an ordered list with `!` lines, where a
//! pattern that matches a directory holds for all below it and the last match decides. [`Step`]s are
//! Go's `filepath.Match`, a path component at a time; where [`DoubleStar`] says so with `**` for any
//! number of directories.
//!
//! Matching keeps the set of places in the pattern where the text may stand, so its cost is bounded
//! by their product whatever the pattern says; there is no backtracking to blow up, in the few
//! patterns either that are read as regular expressions. Paths are bytes:
//! names need not be UTF-8. A byte that belongs to no character counts as one.

mod glob;
mod regular;
#[cfg(test)]
mod tests;

use glob::{Glob, Span};

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    #[error("the pattern `{0}` is malformed: a `[` needs characters and a `]`, a `\\` something behind it")]
    Malformed(String),
    #[error("the pattern `!` takes nothing back")]
    LoneNegation,
    #[error("the pattern is longer than {0} bytes")]
    TooLong(usize),
    #[error("more than {0} patterns need regular expressions")]
    TooManyExpressions(usize),
}

/// The longest pattern: Linux has no longer path.
const LONGEST: usize = 4096;

/// How many patterns of one list may be read as regular expressions, which take memory: more than
/// anybody writes.
const EXPRESSIONS: usize = 1000;

/// An ordered list of patterns as moby's patternmatcher reads them (github.com/moby/patternmatcher).
#[derive(Debug, Clone, Default)]
pub struct Patterns {
    patterns: Vec<Pattern>,
    negations: bool,
}

#[derive(Debug, Clone)]
struct Pattern {
    /// As written, a `!` included.
    text: String,
    negated: bool,
    form: Form,
}

/// What moby compiles a pattern to. The forms differ in more than speed: `**foo` matches `xfoo`,
/// while `**foo*` matches `foo1` and `a/foo1` but not `xfoo1`.
#[derive(Debug, Clone)]
enum Form {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Glob(Glob),
    Regular(regex::bytes::Regex),
}

/// Which patterns matched a directory: what is below it need not ask again. Begin with
/// [`Trail::default`] at the root.
#[derive(Debug, Clone, Default)]
pub struct Trail(Vec<bool>);

impl Patterns {
    /// Compiles the texts in their order. Blanks around one and empty ones do not count; `./`, `//`,
    /// `..` and a slash at the end are resolved by the letters.
    ///
    /// # Errors
    /// [`PatternError`] for the first that is none.
    pub fn parse<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> Result<Self, PatternError> {
        let mut patterns: Vec<Pattern> = Vec::new();
        let mut expressions = 0;
        for text in texts {
            let text = text.as_ref().trim();
            if text.is_empty() {
                continue;
            }
            if text.len() > LONGEST {
                return Err(PatternError::TooLong(LONGEST));
            }
            // The whole text is cleaned, and only then looked at for its `!`, as moby does it.
            let cleaned = clean(text);
            let (negated, pattern) = match cleaned.strip_prefix('!') {
                Some("") => return Err(PatternError::LoneNegation),
                Some(rest) => (true, rest),
                None => (false, cleaned.as_str()),
            };
            let form = Form::compile(pattern).ok_or_else(|| PatternError::Malformed(text.to_owned()))?;
            expressions += usize::from(matches!(form, Form::Regular(_)));
            if expressions > EXPRESSIONS {
                return Err(PatternError::TooManyExpressions(EXPRESSIONS));
            }
            patterns.push(Pattern { text: text.to_owned(), negated, form });
        }
        let negations = patterns.iter().any(|pattern| pattern.negated);
        Ok(Self { patterns, negations })
    }

    /// Whether a single text is a pattern: as [`Patterns::parse`] of it, and cheap.
    ///
    /// # Errors
    /// [`PatternError`].
    pub fn check(text: &str) -> Result<(), PatternError> {
        let text = text.trim();
        if text.len() > LONGEST {
            return Err(PatternError::TooLong(LONGEST));
        }
        let cleaned = clean(text);
        let pattern = cleaned.strip_prefix('!').unwrap_or(&cleaned);
        let is_well =
            glob::is_well_formed(pattern) && (!regular::is_odd(pattern) || regular::is_expression(pattern));
        if is_well { Ok(()) } else { Err(PatternError::Malformed(text.to_owned())) }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// The texts, in order, as they were given.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.patterns.iter().map(|pattern| pattern.text.as_str())
    }

    /// Whether the last pattern that matches `path` or a directory above it is not negated. `path` is
    /// relative, `/` between its names.
    pub fn matches(&self, path: &[u8]) -> bool {
        self.decisive(path).is_some()
    }

    /// The text of the pattern for which `path` is left out, if it is.
    pub fn hidden_by(&self, path: &[u8]) -> Option<&str> {
        self.decisive(path).map(|pattern| pattern.text.as_str())
    }

    fn decisive(&self, path: &[u8]) -> Option<&Pattern> {
        let mut decisive = None;
        for pattern in &self.patterns {
            // A pattern that could not change the verdict is not asked.
            if pattern.negated != decisive.is_some() {
                continue;
            }
            if pattern.form.matches_or_parent(path) {
                decisive = (!pattern.negated).then_some(pattern);
            }
        }
        decisive
    }

    /// [`Patterns::matches`] for a walk: `above` is what the same question about the directory that
    /// holds `path` gave. Gives the verdict and the trail for what is below.
    pub fn decide(&self, above: &Trail, path: &[u8]) -> (bool, Trail) {
        if self.patterns.is_empty() {
            return (false, Trail::default());
        }
        let mut trail = vec![false; self.patterns.len()];
        let mut matched = false;
        for (index, pattern) in self.patterns.iter().enumerate() {
            let known = above.0.get(index).copied().unwrap_or(false);
            if !known && (pattern.negated != matched || !pattern.form.matches(path)) {
                continue;
            }
            trail[index] = true;
            matched = !pattern.negated;
        }
        (matched, Trail(trail))
    }

    /// Whether a `!` pattern may take back something below `directory`, which is itself left out: if
    /// not, a walk need not enter it.
    pub fn may_match_below(&self, directory: &[u8]) -> bool {
        self.negations
            && self
                .patterns
                .iter()
                .filter(|pattern| pattern.negated)
                .any(|pattern| pattern.form.may_match_below(directory))
    }
}

impl Form {
    fn compile(pattern: &str) -> Option<Self> {
        if !glob::is_well_formed(pattern) {
            return None;
        }
        let special = |text: &str| text.contains(['*', '?', '[', ']', '\\']);
        if !special(pattern) {
            return Some(Self::Exact(pattern.to_owned()));
        }
        if let Some(rest) = pattern.strip_prefix("**")
            && !special(rest)
        {
            return Some(Self::Suffix(rest.to_owned()));
        }
        if let Some(start) = pattern.strip_suffix("**")
            && !start.is_empty()
            && !special(start)
        {
            return Some(Self::Prefix(start.to_owned()));
        }
        if regular::is_odd(pattern) {
            return regular::compile(pattern).map(Self::Regular);
        }
        Glob::compile(pattern, Span::Deep).map(Self::Glob)
    }

    fn matches(&self, path: &[u8]) -> bool {
        match self {
            Self::Exact(text) => path == text.as_bytes(),
            Self::Prefix(start) => path.starts_with(start.as_bytes()),
            Self::Suffix(end) => {
                path.ends_with(end.as_bytes())
                    || end.strip_prefix('/').is_some_and(|name| path == name.as_bytes())
            }
            Self::Glob(glob) => glob.matches(path),
            Self::Regular(expression) => expression.is_match(path),
        }
    }

    fn matches_or_parent(&self, path: &[u8]) -> bool {
        match self {
            Self::Glob(glob) => glob.matches_or_parent(path),
            _ if self.matches(path) => true,
            Self::Exact(text) => path.starts_with(text.as_bytes()) && path.get(text.len()) == Some(&b'/'),
            // Whatever has the prefix in a directory's name has it in its own.
            Self::Prefix(_) => false,
            Self::Suffix(_) | Self::Regular(_) => {
                path.iter().enumerate().any(|(at, byte)| *byte == b'/' && self.matches(&path[..at]))
            }
        }
    }

    fn may_match_below(&self, directory: &[u8]) -> bool {
        let below = |text: &[u8]| text.starts_with(directory) && text.get(directory.len()) == Some(&b'/');
        match self {
            Self::Exact(text) => below(text.as_bytes()),
            Self::Prefix(start) => directory.starts_with(start.as_bytes()) || below(start.as_bytes()),
            Self::Suffix(_) | Self::Regular(_) => true,
            Self::Glob(glob) => glob.may_continue(&[directory, b"/"].concat()),
        }
    }
}

/// One component of a COPY source.
#[derive(Debug, Clone)]
pub enum Step {
    /// Exactly this name.
    Name(String),
    /// Whatever name this matches, those that begin with a dot too.
    Match(NamePattern),
    /// Any number of directories, none included (`**`).
    Deep,
}

/// A pattern for one name, as Go's `filepath.Match` reads it: `*`, `?`, `[a-z]`, `[^a]`, `\`.
#[derive(Debug, Clone)]
pub struct NamePattern(Glob);

impl NamePattern {
    /// Compiles a pattern without `/`.
    ///
    /// # Errors
    /// [`PatternError::Malformed`] where Go says `ErrBadPattern`.
    pub fn parse(pattern: &str) -> Result<Self, PatternError> {
        if pattern.len() > LONGEST {
            return Err(PatternError::TooLong(LONGEST));
        }
        let malformed = || PatternError::Malformed(pattern.to_owned());
        if !glob::is_well_formed(pattern) {
            return Err(malformed());
        }
        Glob::compile(pattern, Span::Name).map(Self).ok_or_else(malformed)
    }

    /// Whether the whole of `name` matches.
    pub fn matches(&self, name: &[u8]) -> bool {
        self.0.matches(name)
    }
}

/// What `**` is as a component of a COPY source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DoubleStar {
    /// One name, as `*` is: Go's `filepath.Match` has no other star.
    OneName,
    /// Any number of directories, none included: with `--parents`, for whose sources BuildKit asks
    /// moby's matcher.
    AnyDepth,
}

/// Takes a COPY source apart. `path` is cleaned so that it stays below the root. Up to the first
/// component with a wildcard names are taken as they are written; from there on all are patterns, in
/// which `\` escapes.
///
/// # Errors
/// [`PatternError`] for a component that is no pattern.
pub fn steps(path: &str, double_star: DoubleStar) -> Result<Vec<Step>, PatternError> {
    if path.len() > LONGEST {
        return Err(PatternError::TooLong(LONGEST));
    }
    let cleaned = clean(&format!("/{path}"));
    let mut wild = false;
    let mut steps = Vec::new();
    for part in cleaned.split('/').filter(|part| !part.is_empty()) {
        wild = wild || has_wildcard(part);
        steps.push(match part {
            "**" if double_star == DoubleStar::AnyDepth => Step::Deep,
            part if wild => Step::Match(NamePattern::parse(part)?),
            part => Step::Name(part.to_owned()),
        });
    }
    Ok(steps)
}

/// Whether `text` has a `*`, `?` or `[` that no `\` escapes.
pub fn has_wildcard(text: &str) -> bool {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next();
            }
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

/// Go's `filepath.Clean`: `.`, `..` and doubled slashes resolved by the letters.
fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}
