//! SHELL: the program that reads the plain form of RUN, CMD and ENTRYPOINT.

use crate::diagnostic::Diagnostic;
use crate::parser::ast::Instruction;
use crate::parser::instruction::Request;
use crate::parser::stage::StageBuild;

/// `SHELL ["PROGRAM", …]`.
#[derive(Debug, Clone)]
pub struct Shell {
    pub shell: Vec<String>,
}

impl Shell {
    pub(super) fn parse(request: &Request) -> Result<Self, Diagnostic> {
        request.flags(&[])?;
        match request.array()? {
            Some(shell) if !shell.is_empty() => Ok(Self { shell }),
            Some(_) => Err(request.error("SHELL requires at least one argument")),
            None => Err(request
                .error("SHELL requires the arguments to be in JSON form")
                .hint("write `SHELL [\"/bin/bash\", \"-c\"]`, with double quotes")),
        }
    }

    pub(super) fn lower(&self, at: &Instruction, stage: &mut StageBuild) -> Result<(), Diagnostic> {
        stage.state.config.config.shell = Some(self.shell.clone());
        stage.commit(at, format!("SHELL [{}]", self.shell.join(" ")), None)
    }
}
