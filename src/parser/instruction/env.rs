//! ENV: sets variables of the image and of all later steps.

use crate::diagnostic::Diagnostic;
use crate::parser::ast::{Instruction, Word};
use crate::parser::instruction::Request;
use crate::parser::stage::StageBuild;

/// `ENV NAME=VALUE …`, or `ENV NAME VALUE` in the old form.
#[derive(Debug, Clone)]
pub struct Env {
    pub pairs: Vec<(Word, Word)>,
}

impl Env {
    pub(super) fn parse(request: &Request) -> Result<Self, Diagnostic> {
        request.flags(&[])?;
        Ok(Self { pairs: request.pairs()? })
    }

    /// All pairs of a line see the values from before the line.
    pub(super) fn lower(&self, at: &Instruction, stage: &mut StageBuild) -> Result<(), Diagnostic> {
        let pairs = stage.expand_pairs(at, &self.pairs)?;
        let mut history = "ENV".to_owned();
        for (name, value) in pairs {
            history.push_str(&format!(" {name}={value}"));
            stage.set_variable(at, &name, &value)?;
            stage.state.image_env.set(&name, &value);
        }
        stage.commit(at, history, None)
    }
}
