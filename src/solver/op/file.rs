//! File: COPY, ADD and WORKDIR. What is read counts by content, what is written over by identity.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rustix::fs::Mode;

use crate::cache::KeyBuilder;
use crate::cache::content::{self, Listing, Selector, StatCache};
use crate::digest::{ContentDigest, Digest, LayerIdentity};
use crate::llb::{CopyAction, CopySource, FileAction, FileOp, Id, MkdirAction, Owner};
use crate::runtime::users;
use crate::solver::copy::{self, CopyError, Earlier};
use crate::solver::{Cause, Local, Solver, Tree, Work, identity_of};
use crate::store::layers::Layer;
use crate::store::views::Aside;

/// How many entries a copy must have for an earlier version of it to be looked for among all records.
const WORTH_LINKING: usize = 256;

/// What a copy reads, with its files here.
struct Taken {
    tree: Held,
    listing: Arc<Listing>,
}

enum Held {
    Local(Arc<Local>),
    /// A mounted tree, and what its mount needs.
    View {
        tree: content::Tree,
        _folder: Aside,
    },
}

impl Taken {
    fn source(&self) -> copy::Source<'_> {
        copy::Source::Tree { tree: self.tree(), listing: &self.listing }
    }

    fn tree(&self) -> &content::Tree {
        match &self.tree {
            Held::Local(local) => local.tree(),
            Held::View { tree, .. } => tree,
        }
    }
}

/// The input that an action reads, the path in it, and what it takes of that.
fn read_of(action: &FileAction) -> Option<(usize, &str, Selector)> {
    let FileAction::Copy(copy) = action else { return None };
    let CopySource::Tree { input, path, .. } = &copy.from else { return None };
    Some((*input, path, copy::selector(copy)?))
}

fn source<'a>(action: &'a FileAction, taken: Option<&'a Taken>) -> Option<copy::Source<'a>> {
    match (action, taken) {
        (FileAction::Mkdir(_), _) => None,
        (FileAction::Copy(CopyAction { from: CopySource::Inline { name, data }, .. }), _) => {
            Some(copy::Source::Inline { name, data: data.as_bytes() })
        }
        (FileAction::Copy(_), taken) => taken.map(Taken::source),
    }
}

/// Whether the tree is asked who that is.
fn is_named(owner: &Owner) -> bool {
    [Some(&owner.user), owner.group.as_ref()].into_iter().flatten().any(|id| matches!(id, Id::Name(_)))
}

