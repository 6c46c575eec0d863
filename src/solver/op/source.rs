//! Source: images by their layers' diffIDs, directories as they are. Nothing is fetched here.

use std::sync::Arc;

use crate::digest::LayerIdentity;
use crate::llb::SourceOp;
use crate::solver::{Cause, ChainLayer, Local, Solver, Tree, Work};

impl Solver<'_> {
    pub(in crate::solver) fn source(&self, work: &Work<'_>, op: &SourceOp) -> Result<Tree, Cause> {
        let step = self.announce(work);
        let outcome = match op {
            SourceOp::Scratch => Ok(Tree::Layers(Vec::new())),
            SourceOp::Image { image, .. } => {
                self.environment.images.layers(*image).map_err(Cause::Image).map(|diff_ids| {
                    let layer = |diff_id| ChainLayer {
                        identity: LayerIdentity::of_diff(diff_id),
                        diff_id,
                        created: None,
                    };
                    Tree::Layers(diff_ids.into_iter().map(layer).collect())
                })
            }
            SourceOp::Local { name, excludes } => self.local(name, excludes).map(Tree::Local),
        };
        if let Some(step) = step {
            match &outcome {
                Ok(Tree::Layers(_)) => step.cached(),
                Ok(Tree::Local(_)) => step.done(),
                Err(cause) => step.failed(cause),
            }
        }
        outcome
    }

    fn local(&self, name: &str, excludes: &[String]) -> Result<Arc<Local>, Cause> {
        if let Some(open) = self.state().locals.get(name) {
            return Ok(Arc::clone(open));
        }
        let folder = self.environment.contexts.get(name).ok_or_else(|| Cause::Context(name.to_owned()))?;
        let local = Arc::new(Local::open(self.environment.store, folder, excludes)?);
        self.state().locals.insert(name.to_owned(), Arc::clone(&local));
        Ok(local)
    }
}
