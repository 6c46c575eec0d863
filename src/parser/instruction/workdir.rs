//! WORKDIR: where what follows runs; made if it is not there.

use crate::diagnostic::Diagnostic;
use crate::llb::{FileAction, FileOp, MkdirAction, Op};
use crate::parser::ast::{Instruction, Word};
use crate::parser::instruction::{Request, copy};
use crate::parser::path;
use crate::parser::stage::StageBuild;

/// `WORKDIR PATH`; a relative path begins at the last one.
#[derive(Debug, Clone)]
pub struct Workdir {
    pub path: Word,
}

impl Workdir {
    pub(super) fn parse(request: &Request) -> Result<Self, Diagnostic> {
        request.flags(&[])?;
        Ok(Self { path: request.whole()? })
    }

    /// The root is always there, so `WORKDIR /` makes no layer.
    pub(super) fn lower(&self, at: &Instruction, stage: &mut StageBuild) -> Result<(), Diagnostic> {
        let written = stage.expand(at, &self.path)?;
        let path = path::join(stage.workdir(), &written);
        stage.state.config.config.working_dir.clone_from(&path);
        let history = format!("WORKDIR {path}");
        let name = stage.step_name(at);
        if path == "/" {
            return stage.commit(at, history, None);
        }
        let user = &stage.state.config.config.user;
        let owner = match user.as_str() {
            "" => None,
            user => Some(path::owner(user).map_err(|error| {
                Diagnostic::error(format!("cannot make `{path}` for the user `{user}`: {error}"))
                    .at(&at.source, at.span)
            })?),
        };
        if stage.is_scratch()
            && let Some(name) = owner.as_ref().and_then(copy::named)
        {
            return Err(copy::no_users(at, at.span, name));
        }
        let action = FileAction::Mkdir(MkdirAction { path, mode: 0o755, owner });
        let inputs = vec![stage.state.tree];
        let vertex = stage.add(at, Op::File(FileOp { actions: vec![action] }), inputs, name)?;
        stage.state.tree = vertex;
        stage.commit(at, history, Some(vertex))
    }
}
