//! Merge: trees over one another, `COPY --link` for one.

use serde::{Deserialize, Serialize};

use crate::llb::DefinitionError;

/// Lays the trees of its inputs over one another; the first is the lowest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MergeOp {}

impl MergeOp {
    pub(super) fn validate(&self, inputs: usize) -> Result<(), DefinitionError> {
        if inputs == 0 { Err(DefinitionError::Invalid("a merge has at least one input")) } else { Ok(()) }
    }
}
