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
    /// Of layers or of a remote source: known by digest, listed again only if the copy happens.
    Unlisted,
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
                    FileAction::Mkdir(mkdir) => self.make_directory(&root, mkdir)?,
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
            tree @ (Tree::Layers(_) | Tree::Remote(_)) => {
                Ok((Found::Unlisted, Some(self.content_of(tree, &selector)?)))
            }
        }
    }

    /// The digest of what a selector chooses, with nothing on disk where it was asked before.
    pub(in crate::solver) fn content_of(
        &self,
        tree: &Tree,
        selector: &Selector,
    ) -> Result<ContentDigest, Cause> {
        let identity = match tree {
            Tree::Local(local) => return Ok(local.select(selector)?.1),
            Tree::Remote(remote) => remote.identity(),
            Tree::Layers(layers) => identity_of(layers),
        };
        let name = format!(
            "2 {:?} wildcards={} optional={} parents={} excludes={:?}",
            selector.path, selector.wildcards, selector.optional, selector.parents, selector.excludes
        );
        if let Some(known) = self.cache.content(identity, &name)? {
            return Ok(known);
        }
        let laid_out = self.laid_out(tree)?;
        let digest = if let Tree::Local(local) = &laid_out {
            local.select(selector)?.1
        } else {
            let (view, _folder) =
                self.environment.store.view(&self.on_disk(laid_out.layers()?)?)?.into_parts();
            let tree = content::Tree::snapshot(view);
            let mut listing = content::list(&tree, selector)?;
            content::digest(&tree, &mut listing, &StatCache::off())?
        };
        self.cache.remember_content(identity, &name, digest)?;
        Ok(digest)
    }

    /// A tree whose files are needed: what is remote is a local directory then.
    pub(in crate::solver) fn laid_out(&self, tree: &Tree) -> Result<Tree, Cause> {
        match tree {
            Tree::Remote(remote) => Ok(Tree::Local(remote.local(&self.environment.fetcher)?)),
            Tree::Local(_) | Tree::Layers(_) => Ok(tree.clone()),
        }
    }

    fn copy(
        &self,
        action: &CopyAction,
        found: &Found,
        inputs: &[Arc<Tree>],
        root: &impl AsFd,
    ) -> Result<(), Cause> {
        let owner = action.owner.as_ref().map(|owner| self.owner(root, owner)).transpose()?;
        match (&action.from, found) {
            (CopySource::Inline { name, data }, _) => {
                self.place(copy::Source::Inline { name, data: data.as_bytes() }, root, action, owner)?;
            }
            (CopySource::Tree { input, .. }, Found::Listed(listing)) => {
                let Tree::Local(local) = &*inputs[*input] else { return Err(Cause::NotLayers) };
                self.place(copy::Source::Tree { tree: local.tree(), listing }, root, action, owner)?;
            }
            (CopySource::Tree { input, .. }, _) => {
                let selector = copy::selector(action).ok_or(Cause::NotLayers)?;
                let laid_out = self.laid_out(&inputs[*input])?;
                if let Tree::Local(local) = &laid_out {
                    let (listing, _) = local.select(&selector)?;
                    let source = copy::Source::Tree { tree: local.tree(), listing: &listing };
                    return self.place(source, root, action, owner);
                }
                let (view, _folder) =
                    self.environment.store.view(&self.on_disk(laid_out.layers()?)?)?.into_parts();
                let tree = content::Tree::snapshot(view);
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

    /// Looks an owner up in the target's tree; whom that does not know is told.
    fn owner(&self, root: &impl AsFd, owner: &Owner) -> Result<(u32, u32), Cause> {
        fn id(id: &Id) -> users::Id<'_> {
            match id {
                Id::Number(number) => users::Id::Number(*number),
                Id::Name(name) => users::Id::Name(name),
            }
        }
        let found = users::owner(root.as_fd(), id(&owner.user), owner.group.as_ref().map(id))?;
        if !found.unknown.is_empty() {
            self.environment.progress.warn(format!(
                "the image has no {}: the files belong to {}:{}",
                found.unknown.join(" and no "),
                found.uid,
                found.gid
            ));
        }
        Ok((found.uid, found.gid))
    }

    fn make_directory(&self, root: &impl AsFd, mkdir: &MkdirAction) -> Result<(), Cause> {
        let mode = Mode::from_raw_mode(mkdir.mode);
        let failed = |source| Cause::Copy(CopyError::Write { path: mkdir.path.clone(), source });
        let (_, made) = crate::root::create_dirs(root, &mkdir.path, mode).map_err(failed)?;
        if let Some(owner) = &mkdir.owner
            && !made.is_empty()
        {
            let (uid, gid) = self.owner(root, owner)?;
            let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
            for directory in &made {
                rustix::fs::fchown(&directory.fd, Some(uid), Some(gid))
                    .map_err(|error| failed(error.into()))?;
            }
        }
        Ok(())
    }
}
