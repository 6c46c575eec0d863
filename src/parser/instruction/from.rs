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
                return Err(wrong_count(request, &words));
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
        // An empty value says as little as no flag.
        let platform = flags.value("platform").filter(|platform| !platform.text.is_empty());
        Ok(Self { image: words.swap_remove(0), name, platform })
    }
}

/// What is said of a FROM with neither one word nor a name behind AS.
fn wrong_count(request: &Request, words: &[Word]) -> Diagnostic {
    let message = "FROM requires either one or three arguments";
    let hint = "write `FROM image` or `FROM image AS name`";
    match words {
        [_, word, _] => Diagnostic::error(message)
            .at(request.source, word.span)
            .hint(format!("expected `AS` instead of `{}`: {hint}", word.text)),
        [_, first, rest @ ..] => {
            let last = rest.last().unwrap_or(first);
            Diagnostic::error(message).at(request.source, first.span.to(last.span)).hint(hint)
        }
        _ => request.error(message).hint(hint),
    }
}

fn is_stage_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c))
}
