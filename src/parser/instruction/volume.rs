//! VOLUME: directories that each container gets a copy of outside its own file system.

use crate::diagnostic::Diagnostic;
use crate::image::Empty;
use crate::parser::ast::{Instruction, Word};
use crate::parser::instruction::Request;
use crate::parser::stage::StageBuild;

/// `VOLUME PATH …` or `VOLUME ["PATH", …]`.
#[derive(Debug, Clone)]
pub struct Volume {
    pub paths: Vec<Word>,
}

impl Volume {
    pub(super) fn parse(request: &Request) -> Result<Self, Diagnostic> {
        request.flags(&[])?;
        let paths = request.array_or_list()?;
        if paths.is_empty() {
            return Err(request.error("VOLUME requires at least one argument"));
        }
        Ok(Self { paths })
    }

    pub(super) fn lower(&self, at: &Instruction, stage: &mut StageBuild) -> Result<(), Diagnostic> {
        let mut paths = Vec::new();
        for word in &self.paths {
            let path = stage.expand(at, &Word { text: word.text.trim().to_owned(), span: word.span })?;
            if path.is_empty() {
                return Err(Diagnostic::error("a VOLUME's path is empty").at(&at.source, word.span));
            }
            stage.state.config.config.volumes.insert(path.clone(), Empty {});
            paths.push(path);
        }
        stage.commit(at, format!("VOLUME [{}]", paths.join(" ")), None)
    }
}
