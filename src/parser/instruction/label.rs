//! LABEL: names things about the image.

use crate::diagnostic::Diagnostic;
use crate::parser::ast::{Instruction, Word};
use crate::parser::instruction::Request;
use crate::parser::stage::StageBuild;

/// `LABEL NAME=VALUE …`, or `LABEL NAME VALUE` in the old form.
#[derive(Debug, Clone)]
pub struct Label {
    pub pairs: Vec<(Word, Word)>,
}

impl Label {
    pub(super) fn parse(request: &Request) -> Result<Self, Diagnostic> {
        request.flags(&[])?;
        Ok(Self { pairs: request.pairs()? })
    }

    pub(super) fn lower(&self, at: &Instruction, stage: &mut StageBuild) -> Result<(), Diagnostic> {
        let mut history = "LABEL".to_owned();
        for (name, value) in stage.expand_pairs(at, &self.pairs)? {
            history.push_str(&format!(" {name}={value}"));
            stage.state.config.config.labels.insert(name, value);
        }
        stage.commit(at, history, None)
    }
}
