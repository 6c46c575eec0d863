//! ONBUILD: an instruction for the stages that build on this image.

use crate::diagnostic::{Diagnostic, Span};
use crate::parser::ast::Instruction;
use crate::parser::instruction::{Parsed, Request, parse};
use crate::parser::stage::StageBuild;
use crate::parser::syntax;

/// `ONBUILD INSTRUCTION`.
#[derive(Debug, Clone)]
pub struct Onbuild {
    /// The instruction as written, its here-documents included.
    pub trigger: String,
    pub span: Span,
}

impl Onbuild {
    /// The trigger is read here only to find what is wrong with it now, and not in a build of
    /// somebody else.
    pub(super) fn parse(request: &Request) -> Result<Self, Diagnostic> {
        request.flags(&[])?;
        let Some(inner) = syntax::command(request.arguments.text) else {
            return Err(request.error("ONBUILD requires at least one argument"));
        };
        let start = request.arguments.start + inner.keyword.start;
        let span = request.place(start, start + inner.keyword.text.len());
        match inner.keyword.text.to_ascii_uppercase().as_str() {
            "ONBUILD" => {
                return Err(Diagnostic::error("chaining ONBUILD via `ONBUILD ONBUILD` is not allowed")
                    .at(request.source, span));
            }
            name @ ("FROM" | "MAINTAINER") => {
                return Err(Diagnostic::error(format!("{name} is not allowed as an ONBUILD trigger"))
                    .at(request.source, span));
            }
            _ => {}
        }
        match parse(request.source, request.escape, &request.tail(start))? {
            Parsed::Step(_) => {}
            Parsed::From(_) => unreachable!("FROM was refused above"),
        }
        let mut trigger = request.text()[start..].to_owned();
        for heredoc in request.heredocs() {
            trigger.push('\n');
            trigger.push_str(&heredoc.body);
            trigger.push_str(&heredoc.name);
        }
        Ok(Self { trigger, span: request.span() })
    }

    pub(super) fn lower(&self, _: &Instruction, stage: &mut StageBuild) -> Result<(), Diagnostic> {
        stage.state.config.config.on_build.push(self.trigger.clone());
        Ok(())
    }
}
