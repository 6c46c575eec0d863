//! What else is missing: once one source of a COPY or ADD was not found, those of all others are
//! looked for too, so that a person mends all of them at once.
//!
//! Only directories of the person's that the solve has opened are asked: what a stage holds depends on
//! steps that did not run.

use std::sync::Arc;

use super::{Cause, Local, SolveError, Solver, copy};
use crate::cache::content::{self, ContentError};
use crate::digest::VertexId;
use crate::llb::{CopySource, Definition, FileAction, Op, SourceOp, Vertex};

impl Solver<'_> {
    /// The steps below `targets` whose sources are not in their build context, with each source. The
    /// order is that of the graph, in which a step follows what it is built on.
    pub fn missing_sources(&self, graph: &Definition, targets: &[VertexId]) -> Vec<SolveError> {
        let mut missing = Vec::new();
        for vertex in graph.reachable(targets).into_iter().filter_map(|id| graph.get(id)) {
            let Op::File(file) = vertex.op() else { continue };
            for action in &file.actions {
                let FileAction::Copy(action) = action else { continue };
                let CopySource::Tree { input, .. } = &action.from else { continue };
                let (Some(local), Some(selector)) =
                    (self.opened(graph, vertex, *input), copy::selector(action))
                else {
                    continue;
                };
                if let Err(
                    cause @ (ContentError::NotFound { .. }
                    | ContentError::Ignored { .. }
                    | ContentError::NoMatch { .. }),
                ) = content::list(local.tree(), &selector)
                {
                    missing.push(SolveError {
                        vertex: vertex.id(),
                        name: vertex.metadata().name.clone(),
                        span: vertex.metadata().span,
                        cause: Cause::Content(cause),
                        output: Vec::new(),
                    });
                }
            }
        }
        missing
    }

    /// The directory that an input of `vertex` is, if it is one that the solve has opened.
    fn opened(&self, graph: &Definition, vertex: &Vertex, input: usize) -> Option<Arc<Local>> {
        match graph.get(*vertex.inputs().get(input)?)?.op() {
            Op::Source(SourceOp::Local { name, .. }) => self.state().locals.get(name).cloned(),
            _ => None,
        }
    }
}
