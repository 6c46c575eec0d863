//! File: COPY, ADD and WORKDIR. What is read counts by content, what is written over by identity.

use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::Mode;

use crate::cache::KeyBuilder;
use crate::cache::content::{self, Listing, Selector, StatCache};
use crate::digest::ContentDigest;
use crate::llb::{CopyAction, CopySource, FileAction, FileOp, Id, MkdirAction, Op, Owner};
use crate::runtime::users;
use crate::solver::copy::{self, CopyError};
use crate::solver::{Cause, Solver, Tree, Work, identity_of};

/// What a copy reads, found once for the key and used again for the copy.
enum Found {
    /// Of a local tree: listed and read already.
    Listed(Listing),
    /// Of layers: known by digest, listed again only if the copy happens.
    Layers,
    Inline,
}

impl Solver<'_> {
    pub(in crate::solver) fn file(
        &self,
        work: &Work<'_>,
        op: &FileOp,
        inputs: &[Arc<Tree>],
    ) -> Result<Tree, Cause> {
        let base = inputs[0].layers()?;
        let mut key =
            KeyBuilder::new(Op::File(op.clone()).digest()).input("base image", &identity_of(base).0);
        let mut found = Vec::with_capacity(op.actions.len());
        for action in &op.actions {
            let (what, digest) = match action {
                FileAction::Mkdir(_) => (Found::Inline, None),
                FileAction::Copy(copy) => self.find(copy, inputs)?,
            };
            if let (Some(digest), FileAction::Copy(CopyAction { from: CopySource::Tree { path, .. }, .. })) =
                (digest, action)
            {
                key = key.input(format!("files `{path}`"), &digest.0);
            }
            found.push(what);
        }
        self.action(work, key.finish(), base, |root, _step| {
            for (action, found) in op.actions.iter().zip(&found) {
                match action {
                    FileAction::Mkdir(mkdir) => make_directory(&root, mkdir)?,
                    FileAction::Copy(copy) => self.copy(copy, found, inputs, &root)?,
                }
            }
            Ok(())
        })
    }

    fn find(&self, copy: &CopyAction, inputs: &[Arc<Tree>]) -> Result<(Found, Option<ContentDigest>), Cause> {
        let (CopySource::Tree { input, .. }, Some(selector)) = (&copy.from, copy::selector(copy)) else {
            return Ok((Found::Inline, None));
        };
        match &*inputs[*input] {
            Tree::Local(local) => {
                let (listing, digest) = local.select(&selector)?;
                Ok((Found::Listed(listing), Some(digest)))
            }
            tree @ Tree::Layers(_) => Ok((Found::Layers, Some(self.content_of(tree, &selector)?))),
        }
    }

    /// The digest of what a selector chooses, with nothing on disk where it was asked before.
    pub(in crate::solver) fn content_of(
        &self,
        tree: &Tree,
        selector: &Selector,
    ) -> Result<ContentDigest, Cause> {
        let layers = match tree {
            Tree::Local(local) => return Ok(local.select(selector)?.1),
            Tree::Layers(layers) => layers,
        };
        let identity = identity_of(layers);
        let name = format!(
            "1 {:?} wildcards={} optional={} parents={} excludes={:?}",
            selector.path, selector.wildcards, selector.optional, selector.parents, selector.excludes
        );
        if let Some(known) = self.cache.content(identity, &name)? {
            return Ok(known);
        }
        let (view, _folder) = self.environment.store.view(&self.on_disk(layers)?)?.into_parts();
        let tree = content::Tree::snapshot(view);
        let mut listing = content::list(&tree, selector)?;
        let digest = content::digest(&tree, &mut listing, &StatCache::off())?;
        self.cache.remember_content(identity, &name, digest)?;
        Ok(digest)
    }

    fn copy(
        &self,
        action: &CopyAction,
        found: &Found,
        inputs: &[Arc<Tree>],
        root: &impl AsFd,
    ) -> Result<(), Cause> {
        let owner = action.owner.as_ref().map(|owner| resolve(root, owner)).transpose()?;
        match (&action.from, found) {
            (CopySource::Inline { name, data }, _) => {
                self.place(copy::Source::Inline { name, data: data.as_bytes() }, root, action, owner)?;
            }
            (CopySource::Tree { input, .. }, Found::Listed(listing)) => {
                let Tree::Local(local) = &*inputs[*input] else { return Err(Cause::NotLayers) };
                self.place(copy::Source::Tree { tree: local.tree(), listing }, root, action, owner)?;
            }
            (CopySource::Tree { input, .. }, _) => {
                let layers = inputs[*input].layers()?;
                let (view, _folder) = self.environment.store.view(&self.on_disk(layers)?)?.into_parts();
                let tree = content::Tree::snapshot(view);
                let selector = copy::selector(action).ok_or(Cause::NotLayers)?;
                let listing = &content::list(&tree, &selector)?;
                self.place(copy::Source::Tree { tree: &tree, listing }, root, action, owner)?;
            }
        }
        Ok(())
    }

    fn place(
        &self,
        source: copy::Source<'_>,
        root: &impl AsFd,
        action: &CopyAction,
        owner: Option<(u32, u32)>,
    ) -> Result<(), Cause> {
        let spec = copy::Spec::of(action, owner)?;
        Ok(copy::copy(source, root.as_fd(), &spec)?)
    }
}

fn resolve(root: &impl AsFd, owner: &Owner) -> Result<(u32, u32), Cause> {
    fn id(id: &Id) -> users::Id<'_> {
        match id {
            Id::Number(number) => users::Id::Number(*number),
            Id::Name(name) => users::Id::Name(name),
        }
    }
    Ok(users::owner(root.as_fd(), id(&owner.user), owner.group.as_ref().map(id))?)
}

fn make_directory(root: &impl AsFd, mkdir: &MkdirAction) -> Result<(), Cause> {
    let mode = Mode::from_raw_mode(mkdir.mode);
    let failed = |source| Cause::Copy(CopyError::Write { path: mkdir.path.clone(), source });
    let (_, made) = crate::root::create_dirs(root, &mkdir.path, mode).map_err(failed)?;
    if let Some(owner) = &mkdir.owner
        && !made.is_empty()
    {
        let (uid, gid) = resolve(root, owner)?;
        for directory in &made {
            let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
            rustix::fs::fchown(&directory.fd, Some(uid), Some(gid)).map_err(|error| failed(error.into()))?;
        }
    }
    Ok(())
}
