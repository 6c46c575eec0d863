//! The operations, one file each. An operation owns its canonical form and what it demands of its
//! inputs; how it runs stands in its twin under `solver/op`.

use crate::digest::Digest;
use crate::llb::{DefinitionError, canonical_digest};

pub mod exec;
pub mod file;
pub mod merge;
pub mod remote;
pub mod source;

/// What a vertex does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Brings a tree in from outside the graph.
    Source(source::SourceOp),
    /// Runs a process over input 0; what it changes is the new layer.
    Exec(Box<exec::ExecOp>),
    /// Copies and makes files over input 0; what it changes is the new layer.
    File(file::FileOp),
    /// Lays the trees of its inputs over one another, the first lowest.
    Merge(merge::MergeOp),
}

impl Op {
    /// The digest of what the operation says, without its inputs.
    pub fn digest(&self) -> Digest {
        match self {
            Self::Source(op) => canonical_digest("source", op),
            Self::Exec(op) => canonical_digest("exec", op),
            Self::File(op) => canonical_digest("file", op),
            Self::Merge(op) => canonical_digest("merge", op),
        }
    }

    pub(super) fn validate(&self, inputs: usize) -> Result<(), DefinitionError> {
        match self {
            Self::Source(op) => op.validate(inputs),
            Self::Exec(op) => op.validate(inputs),
            Self::File(op) => op.validate(inputs),
            Self::Merge(op) => op.validate(inputs),
        }
    }
}

fn in_range(index: usize, count: usize) -> Result<(), DefinitionError> {
    if index < count { Ok(()) } else { Err(DefinitionError::InputOutOfRange { index, count }) }
}
