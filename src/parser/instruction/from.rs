//! FROM: begins a stage, and says what it is built on.

use crate::diagnostic::Diagnostic;
use crate::parser::ast::Word;
use crate::parser::flags::Takes;
use crate::parser::instruction::Request;

/// `FROM [--platform=PLATFORM] BASE [AS NAME]`.
#[derive(Debug, Clone)]
pub struct Base {
    /// An image, an earlier stage, a named context or `scratch`.
    pub image: Word,
    /// The stage's name in lower case.
    pub name: Option<Word>,
    pub platform: Option<Word>,
}

impl Base {
    pub(super) fn parse(request: &Request) -> Result<Self, Diagnostic> {
        let flags = request.flags(&[("platform", Takes::Value)])?;
        let mut words = request.list();
        let name = match &words[..] {
            [_] => None,
            [_, word, _] if word.text.eq_ignore_ascii_case("as") => words.pop(),
            _ => {
                return Err(request
                    .error("FROM requires either one or three arguments")
                    .hint("write `FROM image` or `FROM image AS name`"));
            }
        };
        let name = name.map(|word| Word { text: word.text.to_ascii_lowercase(), ..word });
        if let Some(name) = &name
            && !is_stage_name(&name.text)
        {
            return Err(Diagnostic::error(format!("invalid name for a stage: `{}`", name.text))
                .at(request.source, name.span)
                .hint("a name begins with a letter and has letters, digits, `-`, `_` and `.`"));
        }
        Ok(Self { image: words.swap_remove(0), name, platform: flags.value("platform") })
    }
}

fn is_stage_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c))
}
