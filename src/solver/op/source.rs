//! Source: images by their layers' diffIDs, directories as they are, downloads and repositories by what
//! they are now. No layer and no tree is fetched here.

use std::sync::Arc;

use crate::digest::LayerIdentity;
use crate::llb::SourceOp;
use crate::progress::Step;
use crate::solver::source::Remote;
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
            SourceOp::Http(_) | SourceOp::Git(_) => return self.remote(work, op, step),
        };
        if let Some(step) = step {
            match &outcome {
                Ok(Tree::Layers(_)) => step.cached(),
                Ok(Tree::Local(_) | Tree::Remote(_)) => step.done(),
                Err(cause) => step.failed(cause),
            }
        }
        outcome
    }

    /// Looks up a source over the network, once in a build however often the solve starts over.
    fn remote(&self, work: &Work<'_>, op: &SourceOp, step: Option<Step>) -> Result<Tree, Cause> {
        if let Some(found) = self.state().remotes.get(&work.vertex.id()) {
            return Ok(Tree::Remote(Arc::clone(found)));
        }
        self.takes_long(work);
        let fetcher = &self.environment.fetcher;
        let step = step.unwrap_or_else(|| fetcher.progress.step(work.vertex.metadata().name.clone()));
        let found = match op {
            SourceOp::Http(http) => Remote::of_http(fetcher, http, &step),
            SourceOp::Git(git) => Remote::of_git(fetcher, git, &step).map(|found| (found, false)),
            SourceOp::Scratch | SourceOp::Image { .. } | SourceOp::Local { .. } => {
                return Err(Cause::NotLayers);
            }
        };
        match found {
            Ok((found, known)) => {
                if known {
                    step.cached();
                } else {
                    step.done();
                }
                let found = Arc::new(found);
                self.state().remotes.insert(work.vertex.id(), Arc::clone(&found));
                Ok(Tree::Remote(found))
            }
            Err(error) => {
                let cause = Cause::from(error);
                if !matches!(cause, Cause::Canceled) {
                    step.failed(&cause);
                }
                Err(cause)
            }
        }
    }

    fn local(&self, name: &str, excludes: &[String]) -> Result<Arc<Local>, Cause> {
        if let Some(open) = self.state().locals.get(name) {
            return Ok(Arc::clone(open));
        }
        let folder = self.environment.contexts.get(name).ok_or_else(|| Cause::Context(name.to_owned()))?;
        let local = Arc::new(Local::open(self.environment.store, folder, excludes)?);
        let mut state = self.state();
        if state.looks_anew {
            local.forget();
        }
        state.locals.insert(name.to_owned(), Arc::clone(&local));
        Ok(local)
    }
}
