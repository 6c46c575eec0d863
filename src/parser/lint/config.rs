//! Which rules count, and how much: `# check=skip=A,B;experimental=C;error=true`.
//!
//! The same text stands in three places: in the directive at the top of a Dockerfile, in the build
//! argument `BUILDKIT_DOCKERFILE_CHECK`, which replaces the directive, and in a comment right above an
//! instruction, which adds to either for that instruction alone. To BuildKit's words one thing is
//! added: `error` may name rules instead of all of them.

use std::collections::BTreeSet;

use crate::diagnostic::{Diagnostic, Span, nearest};
use crate::spelling;

use super::file::File;
use super::{RULES, Rule};

/// The build argument.
pub(super) const ARGUMENT: &str = "BUILDKIT_DOCKERFILE_CHECK";
/// How many misspelt names are told at most.
const NOTES: usize = 20;

/// What was asked of the rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// Rules that find nothing.
    pub skip: Names,
    /// Experimental rules that do find something; these can not be skipped by `skip`.
    pub experimental: Names,
    /// Rules whose findings are errors.
    pub error: Names,
}

/// Some rules, or all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    all: bool,
    names: BTreeSet<String>,
}

/// Why a text is no configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("`{0}` is no option of `check`: expected `skip=`, `experimental=` or `error=`")]
    Option(String),
    #[error("`error=` takes `true`, `false` or names of rules")]
    Error,
}

impl Names {
    /// `all`, or names with commas between them.
    pub fn parse(text: &str) -> Self {
        match text.trim() {
            "all" => Self { all: true, names: BTreeSet::new() },
            text => {
                let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
                Self { all: false, names: names.map(str::to_owned).collect() }
            }
        }
    }

    /// Whether the rule is one of them.
    pub fn contains(&self, rule: &Rule) -> bool {
        self.all || self.names(rule)
    }

    /// Whether the rule is one of them by its very name.
    pub fn names(&self, rule: &Rule) -> bool {
        self.names.contains(rule.name)
    }

    /// The names that no rule has.
    pub fn unknown(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str).filter(|name| super::rule(name).is_none())
    }

    /// Takes those of `other` too.
    pub fn add(&mut self, other: &Self) {
        self.all |= other.all;
        self.names.extend(other.names.iter().cloned());
    }
}

impl Config {
    /// Reads `skip=A,B;experimental=all;error=true`, in any order.
    ///
    /// # Errors
    /// [`ConfigError`] for other options, and for those without `=`.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        if text.trim().is_empty() {
            return Ok(config);
        }
        for part in text.split(';') {
            let unknown = || ConfigError::Option(part.trim().chars().take(80).collect());
            let (name, value) = part.split_once('=').ok_or_else(unknown)?;
            match name.trim() {
                "skip" => config.skip = Names::parse(value),
                "experimental" => config.experimental = Names::parse(value),
                "error" => config.error = errors(value.trim())?,
                _ => return Err(unknown()),
            }
        }
        Ok(config)
    }

    /// Takes what `other` asks for too.
    pub fn add(&mut self, other: &Self) {
        self.skip.add(&other.skip);
        self.experimental.add(&other.experimental);
        self.error.add(&other.error);
    }

    /// The names that no rule has.
    fn unknown(&self) -> impl Iterator<Item = &str> {
        [&self.skip, &self.experimental, &self.error].into_iter().flat_map(Names::unknown)
    }

    /// Whether the rule may find something.
    pub fn admits(&self, rule: &Rule) -> bool {
        if rule.experimental { self.experimental.contains(rule) } else { !self.skip.contains(rule) }
    }
}

/// What counts of a directive: whatever stands behind a blank is a remark, as with BuildKit.
pub(super) fn first_word(value: &str) -> &str {
    value.split_whitespace().next().unwrap_or_default()
}

/// What to say of names that no rule has: in the configuration of the whole file, and in comments. That
/// of the file is the build argument if there is one.
pub(super) fn notes(file: &File, argument: Option<&str>) -> Vec<Diagnostic> {
    let hinted = |name: &str, note: Diagnostic| match nearest(name, RULES.iter().map(|rule| rule.name)) {
        Some(near) => note.hint(format!("did you mean `{near}`?")),
        None => note.hint("`stave check --explain` lists the rules"),
    };
    let mut notes = Vec::new();
    let mut placed = Vec::new();
    match (argument, &file.check) {
        (Some(argument), _) => {
            for name in Config::parse(argument).unwrap_or_default().unknown() {
                let note = format!("the build argument {ARGUMENT}: there is no rule `{name}`");
                notes.push(hinted(name, Diagnostic::warning(note)));
            }
        }
        (None, Some(directive)) => {
            placed.push((Config::parse(first_word(&directive.value)).unwrap_or_default(), directive.span));
        }
        (None, None) => {}
    }
    for line in &file.lines {
        if let Some(comment) = line.comments.iter().find(|comment| comment.is_config()) {
            placed.push((line.config.clone(), comment.span));
        }
    }
    for (config, span) in &placed {
        for name in config.unknown() {
            let text = super::text_at(&file.source, *span);
            let place = match text.find(name) {
                Some(at) => Span::new(span.start + at, span.start + at + name.len()),
                None => *span,
            };
            let note = Diagnostic::warning(format!("there is no rule `{name}`")).at(&file.source, place);
            notes.push(hinted(name, note));
        }
        if notes.len() >= NOTES {
            break;
        }
    }
    notes.truncate(NOTES);
    notes
}

/// Go's booleans, or names of rules.
fn errors(value: &str) -> Result<Names, ConfigError> {
    match spelling::boolean(value) {
        Some(all) => Ok(Names { all, names: BTreeSet::new() }),
        None => {
            let names = Names::parse(value);
            // A misspelt `ture` must not make errors silently harmless.
            match names.all || names.names.is_empty() || names.unknown().next().is_some() {
                true => Err(ConfigError::Error),
                false => Ok(names),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parser::lint::rule;

    #[test]
    fn options() {
        let casing = rule("StageNameCasing").unwrap();
        let ignored = rule("InvalidDefinitionDescription").unwrap();
        let config = Config::parse(" skip = StageNameCasing , Nothing ; error=true").unwrap();
        assert!(!config.admits(casing) && config.error.contains(casing));
        assert_eq!(config.skip.unknown().collect::<Vec<_>>(), ["Nothing"]);
        assert!(!config.admits(ignored));
        // `skip=all` leaves the experimental rules that are asked for.
        let config = Config::parse("skip=all;experimental=InvalidDefinitionDescription").unwrap();
        assert!(!config.admits(casing) && config.admits(ignored));
        let config = Config::parse("error=StageNameCasing").unwrap();
        assert!(config.error.contains(casing) && !config.error.contains(ignored));
        assert_eq!(Config::parse(""), Ok(Config::default()));
    }

    #[test]
    fn what_is_no_option() {
        assert_eq!(Config::parse("skip"), Err(ConfigError::Option("skip".into())));
        assert_eq!(Config::parse("skip=A;"), Err(ConfigError::Option(String::new())));
        assert_eq!(Config::parse("skipp=A"), Err(ConfigError::Option("skipp=A".into())));
        assert_eq!(Config::parse("error=ture"), Err(ConfigError::Error));
        assert_eq!(Config::parse("error="), Err(ConfigError::Error));
    }
}
