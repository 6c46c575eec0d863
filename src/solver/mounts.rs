//! What RUN mounts: parts of other trees, caches that outlive the step, memory, secrets.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{Gid, Mode, Uid};

use super::{Cause, ChainLayer, Solver, Tree, identity_of};
use crate::cache::KeyBuilder;
use crate::cache::content::{self, Selector};
use crate::digest::{Digest, Hasher};
use crate::llb::{CacheSharing, ExecOp, Mount, MountKind};
use crate::root;
use crate::runtime::{self, MountSource, SandboxMount};
use crate::solver::copy;
use crate::store::lease::FileLock;
use crate::store::views::Scratch;

/// The mounts of a step, and what must live as long as they do.
#[derive(Default)]
pub(super) struct Mounted {
    pub mounts: Vec<SandboxMount>,
    _views: Vec<(tempfile::TempDir, Option<Scratch>)>,
    _locks: Vec<FileLock>,
}

impl Solver<'_> {
    /// What the mounts add to the key: the content of what is bound, and nothing of caches' and
    /// secrets' own.
    pub(super) fn key_of_mounts(
        &self,
        mut key: KeyBuilder,
        op: &ExecOp,
        inputs: &[Arc<Tree>],
    ) -> Result<KeyBuilder, Cause> {
        for mount in &op.mounts {
            let (input, source) = match &mount.kind {
                MountKind::Bind { input, source, .. }
                | MountKind::Cache { input: Some(input), source, .. } => (*input, source),
                MountKind::Cache { input: None, .. } | MountKind::Tmpfs { .. } | MountKind::Secret { .. } => {
                    continue;
                }
            };
            let digest: Digest = match &*inputs[input] {
                Tree::Layers(layers) if source == "/" => identity_of(layers).0,
                tree => self.content_of(tree, &Selector::path(source.as_str()))?.0,
            };
            key = key.input(format!("mount `{}`", mount.target), &digest);
        }
        Ok(key)
    }

    /// Makes the mounts of a step.
    pub(super) fn mounts(&self, op: &ExecOp, inputs: &[Arc<Tree>]) -> Result<Mounted, Cause> {
        let mut mounted = Mounted::default();
        for mount in &op.mounts {
            let (source, read_only, inert) = match &mount.kind {
                MountKind::Bind { input, source, writable } => {
                    let (fd, kept) = self.bind(mount, &inputs[*input], source, *writable)?;
                    mounted._views.push(kept);
                    (MountSource::Fd(fd), !writable, false)
                }
                MountKind::Cache { id, sharing, read_only, input, source, mode, uid, gid } => {
                    let from = input.map(|input| (&*inputs[input], source.as_str()));
                    let (fd, lock) = self.cache_mount(mount, id, *sharing, from, (*mode, *uid, *gid))?;
                    mounted._locks.push(lock);
                    (MountSource::Fd(fd), *read_only, false)
                }
                MountKind::Tmpfs { size } => (MountSource::Tmpfs { size: *size, mode: 0o1777 }, false, false),
                MountKind::Secret { id, required, mode, uid, gid } => {
                    match self.environment.secrets.get(id) {
                        Some(contents) => {
                            let contents = contents.clone();
                            (MountSource::File { contents, mode: *mode, uid: *uid, gid: *gid }, true, true)
                        }
                        None if *required => return Err(Cause::Secret(id.clone())),
                        None => continue,
                    }
                }
            };
            mounted.mounts.push(SandboxMount { target: mount.target.clone(), source, read_only, inert });
        }
        Ok(mounted)
    }

    fn bind(
        &self,
        mount: &Mount,
        tree: &Tree,
        source: &str,
        writable: bool,
    ) -> Result<(OwnedFd, (tempfile::TempDir, Option<Scratch>)), Cause> {
        let store = self.environment.store;
        let (layers, path) = match tree {
            Tree::Layers(layers) => (layers.clone(), source.to_owned()),
            Tree::Local(_) => (vec![self.local_layer(tree, source)?], "/bound".to_owned()),
        };
        let layers = self.on_disk(&layers)?;
        let failed = |source_error| Cause::Mount {
            target: mount.target.clone(),
            path: source.to_owned(),
            source: source_error,
        };
        let scratch = if writable { Some(store.scratch()?) } else { None };
        let view = match &scratch {
            Some(scratch) => store.writable_view(&layers, scratch)?,
            None => store.view(&layers)?,
        };
        let bound = runtime::bind(&view, &path).map_err(failed)?;
        let (_, folder) = view.into_parts();
        Ok((bound, (folder, scratch)))
    }

    /// A layer that holds what is bound of a local directory, without what is ignored, as
    /// `/bound`. Kept in the store by content, so the same files are copied once.
    fn local_layer(&self, tree: &Tree, source: &str) -> Result<ChainLayer, Cause> {
        let Tree::Local(local) = tree else { return Err(Cause::NotLayers) };
        let (listing, digest) = local.select(&Selector::path(source))?;
        let mut op = Hasher::new();
        op.field(b"stave local layer 1");
        let (key, inputs) = KeyBuilder::new(op.finish()).input("files", &digest.0).finish();
        let store = self.environment.store;
        let chain = |record: &crate::cache::Record| ChainLayer {
            identity: record.layer,
            diff_id: record.diff_id,
            created: Some(record.created),
        };
        let known = |record: Option<crate::cache::Record>| -> Result<_, Cause> {
            let Some(record) = record else { return Ok(None) };
            Ok(store.has_layer(record.layer)?.then(|| chain(&record)))
        };
        if let Some(layer) = known(self.cache.action(key)?)? {
            return Ok(layer);
        }
        let _lock = store.lock_name(&format!("action-{}", key.0.hex()))?;
        if let Some(layer) = known(self.cache.action(key)?)? {
            return Ok(layer);
        }
        let scratch = store.scratch()?;
        let root =
            root::open_ambient_dir(scratch.upper()).map_err(|error| Cause::Io("open a layer", error))?;
        copy::copy(
            copy::Source::Tree { tree: local.tree(), listing: &listing },
            root.as_fd(),
            &copy::Spec::to("/bound"),
        )?;
        let (identity, layer) = self.keep(scratch, &[])?;
        let record = crate::cache::Record { layer: identity, diff_id: layer.diff_id, created: store.now() };
        self.cache.remember_action(key, "load build context", &inputs, &record)?;
        Ok(chain(&record))
    }

    fn cache_mount(
        &self,
        mount: &Mount,
        id: &str,
        sharing: CacheSharing,
        from: Option<(&Tree, &str)>,
        (mode, uid, gid): (u32, u32, u32),
    ) -> Result<(OwnedFd, FileLock), Cause> {
        let store = self.environment.store;
        // The id is a person's text: hashed, it is no path (CVE-2024-9675).
        let mut hasher = Hasher::new();
        hasher.field(id.as_bytes());
        if let Some((tree, source)) = from {
            let base: Digest = match tree {
                Tree::Layers(layers) => identity_of(layers).0,
                Tree::Local(_) => self.content_of(tree, &Selector::path(source))?.0,
            };
            hasher.update(base.as_bytes());
        }
        let name = hasher.finish().hex()[..32].to_owned();
        let (name, lock) = store.lock_mount(
            &name,
            match sharing {
                CacheSharing::Shared => crate::store::lease::MountSharing::Shared,
                CacheSharing::Locked => crate::store::lease::MountSharing::Locked,
                CacheSharing::Private => crate::store::lease::MountSharing::Private,
            },
        )?;
        let folder = store.path().join("mounts").join(&name);
        let failed = |source| Cause::Mount { target: mount.target.clone(), path: id.to_owned(), source };
        let opened = match root::open_ambient_dir(&folder) {
            Ok(opened) => opened,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                self.new_cache_mount(&folder, &name, id, from, (mode, uid, gid))?;
                root::open_ambient_dir(&folder).map_err(failed)?
            }
            Err(error) => return Err(failed(error)),
        };
        Ok((runtime::bind(&opened, "/").map_err(failed)?, lock))
    }

    /// Made whole below `tmp/`, then renamed: another step that was as quick wins.
    fn new_cache_mount(
        &self,
        folder: &std::path::Path,
        name: &str,
        id: &str,
        from: Option<(&Tree, &str)>,
        (mode, uid, gid): (u32, u32, u32),
    ) -> Result<(), Cause> {
        let store = self.environment.store;
        let failed = |error| Cause::Io("create a cache mount", error);
        let made = store.temporary()?;
        let handle = root::open_ambient_dir(made.path()).map_err(failed)?;
        if let Some((tree, source)) = from {
            let spec = copy::Spec::to("/");
            match tree {
                Tree::Local(local) => {
                    let (listing, _) = local.select(&Selector::path(source))?;
                    copy::copy(
                        copy::Source::Tree { tree: local.tree(), listing: &listing },
                        handle.as_fd(),
                        &spec,
                    )?;
                }
                Tree::Layers(layers) => {
                    let (view, _folder) = store.view(&self.on_disk(layers)?)?.into_parts();
                    let view = content::Tree::snapshot(view);
                    let listing = content::list(&view, &Selector::path(source))?;
                    copy::copy(copy::Source::Tree { tree: &view, listing: &listing }, handle.as_fd(), &spec)?;
                }
            }
        }
        rustix::fs::fchown(&handle, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
            .and_then(|()| rustix::fs::fchmod(&handle, Mode::from_raw_mode(mode)))
            .map_err(|error| failed(error.into()))?;
        // Never over one that another step has just made and uses.
        let flags = rustix::fs::RenameFlags::NOREPLACE;
        let renamed = rustix::fs::renameat_with(rustix::fs::CWD, made.path(), rustix::fs::CWD, folder, flags);
        match renamed.map_err(std::io::Error::from) {
            Ok(()) => {
                let _ = made.keep();
                store.remember_cache_mount(name, id)?;
                Ok(())
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }
}