impl Solver<'_> {
    pub(in crate::solver) fn file(
        &self,
        work: &Work<'_>,
        op: &FileOp,
        inputs: &[Arc<Tree>],
    ) -> Result<Tree, Cause> {
        let base = inputs[0].layers()?;
        let operation = work.vertex.op_digest();
        let mut key = KeyBuilder::new(operation).input("base image", &identity_of(base).0);
        let mut found = Vec::with_capacity(op.actions.len());
        for action in &op.actions {
            let mut taken = None;
            if let Some((input, path, selector)) = read_of(action) {
                let digest;
                (digest, taken) = self.examine(&inputs[input], &selector)?;
                key = key.input(format!("files `{path}`"), &digest.0);
            }
            found.push(taken);
        }
        self.action(work, key.finish(), base, |below, _step| {
            self.perform(op, operation, found, inputs, below)
        })
    }

    /// Makes the layer. Most copies can say what they will look at of the tree below, and mount nothing.
    fn perform(
        &self,
        op: &FileOp,
        operation: Digest,
        found: Vec<Option<Taken>>,
        inputs: &[Arc<Tree>],
        below: &[Layer],
    ) -> Result<(LayerIdentity, Layer), Cause> {
        let (store, lease) = (self.environment.store, self.environment.lease);
        let mut taken = Vec::with_capacity(found.len());
        for (action, found) in op.actions.iter().zip(found) {
            taken.push(match (found, read_of(action)) {
                (None, Some((input, _, selector))) => Some(self.take(&inputs[input], &selector)?),
                (found, _) => found,
            });
        }
        let steps: Vec<(&FileAction, Option<copy::Source<'_>>)> = op
            .actions
            .iter()
            .zip(&taken)
            .map(|(action, taken)| (action, source(action, taken.as_ref())))
            .collect();
        for (action, source) in &steps {
            if let (FileAction::Copy(copy), Some(source)) = (action, source)
                && copy::needs_view(*source, &copy::Spec::of(copy, None)?)
            {
                return self.over_view(below, None, |view| {
                    steps
                        .iter()
                        .try_for_each(|(action, source)| self.act(action, *source, None, view.as_fd()))
                });
            }
        }
        let earlier = self.earlier(operation, &taken)?;
        let (scratch, mut ground) = store.ground(below)?;
        for (action, source) in &steps {
            let owner = match action {
                FileAction::Mkdir(mkdir) => {
                    copy::lend_directory(&mut ground, &mkdir.path)?;
                    &mkdir.owner
                }
                FileAction::Copy(copy) => {
                    if let Some(source) = source {
                        copy::lend(&mut ground, *source, &copy::Spec::of(copy, None)?)?;
                    }
                    &copy.owner
                }
            };
            if owner.as_ref().is_some_and(is_named) {
                copy::lend_accounts(&mut ground)?;
            }
            self.act(action, *source, earlier.as_ref(), ground.fd())?;
        }
        let stack = ground.give_back().map_err(CopyError::from)?;
        Ok(store.keep_ground(scratch, &stack, lease)?)
    }

    /// What the same operation made when it ran last, if it copies so much that it is worth looking for.
    fn earlier(&self, operation: Digest, taken: &[Option<Taken>]) -> Result<Option<Earlier>, Cause> {
        let entries =
            |taken: &Taken| taken.listing.roots.iter().map(|root| root.entries.len()).sum::<usize>();
        if taken.iter().flatten().map(entries).sum::<usize>() < WORTH_LINKING {
            return Ok(None);
        }
        let (store, lease) = (self.environment.store, self.environment.lease);
        let Some(identity) = self.cache.latest_of(operation)? else { return Ok(None) };
        match store.find_layers(&[identity], lease)? {
            Ok(found) => Ok(Some(Earlier::new(store.open_layer(&found[0])?))),
            Err(_) => Ok(None),
        }
    }

    fn act(
        &self,
        action: &FileAction,
        source: Option<copy::Source<'_>>,
        earlier: Option<&Earlier>,
        root: BorrowedFd<'_>,
    ) -> Result<(), Cause> {
        match action {
            FileAction::Mkdir(mkdir) => self.make_directory(&root, mkdir),
            FileAction::Copy(copy) => {
                let owner = copy.owner.as_ref().map(|owner| self.owner(&root, owner)).transpose()?;
                let source = source.ok_or(Cause::NotLayers)?;
                let spec = copy::Spec { earlier: earlier.cloned(), ..copy::Spec::of(copy, owner)? };
                Ok(copy::copy(source, root, &spec)?)
            }
        }
    }

    /// The digest of what a selector chooses, with nothing on disk where it was asked before.
    pub(in crate::solver) fn content_of(
        &self,
        tree: &Tree,
        selector: &Selector,
    ) -> Result<ContentDigest, Cause> {
        Ok(self.examine(tree, selector)?.0)
    }

    /// The same, with the files where they had to be looked at: whoever copies them need not look again.
    fn examine(&self, tree: &Tree, selector: &Selector) -> Result<(ContentDigest, Option<Taken>), Cause> {
        let identity = match tree {
            Tree::Local(local) => {
                let (listing, digest) = local.select(selector)?;
                return Ok((digest, Some(Taken { tree: Held::Local(Arc::clone(local)), listing })));
            }
            Tree::Remote(remote) => remote.identity(),
            Tree::Layers(layers) => identity_of(layers),
        };
        let name = format!(
            "2 {:?} wildcards={} optional={} parents={} excludes={:?}",
            selector.path, selector.wildcards, selector.optional, selector.parents, selector.excludes
        );
        if let Some(known) = self.cache.content(identity, &name)? {
            return Ok((known, None));
        }
        // Layers may have to be fetched for it.
        self.look_anew();
        let taken = self.take(tree, selector)?;
        // Of a copy: nobody changes a layer, so the copier need not compare what it takes from there.
        let digest = content::digest(taken.tree(), &mut (*taken.listing).clone(), &StatCache::off())?;
        self.cache.remember_content(identity, &name, digest)?;
        Ok((digest, Some(taken)))
    }

    /// A tree whose files are needed: what is remote is a local directory then.
    pub(in crate::solver) fn laid_out(&self, tree: &Tree) -> Result<Tree, Cause> {
        match tree {
            Tree::Remote(remote) => Ok(Tree::Local(remote.local(&self.environment.fetcher)?)),
            Tree::Local(_) | Tree::Layers(_) => Ok(tree.clone()),
        }
    }

    /// What a selector chooses, with its files here.
    fn take(&self, tree: &Tree, selector: &Selector) -> Result<Taken, Cause> {
        let laid_out = self.laid_out(tree)?;
        if let Tree::Local(local) = laid_out {
            let listing = local.select(selector)?.0;
            return Ok(Taken { tree: Held::Local(local), listing });
        }
        let (view, folder) = self.environment.store.view(&self.on_disk(laid_out.layers()?)?)?.into_parts();
        let tree = content::Tree::snapshot(view);
        let listing = Arc::new(content::list(&tree, selector)?);
        Ok(Taken { tree: Held::View { tree, _folder: folder }, listing })
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
