//! USER: who runs what follows, and the containers of the image.

use crate::diagnostic::Diagnostic;
use crate::parser::ast::{Instruction, Word};
use crate::parser::instruction::Request;
use crate::parser::stage::StageBuild;

/// `USER NAME[:GROUP]`. Kept as written; the image need not know the user.
#[derive(Debug, Clone)]
pub struct User {
    pub user: Word,
}

impl User {
    pub(super) fn parse(request: &Request) -> Result<Self, Diagnostic> {
        request.flags(&[])?;
        Ok(Self { user: request.whole()? })
    }

    pub(super) fn lower(&self, at: &Instruction, stage: &mut StageBuild) -> Result<(), Diagnostic> {
        let user = stage.expand(at, &self.user)?;
        let history = format!("USER {user}");
        stage.state.config.config.user = user;
        stage.commit(at, history, None)
    }
}
