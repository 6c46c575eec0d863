//! ONBUILD: an instruction for the stages that build on this image.

use crate::diagnostic::{Diagnostic, Severity, Span};
use crate::parser::ast::{Instruction, array};
use crate::parser::instruction::{Parsed, Request, parse};
use crate::parser::stage::StageBuild;
use crate::parser::syntax;

/// `ONBUILD INSTRUCTION`.
#[derive(Debug, Clone)]
pub struct Onbuild {
    /// The instruction as written, its here-documents included.
    pub trigger: String,
    pub span: Span,
    /// What whoever builds on the image will be told is wrong with the trigger.
    pub doubt: Option<Diagnostic>,
}

impl Onbuild {
    /// The trigger is read here only to find what is wrong with it now, and not in a build of
    /// somebody else. As the image itself can be built, and BuildKit builds it, that is a warning.
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
        let doubt = match parse(request.source, request.escape, &request.tail(start)) {
            Ok(Parsed::Step(_) | Parsed::From(_)) => None,
            // Such an array ends the reading of the whole file for BuildKit too.
            Err(error) if matches!(array(inner.arguments.text), Some(Err(_))) => return Err(error),
            Err(error) => Some(
                Diagnostic { severity: Severity::Warning, ..error }
                    .hint("the image can be built, but no other can be built on it"),
            ),
        };
        let mut trigger = request.text()[start..].to_owned();
        for heredoc in request.heredocs() {
            trigger.push('\n');
            trigger.push_str(&heredoc.body);
            trigger.push_str(&heredoc.name);
        }
        Ok(Self { trigger, span: request.span(), doubt })
    }

    pub(super) fn lower(&self, _: &Instruction, stage: &mut StageBuild) -> Result<(), Diagnostic> {
        stage.state.config.config.on_build.push(self.trigger.clone());
        stage.build.warnings.extend(self.doubt.clone());
        Ok(())
    }
}
