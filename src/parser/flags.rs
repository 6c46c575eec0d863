//! The flags of instructions: `--name` and `--name=value`, before the arguments.

use crate::diagnostic::{Diagnostic, Span, nearest};
use crate::parser::ast::Word;
use crate::parser::instruction::Request;

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    /// Nothing, `true` or `false`.
    Switch,
    /// A value, once.
    Value,
    /// A value each time it is given.
    Values,
}

/// The flags that were given.
#[derive(Debug, Default)]
pub(crate) struct Flags {
    given: Vec<(String, Option<Word>)>,
}

impl Flags {
    /// Reads the flags of `request`, of which only `known` are allowed.
    ///
    /// # Errors
    /// A diagnostic for flags that are unknown, given twice, lack their value or have a bad one.
    pub fn parse(request: &Request, known: &[(&str, Takes)]) -> Result<Self, Diagnostic> {
        let mut flags = Self::default();
        for piece in &request.flags {
            let text = unquoted(piece.text);
            let (name, value) = match text[2..].split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (&text[2..], None),
            };
            let name_span =
                request.place(piece.start, piece.start + 2 + name.len().min(piece.text.len() - 2));
            let fail = |message: String| Diagnostic::error(message).at(request.source, name_span);
            let Some((_, takes)) = known.iter().find(|known| known.0 == name) else {
                return Err(unknown(request, name, known, name_span));
            };
            if *takes != Takes::Values && flags.find(name).is_some() {
                return Err(fail(format!("the flag `--{name}` is given twice")));
            }
            let value = match (takes, value) {
                (Takes::Switch, None) => None,
                (Takes::Switch, Some(value)) if is_switch(value) => Some(value),
                (Takes::Switch, Some(value)) => {
                    return Err(fail(format!("the flag `--{name}` takes `true` or `false`, not `{value}`")));
                }
                (_, None) => return Err(fail(format!("the flag `--{name}` needs a value"))),
                (_, value) => value,
            };
            let value = value.map(|value| {
                // Where the value was written plainly its own place is known.
                let start = piece.start + piece.text.find('=').map_or(0, |at| at + 1);
                Word { text: value.to_owned(), span: request.place(start, piece.end()) }
            });
            flags.given.push((name.to_owned(), value));
        }
        Ok(flags)
    }

    fn find(&self, name: &str) -> Option<&(String, Option<Word>)> {
        self.given.iter().find(|given| given.0 == name)
    }

    /// Whether the switch `name` is on.
    pub fn is_on(&self, name: &str) -> bool {
        self.switch(name).unwrap_or(false)
    }

    /// What the switch `name` was set to, if it was given.
    pub fn switch(&self, name: &str) -> Option<bool> {
        let (_, value) = self.find(name)?;
        Some(value.as_ref().is_none_or(|value| value.text.eq_ignore_ascii_case("true")))
    }

    /// The value of `name`.
    pub fn value(&self, name: &str) -> Option<Word> {
        self.find(name)?.1.clone()
    }

    /// All values of `name`, in order.
    pub fn values(&self, name: &str) -> Vec<Word> {
        self.given.iter().filter(|given| given.0 == name).filter_map(|given| given.1.clone()).collect()
    }
}

fn unknown(request: &Request, name: &str, known: &[(&str, Takes)], span: Span) -> Diagnostic {
    let keyword = &request.keyword;
    let error = Diagnostic::error(format!("unknown flag `--{name}` for {keyword}")).at(request.source, span);
    let names = || known.iter().map(|known| known.0);
    if let Some(nearest) = nearest(name, names()) {
        error.hint(format!("did you mean `--{nearest}`?"))
    } else if known.is_empty() {
        error.hint(format!("{keyword} takes no flags"))
    } else {
        let list = names().map(|name| format!("`--{name}`")).collect::<Vec<_>>().join(", ");
        error.hint(format!("{keyword} takes {list}"))
    }
}

fn is_switch(value: &str) -> bool {
    value.eq_ignore_ascii_case("true") || value.eq_ignore_ascii_case("false")
}

/// A flag without its quotes and escapes. A backslash escapes here whatever `# escape=` says.
fn unquoted(text: &str) -> String {
    let (mut out, mut quote, mut chars) = (String::with_capacity(text.len()), None, text.chars());
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', _) => out.extend(chars.next()),
            (c, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => quote = Some(c),
            (c, _) => out.push(c),
        }
    }
    out
}
