//! CMD: what a container of the image runs, or the arguments of its ENTRYPOINT.

use crate::diagnostic::Diagnostic;
use crate::parser::ast::{CommandLine, Instruction};
use crate::parser::go;
use crate::parser::instruction::Request;
use crate::parser::stage::StageBuild;

/// `CMD LINE` or `CMD ["PROGRAM", …]`. Variables are left to the shell.
#[derive(Debug, Clone)]
pub struct Cmd {
    pub command: CommandLine,
}

impl Cmd {
    pub(super) fn parse(request: &Request) -> Result<Self, Diagnostic> {
        request.flags(&[])?;
        Ok(Self { command: request.command_line()? })
    }

    pub(super) fn lower(&self, at: &Instruction, stage: &mut StageBuild) -> Result<(), Diagnostic> {
        let args = stage.arguments(&self.command);
        let history = format!("CMD {}", go::quoted_list(&args));
        let config = &mut stage.state.config.config;
        config.cmd = (!args.is_empty()).then_some(args);
        config.args_escaped = true;
        stage.cmd_is_set = true;
        stage.commit(at, history, None)
    }
}
