//! What `--format` makes of what a command found out: Go's templates as Docker's users write them, over JSON.
//!
//! ```text
//! lex.rs       text -> tokens
//! parse.rs     tokens -> a tree
//! run.rs       tree + value -> text; function.rs and printf.rs are what it can call, value.rs how Go sees JSON
//! table.rs     lists: a default table, `table TEMPLATE` with headers, `json`, or a template for each row
//! ```
//!
//! Unlike Docker's, a template is held to what there is: a field that no such object has is an error that shows the
//! place and names the nearest one, whatever the command found.

use serde_json::Value;
use stave::diagnostic::{Diagnostic, SourceText, Span};

mod function;
mod lex;
mod parse;
mod printf;
mod run;
mod table;
#[cfg(test)]
mod tests;
pub mod time;
mod value;

use crate::failure::Failure;
pub use run::Data;
pub use table::{Columns, Row, list, object};

/// What is wrong with a template, and where.
#[derive(Debug)]
pub struct Fault {
    span: Span,
    message: String,
    also: Option<(Span, String)>,
    hint: Option<String>,
}

impl Fault {
    fn new(span: Span, message: String) -> Self {
        Self { span, message, also: None, hint: None }
    }

    fn also(mut self, span: Span, label: &str) -> Self {
        self.also = Some((span, label.to_owned()));
        self
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// A template that was read.
#[derive(Debug)]
pub struct Template {
    source: SourceText,
    nodes: Vec<parse::Node>,
}

impl Template {
    /// Reads the template of a command that shows objects.
    ///
    /// # Errors
    /// A failure that underlines what is wrong.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        Self::read(text, false).map_err(|diagnostic| Failure::from_diagnostics(&[*diagnostic]).with_code(2))
    }

    /// Reads the template of a list, where `\t` and `\n` stand for a tab and a new line.
    ///
    /// # Errors
    /// As [`Template::parse`].
    pub fn parse_of_list(text: &str) -> Result<Self, Failure> {
        Self::read(text, true).map_err(|diagnostic| Failure::from_diagnostics(&[*diagnostic]).with_code(2))
    }

    fn read(text: &str, escapes: bool) -> Result<Self, Box<Diagnostic>> {
        let source = SourceText::new("--format", text);
        let nodes = lex::tokens(text, escapes).and_then(|tokens| parse::parse(&tokens, text.len()));
        match nodes {
            Ok(nodes) => Ok(Self { source, nodes }),
            Err(fault) => Err(diagnostic(&source, fault)),
        }
    }

    /// What it writes for `data`.
    ///
    /// # Errors
    /// A failure that underlines what `data` does not have.
    pub fn render(&self, data: Data<'_>) -> Result<String, Failure> {
        self.write(data).map_err(|diagnostic| Failure::from_diagnostics(&[*diagnostic]))
    }

    fn write(&self, data: Data<'_>) -> Result<String, Box<Diagnostic>> {
        run::run(&self.nodes, data).map_err(|fault| diagnostic(&self.source, fault))
    }

    /// What it writes for a value that has no labels to look up.
    ///
    /// # Errors
    /// As [`Template::render`].
    pub fn render_value(&self, root: &Value) -> Result<String, Failure> {
        self.render(Data { root, labels: None, is_header: false })
    }
}

fn diagnostic(source: &SourceText, fault: Fault) -> Box<Diagnostic> {
    let mut diagnostic = Diagnostic::error(fault.message).at(source, fault.span);
    if let Some((span, label)) = fault.also {
        diagnostic = diagnostic.label(span, label);
    }
    if let Some(hint) = fault.hint {
        diagnostic = diagnostic.hint(hint);
    }
    Box::new(diagnostic)
}

/// A value as text: what `{{.}}` writes.
pub fn plain(value: &Value) -> String {
    value::text(value)
}
