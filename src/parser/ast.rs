//! What a Dockerfile says: instructions in stages, each with its place.
//!
//! Nothing is expanded yet. A [`Word`] is a text that variables may be put into later, and knows
//! where it stands, so that an error found then still underlines it.

use std::sync::Arc;

use crate::diagnostic::{Diagnostic, SourceText, Span};
use crate::parser::instruction::Kind;
use crate::parser::instruction::arg::Arg;
use crate::parser::instruction::from::Base;
use crate::parser::layout::Layout;
use crate::parser::lines::{Directives, Heredoc, LogicalLine};

/// A parsed Dockerfile: at least one stage.
#[derive(Debug, Clone)]
pub struct Dockerfile {
    pub source: SourceText,
    pub directives: Directives,
    /// The character that escapes others.
    pub escape: char,
    /// The ARG instructions before the first FROM.
    pub globals: Vec<(Arg, Span)>,
    pub stages: Vec<Stage>,
    /// The lines that all of it was read from.
    pub lines: Arc<Vec<LogicalLine>>,
    /// Every byte of the text, comments and blank lines included.
    pub layout: Layout,
    pub warnings: Vec<Diagnostic>,
}

/// FROM and what follows it.
#[derive(Debug, Clone)]
pub struct Stage {
    pub base: Base,
    /// The FROM line.
    pub span: Span,
    pub instructions: Vec<Instruction>,
}

/// One instruction of a stage.
#[derive(Debug, Clone)]
pub struct Instruction {
    pub kind: Kind,
    /// The logical line as written, without blanks around it.
    pub text: String,
    pub span: Span,
    pub heredocs: Vec<Heredoc>,
    /// The text it stands in: the Dockerfile, or an ONBUILD trigger.
    pub source: SourceText,
    /// The escape character of that text.
    pub escape: char,
}

/// A text as written, and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    pub text: String,
    pub span: Span,
}

/// The arguments of RUN, CMD and ENTRYPOINT: a line for the shell, or a program and its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandLine {
    Shell(Word),
    Exec(Vec<String>),
}

/// The strings of a JSON array; none if `text` is anything else, other text behind the array
/// included. An array of other things than strings is an error of its own.
pub(crate) fn array(text: &str) -> Option<Result<Vec<String>, NotStrings>> {
    if !text.trim_start().starts_with('[') {
        return None;
    }
    let values: Vec<serde_json::Value> = serde_json::from_str(text.trim()).ok()?;
    let strings = values.into_iter().map(|value| match value {
        serde_json::Value::String(string) => Ok(string),
        _ => Err(NotStrings),
    });
    Some(strings.collect())
}

/// The array holds something else than strings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotStrings;
