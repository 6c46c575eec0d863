//! MAINTAINER: the image's author.

use crate::diagnostic::Diagnostic;
use crate::parser::ast::{Instruction, Word};
use crate::parser::instruction::Request;
use crate::parser::stage::StageBuild;

/// `MAINTAINER NAME`; nothing is expanded.
#[derive(Debug, Clone)]
pub struct Maintainer {
    pub name: Word,
}

impl Maintainer {
    pub(super) fn parse(request: &Request) -> Result<Self, Diagnostic> {
        request.flags(&[])?;
        Ok(Self { name: request.whole()? })
    }

    pub(super) fn lower(&self, at: &Instruction, stage: &mut StageBuild) -> Result<(), Diagnostic> {
        stage.state.config.author = Some(self.name.text.clone());
        stage.commit(at, format!("MAINTAINER {}", self.name.text), None)
    }
}
