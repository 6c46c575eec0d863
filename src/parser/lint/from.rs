//! What the rules about FROM share: its words, expanded with the arguments before it.

use std::collections::BTreeSet;

use crate::parser::ast::{Dockerfile, Word};
use crate::parser::options::BuildOptions;
use crate::parser::plan;
use crate::parser::variables::Environment;
use crate::parser::word::{self, Style};

use super::stages::Recorded;

/// A word of FROM.
pub(super) struct Expanded {
    pub text: String,
    /// Names that it asked for and that were set.
    pub set: BTreeSet<String>,
    /// Names that it asked for and that were not.
    pub unset: BTreeSet<String>,
}

/// The variables that FROM sees; none if an ARG is wrong, which is an error of the build.
pub(super) fn globals(dockerfile: &Dockerfile, options: &BuildOptions) -> Option<Environment> {
    plan::global_arguments(dockerfile, options).ok()
}

/// `word` expanded; none if that is an error of the build.
pub(super) fn expand(dockerfile: &Dockerfile, word: &Word, globals: &Environment) -> Option<Expanded> {
    let recorded = Recorded::new(globals);
    let expansion = word::expand(&word.text, Style::new(dockerfile.escape), &recorded).ok()?;
    let asked = recorded.asked();
    let set = asked.difference(&expansion.unset).cloned().collect();
    Some(Expanded { text: expansion.text, set, unset: expansion.unset })
}
