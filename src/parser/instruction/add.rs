//! ADD: COPY that unpacks local archives.

use crate::diagnostic::Diagnostic;
use crate::parser::ast::Instruction;
use crate::parser::flags::Takes;
use crate::parser::instruction::Request;
use crate::parser::instruction::copy::{Manner, Transfer, is_remote};
use crate::parser::stage::StageBuild;

/// `ADD [FLAGS] SOURCE … DESTINATION`.
#[derive(Debug, Clone)]
pub struct Add {
    pub transfer: Transfer,
    /// Unpack local archives.
    pub unpack: bool,
}

impl Add {
    pub(super) fn parse(request: &Request) -> Result<Self, Diagnostic> {
        let flags = request.flags(&[
            ("chown", Takes::Value),
            ("chmod", Takes::Value),
            ("link", Takes::Switch),
            ("exclude", Takes::Values),
            ("unpack", Takes::Switch),
            ("checksum", Takes::Value),
            ("keep-git-dir", Takes::Switch),
        ])?;
        let transfer = Transfer::parse(request, &flags)?;
        for source in &transfer.sources {
            if is_remote(&source.text) {
                return Err(Diagnostic::error("ADD of a URL or a git repository is not supported yet")
                    .at(request.source, source.span)
                    .hint("fetch it in a RUN step, or outside the build"));
            }
        }
        if let Some(checksum) = flags.value("checksum") {
            return Err(Diagnostic::error("`--checksum` requires a URL or a git repository as source")
                .at(request.source, checksum.span));
        }
        Ok(Self { transfer, unpack: flags.switch("unpack").unwrap_or(true) })
    }

    pub(super) fn lower(&self, at: &Instruction, stage: &mut StageBuild) -> Result<(), Diagnostic> {
        // A variable may have put a URL there.
        for source in &self.transfer.sources {
            if is_remote(&stage.expand(at, source)?) {
                return Err(Diagnostic::error("ADD of a URL or a git repository is not supported yet")
                    .at(&at.source, source.span));
            }
        }
        self.transfer.lower(at, stage, &Manner { from: None, parents: false, unpack: self.unpack })
    }
}
