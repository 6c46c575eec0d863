//! ENTRYPOINT: the program that a container of the image is.

use crate::diagnostic::Diagnostic;
use crate::parser::ast::{CommandLine, Instruction};
use crate::parser::go;
use crate::parser::instruction::Request;
use crate::parser::stage::StageBuild;

/// `ENTRYPOINT LINE` or `ENTRYPOINT ["PROGRAM", …]`. Variables are left to the shell.
#[derive(Debug, Clone)]
pub struct Entrypoint {
    pub command: CommandLine,
}

impl Entrypoint {
    pub(super) fn parse(request: &Request) -> Result<Self, Diagnostic> {
        request.flags(&[])?;
        Ok(Self { command: request.command_line()? })
    }

    /// A CMD that came from the base goes, since it was meant for another program; one of this
    /// stage stays.
    pub(super) fn lower(&self, at: &Instruction, stage: &mut StageBuild) -> Result<(), Diagnostic> {
        let args = stage.arguments(&self.command);
        let history = format!("ENTRYPOINT {}", go::quoted_list(&args));
        let config = &mut stage.state.config.config;
        config.entrypoint = (!args.is_empty()).then_some(args);
        if !stage.cmd_is_set {
            config.cmd = None;
        }
        stage.commit(at, history, None)
    }
}
