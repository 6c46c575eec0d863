//! ARG: declares a variable of the build, with its default.

use crate::diagnostic::Diagnostic;
use crate::parser::ast::{Instruction, Word};
use crate::parser::instruction::Request;
use crate::parser::stage::StageBuild;
use crate::parser::syntax::{self, Piece};

/// `ARG NAME[=DEFAULT] …`.
#[derive(Debug, Clone)]
pub struct Arg {
    /// Names, and the defaults where they are given.
    pub declarations: Vec<(Word, Option<Word>)>,
}

/// Arguments that steer the builder and never reach the environment of a step.
const NOT_IN_THE_ENVIRONMENT: &[&str] = &["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

impl Arg {
    pub(super) fn parse(request: &Request) -> Result<Self, Diagnostic> {
        request.flags(&[])?;
        let words = syntax::words(request.arguments.text, request.escape);
        if words.is_empty() {
            return Err(request.error("ARG requires at least one argument"));
        }
        let declaration =
            |piece: Piece| match piece.text.find('=') {
                None => Ok((request.word(piece), None)),
                Some(0) => Err(Diagnostic::error("ARG names can not be blank")
                    .at(request.source, request.word(piece).span)),
                Some(at) => {
                    let value = Piece { text: &piece.text[at + 1..], start: piece.start + at + 1 };
                    let name = Piece { text: &piece.text[..at], start: piece.start };
                    Ok((request.word(name), Some(request.word(value))))
                }
            };
        Ok(Self { declarations: words.into_iter().map(declaration).collect::<Result<_, _>>()? })
    }

    /// What is given on the command line wins over the default; without either the value is that
    /// of the ARG before the first FROM. One without a value is declared, but not set.
    pub(super) fn lower(&self, at: &Instruction, stage: &mut StageBuild) -> Result<(), Diagnostic> {
        let mut history = "ARG".to_owned();
        for (name, default) in &self.declarations {
            let name = &name.text;
            let value = match (stage.given(name), default) {
                (Some(value), _) => Some(value.to_owned()),
                (None, Some(default)) => Some(stage.expand(at, default)?),
                (None, None) => stage.global(name).map(str::to_owned),
            };
            history.push(' ');
            history.push_str(name);
            if let Some(value) = &value {
                history.push('=');
                history.push_str(value);
                if !NOT_IN_THE_ENVIRONMENT.contains(&name.as_str()) {
                    stage.set_variable(at, name, value)?;
                }
            }
            stage.declare(name, value.as_deref());
        }
        stage.commit(at, history, None)
    }
}
